"""The words that the small AudioLDM knows. The noun of a prompt decides which family of sounds it makes."""

from dataclasses import dataclass

from augmentation.noises import NOUNS


@dataclass(frozen=True)
class Family:
    """Words of one family of sounds. `qualities` are the family's own; pitch and pace words are shared, see below."""

    nouns: tuple[str, ...]
    qualities: tuple[str, ...]
    paced: bool = False  # it has events or a modulation that can be slow or fast


FAMILIES: dict[str, Family] = {
    "rumble": Family(
        NOUNS["rumble"],
        ("heavy", "rolling", "earthy", "powerful", "booming", "throaty"),
    ),
    "screech": Family(
        NOUNS["screech"],
        ("piercing", "ear-splitting", "strident", "jarring", "abrasive", "harsh"),
    ),
    "hammering": Family(
        NOUNS["hammering"],
        ("forceful", "rhythmic", "metallic", "blunt", "heavy", "repeated"),
        paced=True,
    ),
    "hiss": Family(
        NOUNS["hiss"],
        ("airy", "escaping", "pressurised", "breathy", "steamy", "sibilant"),
    ),
    "whirr": Family(
        NOUNS["whirr"],
        ("spinning", "revolving", "motorised", "mechanical", "smooth", "rotary"),
    ),
    "clicking": Family(
        NOUNS["clicking"],
        ("crisp", "precise", "sharp", "dry", "regular", "staccato"),
        paced=True,
    ),
    "grinding": Family(
        NOUNS["grinding"],
        ("rough", "coarse", "gritty", "abrasive", "raw", "harsh"),
        paced=True,
    ),
    "bubbling": Family(
        NOUNS["bubbling"],
        ("wet", "liquid", "watery", "fluid", "soft", "churning"),
        paced=True,
    ),
    "beeping": Family(
        NOUNS["beeping"],
        ("electronic", "urgent", "clear", "pulsing", "insistent", "pure"),
        paced=True,
    ),
    "rattle": Family(
        NOUNS["rattle"],
        ("loose", "shaky", "tinny", "unsteady", "metallic", "chattering"),
        paced=True,
    ),
    "crackle": Family(
        NOUNS["crackle"],
        ("brittle", "erratic", "electric", "fiery", "irregular", "spitting"),
        paced=True,
    ),
    "ventilation": Family(
        NOUNS["ventilation"],
        ("steady", "broad", "gusty", "even", "flowing", "breezy"),
    ),
    "buzz": Family(
        NOUNS["buzz"],
        ("electric", "nasal", "insistent", "wiry", "raspy", "vibrating"),
    ),
    "hum": Family(
        NOUNS["hum"],
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
