"""What all benchmarks share: a process of its own for each measurement, one table, one JSON file."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

from storage.files import write_json

RESULTS = Path(__file__).parent / "results"
Way = TypeVar("Way")


def seconds(run: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def seconds_apart(run: Callable[[], object]) -> float:
    """Wall time of a call in a forked process, so that what it sets for its process stays there."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(seconds(run)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("the measured process failed") from None
    finally:
        process.join()


def alternating(
    ways: Mapping[Way, Callable[[], object]], rounds: int, measure: Callable[[Callable[[], object]], float] = seconds
) -> dict[Way, float]:
    """Median time of each way (seconds); every round measures every way once, so that all see the same machine."""
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            times[way].append(measure(run))
    return {way: median(taken) for way, taken in times.items()}


def machine() -> dict[str, str]:
    """Where and when."""
    name = next((line for line in _cpu_info() if line.startswith("model name")), platform.machine())
    about = f"{name.split(':')[-1].strip()}, {os.cpu_count()} cores, torch {torch.__version__}"
    return {"date": datetime.now().date().isoformat(), "machine": about}


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def show(name: str, rows: list[dict], about: dict | None = None, out: Path | None = None) -> None:
    """Print `rows` as a table, and write it with `about` to results/<name>.json."""
    result = machine() | (about or {}) | {"rows": rows}
    print(f"{name}: {result['machine']}, {result['date']}\n\n{table(rows)}")
    write_json(out or RESULTS / f"{name}.json", result)


def table(rows: list[dict]) -> str:
    """`rows` as Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_text(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
