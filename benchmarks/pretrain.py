"""Speed and memory of training: `python -m benchmarks.pretrain` measures, prints tables and keeps them as JSON.

1. Pretraining against a straightforward loop in the style of published scripts: float32, recordings decoded and turned
   into log-mel while it trains, each view through the encoder by itself, both views decoded.
2. The share of the matrix-product rate of this machine, measured in the same run, that pretraining reaches.
3. Clips per second of both trainings at the paper's and the embedded size, in bf16 and float32 (`--sizes`).
4. Peak memory of pretraining at the embedded size as params.yaml has it, where each batch has other shapes, and by
   batch size at the paper's size with what follows for batch 128 (`--memory`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import soundfile
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from audio.clips import read_clip
from audio.features import Features, FeatureWriter
from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.scale import fill
from benchmarks.measuring import machine, seconds
from model.batches import TrainingClips, visible_count
from model.finetuning import Finetuning, FinetuningSettings
from model.losses import info_nce, reconstruction_loss, standardise_patches, vcr_loss
from model.network import RCMAE, IdentityClassifier, NetworkConfig, patchify
from model.pretraining import Pretraining, PretrainingSettings
from model.training import make_fabric, native_bf16
from storage.files import write_json

RESULT = Path(__file__).parent / "results" / "pretrain.json"
PAPER = NetworkConfig()
EMBEDDED = NetworkConfig(**yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())["model"])
PRETRAINING = PretrainingSettings(
    lambda_con=0.3,
    lambda_vcr=0.3,
    lambda_mae=0.4,
    augmented=True,
    epochs=1,
    batch_size=2,
    learning_rate=1e-4,
    schedule="constant",
    temperature=0.05,
    mask_ratio=(0.625, 0.625),  # the mean of the paper's, so that all steps cost the same
    norm_pix_loss=True,
    mae_views="original",
    contrastive_symmetric=False,
    negatives="cross",
    time_mask=0.2,
    frequency_mask=0.2,
    seed=0,
)
FINETUNING = FinetuningSettings(
    0.5, 0.5, epochs=1, batch_size=2, learning_rate=1e-4, schedule="constant", temperature=0.05, seed=0
)


STEPS = 60  # of the embedded size, after which its memory no longer grows


def write_corpus(folder: Path, clips: int) -> None:
    """`clips` pairs of 10 s of noise: as recordings for the reference loop, as features for ours."""
    random, settings = np.random.default_rng(0), LogMelSettings()
    with FeatureWriter(folder / "features", settings) as writer:
        for number in range(clips):
            machine_id = f"id_{number % 2:02d}"
            clip = {
                "clip": f"fan/train/normal_{machine_id}_{number:08d}",
                "machine_type": "fan",
                "machine_id": machine_id,
                "split": "train",
                "condition": "normal",
            }
            for view, kind in enumerate(("original", "augmented")):
                waveform = random.normal(0, 0.1, 160_000).astype(np.float32)
                soundfile.write(folder / f"{number}_{view}.wav", waveform, 16000)
                writer.add(clip, kind, 0, log_mel(torch.from_numpy(waveform), settings).numpy())


def our_step(
    folder: Path,
    config: NetworkConfig,
    batch: int,
    precision: Literal["auto", "bf16-mixed", "32-true"],
    finetuning: bool = False,
    mask_ratio: tuple[float, float] = PRETRAINING.mask_ratio,
) -> Callable:
    """A function that trains one step as the stage does, on the first `batch` clips."""
    fabric = make_fabric(precision)
    clips = TrainingClips(Features.open(folder / "features"), config)
    objective: Finetuning | Pretraining
    network: torch.nn.Module
    if finetuning:
        objective = Finetuning(clips, replace(FINETUNING, batch_size=batch), fabric)
        network = IdentityClassifier(config, 2)
    else:
        objective = Pretraining(clips, replace(PRETRAINING, batch_size=batch, mask_ratio=mask_ratio), fabric)
        network = RCMAE(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    network, optimizer = fabric.setup(network, optimizer)
    epochs = iter(range(1_000_000))

    def step() -> None:
        epoch = next(epochs)
        loaded = objective.load(epoch, 0, np.arange(batch))
        terms, _ = objective.losses(network, fabric.to_device(loaded))
        fabric.backward(terms["loss"])
        optimizer.step()
        optimizer.zero_grad()

    return step


def reference_step(folder: Path, config: NetworkConfig, batch: int) -> Callable:
    """A function that trains one step the straightforward way."""
    network, visible_tokens = RCMAE(config), visible_count(config.tokens, PRETRAINING.mask_ratio[0])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    features = Features.open(folder / "features")
    order = np.random.default_rng(0)

    def view(clips: np.ndarray, number: int) -> torch.Tensor:
        waveforms = [torch.from_numpy(read_clip(folder / f"{clip}_{number}.wav")) for clip in clips]
        spectrograms = [fill(log_mel(waveform, features.settings), config.frames) for waveform in waveforms]
        return patchify(features.scale("keep")(torch.stack(spectrograms)), config)

    def one_branch(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        visible = torch.rand(len(patches), config.tokens).argsort(dim=1)[:, :visible_tokens]
        tokens = network.encoder(patches, visible)
        mask = torch.ones(len(patches), config.tokens).scatter(1, visible, 0.0)
        loss = reconstruction_loss(network.decoder(tokens, visible), standardise_patches(patches), mask)
        return network.projection(tokens.mean(dim=1)), loss

    def step() -> None:
        clips = order.permutation(batch)
        (z_a, mae_a), (z_aug, mae_aug) = one_branch(view(clips, 0)), one_branch(view(clips, 1))
        l_vcr = (vcr_loss(z_a) + vcr_loss(z_aug)) / 2
        loss = 0.3 * info_nce(z_a, z_aug, 0.05) + 0.3 * l_vcr + 0.4 * (mae_a + mae_aug) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOP/s of the product that the network spends most of its time in, median of 15."""
    a, b = torch.randn(4096, 384).to(dtype), torch.randn(384, 1536).to(dtype)
    times = [seconds(lambda: a @ b) for _ in range(20)][5:]
    return 2 * 4096 * 384 * 1536 / median(times)


