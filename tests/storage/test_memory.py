"""Freed memory goes back to the system when that is asked for."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import psutil
from storage.memory import keep_freed_memory, return_freed_memory

def used():
    return psutil.Process().memory_info().rss / 1e6

keep_freed_memory()
blocks = [bytearray(b"1" * 100_000) for _ in range(1000)]
last = blocks[-1]  # lies behind the others
full = used()
del blocks
freed = used()
return_freed_memory()
print(full - freed, freed - used())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's memory")
def test_freed_memory_is_kept_until_it_is_returned():
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, returned = map(float, printed.split())
    assert abs(kept) < 10 and returned > 80  # MB, of 100
