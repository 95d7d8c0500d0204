"""The descriptors of this process, told apart: a thread of an earlier test may close its own meanwhile."""

import os
from contextlib import suppress


def open_files() -> set[tuple[int, str]]:
    """(descriptor, what it is open on) of each; what is open anew is another one under its old number."""
    found = set()
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the directory itself, and those that are just being closed
            found.add((int(each), os.readlink(f"/proc/self/fd/{each}")))
    return found
