"""Where a spectrogram surprises the pretrained network: its masked reconstruction, and the error of many of them.

The network sees a part of the patches and predicts the others from them. Patches that it cannot predict, over many
random masks, are those that do not follow from the rest of the clip as in the sounds it was trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from model.network import RCMAE, patchify, unpatchify

EPS = 1e-6  # beside the variance of a patch, as in the training target


@dataclass(frozen=True)
class Reconstruction:
    """One window under random masks, all arrays of shape (repeats, frames, mels).

    `masked` is True where the network saw nothing; `output` is its prediction everywhere, on the scale of the input.
    """

    masked: np.ndarray
    output: np.ndarray


def reconstruct(
    network: RCMAE, window: np.ndarray, repeats: int, seed: int, norm_pix: bool, mask_ratio: float = 0.75
) -> Reconstruction:
    """Predict `window` (frames, mels), standardised and as long as the network's input, from a part of its patches.

    `norm_pix` says that the network was trained to predict standardised patches (`pretrain.norm_pix_loss`): its
    output then lacks each patch's mean and standard deviation, which are taken from the window itself.
    """
    config = network.config
    if window.shape != (config.frames, config.mels):
        raise ValueError(f"the window has shape {window.shape}: the network takes {(config.frames, config.mels)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(repeats, config.tokens, generator=generator).argsort(dim=1)  # (R, N)
    visible = order[:, : max(1, round(config.tokens * (1 - mask_ratio)))]  # (R, V)
    patches = patchify(torch.from_numpy(np.ascontiguousarray(window))[None], config)  # (1, N, P)
    with torch.inference_mode():
        predicted = network.decoder(network.encoder(patches.expand(repeats, -1, -1), visible), visible)  # (R, N, P)
        if norm_pix:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            predicted = predicted * (variance + EPS).sqrt() + mean
        masked = torch.ones(repeats, config.tokens).scatter(1, visible, 0.0)
        masked = unpatchify(masked[..., None].expand_as(predicted), config)
    return Reconstruction(masked.numpy() > 0.5, unpatchify(predicted, config).numpy())


def masked_reconstruction_error(
    network: RCMAE, spectrogram: np.ndarray, repeats: int, seed: int, norm_pix: bool
) -> np.ndarray:
    """Root mean squared error of the predictions of masked patches over `repeats` random masks, shape (frames, mels).

    `spectrogram` (frames, mels) is standardised and of any length: a shorter one than the network's input is padded
    with the training mean, 0, a longer one is covered by windows. The error is on its scale; times the training
    standard deviation it is in dB.
    """
    length, frames = len(spectrogram), network.config.frames
    total, count = np.zeros(spectrogram.shape), np.zeros(spectrogram.shape)
    for start in _starts(length, frames):
        piece = spectrogram[start : start + frames].astype(np.float32)
        window = np.pad(piece, ((0, frames - len(piece)), (0, 0)))
        seen = reconstruct(network, window, repeats, seed + start, norm_pix)
        squared = np.where(seen.masked, (seen.output - window) ** 2, 0.0).sum(0)
        total[start : start + frames] += squared[: len(piece)]
        count[start : start + frames] += seen.masked.sum(0)[: len(piece)]
    return np.sqrt(total / np.maximum(count, 1)).astype(np.float32)


def _starts(length: int, frames: int) -> Iterator[int]:
    """First frames of windows that cover `length` frames; the last one ends with them."""
    yield from range(0, max(length - frames, 0), frames)
    yield max(length - frames, 0)
