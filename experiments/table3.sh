#!/usr/bin/env bash
# Table 3: pAUC with diffusion-based augmentation and without (random time and frequency masks), over several seeds.
#
#   experiments/table3.sh                                              at the size of params.yaml, seeds 0 1 2
#   SEEDS="0 1" experiments/table3.sh -S pretrain.epochs=4             with other seeds and further overrides
#   experiments/table3.sh $(experiments/paper.sh --overrides)          at the paper's size; it sets both arms itself
#
# The runs happen aside (--temp): the workspace stays as it is. A seed decides on training, not on the augmented clips.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0 1 2}

for seed in $seeds; do
  for method in masking audioldm; do
    dvc exp run --temp --force -n "table3-$method-$seed" "$@" -S augment.method="$method" -S seed="$seed" score
  done
done
# shellcheck disable=SC2086 # the seeds are words
python -m experiments.table --figure pauc --paired --seeds $seeds --experiments table3-masking table3-audioldm
