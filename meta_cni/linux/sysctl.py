"""
Kernel parameters of the namespace that the calling thread is in.

Paths are written with '/', so that a link's name may contain dots.
"""

import errno
from pathlib import Path

from meta_cni.cni.errors import KernelError

ROOT = Path("/proc/sys")
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO)
"""Some parameters take a value and tell none: net/ipv4/route/flush, and stable_secret until it is set."""


def read(path: str) -> str:
    """The value; raises KernelError naming the path."""
    try:
        return (ROOT / path).read_text().strip()
    except OSError as error:
        raise KernelError(f"read sysctl {path}", error.errno or errno.EIO) from None


def write(path: str, value: str) -> None:
    """Set the value, unless it is that already; raises KernelError naming path and value."""
    try:
        if read(path) == value:
            return
    except KernelError as error:
        if error.errno not in UNREADABLE:
            raise
    try:
        (ROOT / path).write_text(value)
    except OSError as error:
        raise KernelError(f"write sysctl {path} {value}", error.errno or errno.EIO) from None
