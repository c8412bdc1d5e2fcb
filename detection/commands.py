"""What the subcommands of detect.py do. Each takes the detector and its options, and gives the exit code.

They raise ValueError and OSError where nothing can be done.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio.clips import LONGEST
from audio.names import display_name
from detection.calibration import false_discoveries
from detection.detector import GRAPH, Detector
from detection.judging import Judge, Judgement, as_trained, expand
from detection.text import printable

if TYPE_CHECKING:
    from detection.listen import Source
    from detection.sinks.settings import Settings

READ_AT_ONCE = 2**20  # bytes
LARGEST_PIPE = 4_000_000_000  # bytes that are taken from a pipe: more is no recording that fits a WAV

log = logging.getLogger(__name__)


def load(folder: Path) -> Detector:
    """The detector in `folder`, after a line that says what it is."""
    detector = Detector.load(folder)
    about = described(detector)
    machines = "; ".join(f"{name} {', '.join(ids)}" for name, ids in about["machines"].items())
    line = f"detector {folder}: of {about['date']}, trained on {about['corpus'] or 'an unnamed corpus'}: {machines}"
    log.info("%s", printable(line))
    if detector.description.alone:
        log.info("a single machine: it is judged without fine-tuning and -log p, which tell machines apart")
    if about["simulated"]:
        log.warning("it was trained on simulated machines: no real machine can be judged by it")
    return detector


def described(detector: Detector) -> dict:
    """Which detector it is, for JSON: corpus, date of the training, whether its machines are simulated, and which."""
    about = detector.description
    return {
        "corpus": about.corpus,
        "date": about.created[:10],
        "simulated": about.simulated,
        "machines": detector.machines,
    }


# ------------------------------------------------------------------------------------------------------- judging


def judge(detector: Detector, chosen: argparse.Namespace) -> int:
    """Judge files and folders, each in a line."""
    judge = _judge(detector, chosen, chosen.longest)
    paths, refused = expand(chosen.recordings)
    each = map if len(paths) == 1 else detector.for_each  # a single one has all cores
    several = chosen.channel is None
    judged = chain.from_iterable(each(lambda path: judge_file(judge, path, several), paths))
    judgements: Iterator[Judgement] = chain(judged, refused)
    if chosen.false_discoveries is not None:
        judgements = iter(called(list(judgements), chosen.false_discoveries))
    unjudged = anomalous = False
    for judgement in judgements:
        show(judgement, detector if chosen.json else None)
        unjudged |= judgement.verdict is None
        anomalous |= judgement.anomalous
    return 2 if unjudged else int(chosen.fail_on_anomaly and anomalous)


def _judge(detector: Detector, chosen: argparse.Namespace, longest: float = LONGEST) -> Judge:
    if chosen.backend is not None:
        detector.check_backend(chosen.backend)
    machine = {"machine_type": chosen.machine, "machine_id": chosen.id} if "machine" in chosen else {}
    return Judge(detector, backend=chosen.backend, channel=chosen.channel or 0, longest=longest, **machine)


def judge_file(judge: Judge, path: Path, each_channel: bool = False) -> list[Judgement]:
    """The judgement of a file, a pipe or, for "-", of what comes through the standard input; or a few, by channel."""
    try:
        with _regular(path) as file:
            return judge.each_channel(file, str(path)) if each_channel else [judge(file, str(path))]
    except (ValueError, OSError) as error:
        return [Judgement(str(path), error=getattr(error, "strerror", None) or str(error))]


@contextmanager
def _regular(path: Path) -> Iterator[Path]:
    """`path`, or a file with what comes through it where it is a pipe."""
    if str(path) != "-" and not path.is_fifo():
        yield path
        return
    if str(path) == "-" and sys.stdin is None:
        raise ValueError("the standard input is closed")
    with (
        tempfile.NamedTemporaryFile(prefix="detect-") as file,
        path.open("rb") if str(path) != "-" else sys.stdin.buffer as pipe,
    ):
        while block := pipe.read(READ_AT_ONCE):
            file.write(block)
            if file.tell() > LARGEST_PIPE:
                raise ValueError(f"more than {LARGEST_PIPE // 10**9} GB through a pipe: give a file")
        file.flush()
        yield Path(file.name)


def called(judgements: list[Judgement], share: float) -> list[Judgement]:
    """The judgements of a batch, with which of them to call anomalous, see `detection.calibration`."""
    judged = [judgement.verdict.p_value for judgement in judgements if judgement.verdict]
    calls = iter(false_discoveries(judged, share))
    return [replace(judgement, called=next(calls)) if judgement.verdict else judgement for judgement in judgements]


def show(judgement: Judgement, detector: Detector | None) -> None:
    """Print a judgement in a line: as JSON, which says by which `detector`, or to be read."""
    if detector is not None:
        print(json.dumps(judgement.as_json() | {"detector": described(detector)}), flush=True)
    else:
        line = printable(judgement.line())
        print(line, file=sys.stdout if judgement.verdict else sys.stderr, flush=True)


def explain(detector: Detector, chosen: argparse.Namespace) -> int:
    """Draw why a recording got its score."""
    _check_networks(detector, "explain")
    from detection.why import draw

    _check_writable(chosen.output)
    (judgement,) = judge_file(_judge(detector, chosen), Path(chosen.recording))
    show(judgement, None)
    if judgement.verdict is None or judgement.measured is None:
        return 2
    draw(detector, judgement.measured, judgement.verdict, chosen.output, judgement.name)
    return 0


# ----------------------------------------------------------------------------------------- monitors and the graph


def follow(detector: Detector, chosen: argparse.Namespace) -> int:
    """Judge what arrives in a folder, until SIGTERM or Ctrl-C."""
    from detection.drift import Drifts
    from detection.sinks.settings import open_sinks
    from detection.sinks.table import Table
    from detection.watch import watch

    judge, folder, drifts = _judge(detector, chosen), chosen.folder, Drifts(detector)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")

    def judged(path: Path, name: str) -> list[Judgement]:
        judgements = judge.each_channel(path, name) if chosen.channel is None else [judge(path, name)]
        several = len(judgements) > 1
        noted = [drifts.noted(each, str(number) if several else "") for number, each in enumerate(judgements)]
        for judgement in noted:
            show(judgement, detector if chosen.json else None)
        return noted

    record = Table(chosen.record or folder / "verdicts.csv")
    with open_sinks(_sinks(chosen), record) as sinks:
        drifts.replay(record.rows())
        log.info("watching %s, noting verdicts in %s", printable(str(folder)), printable(str(record.path)))
        watch(folder, judged, sinks, _stopped())
    return 0


def hear_live(detector: Detector, chosen: argparse.Namespace) -> int:
    """Judge live sound, window by window, until SIGTERM or Ctrl-C, or until it has ended for good."""
    from detection.drift import Drifts
    from detection.listen import LiveJudge, listen, microphones
    from detection.sinks.settings import open_sinks
    from detection.sinks.table import Table

    if chosen.list:
        print("\n".join(microphones()) or "no microphone")
        return 0
    live, drifts = LiveJudge(_judge(detector, chosen)), Drifts(detector)
    window = chosen.window or live.window

    def judged(waveform: np.ndarray, sample_rate: int, name: str) -> Judgement:
        judgement = drifts.noted(live(waveform, sample_rate, name), name)  # each channel has a name
        show(judgement, detector if chosen.json else None)
        return judgement

    source = _source(chosen)
    with open_sinks(_sinks(chosen), Table(chosen.record) if chosen.record else None) as sinks:
        log.info("listening to %s, %.3g s at a time", printable(source.name), window)
        listen(source, judged, sinks, _stopped(), window, chosen.hop or window, chosen.channel)
    return 0


def _source(chosen: argparse.Namespace) -> "Source":
    from detection.listen import Address, Microphone, Pipe

    if chosen.source is not None and chosen.device is not None:
        raise ValueError("give --device, which is a microphone, or another source")
    if chosen.source is None:
        device = int(chosen.device) if (chosen.device or "").isdecimal() else chosen.device
        return Microphone(device, chosen.rate, chosen.channels)
    if "://" in chosen.source:
        return Address(chosen.source)
    if chosen.source == "-" and sys.stdin is None:
        raise ValueError("the standard input is closed")
    if chosen.rate is None:
        raise ValueError("raw samples do not say their sample rate: --rate is needed")
    path: Path | int = sys.stdin.fileno() if chosen.source == "-" else Path(chosen.source)
    return Pipe(path, chosen.rate, chosen.format, chosen.channels)


def _sinks(chosen: argparse.Namespace) -> "Settings | None":
    from detection.sinks.settings import read_settings

    return read_settings(chosen.sinks) if chosen.sinks is not None else None


def _stopped() -> threading.Event:
    """What SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def serve_page(detector: Detector, chosen: argparse.Namespace) -> int:
    """Serve the web page, until SIGTERM or Ctrl-C."""
    from detection.serve import serve
    from detection.web.guard import new_token, token_from

    token = token_from(os.environ, chosen.token_file)
    if chosen.login_link and token is None:
        token = new_token()
    judge = _judge(detector, chosen)
    serve(judge, chosen.host, chosen.port, token, chosen.allowed_host, chosen.record, chosen.login_link)
    return 0


