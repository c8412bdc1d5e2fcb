"""What a corpus would become, before anything is written: `python -m stages.download --check [PATH]`."""

import sys
from pathlib import Path

from audio.importing import plan_import
from audio.inspection import Clip, Inspection, inspect_clips, inspect_plan
from audio.synthetic.signals import SECONDS
from stages.download import archives_of, described
from stages.params import Corpus, load


def inspect(corpus: Corpus) -> Inspection:
    """What is in the corpus. Raises ValueError where nothing can be told."""
    path = Path(corpus.path)
    if path.suffix in (".yaml", ".yml"):
        specs = described(corpus)[1]
        return inspect_clips(
            path, [Clip(one.machine_type, one.machine_id, one.split, one.condition, SECONDS) for one in specs]
        )
    plan = plan_import(
        path,
        types=corpus.types,
        subsets=corpus.subsets,
        split_seed=corpus.split_seed,
        calibration_share=corpus.calibration_share,
    )
    return inspect_plan(plan, path, corpus.channel, corpus.on_bad_clip)


def check(path: str) -> None:
    """Print what the corpus at `path`, or `corpus.path`, would become; exit with code 1 if it cannot be trained on."""
    try:
        corpus = load("download", Path()).corpus
        corpus = corpus.model_copy(update={"path": path or corpus.path})
        if corpus.path.endswith(".csv"):
            archives = archives_of(corpus)
            print(f"{corpus.path}: {len(archives)} archives: {', '.join(one.file for one in archives)}")
            print("what is in them is checked when they have been fetched")
            return
        found = inspect(corpus)
    except (ValueError, OSError) as error:
        sys.exit(f"download: {error}")
    print(found.text())
    sys.exit(1 if found.error else 0)
