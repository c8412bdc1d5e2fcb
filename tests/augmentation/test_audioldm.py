"""AudioLDM from audio to audio, on the real classes at a tiny size, with the original pipeline as oracle."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import librosa
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from augmentation import audioldm as module
from augmentation.audioldm import (
    AudioLDM,
    SilentClipError,
    checkpoint_identity,
    front_end,
    resolve,
    restore_level,
    source_phase,
)
from augmentation.recipes import Recipe, draw_recipe
from tests.augmentation import tiny_audioldm

HISS = "add sharp hiss produced by valves in a plant as they open"
RUMBLE = "add deep rolling rumble produced by crushers in a quarry as they break rocks"
RECIPE = Recipe(HISS, ddim_steps=5, t0=0.5, guidance_scale=2.5, eta=0.0, seed=1)
LSB = 2**-15  # one step of 16-bit audio


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_audioldm.save(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def audioldm(checkpoint):
    return AudioLDM.from_checkpoint(str(checkpoint))


def noise(seconds: float, seed: int = 0, level: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16000)) * level).astype(np.float32)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_from_pure_noise_it_is_the_original_pipeline(prediction_type, guidance_scale):
    from diffusers import AudioLDMPipeline

    components = tiny_audioldm.components(prediction_type)
    pipeline = AudioLDMPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    own = AudioLDM(components)
    latents = torch.randn(1, 4, 32, 16, generator=torch.Generator().manual_seed(0))
    expected = pipeline(
        RUMBLE,
        audio_length_in_s=1.28,
        num_inference_steps=11,
        guidance_scale=guidance_scale,
        latents=latents.clone(),
    ).audios
    recipe = Recipe(RUMBLE, 11, 1.0, guidance_scale, 0.0, 0)
    with torch.inference_mode():
        noisy = own.add_noise(torch.zeros_like(latents), latents, [recipe])
        waveform = own.vocode(own.decode(own.denoise(noisy, [recipe]))).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(waveform, expected, atol=1e-4)
    assert np.abs(waveform - expected).max() < 1e-6  # what is seen; the line above is what is promised


def test_front_end_is_librosas_slaney_mel_of_the_same_magnitude():
    waveform = front_end(noise(10.24) + 0.1)
    assert abs(waveform.mean()) < 1e-6
    assert np.abs(waveform).max() == pytest.approx(0.5)
    magnitude = np.abs(librosa.stft(waveform, n_fft=1024, hop_length=160, window="hann", pad_mode="reflect"))
    filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=64, fmin=0, fmax=8000, htk=False, norm="slaney")
    expected = np.log(np.maximum(filters @ magnitude, 1e-5)).T[:1024]
    np.testing.assert_allclose(module.audioldm_log_mel(torch.from_numpy(waveform)), expected, atol=1e-4)


@pytest.mark.parametrize("t0", [0.1, 0.3, 0.5, 0.77, 1.0])
def test_exactly_floor_of_s_times_t0_guided_evaluations(audioldm, t0):
    recipes = [replace(RECIPE, ddim_steps=steps, t0=t0) for steps in range(10, 51)]
    seen = []
    hook = audioldm.unet.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), inputs[1])))
    before = audioldm.evaluations
    with torch.inference_mode():
        audioldm.denoise(torch.zeros(len(recipes), 4, 4, 4), recipes)
    hook.remove()
    wanted = [int(steps * t0) for steps in range(10, 51)]
    assert sum(rows for rows, _ in seen) == 2 * sum(wanted)  # with and without the prompt, in one call
    assert audioldm.evaluations - before == sum(wanted)
    assert len(seen) == max(wanted)
    last = seen[-1][1]
    assert last.tolist() == [1] * len(last)  # steps_offset: the reverse process is run to its end


def test_each_row_goes_through_the_last_timesteps_of_its_own_schedule(audioldm):
    seen = []
    hook = audioldm.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].tolist()))
    with torch.inference_mode():
        audioldm.denoise(
            torch.zeros(2, 4, 4, 4), [replace(RECIPE, ddim_steps=10), replace(RECIPE, ddim_steps=20, t0=0.15)]
        )
    hook.remove()
    assert seen == [[401, 101, 401, 101], [301, 51, 301, 51], [201, 1, 201, 1], [101, 101], [1, 1]]


def test_rows_that_are_done_leave_the_batch_and_the_others_are_not_mixed_up(audioldm):
    recipes = [replace(RECIPE, ddim_steps=4), replace(RECIPE, ddim_steps=10, prompt=RUMBLE), replace(RECIPE, t0=1.0)]
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = audioldm.denoise(latents, recipes)
        for row, recipe in enumerate(recipes):
            alone = audioldm.denoise(latents[row : row + 1], [recipe])
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_rows_with_as_many_steps_share_a_batch(audioldm):
    calls = []
    hook = audioldm.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    few, many = replace(RECIPE, ddim_steps=2), replace(RECIPE, ddim_steps=6)
    audioldm.augment([noise(1)] * 4, [few, many, few, many], batch_size=2)
    hook.remove()
    assert calls == [4, 4, 4, 4]  # two rows, with and without the prompt: 3 steps for two clips, 1 for the others


def test_noise_is_added_as_equation_1_says(audioldm):
    x, eps = torch.randn(2, 1, 4, 8, 8)
    recipe = replace(RECIPE, ddim_steps=20, t0=0.35)  # k = 7 steps left of 20: timestep 6 * 50 + 1
    abar = audioldm.scheduler.alphas_cumprod[301]
    expected = abar.sqrt() * x + (1 - abar).sqrt() * eps
    torch.testing.assert_close(audioldm.add_noise(x, eps, [recipe]), expected)
    assert torch.equal(audioldm.add_noise(x, eps, [replace(recipe, t0=1.0)]), eps)


def test_a_result_depends_on_its_own_recipe_alone(audioldm):
    """Alone, in a batch, in another order, in windows: the same to less than one step of 16-bit audio (networks on
    batches of another size sum in another order, so not to the bit); the same call is the same to the bit."""
    clips = [noise(10), noise(11, 1), noise(2.5, 2)]
    recipes = [RECIPE, replace(RECIPE, prompt=RUMBLE, ddim_steps=7), replace(RECIPE, ddim_steps=4, eta=1.0, seed=3)]
    outputs = ("vocoder", "source_phase")
    together = audioldm.augment(clips, recipes, outputs)
    turned = audioldm.augment(clips[::-1], recipes[::-1], outputs, batch_size=3)[::-1]
    for clip, recipe, one, other in zip(clips, recipes, together, turned, strict=True):
        alone = audioldm.augment([clip], [recipe], outputs, batch_size=1)[0]
        for output in outputs:
            assert len(one[output]) == len(clip)
            assert np.abs(one[output] - alone[output]).max() < LSB
            assert np.abs(one[output] - other[output]).max() < LSB
    again = audioldm.augment(clips[:1], recipes[:1], outputs)[0]
    once = audioldm.augment(clips[:1], recipes[:1], outputs)[0]
    assert all(np.array_equal(again[output], once[output]) for output in outputs)


@pytest.mark.parametrize("change", [{"prompt": RUMBLE}, {"seed": 2}, {"ddim_steps": 7}, {"t0": 0.9}, {"eta": 1.0}])
def test_another_recipe_gives_other_audio(audioldm, change):
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    mels = []
    for recipe in (RECIPE, replace(RECIPE, **change)):
        generator = torch.Generator().manual_seed(recipe.seed)
        eps = torch.randn(latents.shape, generator=generator)
        with torch.inference_mode():
            mels.append(audioldm.decode(audioldm.denoise(audioldm.add_noise(latents, eps, [recipe]), [recipe])))
    assert (mels[0] - mels[1]).abs().mean() > 1e-3


def test_posterior_and_noise_come_from_the_seed(audioldm):
    clip = noise(1.5)
    one, other = (audioldm.augment([clip], [replace(RECIPE, ddim_steps=2, seed=seed)])[0] for seed in (1, 2))
    assert np.abs(one["vocoder"] - other["vocoder"]).max() > 0.01


@pytest.mark.parametrize(
    "source",
    [
        noise(1.2, level=0.001),
        noise(1.2, level=0.1) + 0.3,
        np.sign(noise(1.2)) * 0.95,  # louder cannot be
        np.sin(np.arange(20000) / 5).astype(np.float32),
    ],
)
@pytest.mark.parametrize("peaks", [1, 100])
def test_the_level_is_the_sources_and_nothing_is_clipped(source, peaks):
    made = noise(len(source) / 16000, seed=5)
    made[::1000] *= peaks
    result = restore_level(made, source)
    assert np.isfinite(result).all()
    assert np.abs(result).max() < 1
    change = 20 * np.log10(np.sqrt(np.mean(result.astype(float) ** 2)) / np.sqrt(np.mean(source.astype(float) ** 2)))
    assert abs(change) < 0.5


def test_source_phase_changes_the_spectrum_as_the_log_mel_and_nothing_else():
    source = front_end(noise(2.0))
    mel = module.audioldm_log_mel(torch.from_numpy(source))
    none = torch.zeros_like(mel)
    np.testing.assert_allclose(source_phase(source, none), source, atol=1e-5)
    np.testing.assert_allclose(source_phase(source, none + np.log(0.5)), 0.5 * source, atol=1e-5)
    brighter = none.clone()
    brighter[:, 40:] = np.log(10)  # 20 dB more in the upper mel bands
    made = source_phase(source, brighter)
    change = (module.audioldm_log_mel(torch.from_numpy(made)) - mel).mean(dim=0)
    assert change[:38].abs().max() < 0.2
    assert (change[43:] - np.log(10)).abs().max() < 0.2


def test_with_the_sources_phase_only_what_the_diffusion_did_is_done(audioldm):
    clip, recipe = noise(10.24), replace(RECIPE, ddim_steps=4)
    source = front_end(clip)
    generator = torch.Generator().manual_seed(recipe.seed)
    posterior, eps = (
        torch.randn(1, 4, 1024 // audioldm.scale, 64 // audioldm.scale, generator=generator) for _ in "ab"
    )
    with torch.inference_mode():
        before = audioldm.encode(module.audioldm_log_mel(torch.from_numpy(source))[None], posterior)
        after = audioldm.denoise(audioldm.add_noise(before, eps, [recipe]), [recipe])
        change = audioldm.decode(after) - audioldm.decode(before)
    expected = restore_level(source_phase(source, change[0]), clip)
    made = audioldm.augment([clip], [recipe], ("source_phase",))[0]["source_phase"]
    assert np.abs(made - expected).max() < LSB


def test_windows_cover_a_long_clip_and_join_without_a_trace():
    mel = torch.randn(3000, 64)
    starts = module._window_starts(3000, 1024, 64)
    assert starts[0] == 0
    assert starts[-1] + 1024 == 3000
    assert all(start + 1024 - after >= 64 for start, after in pairwise(starts))
    joined = module._join([mel[start : start + 1024] for start in starts], starts)
    torch.testing.assert_close(joined, mel)


def test_the_vocoders_pieces_make_the_whole(audioldm):
    mel = torch.randn(1, 2500, 64)
    with torch.inference_mode():
        whole = audioldm.vocoder(mel)
        pieces = audioldm.vocode(mel)
    assert pieces.shape == (1, 2500 * 160)  # the vocoder itself adds a few samples at the end
    torch.testing.assert_close(pieces, whole[:, : 2500 * 160], atol=1e-6, rtol=0)


def test_a_prompt_is_embedded_once(checkpoint):
    audioldm = AudioLDM.from_checkpoint(str(checkpoint))
    calls = []
    audioldm.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        for _ in range(2):
            audioldm.denoise(torch.zeros(3, 4, 4, 4), [RECIPE, replace(RECIPE, prompt=RUMBLE), RECIPE])
    assert len(calls) == 3  # two prompts and no prompt


def test_clips_without_substance_are_refused(audioldm):
    with pytest.raises(ValueError, match=r"0\.50 s is shorter than 0\.95 s"):
        audioldm.augment([noise(0.5)], [RECIPE])
    with pytest.raises(SilentClipError, match="silent"):
        audioldm.augment([np.full(20000, 0.1, np.float32)], [RECIPE])
    with pytest.raises(ValueError, match="output is 'griffin_lim'"):
        audioldm.augment([noise(1)], [replace(RECIPE, ddim_steps=2)], ("griffin_lim",))


class TestCheckpoint:
    @pytest.fixture
    def folder(self, checkpoint, tmp_path):
        return shutil.copytree(checkpoint, tmp_path / "copy")

    @pytest.mark.parametrize("component", list(module.COMPONENTS))
    def test_a_missing_component_is_named(self, folder, component):
        shutil.rmtree(folder / component)
        with pytest.raises(ValueError, match=f"lacks the component {component} "):
            AudioLDM.from_checkpoint(str(folder))

    def test_a_component_of_another_class_is_named(self, folder):
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", "PNDMScheduler"]
        (folder / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="component scheduler is a PNDMScheduler, AudioLDM needs a DDIMScheduler"):
            AudioLDM.from_checkpoint(str(folder))

    def test_components_that_do_not_fit_are_named(self):
        components = tiny_audioldm.components()
        components["vocoder"].config.sampling_rate = 22050
        with pytest.raises(ValueError, match="vocoder is foreign to AudioLDM: it has 22050 Hz, not 16000 Hz"):
            AudioLDM(components)

    @pytest.mark.parametrize("component", ["unet", "text_encoder"])
    def test_missing_weights_are_no_random_weights(self, folder, component):
        path = next((folder / component).glob("*.safetensors"))
        weights = load_file(path)
        weights.pop(sorted(weights)[0])
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"component {component} "):
            AudioLDM.from_checkpoint(str(folder))

    def test_damaged_weights_are_named(self, folder):
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match="component vae cannot be loaded"):
            AudioLDM.from_checkpoint(str(folder))

    def test_pickled_weights_are_not_loaded(self, folder):
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
        with pytest.raises(ValueError, match="component vae cannot be loaded"):
            AudioLDM.from_checkpoint(str(folder))

    def test_a_folder_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no model_index\.json"):
            AudioLDM.from_checkpoint(str(tmp_path))
        with pytest.raises(ValueError, match=r"does not exist: set augment\.checkpoint"):
            AudioLDM.from_checkpoint(str(tmp_path / "nowhere"))

    def test_a_hub_that_is_not_there(self, monkeypatch):
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match=r"^checkpoint .*set augment\.checkpoint to a folder that holds it$"):
            resolve("someone/something", "a" * 40)
        with pytest.raises(ValueError, match=r"augment\.revision to the commit"):
            resolve("someone/something")

    def test_identity_is_of_the_content_not_of_the_place(self, checkpoint, folder):
        identity = checkpoint_identity(folder)
        assert identity == checkpoint_identity(checkpoint)
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
        assert identity != checkpoint_identity(folder)


class TestRecipe:
    PROMPTS = tuple(f"prompt {number}" for number in range(50))

    def draw(self, clip, prompts=PROMPTS, view=0, seed=0):
        return draw_recipe(f"fan/train/{clip}", view, prompts, seed, (10, 50), 0.5, 2.5, 0.0)

    def test_steps_prompts_and_seeds_are_uniform(self):
        recipes = [self.draw(clip) for clip in range(4100)]
        steps = np.bincount([recipe.ddim_steps for recipe in recipes], minlength=51)[10:]
        assert len(steps) == 41
        assert steps.min() > 60  # of 100 expected
        assert steps.max() < 140
        prompts = [recipe.prompt for recipe in recipes]
        assert min(map(prompts.count, self.PROMPTS)) > 45  # of 82 expected
        assert len({recipe.seed for recipe in recipes}) == 4100

    def test_adding_and_removing_prompts_changes_few_clips(self):
        before = [self.draw(clip) for clip in range(1000)]
        assert before == [self.draw(clip, self.PROMPTS[::-1]) for clip in range(1000)]
        added = [self.draw(clip, (*self.PROMPTS, "new")) for clip in range(1000)]
        changed = [(old, new) for old, new in zip(before, added, strict=True) if old != new]
        assert 5 < len(changed) < 50  # 1000 / 51 expected
        assert {new.prompt for _, new in changed} == {"new"}
        removed = [self.draw(clip, self.PROMPTS[1:]) for clip in range(1000)]
        for old, new in zip(before, removed, strict=True):
            assert old == new or old.prompt == self.PROMPTS[0]

    def test_views_and_seeds_are_drawn_apart(self):
        assert len({self.draw(0), self.draw(0, view=1), self.draw(0, seed=1), self.draw(1)}) == 4

    def test_the_key_covers_everything(self):
        keys = {RECIPE.key("source", "checkpoint", "vocoder", 1), RECIPE.key("source2", "checkpoint", "vocoder", 1)}
        keys |= {RECIPE.key("source", "checkpoint2", "vocoder", 1), RECIPE.key("source", "checkpoint", "other", 1)}
        keys |= {RECIPE.key("source", "checkpoint", "vocoder", 2)}
        changes = {"prompt": "x", "ddim_steps": 6, "t0": 0.6, "guidance_scale": 3.0, "eta": 0.1, "seed": 2}
        keys |= {
            replace(RECIPE, **{name: value}).key("source", "checkpoint", "vocoder", 1)
            for name, value in changes.items()
        }
        assert len(keys) == 5 + len(changes)

    def test_no_prompt_is_an_error(self):
        with pytest.raises(ValueError, match="no prompt"):
            self.draw(0, ())
