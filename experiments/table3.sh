#!/usr/bin/env bash
# Table 3: pAUC with diffusion-based augmentation and without (random time and frequency masks), over several seeds.
#
#   experiments/table3.sh                                              at the size of params.yaml, seeds 0 1 2
#   SEEDS="0 1" experiments/table3.sh -S pretrain.epochs=4             with other seeds and further overrides
#   JOBS=2 experiments/table3.sh -S corpus.path=../recordings          two at a time, on a corpus of one's own
#   experiments/table3.sh $(experiments/paper.sh --overrides)          at the paper's size; it sets both arms itself
#
# A seed decides on training, not on the augmented clips. What has been run is not run again, see experiments/aside.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0 1 2}
# shellcheck source=experiments/aside.sh
. experiments/aside.sh

for seed in $seeds; do
  for method in masking audioldm; do
    experiment "table3-$method" "$seed" -S augment.method="$method"
  done
done
table --figure pauc --paired --experiments table3-masking table3-audioldm
