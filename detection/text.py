"""Text from outside, made fit to be read on a terminal, in a log and on a page."""


def printable(text: str) -> str:
    r"""`text` with line breaks, control characters, and all else that cannot be seen or printed, escaped.

    >>> print(printable("pump\x1b[2J\u202e.wav"))
    pump\x1b[2J\u202e.wav
    """
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
