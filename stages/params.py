"""The parameters: their types, their ranges, and what each stage may read of them.

`params.yaml` is checked whole, before a stage does anything. A stage gets a view that hands out only the keys which
its entry in dvc.yaml declares: DVC would take a result that depends on an undeclared key for up to date when that key
changes, and an ablation over it would compare a result with itself.
"""

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from detection.names import NAMES
from storage.files import read_yaml
from storage.settings import Group, ascending, dotted, mistake

# Whole numbers and switches are strict ("3" or true is no 3). Numbers are not: YAML 1.1 reads 1e-4 as a string.
# What is above the bounds would fill the memory or take for ever.
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0.001, le=100)]
Share = Annotated[float, Field(gt=0, lt=1)]
Whole = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Drawn = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True)]  # of all that there are
Few = Annotated[int, Field(ge=1, le=100, strict=True)]
Size = Annotated[int, Field(ge=1, le=4096, strict=True)]
Samples = Annotated[int, Field(ge=1, le=65_536, strict=True)]
BatchSize = Annotated[int, Field(ge=2, le=65_536, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
WindowSeconds = Annotated[float, Field(ge=0.5, le=60)]
Switch = Annotated[bool, Field(strict=True)]
Precision = Literal["auto", "bf16-mixed", "32-true"]
MOST_TOKENS = 8192  # patches of a network input


def _when(value: object) -> object:
    if value in ("auto", "never") or (type(value) is int and value >= 1):
        return value
    raise ValueError("input should be auto, never or a number of files, at least 1")


class Storage(Group):
    shards: Annotated[str | int, BeforeValidator(_when)]


class Corpus(Group):
    path: Annotated[str, Field(min_length=1)]
    types: list[str]
    subsets: Annotated[list[Literal["dev", "additional"]], Field(min_length=1)]
    source: str
    channel: Annotated[int, Field(ge=0, lt=1024, strict=True)]
    on_bad_clip: Literal["error", "skip"]
    split_seed: Seed
    calibration_share: Annotated[float, Field(ge=0, le=0.5)]


class Prompts(Group):
    provider: Literal["bank", "openai", "transformers"]
    count: Count
    seed: Seed
    model: str
    base_url: str

    @model_validator(mode="after")
    def _provider_is_complete(self) -> "Prompts":
        if self.provider != "bank" and not self.model:
            raise ValueError(f"provider {self.provider} needs prompts.model")
        if self.provider == "openai" and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"provider openai needs prompts.base_url, an http(s) address, not {self.base_url!r}")
        return self


class Augment(Group):
    method: Literal["audioldm", "masking"]
    checkpoint: Annotated[str, Field(min_length=1)]
    revision: str
    ddim_steps: Annotated[tuple[Count, Annotated[int, Field(le=1000, strict=True)]], AfterValidator(ascending)]
    t0: Annotated[float, Field(gt=0, le=1)]
    guidance_scale: Annotated[float, Field(ge=1, le=100)]
    eta: Annotated[float, Field(ge=0, le=1)]
    views_per_clip: Few
    output: Literal["vocoder", "source_phase"]
    batch_size: Size
    seed: Seed

    @model_validator(mode="after")
    def _at_least_one_step(self) -> "Augment":
        if int(self.ddim_steps[0] * self.t0) == 0:
            raise ValueError(
                f"floor(S * t0) is 0 for S = {self.ddim_steps[0]} and t0 = {self.t0}: nothing would be generated; "
                f"raise augment.t0 to at least {1 / self.ddim_steps[0]:.3g} or augment.ddim_steps"
            )
        return self


class LogMel(Group):
    sample_rate: Annotated[int, Field(ge=8000, le=192_000, strict=True)]
    n_fft: Annotated[int, Field(ge=64, le=65_536, strict=True)]
    hop_length: Samples
    n_mels: Size
    f_min: Annotated[float, Field(ge=0)]
    f_max: Positive
    amin: Positive
    level: Literal["keep", "remove"]

    @model_validator(mode="after")
    def _band_exists(self) -> "LogMel":
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min {self.f_min} and f_max {self.f_max} must ascend and stay below "
                f"half the sample rate, {self.sample_rate / 2:g}"
            )
        return self


class Model(Group):
    frames: Samples
    patch_mels: Size
    patch_frames: Size
    width: Size
    depth: Few
    heads: Few
    decoder_width: Size
    decoder_depth: Few
    decoder_heads: Few
    projection: Annotated[int, Field(ge=2, le=65_536, strict=True)]
    pooling: Literal["mean", "rows"]

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Model":
        if self.frames % self.patch_frames:
            raise ValueError(f"frames {self.frames} must be a multiple of patch_frames {self.patch_frames}")
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(f"{width} {getattr(self, width)} must be a multiple of {heads} {getattr(self, heads)}")
            if getattr(self, width) % 4:
                raise ValueError(f"{width} {getattr(self, width)} must be a multiple of 4 (sin-cos positions)")
        return self


