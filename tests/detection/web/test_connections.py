"""Slow and many clients, met by a real server over real sockets."""

import asyncio
import contextlib
import functools
import logging
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from detection.web.connections import FEWEST, Connection, Limits, OnceASecond, affordable
from tests.conftest import ROOT

LIMITS = Limits(connections=4, head=0.5, body=0.5, part=5000, unread=0.5)
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
released = threading.Event()  # lets the slow answers go


async def quick(request: Request) -> Response:
    return PlainTextResponse("here")


async def slow(request: Request) -> Response:
    while not released.is_set():
        await asyncio.sleep(0.01)
    return PlainTextResponse("at last")


async def body(request: Request) -> Response:
    with contextlib.suppress(ClientDisconnect):
        return PlainTextResponse(str(len(await request.body())))
    return Response(status_code=400)


async def large(request: Request) -> Response:
    return StreamingResponse(bytes(1_000_000) for _ in range(50))


@pytest.fixture(scope="module")
def port():
    app = Starlette(
        routes=[
            Route("/", quick),
            Route("/slow", slow),
            Route("/body", body, methods=["POST"]),
            Route("/large", large),
        ]
    )
    protocol = functools.partial(Connection, limits=LIMITS)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def connect(port):
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))


def answered(connection, text, times=1):
    """Whether answers with `text` come."""
    received = b""
    while received.count(text) < times:
        if not (block := connection.recv(65536)):
            return False
        received += block
    return True


def ask(connection, request=WHOLE, text=b"here"):
    connection.sendall(request)
    return answered(connection, text)


def seconds_until_cut(connection, drip=b"", every=0.1):
    """How long a connection lasts while `drip` is sent time and again."""
    started = time.monotonic()
    connection.settimeout(every)
    while time.monotonic() < started + 10:
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("opening", "drip"),
    [
        (b"", b""),  # idle
        (b"", b"a"),  # a head that never ends
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a"),
        (POST, b""),  # a body that does not come
        (POST.replace(b"10", b"9999"), b"a"),  # a byte now and then
        (WHOLE.replace(b"\r\n\r\n", b"\r\nContent-Length: 9999\r\n\r\n"), b"a"),  # answered before its end
    ],
)
def test_a_client_that_does_not_get_on_is_cut(connect, opening, drip):
    connection = connect()
    connection.sendall(opening)
    assert 0.3 < seconds_until_cut(connection, drip) < 9


def test_a_kept_connection_is_cut_when_nothing_follows(connect):
    connection = connect()
    assert ask(connection) and ask(connection)
    assert 0.3 < seconds_until_cut(connection) < 9


def test_an_answer_that_is_not_read_is_cut(connect):
    connection = connect()
    connection.sendall(WHOLE.replace(b"/", b"/large", 1))
    time.sleep(1.5)
    received = 0
    with contextlib.suppress(OSError):
        while block := connection.recv(1_000_000):
            received += len(block)
    assert 0 < received < 50_000_000


def test_the_server_takes_all_the_time_it_needs(connect):
    connection = connect()
    both = WHOLE.replace(b"/", b"/slow", 1) + WHOLE.replace(b"/", b"/slow", 1)  # the second waits for the first
    released.clear()
    threading.Timer(1.2, released.set).start()
    connection.sendall(both)
    assert answered(connection, b"at last", times=2)


def test_a_body_that_comes_fast_enough_may_take_longer(connect):
    connection = connect()
    connection.sendall(POST.replace(b"10", b"80000"))
    for _ in range(20):
        connection.sendall(bytes(4000))
        time.sleep(0.06)
    assert answered(connection, b"80000")


def test_a_body_that_stalls_after_much_has_come_is_cut(connect):
    connection = connect()
    connection.sendall(POST.replace(b"10", b"9000000") + bytes(1_000_000))
    assert seconds_until_cut(connection, b"a") < 9


def test_the_longest_idle_connection_makes_room(connect):
    held = [connect() for _ in range(LIMITS.connections)]
    for connection in held:
        assert ask(connection)
    assert ask(connect())
    assert held[0].recv(1) == b""
    assert ask(held[-1])


def test_half_a_body_makes_room_and_work_does_not(connect):
    released.clear()
    working = [connect() for _ in range(LIMITS.connections - 1)]
    for connection in working:
        connection.sendall(WHOLE.replace(b"/", b"/slow", 1))
    half = connect()
    half.sendall(POST)
    time.sleep(0.1)
    another = connect()
    another.sendall(WHOLE.replace(b"/", b"/slow", 1))
    with contextlib.suppress(ConnectionResetError):
        assert half.recv(1) == b""
    time.sleep(0.1)
    with contextlib.suppress(OSError):  # all are at work
        assert not ask(connect())
    released.set()
    for connection in (*working, another):
        assert answered(connection, b"at last")


def test_one_warning_a_second(caplog):
    log = logging.getLogger("test.once")
    log.addFilter(OnceASecond())
    for number in range(5000):
        log.warning("wrong %d", number)
    log.info("news")
    time.sleep(1.1)
    log.warning("wrong again")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "wrong 0",
        "wrong again (and 4999 more like it)",
    ]


def test_connections_leave_room_for_files():
    script = (
        "import resource; from detection.web.connections import *; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {1})); print(affordable(Limits()).connections)"
    )

    def connections(soft, hard):
        run = [sys.executable, "-c", script.format(soft, hard)]
        return int(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert connections(20, 1000) == Limits().connections
    assert connections(20, 160) == 160 - 128
    assert connections(20, 20) == FEWEST
    assert affordable(LIMITS) == LIMITS and resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
