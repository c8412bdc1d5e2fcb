"""Trains the small AudioLDM on synthesised factory sounds, from nothing to a folder in diffusers format.

    python -m augmentation.nano_audioldm.train [--work FOLDER] [--checkpoint FOLDER]

Steps: tokenizer and text encoder, VAE, a bank of latents, U-Net, the VAE's decoder alone, vocoder, export. Each writes
its state every few minutes and is resumed by the same command; every batch and every random number depends on the
step's number alone. No recording is used.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from transformers import ClapTextModelWithProjection, RobertaTokenizerFast

from audio.logmel import AUDIOLDM_HOP, audioldm_log_mel
from augmentation.nano_audioldm import architecture
from augmentation.nano_audioldm.captions import caption
from augmentation.nano_audioldm.families import FAMILIES
from augmentation.nano_audioldm.synthesis import SAMPLE_RATE, draw_addition, draw_clip
from model.checkpoints import load_state, restore, save_state, training_state
from storage.files import whole_file, write_json
from storage.memory import keep_freed_memory
from storage.store import store_folder

log = logging.getLogger(__name__)

SEED = 5
FRAMES = 256  # log-mel frames of a training crop, 2.56 s
STEPS = {"text": 800, "vae": 1600, "unet": 14000, "decoder": 2700, "vocoder": 31000}
BATCH = {"text": 64, "vae": 8, "unet": 32, "decoder": 8, "vocoder": 4}
LEARNING_RATE = {"text": 1e-3, "vae": 1e-3, "unet": 6e-4, "decoder": 5e-4, "vocoder": 1e-3}
DROP_CAPTION = 0.12  # share of captions replaced by "", the pipeline's unconditional prompt
PADDED = 0.1  # share of crops that end in silence, as clips of 10 s padded to 10.24 s do
LATENT_PARTS, LATENT_BATCHES = 10, 32  # files of a bank of latents, and batches of the U-Net's size in each
ADDITIONS = 0.5  # share of the U-Net's training that starts from a floor to which the captioned sound is to be added
ADDED_FROM, ADDED_BY = 100, 600  # timesteps of entry (of 1000) up to which nothing is added, and from which all is
ENTRY = 700  # latest timestep of entry, but for timesteps beyond it
VAE_INPUT = 0.75  # share of the vocoder's training input that went through the VAE
STATISTICS = 1_000_000  # number of the first of the batches that give the latents' and mels' mean and deviation
SAVE_SECONDS = 60
Loss = tuple[Tensor, dict[str, float]]
Network = TypeVar("Network", bound=nn.Module)


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


_LABELS: dict[str, list[str | None]] = {
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
            label, pitch, pace = (int(rng.integers(count)) for count in (len(FAMILIES) + 1, 3, 3))
            family = _LABELS["family"][label]
            if family is None:
                pitch = pace = 0
            elif not FAMILIES[family].paced:
                pace = 0
            words = _LABELS["pitch"][pitch], _LABELS["pace"][pace]
            captions.append(caption(rng, family, *words) if family else "")
            labels.append((label, pitch, pace))
        return {"captions": captions, "labels": torch.tensor(labels)}


def fit(
    name: str,
    network: Network,
    dataset: Dataset,
    loss_of: Callable[[Network, dict], Loss],
    work: Path,
    workers: int,
) -> Network:
    """Train `network` for its number of steps, or on from its saved state; returns the averaged network, in eval mode.

    The states (weights, averaged weights, Adam's moments, losses, minutes) lie in `work`/<name>; <name>.json beside it
    holds the losses and minutes alone.
    """
    steps = STEPS[name]
    averaged = AveragedModel(network, avg_fn=lambda mean, value, n: mean + (value - mean) * max(1e-3, 1 / (n / 10 + 2)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE[name], betas=(0.9, 0.99), weight_decay=1e-2)
    start, seconds, history = 0, 0.0, []
    if saved_state := load_state(work / name):
        tensors, progress = saved_state
        start, seconds, history = progress["step"], progress["minutes"] * 60, progress["history"]
        restore(network, optimizer, tensors)
        averaged.load_state_dict({k[9:]: v for k, v in tensors.items() if k.startswith("averaged.")})

    def save(step: int) -> None:
        tensors = training_state(network, optimizer)
        tensors |= {f"averaged.{key}": tensor for key, tensor in averaged.state_dict().items()}
        progress = {"minutes": round(seconds / 60, 2), "history": history}
        save_state(work / name, step, tensors, progress)
        write_json(work / f"{name}.json", {"step": step} | progress)

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
    network.load_state_dict(averaged.module.state_dict())
    return network.eval().requires_grad_(False)


def _autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


class CaptionReader(nn.Module):
    """The text encoder with linear heads on its unit-length embedding that name family, pitch and pace."""

    def __init__(self, text_encoder: ClapTextModelWithProjection) -> None:
        super().__init__()
        self.text_encoder: ClapTextModelWithProjection = text_encoder
        width = text_encoder.config.projection_dim
        self.heads = nn.ModuleList(nn.Linear(width, len(labels)) for labels in _LABELS.values())

    def forward(self, tokens: dict[str, Tensor]) -> list[Tensor]:
        embedding = F.normalize(self.text_encoder(**tokens).text_embeds, dim=-1)
        return [head(8 * embedding) for head in self.heads]


def text_loss(tokenize: Callable[[list[str]], dict[str, Tensor]]) -> Callable[[nn.Module, dict], Loss]:
    """Cross-entropy of what a caption says. Pulls captions of the same sound together, whatever machine they name."""

    def loss_of(reader: nn.Module, batch: dict) -> Loss:
        logits, labels = reader(tokenize(batch["captions"])), batch["labels"]
        losses = [F.cross_entropy(logit, labels[:, i], label_smoothing=0.05) for i, logit in enumerate(logits)]
        loss = torch.stack(losses).sum()
        right = (logits[0].argmax(1) == labels[:, 0]).float().mean()
        return loss, {"cross_entropy": loss.item(), "family_accuracy": right.item()}

    return loss_of


def _local_deviation(log_mel: Tensor) -> Tensor:
    """Standard deviation within 8 x 4 neighbourhoods (0.08 s, 4 mels): the texture that L1 would smooth away."""
    mean = F.avg_pool2d(log_mel, (8, 4), (4, 2))
    return (F.avg_pool2d(log_mel**2, (8, 4), (4, 2)) - mean**2).clamp(min=1e-4).sqrt()


def vae_loss(vae: AutoencoderKL, batch: dict) -> Loss:
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
    frames = (waveform - waveform.mean(-1, keepdim=True)).unflatten(-1, (-1, AUDIOLDM_HOP))  # (B, frames, 160)
    spectrum = torch.fft.rfft(frames)[..., 1:]  # (B, frames, 80)
    coherent = torch.view_as_real(spectrum.mean(1)).square().sum(-1) / (
        torch.view_as_real(spectrum).square().sum(-1).mean(1) + 1e-6
    )
    envelope = frames.abs().unflatten(-1, (20, -1)).mean((1, 3))  # (B, 20)
    return coherent, envelope / (envelope.mean(-1, keepdim=True) + 1e-5)


def _unlike(first: Tensor, second: Tensor) -> Tensor:
    """Absolute logarithm of the ratio of two positive tensors: 0 where they are equal.

    For values of noises, which differ by chance, it is least where both are distributed alike; the absolute difference
    is least where one is smaller than that, which would teach a notch.
    """
    return ((first + 1e-3) / (second + 1e-3)).log().abs()


def comb_loss(output: Tensor, target: Tensor) -> Tensor:
    """How much more or less of `output` than of `target` repeats at the frame rate, both (B, samples).

    A comb stands at the same place in every crop, so that it shows in means over the batch. Harmonics are compared in
    groups of 8, as one alone has a random share, and one by one, the low ones before all; envelopes by how uneven each
    is over a frame, and all together.
    """
    (coherent, envelope), (natural, natural_envelope) = _frame_comb(output), _frame_comb(target)
    share, natural_share = coherent.mean(0), natural.mean(0)  # (80,)
    grouped = _unlike(*(shares.unflatten(0, (10, 8)).mean(1) for shares in (share, natural_share))).mean()
    weights = 1 / torch.arange(1, len(share) + 1)
    single = (_unlike(share, natural_share) * weights).sum() / weights.sum()
    uneven = _unlike(*((shape - 1).square().mean().sqrt() for shape in (envelope, natural_envelope)))
    uneven_alike = _unlike(*((shape.mean(0) - 1).square().mean().sqrt() for shape in (envelope, natural_envelope)))
    return grouped + single + uneven + uneven_alike


def level_loss(output: Tensor, target: Tensor, log_mel: Tensor, target_log_mel: Tensor) -> Tensor:
    """Difference of the levels over the whole crop, of each mel band and of all: natural logarithm of RMS values.

    An absolute difference of log-mels alone is least at their median, which lies below the level of a noise.
    """
    bands = [0.5 * torch.logsumexp(2 * mel, dim=1) for mel in (log_mel, target_log_mel)]  # (B, 64)
    whole = [0.5 * (waveform.square().mean(-1) + 1e-6).log() for waveform in (output, target)]  # (B,)
    return F.l1_loss(bands[0], bands[1]) + F.l1_loss(whole[0], whole[1])


def vocoder_loss(vae: AutoencoderKL) -> Callable[[nn.Module, dict], Loss]:
    """Multi-resolution STFT, log-mel, levels, long-term spectrum and comb.

    Most of the input is what the VAE makes of the log-mel, as it is in use.
    """

    def loss_of(vocoder: nn.Module, batch: dict) -> Loss:
        waveform, log_mel = batch["waveform"], batch["log_mel"]
        count = round(VAE_INPUT * len(waveform))
        with torch.no_grad(), _autocast():
            decoded = vae.decode(vae.encode(log_mel[:count, None]).latent_dist.sample()).sample[:, 0].float()
        with _autocast():
            output = vocoder(torch.cat([decoded, log_mel[count:]]))
        output = output.float()
        sizes = (256, 512, 1024, 2048)
        stft = torch.stack([F.l1_loss(_log_magnitude(output, n), _log_magnitude(waveform, n)) for n in sizes]).mean()
        output_log_mel = audioldm_log_mel(output)
        mel = F.l1_loss(output_log_mel, log_mel)
        level = level_loss(output, waveform, output_log_mel, log_mel)
        long_term = F.l1_loss(_long_term(output), _long_term(waveform))
        repeated = comb_loss(output, waveform)
        loss = stft + 8 * mel + 3 * level + 0.5 * long_term + repeated
        parts = {"stft": stft, "mel": mel, "level": level, "long_term": long_term, "comb": repeated}
        return loss, {key: value.item() for key, value in parts.items()}

    return loss_of


class SynthesisedAdditions(Dataset):
    """Fresh batches of floors ("before") and of what a captioned sound makes of them ("log_mel")."""

    def __getitem__(self, number: int) -> dict:
        rng = np.random.default_rng([SEED, *b"additions", number])
        pairs = [draw_addition(rng, FRAMES * AUDIOLDM_HOP) for _ in range(BATCH["unet"])]
        return {
            "before": audioldm_log_mel(torch.from_numpy(np.stack([before for before, _ in pairs]))),
            "log_mel": audioldm_log_mel(torch.from_numpy(np.stack([clip.waveform for _, clip in pairs]))),
            "words": [[clip.family, clip.pitch, clip.pace] for _, clip in pairs],
        }


class Bank:
    """Latents of a dataset that is synthesised and encoded once: means and deviations of the VAE's posterior."""

    def __init__(self, name: str, vae: AutoencoderKL, clips: Dataset, keys: tuple[str, ...], work: Path, workers: int):
        """`keys` name the log-mels to encode: {key: (mean, deviation)}, each (N, 8, frames / 8, 8), are `latents`."""
        parts = []
        for part in range(LATENT_PARTS):
            path = work / f"{name}_{part:02d}.safetensors"
            if not path.exists():
                _encode(vae, clips, keys, part, path, workers)
                log.info("%s: part %d of %d", name, part + 1, LATENT_PARTS)
            with safe_open(path, "pt") as file:
                parts.append(
                    {key: (file.get_tensor(f"{key}.mean"), file.get_tensor(f"{key}.std")) for key in keys}
                    | {"words": json.loads(file.metadata()["words"])}
                )
        self.latents = {key: tuple(torch.cat([part[key][i] for part in parts]) for i in (0, 1)) for key in keys}
        self.words = [words for part in parts for words in part["words"]]

    def draw(self, key: str, chosen: np.ndarray, noise: Tensor) -> Tensor:
        """Samples of the posterior of the `chosen` crops, with the standard normal `noise`."""
        mean, deviation = self.latents[key]
        return mean[chosen].float() + deviation[chosen].float() * noise


def _encode(vae: AutoencoderKL, clips: Dataset, keys: tuple[str, ...], part: int, path: Path, workers: int) -> None:
    encoded: dict[str, list[Tensor]] = {}
    words = []
    numbers = range(part * LATENT_BATCHES, (part + 1) * LATENT_BATCHES)
    for batch in DataLoader(clips, batch_size=None, sampler=numbers, num_workers=workers):
        for key in keys:
            with torch.no_grad(), _autocast():
                posterior = vae.encode(batch[key][:, None]).latent_dist
            encoded.setdefault(f"{key}.mean", []).append(posterior.mean.half())
            encoded.setdefault(f"{key}.std", []).append(posterior.std.half())
        words += batch["words"]
    tensors = {key: torch.cat(batches).contiguous() for key, batches in encoded.items()}
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, {"words": json.dumps(words)})


