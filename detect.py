"""Is this machine all right? Score recordings with the trained detector.

    python detect.py pump_2026-11-22.wav --machine pump --id id_00      one line per recording
    python detect.py recordings/ --json --fail-on-anomaly               for scripts: exit code 1 on an anomaly
    python detect.py pump.wav --machine pump --id id_00 --explain why.png
    python detect.py --watch incoming/ --machine pump --id id_00        judge what arrives, until stopped
    python detect.py --serve                                            a web page for this computer
    python detect.py --export model.onnx                                for onnxruntime, without torch

Exit codes: 0, all were judged (with --fail-on-anomaly: and all are normal); 1, with --fail-on-anomaly, an anomaly;
2, a file could not be judged (the others still are), or nothing could be done. 2 goes before 1.
"""

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from detection.detector import Detector
from detection.judging import Judge, Judgement, expand, machine_id
from detection.sinks.settings import open_sinks
from detection.sinks.table import Table
from detection.watch import watch

log = logging.getLogger("detect")


def arguments(values: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", metavar="FILE", help="WAV or FLAC files, folders, or - for stdin")
    parser.add_argument("--machine", help="machine type, as trained; default: a folder of that name in the path")
    parser.add_argument("--id", type=machine_id, help="machine id, as trained: id_00 or 00; default: from the path")
    parser.add_argument("--backend", help="how to score; default: score.backend at the time of training")
    parser.add_argument("--channel", type=int, default=0, help="channel of the recordings, counted from 0")
    parser.add_argument("--model", type=Path, default=Path("data/detector"), help="folder of the trained detector")
    parser.add_argument("--json", action="store_true", help="one JSON object per recording and line")
    parser.add_argument("--fail-on-anomaly", action="store_true", help="exit with 1 when a recording is anomalous")
    parser.add_argument("--explain", type=Path, metavar="PNG", help="draw why one recording got its score")
    parser.add_argument("--watch", type=Path, metavar="FOLDER", help="judge each recording that arrives in it")
    parser.add_argument("--record", type=Path, metavar="CSV", help="of --watch; default: FOLDER/verdicts.csv")
    parser.add_argument("--serve", action="store_true", help="open a web page to drop recordings on")
    parser.add_argument("--host", default="127.0.0.1", help="address of --serve; 0.0.0.0 opens it to the network")
    parser.add_argument("--port", type=int, default=8765, help="port of --serve")
    parser.add_argument("--export", type=Path, metavar="ONNX", help="write the detector as an ONNX graph")
    chosen = parser.parse_args(values)
    tasks = [bool(chosen.recordings), chosen.watch is not None, chosen.serve, chosen.export is not None]
    if sum(tasks) != 1:
        parser.error("give recordings, or one of --watch, --serve and --export")
    if chosen.explain and (len(chosen.recordings) != 1 or Path(chosen.recordings[0]).is_dir()):
        parser.error("--explain draws exactly one recording")
    if chosen.channel < 0:
        parser.error(f"--channel is {chosen.channel}: counted from 0")
    return chosen


def main(values: list[str] | None = None) -> int:
    chosen = arguments(values)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for own in ("detect", "detection"):
        logging.getLogger(own).setLevel(logging.INFO)
    try:
        detector = Detector.load(chosen.model)
        if chosen.backend is not None:
            detector.check_backend(chosen.backend)
        judge = Judge(detector, chosen.machine, chosen.id, chosen.backend, chosen.channel)
        for written in filter(None, (chosen.explain, chosen.export)):  # before the work that it is to hold
            if not written.parent.is_dir():
                raise FileNotFoundError(f"{written}: no such folder to write to")
        if chosen.watch is not None:
            return follow(judge, chosen.watch, chosen.record or chosen.watch / "verdicts.csv", chosen.json)
        if chosen.serve:
            from detection.serve import serve

            serve(judge, chosen.host, chosen.port)
            return 0
        if chosen.export is not None:
            from detection.export import export_onnx

            export_onnx(detector, chosen.export)
            log.info("wrote %s; detection/export.py tells how to run it", chosen.export)
            return 0
        return score(judge, chosen)
    except (ValueError, OSError) as error:
        print(f"detect.py: {error}", file=sys.stderr)
        return 2


def score(judge: Judge, chosen: argparse.Namespace) -> int:
    judgements = []
    for path in expand(chosen.recordings):
        judgement = from_stdin(judge, chosen.explain) if str(path) == "-" else one(judge, path, chosen.explain)
        show(judgement, chosen.json)
        judgements.append(judgement)
    verdicts = [judgement.verdict for judgement in judgements if judgement.verdict]
    if len(verdicts) < len(judgements):
        return 2
    return int(chosen.fail_on_anomaly and any(verdict.anomalous for verdict in verdicts))


def one(judge: Judge, path: Path, picture: Path | None, name: str | None = None) -> Judgement:
    judgement = judge(path, name)
    if picture is not None and judgement.verdict and judgement.measured:
        from detection.why import draw

        draw(judge.detector, judgement.measured, judgement.verdict, picture, judgement.name)
    return judgement


def from_stdin(judge: Judge, picture: Path | None) -> Judgement:
    with tempfile.NamedTemporaryFile(prefix="detect-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        return one(judge, Path(file.name), picture, "-")


def follow(judge: Judge, folder: Path, record: Path, as_json: bool) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def judged(path: Path, name: str) -> list[Judgement]:
        judgement = judge(path, name)
        show(judgement, as_json)
        return [judgement]

    with open_sinks(record=Table(record)) as sinks:
        log.info("watching %s, noting verdicts in %s", folder, record)
        watch(folder, judged, sinks, stop)
    return 0


def show(judgement: Judgement, as_json: bool) -> None:
    if as_json:
        print(json.dumps(judgement.as_json()), flush=True)
    else:
        print(judgement.line(), file=sys.stdout if judgement.verdict else sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
