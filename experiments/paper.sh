#!/usr/bin/env bash
# The paper's full-size run: DCASE 2020 Task 2, AudioLDM, the paper's network and training; ends with Table 4's row.
# It needs a GPU with 24 GB (the paper used two), 40 GB of disk, and the network for the archives and the weights.
#
#   experiments/paper.sh                          the full run; its report is metrics/report/index.html
#   experiments/paper.sh -S lambda_con=0.4        with further overrides, which win over those below
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

# Every value that the paper states, and this project's reading where it states none.
overrides=(
  -S corpus.path=corpora/dcase2020.csv
  -S "corpus.subsets=[dev,additional]"
  -S augment.method=audioldm
  -S augment.checkpoint=cvssp/audioldm-s-full-v2
  -S augment.revision="$revision"
  -S "augment.ddim_steps=[10,50]"
  -S augment.t0=0.5
  -S augment.guidance_scale=2.5
  -S augment.eta=0.0
  -S augment.views_per_clip=1
  -S augment.output=vocoder
  -S logmel.sample_rate=16000
  -S logmel.n_fft=1024
  -S logmel.hop_length=512
  -S logmel.n_mels=128
  -S logmel.f_min=50.0
  -S logmel.f_max=8000.0
  -S model.frames=320
  -S model.patch_mels=16
  -S model.patch_frames=5
  -S model.width=384
  -S model.depth=12
  -S model.heads=6
  -S model.decoder_width=384
  -S model.decoder_depth=12
  -S model.decoder_heads=6
  -S model.projection=512
  -S lambda_con=0.3
  -S lambda_vcr=0.3
  -S lambda_mae=0.4
  -S pretrain.epochs=400
  -S pretrain.batch_size=128
  -S pretrain.learning_rate=1e-4
  -S pretrain.temperature=0.05
  -S "pretrain.mask_ratio=[0.5,0.75]"
  -S pretrain.norm_pix_loss=true
  -S pretrain.mae_views=original
  -S pretrain.contrastive_symmetric=false
  -S pretrain.negatives=cross
  -S lambda_scl=0.5
  -S lambda_ce=0.5
  -S finetune.epochs=100
  -S finetune.batch_size=128
  -S finetune.learning_rate=1e-4
  -S finetune.temperature=0.05
  -S score.backend=negative_log_probability
  -S score.autoencoder_epochs=100
  -S score.autoencoder_vectors=10000000
)
if [ "${1:-}" = --overrides ]; then
  echo "${overrides[@]}"
  exit
fi

dvc exp run "${overrides[@]}" "$@"
python -m experiments.table workspace
