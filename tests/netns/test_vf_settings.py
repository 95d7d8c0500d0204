"""Every setting of a virtual function that Linux knows, on netdevsim, which takes them all."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import link, vf
from meta_cni.linux.netlink import Socket
from meta_cni.linux.vf import Rate, Settings, Vlan
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns
from tests.netns.functions import Card

pytestmark = pytest.mark.netdevsim

NETDEVSIM = Path("/sys/bus/netdevsim")
NUMBER = 7
PARENT, ADDRESS = "0000:03:00.0", "0000:03:02.1"
MAC, OTHER_MAC = "02:00:5e:00:53:01", "02:00:5e:00:53:07"


@pytest.fixture
def card(host: Socket) -> Iterator[Card]:
    """One with two functions."""
    before = {each.name for each in link.dump(host)}
    (NETDEVSIM / "new_device").write_text(f"{NUMBER} 1")
    try:
        (made,) = {each.name for each in link.dump(host)} - before
        (NETDEVSIM / "devices" / f"netdevsim{NUMBER}" / "sriov_numvfs").write_text("2")
        yield Card(made, host)
    finally:
        (NETDEVSIM / "del_device").write_text(str(NUMBER))


@pytest.fixture
def sysfs(tmp_path: Path, card: Card) -> Path:
    """A tree like sysfs, for netdevsim's functions are on no bus; without links, they are userspace ones."""
    root = tmp_path / "sys"
    devices, drivers = root / "bus" / "pci" / "devices", root / "bus" / "pci" / "drivers"
    for address, driver in ((PARENT, "netdevsim"), (ADDRESS, "vfio-pci")):
        (devices / address).mkdir(parents=True)
        (drivers / driver).mkdir(parents=True)
        (devices / address / "driver").symlink_to(drivers / driver)
    (devices / PARENT / "net" / card.name).mkdir(parents=True)
    (devices / PARENT / "virtfn1").symlink_to(f"../{ADDRESS}")
    (devices / ADDRESS / "physfn").symlink_to(f"../{PARENT}")
    return root


@pytest.fixture
def asked(tmp_path: Path, sysfs: Path) -> Callable[..., dict[str, Any]]:
    """A configuration for the second function."""
    base = {"cniVersion": "1.1.0", "name": "media", "type": "sriov", "deviceID": ADDRESS}
    return lambda **keys: {**base, "dataDir": str(tmp_path / "sriov"), "sysfs": str(sysfs), **keys}


def told(card: Card) -> list[dict[str, Any]]:
    """What iproute2 tells of all functions."""
    command = ["ip", "-j", "-details", "link", "show", card.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)[0]["vfinfo_list"]
    return found


OPERATORS = (
    *("mac", OTHER_MAC, "vlan", "7", "qos", "1", "proto", "802.1ad", "max_tx_rate", "500"),
    *("min_tx_rate", "50", "spoofchk", "on", "trust", "on", "state", "disable"),
)
EVERY: list[tuple[dict[str, Any], Settings]] = [
    ({"vlan": 100, "vlanQoS": 3, "vlanProto": "802.1ad"}, Settings(vlan=Vlan(100, 3, "802.1ad"))),
    ({"vlan": 4094, "vlanProto": "802.1q"}, Settings(vlan=Vlan(4094))),
    ({"vlan": 0}, Settings(vlan=Vlan(0))),
    ({"mac": MAC}, Settings(mac=MAC)),
    ({"max_tx_rate": 1000}, Settings(rate=Rate(0, 1000))),
    ({"min_tx_rate": 100, "max_tx_rate": 1000}, Settings(rate=Rate(100, 1000))),
    ({"spoofchk": "on"}, Settings(is_spoof_checked=True)),
    ({"spoofchk": "off"}, Settings(is_spoof_checked=False)),
    ({"trust": "on"}, Settings(is_trusted=True)),
    ({"trust": "off"}, Settings(is_trusted=False)),
    *(({"link_state": each}, Settings(link_state=each)) for each in vf.LINK_STATES),
]
ALL = {**EVERY[0][0], **EVERY[3][0], **EVERY[5][0], "spoofchk": "off", "trust": "off", "link_state": "enable"}
EVERY.append((ALL, Settings(Vlan(100, 3, "802.1ad"), MAC, Rate(100, 1000), False, False, "enable")))


@pytest.mark.parametrize("operators", [(), OPERATORS], ids=["as made", "as an operator left it"])
@pytest.mark.parametrize(("keys", "wanted"), EVERY, ids=[json.dumps(keys) for keys, _ in EVERY])
def test_a_setting_is_made_told_and_put_back(
    pod: PodNetns,
    card: Card,
    asked: Callable[..., dict[str, Any]],
    keys: dict[str, Any],
    wanted: Settings,
    operators: tuple[str, ...],
):
    """Nothing else changes, and nothing of the other function."""
    if operators:
        subprocess.run(["ip", "link", "set", card.name, "vf", "1", *operators], check=True)
    before, settings = told(card), card.settings(1)
    sriov = ours("sriov", pod)

    answer, code = sriov("ADD", asked(**keys))

    assert 0 == code, answer
    changed = {name: value for name, value in asdict(wanted).items() if value is not None}
    assert replace(settings, **{name: getattr(wanted, name) for name in changed}) == card.settings(1)
    assert before[0] == told(card)[0]
    assert ({}, 0) == sriov("CHECK", {**asked(**keys), "prevResult": answer})
    assert ({}, 0) == sriov("DEL", asked(**keys))
    assert before == told(card)


def test_every_setting_is_told_as_iproute2_tells_it(pod: PodNetns, card: Card, asked: Callable[..., Any]):
    """By another program than ours."""
    assert 0 == ours("sriov", pod)("ADD", asked(**ALL))[1]

    found = told(card)[1]

    rate, (vlan,) = found["rate"], found["vlan_list"]
    assert (MAC, 100, 1000) == (found["address"], rate["min_tx"], rate["max_tx"])
    assert (100, 3, "802.1ad") == (vlan["vlan"], vlan["qos"], vlan["protocol"].lower())
    assert (False, False, "enable") == (found["spoofchk"], found["trust"], found["link_state"])
    assert ({}, 0) == ours("sriov", pod)("DEL", asked())


@pytest.mark.parametrize("guid", ["node_guid", "port_guid"])
def test_a_guid_that_the_driver_does_not_allow_is_told(host: Socket, card: Card, guid: str):
    """It is a card's without InfiniBand."""
    target = vf.Target(card.index, card.name, 1, "netdevsim")
    before = told(card)

    with pytest.raises(KernelError, match=f"set {guid.replace('_', ' ')} 02:00:5e:00:53:00:00:01 of VF 1 of"):
        vf.apply(host, target, Settings(**{guid: "02:00:5e:00:53:00:00:01"}))

    assert before == told(card)
