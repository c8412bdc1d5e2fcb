"""Measures a small checkpoint against its floors, on real clips that it was not trained on.

    python -m augmentation.nano_audioldm.evaluate --clips FOLDER [--checkpoint FOLDER] [--seeds 0 1 2]

Prints one JSON object. The clips are read, never written.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AudioLDMPipeline
from numpy.random import Generator
from sklearn.ensemble import ExtraTreesClassifier

from audio.clips import read_clip
from audio.logmel import AUDIOLDM_HOP, audioldm_log_mel
from augmentation.audioldm import OUTPUTS, AudioLDM, front_end, restore_level
from augmentation.nano_audioldm.captions import caption
from augmentation.nano_audioldm.families import FAMILIES
from augmentation.nano_audioldm.synthesis import SAMPLE_RATE, draw_clip, noise_floor
from augmentation.recipes import Recipe
from storage.memory import keep_freed_memory

log = logging.getLogger(__name__)

CHECKPOINT = Path(__file__).parent / "checkpoint"
LOW = "add deep low rumble produced by crushers in a mining quarry as they break rocks"
HIGH = "add shrill high-pitched screech produced by band saws in a metal fabrication factory as they cut steel sheets"
GUIDANCE, STEPS = 2.5, 25
CLIPS = 20  # per seed
DECIBELS = 20 / np.log(10)  # dB per unit of natural logarithm of a magnitude


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """AudioLDM log-mel (frames, 64), natural logarithm."""
    return audioldm_log_mel(torch.from_numpy(waveform)).numpy()


def log_mel_error(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two waveforms' log-mels, in dB."""
    return float(DECIBELS * np.abs(log_mel(first) - log_mel(second)).mean())


def centroid(waveform: np.ndarray) -> float:
    """Spectral centroid in Hz: the mean frequency, weighted by the magnitudes of the STFT."""
    window = torch.hann_window(1024)
    magnitude = torch.stft(torch.from_numpy(waveform), 1024, 256, window=window, return_complex=True).abs().mean(-1)
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, 513)
    return float((magnitude * frequencies).sum() / magnitude.sum())


def line(power: np.ndarray, resolution: float, frequency: float) -> float:
    """Level in dB of the line at `frequency` Hz above the median of its neighbours within 30 Hz.

    `power` is a power spectrum with bins of `resolution` Hz.
    """
    centre, reach = round(frequency / resolution), round(30 / resolution)
    peak = power[centre - 1 : centre + 2].max()
    around = np.concatenate([power[centre - reach : centre - 3], power[centre + 4 : centre + reach + 1]])
    return float(10 * np.log10(peak / np.median(around)))


