"""Bring the corpus to data/raw: synthetic machines, the DCASE 2020 archives, or one's own recordings.

`python -m stages.download --check [PATH]` tells in seconds what a corpus would become, and writes nothing.
"""

import argparse
import logging
import shutil
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from audio.clips import SAMPLE_RATE, digest, read_clip, write_clip
from audio.dcase2020 import Archive, fetch, read_archives, unpack
from audio.importing import Imported, import_recordings
from audio.manifest import write_manifest
from audio.recordings import Refusal
from audio.splitting import check_corpus, check_types
from audio.synthetic.clips import synthesise
from audio.synthetic.description import ClipSpec, Machines, read_description
from audio.synthetic.signals import SECONDS
from stages.command import main
from stages.params import Corpus, Declared
from stages.paths import RAW
from storage.files import whole_folder
from storage.shards import pack, wanted
from storage.store import store_folder

CLIP_BYTES = 200_000  # of a simulated clip as FLAC

log = logging.getLogger(__name__)


def described(corpus: Corpus) -> tuple[Machines, list[ClipSpec]]:
    """A description of synthetic machines, and the clips of it that are asked for."""
    machines = read_description(Path(corpus.path))
    specs = list(machines.clips())
    check_types(corpus.types, (spec.machine_type for spec in specs), Path(corpus.path))
    types = corpus.types or [spec.machine_type for spec in specs]
    return machines, [spec for spec in specs if spec.subset in corpus.subsets and spec.machine_type in types]


def synthetic(corpus: Corpus, out: Path) -> list[dict]:
    """Write the clips of a description of synthetic machines below `out`; return the rows of the manifest."""
    machines, specs = described(corpus)
    check_corpus(
        ((spec.machine_type, spec.machine_id, spec.split, spec.condition) for spec in specs), Path(corpus.path)
    )
    hours, size = len(specs) * SECONDS / 3600, len(specs) * CLIP_BYTES / 1e9
    log.info("simulating %d clips: %.1f h of sound, about %.1f GB", len(specs), hours, size)
    jobs = (delayed(_write)(spec, machines, out) for spec in specs)
    rows = Parallel(n_jobs=-1, return_as="generator", batch_size=8)(jobs)
    return list(tqdm(rows, total=len(specs), disable=None, unit="clip"))


def _write(spec: ClipSpec, machines: Machines, out: Path) -> dict:
    path = out / f"{spec.clip}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, synthesise(spec, machines))
    written = read_clip(path)
    row = {key: getattr(spec, key) for key in ("clip", "machine_type", "machine_id", "split", "condition", "subset")}
    row |= {"seconds": len(written) / SAMPLE_RATE, "sha256": digest(written), "offset": 0.0}
    return row | dict.fromkeys(("source", "domain", "attributes", "warnings"), "")


def archives_of(corpus: Corpus) -> list[Archive]:
    """The archives of the table that are asked for.

    The evaluation archives are never taken: their clips have no labels, so they can neither train nor test.
    """
    archives = [archive for archive in read_archives(Path(corpus.path)) if archive.subset in corpus.subsets]
    if not archives:
        raise ValueError(f"{corpus.path} lists no archive of corpus.subsets {', '.join(corpus.subsets)}")
    check_types(corpus.types, (one.machine_type for one in archives), Path(corpus.path))
    return [one for one in archives if not corpus.types or one.machine_type in corpus.types]


def dcase2020(corpus: Corpus, out: Path) -> Imported:
    """Fetch and unpack the archives of the table and import their recordings."""
    unpacked = out / ".unpacked"
    unpack(fetch(archives_of(corpus), store_folder("archives"), corpus.source, unpacked), unpacked)
    return recordings(corpus, unpacked, out)


def recordings(corpus: Corpus, folder: Path, out: Path) -> Imported:
    """Import a folder of recordings."""
    names = ("types", "subsets", "channel", "split_seed", "calibration_share", "on_bad_clip")
    return import_recordings(folder, out, **{name: getattr(corpus, name) for name in names})


def run(params: Declared, raw: Path = RAW) -> None:
    """Write `raw`: the clips as FLAC in the DCASE layout, manifest.csv, skipped.csv (file, reason) of what is left out,
    and notes.txt, a line for each thing that was assumed.

    Many clips are packed into shards, see `storage.shards`.
    """
    corpus = params.corpus
    with whole_folder(raw) as partial:
        if corpus.path.endswith((".yaml", ".yml")):
            imported = Imported(synthetic(corpus, partial), [], [])
        elif corpus.path.endswith(".csv"):
            imported = dcase2020(corpus, partial)
        else:
            imported = recordings(corpus, Path(corpus.path), partial)
        shutil.rmtree(partial / ".unpacked", ignore_errors=True)
        write_manifest(partial / "manifest.csv", imported.rows)
        skipped = pd.DataFrame(imported.refusals, columns=Refusal._fields)
        skipped.to_csv(partial / "skipped.csv", index=False, lineterminator="\n")
        (partial / "notes.txt").write_text("".join(f"{note}\n" for note in imported.notes), encoding="utf-8")
        if wanted(params.storage.shards, len(imported.rows)):
            pack(partial, [f"{row['clip']}.flac" for row in imported.rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", nargs="?", const="", metavar="PATH", help="tell what a corpus would become, and stop"
    )
    if (path := parser.parse_args().check) is None:
        main(run, "download")
    else:
        from stages.check import check

        check(path)