class Latents(Dataset):
    """Batches of the U-Net: latents from both banks, those "before" an addition, and captions, always fresh."""

    def __init__(self, mixtures: Bank, additions: Bank) -> None:
        self.mixtures, self.additions = mixtures, additions

    def __getitem__(self, number: int) -> dict:
        rng = np.random.default_rng([SEED, *b"unet captions", number])
        added = round(ADDITIONS * BATCH["unet"])
        after, before, captions = [], [], []
        for bank, count, key in (
            (self.mixtures, BATCH["unet"] - added, "log_mel"),
            (self.additions, added, "before"),
        ):
            chosen = rng.integers(len(bank.words), size=count)
            shape = (count, *bank.latents[key][0].shape[1:])
            noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
            after.append(bank.draw("log_mel", chosen, noise))
            before.append(bank.draw(key, chosen, noise))
            for index in chosen:
                family, pitch, pace = bank.words[index]
                dropped = family is None or rng.uniform() < DROP_CAPTION
                captions.append("" if dropped else caption(rng, family, pitch, pace))
        return {"latents": torch.cat(after), "before": torch.cat(before), "captions": captions}


def share_left(alphas_cumprod: Tensor, timesteps: Tensor, entries: Tensor) -> Tensor:
    """Share of a recording that is left at `timesteps` of DDIM, entered at `entries`, if every step predicts the same.

    With a_t^2 = abar_t = 1 - s_t^2 it is (s_t / a_t) / (s_k / a_k).
    """
    ratios = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    return ratios[timesteps] / ratios[entries]


