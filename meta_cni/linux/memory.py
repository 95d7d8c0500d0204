"""
How glibc hands out memory to threads.

It makes an arena for every thread that asks while all others are locked, eight for each core, and
what is free in one is of no use to another. A daemon has threads that live for one request; so
it grew by megabytes that nobody used (mallopt(3), M_ARENA_MAX).
"""

import ctypes
from contextlib import suppress

M_ARENA_MAX = -8  # <malloc.h>


def use_arenas(count: int) -> None:
    """Have no more of them from now on; other C libraries have none."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, count)
