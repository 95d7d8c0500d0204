"""Messages about ipvlans, VLANs, VRFs and bonds, byte for byte as <linux/if_link.h> has them."""

import struct
from collections.abc import Callable

import pytest

from meta_cni.linux import bond, link, upper, vrf
from meta_cni.linux.bond import Options
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import HEADER, Request

Attribute = Callable[[int, bytes], bytes]
Body = Callable[[Request], bytes]

IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO, IFLA_GROUP, IFLA_NET_NS_FD = 3, 4, 5, 18, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
MASTER = Link(4, "up0")


def header(flags: int = 0) -> bytes:
    """struct ifinfomsg, <linux/rtnetlink.h>."""
    return struct.pack("=BxHiII", 0, 0, 0, flags, flags)


def number(value: int) -> bytes:
    """A 32-bit number."""
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("request_", "kind", "data"),
    [
        (upper.create_ipvlan("net1", MASTER, "l3s", pod_fd=5, mtu=1400, group=7), b"ipvlan\0", b"\2\0"),
        (upper.create_vlan("net1", MASTER, 4094, pod_fd=5, mtu=1400, group=7), b"vlan\0", b"\xfe\x0f"),
    ],
    ids=["ipvlan", "vlan"],
)
def test_a_link_on_another_one_is_made_in_the_pod(
    request_: Request, kind: bytes, data: bytes, attribute: Attribute, body: Body
):
    """Mode and VLAN are the first attribute of their kinds, of 16 bits."""
    info = attribute(IFLA_INFO_KIND, kind) + attribute(IFLA_INFO_DATA, attribute(1, data))
    expected = (
        header()
        + attribute(IFLA_IFNAME, b"net1\0")
        + attribute(IFLA_LINK, number(4))
        + attribute(IFLA_NET_NS_FD, number(5))
        + attribute(IFLA_MTU, number(1400))
        + attribute(IFLA_GROUP, number(7))
        + attribute(IFLA_LINKINFO, info)
    )

    assert expected == body(request_)
    assert f"create {kind[:-1].decode()} net1 on up0" == request_.action


def test_a_vrf_is_made_up_with_its_table(attribute: Attribute, body: Body):
    """Links of a VRF that is down reach nobody."""
    data = attribute(IFLA_INFO_DATA, attribute(1, number(1000)))
    expected = (
        header(link.IFF_UP)
        + attribute(IFLA_IFNAME, b"blue\0")
        + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"vrf\0") + data)
    )

    assert expected == body(vrf.create("blue", 1000))


def test_a_bond_is_made_with_its_options(attribute: Attribute, body: Body):
    """Only those that are chosen; of 8 bits but for the time."""
    options = Options("802.3ad", 100, {bond.IFLA_BOND_FAIL_OVER_MAC: 1, bond.IFLA_BOND_XMIT_HASH_POLICY: 5})
    data = attribute(1, b"\4") + attribute(3, number(100)) + attribute(13, b"\1") + attribute(14, b"\5")
    expected = (
        header()
        + attribute(IFLA_IFNAME, b"net3\0")
        + attribute(IFLA_MTU, number(9000))
        + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bond\0") + attribute(IFLA_INFO_DATA, data))
    )

    assert expected == body(bond.create("net3", options, mtu=9000))


def told(attribute: Attribute, kind: bytes, data: bytes) -> Link:
    """A link as the kernel tells it."""
    info = attribute(IFLA_INFO_KIND, kind + b"\0") + attribute(IFLA_INFO_DATA, data)
    return link.parse(bytes(HEADER.size) + header() + attribute(IFLA_LINKINFO, info))


def test_what_a_kind_has_is_read(attribute: Attribute):
    """Without the codec; of another kind it is nothing."""
    ipvlan = told(attribute, b"ipvlan", attribute(1, b"\1\0"))
    vlan = told(attribute, b"vlan", attribute(1, b"\7\0"))
    made = told(attribute, b"vrf", attribute(1, number(300)))

    assert ("l3", "") == (upper.ipvlan_mode(ipvlan), upper.ipvlan_mode(vlan))
    assert (7, None) == (upper.vlan_id(vlan), upper.vlan_id(ipvlan))
    assert (300, 0, 0) == (vrf.table_of(made), vrf.table_of(vlan), vrf.table_of(None))


def test_the_options_of_a_bond_are_read(attribute: Attribute):
    """As far as they are wanted."""
    data = attribute(1, b"\1") + attribute(3, number(50)) + attribute(13, b"\2") + attribute(17, b"\1")
    wanted = Options("active-backup", 50, {bond.IFLA_BOND_ALL_SLAVES_ACTIVE: 1})

    assert wanted == bond.options_of(told(attribute, b"bond", data), wanted)
    assert "" == bond.options_of(told(attribute, b"vlan", attribute(1, b"\7\0")), wanted).mode


def test_the_mac_of_a_bond_s_member_is_its_own(attribute: Attribute):
    """The bond may give all its members one; a CHECK of the network that made it knows another."""
    own, given = bytes.fromhex("02005e005302"), bytes.fromhex("02005e005301")

    def member_of(kind: bytes) -> Link:
        info = attribute(4, kind + b"\0") + attribute(5, attribute(4, own))
        return link.parse(
            bytes(HEADER.size) + header() + attribute(1, given) + attribute(IFLA_LINKINFO, info)
        )

    assert "02:00:5e:00:53:02" == link.own_mac(member_of(b"bond"))
    assert "02:00:5e:00:53:01" == link.own_mac(member_of(b"bridge"))


def test_a_second_mac_is_another_one_and_is_known_again():
    """It is of the kind that nobody was given, and no group's."""
    one, other = Link(1, "net1", mac="02:00:5e:00:53:01"), Link(2, "net2", mac="02:00:5e:00:53:01")
    apart = Link(3, "net3", mac="02:00:5e:00:53:03")

    ((member, mac),) = bond.duplicates([one, other, apart]).items()

    assert other == member
    assert 2 == int(mac[:2], 16)
    changed = Link(2, "net2", mac=mac)
    assert {changed: one.mac} == bond.disguised([one, changed, apart])
    assert {} == bond.disguised([one, other, apart])
