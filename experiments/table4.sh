#!/usr/bin/env bash
# Table 4, run again: this project's model beside the published systems and what is best since, all of them trained and
# tested on the same clips, over several seeds; see docs/peers.md.
#
#   experiments/table4.sh                                              at the size of params.yaml, seeds 0 1 2
#   JOBS=2 experiments/table4.sh -S corpus.path=../recordings          two seeds at a time, on a corpus of one's own
#   SEEDS=0 PEERS="stgram_mfn gmade" experiments/table4.sh             some of it
#   experiments/table4.sh $(experiments/paper.sh --overrides)          on DCASE 2020, at the size that was published
#
# One experiment a seed trains them all; the store keeps each system, so that another choice of PEERS trains the new
# ones alone. What has been run is not run again, see experiments/aside.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0 1 2}
peers=${PEERS:-autoencoder mobilenetv2 stgram_mfn aadcl gmade glow_aff subcluster_adacos}
# shellcheck source=experiments/aside.sh
. experiments/aside.sh

name=table4
if [ -n "${PEERS:-}" ]; then name=table4-${peers// /-}; fi
for seed in $seeds; do
  experiment "$name" "$seed" -S "score.peers=[${peers// /,}]"
done
table --systems --figure auc --experiments "$name"
echo
table --systems --figure pauc --experiments "$name"
