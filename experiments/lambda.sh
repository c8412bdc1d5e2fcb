#!/usr/bin/env bash
# The weights of equation (8): each of lambda_con, lambda_vcr and lambda_mae varied by itself, the others at their value
# in params.yaml.
#
#   experiments/lambda.sh                                              at the size of params.yaml, seed 0
#   SEEDS="0 1 2" VALUES="0.0 0.4 0.8" experiments/lambda.sh           with other seeds and values
#   JOBS=2 experiments/lambda.sh -S pretrain.epochs=4                  two at a time, with further overrides
#
# Only training and scoring run again. What has been run is not run again, see experiments/aside.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0}
values=${VALUES:-0.0 0.15 0.6}
# shellcheck source=experiments/aside.sh
. experiments/aside.sh

names=(lambda-as-it-is)
for seed in $seeds; do
  experiment lambda-as-it-is "$seed"
done
for weight in lambda_con lambda_vcr lambda_mae; do
  for value in $values; do
    names+=("$weight-$value")
    for seed in $seeds; do
      experiment "$weight-$value" "$seed" -S "$weight=$value"
    done
  done
done
table --figure auc --experiments "${names[@]}"
echo
table --figure pauc --experiments "${names[@]}"
