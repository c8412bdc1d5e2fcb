"""Verdicts by HTTP: each is POSTed as JSON until the receiver answers with 2xx.

With a secret, the header `X-RCMAE-Signature` is `sha256=` and the HMAC-SHA256 of the body in hexadecimal. A verdict may
arrive twice, with the same `id`; `judged` is when it was made.
"""

import hashlib
import hmac
import time

import requests

from detection.sinks.forwarding import RefusedError
from detection.sinks.interface import Note

SIGNATURE = "X-RCMAE-Signature"
NEVER = (400, 413, 422)  # answers to the verdict itself: the same will get the same


def signature(body: bytes, secret: str) -> str:
    """What the signature header says of a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Webhook:
    """POSTs to `url`; `timeout` (s) is for the connection, and again for the answer."""

    def __init__(self, url: str, secret: str, timeout: float):
        self._url, self._secret, self._timeout = url, secret, timeout
        self._session = requests.Session()

    def text(self, note: Note) -> str:
        return note.text(windows=False)

    def send(self, text: str) -> None:
        body = text.encode()
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers[SIGNATURE] = signature(body, self._secret)
        try:
            with self._session.post(
                self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True
            ) as answer:  # whose body is not read
                code, said = answer.status_code, f"the receiver answers {answer.status_code} {answer.reason}"
        except requests.RequestException as error:
            raise OSError(self._reason(error)) from None
        if code in NEVER:
            raise RefusedError(said)
        if not 200 <= code < 300:
            raise OSError(said)

    def _reason(self, error: requests.RequestException) -> str:
        # without the address, whose path is often a secret
        if isinstance(error, requests.Timeout):
            return f"no answer for {self._timeout:g} s"
        if isinstance(error, requests.exceptions.SSLError):
            return "the receiver's certificate is not accepted"
        return f"cannot be reached ({type(error).__name__})"

    def idle(self, seconds: float) -> None:
        time.sleep(seconds)

    def disconnect(self) -> None:
        self._session.close()
