"""The small checkpoint: its vocabulary, its synthesiser, how it is trained and what the shipped weights do."""

import json
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from audio.logmel import audioldm_log_mel
from augmentation.nano_audioldm import architecture, train
from augmentation.nano_audioldm.captions import caption
from augmentation.nano_audioldm.evaluate import CHECKPOINT, HIGH, LOW, centroid, comb, log_mel_error, round_trip
from augmentation.nano_audioldm.families import FAMILIES
from augmentation.nano_audioldm.synthesis import draw_addition, draw_clip, family_sound, noise_floor
from augmentation.noises import family_of
from augmentation.prompts import read_bank
from model.checkpoints import load_state
from tests.conftest import ROOT

shipped = pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="no checkpoint in augmentation/nano_audioldm/checkpoint")


def test_every_noun_belongs_to_one_family():
    nouns = Counter(noun for family in FAMILIES.values() for noun in family.nouns)
    assert [noun for noun, count in nouns.items() if count > 1] == []
    assert len(FAMILIES) >= 12


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("add deep rolling rumble produced by crushers in a mining quarry as they break rocks", "rumble"),
        ("add a hissing rattle produced by a grinding mill", "rattle"),
        ("Add sharp, rhythmic CLICKING produced by printing presses", "clicking"),
        ("add a rush of air from fans humming in a hall", "ventilation"),
        ("add the sound of a low whine made by furnaces", "whirr"),
        ("add cheerful conversation produced by workers", None),
        ("", None),
    ],
)
def test_a_prompts_family_is_the_head_noun_of_its_noise(text, family):
    assert family_of(text) == family


def test_captions_name_their_family_in_the_papers_form():
    rng = np.random.default_rng(0)
    texts = []
    for family in FAMILIES:
        for _ in range(60):
            text = caption(rng, family, *rng.choice([None, "low", "high"], 1), None)
            assert family_of(text) == family, text
            texts.append(text)
    whole = [text for text in texts if " produced by " in text and " in " in text and " as they " in text]
    assert len(whole) > len(texts) / 8
    assert all(5 <= len(text.split()) <= 30 for text in whole)
    assert len(set(texts)) > 0.99 * len(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_sounds_follow_pitch(family):
    rng = np.random.default_rng(1)
    low, high = (
        np.mean([centroid(family_sound(rng, family, 32000, pitch, 0.5).astype(np.float32)) for _ in range(6)])
        for pitch in (0.05, 0.95)
    )
    assert high > 1.1 * low


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.paced])
def test_sounds_follow_pace(family):
    def pace(waveform: np.ndarray) -> float:  # centroid of the envelope's spectrum below 60 Hz, in Hz
        envelope = np.abs(waveform).reshape(-1, 40).mean(1)  # 400 Hz
        spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
        frequencies = np.fft.rfftfreq(len(envelope), 1 / 400)
        inside = frequencies < 60
        return (spectrum * frequencies)[inside].sum() / spectrum[inside].sum()

    rng = np.random.default_rng(2)
    slow, fast = (
        np.mean([pace(family_sound(rng, family, 64000, 0.5, value)) for _ in range(6)]) for value in (0.0, 1.0)
    )
    assert fast > slow


def test_a_clip_is_as_the_front_end_leaves_it_and_depends_on_its_generator_alone():
    for seed in range(20):
        clip, again = (draw_clip(np.random.default_rng(seed), 16000) for _ in range(2))
        assert clip.waveform.dtype == np.float32
        assert clip.waveform.shape == (16000,)
        assert abs(clip.waveform.mean()) < 1e-4
        assert 0.14 < np.abs(clip.waveform).max() <= 0.5001
        assert family_of(clip.caption) == clip.family
        np.testing.assert_array_equal(clip.waveform, again.waveform)
        assert clip.caption == again.caption


def test_an_addition_leaves_the_floor_as_it_was():
    rng = np.random.default_rng(5)
    levels = []
    for _ in range(12):
        before, clip = draw_addition(rng, 16000)
        added = clip.waveform - before
        assert 0.14 < np.abs(before).max() <= 0.5001
        assert family_of(clip.caption) == clip.family
        levels.append(20 * np.log10(added.std() / before.std()))
    assert -15.5 < min(levels) < -5 < max(levels) < 3.5


def test_the_share_left_of_a_recording_is_that_of_ddim():
    scheduler = architecture.scheduler()
    scheduler.set_timesteps(25)
    alphas = scheduler.alphas_cumprod
    torch.manual_seed(0)
    before, wanted, noise = torch.randn(3, 1, 8, 4, 4)
    steps = scheduler.timesteps[-12:]
    state = scheduler.add_noise(before, noise, steps[0])
    for step, following in pairwise(steps):
        a, s = alphas[step].sqrt(), (1 - alphas[step]).sqrt()
        state = scheduler.step((a * state - wanted) / s, step, state).prev_sample  # the velocity that predicts `wanted`
        left = train.share_left(alphas, following, steps[0])
        expected = scheduler.add_noise(wanted + left * (before - wanted), noise, following)
        torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)


