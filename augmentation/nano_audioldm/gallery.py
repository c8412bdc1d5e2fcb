"""Pictures and sounds of a small checkpoint, from synthesised clips and pure generation alone.

    python -m augmentation.nano_audioldm.gallery [--checkpoint FOLDER] [--output FOLDER]

`augmented.png`: 12 synthesised machine clips, each under 4 prompts at t0 = 0.3, 0.5 and 0.7. `generated.png`, `*.flac`:
pure generation through the stock pipeline, a spectrogram of each family and the sound of some.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers import AudioLDMPipeline
from PIL import Image

from audio.clips import write_clip
from audio.logmel import audioldm_log_mel
from augmentation.audioldm import AudioLDM
from augmentation.nano_audioldm.evaluate import CHECKPOINT, GUIDANCE, HIGH, LOW, STEPS
from augmentation.nano_audioldm.families import FAMILIES
from augmentation.nano_audioldm.synthesis import noise_floor
from augmentation.recipes import Recipe

matplotlib.use("Agg")  # before pyplot is imported
from matplotlib import pyplot as plt

SOUNDS = ("rumble", "screech", "hammering", "hiss", "bubbling", "beeping")

PROMPTS = {
    "rumble": LOW,
    "screech": HIGH,
    "hammering": "add forceful metallic hammering produced by hydraulic presses in a steel factory as they stamp parts",
    "hiss": "add airy pressurised hissing produced by steam valves in a chemical factory as they vent steam",
}


def _show(axes: plt.Axes, waveform: np.ndarray) -> None:
    mel = audioldm_log_mel(torch.from_numpy(waveform)).T
    mel = torch.nn.functional.avg_pool2d(mel[None], (1, 4))[0]
    axes.imshow(mel, origin="lower", aspect="auto", vmin=-10, vmax=0.5, cmap="magma", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _save(figure: plt.Figure, path: Path) -> None:
    """Write a figure with a palette, as its colour map has one: a third of the size."""
    figure.savefig(path, dpi=65)
    plt.close(figure)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)


def floors(count: int = 12) -> list[np.ndarray]:
    """Synthesised machine clips of 10 s."""
    rng = np.random.default_rng(12)
    waveforms = [noise_floor(rng, 160_000) for _ in range(count)]
    return [(0.3 * waveform / np.abs(waveform).max()).astype(np.float32) for waveform in waveforms]


def augmented(diffusion: AudioLDM, sources: list[np.ndarray], path: Path) -> None:
    """Sheet with a row per source: the source, then its augmentations, prompt by prompt and t0 by t0."""
    count = len(sources)
    columns = [(family, t0) for family in PROMPTS for t0 in (0.3, 0.5, 0.7)]
    figure, grid = plt.subplots(count, len(columns) + 1, figsize=(15, count * 0.75), layout="constrained")
    for row, source in zip(grid, sources, strict=True):
        _show(row[0], source)
    grid[0, 0].set_title("source", fontsize=7)
    for column, (family, t0) in enumerate(columns, 1):
        recipes = [Recipe(PROMPTS[family], STEPS, t0, GUIDANCE, 0.0, seed) for seed in range(count)]
        for row, made in zip(grid, diffusion.augment(sources, recipes), strict=True):
            _show(row[column], made["vocoder"])
        grid[0, column].set_title(f"{family}, {t0}", fontsize=7)
    _save(figure, path)


def generated(pipeline: AudioLDMPipeline, folder: Path) -> None:
    """One pure generation of 5.12 s per family: a sheet of spectrograms, and the sounds."""
    figure, grid = plt.subplots(2, (len(FAMILIES) + 1) // 2, figsize=(14, 4), layout="constrained")
    for axes, (family, words) in zip(grid.flat, FAMILIES.items(), strict=False):
        prompt = f"add {words.qualities[0]} {words.nouns[1]} produced by machines in a metal fabrication factory"
        made = pipeline(
            prompt,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            audio_length_in_s=5.12,
            generator=torch.Generator().manual_seed(1),
        ).audios[0]
        _show(axes, made)
        axes.set_title(family, fontsize=8)
        if family in SOUNDS:
            write_clip(folder / f"{family}.flac", 0.5 * made / np.abs(made).max())
    _save(figure, folder / "generated.png")


def main() -> None:
    """Command line of the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--output", type=Path, default=CHECKPOINT.parent / "gallery")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pipeline = AudioLDMPipeline.from_pretrained(options.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    generated(pipeline, options.output)
    augmented(AudioLDM.from_checkpoint(str(options.checkpoint)), floors(), options.output / "augmented.png")


if __name__ == "__main__":
    main()
