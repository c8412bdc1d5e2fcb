"""The clips to be made by diffusion-augment, the store that keeps them, and the loop that makes what it lacks."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from audio.clips import read_clip, write_clip
from augmentation.recipes import Recipe, draw_recipe
from storage.files import whole_folder
from storage.shards import Folder, Loaded, pack, wanted
from storage.store import Store

if TYPE_CHECKING:
    from augmentation.audioldm import AudioLDM

COMPARED = 8  # one clip in so many is made with both output stages, for the audit
ALONE = 2000  # clips, up to which the audit is done before other processes have started


@dataclass(frozen=True)
class Settings:
    """What is asked of the augmented clips; the names are those of the params group `augment`."""

    ddim_steps: tuple[int, int]
    t0: float
    guidance_scale: float
    eta: float
    views_per_clip: int
    output: str
    seed: int


@dataclass(frozen=True)
class Job:
    """One augmented clip. `keys` names its entry in the store for each output stage that is wanted of it."""

    clip: str
    view: int
    machine: tuple[str, str]  # type and id
    prompt_id: str
    recipe: Recipe
    keys: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.clip}_{self.view}"

    def row(self) -> dict[str, object]:
        """The clip's columns of the manifest."""
        recipe = self.recipe
        about = {"ddim_steps": recipe.ddim_steps, "t0": recipe.t0, "guidance_scale": recipe.guidance_scale}
        return {"clip": self.clip, "view": self.view, "prompt_id": self.prompt_id, "seed": recipe.seed} | about


def plan(
    clips: pd.DataFrame,
    prompts: pd.DataFrame,
    settings: Settings,
    checkpoint: str,
    front_end: int,
    outputs: Sequence[str],
) -> list[Job]:
    """Jobs of all training clips, in the manifest's order; `checkpoint` is the identity of the weights.

    One clip in COMPARED is wanted with all `outputs`, the others with `settings.output` alone. Which ones is drawn by
    their own hash, like everything else: no other clip changes it.
    """
    ids = dict(zip(prompts["text"], prompts["id"], strict=True))
    jobs = []
    for clip in clips[clips["split"] == "train"].itertuples():
        for view in range(settings.views_per_clip):
            recipe = draw_recipe(
                clip.clip,
                view,
                list(ids),
                settings.seed,
                settings.ddim_steps,
                settings.t0,
                settings.guidance_scale,
                settings.eta,
            )
            keys = {
                output: recipe.key(clip.sha256, checkpoint, output, front_end)
                for output in outputs
                if output == settings.output or recipe.seed % COMPARED == 0
            }
            machine = (clip.machine_type, clip.machine_id)
            jobs.append(Job(clip.clip, view, machine, ids[recipe.prompt], recipe, keys))
    if not jobs:
        raise ValueError("the corpus has no training clip to augment")
    return jobs


def shares(jobs: Sequence[Job], processes: int, batch_size: int) -> list[list[Job]]:
    """The jobs in one list for each process. Those of a batch have about the same number of steps, and the batches of
    a list are in no order, so that the time left can be told from the rate."""
    ordered = sorted(jobs, key=lambda job: (job.recipe.evaluations, job.name))
    lists = []
    for rank in range(processes):
        own = ordered[rank::processes]
        batches = [own[first : first + batch_size] for first in range(0, len(own), batch_size)]
        batches.sort(key=lambda batch: batch[0].recipe.seed)
        lists.append([job for batch in batches for job in batch])
    return lists


def generate(
    jobs: Sequence[Job],
    raw: Folder | Loaded,
    store: Store,
    audioldm: "AudioLDM",
    batch_size: int,
    shown: bool = True,
) -> None:
    """Make what `store` lacks of `jobs`, in batches; a batch is kept as soon as it is done.

    `shown` is whether there is a progress bar. Out of memory, it goes on with half the batch size, once. Clips that
    cannot be augmented are left out.
    """
    from augmentation.audioldm import front_end

    keys = store.lacking(key for job in jobs for key in job.keys.values())
    lacking = [job for job in jobs if not keys.isdisjoint(job.keys.values())]
    size, halved = batch_size, False
    with tqdm(total=len(lacking), unit="clip", disable=None if shown else True) as bar:
        while lacking:
            batch = lacking[:size]
            waveforms = []
            for job in list(batch):
                waveform = read_clip(raw / f"{job.clip}.flac")
                try:
                    front_end(waveform)
                    waveforms.append(waveform)
                except ValueError:
                    batch.remove(job)  # refuse_unusable says why
            try:
                _make(batch, waveforms, store, audioldm, size)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if halved or size == 1:
                    raise ValueError(f"out of memory with batches of {size}: lower augment.batch_size") from None
                size, halved = size // 2, True
                logging.warning("out of memory: going on with batches of %d instead of %d", size, batch_size)
                continue
            bar.update(len(lacking[:size]))
            lacking = lacking[size:]