class _Oracle(nn.Module):
    """A U-Net that knows the latents wanted."""

    def __init__(self, wanted: torch.Tensor, alphas: torch.Tensor) -> None:
        super().__init__()
        self.wanted, self.alphas = wanted, alphas

    def forward(self, noised, timesteps, encoder_hidden_states, class_labels):
        a, s = (values[timesteps][:, None, None, None] for values in (self.alphas.sqrt(), (1 - self.alphas).sqrt()))
        return SimpleNamespace(sample=(a * noised - self.wanted) / s)


@pytest.mark.parametrize(("caption", "wanted"), [("add a rumble", "latents"), ("", "before")])
def test_the_unet_learns_to_add_what_a_caption_says_and_nothing_without(monkeypatch, caption, wanted):
    monkeypatch.setattr(train, "ADDED_FROM", -1)
    monkeypatch.setattr(train, "ADDED_BY", 0)  # all is added, wherever the recording entered
    monkeypatch.setattr(train, "ENTRY", 0 if wanted == "before" else 700)  # 0: it has just entered
    torch.manual_seed(1)
    batch = {"latents": torch.randn(16, 8, 8, 8), "before": torch.randn(16, 8, 8, 8), "captions": [caption] * 16}
    alphas = architecture.scheduler().alphas_cumprod
    loss_of = train.unet_loss(lambda captions: torch.zeros(len(captions), 128), alphas)
    other = {"latents": "before", "before": "latents"}[wanted]
    assert loss_of(_Oracle(batch[wanted], alphas), batch)[0] < 1e-6
    assert loss_of(_Oracle(batch[other], alphas), batch)[0] > 0.1


def test_the_vocoders_losses_see_a_comb_a_notch_an_offset_and_a_level():
    rng = np.random.default_rng(8)
    times = np.arange(20480) / 16000
    noise = torch.from_numpy(0.1 * rng.standard_normal((4, 20480))).float()
    again = torch.from_numpy(0.1 * rng.standard_normal((4, 20480))).float()
    line = torch.from_numpy(0.05 * np.sin(2 * np.pi * 100 * times)).float()
    buzz = noise * torch.from_numpy(1 + 0.5 * np.sin(2 * np.pi * 100 * times)).float()
    alike = train.comb_loss(again, noise)
    assert train.comb_loss(again + line, noise) > 3 * alike
    assert train.comb_loss(buzz, noise) > 3 * alike
    assert train.comb_loss(buzz + 0.9, noise) > 3 * alike  # an offset does not hide it
    frequencies = torch.fft.rfftfreq(20480, 1 / 16000)
    spared = (frequencies + 50) % 100 - 50  # from the nearest multiple of the frame rate, Hz
    notch = torch.fft.irfft(torch.fft.rfft(again) * (spared.abs() > 2), 20480)
    assert train.comb_loss(notch, noise) > 3 * alike

    def level(output: torch.Tensor) -> float:
        return float(train.level_loss(output, noise, audioldm_log_mel(output), audioldm_log_mel(noise)))

    assert level(again) < 0.1
    assert level(again + 0.3) > 1
    assert level(0.5 * again) > 2 * np.log(2) - 0.2


def test_whitening_standardises_the_latents_and_leaves_the_reconstruction_alone():
    torch.manual_seed(0)
    vae = architecture.vae().eval()
    batches = [{"log_mel": -5 + 2 * torch.randn(2, 64, 64)} for _ in range(2)]
    sample = batches[0]["log_mel"][:, None]
    with torch.no_grad():
        before = vae.encode(sample).latent_dist
        scale = before.std / before.mean.std((0, 2, 3))[None, :, None, None]
        reconstruction = vae.decode(before.mean).sample
        train.whiten(vae, iter(batches))
        after = vae.encode(sample).latent_dist
        latents = torch.cat([vae.encode(batch["log_mel"][:, None]).latent_dist.mean for batch in batches])
        assert latents.mean((0, 2, 3)).abs().max() < 1e-3
        assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3
        torch.testing.assert_close(vae.decode(after.mean).sample, reconstruction, atol=1e-3, rtol=1e-3)
        ratio = (after.std / scale).mean((0, 2, 3))
        torch.testing.assert_close(ratio, torch.ones(8), atol=0.2, rtol=0)


