"""The small checkpoint: its vocabulary, its synthesiser, its shape and what the shipped weights do."""

from collections import Counter

import pytest

from model.nano_audioldm.families import FAMILIES, family_of


def test_every_noun_belongs_to_one_family():
    nouns = Counter(noun for family in FAMILIES.values() for noun in family.nouns)
    assert [noun for noun, count in nouns.items() if count > 1] == []
    assert len(FAMILIES) >= 12


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("add deep rolling rumble produced by crushers in a mining quarry as they break rocks", "rumble"),
        ("add a hissing rattle produced by a grinding mill", "rattle"),
        ("Add sharp, rhythmic CLICKING produced by printing presses", "clicking"),
        ("add a rush of air from fans humming in a hall", "ventilation"),
        ("add cheerful conversation produced by workers", None),
        ("", None),
    ],
)
def test_a_prompts_family_is_the_head_noun_of_its_noise(text, family):
    assert family_of(text) == family
