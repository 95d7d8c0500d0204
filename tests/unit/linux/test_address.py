"""Messages about addresses, byte for byte as <linux/if_addr.h> has them."""

import struct
from collections.abc import Callable
from ipaddress import ip_address, ip_interface

import pytest

from meta_cni.linux import address
from meta_cni.linux.netlink import Request

Attribute = Callable[[int, bytes], bytes]
Body = Callable[[Request], bytes]

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
AF_INET, AF_INET6 = 2, 10


def header(family: int, prefix_length: int, flags: int, index: int) -> bytes:
    """struct ifaddrmsg."""
    return struct.pack("=BBBBI", family, prefix_length, flags, 0, index)


@pytest.mark.parametrize(
    ("text", "broadcast"),
    [("10.0.0.2/24", "10.0.0.255"), ("10.0.0.2/30", "10.0.0.3"), ("10.0.0.2/31", ""), ("10.0.0.2/32", "")],
)
def test_ipv4_has_a_broadcast_address_where_its_network_has_one(
    attribute: Attribute, body: Body, text: str, broadcast: str
):
    """A network of two or of one address has none to spare (RFC 3021)."""
    wanted = ip_interface(text)

    actual = body(address.add(7, wanted))

    expected = header(AF_INET, wanted.network.prefixlen, 0, 7)
    expected += attribute(IFA_LOCAL, wanted.ip.packed) + attribute(IFA_ADDRESS, wanted.ip.packed)
    if broadcast:
        expected += attribute(IFA_BROADCAST, ip_address(broadcast).packed)
    assert expected == actual


@pytest.mark.parametrize(("is_nodad", "flags"), [(True, 2), (False, 0)])
def test_ipv6_says_whether_it_is_known_to_be_free(
    attribute: Attribute, body: Body, is_nodad: bool, flags: int
):
    """IFA_F_NODAD, in the header and in its attribute."""
    wanted = ip_interface("fd00::2/64")

    actual = body(address.add(7, wanted, is_nodad=is_nodad))

    expected = header(AF_INET6, 64, flags, 7)
    expected += attribute(IFA_LOCAL, wanted.ip.packed) + attribute(IFA_ADDRESS, wanted.ip.packed)
    if flags:
        expected += attribute(IFA_FLAGS, struct.pack("=I", flags))
    assert expected == actual
