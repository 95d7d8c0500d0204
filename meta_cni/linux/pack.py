"""
Netlink messages put together by hand.

For the codec a veth is 0.4 ms of work, and its import 50 ms; an ADD is to cost little over the
kernel's own time. So what every ADD sends is laid out here as <linux/netlink.h> says, and held
to the codec byte for byte by tests/unit/linux/test_pack.py.
"""

import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
NUMBER = struct.Struct("=HHI")  # one with a number of 32 bits
PADDING = (b"", bytes(3), bytes(2), bytes(1))
NLA_TYPE_MASK = 0x3FFF
MOST_LAYOUTS, AS_LONG = 256, 4
"""Lengths whose layouts are remembered, and layouts of one length."""
FEW_BYTES = 64
"""Of attributes that one goes along as fast."""
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


def attributes(data: bytes, offset: int = 0, wanted: Collection[int] | None = None) -> dict[int, bytes]:
    """As split(), by their numbers, all or those wanted: for messages in which each is there once."""
    places = _places(data, offset)
    if wanted is None:
        return {kind: data[place] for kind, place in places.items()}
    return {kind: data[places[kind]] for kind in wanted if kind in places}


def find(data: bytes, wanted: int, offset: int = 0) -> bytes | None:
    """The attribute of a number."""
    place = _places(data, offset).get(wanted)
    return None if place is None else data[place]


class _Layout(NamedTuple):
    """Where the attributes of a message are."""

    headers: struct.Struct
    """Of all attributes, what is between them passed over."""
    told: tuple[int, ...]
    """Their lengths and numbers."""
    places: dict[int, slice]


_LAYOUTS: dict[tuple[int, int], tuple[_Layout, ...]] = {}
"""
By a message's length and where its attributes begin; empty where such a message was seen once.

A cache and no state: with anything in it, what is found in a message is the same.
"""


def _places(data: bytes, offset: int) -> dict[int, slice]:
    """
    Where the attributes' values are, by their numbers.

    A link has forty, one behind the other: to go along them takes Python ten times as long as to see
    that all of their headers are as in a message before, which one call of struct does. Messages of
    a kind are laid out alike, but for the lengths of names, so few are as long and laid out otherwise.
    """
    if len(data) < FEW_BYTES:
        return _walk(data, offset)[1]
    key = len(data), offset
    known = _LAYOUTS.get(key)
    for each in known or ():
        if each.headers.unpack_from(data) == each.told:
            return each.places
    headers, places = _walk(data, offset)
    if known is None:
        if len(_LAYOUTS) >= MOST_LAYOUTS:
            _LAYOUTS.clear()
        _LAYOUTS[key] = ()
    else:
        _LAYOUTS[key] = (*known, _layout(headers, places))[-AS_LONG:]
    return places


def _walk(data: bytes, offset: int) -> tuple[list[tuple[int, int, int]], dict[int, slice]]:
    """(offset, length, number) of each attribute as it stands there, and where the values are."""
    headers: list[tuple[int, int, int]] = []
    places: dict[int, slice] = {}
    unpack = ATTRIBUTE.unpack_from
    end = len(data) - 4
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        headers.append((offset, length, kind))
        places[kind & NLA_TYPE_MASK] = slice(offset + 4, offset + length)
        offset += length + 3 & ~3
    return headers, places


def _layout(headers: Sequence[tuple[int, int, int]], places: dict[int, slice]) -> _Layout:
    offset, between = 0, "="
    for at, _, _ in headers:
        between += f"{at - offset}xHH"
        offset = at + ATTRIBUTE.size
    told = tuple(number for _, *header in headers for number in header)
    return _Layout(struct.Struct(between), told, places)


def without(data: bytes, offset: int, *kinds: int) -> bytes:
    """The attributes of a message from an offset on, but for some."""
    return b"".join(attribute(kind, value) for kind, value in split(data, offset) if kind not in kinds)


def number(value: bytes | None) -> int:
    """A number of 32 bits; 0 where there is no such attribute."""
    return int.from_bytes(value, sys.byteorder) if value else 0


def number16(value: bytes | None) -> int:
    """A number of 16 bits; 0 where there is no such attribute."""
    return int(struct.unpack("=H", value)[0]) if value else 0


def string(value: bytes | None) -> str:
    """A string without its NUL; empty where there is no such attribute."""
    return (value or b"").rstrip(b"\0").decode(errors="surrogateescape")
