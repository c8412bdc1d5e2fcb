"""The signature of a detector that travels: an HMAC under a key from the environment, so that a change is noticed."""

import hmac
import os
from pathlib import Path

KEY_VARIABLE = "RCMAE_KEY"


def signature(content: bytes) -> str | None:
    """HMAC-SHA256 of `content` in hexadecimal digits; None where no key is set."""
    key = os.environ.get(KEY_VARIABLE)
    return hmac.new(key.encode(), content, "sha256").hexdigest() if key else None


def check_signature(path: Path, content: bytes, found: bytes | None) -> None:
    """Raises ValueError, where a key is set, unless `found` is the signature of `content`. `path` is the detector's."""
    wanted = signature(content)
    if wanted is None:
        return
    if found is None:
        raise ValueError(f"{path}: signature is missing, and {KEY_VARIABLE} is set")
    if not hmac.compare_digest(found.strip(), wanted.encode()):
        raise ValueError(f"{path}: signature is not that of {KEY_VARIABLE}: another key, or it was changed on purpose")
