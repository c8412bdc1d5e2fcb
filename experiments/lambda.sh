#!/usr/bin/env bash
# The weights of equation (8): each of lambda_con, lambda_vcr and lambda_mae varied by itself, the others at their value
# in params.yaml.
#
#   experiments/lambda.sh                                              at the size of params.yaml, seed 0
#   SEEDS="0 1 2" VALUES="0.0 0.4 0.8" experiments/lambda.sh           with other seeds and values
#   experiments/lambda.sh -S pretrain.epochs=4                         with further overrides
#
# The runs happen aside (--temp): the workspace stays as it is. Only training and scoring run again.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0}
values=${VALUES:-0.0 0.15 0.6}

names=(lambda-as-it-is)
for seed in $seeds; do
  dvc exp run --temp --force -n "lambda-as-it-is-$seed" "$@" -S seed="$seed" score
done
for weight in lambda_con lambda_vcr lambda_mae; do
  for value in $values; do
    names+=("$weight-$value")
    for seed in $seeds; do
      dvc exp run --temp --force -n "$weight-$value-$seed" "$@" -S "$weight=$value" -S seed="$seed" score
    done
  done
done
# shellcheck disable=SC2086 # the seeds are words
python -m experiments.table --figure auc --seeds $seeds --experiments "${names[@]}"
echo
# shellcheck disable=SC2086
python -m experiments.table --figure pauc --seeds $seeds --experiments "${names[@]}"
