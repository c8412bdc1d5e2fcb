"""Trains the small AudioLDM on synthesised factory sounds, from nothing to a folder in diffusers format.

    python -m model.nano_audioldm.train [--work FOLDER] [--checkpoint FOLDER]

Steps: tokenizer and text encoder, VAE, a bank of latents, U-Net, vocoder, export. Each writes its state every few
minutes and is resumed by the same command; every batch and every random number depends on the step's number alone. No
recording is used.
"""

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from transformers import RobertaTokenizerFast

from audio.logmel import AUDIOLDM_HOP, audioldm_log_mel
from model.nano_audioldm import architecture
from model.nano_audioldm.captions import caption
from model.nano_audioldm.families import FAMILIES
from model.nano_audioldm.synthesis import SAMPLE_RATE, draw_clip

log = logging.getLogger(__name__)

SEED = 5
FRAMES = 256  # log-mel frames of a training crop, 2.56 s
STEPS = {"text": 800, "vae": 1600, "vocoder": 3000, "unet": 1500}
BATCH = {"text": 64, "vae": 8, "vocoder": 4, "unet": 32}
LEARNING_RATE = {"text": 1e-3, "vae": 1e-3, "vocoder": 1e-3, "unet": 6e-4}
DROP_CAPTION = 0.12  # share of captions replaced by "", the pipeline's unconditional prompt
PADDED = 0.1  # share of crops that end in silence, as clips of 10 s padded to 10.24 s do
LATENT_PARTS, LATENT_BATCHES = 10, 32  # files of the bank of latents, and batches of the U-Net's size in each
VAE_INPUT = 0.4  # share of the vocoder's training input that went through the VAE
STATISTICS = 1_000_000  # number of the first of the batches that give the latents' and mels' mean and deviation
SAVE_SECONDS = 60
Loss = tuple[Tensor, dict[str, float]]


class SynthesisedClips(Dataset):
    """Fresh batches of crops: item n depends on (seed, step name, n) alone."""

    def __init__(self, name: str, frames: int, floors: float) -> None:
        self.key, self.batch, self.samples, self.floors = (
            list(name.encode()),
            BATCH[name],
            frames * AUDIOLDM_HOP,
            floors,
        )

    def __getitem__(self, number: int) -> dict:
        rng = np.random.default_rng([SEED, *self.key, number])
        clips = [draw_clip(rng, self.samples, floors=self.floors) for _ in range(self.batch)]
        for clip in clips:
            if rng.uniform() < PADDED:
                clip.waveform[-int(rng.uniform(0.02, 0.5) * SAMPLE_RATE) :] = 0
        waveform = torch.from_numpy(np.stack([clip.waveform for clip in clips]))  # (B, samples)
        return {
            "waveform": waveform,
            "log_mel": audioldm_log_mel(waveform),  # (B, frames, 64)
            "words": [[clip.family, clip.pitch, clip.pace] for clip in clips],
        }


_LABELS = {
    "family": [None, *FAMILIES],
    "pitch": [None, "low", "high"],
    "pace": [None, "slow", "fast"],
}


class Captions(Dataset):
    """Batches of captions and what they say: family, pitch and pace as indices into `_LABELS`."""

    def __getitem__(self, number: int) -> dict:
        rng = np.random.default_rng([SEED, *b"captions", number])
        captions, labels = [], []
        for _ in range(BATCH["text"]):
            family = rng.integers(len(FAMILIES) + 1)
            pitch, pace = rng.integers(3), rng.integers(3)
            if family == 0:
                pitch = pace = 0
            elif not FAMILIES[_LABELS["family"][family]].paced:
                pace = 0
            words = [_LABELS[key][index] for key, index in zip(_LABELS, (family, pitch, pace), strict=True)]
            captions.append(caption(rng, *words) if family else "")
            labels.append((family, pitch, pace))
        return {"captions": captions, "labels": torch.tensor(labels)}


