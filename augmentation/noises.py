"""The families of factory noise, and which of them a prompt asks for.

Every noun belongs to one family only.
"""

import re

NOUNS: dict[str, tuple[str, ...]] = {
    "rumble": ("rumble", "rumbling", "rumbles", "growl", "growling", "thunder", "thundering", "roar", "roaring"),
    "screech": (
        "screech", "screeching", "screeches", "squeal", "squealing", "squeals", "shriek", "shrieking", "squeaking",
    ),
    "hammering": (
        "hammering", "pounding", "banging", "thumping", "thuds", "thudding", "clanging", "stamping", "knocking",
    ),
    "hiss": ("hiss", "hissing", "hisses", "sizzle", "sizzling", "spray", "spraying"),
    "whirr": ("whirr", "whirring", "whir", "whirrs", "whine", "whining", "whirl", "whirling", "spinning"),
    "clicking": ("clicking", "clicks", "click", "ticking", "ticks", "tapping", "taps", "clacking", "snapping"),
    "grinding": ("grinding", "grind", "scraping", "scrape", "rasping", "sanding", "filing", "gnashing", "grating"),
    "bubbling": (
        "bubbling", "bubbles", "gurgling", "gurgle", "burbling", "boiling", "sloshing", "dripping", "glugging",
    ),
    "beeping": ("beeping", "beeps", "beep", "alarm", "alarms", "warning tone", "warning tones", "chirping", "bleeping"),
    "rattle": (
        "rattle", "rattling", "rattles", "clatter", "clattering", "jangling", "shaking", "juddering", "jingling",
    ),
    "crackle": ("crackle", "crackling", "crackles", "sparking", "popping", "sputtering", "spitting", "arcing"),
    "ventilation": (
        "ventilation", "airflow", "draught", "whoosh", "whooshing", "blowing", "rush of air", "rushing air", "wind",
    ),
    "buzz": ("buzz", "buzzing", "buzzes", "buzzer", "zapping", "rasp of current", "electrical noise"),
    "hum": ("hum", "humming", "hums", "drone", "droning", "drones", "purr", "purring", "thrum"),
}  # fmt: skip

_FAMILY_OF_NOUN = {noun: family for family, nouns in NOUNS.items() for noun in nouns}
_NOUN = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _FAMILY_OF_NOUN), key=len, reverse=True)) + r")\b")
_SOURCE = re.compile(
    r"\b(produced|made|generated|emitted|created|caused|given off|coming)\b|\bfrom\b|(?<!sound )(?<!noise )\bof an?\b"
)


def family_of(text: str) -> str | None:
    """Family of the sound that a prompt asks for, or None if it names none.

    Only the noise part counts, which ends where its source is named ("produced by ..."), and there the last noun, its
    head: "a hissing rattle produced by a grinding mill" is a rattle.

    >>> family_of("add deep rolling rumble produced by crushers in a mining quarry as they break rocks")
    'rumble'
    """
    text = text.lower()
    source = _SOURCE.search(text)
    nouns = _NOUN.findall(text[: source.start()] if source else text)
    return _FAMILY_OF_NOUN[nouns[-1]] if nouns else None
