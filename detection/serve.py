"""A web page for people who use no terminal: drop a recording on it, and it says whether the machine is all right.

It listens on this computer alone unless told otherwise, asks nothing of the network, and keeps what it was given only
while it runs: the last `KEPT` results, in a temporary folder.
"""

import logging
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import anyio
import jinja2
import soundfile
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from audio.clips import read_blocks
from detection.judging import Judge, Judgement
from detection.why import draw

LIMIT = 200_000_000  # bytes of a recording: 1 h 44 min of 16 kHz, 16 bit, one channel
KEPT = 20  # results
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
WEB = Path(__file__).parent / "web"

log = logging.getLogger(__name__)


class Results:
    """The last results, newest first, each with its sound and its picture in `folder` until it is dropped."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._results: OrderedDict[str, dict] = OrderedDict()

    def add(self, number: str, result: dict) -> None:
        with self._lock:
            self._results[number] = result
            while len(self._results) > KEPT:
                old, _ = self._results.popitem(last=False)
                for path in self.folder.glob(f"{old}.*"):
                    path.unlink(missing_ok=True)

    def all(self) -> list[dict]:
        with self._lock:
            return list(reversed(self._results.values()))

    def file(self, number: str, suffix: str) -> Path | None:
        """The sound or the picture of a result that is still kept."""
        with self._lock:
            path = self.folder / f"{number}{suffix}"
            return path if number in self._results and path.is_file() else None


def application(judge: Judge, folder: Path, hosts: list[str]) -> Starlette:
    """The page and what it asks for. `hosts` are the names that a browser may call this server by."""
    results = Results(folder)
    detector = judge.detector
    turn = anyio.CapacityLimiter(1)  # one recording after another: each uses all cores
    template = jinja2.Environment(autoescape=True).from_string((WEB / "page.html").read_text(encoding="utf-8"))
    page_text = template.render(machines=detector.machines, limit=LIMIT)

    async def page(request: Request) -> Response:
        return HTMLResponse(page_text, headers=HEADERS)

    async def last(request: Request) -> Response:
        return JSONResponse(results.all(), headers=HEADERS | {"Cache-Control": "no-store"})

    async def judge_upload(request: Request) -> Response:
        # a page of another origin cannot send this header without asking first, and is not answered
        if request.headers.get("x-requested-by") != "detect":
            return _refusal("this is not asked for by the page itself", 403)
        name = Path(request.query_params.get("name", "").replace("\\", "/")).name[:200] or "recording"
        machine_type, _, machine_id = request.query_params.get("machine", "").partition("/")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > LIMIT:
            return _refusal(_too_large(name), 413)
        number = secrets.token_hex(8)
        upload = folder / f"{number}.upload"
        try:
            received = 0
            async with await anyio.open_file(upload, "wb") as file:
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > LIMIT:
                        return _refusal(_too_large(name), 413)
                    await file.write(chunk)
            chosen = replace(judge, machine_type=machine_type or None, machine_id=machine_id or None)
            result = await anyio.to_thread.run_sync(_judge, chosen, upload, name, folder, number, limiter=turn)
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            upload.unlink(missing_ok=True)
        results.add(number, result)
        return JSONResponse(result, headers=HEADERS)

    async def kept(request: Request) -> Response:
        path = results.file(request.path_params["number"], "." + request.path_params["suffix"])
        return FileResponse(path, headers=HEADERS) if path else _refusal("this result is no longer kept", 404)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/results", last),
            Route("/judge", judge_upload, methods=["POST"]),
            Route("/kept/{number}.{suffix}", kept),
            Mount("/web", StaticFiles(directory=WEB)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
    )


def _judge(judge: Judge, upload: Path, name: str, folder: Path, number: str) -> dict:
    judgement: Judgement = judge(upload, name)
    log.info("%s", judgement.line())
    result = judgement.as_json() | {"number": number, "line": judgement.line()}
    if judgement.verdict is not None:
        try:
            _keep_sound(upload, judge, folder / f"{number}.wav")
            log_mel = judge.detector.log_mel_of_file(upload, judge.channel)
            draw(judge.detector, log_mel, judgement.verdict, folder / f"{number}.png", judgement.name)
        except OSError as error:  # a full disk must not take the verdict with it
            log.warning("%s: no sound or picture: %s", name, error)
    return result


def _keep_sound(upload: Path, judge: Judge, path: Path) -> None:
    """What the detector heard, as a WAV that every browser plays."""
    rate = judge.detector.front_end.sample_rate
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
        for block in read_blocks(upload, judge.channel, rate):
            file.write(block)


def _too_large(name: str) -> str:
    return f"{name} is larger than {LIMIT // 1_000_000} MB, the most that this page takes: use detect.py for it"


def _refusal(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status, headers=HEADERS)


def serve(judge: Judge, host: str, port: int) -> None:
    """Serve the page at `host` and `port` until SIGTERM or Ctrl-C. Raises OSError when the port is taken."""
    local = ["127.0.0.1", "localhost", "[::1]"]
    hosts = [*local, host] if host not in ("0.0.0.0", "::") else ["*"]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn passes on what stopped it; recordings are still removed
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        tempfile.TemporaryDirectory(prefix="detect-") as folder,
        socket.create_server((host, port), family=family) as listening,
    ):
        app = application(judge, Path(folder), hosts)
        address = f"[{host}]" if ":" in host else host
        log.info("open http://%s:%d in a browser; Ctrl-C ends it", address, listening.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        server.run(sockets=[listening])
