"""Messages about links, byte for byte as <linux/if_link.h> has them."""

import re
import struct
from collections.abc import Callable

import pytest

from meta_cni.linux import link
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Request

Attribute = Callable[[int, bytes], bytes]
Body = Callable[[Request], bytes]

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_GROUP, IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 27, 28, 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7


def header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """struct ifinfomsg, <linux/rtnetlink.h>."""
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def number(value: int) -> bytes:
    """A 32-bit number."""
    return struct.pack("=I", value)


def test_a_veth_says_everything_in_one_message(attribute: Attribute, body: Body):
    """Queues, name, MAC, MTU, group and namespace of the peer; master and up of the host end."""
    macs = {"mac": "02:00:5e:00:53:01", "host_mac": "02:00:5e:00:53:02"}
    request = link.create_veth("veth0", "net1", 5, **macs, mtu=1400, group=7, master=9)

    actual = body(request)

    one_queue = attribute(IFLA_NUM_TX_QUEUES, number(1)) + attribute(IFLA_NUM_RX_QUEUES, number(1))
    peer = (
        header()
        + attribute(IFLA_IFNAME, b"net1\0")
        + attribute(IFLA_NET_NS_FD, number(5))
        + one_queue
        + attribute(IFLA_ADDRESS, bytes.fromhex("02005e005301"))
        + attribute(IFLA_MTU, number(1400))
        + attribute(IFLA_GROUP, number(7))
    )
    data = attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    expected = (
        header(flags=link.IFF_UP, change=link.IFF_UP)
        + attribute(IFLA_IFNAME, b"veth0\0")
        + one_queue
        + attribute(IFLA_ADDRESS, bytes.fromhex("02005e005302"))
        + attribute(IFLA_MTU, number(1400))
        + attribute(IFLA_MASTER, number(9))
        + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth\0") + data)
    )
    assert expected == actual
    assert (link.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO) == (request.type, request.flags)
    assert "create veth net1 with peer veth0" == request.action


def test_a_macvlan_says_its_mode_and_queue(attribute: Attribute, body: Body):
    """The queue is an attribute that the codec learns from us."""
    request = link.create_macvlan("net1", Link(4, "up0"), "vepa", pod_fd=5, broadcast_queue_length=3000)

    actual = body(request)

    data = attribute(IFLA_MACVLAN_MODE, number(2)) + attribute(IFLA_MACVLAN_BC_QUEUE_LEN, number(3000))
    info = attribute(IFLA_INFO_KIND, b"macvlan\0") + attribute(IFLA_INFO_DATA, data)
    expected = (
        header()
        + attribute(IFLA_IFNAME, b"net1\0")
        + attribute(IFLA_LINK, number(4))
        + attribute(IFLA_NET_NS_FD, number(5))
        + attribute(IFLA_LINKINFO, info)
    )
    assert expected == actual


def test_a_group_is_deleted_by_its_number_alone(attribute: Attribute, body: Body):
    """A name or an index beside it would delete that link instead."""
    assert header() + attribute(IFLA_GROUP, number(0x4D000001)) == body(link.delete_group(0x4D000001))


@pytest.mark.parametrize(
    ("wanted", "flags", "change"),
    [
        ({}, 0, 0),
        ({"is_up": True}, 1, 1),
        ({"is_up": False}, 0, 1),
        ({"is_up": True, "is_promiscuous": False}, 1, 0x101),
        ({"is_promiscuous": True}, 0x100, 0x100),
    ],
)
def test_only_given_flags_are_changed(body: Body, wanted: dict[str, bool], flags: int, change: int):
    """The mask says which."""
    assert header(3, flags, change) == body(link.set_link(3, **wanted))


def test_a_random_name_fits_and_is_another_each_time():
    """IFNAMSIZ is 16 with its zero."""
    names = {link.random_veth_name() for _ in range(100)}

    assert 100 == len(names)
    assert all(re.fullmatch(r"veth[0-9a-f]{8}", each) for each in names)


def test_a_mac_of_ours_is_of_one_station_and_of_nobody_s_make():
    """The kernel refuses a group's; one of a maker's may be on the network already."""
    found = [link.random_mac() for _ in range(100)]

    assert 100 == len(set(found))
    assert {2} == {int(each[:2], 16) & 3 for each in found}
    assert {17} == set(map(len, found))
