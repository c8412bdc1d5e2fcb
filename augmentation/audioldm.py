"""AudioLDM from audio to audio: a real clip enters the reverse process at step floor(S t0), guided by a prompt.

Section 2.1 of the paper. `AudioLDM.from_checkpoint` takes any checkpoint in the diffusers format of
`diffusers.AudioLDMPipeline`, whose components it uses; the pipeline itself takes no initial audio.

Shapes: B rows of a batch (windows of clips), C latent channels, L = 1024 / scale latent frames of a window,
M = 64 / scale latent mels, where scale is the VAE's downsampling (4 for cvssp/audioldm-s-full-v2).
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audio.clips import SHORTEST_SECONDS
from audio.logmel import AUDIOLDM_HOP, AUDIOLDM_MELS, AUDIOLDM_SAMPLES, audioldm_log_mel
from augmentation.recipes import Recipe
from storage.files import sha256

SAMPLE_RATE = 16000  # Hz
FRONT_END = 1  # version of everything around the checkpoint; a change that alters the audio must raise it
OUTPUTS = ("vocoder", "source_phase")
WINDOW_FRAMES = AUDIOLDM_SAMPLES // AUDIOLDM_HOP  # 1024 log-mel frames, 10.24 s
SEAM_FRAMES = 64  # cross-fade between the windows of a longer clip, 0.64 s
VOCODER_CONTEXT = 64  # frames on either side that reach into a frame's samples: more than the vocoder's kernels do
CEILING = 0.99  # full scale of the result
COMPONENTS = {  # name: (library, classes that are accepted)
    "vae": ("diffusers", ("AutoencoderKL",)),
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "scheduler": ("diffusers", ("DDIMScheduler",)),
    "text_encoder": ("transformers", ("ClapTextModelWithProjection",)),
    "tokenizer": ("transformers", ("RobertaTokenizer", "RobertaTokenizerFast")),
    "vocoder": ("transformers", ("SpeechT5HifiGan",)),
}

log = logging.getLogger(__name__)


class SilentClipError(ValueError):
    """The source has nothing to start from."""


def resolve(checkpoint: str, revision: str = "") -> Path:
    """Folder of a checkpoint: `checkpoint` itself, or the download of a hub id at the commit `revision`.

    Only JSON, text and safetensors files are downloaded. Raises ValueError when there is no such folder and the hub
    does not have it or cannot be reached.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1:
        raise ValueError(f"checkpoint folder {checkpoint} does not exist: set augment.checkpoint to one that does")
    if not revision:
        raise ValueError(
            f"checkpoint {checkpoint} is neither a folder nor pinned: set augment.checkpoint to a folder, or "
            "augment.revision to the commit of that hub repository"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                checkpoint,
                revision=revision,
                allow_patterns=["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"],
            )
        )
    except Exception as error:  # the hub client raises its own, requests' and httpx's errors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"checkpoint {checkpoint} at revision {revision} cannot be had from the hub ({type(error).__name__}: "
            f"{reason}): set augment.checkpoint to a folder that holds it"
        ) from None


