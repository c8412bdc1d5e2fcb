"""The smallest AudioLDM of real classes with random weights, in the format of a real checkpoint."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    RobertaTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

WIDTH = 16  # of the text embedding
SENTENCES = ["add deep rolling rumble produced by crushers in a quarry", "add sharp hiss produced by valves in a plant"]


def components(prediction_type: str = "epsilon", seed: int = 0) -> dict:
    """vae (downsampling 4), unet, text_encoder, tokenizer, scheduler, vocoder."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.9,
    )
    unet = UNet2DConditionModel(
        sample_size=(256, 16),
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=(8, 8),
        attention_head_dim=4,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )
    with torch.no_grad():  # at initialisation the text hardly counts; here it must, or no test could see it
        unet.class_embedding.weight.mul_(30)
    tokens = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=specials)
    vocabulary = json.loads(tokens.to_str())["model"]
    tokenizer = RobertaTokenizerFast(
        vocab=vocabulary["vocab"], merges=[tuple(merge) for merge in vocabulary["merges"]], model_max_length=64
    )
    text_encoder = ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=80,
            projection_dim=WIDTH,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():  # keeps prompts of random weights apart
        text_encoder.text_model.embeddings.word_embeddings.weight.mul_(50)
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16000,
            upsample_initial_channel=32,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    with torch.no_grad():  # initialised with std 0.01, five layers deep, it would be silent
        for parameter in vocoder.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return {
        "vae": vae.eval(),
        "unet": unet.eval(),
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "scheduler": scheduler,
        "vocoder": vocoder.eval(),
    }


def save(folder: Path, **kwargs) -> Path:
    """Save a checkpoint as the pipeline saves it."""
    from diffusers import AudioLDMPipeline

    AudioLDMPipeline(**components(**kwargs)).save_pretrained(folder, safe_serialization=True)
    return folder
