"""
Netlink messages put together by hand.

For the codec a veth is 0.4 ms of work, and its import 50 ms; an ADD is to cost little over the
kernel's own time. So what every ADD sends is laid out here as <linux/netlink.h> says, and held
to the codec byte for byte by tests/unit/linux/test_pack.py.
"""

import struct
from collections.abc import Container, Iterator

ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
NUMBER = struct.Struct("=HHI")  # one with a number of 32 bits
PADDING = (b"", bytes(3), bytes(2), bytes(1))
NLA_TYPE_MASK = 0x3FFF
ANY = range(NLA_TYPE_MASK + 1)
IFINFOMSG = struct.Struct("=BxHiII")  # struct ifinfomsg, <linux/rtnetlink.h>


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded for the next one."""
    length = 4 + len(value)
    return ATTRIBUTE.pack(length, kind) + value + PADDING[length & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that is made of others."""
    return attribute(kind, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string with its NUL."""
    return attribute(kind, value.encode(errors="surrogateescape") + b"\0")


def u8(kind: int, value: int) -> bytes:
    """A number of 8 bits."""
    return attribute(kind, bytes((value,)))


def u16(kind: int, value: int) -> bytes:
    """A number of 16 bits, in the machine's order."""
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    """A number of 32 bits, in the machine's order."""
    return NUMBER.pack(NUMBER.size, kind, value)


def link(
    attributes: bytes = b"", *, family: int = 0, index: int = 0, flags: int = 0, change: int = 0
) -> bytes:
    """A message about a link."""
    return IFINFOMSG.pack(family, 0, index, flags, change) + attributes


def split(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message from an offset on: (number, value)."""
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size:
            break
        yield kind & NLA_TYPE_MASK, data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int = 0, wanted: Container[int] = ANY) -> dict[int, bytes]:
    """As split(), by their numbers, those that are wanted: for messages in which each is there once."""
    found: dict[int, bytes] = {}
    unpack = ATTRIBUTE.unpack_from
    end = len(data) - 4
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        if kind & 0x3FFF in wanted:  # NLA_TYPE_MASK
            found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def find(data: bytes, wanted: int, offset: int = 0) -> bytes | None:
    """The first attribute of a number; what stands behind it is not read."""
    unpack = ATTRIBUTE.unpack_from
    end = len(data) - 4
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        if kind & 0x3FFF == wanted:  # NLA_TYPE_MASK
            return data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return None


def without(data: bytes, offset: int, *kinds: int) -> bytes:
    """The attributes of a message from an offset on, but for some."""
    return b"".join(attribute(kind, value) for kind, value in split(data, offset) if kind not in kinds)


def number(value: bytes | None) -> int:
    """A number of 32 bits; 0 where there is no such attribute."""
    return int(struct.unpack("=I", value)[0]) if value else 0


def number16(value: bytes | None) -> int:
    """A number of 16 bits; 0 where there is no such attribute."""
    return int(struct.unpack("=H", value)[0]) if value else 0


def string(value: bytes | None) -> str:
    """A string without its NUL; empty where there is no such attribute."""
    return (value or b"").rstrip(b"\0").decode(errors="surrogateescape")
