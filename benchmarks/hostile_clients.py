"""What hostile clients do to the web page: `python -m benchmarks.hostile_clients` prints a table and keeps it as JSON.

The page is served by a process with few file descriptors, on this computer alone. One attack after another holds as
many connections as it can for a while, opening new ones where the server cuts them, while a visitor asks for the page
twice a second. A row tells how the visitor fared, then what the server held at the end of the attack, and how many
connections it still held when the attackers had opened no new ones for a while. `--checkout` names the working tree of
another version, to compare with.
"""

import argparse
import contextlib
import http.client
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from benchmarks.measuring import show

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
DESCRIPTORS = 256  # of the server
PATIENCE = 5.0  # s that a visitor waits
EVERY = 0.5  # s between two visits
OPENED = 200  # connections that an attack opens in a second, at most
UPLOADED = 5_000_000  # bytes of a half upload
SERVER = """
import logging, sys
from benchmarks.detect import SIZES, untrained
from detection.judging import Judge
from detection.serve import serve
logging.basicConfig(format="%(message)s", stream=sys.stderr)
logging.getLogger("detection").setLevel(logging.INFO)
serve(Judge(untrained(SIZES["embedded"])), "127.0.0.1", 0)
"""
HALF = (
    b"POST /judge?machine=fan/id_00&name=a.wav HTTP/1.1\r\nHost: localhost\r\nX-Requested-By: detect\r\n"
    b"Content-Length: 10000000\r\n\r\n" + bytes(UPLOADED)
)


@dataclass(frozen=True)
class Attack:
    """Connections that all do the same."""

    name: str
    connections: int
    opening: bytes = b""
    drip: bytes = b""  # sent every second


ATTACKS = [
    Attack("no attack", 0),
    Attack("idle connections", 300),
    Attack("a head that never ends", 300, b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-a: b\r\n"),
    Attack("half uploads", 30, HALF, b"\0"),
    Attack("what is no HTTP", 100, b"\x16\x03\x01\x02\r\n\r\n"),
]


@dataclass
class Attackers:
    """Holds an attack's connections until `stop` is set; opens new ones for those that are cut until `rest` is set."""

    attack: Attack
    port: int
    rest: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        held: list[socket.socket] = []
        while not self.stop.is_set():
            began = time.monotonic()
            held = [one for one in held if _alive(one, self.attack.drip)]
            missing = 0 if self.rest.is_set() else self.attack.connections - len(held)
            held += filter(None, (self._open() for _ in range(min(missing, OPENED))))
            self.stop.wait(max(1 - (time.monotonic() - began), 0))
        for one in held:
            one.close()

    def _open(self) -> socket.socket | None:
        try:
            connection = socket.create_connection((HOST, self.port), timeout=0.5)
            with contextlib.suppress(OSError):  # it may be full or cut
                connection.sendall(self.attack.opening)
            connection.setblocking(False)
            return connection
        except OSError:
            return None


def _alive(connection: socket.socket, drip: bytes) -> bool:
    """Whether the server still holds a connection; sends it `drip`."""
    try:
        with contextlib.suppress(BlockingIOError):
            if drip:
                connection.send(drip)
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    connection.close()
    return False


@contextlib.contextmanager
def served(checkout: Path, folder: Path) -> Iterator[tuple[psutil.Process, int, Path]]:
    """The page's process, its port and its log; recordings lie in `folder`."""
    log = folder.with_name("log")
    environment = os.environ | {"TMPDIR": str(folder)}
    limit = (DESCRIPTORS, DESCRIPTORS)
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=checkout,
            env=environment,
            stderr=file,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
        ) as process,
    ):
        try:
            while not (port := re.search(rb"http://[^:]+:(\d+)", log.read_bytes())):
                if process.poll() is not None:
                    raise RuntimeError(f"the page does not start: {log.read_text()}")
                time.sleep(0.1)
            yield psutil.Process(process.pid), int(port[1]), log
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def visit(port: int) -> float | None:
    """How long a visitor waited for the page (s); None where it did not come."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        return time.monotonic() - began if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def measure(attack: Attack, checkout: Path, seconds: float, rest: float) -> dict:
    """The row of an attack that lasts `seconds`, with a server of its own, which is looked at again after `rest` s."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "uploads"
        folder.mkdir()
        with served(checkout, folder) as (process, port, log):
            before, waits = process.memory_info().rss, []
            attackers = Attackers(attack, port)
            thread = threading.Thread(target=attackers.run)
            thread.start()
            try:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    waits.append(visit(port))
                    time.sleep(EVERY)
                row = {
                    "attack": f"{attack.name} ({attack.connections})" if attack.connections else attack.name,
                    **_of_visits(waits),
                    "connections": _connections(process),
                    "uploads, MB": _bytes(folder) / 1e6,
                    "log, MB": log.stat().st_size / 1e6,
                    "more memory, MB": (process.memory_info().rss - before) / 1e6,
                }
                attackers.rest.set()
                time.sleep(rest)
                return row | {f"connections after {rest:g} s": _connections(process)}
            finally:
                attackers.stop.set()
                thread.join()


def _of_visits(waits: list[float | None]) -> dict:
    answered = [wait for wait in waits if wait is not None]
    return {
        "visits answered": f"{len(answered)} of {len(waits)}",
        "median wait, s": median(answered) if answered else None,
        "longest wait, s": max(answered, default=None),
    }


def _connections(process: psutil.Process) -> int:
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))


def _bytes(folder: Path) -> int:
    sizes: list[int] = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(sizes)


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="that an attack lasts")
    parser.add_argument("--rest", type=float, default=40, help="s after which the server is looked at again")
    parser.add_argument("--checkout", type=Path, action="append", help="working tree of a version; may be repeated")
    chosen = parser.parse_args(arguments)
    rows = []
    for checkout in chosen.checkout or [ROOT]:
        version = _version(checkout)
        for attack in ATTACKS:
            rows.append({"version": version} | measure(attack, checkout, chosen.seconds, chosen.rest))
            print(f"{version}: {attack.name}, {rows[-1]['visits answered']} visits answered", file=sys.stderr)
    show("hostile_clients", rows, {"seconds": chosen.seconds, "descriptors": DESCRIPTORS}, out)
    return rows


def _version(checkout: Path) -> str:
    run = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(run, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
