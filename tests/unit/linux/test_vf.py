"""Messages about virtual functions, byte for byte as <linux/if_link.h> has them."""

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.linux import vf
from meta_cni.linux.netlink import Request
from meta_cni.linux.vf import NO_MAC, Rate, Settings, Target, Vlan

Attribute = Callable[[int, bytes], bytes]
Body = Callable[[Request], bytes]

IFLA_VFINFO_LIST, IFLA_VF_INFO = 22, 1
MAC, VLAN, SPOOFCHK, LINK_STATE, RATE, TRUST = 1, 2, 4, 5, 6, 9
NODE_GUID, PORT_GUID, VLAN_LIST, VLAN_INFO = 10, 11, 12, 1
TARGET = Target(parent_index=7, parent="eth1", number=2, driver="igb")
GUID = "02:00:5e:00:53:00:00:01"


def numbers(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def mac(number: int, address: str) -> bytes:
    """struct ifla_vf_mac: 32 octets, whatever the address's length."""
    return numbers(number) + bytes.fromhex(address.replace(":", "")).ljust(32, b"\0")


SET = [
    (Settings(vlan=Vlan(100)), "vlan 100", VLAN, numbers(2, 100, 0)),
    (Settings(vlan=Vlan(100, 3)), "vlan 100 qos 3", VLAN, numbers(2, 100, 3)),
    (Settings(vlan=Vlan(0)), "vlan 0", VLAN, numbers(2, 0, 0)),
    (Settings(mac="02:00:5e:00:53:01"), "mac 02:00:5e:00:53:01", MAC, mac(2, "02:00:5e:00:53:01")),
    (Settings(mac=NO_MAC), f"mac {NO_MAC}", MAC, mac(2, NO_MAC)),
    (Settings(rate=Rate(100, 1000)), "min_tx_rate 100 max_tx_rate 1000", RATE, numbers(2, 100, 1000)),
    (Settings(rate=Rate(100)), "min_tx_rate 100", RATE, numbers(2, 100, 0)),
    (Settings(rate=Rate()), "max_tx_rate 0", RATE, numbers(2, 0, 0)),
    (Settings(is_spoof_checked=True), "spoofchk on", SPOOFCHK, numbers(2, 1)),
    (Settings(is_spoof_checked=False), "spoofchk off", SPOOFCHK, numbers(2, 0)),
    (Settings(is_trusted=True), "trust on", TRUST, numbers(2, 1)),
    (Settings(is_trusted=False), "trust off", TRUST, numbers(2, 0)),
    (Settings(link_state="auto"), "link_state auto", LINK_STATE, numbers(2, 0)),
    (Settings(link_state="enable"), "link_state enable", LINK_STATE, numbers(2, 1)),
    (Settings(link_state="disable"), "link_state disable", LINK_STATE, numbers(2, 2)),
    (Settings(node_guid=GUID), f"node guid {GUID}", NODE_GUID, struct.pack("@IQ", 2, 0x02005E0053000001)),
    (Settings(port_guid=GUID), f"port guid {GUID}", PORT_GUID, struct.pack("@IQ", 2, 0x02005E0053000001)),
]


@pytest.mark.parametrize(("wanted", "told", "kind", "value"), SET, ids=[each[1] for each in SET])
def test_a_setting_is_one_message(
    wanted: Settings, told: str, kind: int, value: bytes, attribute: Attribute, body: Body
):
    """So that a driver's refusal names it, with the VF, the PF and the driver."""
    (request,) = vf.requests(TARGET, wanted)

    expected = struct.pack("=BxHiII", 0, 0, 7, 0, 0) + attribute(
        IFLA_VFINFO_LIST, attribute(IFLA_VF_INFO, attribute(kind, value))
    )
    assert expected == body(request)
    assert f"set {told} of VF 2 of eth1 (igb)" == request.action


def test_a_service_vlan_has_its_protocol_in_the_networks_order(attribute: Attribute, body: Body):
    """802.1ad; the older attribute can say only 802.1Q. On a big-endian machine it is the same."""
    (request,) = vf.requests(TARGET, Settings(vlan=Vlan(100, 3, "802.1ad")))

    information = attribute(VLAN_INFO, numbers(2, 100, 3) + b"\x88\xa8\0\0")
    listed = attribute(VLAN_LIST, information)
    expected = attribute(IFLA_VFINFO_LIST, attribute(IFLA_VF_INFO, listed))
    assert expected == body(request)[16:]
    assert "set vlan 100 qos 3 protocol 802.1ad of VF 2 of eth1 (igb)" == request.action


GUID_OF_THE_HEADER = """
#include <stdio.h>
#include <linux/if_link.h>
int main(void)
{
	struct ifla_vf_guid guid = {.vf = 2, .guid = 0x02005e0053000001ULL};
	printf("%d %d ", IFLA_VF_IB_NODE_GUID, IFLA_VF_IB_PORT_GUID);
	for (unsigned each = 0; each < sizeof guid; each++)
		printf("%02x", ((unsigned char *)&guid)[each]);
	return 0;
}
"""


def test_a_guid_is_laid_out_as_in_the_kernel_s_header(tmp_path: Path, attribute: Attribute, body: Body):
    """No card here takes one, so nothing else would tell."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    (tmp_path / "guid.c").write_text(GUID_OF_THE_HEADER)
    subprocess.run(["cc", "-o", tmp_path / "guid", tmp_path / "guid.c"], check=True)
    node, port, octets = subprocess.run([tmp_path / "guid"], capture_output=True, text=True).stdout.split()

    packed = [body(each)[16:] for each in vf.requests(TARGET, Settings(node_guid=GUID, port_guid=GUID))]

    value = bytes.fromhex(octets)
    expected = [attribute(int(kind), value) for kind in (node, port)]
    assert [attribute(IFLA_VFINFO_LIST, attribute(IFLA_VF_INFO, each)) for each in expected] == packed


def test_where_there_was_no_guid_it_is_taken_away_again():
    """A card refuses 0, which is what it tells at first; some drivers tell none."""
    before = Settings(node_guid="00:00:00:00:00:00:00:00")
    own = Settings(node_guid=GUID, port_guid=GUID)

    assert Settings(node_guid="ff:" * 7 + "ff", port_guid="ff:" * 7 + "ff") == vf.with_guids(before)
    assert own == vf.with_guids(own)


def test_settings_are_made_in_the_reference_plugin_s_order():
    """Some drivers take a spoof check only with an address, and trust only at the end."""
    wanted = Settings(Vlan(1), NO_MAC, Rate(1, 2), True, True, "enable", GUID, GUID)

    told = [each.action.removeprefix("set ").split()[0] for each in vf.requests(TARGET, wanted)]

    assert ["vlan", "mac", "min_tx_rate", "spoofchk", "trust", "link_state", "node", "port"] == told


def information(attribute: Attribute, number: int, *more: tuple[int, bytes]) -> bytes:
    """One VF as a kernel tells it."""
    packed = [attribute(MAC, mac(number, f"02:00:5e:00:53:{number:02x}"))]
    packed += [attribute(kind, value) for kind, value in more]
    return attribute(IFLA_VF_INFO, b"".join(packed))


def told(attribute: Attribute, *vfs: bytes) -> bytes:
    """RTM_NEWLINK of the PF, with its netlink header."""
    return bytes(16) + bytes(16) + attribute(3, b"eth1\0") + attribute(IFLA_VFINFO_LIST, b"".join(vfs))


def test_a_vf_is_read_among_others(attribute: Attribute):
    """By its number, not by its place: a PF may leave some out."""
    vlans = attribute(VLAN_INFO, numbers(2, 100, 3) + b"\x88\xa8\0\0")
    other = information(attribute, 0, (VLAN, numbers(0, 5, 0)))
    own = information(
        attribute,
        2,
        (VLAN, numbers(2, 100, 3)),
        (VLAN_LIST, vlans),
        (RATE, numbers(2, 100, 1000)),
        (SPOOFCHK, numbers(2, 1)),
        (TRUST, numbers(2, 0)),
        (LINK_STATE, numbers(2, 2)),
        (NODE_GUID, struct.pack("@IQ", 2, 0x02005E0053000001)),
    )

    expected = Settings(
        vlan=Vlan(100, 3, "802.1ad"),
        mac="02:00:5e:00:53:02",
        rate=Rate(100, 1000),
        is_spoof_checked=True,
        is_trusted=False,
        link_state="disable",
        node_guid=GUID,
    )
    assert expected == vf.parse(told(attribute, other, own), 2)


def test_an_infiniband_vf_has_no_address_that_could_be_put_back(attribute: Attribute):
    """Its PF tells its own, of which a part changes whenever it is brought up (ipoib_get_vf_config())."""
    own = information(attribute, 2, (NODE_GUID, struct.pack("@IQ", 2, 0x02005E0053000001)))
    ethernet = told(attribute, own)
    infiniband = ethernet[:18] + struct.pack("=H", 32) + ethernet[20:]

    assert Settings(node_guid=GUID) == vf.parse(infiniband, 2)


def test_what_a_driver_does_not_tell_is_none(attribute: Attribute):
    """It tells -1, or nothing at all; so nothing of it is put back."""
    unknown = 0xFFFFFFFF
    own = information(attribute, 1, (SPOOFCHK, numbers(1, unknown)), (TRUST, numbers(1, unknown)))

    assert Settings(mac="02:00:5e:00:53:01") == vf.parse(told(attribute, own), 1)


def test_a_vf_that_is_not_there_is_none(attribute: Attribute):
    """The PF has fewer, or its driver tells of none."""
    assert vf.parse(told(attribute, information(attribute, 0)), 1) is None
    assert vf.parse(told(attribute), 1) is None


def test_only_what_is_another_value_is_changed():
    """A driver that refuses a setting is not asked for it when nothing is to be changed."""
    wanted = Settings(vlan=Vlan(100), is_trusted=True, link_state="auto")
    now = Settings(vlan=Vlan(100), is_trusted=False, link_state="auto", mac=NO_MAC)

    assert Settings(is_trusted=True) == wanted.differing(now)


def test_only_what_was_asked_for_is_put_back():
    """What others set meanwhile stays theirs."""
    before = Settings(vlan=Vlan(0), is_trusted=False, link_state="auto", mac=NO_MAC)

    assert Settings(vlan=Vlan(0)) == before.among(Settings(vlan=Vlan(100), rate=Rate(1, 2)))
