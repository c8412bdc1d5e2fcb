"""Is this machine all right? Judge recordings with the trained detector.

    python detect.py pump_2026-11-22.wav --machine pump --id id_00      one line per recording; short for `judge`
    python detect.py judge recordings/ --json --fail-on-anomaly         for scripts: exit code 1 on an anomaly
    python detect.py explain pump.wav --machine pump --id id_00 --output why.png
    python detect.py watch incoming/ --machine pump --id id_00          judge what arrives, until stopped
    python detect.py listen --machine pump --id id_00                   a microphone, until stopped
    python detect.py serve                                              a web page for this computer
    python detect.py export detector.onnx                               one file that judges without torch, as --model
    python detect.py calibrate today/ --machine pump --id id_00 --output new-detector
    python detect.py enrol other/ --machine pump --id "Pump 3A" --output new-detector

`python detect.py judge --help` tells the options of judge, and so on. docs/detection.md says how to read a verdict.

Exit codes: 0, all were judged (with --fail-on-anomaly: and all are normal); 1, with --fail-on-anomaly, an anomaly;
2, a file could not be judged (the others still are), or nothing could be done. 2 goes before 1.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from audio.clips import LONGEST
from detection import commands
from detection.text import printable

VARIABLE = "RCMAE_DETECTOR"  # environment variable that names the detector
DEFAULT = Path("data/detector")
COMMANDS = {
    "judge": commands.judge,
    "explain": commands.explain,
    "watch": commands.follow,
    "listen": commands.hear_live,
    "serve": commands.serve_page,
    "export": commands.export,
    "calibrate": commands.take_in,
    "enrol": commands.take_in,
}


def arguments(values: list[str]) -> argparse.Namespace:
    """The subcommand, as `command`, and its options. Exits with code 2 where they are wrong."""
    parser = argparse.ArgumentParser("detect.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")

    def add(name: str, help: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        everywhere = [_detector_options(), *parents]
        return subparsers.add_parser(name, help=help, description=f"{help}.", parents=everywhere, allow_abbrev=False)

    machine, channel, channels = _machine_options(), _sound_options(_channel), _sound_options(_channels)
    _judge_options(add("judge", "judge recordings", machine, channels))
    _explain_options(add("explain", "draw why a recording got its score", machine, channel))
    _watch_options(add("watch", "judge each recording that arrives in a folder", machine, channels, _sinks_options()))
    _listen_options(add("listen", "judge live sound as it comes", machine, channels, _sinks_options()))
    _serve_options(add("serve", "open a web page to drop recordings on", channel))
    add("export", "write the detector as one file that judges without torch").add_argument(
        "output", type=Path, metavar="ONNX"
    )
    _calibrate_options(add("calibrate", "take in new healthy recordings of a machine that is known"))
    _enrol_options(add("enrol", "take in a machine that is not known, by healthy recordings of it"))

    if values and values[0] not in (*COMMANDS, "-h", "--help"):
        values = ["judge", *values]
    return parser.parse_args(values)


def _detector_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--model", type=Path, help=f"folder or .onnx; default: {VARIABLE}, or {DEFAULT}")
    return options


def _machine_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--machine", help="machine type, as trained; default: a folder of that name in the path")
    options.add_argument("--id", help="machine id, as trained (0 for id_00); default: from the path")
    return options


def _sound_options(channel: Callable[[str], int | None]) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--backend", help="how to score; default: score.backend at the time of training")
    allowed = "counted from 0, or all: each is judged" if channel is _channels else "counted from 0"
    options.add_argument("--channel", type=channel, default=0, help=f"of the recordings, {allowed}; default: 0")
    return options


def _sinks_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--sinks", type=Path, metavar="YAML", help="where verdicts go, see docs/monitoring.md")
    options.add_argument("--json", action="store_true", help="print one JSON object per verdict and line")
    return options


def _judge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recordings", nargs="+", type=_file, metavar="FILE", help="sound files, folders, pipes, or - for stdin"
    )
    parser.add_argument("--longest", type=_positive, default=LONGEST, help="of a recording (s); default: 24 h")
    parser.add_argument("--json", action="store_true", help="one JSON object per recording and line")
    parser.add_argument("--fail-on-anomaly", action="store_true", help="exit with 1 when a recording is anomalous")
    parser.add_argument(
        "--false-discoveries",
        type=_share,
        metavar="SHARE",
        help="call so many of the recordings anomalous, together, that at most this share of the calls is wrong",
    )


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", type=_file, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")


def _watch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", type=Path, metavar="CSV", help="of the verdicts; default: FOLDER/verdicts.csv")


def _listen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", help="a named pipe or - for raw samples, or an address; default: --device")
    parser.add_argument("--device", help="microphone, by its number or a part of its name; default: the system's")
    parser.add_argument("--list", action="store_true", help="list the microphones, and stop")
    parser.add_argument("--rate", type=_number, metavar="HZ", help="sample rate; default: the microphone's own")
    parser.add_argument("--format", default="s16le", help="of raw samples: s16le, s32le or f32le; default: s16le")
    parser.add_argument("--channels", type=_number, default=1, help="that the source has; default: 1")
    parser.add_argument("--window", type=_positive, help="of sound judged at once (s); default: the network's")
    parser.add_argument("--hop", type=_positive, help="between the beginnings of two windows (s); default: the window")
    parser.add_argument("--record", type=Path, metavar="CSV", help="of the verdicts; default: none")


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0 opens it to the network, with a token")
    parser.add_argument("--port", type=_port, default=8765)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="that holds the token; default: RCMAE_TOKEN")
    parser.add_argument("--login-link", action="store_true", help="print a link that holds the token, new if none is")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="it may be called by, too")
    parser.add_argument("--record", type=Path, metavar="CSV", help="a watcher's, whose verdicts are shown, too")


def _calibrate_options(parser: argparse.ArgumentParser) -> None:
    recordings = parser.add_argument_group().add_mutually_exclusive_group(required=True)
    recordings.add_argument("recordings", nargs="*", type=_file, default=[], metavar="FILE", help="files or folders")
    recordings.add_argument(
        "--adopt", nargs="+", type=_file, default=[], metavar="FILE", help="false alarms: recordings that were healthy"
    )
    parser.add_argument(
        "--replace", action="store_true", help="forget the recordings known so far: the machine changed"
    )
    _new_detector_options(parser)


def _enrol_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recordings", nargs="+", type=_file, metavar="FILE", help="files or folders")
    _new_detector_options(parser)


def _new_detector_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--machine", required=True, help="machine type")
    parser.add_argument("--id", required=True, help="machine id")
    parser.add_argument("--channel", type=_channel, default=0, help="channel of the recordings, counted from 0")
    parser.add_argument("--output", type=Path, required=True, metavar="DETECTOR", help="the new folder, or .onnx")


def _file(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def _number(text: str, most: int = 2**31, allowed: str = "a number counted from 0") -> int:
    if text.isascii() and text.isdecimal() and int(text) <= most:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}, allowed is {allowed}")


def _channel(text: str) -> int:
    return _number(text)


def _channels(text: str) -> int | None:
    return None if text == "all" else _number(text, allowed="all, or a number counted from 0")


def _port(text: str) -> int:
    return _number(text, 65535, "0 to 65535")


def _positive(text: str, below: float = float("inf"), allowed: str = "a number above 0") -> float:
    try:
        if 0 < float(text) < below:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}, allowed is {allowed}")


def _share(text: str) -> float:
    return _positive(text, 1, "a number between 0 and 1")


def model_folder() -> Path:
    """The detector that RCMAE_DETECTOR names, or data/detector here or, where that is none, beside this file."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    beside = Path(__file__).resolve().parent / DEFAULT
    return beside if beside.is_dir() and not DEFAULT.is_dir() else DEFAULT


def main(values: list[str] | None = None) -> int:
    chosen = arguments(sys.argv[1:] if values is None else values)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("detection").setLevel(logging.INFO)
    try:
        detector = commands.load(chosen.model or model_folder())
        return COMMANDS[chosen.command](detector, chosen)
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            print(f"detect.py: {printable(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
