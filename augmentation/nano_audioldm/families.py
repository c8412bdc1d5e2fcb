"""The closed vocabulary: families of factory noise, their words, and the family that a prompt names.

Every noun belongs to one family only, so that a prompt's head noun decides which sound the checkpoint makes.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Words of one family of sounds. `qualities` are the family's own; pitch and pace words are shared, see below."""

    nouns: tuple[str, ...]
    qualities: tuple[str, ...]
    pitched: bool = True  # low and high are audible in it
    paced: bool = False  # it has events or a modulation that can be slow or fast


FAMILIES: dict[str, Family] = {
    "rumble": Family(
        ("rumble", "rumbling", "rumbles", "growl", "growling", "thunder", "thundering", "roar", "roaring"),
        ("heavy", "rolling", "earthy", "powerful", "booming", "throaty"),
    ),
    "screech": Family(
        ("screech", "screeching", "screeches", "squeal", "squealing", "squeals", "shriek", "shrieking", "squeaking"),
        ("piercing", "ear-splitting", "strident", "jarring", "abrasive", "harsh"),
    ),
    "hammering": Family(
        ("hammering", "pounding", "banging", "thumping", "thuds", "thudding", "clanging", "stamping", "knocking"),
        ("forceful", "rhythmic", "metallic", "blunt", "heavy", "repeated"),
        paced=True,
    ),
    "hiss": Family(
        ("hiss", "hissing", "hisses", "sizzle", "sizzling", "spray", "spraying"),
        ("airy", "escaping", "pressurised", "breathy", "steamy", "sibilant"),
    ),
    "whirr": Family(
        ("whirr", "whirring", "whir", "whirrs", "whine", "whining", "whirl", "whirling", "spinning"),
        ("spinning", "revolving", "motorised", "mechanical", "smooth", "rotary"),
    ),
    "clicking": Family(
        ("clicking", "clicks", "click", "ticking", "ticks", "tapping", "taps", "clacking", "snapping"),
        ("crisp", "precise", "sharp", "dry", "regular", "staccato"),
        paced=True,
    ),
    "grinding": Family(
        ("grinding", "grind", "scraping", "scrape", "rasping", "sanding", "filing", "gnashing", "grating"),
        ("rough", "coarse", "gritty", "abrasive", "raw", "harsh"),
        paced=True,
    ),
    "bubbling": Family(
        ("bubbling", "bubbles", "gurgling", "gurgle", "burbling", "boiling", "sloshing", "dripping", "glugging"),
        ("wet", "liquid", "watery", "fluid", "soft", "churning"),
        paced=True,
    ),
    "beeping": Family(
        ("beeping", "beeps", "beep", "alarm", "alarms", "warning tone", "warning tones", "chirping", "bleeping"),
        ("electronic", "urgent", "clear", "pulsing", "insistent", "pure"),
        paced=True,
    ),
    "rattle": Family(
        ("rattle", "rattling", "rattles", "clatter", "clattering", "jangling", "shaking", "juddering", "jingling"),
        ("loose", "shaky", "tinny", "unsteady", "metallic", "chattering"),
        paced=True,
    ),
    "crackle": Family(
        ("crackle", "crackling", "crackles", "sparking", "popping", "sputtering", "spitting", "arcing"),
        ("brittle", "erratic", "electric", "fiery", "irregular", "spitting"),
        paced=True,
    ),
    "ventilation": Family(
        ("ventilation", "airflow", "draught", "whoosh", "whooshing", "blowing", "rush of air", "rushing air", "wind"),
        ("steady", "broad", "gusty", "even", "flowing", "breezy"),
    ),
    "buzz": Family(
        ("buzz", "buzzing", "buzzes", "buzzer", "zapping", "rasp of current", "electrical noise"),
        ("electric", "nasal", "insistent", "wiry", "raspy", "vibrating"),
    ),
    "hum": Family(
        ("hum", "humming", "hums", "drone", "droning", "drones", "purr", "purring", "thrum"),
        ("constant", "even", "mellow", "steady", "warm", "tonal"),
    ),
}

# Shared qualities that the synthesiser obeys: where in its range a family's sound lies, and how fast its events come.
PITCH_WORDS: dict[str, tuple[str, ...]] = {
    "low": ("low", "deep", "low-pitched", "bassy", "dull", "low-frequency"),
    "high": ("high", "high-pitched", "shrill", "bright", "sharp-pitched", "high-frequency"),
}
PACE_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "leisurely", "unhurried", "sparse", "occasional"),
    "fast": ("fast", "rapid", "quick", "hurried", "frantic", "busy"),
}
# Shared qualities without a sound of their own.
NEUTRAL_WORDS: tuple[str, ...] = (
    "continuous", "persistent", "loud", "faint", "distant", "muffled", "industrial", "intense", "strong", "gentle",
    "noticeable", "relentless", "background", "incessant", "subtle", "monotonous", "repetitive", "intermittent",
)  # fmt: skip

_FAMILY_OF_NOUN = {noun: name for name, family in FAMILIES.items() for noun in family.nouns}
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
