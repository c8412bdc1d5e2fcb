"""A web page for people who use no terminal: drop a recording on it, and it says whether the machine is all right.

It listens on this computer alone unless told otherwise, asks nothing of the network, and keeps what it was given only
while it runs: the last results, in a temporary folder. Where it can be reached from other computers, it wants a token.
What it is protected against, and what not, stands in docs/monitoring.md.
"""

import functools
import logging
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import uvicorn

from detection.judging import Judge
from detection.web.application import application
from detection.web.connections import BACKLOG, Connection, Limits, OnceASecond, affordable
from detection.web.guard import TOKEN_VARIABLE, Hosts, Login, is_loopback
from detection.web.history import History
from detection.web.results import temporary_folder

log = logging.getLogger(__name__)


def serve(
    judge: Judge,
    host: str,
    port: int,
    token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    record: Path | None = None,
    login_link: bool = False,
) -> None:
    """Serve the page at `host` and `port` until SIGTERM or Ctrl-C.

    With a `token`, only those who know it are answered; `login_link` prints a link that holds it. `allowed_hosts` are
    names, beside `host`, that a browser may call this server by. `record` is a watcher's CSV whose verdicts are shown,
    too. Raises OSError when the port is taken, and ValueError for an address that other computers reach without a
    token.
    """
    hosts = Hosts(host, allowed_hosts)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        temporary_folder() as folder,
        socket.create_server((host, port), family=family, backlog=BACKLOG) as listening,
    ):
        bound, port = listening.getsockname()[:2]
        if token is None and not is_loopback(bound):
            raise ValueError(f"{host} is reached from other computers: give a token (--token-file or {TOKEN_VARIABLE})")
        login = Login(token, cookie=f"detect-{port}") if token is not None else None  # cookies do not tell ports apart
        app = application(judge, folder, hosts, login, History(judge.detector.machines, record))
        name = _own_address(listening.family) if hosts.any_address else host
        address = f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn passes on what stopped it; recordings are then removed
            signal.signal(number, lambda *_: sys.exit(0))
        for logger in ("asyncio", "uvicorn.error", application.__module__):
            logging.getLogger(logger).addFilter(OnceASecond())
        log.info("open %s in a browser; Ctrl-C ends it", address)
        if login_link:
            print(f"{address}/login#token={token}", flush=True)
        config = uvicorn.Config(
            app,
            http=functools.partial(Connection, limits=affordable(Limits())),
            ws="none",
            lifespan="off",
            backlog=BACKLOG,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # failures are counted by the address that the connection comes from
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _own_address(family: socket.AddressFamily) -> str:
    """The address that other computers most likely reach this one by. Nothing is sent."""
    somewhere, here = ("2001:db8::1", "::1") if family == socket.AF_INET6 else ("192.0.2.1", "127.0.0.1")
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((somewhere, 9))
        except OSError:  # not connected to anything
            return here
        return asking.getsockname()[0]
