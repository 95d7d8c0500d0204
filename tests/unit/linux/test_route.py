"""Messages about routes, byte for byte as <linux/rtnetlink.h> has them."""

import struct
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from meta_cni.linux import route
from meta_cni.linux.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Request
from meta_cni.linux.route import Route

Attribute = Callable[[int, bytes], bytes]
Body = Callable[[Request], bytes]

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE, RTA_VIA = 1, 4, 5, 15, 18
AF_INET, AF_INET6 = 2, 10
UNIVERSE, LINK = 0, 253


def header(family: int, prefix_length: int, table: int, scope: int, flags: int = 0) -> bytes:
    """struct rtmsg of a unicast route by RTPROT_BOOT."""
    return struct.pack("=BBBBBBBBI", family, prefix_length, 0, 0, table, 3, scope, 1, flags)


def number(value: int) -> bytes:
    """A 32-bit number."""
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("destination", "gateway", "family"), [("0.0.0.0/0", "10.0.0.1", AF_INET), ("::/0", "fd00::1", AF_INET6)]
)
def test_a_default_route_has_no_destination(
    attribute: Attribute, body: Body, destination: str, gateway: str, family: int
):
    """As the kernel has it itself."""
    hop = ip_address(gateway)

    actual = body(route.add(Route(ip_network(destination), hop, 7)))

    expected = header(family, 0, 254, UNIVERSE) + attribute(RTA_TABLE, number(254))
    assert expected + attribute(RTA_GATEWAY, hop.packed) + attribute(RTA_OIF, number(7)) == actual


@pytest.mark.parametrize(("text", "scope"), [("10.1.0.0/16", LINK), ("fd01::/64", UNIVERSE)])
def test_a_route_without_gateway_is_on_the_link(attribute: Attribute, body: Body, text: str, scope: int):
    """IPv6 has no scopes; in a large table the header's number is RT_TABLE_COMPAT."""
    wanted = ip_network(text)
    family = AF_INET if wanted.version == 4 else AF_INET6

    actual = body(route.add(Route(wanted, interface_index=7, table=100000)))

    expected = header(family, wanted.prefixlen, 252, scope) + attribute(RTA_TABLE, number(100000))
    expected += attribute(RTA_DST, wanted.network_address.packed) + attribute(RTA_OIF, number(7))
    assert expected == actual


def test_a_gateway_of_the_other_family_names_its_own(attribute: Attribute, body: Body):
    """IPv4 over an IPv6 next hop (RFC 5549)."""
    hop = ip_address("fe80::1")

    actual = body(route.add(Route(ip_network("0.0.0.0/0"), hop, 7)))

    expected = header(AF_INET, 0, 254, UNIVERSE) + attribute(RTA_TABLE, number(254))
    via = struct.pack("=H", AF_INET6) + hop.packed
    assert expected + attribute(RTA_VIA, via) + attribute(RTA_OIF, number(7)) == actual


def test_a_gateway_outside_of_the_subnet_is_marked(body: Body):
    """RTNH_F_ONLINK."""
    actual = body(route.add(Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.1"), 7, is_on_link=True)))

    assert header(AF_INET, 0, 254, UNIVERSE, flags=4) == actual[:12]


def test_an_existing_route_is_only_joined_on_request():
    """Silently having two default routes is worse than an error."""
    wanted = Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), 7)

    flags = route.add(wanted).flags, route.add(wanted, append=True).flags

    assert (NLM_F_CREATE | NLM_F_EXCL, NLM_F_CREATE | NLM_F_APPEND) == flags