def fit(
    name: str,
    network: nn.Module,
    dataset: Dataset,
    loss_of: Callable[[nn.Module, dict], Loss],
    work: Path,
    workers: int,
) -> nn.Module:
    """Train `network` for its number of steps, or on from its saved state; returns the averaged network, in eval mode.

    The state (weights, averaged weights, Adam's moments, losses, minutes) is one safetensors file, replaced whole.
    """
    steps, path = STEPS[name], work / f"{name}.safetensors"
    averaged = AveragedModel(network, avg_fn=lambda mean, value, n: mean + (value - mean) * max(1e-3, 1 / (n / 10 + 2)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE[name], betas=(0.9, 0.99), weight_decay=1e-2)
    start, seconds, history = 0, 0.0, []
    if path.exists():
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            progress = json.loads(file.metadata()["progress"])
        start, seconds, history = progress["step"], progress["minutes"] * 60, progress["history"]
        network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
        averaged.load_state_dict({k[9:]: v for k, v in tensors.items() if k.startswith("averaged.")})
        for index, parameter in enumerate(network.parameters()):
            if f"adam.{index}.step" in tensors:
                optimizer.state[parameter] = {
                    key: tensors[f"adam.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def save(step: int) -> None:
        tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
        for index, parameter in enumerate(network.parameters()):
            tensors |= {f"adam.{index}.{k}": v for k, v in optimizer.state.get(parameter, {}).items()}
        progress = {"step": step, "minutes": round(seconds / 60, 2), "history": history}
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file(
            {k: v.clone().contiguous() for k, v in tensors.items()}, temporary, {"progress": json.dumps(progress)}
        )
        temporary.replace(path)
        (work / f"{name}.json").write_text(json.dumps(progress, indent=1))

    network.train()
    loader = DataLoader(
        dataset, batch_size=None, sampler=range(start, steps), num_workers=workers,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip
    saved = last = time.monotonic()
    recent: dict[str, list[float]] = {}
    for step, batch in enumerate(loader, start):
        torch.manual_seed(SEED * 1_000_003 + step)
        warmth = min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE[name] * warmth
        loss, parts = loss_of(network, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)
        for key, value in parts.items():
            recent.setdefault(key, []).append(value)
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        if (step + 1) % 50 == 0 or step + 1 == steps:
            history.append({"step": step + 1} | {key: round(float(np.mean(v)), 5) for key, v in recent.items()})
            recent = {}
            log.info("%s %d/%d, %.1f min: %s", name, step + 1, steps, seconds / 60, history[-1])
        if now - saved > SAVE_SECONDS or step + 1 == steps:
            save(step + 1)
            saved = now
    return averaged.module.eval().requires_grad_(False)


def _autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


class CaptionReader(nn.Module):
    """The text encoder with linear heads on its unit-length embedding that name family, pitch and pace."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        width = text_encoder.config.projection_dim
        self.heads = nn.ModuleList(nn.Linear(width, len(labels)) for labels in _LABELS.values())

    def forward(self, tokens: dict[str, Tensor]) -> list[Tensor]:
        embedding = F.normalize(self.text_encoder(**tokens).text_embeds, dim=-1)
        return [head(8 * embedding) for head in self.heads]


def text_loss(tokenize: Callable[[list[str]], dict[str, Tensor]]) -> Callable[[nn.Module, dict], Loss]:
    """Cross-entropy of what a caption says. Pulls captions of the same sound together, whatever machine they name."""

    def loss_of(reader: nn.Module, batch: dict) -> Loss:
        logits, labels = reader(tokenize(batch["captions"])), batch["labels"]
        loss = sum(F.cross_entropy(logit, labels[:, i], label_smoothing=0.05) for i, logit in enumerate(logits))
        right = (logits[0].argmax(1) == labels[:, 0]).float().mean()
        return loss, {"cross_entropy": loss.item(), "family_accuracy": right.item()}

    return loss_of


def _local_deviation(log_mel: Tensor) -> Tensor:
    """Standard deviation within 8 x 4 neighbourhoods (0.08 s, 4 mels): the texture that L1 would smooth away."""
    mean = F.avg_pool2d(log_mel, (8, 4), (4, 2))
    return (F.avg_pool2d(log_mel**2, (8, 4), (4, 2)) - mean**2).clamp(min=1e-4).sqrt()


def vae_loss(vae: nn.Module, batch: dict) -> Loss:
    """L1 of the log-mel, of its 4 x 4 means and of its local deviation, and a small KL divergence."""
    target = batch["log_mel"][:, None]  # (B, 1, frames, 64)
    with _autocast():
        posterior = vae.encode(target).latent_dist
        output = vae.decode(posterior.sample()).sample
    output = output.float()
    l1 = F.l1_loss(output, target)
    pooled = F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(target, 4))
    texture = F.l1_loss(_local_deviation(output), _local_deviation(target))
    kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    loss = l1 + pooled + 0.4 * texture + 1e-3 * kl
    return loss, {"l1": l1.item(), "pooled": pooled.item(), "texture": texture.item(), "kl": kl.item()}


def _log_magnitude(waveform: Tensor, n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)
    return spectrum.abs().clamp(min=1e-3).log()  # (B, bins, frames)


def _long_term(waveform: Tensor) -> Tensor:
    """Log power spectrum of the whole crop in bins of 3.9 Hz: a comb at the frame rate stands out in it."""
    spectrum = torch.stft(waveform, 4096, 1024, window=torch.hann_window(4096), return_complex=True)
    return spectrum.abs().square().mean(-1).clamp(min=1e-6).log()  # (B, bins)


def _frame_comb(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a waveform (B, samples) repeats from frame to frame, at 100 Hz.

    First (B, 80): share of each harmonic's power that is coherent over the frames, in [0, 1]. Second (B, 20): mean
    magnitude in each twentieth of a frame, relative to the mean of all.
    """
    frames = waveform.unflatten(-1, (-1, AUDIOLDM_HOP))  # (B, frames, 160)
    spectrum = torch.fft.rfft(frames)[..., 1:]  # (B, frames, 80)
    coherent = torch.view_as_real(spectrum.mean(1)).square().sum(-1) / (
        torch.view_as_real(spectrum).square().sum(-1).mean(1) + 1e-6
    )
    envelope = frames.abs().unflatten(-1, (20, -1)).mean((1, 3))  # (B, 20)
    return coherent, envelope / (envelope.mean(-1, keepdim=True) + 1e-5)


def comb_loss(output: Tensor, target: Tensor) -> Tensor:
    """How much more of `output` than of `target` repeats at the frame rate, both (B, samples)."""
    (coherent, envelope), (natural, natural_envelope) = _frame_comb(output), _frame_comb(target)
    return F.relu(coherent - natural).mean() + F.relu((envelope - 1).abs() - (natural_envelope - 1).abs()).mean()


def vocoder_loss(vae: nn.Module) -> Callable[[nn.Module, dict], Loss]:
    """Multi-resolution STFT, log-mel, long-term spectrum and comb; part of the input is what the VAE makes of it."""

    def loss_of(vocoder: nn.Module, batch: dict) -> Loss:
        waveform, log_mel = batch["waveform"], batch["log_mel"]
        count = round(VAE_INPUT * len(waveform))
        with torch.no_grad(), _autocast():
            decoded = vae.decode(vae.encode(log_mel[:count, None]).latent_dist.sample()).sample[:, 0].float()
        with _autocast():
            output = vocoder(torch.cat([decoded, log_mel[count:]]))
        output = output.float()
        stft = (
            sum(F.l1_loss(_log_magnitude(output, n), _log_magnitude(waveform, n)) for n in (256, 512, 1024, 2048)) / 4
        )
        mel = F.l1_loss(audioldm_log_mel(output), log_mel)
        long_term = F.l1_loss(_long_term(output), _long_term(waveform))
        repeated = comb_loss(output, waveform)
        loss = stft + 2 * mel + 0.5 * long_term + 4 * repeated
        parts = {"stft": stft, "mel": mel, "long_term": long_term, "comb": repeated}
        return loss, {key: value.item() for key, value in parts.items()}

    return loss_of


class Latents(Dataset):
    """Batches of the U-Net: latents drawn from a bank that is synthesised and encoded once, captions always fresh."""

    def __init__(self, vae: nn.Module, clips: SynthesisedClips, work: Path, workers: int) -> None:
        parts = []
        for part in range(LATENT_PARTS):
            path = work / f"latents_{part:02d}.safetensors"
            if not path.exists():
                self._encode_part(vae, clips, part, path, workers)
            with safe_open(path, "pt") as file:
                parts.append((file.get_tensor("mean"), file.get_tensor("std"), json.loads(file.metadata()["words"])))
        self.mean, self.std = (torch.cat([part[i] for part in parts]) for i in (0, 1))  # (N, 8, frames / 8, 8) each
        self.words = [words for part in parts for words in part[2]]

    @staticmethod
    def _encode_part(vae: nn.Module, clips: SynthesisedClips, part: int, path: Path, workers: int) -> None:
        numbers = range(part * LATENT_BATCHES, (part + 1) * LATENT_BATCHES)
        means, deviations, words = [], [], []
        for batch in DataLoader(clips, batch_size=None, sampler=numbers, num_workers=workers):
            with torch.no_grad(), _autocast():
                posterior = vae.encode(batch["log_mel"][:, None]).latent_dist
            means.append(posterior.mean.half())
            deviations.append(posterior.std.half())
            words += batch["words"]
        temporary = path.with_suffix(f".{os.getpid()}")
        tensors = {"mean": torch.cat(means).contiguous(), "std": torch.cat(deviations).contiguous()}
        save_file(tensors, temporary, {"words": json.dumps(words)})
        temporary.replace(path)
        log.info("latents: part %d of %d", part + 1, LATENT_PARTS)

    def __getitem__(self, number: int) -> dict:
        rng = np.random.default_rng([SEED, *b"unet captions", number])
        chosen = rng.integers(len(self.words), size=BATCH["unet"])
        noise = torch.from_numpy(rng.standard_normal((len(chosen), *self.mean.shape[1:]), dtype=np.float32))
        captions = []
        for index in chosen:
            family, pitch, pace = self.words[index]
            dropped = family is None or rng.uniform() < DROP_CAPTION
            captions.append("" if dropped else caption(rng, family, pitch, pace))
        return {"latents": self.mean[chosen].float() + self.std[chosen].float() * noise, "captions": captions}


def unet_loss(embed: Callable[[list[str]], Tensor], alphas_cumprod: Tensor) -> Callable[[nn.Module, dict], Loss]:
    """Velocity prediction on the VAE's latents; captions enter as AudioLDM's pipeline gives them, as class labels."""

    def loss_of(unet: nn.Module, batch: dict) -> Loss:
        latents = batch["latents"]  # (B, 8, frames / 8, 8)
        with torch.no_grad():
            embedding = embed(batch["captions"])  # (B, 128)
        timesteps = torch.randint(len(alphas_cumprod), (len(latents),))
        noise = torch.randn_like(latents)
        signal = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        with _autocast():
            velocity = unet(
                signal * latents + sigma * noise, timesteps, encoder_hidden_states=None, class_labels=embedding
            ).sample
        loss = F.mse_loss(velocity.float(), signal * noise - sigma * latents)
        return loss, {"velocity_mse": loss.item()}

    return loss_of


@torch.no_grad()
def whiten(vae: nn.Module, batches: Iterator[dict]) -> None:
    """Fold mean 0 and deviation 1 of every latent channel into quant_conv and post_quant_conv, in place.

    Latent channels differ in scale while the pipeline's scaling_factor is one number, which thereby becomes 1.
    """
    means = torch.cat([vae.encode(batch["log_mel"][:, None]).latent_dist.mean for batch in batches])  # (N, C, T, M)
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    # z' = (z - mean) / deviation; the posterior's log variance shifts by -2 log deviation
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    # post_quant_conv takes z = deviation z' + mean
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]


def train(work: Path, checkpoint: Path, workers: int = 1) -> None:
    """All steps, each from its saved state in `work`; then the pipeline in fp16, into `checkpoint`."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    if not (work / "tokenizer").is_dir():
        texts = [text for number in range(150) for text in Captions()[number]["captions"]]
        architecture.tokenizer(texts).save_pretrained(work / "tokenizer")
    tokenizer = RobertaTokenizerFast.from_pretrained(work / "tokenizer")

    def tokenize(captions: list[str]) -> dict[str, Tensor]:
        return dict(tokenizer(captions, padding=True, return_tensors="pt", return_token_type_ids=False))

    reader = CaptionReader(architecture.text_encoder(len(tokenizer)))
    text_encoder = fit("text", reader, Captions(), text_loss(tokenize), work, workers).text_encoder
    vae = fit("vae", architecture.vae(), SynthesisedClips("vae", FRAMES, 0.4), vae_loss, work, workers)
    statistics = SynthesisedClips("unet", FRAMES, 1 / 12)
    whiten(vae, (statistics[STATISTICS + number] for number in range(8)))
    scheduler = architecture.scheduler()

    def embed(captions: list[str]) -> Tensor:
        return F.normalize(text_encoder(**tokenize(captions)).text_embeds, dim=-1)

    latents = Latents(vae, statistics, work, workers)
    unet = fit("unet", architecture.unet(), latents, unet_loss(embed, scheduler.alphas_cumprod), work, workers=0)
    vocoder = architecture.vocoder(torch.cat([statistics[STATISTICS + number]["log_mel"] for number in range(8)]))
    clips = SynthesisedClips("vocoder", FRAMES // 2, 0.4)
    vocoder = fit("vocoder", vocoder, clips, vocoder_loss(vae), work, workers)
    architecture.save(checkpoint, vae, text_encoder, tokenizer, unet, scheduler, vocoder)
    records = {name: json.loads((work / f"{name}.json").read_text()) for name in STEPS}
    (checkpoint / "training.json").write_text(json.dumps({"seed": SEED, "batch": BATCH} | records, indent=1) + "\n")


def main() -> None:
    """Command line of the training."""
    store = Path(os.environ.get("RCMAE_STORE") or user_cache_path("rc-mae")) / "nano_audioldm"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=store, help=f"folder of the training states (default {store})")
    parser.add_argument("--checkpoint", type=Path, default=store / "checkpoint", help="folder of the finished pipeline")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(options.work, options.checkpoint)


if __name__ == "__main__":
    main()