class _Numbers(torch.utils.data.Dataset):
    def __getitem__(self, number: int) -> dict:
        return {"x": torch.from_numpy(np.random.default_rng(number).standard_normal((4, 3), dtype=np.float32))}


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setitem(train.STEPS, "vae", 12)
    monkeypatch.setattr(train, "SAVE_SECONDS", -1)  # after every step

    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(3, 3)

    def loss_of(network: nn.Module, batch: dict) -> train.Loss:
        loss = (network(batch["x"]) - torch.randn(4, 3)).square().mean()
        return loss, {"mse": loss.item()}

    def stopping(network: nn.Module, batch: dict) -> train.Loss:
        if torch.equal(batch["x"], _Numbers()[7]["x"]):
            raise KeyboardInterrupt
        return loss_of(network, batch)

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train.fit("vae", network(), _Numbers(), loss_of, tmp_path / "whole", workers=0)
    with pytest.raises(KeyboardInterrupt):
        train.fit("vae", network(), _Numbers(), stopping, tmp_path / "parts", workers=0)
    assert json.loads((tmp_path / "parts" / "vae.json").read_text())["step"] == 7
    parts = train.fit("vae", network(), _Numbers(), loss_of, tmp_path / "parts", workers=0)
    torch.testing.assert_close(parts.weight, whole.weight, atol=0, rtol=0)
    assert json.loads((tmp_path / "parts" / "vae.json").read_text())["history"][-1]["step"] == 12


def test_the_recipe_leads_from_nothing_to_a_checkpoint(tmp_path, monkeypatch):
    from augmentation.audioldm import AudioLDM

    for name in train.STEPS:
        monkeypatch.setitem(train.STEPS, name, 2)
        monkeypatch.setitem(train.BATCH, name, 4)
    monkeypatch.setattr(train, "LATENT_PARTS", 1)
    monkeypatch.setattr(train, "LATENT_BATCHES", 1)
    train.train(tmp_path / "work", tmp_path / "checkpoint", workers=0)
    AudioLDM.from_checkpoint(str(tmp_path / "checkpoint"))
    (before, _), (after, _) = (load_state(tmp_path / "work" / name) for name in ("vae", "decoder"))
    changed = [key for key in before if key.startswith("averaged.module.") and not torch.equal(before[key], after[key])]
    moved = {key.split(".")[2] for key in changed}
    assert moved == {"decoder", "quant_conv", "post_quant_conv"}  # quant_conv by whitening alone
    records = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert {name: records[name]["step"] for name in train.STEPS} == train.STEPS


def test_the_comb_measure_sees_a_comb():
    rng = np.random.default_rng(4)
    noise = [rng.standard_normal(64000) for _ in range(4)]
    buzzing = [one * (1 + 0.3 * np.sin(2 * np.pi * 100 * np.arange(64000) / 16000)) for one in noise]
    humming = [one + 0.1 * np.sin(2 * np.pi * 100 * np.arange(64000) / 16000) for one in noise]
    assert abs(comb(noise)["envelope_100"]) < 2
    assert comb(buzzing)["envelope_100"] > 6
    assert comb(humming)["spectrum_100"] > 6 > 2 > abs(comb(noise)["spectrum_100"])


@pytest.fixture(scope="module")
def diffusion():
    from augmentation.audioldm import AudioLDM

    return AudioLDM.from_checkpoint(str(CHECKPOINT))


@shipped
def test_the_checkpoint_is_small_and_generates_through_the_stock_pipeline():
    from diffusers import AudioLDMPipeline

    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert not [path for path in files if path.suffix not in (".json", ".txt", ".safetensors")]
    pipeline = AudioLDMPipeline.from_pretrained(CHECKPOINT)
    pipeline.set_progress_bar_config(disable=True)
    low, high = (
        pipeline(
            prompt, num_inference_steps=10, audio_length_in_s=2.56, generator=torch.Generator().manual_seed(0)
        ).audios[0]
        for prompt in (LOW, HIGH)
    )
    assert low.shape == (40960,)
    assert np.isfinite(low).all()
    assert centroid(high) > 1.5 * centroid(low)


@shipped
def test_the_checkpoint_reads_the_prompt_bank_by_its_noises(diffusion):
    bank = [candidate.text for candidate in read_bank(ROOT / "corpora" / "prompts.csv")]
    families = [family_of(text) for text in bank]
    assert None not in families
    rng = np.random.default_rng(6)
    with torch.inference_mode():
        centres = torch.stack(
            [torch.cat([diffusion.embed(caption(rng, family)) for _ in range(12)]).mean(0) for family in FAMILIES]
        )
        read = [list(FAMILIES)[int((centres @ diffusion.embed(text)[0]).argmax())] for text in bank]
    wrong = [text for text, family, told in zip(bank, families, read, strict=True) if family != told]
    assert len(wrong) <= 0.05 * len(bank), wrong


@shipped
def test_a_round_trip_keeps_the_clip_and_adds_no_comb(diffusion):
    rng = np.random.default_rng(7)
    clips = [(0.1 * noise_floor(rng, 160_000)).astype(np.float32) for _ in range(4)]
    made = [round_trip(diffusion, clip) for clip in clips]
    assert all(one.shape == (160_000,) for one in made)
    assert comb(made)["spectrum_100"] < 3
    nearest = [int(np.argmin([log_mel_error(one, clip) for clip in clips])) for one in made]
    assert nearest == [0, 1, 2, 3]
