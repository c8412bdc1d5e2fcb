"""What a monitor costs: `python -m benchmarks.monitor` prints a table and keeps it as JSON.

Sinks: milliseconds per verdict through a table as record, JSON lines, Prometheus and a webhook's queue on the disk,
whose receiver is never there, and the process's memory as verdicts add up. Listening: share of a core that live sound
of one channel at 16 kHz takes, windows without overlap, with a detector of the embedded and of the paper's size; the
sound comes from a pipe at real-time pace.
"""

import argparse
import os
import socket
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.detect import MACHINE, SIZES, untrained
from benchmarks.measuring import show
from detection.judging import Judge, Judgement
from detection.listen import LiveJudge, Pipe, listen
from detection.sinks.interface import Sinks, note
from detection.sinks.settings import open_sinks, read_settings
from detection.sinks.table import Table

RATE = 16000  # Hz
SETTINGS = """
sinks:
  - {{type: json_lines, path: verdicts.jsonl}}
  - {{type: prometheus, port: {port}}}
  - {{type: webhook, url: "http://127.0.0.1:9/"}}
"""


def sinks(folder: Path, judgement: Judgement, verdicts: int, steps: int) -> list[dict]:
    """A row after each of `steps` equal shares of the verdicts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (folder / "monitor.yaml").write_text(SETTINGS.format(port=port))
    process, rows = psutil.Process(), []
    with open_sinks(read_settings(folder / "monitor.yaml"), Table(folder / "record.csv")) as opened:
        for step in range(1, steps + 1):
            started, count = time.perf_counter(), verdicts // steps
            for number in range(count):
                file = f"{step}/{number}.wav"
                opened.put(note(replace(judgement, file=file), known_by=file, file=file, bytes=number, changed_ns=step))
            taken = 1000 * (time.perf_counter() - started) / count
            memory = process.memory_info().rss / 1e6
            rows.append({"what": "sinks", "verdicts": step * count, "ms per verdict": taken, "memory, MB": memory})
    return rows


def listening(judge: LiveJudge, seconds: float) -> float:
    """Share of a core that listening takes, measured over that much sound."""
    reading, writing = os.pipe()
    samples = np.random.default_rng(0).integers(-8000, 8000, int(seconds * RATE)).astype("<i2")
    judge(samples[:RATE].astype(np.float32) / 32768, RATE, "warm")

    def speak() -> None:
        begun = time.monotonic()
        for start in range(0, len(samples), RATE // 10):
            time.sleep(max(0.0, begun + start / RATE - time.monotonic()))
            os.write(writing, samples[start : start + RATE // 10].tobytes())
        os.close(writing)

    before, speaker = time.process_time(), threading.Thread(target=speak)
    speaker.start()
    listen(Pipe(reading, RATE), judge, Sinks(), threading.Event(), judge.window, judge.window)
    speaker.join()
    os.close(reading)
    return (time.process_time() - before) / seconds


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=10_000, help="24 hours' worth, one each 9 s")
    parser.add_argument("--steps", type=int, default=5, help="how often the memory is looked at on the way")
    parser.add_argument("--windows", type=int, default=6, help="that are listened to, of about 10 s")
    chosen = parser.parse_args(arguments)
    rows: list[dict] = []
    for size, config in SIZES.items():
        judge = Judge(untrained(config), *MACHINE)
        live = LiveJudge(judge)
        if not rows:
            with tempfile.TemporaryDirectory() as folder:
                judgement = live(np.random.default_rng(1).normal(0, 0.1, RATE * 10), RATE, "hall")
                rows += sinks(Path(folder), judgement, chosen.verdicts, chosen.steps)
        share = listening(live, (chosen.windows + 0.1) * live.window)
        rows.append({"what": f"listening, {size} size", "share of a core, %": 100 * share})
    show("monitor", rows, {"threads": torch.get_num_threads()}, out)
    return rows


if __name__ == "__main__":
    main()