def _make(batch: list[Job], waveforms: list[np.ndarray], store: Store, audioldm: "AudioLDM", batch_size: int) -> None:
    with ExitStack() as stack:
        keys = sorted({key for job in batch for key in job.keys.values()})
        paths = {key: stack.enter_context(store.put(key)) for key in keys}
        for outputs in {tuple(job.keys) for job in batch}:
            group = [
                (job, waveform)
                for job, waveform in zip(batch, waveforms, strict=True)
                if tuple(job.keys) == outputs and any(paths[key] for key in job.keys.values())
            ]
            if not group:
                continue
            results = audioldm.augment(
                [waveform for _, waveform in group], [job.recipe for job, _ in group], outputs, batch_size
            )
            for (job, _), result in zip(group, results, strict=True):
                for output, key in job.keys.items():
                    if path := paths[key]:
                        write_clip(path, result[output])


def _out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text


def refuse_unusable(jobs: Sequence[Job], raw: Folder, store: Store) -> None:
    """Raise ValueError naming the clips that could not be augmented, each logged with its reason.

    ValueError too for clips that should be in `store` and are not.
    """
    from augmentation.audioldm import front_end

    store.bring(key for job in jobs for key in job.keys.values())
    lacking = dict.fromkeys(job.clip for job in jobs if not all(store.path(key).is_file() for key in job.keys.values()))
    unusable = []
    for clip in lacking:
        try:
            front_end(read_clip(raw / f"{clip}.flac"))
        except ValueError as error:
            logging.error("%s: %s", clip, error)
            unusable.append(clip)
    if unusable:
        listed = ", ".join(unusable[:5]) + (", …" if len(unusable) > 5 else "")
        raise ValueError(
            f"{len(unusable)} training clips are too short or silent and cannot be augmented ({listed}); the others "
            "are kept in the store. Take these recordings out of the corpus"
        )
    if lacking:
        raise ValueError(
            f"{len(lacking)} clips were made but are not in the store {store.place} ({next(iter(lacking))}): do all "
            "nodes write to the same place?"
        )


@dataclass(frozen=True)
class _Audited:
    """Copies a clip's views from the store and compares them with the clip, in any process."""

    raw: Folder
    store: Store
    output: str
    place: Path
    machines: tuple[tuple[tuple[str, str], str], ...]  # each machine and a clip of it
    run: str  # differs from run to run, as what the clips hold may

    def __call__(self, job: Job) -> list[dict[str, object]]:
        from augmentation.audit import audit, row

        source = read_clip(self.raw / f"{job.clip}.flac")
        references = _references(self.run, self.raw.path, self.machines)
        others = [reference for machine, reference in references if machine != job.machine]
        rows = []
        for stage, key in job.keys.items():
            file = f"{job.name}.flac" if stage == self.output else f"compared/{stage}/{job.name}.flac"
            (self.place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.store.path(key), self.place / file)
            about = {"clip": job.clip, "view": job.view, "output": stage, "prompt_id": job.prompt_id}
            compared = row(audit(source, read_clip(self.place / file), others))
            rows.append(about | compared | {"file": file, "key": key})
        return rows


@lru_cache(maxsize=1)
def _references(run: str, raw: Path, machines: tuple[tuple[tuple[str, str], str], ...]) -> list:
    """Each machine and the log-mel of a clip of it, computed once in each process and run."""
    from augmentation.audit import spectrogram

    return [(machine, spectrogram(read_clip(Folder(raw) / f"{clip}.flac"))) for machine, clip in machines]


def assemble(
    jobs: Sequence[Job],
    manifest: pd.DataFrame,
    raw: Folder,
    store: Store,
    output: str,
    out: Path,
    shards: str | int = "auto",
) -> pd.DataFrame:
    """Write the folder `out`: the clips as <clip>_<view>.flac, those of the other output stage under compared/,
    manifest.csv, and audit.csv with a row per file. Many clips are packed, if `shards` says so (see `storage.shards`).
    Returns the audit.

    Clips are copied, not linked: DVC changes the permissions of what it tracks, and the store is not DVC's.
    """
    machines = {job.machine: job.clip for job in reversed(jobs)}  # the first clip of each machine
    with whole_folder(out) as partial:
        place = partial.resolve()  # other processes may be in another folder
        audited = _Audited(Folder(raw.path.resolve()), store, output, place, tuple(machines.items()), token_hex(8))
        processes = 1 if len(jobs) <= ALONE else -1
        done = Parallel(processes, return_as="generator", batch_size=8)(delayed(audited)(job) for job in jobs)
        rows = [row for own in tqdm(done, desc="audit", total=len(jobs), unit="clip", disable=None) for row in own]
        table = pd.DataFrame(rows)
        table.to_csv(partial / "audit.csv", index=False, lineterminator="\n")
        manifest.to_csv(partial / "manifest.csv", index=False, lineterminator="\n")
        if wanted(shards, len(table)):
            pack(partial, table["file"])
    return table
