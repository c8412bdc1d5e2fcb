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


def test_a_segment_is_named_by_its_keys(tmp_path):
    segments = Segments(tmp_path)
    assert segments.add(ARRAYS) == segments.add(dict(reversed(ARRAYS.items())))
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path):
    segments = Segments(tmp_path)
    with pytest.raises(Exception, match="object"):
        segments.add({"a": np.array([object()])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", [0, 5, 40, 150])
def test_a_damaged_segment_is_as_if_it_were_not_there(tmp_path, left, caplog):
    path = tmp_path / Segments(tmp_path).add(ARRAYS)
    path.write_bytes(path.read_bytes()[:left])
    assert Segments(tmp_path).find("a") is None
    assert path.name in caplog.text