class Pretrain(Group):
    epochs: Whole
    batch_size: BatchSize
    learning_rate: LearningRate
    schedule: Literal["constant", "cosine"]
    temperature: Temperature
    mask_ratio: Annotated[tuple[Share, Share], AfterValidator(ascending)]
    norm_pix_loss: Switch
    mae_views: Literal["original", "both"]
    contrastive_symmetric: Switch
    negatives: Literal["cross", "both"]
    time_mask: Annotated[float, Field(ge=0, lt=1)]
    frequency_mask: Annotated[float, Field(ge=0, lt=1)]
    precision: Precision


class Finetune(Group):
    epochs: Count
    batch_size: BatchSize
    learning_rate: LearningRate
    schedule: Literal["constant", "cosine"]
    temperature: Temperature
    precision: Precision


class Score(Group):
    backend: Literal[NAMES]  # type: ignore[valid-type]
    neighbours: Annotated[int, Field(ge=1, le=1000, strict=True)]
    components: Few
    window_hop: Samples
    false_alarms: Annotated[float, Field(ge=0.001, le=0.5)]
    bootstrap: Annotated[int, Field(ge=100, le=100_000, strict=True)]
    peers: list[Literal["autoencoder", "mobilenetv2", "stgram_mfn", "aadcl", "gmade", "glow_aff", "subcluster_adacos"]]
    autoencoder_epochs: Count
    autoencoder_vectors: Drawn
    mobilenetv2_epochs: Count
    mobilenetv2_learning_rate: LearningRate
    stgram_mfn_epochs: Count
    stgram_mfn_seconds: WindowSeconds
    stgram_mfn_learning_rate: LearningRate
    aadcl_epochs: Count
    aadcl_seconds: WindowSeconds
    aadcl_width: Few
    aadcl_learning_rate: LearningRate
    gmade_epochs: Count
    gmade_vectors: Drawn
    glow_aff_epochs: Count
    glow_aff_pieces: Drawn
    subcluster_adacos_epochs: Count
    subcluster_adacos_seconds: WindowSeconds


class Report(Group):
    gallery_clips: Few
    anomalous_clips: Few


class Params(Group):
    lambda_con: Weight
    lambda_vcr: Weight
    lambda_mae: Weight
    lambda_scl: Weight
    lambda_ce: Weight
    seed: Seed
    storage: Storage
    corpus: Corpus
    prompts: Prompts
    augment: Augment
    logmel: LogMel
    model: Model
    pretrain: Pretrain
    finetune: Finetune
    score: Score
    report: Report

    @model_validator(mode="after")
    def _groups_agree(self) -> "Params":
        if self.logmel.n_mels % self.model.patch_mels:
            raise ValueError(
                f"logmel.n_mels {self.logmel.n_mels} must be a multiple of model.patch_mels {self.model.patch_mels}"
            )
        tokens = self.logmel.n_mels // self.model.patch_mels * (self.model.frames // self.model.patch_frames)
        if tokens > MOST_TOKENS:
            raise ValueError(
                f"logmel.n_mels, model.frames and the patches make {tokens} tokens of an input, at most {MOST_TOKENS} "
                f"are allowed: their memory grows with the square"
            )
        if self.lambda_con == self.lambda_vcr == self.lambda_mae == 0:
            raise ValueError("lambda_con, lambda_vcr and lambda_mae are all 0: at least one must be positive")
        if self.lambda_scl == self.lambda_ce == 0:
            raise ValueError("lambda_scl and lambda_ce are both 0: at least one must be positive")
        return self


def read(path: Path, changes: dict[str, Any] | None = None) -> Params:
    """The checked params file, with the `changes` that a test or a benchmark makes: {"score.bootstrap": 100}.

    Raises ValueError naming each mistake: key, value, what is allowed.
    """
    try:
        values = read_yaml(path)
        for key, value in (changes or {}).items():
            *groups, name = key.split(".")
            reduce(getitem, groups, values)[name] = value
        return Params.model_validate(values)
    except ValidationError as error:
        wrong = (mistake(path, dotted(one["loc"]), one, "a parameter") for one in error.errors())
        raise ValueError("; ".join(wrong)) from None


class Declared:
    """A read-only view of params that hands out just the declared keys.

    >>> Declared(read(Path("params.yaml")), "pretrain", ["lambda_con", "model"]).model.frames
    320
    """

    def __init__(self, values: BaseModel, stage: str, keys: list[str], prefix: str = ""):
        self._values, self._stage, self._keys, self._prefix = values, stage, keys, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._values, name)
        if name in self._keys:
            return value
        below = [key.removeprefix(f"{name}.") for key in self._keys if key.startswith(f"{name}.")]
        if not below:
            raise AttributeError(
                f"stage {self._stage} reads {self._prefix}{name}, which dvc.yaml does not declare for it"
            )
        return Declared(value, self._stage, below, f"{self._prefix}{name}.")


def declared_keys(stage: str, root: Path) -> list[str]:
    """Keys of params.yaml that dvc.yaml declares for `stage`, for example ["lambda_con", "augment.t0"]."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages[stage].get("params", [])


def load(stage: str, root: Path, changes: dict[str, Any] | None = None) -> Declared:
    """The checked params that `stage` may read, from params.yaml and dvc.yaml in `root`; `changes` as in `read`."""
    return Declared(read(root / "params.yaml", changes), stage, declared_keys(stage, root))
