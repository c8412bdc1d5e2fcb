"""The store of spectrograms: many in a file, since a file for each would cost more than to compute them again."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from storage.files import whole_file


class Segments:
    """Arrays by key, in segments: files that hold what was made together, each written whole and never changed.

    Knows the segments that were there when it was made. Processes that make the same array at once both keep it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._segment_of: dict[str, str] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="np") as file:
                    self._segment_of |= dict.fromkeys(file.keys(), path.name)
            except SafetensorError:
                logging.warning("segment %s of the store is damaged, what it held will be made again", path)

    def find(self, key: str) -> str | None:
        """The name of the segment that holds `key`."""
        return self._segment_of.get(key)

    def add(self, arrays: dict[str, np.ndarray]) -> str:
        """Keep `arrays` in a segment of their own; return its name."""
        name = hashlib.sha256(" ".join(sorted(arrays)).encode()).hexdigest() + ".safetensors"
        with whole_file(self.folder / name) as path:
            save_file(arrays, path)
        return name

    def read(self, places: list[tuple[str, str]]) -> list[np.ndarray]:
        """The arrays at `places`, each a segment's name and a key."""
        files = {name: safe_open(self.folder / name, framework="np") for name in {name for name, _ in places}}
        return [files[name].get_tensor(key) for name, key in places]
