"""Names as people write them, and safe file names."""

import re
import unicodedata

import pytest

from audio.names import display_name, shown, slugs


def test_a_name_is_kept_as_written_but_composed_and_trimmed():
    assert display_name(" Pump 3A ") == "Pump 3A"
    assert display_name(unicodedata.normalize("NFD", "Lüfter Nord")) == "Lüfter Nord"
    assert display_name("ポンプ #1") == "ポンプ #1"


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\nb", "a\x1b[31m", "a\u202eb", "x" * 101, "a\udcfcb"])
def test_a_name_that_is_refused(name):
    with pytest.raises(ValueError, match="name ") as error:
        display_name(name)
    assert str(error.value).isprintable()


def test_slugs_are_safe_and_no_two_are_alike():
    names = ["id_00", "Pump 3", "Pump-3", "pump-3", "Pump#3", "ポンプ", "バルブ", "..", "Lüfter", "x" * 100, "x" * 99]
    found = slugs(names)
    assert found["id_00"] == "id_00"
    assert found["Pump-3"] == "Pump-3"
    assert found["Lüfter"] == "Lufter"
    assert len({text.casefold() for text in found.values()}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,47}", text) for text in found.values())


def test_what_is_shown_has_no_control_characters():
    assert shown("a\nb\udcfc.wav") == r"a\nb\udcfc.wav"
