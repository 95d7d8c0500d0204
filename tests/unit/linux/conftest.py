"""Messages put together by hand from the kernel's headers."""

import struct
from collections.abc import Callable

import pytest

from meta_cni.linux.netlink import Request, encode

Attribute = Callable[[int, bytes], bytes]


@pytest.fixture
def attribute() -> Attribute:
    """struct nlattr, <linux/netlink.h>, padded to four bytes."""

    def pack(kind: int, body: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)

    return pack


@pytest.fixture
def body() -> Callable[[Request], bytes]:
    """A message as it is sent, without its netlink header."""

    def cut(request: Request) -> bytes:
        data = encode(request.message, request.type, request.flags, 1)
        assert len(data) == struct.unpack_from("=I", data)[0]
        return data[16:]

    return cut
