"""Log-mel spectrograms: the detector's (section 2.5.1 of the paper) and AudioLDM's own.

Both are torchaudio's; the libraries' defaults differ by up to 47 times the peak, so every choice is named here.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import MelSpectrogram, Spectrogram

from audio.front_end import LogMelSettings


@lru_cache(maxsize=8)
def _stft(settings: LogMelSettings, centred: bool) -> Spectrogram:
    return Spectrogram(
        n_fft=settings.n_fft, hop_length=settings.hop_length, power=None, center=centred, pad_mode="reflect"
    )


BAND = 16  # mel filters multiplied at once: few enough that most bins lie outside all of them and are left out


@lru_cache(maxsize=8)
def _mel_bands(settings: LogMelSettings) -> list[tuple[slice, Tensor]]:
    """The mel filters of BAND neighbours at a time: the bins they cover, and their weights (2 bins, BAND).

    A bin counts twice, for its real and its imaginary part.
    """
    filters = melscale_fbanks(
        n_freqs=settings.n_fft // 2 + 1,
        f_min=settings.f_min,
        f_max=settings.f_max,
        n_mels=settings.n_mels,
        sample_rate=settings.sample_rate,
        norm="slaney",
        mel_scale="slaney",
    ).repeat_interleave(2, dim=0)  # (2 bins, n_mels)
    bands = []
    for weights in filters.split(BAND, dim=1):
        covered = weights.any(dim=1).nonzero()
        first, last = (int(covered[0]), int(covered[-1]) + 1) if len(covered) else (0, 0)
        bands.append((slice(first, last), weights[first:last].contiguous()))
    return bands


def log_mel(waveform: Tensor, settings: LogMelSettings, centred: bool = True) -> Tensor:
    """Log-mel power spectrogram in dB, 10 log10(max(mel, amin)).

    `waveform` has shape (..., samples), full scale 1; the result has shape (..., frames, n_mels), float32. Where it is
    not `centred`, the waveform has been lengthened by n_fft / 2 samples at both ends already.
    """
    spectrum = _stft(settings, centred)(waveform.float()).transpose(-1, -2)  # (..., frames, bins)
    squares = torch.view_as_real(spectrum).flatten(-2).square()  # (..., frames, 2 bins): real and imaginary parts
    mel = torch.cat([squares[..., bins] @ weights for bins, weights in _mel_bands(settings)], dim=-1)
    return 10.0 * mel.clamp(min=settings.amin).log10()


AUDIOLDM_SAMPLES = 163_840  # 10.24 s at 16 kHz, the length AudioLDM works on
AUDIOLDM_HOP = 160  # samples
AUDIOLDM_MELS = 64


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # wherever it is first called: nothing can be trained through what inference mode makes
def _audioldm_mel_magnitude(device: torch.device) -> MelSpectrogram:
    return MelSpectrogram(
        sample_rate=16000,
        n_fft=1024,
        hop_length=AUDIOLDM_HOP,
        f_min=0.0,
        f_max=8000.0,
        n_mels=AUDIOLDM_MELS,
        power=1.0,
        center=True,
        pad_mode="reflect",
        norm="slaney",
        mel_scale="slaney",
    ).to(device)


def audioldm_log_mel(waveform: Tensor) -> Tensor:
    """AudioLDM's front end: ln(max(mel of the magnitude STFT, 1e-5)).

    `waveform` has shape (..., samples) at 16 kHz; the result has shape (..., samples // 160, 64): the centred STFT's
    last frame is dropped, as AudioLDM does (1025 frames become 1024).
    """
    mel = _audioldm_mel_magnitude(waveform.device)(waveform.float())  # (..., 64, frames)
    return mel.clamp(min=1e-5).log().transpose(-1, -2)[..., : waveform.shape[-1] // AUDIOLDM_HOP, :]
