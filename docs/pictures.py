"""Draw the pictures of README from a finished run: `python -m docs.pictures`

docs/images/report.png is the top of metrics/report/index.html, taken by chromium. docs/images/why.png is what detect.py
draws of the most anomalous recording of the run's test clips.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from storage.shards import Folder

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SIZE = "900,1000"  # pixels of the report that are shown


def draw_report(picture: Path) -> None:
    """Take the top of the report."""
    if not (chromium := shutil.which("chromium")):
        raise OSError("chromium is not installed")
    page = (ROOT / "metrics/report/index.html").as_uri()
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE}", f"--screenshot={picture}"]
    subprocess.run([chromium, *options, page], check=True, capture_output=True)


def most_anomalous(scores: pd.DataFrame, backend: str) -> pd.Series:
    """The row of the anomalous test clip that lies furthest above the normal test clips of its machine.

    Distances are in standard deviations of these normal clips' scores under `backend`.
    """
    test = scores[scores["split"] == "test"]
    machine = test["machine_type"] + "/" + test["machine_id"]
    normal = test[backend].where(test["condition"] == "normal").groupby(machine)
    distance = (test[backend] - normal.transform("mean")) / normal.transform("std")
    return test.loc[distance[test["condition"] == "anomaly"].idxmax()]


def draw_why(picture: Path) -> None:
    """Let detect.py explain the most anomalous test clip."""
    headline = json.loads((ROOT / "metrics/comparison.json").read_text(encoding="utf-8"))["headline"]
    row = most_anomalous(pd.read_csv(ROOT / "data/scores/scores.csv"), headline)
    sound = picture.with_name(f"{Path(row['clip']).name}.flac")
    with (Folder(ROOT / "data/raw") / f"{row['clip']}.flac").open("rb") as recorded:
        sound.write_bytes(recorded.read())
    machine = ["--machine", row["machine_type"], "--id", row["machine_id"]]
    arguments = ["explain", sound.name, *machine, "--output", picture]
    subprocess.run([sys.executable, ROOT / "detect.py", *map(str, arguments)], cwd=sound.parent, check=True)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for picture, draw in (("report.png", draw_report), ("why.png", draw_why)):
            draw(Path(name) / picture)
            shutil.copyfile(Path(name) / picture, IMAGES / picture)


if __name__ == "__main__":
    main()