def unet_loss(embed: Callable[[list[str]], Tensor], alphas_cumprod: Tensor) -> Callable[[nn.Module, dict], Loss]:
    """Velocity prediction on the VAE's latents; captions enter as AudioLDM's pipeline gives them, as class labels.

    Half of the latents are noised as in any diffusion model. The others are noised as DDIM finds them that entered at
    timestep k with a recording "before" to which the caption's sound is to be added: with r the share that is left of
    it, x_t = a_t (z + r (before - z)) + s_t eps, and the prediction wanted is z. The smaller k, the less is added.
    Without a caption nothing is.
    """
    signals, sigmas = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()

    def loss_of(unet: nn.Module, batch: dict) -> Loss:
        wanted, before = batch["latents"], batch["before"]  # (B, 8, frames / 8, 8)
        with torch.no_grad():
            embedding = embed(batch["captions"])  # (B, 128)
        timesteps = torch.randint(len(alphas_cumprod), (len(wanted),))  # t
        low = timesteps.clamp(min=ADDED_FROM)
        entries = low + (torch.rand(len(low)) * (ENTRY - low).clamp(min=0)).long()  # k
        silent = torch.tensor([not caption for caption in batch["captions"]])
        added = ((entries - ADDED_FROM) / (ADDED_BY - ADDED_FROM)).clamp(0, 1)
        left = share_left(alphas_cumprod, timesteps, entries)  # r
        added, left, signal, sigma = (
            values[:, None, None, None] for values in (added, left, signals[timesteps], sigmas[timesteps])
        )
        wanted = before + added * (wanted - before)
        present = wanted + left * (before - wanted)
        wanted = torch.where(silent[:, None, None, None], present, wanted)
        noised = signal * present + sigma * torch.randn_like(present)
        with _autocast():
            velocity = unet(noised, timesteps, encoder_hidden_states=None, class_labels=embedding).sample
        loss = F.mse_loss(velocity.float(), (signal * noised - wanted) / sigma)
        return loss, {"velocity_mse": loss.item()}

    return loss_of


