"""Names of machines as people write them, and the safe file names made of them."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

LONGEST_NAME = 100  # characters


def display_name(text: str) -> str:
    """The name of a machine type or a machine as it is shown: in Unicode's composed form, without blanks at its ends.

    Raises ValueError for a name that is empty or longer than LONGEST_NAME, or has a '/' or a control character.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"name {shown(name)!r} has {len(name)} characters, 1 to {LONGEST_NAME} are allowed")
    if "/" in name or any(unicodedata.category(one)[0] == "C" or one in "\u2028\u2029" for one in name):
        raise ValueError(f"name {shown(name)!r} has a '/' or a control character")
    return name


def slug(name: str) -> str:
    """`name` in ASCII letters, digits, - and _ alone; empty if nothing of it is left.

    >>> slug("id_00"), slug("Lüfter Nord"), slug("Pump #3")
    ('id_00', 'Lufter-Nord', 'Pump-3')
    """
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_only).strip("-_")[:40]


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A slug for each name, no two alike, not even where upper and lower case are the same to the file system.

    Where several names would share a slug, it goes to the name that is written like it, and the others get a hash.

    >>> slugs(["id_00", "Pump 3", "Pump-3"])
    {'Pump 3': 'Pump-3-59415f', 'Pump-3': 'Pump-3', 'id_00': 'id_00'}
    """
    alike = defaultdict(list)
    for name in sorted(set(names)):
        alike[slug(name).casefold()].append(name)
    found = {}
    for group in alike.values():
        group.sort(key=lambda name: (slug(name) != name, name))
        for place, name in enumerate(group):
            text = slug(name)
            code = hashlib.sha256(name.encode()).hexdigest()[:6]
            found[name] = text if text and place == 0 else f"{text or 'name'}-{code}"
    return dict(sorted(found.items()))


def shown(text: str) -> str:
    """`text` to be read in one line: line breaks, control characters and bytes that are no characters are escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
