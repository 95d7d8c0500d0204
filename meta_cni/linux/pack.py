"""
Netlink messages put together by hand.

For the codec a veth is 0.4 ms of work, and its import 50 ms; an ADD is to cost little over the
kernel's own time. So what every ADD sends is laid out here as <linux/netlink.h> says, and held
to the codec byte for byte by tests/unit/linux/test_pack.py.
"""

import struct

ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
IFINFOMSG = struct.Struct("=BxHiII")  # struct ifinfomsg, <linux/rtnetlink.h>


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded for the next one."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that is made of others."""
    return attribute(kind, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """A number of 8 bits."""
    return attribute(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    """A number of 32 bits, in the machine's order."""
    return attribute(kind, struct.pack("=I", value))


def link(
    attributes: bytes = b"", *, family: int = 0, index: int = 0, flags: int = 0, change: int = 0
) -> bytes:
    """A message about a link."""
    return IFINFOMSG.pack(family, 0, index, flags, change) + attributes
