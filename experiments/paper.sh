#!/usr/bin/env bash
# The paper's full-size run: DCASE 2020 Task 2, AudioLDM, the paper's network and training; ends with Table 4's row.
# Its params are params.yaml with the overrides of experiments/paper.yaml. It needs a GPU with 24 GB (the paper used two), 40 GB of disk, and the network for the archives and the weights.
#
#   experiments/paper.sh                          the full run; its report is metrics/report/index.html
#   experiments/paper.sh -S lambda_con=0.4        with further overrides, which win over those of paper.yaml
#   experiments/paper.sh --overrides              print the overrides, for the other scripts:
#                                                 experiments/table3.sh $(experiments/paper.sh --overrides)
#
# A rehearsal in minutes, without GPU or network (first overrides here, then smaller sizes):
#   AUDIOLDM_REVISION=none experiments/paper.sh -S corpus.path=corpora/synthetic.yaml -S augment.method=masking \
#     -S model.width=48 -S model.depth=2 -S model.heads=2 -S model.decoder_width=32 -S model.decoder_depth=1 \
#     -S model.decoder_heads=2 -S pretrain.epochs=2 -S finetune.epochs=2 -S pretrain.batch_size=32 \
#     -S finetune.batch_size=32 -S score.autoencoder_epochs=2 -S score.autoencoder_vectors=1000
set -euo pipefail
cd "$(dirname "$0")/.."

# The checkpoint is pinned to a commit: to the one given, or to the newest when this starts. The run records it.
revision=${AUDIOLDM_REVISION:-$(git ls-remote https://huggingface.co/cvssp/audioldm-s-full-v2 HEAD | cut -f1)}
if [ -z "$revision" ]; then
  echo "the newest commit of cvssp/audioldm-s-full-v2 could not be found: give one in AUDIOLDM_REVISION" >&2
  exit 1
fi

overrides=()
words=$(python -m experiments.overrides experiments/paper.yaml)
while IFS= read -r word; do overrides+=("$word"); done <<<"$words"
overrides+=(-S "augment.revision=$revision")
if [ "${1:-}" = --overrides ]; then
  echo "${overrides[@]}"
  exit
fi

dvc exp run "${overrides[@]}" "$@"
python -m experiments.table workspace
