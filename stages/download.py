"""Bring the corpus to data/raw: synthetic machines, the DCASE 2020 archives, or one's own recordings."""

import shutil
from pathlib import Path

from audio.clips import digest, read_clip, write_clip
from audio.manifest import ClipName, write_manifest
from stages.command import main
from stages.params import Declared
from stages.paths import RAW


def _synthetic(path: Path, out: Path):
    from audio.synthetic import read_description, synthesise

    description = read_description(path)
    for spec in description.clips():
        target = out / f"{spec.clip}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_clip(target, synthesise(spec, description.machines))
        waveform = read_clip(target)
        yield {
            "clip": spec.clip,
            "machine_type": spec.machine_type,
            "machine_id": spec.machine_id,
            "split": spec.split,
            "condition": spec.condition,
            "subset": spec.subset,
            "seconds": len(waveform) / 16000,
            "sha256": digest(waveform),
            "source": "",
            "offset": 0.0,
        }


def _folder(path: Path, out: Path, channel: int):
    for file in sorted(path.glob("*/*/*")):
        name = ClipName.parse(file.stem)
        clip = file.relative_to(path).with_suffix("").as_posix()
        target = out / f"{clip}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        waveform = read_clip(file, channel)
        write_clip(target, waveform)
        yield {
            "clip": clip,
            "machine_type": clip.split("/")[0],
            "machine_id": name.machine_id,
            "split": clip.split("/")[1],
            "condition": name.condition,
            "subset": "dev",
            "seconds": len(waveform) / 16000,
            "sha256": digest(waveform),
            "source": str(file.relative_to(path)),
            "offset": 0.0,
        }


def run(params: Declared, raw: Path = RAW) -> None:
    path = Path(params.corpus.path)
    partial = raw.with_name(raw.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    clips = _synthetic(path, partial) if path.suffix == ".yaml" else _folder(path, partial, params.corpus.channel)
    write_manifest(partial / "manifest.csv", clips)
    (partial / "skipped.csv").write_text("file,reason\n")
    shutil.rmtree(raw, ignore_errors=True)
    partial.replace(raw)


if __name__ == "__main__":
    main(run, "download")
