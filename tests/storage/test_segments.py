"""The store of spectrograms: what is kept comes back, whole or not at all."""

import numpy as np
import pytest

from storage.segments import Segments

ARRAYS = {key: np.full((n + 1, 4), n, np.float16) for n, key in enumerate("abcd")}


def test_what_is_kept_comes_back(tmp_path):
    segments = Segments(tmp_path / "store")
    assert segments.find("a") is None
    first = segments.add({key: ARRAYS[key] for key in "ab"})
    second = segments.add({key: ARRAYS[key] for key in "cd"})
    known = Segments(tmp_path / "store")
    assert [known.find(key) for key in "abcd"] == [first, first, second, second]
    read = known.read([(second, "d"), (first, "a"), (second, "c")])
    assert all(np.array_equal(one, ARRAYS[key]) for one, key in zip(read, "dac", strict=True))
    assert all(one.dtype == np.float16 for one in read)
    adding = Segments(tmp_path / "store", to_add=True)
    assert [adding.find(key) for key in "abcd"] == [None] * 4


def test_a_segment_is_named_by_its_keys(tmp_path):
    segments = Segments(tmp_path)
    assert segments.add(ARRAYS) == segments.add(dict(reversed(ARRAYS.items())))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path):
    segments = Segments(tmp_path)
    with pytest.raises(Exception, match="object"):
        segments.add({"a": np.array([object()])})
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", [0, 5, 40, 150, "flipped"])
def test_a_damaged_segment_is_as_if_it_were_not_there(tmp_path, damage, caplog):
    segment = Segments(tmp_path).add(ARRAYS)
    path = next(tmp_path.rglob("*.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "flipped" else whole[:damage])
    segments = Segments(tmp_path)
    assert [segments.find(key) for key in "abcd"] == [None] * 4
    assert caplog.text.count(path.name) == 1
    assert not path.exists()
    assert segments.add(ARRAYS) == segment == Segments(tmp_path).find("a")
    assert all(np.array_equal(*pair) for pair in zip(segments.read([(segment, "d")]), [ARRAYS["d"]], strict=True))
