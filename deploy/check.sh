#!/usr/bin/env bash
# Takes the steps of deploy/Dockerfile in a new virtual environment, where Docker is not available, and judges a recording
# there by a monitor that runs until the verdict is noted. Ends with 0 if all went well.
#
#   deploy/check.sh DETECTOR RECORDING [--machine TYPE --id ID]
#
# REQUIREMENTS=file      instead of requirements-detect.txt, with which DETECTOR is a graph (detector.onnx)
# PYTHON=python3.12      the Python that is used
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
detector=$(realpath "$1") recording=$(realpath "$2")
shift 2

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir "$place"/{app,recordings,state}

awk '$1 == "COPY" && $NF != "./" || $1 == "COPY" && $2 == "detect.py" {print $2}' "$root/deploy/Dockerfile" |
  while read -r source; do cp -r "$root/$source" "$place/app/"; done
cp "$root"/requirements*.txt "$root/constraints.txt" "$place/app/"
cd "$place/app"
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -r "${REQUIREMENTS:-requirements-detect.txt}"
du -sh "$place/venv" | cut -f1 | sed 's/^/environment: /'

printf 'waiting: %s/state/waiting\nsinks: [{type: json_lines, path: %s/state/verdicts.jsonl}]\n' "$place" "$place" \
  >"$place/monitor.yaml"
chmod -R a-w "$place/app"
cp "$recording" "$place/recordings/"
"$place/venv/bin/python" detect.py watch "$place/recordings" --model "$detector" --record "$place/state/verdicts.csv" \
  --sinks "$place/monitor.yaml" "$@" &
monitor=$!
for _ in $(seq 120); do
  [ -s "$place/state/verdicts.jsonl" ] && break
  kill -0 "$monitor" 2>/dev/null || { echo "the monitor ended" >&2; exit 1; }
  sleep 1
done
kill -TERM "$monitor"
wait "$monitor"
grep -q '"outcome": "\(normal\|anomalous\)"' "$place/state/verdicts.jsonl"
[ "$(wc -l <"$place/state/verdicts.csv")" -eq 2 ]
echo "a verdict was given and noted"