def against_reference(folder: Path, config: NetworkConfig, batch: int, repeats: int) -> dict:
    """Pairs per second of both loops, in alternating steps, and the share of matrix products."""
    ours, reference = our_step(folder, config, batch, "auto"), reference_step(folder, config, batch)
    with FlopCounterMode(display=False) as counter:  # this step also warms up
        ours()
    rates: dict[str, list[float]] = {"bf16": [], "float32": []}
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(repeats):
        rates["bf16"].append(matrix_rate(torch.bfloat16))
        rates["float32"].append(matrix_rate(torch.float32))
        times["ours"].append(seconds(ours))
        times["reference"].append(seconds(reference))
    step, slow = median(times["ours"]), median(times["reference"])
    rate = counter.get_total_flops() / step
    return {
        "batch": batch,
        "pairs_per_second": batch / step,
        "reference_pairs_per_second": batch / slow,
        "ratio": slow / step,
        "gflops": rate / 1e9,
        "share_of_bf16_rate": rate / median(rates["bf16"]),
        "share_of_float32_rate": rate / median(rates["float32"]),
        "native_bf16": native_bf16(),
    }


def by_size(folder: Path, batch: int, repeats: int) -> list[dict]:
    """Clips (pairs) per second of both trainings at both sizes and precisions."""
    steps = {
        (size, training, precision): our_step(folder, config, batch, precision, training == "finetuning")
        for size, config in (("paper", PAPER), ("embedded", EMBEDDED))
        for training in ("pretraining", "finetuning")
        for precision in ("bf16-mixed", "32-true")
    }
    times: dict[tuple, list[float]] = {key: [] for key in steps}
    for _ in range(repeats + 1):
        for key, step in steps.items():
            times[key].append(seconds(step))
    return [
        {"size": size, "training": training, "precision": precision, "clips_per_second": batch / median(taken[1:])}
        for (size, training, precision), taken in times.items()
    ]


