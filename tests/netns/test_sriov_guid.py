"""
The built-in sriov's InfiniBand GUIDs, as far as there is no card for them.

What decides is real: a link that is of InfiniBand for the kernel, which a tap can be told to be. It
has no virtual functions, so the messages of a GUID are tested as bytes alone (tests/unit/linux/test_vf.py).
"""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.linux import link
from meta_cni.linux.link import ARPHRD_INFINIBAND
from meta_cni.linux.netlink import Socket
from meta_cni.linux.tuntap import DEVICE, IFF_NO_PI, IFF_TAP, TUNSETIFF
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns

ARPHRD_ETHER = 1  # <linux/if_arp.h>
TUNSETLINK = 0x400454CD  # <linux/if_tun.h>
PARENT, ADDRESS = "0000:03:00.0", "0000:03:02.1"
GUID = "c2:11:22:33:44:55:66:77"
Add = Callable[..., dict[str, Any]]


@pytest.fixture(params=[ARPHRD_INFINIBAND, ARPHRD_ETHER], ids=["InfiniBand", "Ethernet"])
def card(request: pytest.FixtureRequest, host: Socket) -> Iterator[int]:
    """The link of a PF, and of what kind it is."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("=16sH22x", b"pf0", IFF_TAP | IFF_NO_PI))
    fcntl.ioctl(descriptor, TUNSETLINK, request.param)
    yield request.param
    os.close(descriptor)


@pytest.fixture
def refused(tmp_path: Path, pod: PodNetns) -> Add:
    """ADD of a VF of the card, as it fails; nothing is left of it."""
    devices, drivers = (tmp_path / "sys" / "bus" / "pci" / each for each in ("devices", "drivers"))
    for address, driver in ((PARENT, "mlx5_core"), (ADDRESS, "vfio-pci")):
        (devices / address).mkdir(parents=True)
        (drivers / driver).mkdir(parents=True)
        (devices / address / "driver").symlink_to(drivers / driver)
    (devices / PARENT / "net" / "pf0").mkdir(parents=True)
    (devices / PARENT / "virtfn1").symlink_to(f"../{ADDRESS}")
    (devices / ADDRESS / "physfn").symlink_to(f"../{PARENT}")
    base = {"cniVersion": "1.1.0", "name": "media", "type": "sriov", "deviceID": ADDRESS}
    base |= {"dataDir": str(tmp_path / "sriov"), "sysfs": str(tmp_path / "sys")}

    def add(**keys: Any) -> dict[str, Any]:
        answer, code = ours("sriov", pod)("ADD", {**base, **keys})
        assert code == 1, answer
        left = [each for each in (tmp_path / "sriov").rglob("*") if each.is_file() and each.suffix != ".lock"]
        assert [] == left
        return answer

    return add


ASKED = [{"runtimeConfig": {"infinibandGUID": GUID.upper()}}, {"args": {"cni": {"guid": GUID}}}]


@pytest.mark.parametrize("asked", ASKED, ids=["of the runtime", "of the network"])
def test_a_guid_is_for_infiniband(card: int, refused: Add, asked: dict[str, Any]):
    """On Ethernet nothing is touched for it; on InfiniBand it would be set, were there a VF."""
    answer = refused(**asked)

    told = {
        ARPHRD_ETHER: f"infinibandGUID {GUID}: VF 1 of pf0 (mlx5_core) is not on InfiniBand: "
        "expected a VF that is, or no GUID",
        ARPHRD_INFINIBAND: "VF 1 of pf0 (mlx5_core) has no settings: "
        "expected a driver that tells them, or a configuration without any",
    }
    assert (7, True) == (answer["code"], answer["msg"].endswith(told[card])), answer


def test_what_the_runtime_says_goes_before_the_network_s_own(card: int, refused: Add):
    """As in ib-sriov-cni."""
    other = "c2:11:22:33:44:55:66:88"

    answer = refused(runtimeConfig={"infinibandGUID": other}, args={"cni": {"guid": GUID}})

    assert GUID not in answer["msg"]
    assert (other in answer["msg"]) == (card == ARPHRD_ETHER)


@pytest.mark.parametrize("card", [ARPHRD_INFINIBAND], indirect=True)
def test_a_mac_is_not_for_infiniband(card: int, host: Socket, refused: Add):
    """Card and fabric make it; ib-sriov-cni does not know the key."""
    assert link.require(host, "pf0", "card").is_infiniband

    answer = refused(mac="02:00:5e:00:53:01")

    told = "mac 02:00:5e:00:53:01: VF 1 of pf0 (mlx5_core) is on InfiniBand: expected runtimeConfig.infini"
    assert (7, True) == (answer["code"], told in answer["msg"]), answer


@pytest.mark.parametrize(
    "guid",
    [
        "00:00:00:00:00:00:00:00",
        "ff:FF:ff:ff:ff:ff:ff:ff",
        "c2:11:22:33:44:55:66",
        "c2:11:22:33:44:55:66:77:88",
        "c211.2233.4455",
        "guid",
    ],
)
@pytest.mark.parametrize("card", [ARPHRD_INFINIBAND], indirect=True)
def test_what_is_no_guid_is_refused(card: int, refused: Add, guid: str):
    """All 0 and all ff are no port's; ib-sriov-cni takes the latter."""
    answer = refused(runtimeConfig={"infinibandGUID": guid})

    told = f"infinibandGUID '{guid}': expected 8 bytes like c2:11:22:33:44:55:66:77"
    assert (7, True) == (answer["code"], told in answer["msg"]), answer