def export(detector: Detector, chosen: argparse.Namespace) -> int:
    """Write the detector as one ONNX graph."""
    _check_networks(detector, "export")
    _check_name(chosen.output, graph=True)
    from detection.export import export_onnx

    _check_writable(chosen.output)
    export_onnx(detector, chosen.output)
    log.info("wrote %s: `--model %s` judges by it, without torch", *[printable(str(chosen.output))] * 2)
    return 0


def _check_networks(detector: Detector, command: str) -> None:
    """Raises ValueError where a subcommand needs torch and there is a graph."""
    if not detector.has_networks:
        raise ValueError(f"{command} needs torch and the folder that training wrote: this detector is a graph")


def _check_name(path: Path, graph: bool) -> None:
    """Raises ValueError where the name of a detector does not say what it is, a graph or a folder."""
    if (path.suffix == GRAPH) != graph:
        raise ValueError(
            f"{path}: a detector that is a {'graph' if graph else 'folder'} is wanted, and the name of a "
            f"graph ends with {GRAPH}, that of a folder does not"
        )


def _check_writable(path: Path) -> None:
    """Raises FileNotFoundError, before the work that `path` is to hold, where it could not be written."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: no such folder to write to")


# --------------------------------------------------------------------------------- recordings that are taken in


def take_in(detector: Detector, chosen: argparse.Namespace) -> int:
    """Write a new detector that knows more healthy recordings of a machine, or one more machine."""
    from detection.enrolment import calibrate, enrol, hear

    _check_name(chosen.output, graph=not detector.has_networks)
    _check_writable(chosen.output)
    if chosen.output.exists():
        raise FileExistsError(f"{chosen.output} exists: give the name of a new folder")
    machine = display_name(chosen.machine), display_name(chosen.id)
    known = f"{machine[0]}/{machine[1]}" in detector.identities
    if chosen.command == "enrol" and known:
        raise ValueError(f"machine {' '.join(machine)} is known already: calibrate takes in recordings of it")
    if chosen.command == "calibrate":
        machine = as_trained(detector, *machine)
    identity = "/".join(machine)
    adopted = [] if chosen.command == "enrol" else chosen.adopt
    if adopted and chosen.replace:
        raise ValueError("--adopt joins what is known, --replace forgets it: give one of them")
    paths, refused = expand(chosen.recordings or adopted)
    if refused:
        raise ValueError(refused[0].line())
    heard = hear(detector, paths, chosen.channel)
    if chosen.command == "enrol":
        other = enrol(detector, *machine, heard)
    else:
        other = calibrate(detector, identity, heard, chosen.replace)
    calibration = other.calibration(identity, other.deciding(identity))
    wanted = other.settings.false_alarms
    other.save(chosen.output)
    log.info(
        "wrote %s: %s is judged beside %d healthy recordings (%s), with %.3g %% of false alarms promised",
        *(printable(str(chosen.output)), printable(identity.replace("/", " ")), calibration.n, calibration.source),
        100 * calibration.alpha(wanted),
    )
    return 0
