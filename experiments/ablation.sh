#!/usr/bin/env bash
# What each part contributes: the pipeline of params.yaml, and with one part left out or exchanged, over several seeds.
# The table holds averages over the machine types, under the headline's back-end and under the best of the others.
#
#   experiments/ablation.sh                                            at the size of params.yaml, seeds 0 1 2
#   JOBS=2 experiments/ablation.sh -S corpus.path=../recordings        two at a time, on a corpus of one's own
#   SEEDS=0 ARMS="as-it-is no-pretraining" experiments/ablation.sh     some of it
#
# What has been run is not run again, see experiments/aside.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0 1 2}
arms=${ARMS:-as-it-is no-pretraining no-contrastive no-regularisation no-reconstruction masking vocoder source-phase}
# shellcheck source=experiments/aside.sh
. experiments/aside.sh

overrides_of() {
  case $1 in
    as-it-is) ;;
    no-pretraining) echo -S pretrain.epochs=0 ;;
    no-contrastive) echo -S lambda_con=0.0 ;;
    no-regularisation) echo -S lambda_vcr=0.0 ;;
    no-reconstruction) echo -S lambda_mae=0.0 ;;
    masking) echo -S augment.method=masking ;;
    vocoder) echo -S augment.method=audioldm -S augment.output=vocoder ;;
    source-phase) echo -S augment.method=audioldm -S augment.output=source_phase ;;
    *) echo "ablation: there is no arm $1" >&2; return 1 ;;
  esac
}

names=()
for arm in $arms; do
  overrides_of "$arm" >/dev/null
  names+=("ablation-$arm")
done
for seed in $seeds; do
  for arm in $arms; do
    # shellcheck disable=SC2046 # the overrides are words
    experiment "ablation-$arm" "$seed" $(overrides_of "$arm")
  done
done
table --averages --experiments "${names[@]}"
