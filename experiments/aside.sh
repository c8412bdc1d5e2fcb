# Sourced by the scripts here: experiments that run aside (--temp), so that the workspace stays as it is.
#
# An experiment that this commit has already is not run again: a script that was stopped goes on where it was.
# `dvc exp remove NAME` has it run again. Names end with the seed, and with a hash of the overrides that the command
# line gave, if any. JOBS experiments run at a time, at most one per core; each then computes on its share of the cores.
cores=$(getconf _NPROCESSORS_ONLN)
jobs=${JOBS:-1}
if [ "$jobs" -gt "$cores" ]; then jobs=$cores; fi
if [ "$jobs" -gt 1 ]; then export OMP_NUM_THREADS=$((cores / jobs)); fi

given=()
for word in "$@"; do
  # an experiment has a folder of its own: a path out of the repository must not start there
  case $word in *=../*) word="${word%%=*}=${PWD%/*}/${word#*=../}" ;; esac
  given+=("$word")
done
tag=""
if [ $# -gt 0 ]; then tag=$(printf '%s\n' "${given[@]}" | cksum | cut -d ' ' -f 1); fi
python -m stages.store --sweep  # killed experiments leave a copy of the workspace each
finished=$(dvc exp list --names-only)

# experiment NAME SEED OVERRIDES...
experiment() {
  local name="$1-$2${tag:+-$tag}" seed=$2
  shift 2
  if grep -qxF -- "$name" <<<"$finished"; then
    echo "$name has been run" >&2
    return
  fi
  local line=(dvc --wait-for-lock exp run --temp -n "$name" ${given[@]+"${given[@]}"} "$@" -S seed="$seed" score)
  if [ "$jobs" -eq 1 ]; then
    "${line[@]}" >&2
    return
  fi
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 1; done
  { "${line[@]}" 2>&1 | while IFS= read -r words; do echo "$name: $words"; done >&2 || echo "$name failed" >&2; } &
}
trap 'trap - INT TERM; kill 0' INT TERM

# The table of all that ran: table ARGUMENTS of experiments.table...
table() {
  wait
  if [ -n "$tag" ]; then printf 'With %s:\n\n' "${given[*]}"; fi
  # shellcheck disable=SC2086 # the seeds are words
  python -m experiments.table --seeds $seeds ${tag:+--tag "$tag"} "$@"
}
