"""The components of the small checkpoint: AudioLDM's own classes at a small size, and how they are saved."""

import json
from pathlib import Path

import torch
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    RobertaTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from audio.logmel import AUDIOLDM_MELS
from storage.files import whole_folder

EMBEDDING = 128  # width of the text embedding
MAX_TOKENS = 96
LATENT_CHANNELS = 8
VOCABULARY = 1200  # byte-level BPE tokens


def tokenizer(captions: list[str]) -> RobertaTokenizerFast:
    """Byte-level BPE tokenizer in RoBERTa's layout, learnt from `captions`."""
    learner = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learner.train_from_iterator(captions, vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    trained = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in trained["merges"]]
    return RobertaTokenizerFast(vocab=trained["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def text_encoder(vocabulary: int) -> ClapTextModelWithProjection:
    """CLAP's text encoder, 2 layers of 96."""
    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=vocabulary,
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=384,
            projection_dim=EMBEDDING,
            max_position_embeddings=EMBEDDING + 4,  # the pipeline pads the empty prompt to EMBEDDING tokens
        )
    )


def vae() -> AutoencoderKL:
    """VAE of the log-mel spectrogram: 8-fold in time and frequency, 8 channels."""
    network = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=1024,
        scaling_factor=1.0,
    )
    nn.init.constant_(network.decoder.conv_out.bias, -4.0)  # a common log-mel value
    return network


def unet() -> UNet2DConditionModel:
    """U-Net of two levels, attention at the second, conditioned as AudioLDM's: by a class embedding, concatenated."""
    network = UNet2DConditionModel(
        sample_size=128,  # latent frames, 10.24 s
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=[64, 128],
        attention_head_dim=4,
        norm_num_groups=16,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=EMBEDDING,
        class_embeddings_concat=True,
    )
    with torch.no_grad():
        network.class_embedding.weight *= 16  # a unit-length embedding is too weak at initialisation
    return network


def vocoder(log_mels: Tensor) -> SpeechT5HifiGan:
    """HiFi-GAN generator; its input is standardised per mel band by the statistics of `log_mels` (N, frames, 64)."""
    network = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=AUDIOLDM_MELS,
            sampling_rate=16000,
            upsample_initial_channel=128,
            upsample_rates=[5, 4, 4, 2],  # 160 samples a frame
            upsample_kernel_sizes=[15, 12, 12, 6],  # odd multiples of the rate: exact length, even overlap
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=True,
        )
    )
    for layer in network.modules():  # the class's own initialisation starts at silence and hardly leaves it
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            layer.reset_parameters()
    network.mean.copy_(log_mels.mean((0, 1)))
    network.scale.copy_(log_mels.std((0, 1)))
    return network


def scheduler() -> DDIMScheduler:
    """AudioLDM's noise schedule, with velocity prediction."""
    return DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def save(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: ClapTextModelWithProjection,
    tokenizer: RobertaTokenizerFast,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    vocoder: SpeechT5HifiGan,
) -> None:
    """Write the pipeline in diffusers format, weights in fp16 that load as fp32, replacing `folder` whole."""
    pipeline = AudioLDMPipeline(vae, text_encoder, tokenizer, unet, scheduler, vocoder).to(torch.float16)
    with whole_folder(folder) as partial:
        pipeline.save_pretrained(partial, safe_serialization=True)
        for name in ("text_encoder", "vocoder"):  # the stock pipeline loads these two in the dtype that they name
            config = partial / name / "config.json"
            config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
