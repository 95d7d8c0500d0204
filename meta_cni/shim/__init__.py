"""
What the runtime executes: shim.c, and shim.py where there was no compiler.

A shim is known by what it speaks, in every version and under every name it was installed by.
"""

import os
import re
import stat

SPOKEN = re.compile(rb"meta-cni [0-9]+ answer ")
"""Stands in shim.c's program and in shim.py as it is; the number is the protocol's version."""
LARGEST = 3 << 19  # static with glibc it has less than 1 MiB, a program in Go more than 2: it is not read


def is_shim(path: str | os.PathLike[str]) -> bool:
    """Is a file a shim of ours? One that is not there, or cannot be read, is none."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            return False
        with open(path, "rb") as file:
            return SPOKEN.search(file.read()) is not None
    except OSError:
        return False