def comb(waveforms: Sequence[np.ndarray]) -> dict[str, float]:
    """Lines at multiples of the frame rate, 100 Hz, in the mean spectrum and in the envelope's, dB above neighbours.

    `spectrum_100` is the line at 100 Hz itself, `spectrum_mean` the mean over the multiples up to 7.9 kHz.
    """
    size = 8192  # 1.95 Hz
    window = torch.hann_window(size)

    def spectrum(signals: Sequence[np.ndarray]) -> np.ndarray:
        batch = torch.from_numpy(np.stack(signals)).float()
        batch = batch / batch.std(-1, keepdim=True)
        return (
            torch.stft(batch, size, size // 4, window=window, return_complex=True).abs().square().mean((0, 2)).numpy()
        )

    power = spectrum(waveforms)
    envelope = spectrum([np.abs(waveform) - np.abs(waveform).mean() for waveform in waveforms])
    resolution = SAMPLE_RATE / size
    lines = [line(power, resolution, frequency) for frequency in range(100, 7901, 100)]
    return {
        "spectrum_100": lines[0],
        "spectrum_mean": float(np.mean(lines)),
        "spectrum_max": float(np.max(lines)),
        "envelope_100": line(envelope, resolution, 100),
    }


@torch.inference_mode()
def reconstruct(diffusion: AudioLDM, waveforms: np.ndarray) -> np.ndarray:
    """Clips (B, samples) at the front end's level through VAE and vocoder, without diffusion."""
    samples = waveforms.shape[1]
    padded = np.pad(waveforms, ((0, 0), (0, -samples % (diffusion.scale * AUDIOLDM_HOP))))
    mel = audioldm_log_mel(torch.from_numpy(padded))
    frames, bands = mel.shape[1] // diffusion.scale, mel.shape[2] // diffusion.scale
    noise = torch.randn(
        (len(mel), diffusion.vae.config.latent_channels, frames, bands), generator=torch.Generator().manual_seed(0)
    )
    return diffusion.vocode(diffusion.decode(diffusion.encode(mel, noise))).numpy()[:, :samples]


def round_trip(diffusion: AudioLDM, waveform: np.ndarray, output: str = "vocoder") -> np.ndarray:
    """What a clip would become without diffusion, at its level: with the source's phase, itself."""
    if output == "source_phase":
        return waveform
    return restore_level(reconstruct(diffusion, front_end(waveform)[None])[0], waveform)


def steering(diffusion: AudioLDM, waveforms: list[np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """How far a low and a high prompt move the centroid apart, by output: t0 = 0.5."""
    result = {}
    made = {
        prompt: diffusion.augment(
            waveforms,
            [Recipe(prompt, STEPS, 0.5, GUIDANCE, 0.0, seed * 1000 + i) for i in range(len(waveforms))],
            OUTPUTS,
        )
        for prompt in (LOW, HIGH)
    }
    for output in OUTPUTS:
        low, high = (np.array([centroid(clip[output]) for clip in made[prompt]]) for prompt in (LOW, HIGH))
        neutral = np.array([centroid(round_trip(diffusion, waveform, output)) for waveform in waveforms])
        result[output] = {
            "right_order": float((high > low).mean()),
            "high_above_round_trip": float((high > neutral).mean()),
            "low_over_round_trip": float(np.median(low / neutral)),
            "high_over_round_trip": float(np.median(high / neutral)),
        }
    return result


def identity(
    diffusion: AudioLDM, waveforms: list[np.ndarray], seed: int, t0: float, prompts: list[str]
) -> dict[str, dict[str, float]]:
    """Share of augmented clips whose nearest source, by mean absolute log-mel difference, is their own.

    `alike_is_source` is the same for log-mels that are compared without their means, that is whatever the level.
    """
    recipes = [Recipe(prompt, STEPS, t0, GUIDANCE, 0.0, seed * 1000 + i) for i, prompt in enumerate(prompts)]
    made = diffusion.augment(waveforms, recipes, OUTPUTS)
    result = {}
    for output in OUTPUTS:
        mels, sources = (
            np.stack([log_mel(clip) for clip in clips]) for clips in ([clip[output] for clip in made], waveforms)
        )
        errors = DECIBELS * np.abs(mels[:, None] - sources[None]).mean((2, 3))
        mels, sources = (values - values.mean((1, 2), keepdims=True) for values in (mels, sources))
        level_free = np.abs(mels[:, None] - sources[None]).mean((2, 3))
        source = np.arange(len(errors))
        result[output] = {
            "nearest_is_source": float((errors.argmin(1) == source).mean()),
            "alike_is_source": float((level_free.argmin(1) == source).mean()),
            "log_mel_error": float(errors.diagonal().mean()),
        }
    return result


def _describe(waveform: np.ndarray) -> np.ndarray:
    """Features of a sound for recognising its family: level, spread, contrast and pace of every mel band."""
    mel = log_mel(waveform)
    mel = mel - mel.mean()
    low, high = np.quantile(mel, (0.1, 0.95), axis=0)
    loudness = np.log(np.exp(mel).mean(1))
    pace = np.abs(np.fft.rfft(loudness - loudness.mean()))[1:60] / len(loudness)
    change = np.abs(np.diff(mel, axis=0)).mean(0)
    across = np.abs(np.diff(mel.mean(0)))
    return np.concatenate([mel.mean(0), mel.std(0), high - low, change, across, np.log(pace + 1e-4)])


class Recognisers:
    """Two classifiers of families, fitted on synthesised clips alone: on the clips as they are, and on the same clips
    after VAE and vocoder, which take from a sound what no generation can have either."""

    def __init__(self, diffusion: AudioLDM, rng: Generator, samples: int, per_family: int = 200):
        names = np.repeat(list(FAMILIES), per_family)
        clips = np.stack([draw_clip(rng, samples, family).waveform for family in names])
        passed = np.concatenate([reconstruct(diffusion, batch) for batch in np.array_split(clips, len(clips) // 16)])
        features = {
            "as_synthesised": np.stack([_describe(clip) for clip in clips]),
            "after_round_trip": np.stack([_describe(clip) for clip in passed]),
        }
        held_out = np.arange(len(names)) % 5 == 0
        self.forests = {
            fitted: ExtraTreesClassifier(400, random_state=0).fit(own[~held_out], names[~held_out])
            for fitted, own in features.items()
        }
        self.accuracy = {  # on clips that neither was fitted on
            f"{fitted} on {heard}": float(forest.score(own[held_out], names[held_out]))
            for fitted, forest in self.forests.items()
            for heard, own in features.items()
        }


def generation(
    pipeline: AudioLDMPipeline, recognisers: Recognisers, seed: int, per_family: int
) -> dict[str, dict[str, float]]:
    """Share of pure generations (stock pipeline, t0 = 1) whose family each recogniser names, overall and by family."""
    rng = np.random.default_rng([seed, 1])
    shares: dict[str, dict[str, float]] = {fitted: {} for fitted in recognisers.forests}
    for number, family in enumerate(FAMILIES):
        prompts = [caption(rng, family) for _ in range(per_family)]
        made = pipeline(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            audio_length_in_s=5.12,
            generator=torch.Generator().manual_seed(seed * 100 + number),
        ).audios
        features = np.stack([_describe(clip) for clip in made])
        for fitted, forest in recognisers.forests.items():
            recognised = forest.predict(features)
            shares[fitted][family] = float((recognised == family).mean())
            log.info("%s, fitted %s: %s", family, fitted, ", ".join(recognised))
    return {fitted: {"overall": float(np.mean(list(own.values())))} | own for fitted, own in shares.items()}


def evaluate(checkpoint: Path, clips: Path, seeds: Sequence[int], per_family: int) -> dict:
    """All floors. Random figures are lists, one value per seed; the clips of a seed are drawn from all of `clips`."""
    files = sorted(clips.rglob("*.flac")) + sorted(clips.rglob("*.wav"))
    if len(files) < CLIPS:
        raise ValueError(f"{clips} holds {len(files)} recordings, {CLIPS} are needed")
    result: dict = {
        "megabytes": sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()) / 1e6,
        "seeds": list(seeds),
        "round_trip_db": [],
        "round_trip_restored_db": [],
        "steering": [],
        "identity_0.3": [],
        "identity_0.5": [],
        "generation": [],
    }
    diffusion = AudioLDM.from_checkpoint(str(checkpoint))
    pipeline = AudioLDMPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    recognisers = Recognisers(diffusion, np.random.default_rng(99), round(5.12 * SAMPLE_RATE))
    result["recognisers_accuracy"] = recognisers.accuracy

    def keep(key: str, value: object) -> None:
        result[key].append(value)
        log.info("seed %d, %s: %s", seed, key, value)

    for seed in seeds:
        rng = np.random.default_rng([seed, 0])
        waveforms = [read_clip(files[i]) for i in rng.choice(len(files), CLIPS, replace=False)]
        prompts = [caption(rng, str(rng.choice(list(FAMILIES)))) for _ in waveforms]
        scaled = [front_end(waveform) for waveform in waveforms]
        keep(
            "round_trip_db",
            float(np.mean([log_mel_error(reconstruct(diffusion, clip[None])[0], clip) for clip in scaled])),
        )
        errors = [log_mel_error(round_trip(diffusion, waveform), waveform) for waveform in waveforms]
        keep("round_trip_restored_db", float(np.mean(errors)))
        keep("steering", steering(diffusion, waveforms, seed))
        for t0 in (0.3, 0.5):
            keep(f"identity_{t0}", identity(diffusion, waveforms, seed, t0, prompts))
        keep("generation", generation(pipeline, recognisers, seed, per_family))
    rng = np.random.default_rng(7)
    broadband = [0.1 * noise_floor(rng, 160_000).astype(np.float32) for _ in range(12)]
    result["comb_source"] = comb(broadband)
    result["comb_round_trip"] = comb([round_trip(diffusion, waveform) for waveform in broadband])
    recipes = [Recipe(LOW, STEPS, 0.5, GUIDANCE, 0.0, i) for i in range(8)]
    torch.set_num_threads(2)
    result["seconds_per_clip"] = {}
    for output in OUTPUTS:
        diffusion.augment(waveforms[:1], recipes[:1], [output])
        start = time.perf_counter()
        diffusion.augment(waveforms[:8], recipes, [output])
        result["seconds_per_clip"][output] = (time.perf_counter() - start) / 8
    return result


def main() -> None:
    """Command line of the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of real recordings, searched through")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--per-family", type=int, default=10, help="pure generations per family and seed")
    options = parser.parse_args()
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(json.dumps(evaluate(options.checkpoint, options.clips, options.seeds, options.per_family), indent=1))


if __name__ == "__main__":
    main()
