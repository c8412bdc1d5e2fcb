"""Many small computations at once: a thread for each core."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from storage.memory import return_freed_memory

WAITING = 1000  # items handed to threads at once
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], prepare: Callable[[], object] | None = None
) -> Iterator[Result]:
    """`map(function, items)`, by as many threads as there are cores; each calls `prepare` first.

    At most `WAITING` items wait at once, as each takes memory.
    """
    return_freed_memory()  # a thread has a heap of its own, which makes no use of what others freed
    with ThreadPoolExecutor(os.cpu_count(), initializer=prepare) as pool:
        rest = iter(items)
        while some := list(islice(rest, WAITING)):
            yield from pool.map(function, some)
    return_freed_memory()