def peak_of_this(folder: Path, size: str, batch: int) -> float:
    """Peak memory (GB) of this process when it has pretrained a while: two steps of the paper's size, or `STEPS`."""
    paper = size == "paper"
    low, high = PRETRAINING.mask_ratio if paper else (0.5, 0.75)
    step = our_step(folder, PAPER if paper else EMBEDDED, batch, "auto", mask_ratio=(low, high))
    for _ in range(2 if paper else STEPS):
        step()
    status = Path("/proc/self/status").read_text()  # of this program alone, where getrusage counts its parent too
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def peak(folder: Path, size: str, batch: int) -> float:
    """`peak_of_this` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pretrain", "--peak-of", str(folder), size, "--batch", str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory(folder: Path, batches: list[int]) -> dict:
    """Peak memory of pretraining at the paper's size in processes of their own, and the line through it."""
    measured = {batch: peak(folder, "paper", batch) for batch in batches}
    slope, base = np.polyfit(list(measured), list(measured.values()), 1)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "peak_gb": measured,
        "gb_per_pair": slope,
        "gb_at_128": base + 128 * slope,
        "largest_batch_in_memory": int((total - base) / slope),
        "memory_gb": total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="pairs in a batch")
    parser.add_argument("--repeats", type=int, default=2, help="steps measured of each loop")
    parser.add_argument(
        "--sizes", type=int, metavar="BATCH", help="also measure both sizes and precisions at this batch"
    )
    parser.add_argument("--memory", type=int, nargs="+", metavar="BATCH", help="also measure memory at these batches")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print(peak_of_this(Path(arguments.peak_of[0]), arguments.peak_of[1], arguments.batch))
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpus(folder, max(arguments.batch, arguments.sizes or 0, *(arguments.memory or [0])))
        result: dict[str, Any] = machine() | {
            "parameters": sum(parameter.numel() for parameter in RCMAE(PAPER).parameters()),
            "encoder_parameters": sum(parameter.numel() for parameter in RCMAE(PAPER).encoder.parameters()),
            "embedded_peak_gb": peak(folder, "embedded", arguments.batch),
            "against_reference": against_reference(folder, PAPER, arguments.batch, arguments.repeats),
        }
        if arguments.sizes:
            result["sizes"] = by_size(folder, arguments.sizes, arguments.repeats)
        if arguments.memory:
            result["memory"] = memory(folder, arguments.memory)

    ratio = result["against_reference"]
    print(f"{result['machine']}, {result['date']}; paper size, {result['parameters'] / 1e6:.1f} M parameters")
    print("| batch | ours, pairs/s | reference, pairs/s | ratio | share of bf16 products | of float32 products |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {ratio['batch']} | {ratio['pairs_per_second']:.2f} | {ratio['reference_pairs_per_second']:.2f} "
        f"| {ratio['ratio']:.1f} | {ratio['share_of_bf16_rate']:.0%} | {ratio['share_of_float32_rate']:.0%} |"
    )
    print(f"\nembedded size, batch {ratio['batch']}, {STEPS} steps: peak memory {result['embedded_peak_gb']:.2f} GB")
    if "sizes" in result:
        print("\n| size | training | precision | clips/s |\n|---|---|---|---|")
        for row in result["sizes"]:
            print(f"| {row['size']} | {row['training']} | {row['precision']} | {row['clips_per_second']:.2f} |")
    if "memory" in result:
        peaks, line = result["memory"]["peak_gb"], result["memory"]
        print("\n| batch | peak memory, GB |\n|---|---|")
        for batch, largest in peaks.items():
            print(f"| {batch} | {largest:.1f} |")
        print(f"| 128 (extrapolated) | {line['gb_at_128']:.1f} |")
        print(f"| {line['largest_batch_in_memory']} (extrapolated) | {line['memory_gb']:.1f}, all of this machine's |")
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