def checkpoint_identity(folder: Path) -> str:
    """SHA-256 over names and contents of the component files in `folder`: the same wherever the folder lies."""
    digest = hashlib.sha256()
    for component in COMPONENTS:
        for path in sorted((folder / component).glob("*")):
            if path.suffix in (".json", ".txt", ".safetensors"):
                digest.update(f"{component}/{path.name}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


@dataclass
class _Clip:
    """A clip on its way through the diffusion."""

    waveform: np.ndarray  # (samples,), mean removed, peak 0.5, padded
    mel: Tensor  # (frames, 64), its log-mel
    samples: int  # of the clip
    starts: list[int]  # of its windows, in latent frames


class AudioLDM:
    """The components of an AudioLDM checkpoint, and the partial reverse process on them."""

    def __init__(self, components: dict[str, Any], device: torch.device | str = "cpu"):
        """`components` holds the six objects that COMPONENTS names. Raises ValueError if they do not fit together."""
        _check_fit(components)
        self.device = torch.device(device)
        self.vae, self.unet, self.text_encoder, self.vocoder = (
            components[name].to(self.device).eval().requires_grad_(False)
            for name in ("vae", "unet", "text_encoder", "vocoder")
        )
        self.tokenizer, self.scheduler = components["tokenizer"], components["scheduler"]
        self.scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.evaluations = 0  # guided U-Net evaluations so far, counted per window
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def from_checkpoint(cls, checkpoint: str, revision: str = "", device: torch.device | str = "cpu") -> "AudioLDM":
        """Load the components of a folder or pinned hub id, from safetensors and JSON alone.

        Raises ValueError, naming it, for a component that is missing, of another class, or damaged.
        """
        folder = resolve(checkpoint, revision)
        return cls({name: _load(folder, name) for name in COMPONENTS}, device)

    @torch.inference_mode()
    def augment(
        self,
        waveforms: Sequence[np.ndarray],
        recipes: Sequence[Recipe],
        outputs: Sequence[str] = ("vocoder",),
        batch_size: int = 8,
    ) -> list[dict[str, np.ndarray]]:
        """Augment clips, each by its own recipe; what a clip becomes does not depend on the others.

        `waveforms` are (samples,) float arrays at 16 kHz; the result has for each clip and each of `outputs` a float32
        array of the same length and level. A clip longer than 10.24 s is processed in windows that share its noise and
        are joined, by a short cross-fade, as log-mels. `batch_size` is how many windows go through the networks
        together. Raises SilentClipError for a silent clip, ValueError for one below 1 s.
        """
        clips = [self._prepare(waveform) for waveform in waveforms]
        rows = [(i, j) for i, clip in enumerate(clips) for j in range(len(clip.starts))]
        rows.sort(key=lambda row: recipes[row[0]].evaluations, reverse=True)  # those of a batch end together
        noises = [self._noise(clip, recipe) for clip, recipe in zip(clips, recipes, strict=True)]
        window_frames = WINDOW_FRAMES // self.scale  # L
        mels: dict[tuple[int, int], Tensor] = {}
        changes: dict[tuple[int, int], Tensor] = {}
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            starts = [clips[i].starts[j] for i, j in batch]
            spans = [slice(start, start + window_frames) for start in starts]
            mel = torch.stack(
                [
                    clips[i].mel[start * self.scale :][:WINDOW_FRAMES]
                    for (i, _), start in zip(batch, starts, strict=True)
                ]
            )  # (B, 1024, 64)
            posterior, noise = (
                torch.stack([noises[i][n][:, span] for (i, _), span in zip(batch, spans, strict=True)]) for n in (0, 1)
            )  # (B, C, L, M) each
            chosen = [recipes[i] for i, _ in batch]
            latents = self.encode(mel, posterior)
            denoised = self.denoise(self.add_noise(latents, noise, chosen), chosen, [j for _, j in batch])
            decoded = self.decode(denoised).cpu()
            mels |= dict(zip(batch, decoded, strict=True))
            if "source_phase" in outputs:
                changes |= dict(zip(batch, decoded - self.decode(latents).cpu(), strict=True))

        def joined(windows: dict[tuple[int, int], Tensor]) -> list[Tensor]:  # (frames, 64) each
            return [
                _join([windows[i, j] for j in range(len(clip.starts))], [start * self.scale for start in clip.starts])
                for i, clip in enumerate(clips)
            ]

        results: list[dict[str, np.ndarray]] = [{} for _ in clips]
        for output in outputs:
            if output == "vocoder":
                made = self._vocode_all(joined(mels))
            elif output == "source_phase":
                made = [
                    source_phase(clip.waveform, change) for clip, change in zip(clips, joined(changes), strict=True)
                ]
            else:
                raise ValueError(f"output is {output!r}: allowed are {', '.join(OUTPUTS)}")
            for result, clip, source, waveform in zip(results, clips, waveforms, made, strict=True):
                result[output] = restore_level(waveform[: clip.samples], source)
        return results

    def encode(self, mel: Tensor, posterior: Tensor) -> Tensor:
        """Latents of log-mel windows (B, 1024, 64): a sample of the VAE's posterior, whose standard normal draw is
        `posterior` (B, C, L, M), times the scaling factor."""
        distribution = self.vae.encode(mel.unsqueeze(1).to(self.device)).latent_dist
        sample = distribution.mean + distribution.std * posterior.to(self.device)
        return sample * self.vae.config.scaling_factor

    def add_noise(self, latents: Tensor, noise: Tensor, recipes: Sequence[Recipe]) -> Tensor:
        """Eq. (1): x_k = sqrt(abar_k) x_ref + sqrt(1 - abar_k) eps, with k = floor(S t0) steps left.

        At t0 = 1 nothing of the clip is left by definition, and the result is the noise alone.
        """
        noise = noise.to(self.device)
        rows = []
        for x, eps, recipe in zip(latents, noise, recipes, strict=True):
            if recipe.t0 == 1:
                rows.append(eps * self.scheduler.init_noise_sigma)
            else:
                timestep = _scheduler(self.scheduler, recipe.ddim_steps).timesteps[-recipe.evaluations]
                rows.append(self.scheduler.add_noise(x, eps, timestep))
        return torch.stack(rows)  # (B, C, L, M)

    def denoise(self, latents: Tensor, recipes: Sequence[Recipe], windows: Sequence[int] | None = None) -> Tensor:
        """The last floor(S t0) DDIM steps of each row of (B, C, L, M), with classifier-free guidance.

        Rows may differ in S: each has its own timestep in the batch and leaves it when it is done. `windows` are the
        rows' places in their clips (0 if not given), which with the recipe's seed determine the noise of eta > 0.
        """
        windows = [0] * len(recipes) if windows is None else windows
        schedulers = [_scheduler(self.scheduler, recipe.ddim_steps) for recipe in recipes]
        timesteps = [
            scheduler.timesteps[-recipe.evaluations :].tolist()
            for scheduler, recipe in zip(schedulers, recipes, strict=True)
        ]
        generators = [
            torch.Generator().manual_seed((recipe.seed + (1 + window) * 2**32) % 2**63)
            for recipe, window in zip(recipes, windows, strict=True)
        ]
        embeddings = torch.cat([self.embed(recipe.prompt) for recipe in recipes])  # (B, width)
        unconditional = self.embed("").expand_as(embeddings)
        scales = torch.tensor([recipe.guidance_scale for recipe in recipes], device=self.device).view(-1, 1, 1, 1)
        guided = bool((scales > 1).any())
        x = list(latents.split(1))  # B times (1, C, L, M)
        for step in range(max(map(len, timesteps))):
            active = [row for row in range(len(x)) if step < len(timesteps[row])]
            batch = torch.cat([x[row] for row in active])
            times = torch.tensor([timesteps[row][step] for row in active], device=self.device)
            if guided:
                twice = self.unet(
                    torch.cat([batch, batch]),
                    torch.cat([times, times]),
                    encoder_hidden_states=None,
                    class_labels=torch.cat([unconditional[active], embeddings[active]]),
                ).sample
                without, with_prompt = twice.chunk(2)
                prediction = without + scales[active] * (with_prompt - without)
            else:
                prediction = self.unet(batch, times, encoder_hidden_states=None, class_labels=embeddings[active]).sample
            self.evaluations += len(active)
            for row, predicted in zip(active, prediction.split(1), strict=True):
                x[row] = (
                    schedulers[row]
                    .step(predicted, timesteps[row][step], x[row], eta=recipes[row].eta, generator=generators[row])
                    .prev_sample
                )
        return torch.cat(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Log-mels (B, 1024, 64) of latents (B, C, L, M)."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.squeeze(1)

    def vocode(self, mels: Tensor) -> Tensor:
        """Waveforms (B, frames * 160) of log-mels (B, frames, 64).

        Long ones go through the vocoder in pieces with enough context that the pieces make the same as the whole.
        """
        frames = mels.shape[1]
        pieces = []
        for start in range(0, frames, WINDOW_FRAMES):
            left = max(0, start - VOCODER_CONTEXT)
            piece = mels[:, left : start + WINDOW_FRAMES + VOCODER_CONTEXT].to(self.device)
            waveform = self.vocoder(piece).cpu().float()
            pieces.append(waveform[:, (start - left) * AUDIOLDM_HOP :][:, : WINDOW_FRAMES * AUDIOLDM_HOP])
        return torch.cat(pieces, dim=1)[:, : frames * AUDIOLDM_HOP]

    def embed(self, prompt: str) -> Tensor:
        """Unit-length text embedding (1, width), computed once per prompt; "" is the unconditional one.

        As the pipeline does it: prompts are padded to the tokenizer's length, the empty one to the embedding's width.
        """
        if prompt not in self._embeddings:
            tokens = self.tokenizer(
                prompt,
                padding="max_length",
                max_length=self.tokenizer.model_max_length if prompt else self.text_encoder.config.projection_dim,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            embedding = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
            self._embeddings[prompt] = F.normalize(embedding, dim=-1)
        return self._embeddings[prompt]

    def _prepare(self, waveform: np.ndarray) -> _Clip:
        normalised = front_end(waveform)
        per_latent = self.scale * AUDIOLDM_HOP  # samples
        padded = max(AUDIOLDM_SAMPLES, -(-len(normalised) // per_latent) * per_latent)
        normalised = np.pad(normalised, (0, padded - len(normalised)))
        return _Clip(
            waveform=normalised,
            mel=audioldm_log_mel(torch.from_numpy(normalised)),  # (padded / 160, 64)
            samples=len(waveform),
            starts=_window_starts(padded // per_latent, WINDOW_FRAMES // self.scale, -(-SEAM_FRAMES // self.scale)),
        )

    def _noise(self, clip: _Clip, recipe: Recipe) -> tuple[Tensor, Tensor]:
        # drawn on the CPU for the whole clip: the same on every device, and where windows overlap
        generator = torch.Generator().manual_seed(recipe.seed)
        shape = (self.vae.config.latent_channels, len(clip.mel) // self.scale, AUDIOLDM_MELS // self.scale)
        return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)

    def _vocode_all(self, mels: list[Tensor]) -> list[np.ndarray]:
        made: dict[int, np.ndarray] = {}
        for frames in {len(mel) for mel in mels}:  # clips of one length together
            group = [i for i, mel in enumerate(mels) if len(mel) == frames]
            made |= dict(zip(group, self.vocode(torch.stack([mels[i] for i in group])).numpy(), strict=True))
        return [made[i] for i in range(len(mels))]


def front_end(waveform: np.ndarray) -> np.ndarray:
    """AudioLDM's input: mean removed, peak scaled to 0.5. `waveform` is (samples,) at 16 kHz."""
    if len(waveform) < SHORTEST_SECONDS * SAMPLE_RATE:
        raise ValueError(f"clip of {len(waveform) / SAMPLE_RATE:.2f} s is shorter than {SHORTEST_SECONDS} s")
    centred = waveform.astype(np.float32) - waveform.mean(dtype=np.float64).astype(np.float32)
    peak = np.abs(centred).max()
    if not peak > 1e-6:
        raise SilentClipError("clip is silent")
    return centred * (0.5 / peak)


def source_phase(waveform: np.ndarray, change: Tensor) -> np.ndarray:
    """The source with its spectrum changed as far as its log-mel was by the diffusion, and its phase kept.

    `waveform` (samples,) is the source as the diffusion got it, and `change` (frames, 64) what the diffusion did to the
    decoded log-mel: that of the latents after it less that of the latents before it, so that what the VAE blurs stays.
    It is interpolated, linearly in Hz, to the bins of the STFT. The result has shape (samples,).
    """
    source = torch.from_numpy(waveform)
    change = change @ _mel_to_bins()  # (frames, 513)
    window = torch.hann_window(1024)
    spectrum = torch.stft(source, 1024, AUDIOLDM_HOP, window=window, return_complex=True)  # (513, frames + 1)
    change = F.pad(change.T.unsqueeze(0), (0, 1), mode="replicate")[0]  # the log-mel lacks the last frame
    return torch.istft(spectrum * change.exp(), 1024, AUDIOLDM_HOP, window=window, length=len(waveform)).numpy()


@lru_cache(maxsize=1)
def _mel_to_bins() -> Tensor:
    """Weights (64, 513) that interpolate values at the mel bands' centres to the STFT's bins, constant outside."""
    from librosa import mel_frequencies

    centres = mel_frequencies(n_mels=AUDIOLDM_MELS + 2, fmin=0.0, fmax=SAMPLE_RATE / 2)[1:-1]
    bins = np.linspace(0, SAMPLE_RATE / 2, 513)
    return torch.from_numpy(
        np.stack([np.interp(bins, centres, band) for band in np.eye(AUDIOLDM_MELS)]).astype(np.float32)
    )


def restore_level(waveform: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`waveform` with the mean and the level (RMS) of `source`, within full scale; both (samples,).

    A result with higher peaks than full scale allows goes through a soft limiter (identity below 0.8 of the ceiling)
    with the gain that makes its RMS that of the source nevertheless.
    """
    mean = source.mean(dtype=np.float64)
    target = source.std(dtype=np.float64)
    centred = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
    centred *= target / max(centred.std(), 1e-12)
    ceiling = max(CEILING - abs(mean), 1e-3)
    if np.abs(centred).max() > ceiling:
        low, high = 1.0, 2.0
        while _limit(centred * high, ceiling).std() < target and high < 1e6:
            high *= 2
        for _ in range(30):  # the limited RMS grows with the gain: bisect
            gain = (low + high) / 2
            low, high = (gain, high) if _limit(centred * gain, ceiling).std() < target else (low, gain)
        centred = _limit(centred * low, ceiling)
    return (centred + mean).astype(np.float32)


def _limit(waveform: np.ndarray, ceiling: float) -> np.ndarray:
    knee = 0.8 * ceiling
    room = ceiling - knee
    size = np.abs(waveform)
    return np.where(size > knee, np.sign(waveform) * (knee + room * np.tanh((size - knee) / room)), waveform)


def _window_starts(frames: int, window: int, seam: int) -> list[int]:
    """Starts of evenly spread windows that cover `frames` and overlap by at least `seam`."""
    count = 1 if frames <= window else -(-(frames - seam) // (window - seam))
    return np.linspace(0, frames - window, count).round().astype(int).tolist()


def _join(mels: list[Tensor], starts: list[int]) -> Tensor:
    """Log-mel (frames, 64) of windows (1024, 64): one fades into the next in the middle of their overlap."""
    joined = mels[0]
    for mel, start in zip(mels[1:], starts[1:], strict=True):
        overlap = len(joined) - start
        seam = min(SEAM_FRAMES, overlap)
        first = (overlap - seam) // 2  # of the seam, in frames of the overlap
        fade = torch.linspace(0, 1, seam + 2)[1:-1, None]
        into = joined[start + first :][:seam] * (1 - fade) + mel[first:][:seam] * fade
        joined = torch.cat([joined[: start + first], into, mel[first + seam :]])
    return joined


def _scheduler(scheduler: Any, steps: int) -> Any:
    """A scheduler of `scheduler`'s configuration that is set to `steps` steps."""
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(steps)
    return fresh


def _load(folder: Path, name: str) -> Any:
    import diffusers
    import transformers

    library, classes = COMPONENTS[name]
    where = folder / name
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no checkpoint in diffusers format: it has no model_index.json") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'model_index.json'} is damaged: {error}") from None
    given = index.get(name)
    if given is None or not where.is_dir():
        raise ValueError(f"checkpoint {folder} lacks the component {name} ({classes[0]})")
    if given[1] not in classes:
        raise ValueError(f"checkpoint {folder}: component {name} is a {given[1]}, AudioLDM needs a {classes[0]}")
    loader = getattr({"diffusers": diffusers, "transformers": transformers}[library], classes[0])
    options = {"low_cpu_mem_usage": False} if library == "diffusers" else {}  # else it asks for another package
    transformers.utils.logging.disable_progress_bar()
    try:
        if name in ("scheduler", "tokenizer"):
            return loader.from_pretrained(where, local_files_only=True)
        loaded, problems = loader.from_pretrained(
            where, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # what a library raises on a damaged file is its own affair
        reason = " ".join(str(error).split())
        raise ValueError(f"checkpoint {folder}: component {name} cannot be loaded: {reason[:300]}") from None
    missing = sorted(problems["missing_keys"])
    if missing:
        raise ValueError(f"checkpoint {folder}: component {name} lacks {len(missing)} weights, such as {missing[0]}")
    return loaded.float()


def _check_fit(components: dict[str, Any]) -> None:
    vae, unet, vocoder = (components[name].config for name in ("vae", "unet", "vocoder"))
    width = components["text_encoder"].config.projection_dim
    text_width = unet.projection_class_embeddings_input_dim
    hop = int(np.prod(vocoder.upsample_rates))
    scale = 2 ** (len(vae.block_out_channels) - 1)
    for name, good, has, needs in (
        ("vae", vae.in_channels == 1, f"{vae.in_channels} input channels", "1"),
        ("vae", AUDIOLDM_MELS % scale == 0, f"downsampling {scale}", f"a divisor of {AUDIOLDM_MELS}"),
        ("unet", unet.in_channels == vae.latent_channels, f"{unet.in_channels} channels", f"{vae.latent_channels}"),
        ("unet", unet.class_embed_type == "simple_projection", f"class {unet.class_embed_type}", "simple_projection"),
        ("unet", text_width == width, f"text width {text_width}", f"{width}"),
        ("vocoder", vocoder.model_in_dim == AUDIOLDM_MELS, f"{vocoder.model_in_dim} mel bands", f"{AUDIOLDM_MELS}"),
        ("vocoder", hop == AUDIOLDM_HOP, f"hop {hop}", f"{AUDIOLDM_HOP} samples"),
        ("vocoder", vocoder.sampling_rate == SAMPLE_RATE, f"{vocoder.sampling_rate} Hz", f"{SAMPLE_RATE} Hz"),
    ):  # fmt: skip
        if not good:
            raise ValueError(f"component {name} is foreign to AudioLDM: it has {has}, not {needs}")
