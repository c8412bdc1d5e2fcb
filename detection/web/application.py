"""What the web page's server answers: the page, the machines' verdicts, and the judging of what is sent to it."""

import functools
import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import jinja2
import soundfile
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from audio.clips import AUDIO_SUFFIXES, read_blocks
from detection.judging import Judge
from detection.text import printable
from detection.web.guard import Guard, Hosts, Login, refusal
from detection.web.history import History
from detection.web.results import BusyError, Results, Upload, Uploads

LIMIT = 200_000_000  # bytes of a recording: 1 h 44 min of 16 kHz, 16 bit, one channel
LONGEST = 2 * 3600  # s of a recording
SOUND_KEPT = 600  # s of a recording that can be listened to
ASK_AGAIN = 5  # s after which a busy server is worth asking again
LONGEST_LOGIN = 4096  # bytes
STATIC = Path(__file__).parent / "static"
NOT_STORED = {"Cache-Control": "no-store"}

log = logging.getLogger(__name__)


def application(judge: Judge, folder: Path, hosts: Hosts, login: Login | None, history: History) -> Starlette:
    """The page and what it asks for. Recordings are kept in `folder`; everybody is answered where `login` is None."""
    results, uploads = Results(folder), Uploads()
    turn = anyio.CapacityLimiter(1)  # one recording after another: each uses all cores
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(STATIC))
    page_text = environment.get_template("page.html").render(
        machines=judge.detector.machines, limit=LIMIT, accept=",".join(("audio/*", *AUDIO_SUFFIXES))
    )
    login_text = environment.get_template("login.html").render()

    async def page(request: Request) -> Response:
        return HTMLResponse(page_text, headers=NOT_STORED)

    async def last(request: Request) -> Response:
        return JSONResponse(results.all(), headers=NOT_STORED)

    async def verdicts(request: Request) -> Response:
        version = await anyio.to_thread.run_sync(history.version)  # which may read a file
        tag = f'"{hashlib.sha256(version.encode("utf-8", "replace")).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return JSONResponse(await anyio.to_thread.run_sync(history.as_json), headers=headers)

    async def judge_upload(request: Request) -> Response:
        name = printable(Path(request.query_params.get("name", "").replace("\\", "/")).name[:200]) or "recording"
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > LIMIT:
            return refusal(_too_large(name), 413)
        machine_type, _, machine_id = request.query_params.get("machine", "").partition("/")
        chosen = replace(judge, machine_type=machine_type or None, machine_id=machine_id or None, longest=LONGEST)
        number = secrets.token_hex(8)
        received = folder / f"{number}.upload"
        try:
            with uploads.place() as upload:
                await _receive(request, upload, received)
                async with turn:
                    if await request.is_disconnected():
                        return Response(status_code=400)
                    said = await anyio.to_thread.run_sync(_judge, chosen, received, name, folder, number)
        except BusyError:
            return refusal("the server is busy with other recordings", 503, ASK_AGAIN)
        except TooLargeError:
            return refusal(_too_large(name), 413)
        except OSError as error:
            log.warning("%s: not received: %s", name, error)
            return refusal(f"the server cannot keep the recording: {error.strerror}", 507)
        finally:
            received.unlink(missing_ok=True)
        results.add(number, said)
        history.add(said)
        return JSONResponse(said, headers=NOT_STORED)

    async def kept(request: Request) -> Response:
        path = results.file(request.path_params["number"], "." + request.path_params["suffix"])
        return FileResponse(path, headers=NOT_STORED) if path else refusal("this result is no longer kept", 404)

    async def login_page(request: Request) -> Response:
        return HTMLResponse(login_text, headers=NOT_STORED)

    routes = [
        Route("/", page),
        Route("/results", last),
        Route("/verdicts", verdicts),
        Route("/judge", judge_upload, methods=["POST"]),
        Route("/kept/{number}.{suffix}", kept),
        Mount("/web", StaticFiles(directory=STATIC)),
    ]
    if login is not None:
        routes += [Route("/login", login_page), Route("/login", _enter(login), methods=["POST"])]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, login=login)],
        exception_handlers={ClientDisconnect: _gone},
    )


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # which nobody reads


class TooLargeError(Exception):
    """A recording has more bytes than the page takes."""


async def _receive(request: Request, upload: Upload, path: Path) -> None:
    async with await anyio.open_file(path, "wb") as file:
        async for chunk in request.stream():
            upload.grow(len(chunk))
            if upload.bytes > LIMIT:
                raise TooLargeError
            await file.write(chunk)


def _enter(login: Login) -> Callable[[Request], Awaitable[Response]]:
    async def enter(request: Request) -> Response:
        address = request.client.host if request.client else ""
        if wait := login.wait(address):
            return refusal(f"too many wrong tokens: try again in {wait:.0f} s", 429, wait)
        text = b""
        async for chunk in request.stream():
            text += chunk
            if len(text) > LONGEST_LOGIN:
                return refusal("this is too long for a token", 413)
        try:
            token = str(json.loads(text)["token"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return refusal("a JSON object with a token is needed", 400)
        if not login.accepts(token, address):
            log.warning("a wrong token from %s", printable(address))
            return refusal("this is not the token", 403)
        response = Response(status_code=204)
        login.remember(response)
        return response

    return enter


def _judge(judge: Judge, received: Path, name: str, folder: Path, number: str) -> dict:
    """The verdict on a recording as the page shows it, with a sound and a picture in `folder` where there is room."""
    judgement = judge(received, name)
    log.info("%s", judgement.line())
    said = judgement.as_json() | {"number": number, "line": judgement.line(), "sound": False, "picture": False}
    verdict, measured = judgement.verdict, judgement.measured
    if verdict is None or measured is None:
        return said | {"error": printable(judgement.error)}
    keep: dict[str, tuple[str, Callable[[Path], None]]] = {
        "sound": (".wav", functools.partial(_keep_sound, received, judge))
    }
    if judge.detector.has_networks:
        from detection.why import draw

        keep["picture"] = (".png", lambda path: draw(judge.detector, measured, verdict, path, judgement.name))
    for what, (suffix, write) in keep.items():
        path = folder / f"{number}{suffix}"
        try:
            write(path)
            said[what] = True
        except (OSError, soundfile.LibsndfileError) as error:  # a full disk must not take the verdict with it
            path.unlink(missing_ok=True)
            log.warning("%s: no %s is kept: %s", name, what, error)
    return said


def _keep_sound(received: Path, judge: Judge, path: Path) -> None:
    """The beginning of what the detector heard, as a WAV that every browser plays."""
    rate = judge.detector.front_end.sample_rate
    left = SOUND_KEPT * rate
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16", format="WAV") as file:
        for block in read_blocks(received, judge.channel, rate):
            file.write(block[:left])
            left -= len(block)
            if left <= 0:
                break


def _too_large(name: str) -> str:
    return f"{name} is larger than {LIMIT // 1_000_000} MB, the most that this page takes: use detect.py for it"
