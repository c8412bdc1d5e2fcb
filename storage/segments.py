"""The store of spectrograms: many in a file, since a file for each would cost more than to compute them again."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from storage.remote import Place
from storage.store import Store, key_of


class Segments:
    """Arrays by key, in segments: entries of a store that hold what was made together and are never changed.

    Knows the segments that were there when it was made, none with `to_add`: a worker that only adds need not look at
    all of them. Processes that make the same array at once both keep it.
    """

    def __init__(self, place: Path | Place, to_add: bool = False):
        self._store = Store(place, ".safetensors")
        self.place = self._store.place
        self._segment_of: dict[str, str] = {}
        self._whole: dict[str, bool] = {}  # segments that this process has checked
        if not to_add:
            self._store.sweep()
            self._look()

    def find(self, key: str) -> str | None:
        """The segment that holds `key`. One that is damaged is removed, and all that it held is as if never made."""
        segment = self._segment_of.get(key)
        if segment is None:
            return None
        if segment not in self._whole:
            self._whole[segment] = self._store.find(segment) is not None
        return segment if self._whole[segment] else None

    def add(self, arrays: dict[str, np.ndarray]) -> str:
        """Keep `arrays` in a segment of their own; return its name."""
        segment = key_of(keys=sorted(arrays))
        with self._store.put(segment, sum(array.nbytes for array in arrays.values())) as path:
            if path:
                save_file(arrays, path)
        self._whole[segment] = True
        return segment

    def read(self, places: list[tuple[str, str]]) -> list[np.ndarray]:
        """The arrays at `places`, each a segment that `find` or `add` gave, here or on another machine, and a key."""
        segments = {segment for segment, _ in places}
        self._store.bring(segments - self._whole.keys())  # those that another machine made
        files = {segment: safe_open(self._store.path(segment), framework="np") for segment in segments}
        return [files[segment].get_tensor(key) for segment, key in places]

    def _look(self) -> None:
        segments = sorted(self._store.keys())
        self._store.bring(segments)
        for segment in segments:
            try:
                with safe_open(self._store.path(segment), framework="np") as file:
                    self._segment_of |= dict.fromkeys(file.keys(), segment)
            except SafetensorError:
                if self._store.find(segment):  # which names and removes it, else
                    self._store.remove(segment)
