"""Who is answered: the names that the server is called by, the token, and the headers that every answer carries."""

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_VARIABLE = "RCMAE_TOKEN"
SHORTEST_TOKEN = 16  # characters
FAILURES, PERIOD = 5, 60.0  # wrong tokens from an address that are answered within as many s
ADDRESSES = 1000  # whose failures are remembered
OPEN = ("/login", "/web/")  # what the login needs: nothing in it is secret
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NAME = "[a-zA-Z0-9._-]{1,253}"
_HOST = re.compile(rf"(?:\[([0-9a-fA-F:.]{{2,45}})\]|({_NAME}))(?::\d{{1,5}})?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def token_from(environment: Mapping[str, str], file: Path | None = None) -> str | None:
    """The token in `file`, or else in RCMAE_TOKEN, without the blanks around it; None where neither is given."""
    text = file.read_text(encoding="utf-8", errors="replace") if file else environment.get(TOKEN_VARIABLE)
    return text.strip() if text is not None else None


def new_token() -> str:
    """A token that cannot be guessed: 256 random bits."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Whether an address, such as a bound socket has it, is reached from this computer alone."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


class Hosts:
    """The names in a request's Host header that are answered.

    A page on the internet can have its own name point to this server (DNS rebinding), and a browser then takes both
    for one site. It cannot do so with an address in place of a name.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()):
        """`bound` is the address or name that the server listens at, `allowed` are further names."""
        for name in allowed:
            if not re.fullmatch(_NAME, name) and _address(name) is None:
                raise ValueError(f"allowed host {name!r} is not a name or an address (without scheme and port)")
        address = _address(bound)
        self.any_address = address is not None and address.is_unspecified
        self.allowed = {_plain(name) for name in ("localhost", "127.0.0.1", "::1", bound, *allowed)}

    def answers(self, header: str | None) -> bool:
        """Whether a request with this Host header is meant for this server."""
        match = _HOST.fullmatch(header or "")
        if not match:
            return False
        name = match[1] or match[2]
        return _plain(name) in self.allowed or (self.any_address and _address(name) is not None)


def _address(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _plain(name: str) -> str | Address:
    return _address(name) or name.lower().rstrip(".")


class Login:
    """Exchanges the token for a cookie, which ends with the server. Failures are limited per address."""

    def __init__(self, token: str, cookie: str = "detect", clock: Callable[[], float] = time.monotonic):
        """Raises ValueError for a token that is too short, or that no browser could send."""
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
            raise ValueError(f"the token must be one line of at least {SHORTEST_TOKEN} ASCII characters")
        self.cookie, self.clock = cookie, clock
        self._digest = hashlib.sha256(token.encode()).digest()
        self._session = secrets.token_urlsafe(32)
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def knows(self, headers: Headers) -> bool:
        """Whether a request with these headers comes from someone who has logged in."""
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        given = cookies[self.cookie].value if self.cookie in cookies else ""
        return hmac.compare_digest(given.encode(), self._session.encode())

    def wait(self, address: str) -> float:
        """Time (s) until another token from `address` is looked at; 0 where it is at once."""
        failures = self._failures.get(_network(address), deque())
        return max(failures[0] + PERIOD - self.clock(), 0.0) if len(failures) == FAILURES else 0.0

    def accepts(self, token: str, address: str) -> bool:
        """Whether it is the token; in a time that does not tell how much of it was right."""
        network = _network(address)
        if hmac.compare_digest(hashlib.sha256(token.encode()).digest(), self._digest):
            self._failures.pop(network, None)
            return True
        self._failures.setdefault(network, deque(maxlen=FAILURES)).append(self.clock())
        self._failures.move_to_end(network)
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        return False

    def remember(self, response: Response) -> None:
        """Give the browser its cookie, for as long as it stays open."""
        response.set_cookie(self.cookie, self._session, path="/", httponly=True, samesite="strict")


def _network(address: str) -> str:
    """What has one owner: an IPv4 address, or the 64 bits of an IPv6 address that a subscriber is given."""
    found = _address(address.partition("%")[0])
    return str(ipaddress.ip_network((found, 64), strict=False)) if found and found.version == 6 else address


class Guard:
    """Passes on what comes under an answered name, and from someone who has logged in where there is a login."""

    def __init__(self, app: ASGIApp, hosts: Hosts, login: Login | None):
        self.app, self.hosts, self.login = app, hosts, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app: ASGIApp = self.app
        if not self.hosts.answers(headers.get("host")):
            app = refusal("this server is not known by that name: see --allowed-host", 400)
        elif self.login and not scope["path"].startswith(OPEN) and not self.login.knows(headers):
            app = RedirectResponse("/login", 303) if scope["path"] == "/" else refusal("log in first", 401)
        elif scope["method"] == "POST" and headers.get("x-requested-by") != "detect":
            # a page of another origin cannot send this header without asking first, and is not answered
            app = refusal("this is not asked for by the page itself", 403)
        await app(scope, receive, send_with_headers)


def refusal(message: str, status: int, retry_after: float | None = None) -> Response:
    """An answer that says in `error` why there is no other, and in how many s it is worth asking again."""
    headers = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
    return JSONResponse({"error": message}, status, headers)
