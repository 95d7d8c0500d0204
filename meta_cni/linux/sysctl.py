"""
Kernel parameters of the namespace that the calling thread is in.

Paths are written with '/', so that a link's name may contain dots.
"""

import errno
import os
from pathlib import Path

from meta_cni.cni.errors import KernelError

ROOT = Path("/proc/sys")
LONGEST = 1 << 16
"""Of a value; the longest are lists of ports (net/ipv4/ip_local_reserved_ports)."""
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO)
"""Some parameters take a value and tell none: net/ipv4/route/flush, and stable_secret until it is set."""


def read(path: str) -> str:
    """The value; raises KernelError naming the path."""
    try:
        descriptor = os.open(f"{ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, LONGEST).decode(errors="surrogateescape").strip()
        finally:
            os.close(descriptor)
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
    set_new(path, value)


def set_new(path: str, value: str) -> None:
    """As write(), for a parameter of a link that has just been made: nobody has set it before."""
    try:
        descriptor = os.open(f"{ROOT}/{path}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode(errors="surrogateescape"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KernelError(f"write sysctl {path} {value}", error.errno or errno.EIO) from None


def refuse_advertisements(interface: str) -> None:
    """A new link of the node takes no router's word; one without IPv6 takes none anyway."""
    try:
        set_new(f"net/ipv6/conf/{interface}/accept_ra", "0")
    except KernelError as error:
        if error.errno != errno.ENOENT:  # a kernel without IPv6, an MTU below 1280
            raise