@torch.no_grad()
def whiten(vae: AutoencoderKL, batches: Iterator[dict]) -> None:
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

    mixtures = Bank("latents", vae, statistics, ("log_mel",), work, workers)
    additions = Bank("additions", vae, SynthesisedAdditions(), ("before", "log_mel"), work, workers)
    latents = Latents(mixtures, additions)
    unet = fit("unet", architecture.unet(), latents, unet_loss(embed, scheduler.alphas_cumprod), work, workers=0)
    for part in (vae.decoder, vae.post_quant_conv):  # the latents stay what the U-Net has learned
        part.requires_grad_(True)
    vae = fit("decoder", vae, SynthesisedClips("decoder", FRAMES, 0.4), vae_loss, work, workers)
    vocoder = architecture.vocoder(torch.cat([statistics[STATISTICS + number]["log_mel"] for number in range(8)]))
    clips = SynthesisedClips("vocoder", FRAMES // 2, 0.4)
    vocoder = fit("vocoder", vocoder, clips, vocoder_loss(vae), work, workers)
    architecture.save(checkpoint, vae, text_encoder, tokenizer, unet, scheduler, vocoder)
    records = {name: json.loads((work / f"{name}.json").read_text()) for name in STEPS}
    (checkpoint / "training.json").write_text(json.dumps({"seed": SEED, "batch": BATCH} | records, indent=1) + "\n")


def main() -> None:
    """Command line of the training."""
    store = store_folder("nano_audioldm")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=store, help=f"folder of the training states (default {store})")
    parser.add_argument("--checkpoint", type=Path, default=store / "checkpoint", help="folder of the finished pipeline")
    options = parser.parse_args()
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(options.work, options.checkpoint)


if __name__ == "__main__":
    main()
