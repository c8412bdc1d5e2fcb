"""Speed of the diffusion augmentation: `python -m benchmarks.augment` prints a table of ratios and keeps it as JSON.

AudioLDM's own pipeline, from text to audio and clip by clip, beside this project's loop from audio to audio at batch 1
and in batches, and the whole stage (reading, generating, writing, audit) with an empty and with a full store: the same
clips, prompts and S. Counted are guided U-Net evaluations (with and without the prompt is one) and prompts embedded;
timed are the shares of U-Net, VAE and vocoder.
"""

import argparse
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import fields
from itertools import count
from pathlib import Path

import pandas as pd
import torch
from diffusers import AudioLDMPipeline
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from audio.clips import read_clip
from audio.manifest import read_manifest
from augmentation.audioldm import AudioLDM
from augmentation.generation import Settings, plan
from benchmarks.measuring import alternating, show
from stages import diffusion_augment
from stages.params import load

ROOT = Path(__file__).parents[1]
PARTS = {
    "UNet2DConditionModel": "U-Net",
    "Encoder": "VAE",
    "Decoder": "VAE",
    "SpeechT5HifiGan": "vocoder",
    "ClapTextModelWithProjection": "text encoder",
}  # the class that a part is, or that does its work: a VAE is not called as a whole


class Watch:
    """Runs a way and notes what went through the parts of AudioLDM, and the seconds that took, in its last run."""

    def __init__(self, run: Callable[[], None]):
        self._run = run

    def __call__(self) -> None:
        self.items: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        hooks = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after)]
        started = time.perf_counter()
        self._run()
        self.whole = time.perf_counter() - started
        for hook in hooks:
            hook.remove()

    def _before(self, module: torch.nn.Module, inputs: tuple) -> None:
        if part := PARTS.get(type(module).__name__):
            self.items[part] += len(inputs[0])
            self._started = time.perf_counter()

    def _after(self, module: torch.nn.Module, *_) -> None:
        if part := PARTS.get(type(module).__name__):
            self.seconds[part] += time.perf_counter() - self._started

    def row(self, clips: int) -> dict[str, float | str]:
        """Counts per clip, and the parts' shares of the time."""
        counted: dict[str, float | str] = {
            "evaluations/clip": self.items["U-Net"] / 2 / clips,
            "texts/clip": self.items["text encoder"] / clips,
        }
        return counted | {part: f"{self.seconds[part] / self.whole:.0%}" for part in ("U-Net", "VAE", "vocoder")}


def measure(checkpoint: str, raw: Path, prompts: Path, clips: int, rounds: int, steps: list[int] | None) -> list[dict]:
    """A row for each way, with S drawn from `steps`, or as params.yaml has it."""
    changes = {
        "augment.method": "audioldm",
        "augment.checkpoint": checkpoint,
        "augment.revision": "",
        "storage.shards": "never",
    }
    params = load("diffusion-augment", ROOT, changes | ({"augment.ddim_steps": steps} if steps else {}))
    augment = params.augment
    manifest = read_manifest(raw / "manifest.csv")
    manifest = manifest[manifest["split"] == "train"]
    manifest = manifest.iloc[:: max(len(manifest) // clips, 1)].head(clips)  # of all machines
    table = pd.read_csv(prompts / "prompts.csv", dtype=str, keep_default_na=False)
    settings = Settings(**{field.name: getattr(augment, field.name) for field in fields(Settings)})
    jobs = plan(manifest, table, settings, "", 0, [augment.output])
    waveforms, recipes = [read_clip(raw / f"{job.clip}.flac") for job in jobs], [job.recipe for job in jobs]
    pipeline = AudioLDMPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def original() -> None:
        for recipe in recipes:
            guidance, length = recipe.guidance_scale, 10.24
            pipeline(recipe.prompt, length, num_inference_steps=recipe.ddim_steps, guidance_scale=guidance)

    def loop(batch_size: int) -> None:
        AudioLDM(pipeline.components).augment(waveforms, recipes, (augment.output,), batch_size)

    def stage(store: Path) -> None:
        os.environ["RCMAE_STORE"] = str(store)
        diffusion_augment.run(params, folder / "raw", prompts, folder / "augmented", folder / "metrics")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()  # the manifest of these clips; the audio stays where it is
        manifest.to_csv(folder / "raw" / "manifest.csv", index=False)
        for kind in set(manifest["machine_type"]):
            (folder / "raw" / kind).symlink_to((raw / kind).resolve())
        stage(folder / "full")  # warms everything up
        fresh = (folder / f"store-{number}" for number in count())
        ways = {
            "pipeline, from text, clip by clip": original,
            "this loop, clip by clip": lambda: loop(1),
            f"this loop, batches of {augment.batch_size}": lambda: loop(augment.batch_size),
            "the stage": lambda: stage(next(fresh)),
            "the stage, all in the store": lambda: stage(folder / "full"),
        }
        watches = {way: Watch(run) for way, run in ways.items()}
        times = alternating(watches, rounds)
    slow = times["pipeline, from text, clip by clip"]
    return [
        {"way": way, "s/clip": taken / len(jobs), "x pipeline": slow / taken} | watches[way].row(len(jobs))
        for way, taken in times.items()
    ]


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", default="augmentation/nano_audioldm/checkpoint", help="folder in diffusers format"
    )
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder with manifest.csv")
    parser.add_argument("--prompts", type=Path, default=Path("data/prompts"), help="folder with prompts.csv")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs=2, help="least and greatest S, else those of params.yaml")
    chosen = parser.parse_args(arguments)
    rows = measure(chosen.checkpoint, chosen.raw, chosen.prompts, chosen.clips, chosen.rounds, chosen.steps)
    about = {"checkpoint": Path(chosen.checkpoint).name, "clips": chosen.clips, "rounds": chosen.rounds}
    show("augment", rows, about, out)
    return rows


if __name__ == "__main__":
    main()
