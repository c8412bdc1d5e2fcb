"""Give each training clip its diffusion-augmented views: AudioLDM from audio to audio, each clip generated once.

`python -m stages.diffusion_augment --seed-store` takes a pulled data/augmented into the store, so that a run whose
clips are the same generates none of them again.
"""

import argparse
import logging
from dataclasses import fields
from pathlib import Path

import pandas as pd

from audio.clips import read_clip
from audio.manifest import read_manifest
from augmentation.generation import Settings, assemble, plan, refuse_unusable
from cluster.units import address
from stages.command import main
from stages.params import Declared
from stages.paths import AUGMENTED, METRICS, PROMPTS, RAW
from storage.files import write_json
from storage.shards import Folder
from storage.store import Store, store_place

COLUMNS = ["clip", "view", "prompt_id", "ddim_steps", "t0", "guidance_scale", "seed", "checkpoint", "key"]


def run(
    params: Declared, raw: Path = RAW, prompts: Path = PROMPTS, out: Path = AUGMENTED, metrics: Path = METRICS
) -> None:
    """Write `out` (FLAC files, manifest.csv, audit.csv) and `metrics`/augment.json.

    Raises ValueError, after all other clips are made and kept, for clips too short or silent.
    """
    augment = params.augment
    if augment.method == "masking":
        out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(columns=COLUMNS).to_csv(out / "manifest.csv", index=False)
        write_json(metrics / "augment.json", {"clips": 0})
        return
    from augmentation.audioldm import FRONT_END, OUTPUTS, checkpoint_identity, resolve
    from augmentation.audit import metrics as measures
    from augmentation.execution import generate_on_cluster, generate_on_devices

    folder = resolve(augment.checkpoint, augment.revision)
    identity = checkpoint_identity(folder)
    clips = read_manifest(raw / "manifest.csv")
    table = pd.read_csv(prompts / "prompts.csv", dtype=str, keep_default_na=False)
    sounds = Folder(raw)
    settings = Settings(**{field.name: getattr(augment, field.name) for field in fields(Settings)})
    jobs = plan(clips, table, settings, identity, FRONT_END, OUTPUTS)
    entries = Store(store_place("augmented"), ".flac")
    entries.sweep()
    lacking = entries.lacking(key for job in jobs for key in job.keys.values())
    had = sum(lacking.isdisjoint(job.keys.values()) for job in jobs)
    asked = jobs if had < len(jobs) else []
    if address():
        generate_on_cluster(asked, sounds, entries, folder, identity, augment.batch_size)
    elif not generate_on_devices(asked, sounds, entries, folder, augment.batch_size):
        return
    refuse_unusable(jobs, sounds, entries)
    manifest = [job.row() | {"checkpoint": identity, "key": job.keys[augment.output]} for job in jobs]
    table = pd.DataFrame(manifest, columns=COLUMNS)
    audits = assemble(jobs, table, sounds, entries, augment.output, out, params.storage.shards)
    write_json(metrics / "augment.json", measures(audits, augment.output))
    logging.info("%d clips are new, %d from the store %s", len(jobs) - had, had, entries.place)


def seed_store(_: Declared, augmented: Path = AUGMENTED) -> None:
    """Take the clips of `augmented` into the store."""
    entries = Store(store_place("augmented"), ".flac")
    audits, sounds = augmented / "audit.csv", Folder(augmented)
    if not audits.is_file():
        raise ValueError(f"{augmented} has no audit.csv: pull it first, `dvc pull diffusion-augment`")
    new, table = 0, pd.read_csv(audits, dtype=str)
    for row in table.itertuples():
        file = sounds / row.file
        read_clip(file)  # whole, or an error
        with entries.put(row.key) as entry:
            if entry:
                entry.write_bytes(file.open("rb").read())
                new += 1
    logging.info("%d clips are new in the store %s, %d were there", new, entries.place, len(table) - new)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed-store", action="store_true", help="take a pulled data/augmented into the store")
    main(seed_store if parser.parse_args().seed_store else run, "diffusion-augment")
