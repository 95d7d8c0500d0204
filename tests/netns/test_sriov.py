"""The built-in sriov on real virtual functions: what the card, the pod and the node see of them."""

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import link, netns, vf, vf_release
from meta_cni.linux.netlink import Socket
from meta_cni.linux.vf import Rate, Settings, Vlan
from meta_cni.linux.vf_claims import Before, Claim
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns
from tests.netns.functions import Card, State
from tests.netns.traffic import is_reached, is_refused, source_seen

pytestmark = pytest.mark.igb

CARRIER_S = 15.0
"""igbvf looks for its link every two seconds of a slow clock."""
MAC, OTHER_MAC = "02:00:5e:00:53:01", "02:00:5e:00:53:02"
GUID = "c2:11:22:33:44:55:66:77"


@dataclass
class Made:
    """The VFs that there are, as they were made."""

    addresses: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def is_so(self, card: Card) -> bool:
        """Has no test left them another way?"""
        return card.count() == len(self.addresses) > 0 and self.states == card.states(self.addresses)


@pytest.fixture(scope="module")
def made(card_names: list[str]) -> Made:
    return Made()


@pytest.fixture
def card(card_names: list[str], host: Socket) -> Card:
    return Card(card_names[0], host)


@pytest.fixture
def vfs(card: Card, made: Made) -> list[str]:
    """Three of them, by their addresses; to make them takes seconds, so only where it is needed."""
    if not made.is_so(card):
        made.addresses = card.make(3)
        made.states = card.states(made.addresses)
    return made.addresses


@pytest.fixture
def asked(tmp_path: Path, vfs: list[str]) -> Callable[..., dict[str, Any]]:
    """A configuration for the first VF."""

    def make(**keys: Any) -> dict[str, Any]:
        base = {"cniVersion": "1.1.0", "name": "media", "type": "sriov", "deviceID": vfs[0]}
        return {**base, "dataDir": str(tmp_path / "sriov"), **keys}

    return make


@pytest.fixture
def as_it_was(card: Card, vfs: list[str], tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Compare every VF with what it was when the test began, and look for files; also done at the end."""
    before = card.states(vfs)

    def compare() -> None:
        assert before == card.states(vfs)
        assert [] == claims(tmp_path)

    yield compare
    compare()


def claims(directory: Path) -> list[str]:
    """The files of the claims, locks aside."""
    found = (directory / "sriov").rglob("*")
    return sorted(each.name for each in found if each.is_file() and each.suffix != ".lock")


def add(pod: PodNetns, config: dict[str, Any], **variables: str) -> dict[str, Any]:
    answer, code = ours("sriov", pod)("ADD", config, **variables)
    assert code == 0, answer
    return answer


def delete(pod: PodNetns, config: dict[str, Any], **variables: str) -> None:
    assert ({}, 0) == ours("sriov", pod)("DEL", config, **variables)


def addressed(last: int) -> dict[str, Any]:
    return {"type": "static", "addresses": [{"address": f"10.1.0.{last}/24"}]}


EVERYTHING = {
    "vlan": 100,
    "vlanQoS": 3,
    "mac": MAC.upper(),
    "spoofchk": "off",
    "trust": "on",
    "max_tx_rate": 100,
    "mtu": 1400,
    "all_multicast": "on",
    "ipam": addressed(1),
}


def test_a_vf_is_set_up_and_in_the_pod_and_is_as_it_was_afterwards(
    pod: PodNetns,
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
):
    """Its settings on the card, its name, MAC and MTU in the pod; other VFs are not touched."""
    others = card.states(vfs)[1:]
    config = asked(**EVERYTHING)

    answer = add(pod, config)

    told = {"name": "eth0", "mac": MAC, "mtu": 1400, "sandbox": pod.path, "pciID": vfs[0]}
    assert [told] == answer["interfaces"]
    inside = link.require(pod.socket, "eth0", "VF")
    assert (MAC, 1400, True, True) == (inside.mac, inside.mtu, inside.is_up, inside.is_allmulti)
    assert vfs[0] == inside.device
    assert {"10.1.0.1/24"} == pod.addresses("eth0")
    expected = Settings(Vlan(100, 3), MAC, Rate(0, 100), False, True, "auto")
    assert expected == card.settings(0)
    assert (None, others) == (card.link_of(vfs[0]), card.states(vfs)[1:])
    assert ({}, 0) == ours("sriov", pod)("CHECK", {**config, "prevResult": answer})

    delete(pod, config)
    as_it_was()
    delete(pod, config)


def test_a_vf_without_settings_is_only_moved(
    pod: PodNetns, card: Card, vfs: list[str], asked: Callable[..., dict[str, Any]], tmp_path: Path
):
    """An absent key leaves its setting as it is; the VF may have been up on the node."""
    found = card.link_of(vfs[0])
    assert found is not None
    card.host.request([link.set_link(found.index, is_up=True)])
    before, others = card.state(0, vfs[0]), card.states(vfs)[1:]

    def settings() -> Settings:
        """igb tells the address that the VF chose, some time after it is up."""
        return replace(card.settings(0), mac=before.settings.mac)

    answer = add(pod, asked())
    assert before.settings == settings()
    assert (found.mac, found.mtu) == (answer["interfaces"][0]["mac"], answer["interfaces"][0]["mtu"])

    delete(pod, asked())
    assert (before.settings, before.link) == (settings(), card.state(0, vfs[0]).link)
    assert (others, []) == (card.states(vfs)[1:], claims(tmp_path))


REFUSED = [
    ({"vlan": 100, "vlanProto": "802.1ad"}, "set vlan 100 protocol 802.1ad", "Protocol not supported"),
    ({"min_tx_rate": 100, "vlan": 100, "mac": MAC}, "set min_tx_rate 100", "Invalid argument"),
    ({"link_state": "enable", **EVERYTHING}, "set link_state enable", "Operation not supported"),
]


@pytest.mark.parametrize(("keys", "setting", "word"), REFUSED, ids=[each[1] for each in REFUSED])
def test_what_the_driver_refuses_is_told_and_all_else_is_put_back(
    pod: PodNetns,
    card: Card,
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
    keys: dict[str, Any],
    setting: str,
    word: str,
):
    """By the names that an operator looks for: PF, VF, setting, driver."""
    answer, code = ours("sriov", pod)("ADD", asked(**keys))

    assert (1, 100) == (code, answer["code"])
    assert answer["msg"].startswith(f"{setting} of VF 0 of {card.name} (igb): "), answer
    assert answer["msg"].endswith(word)
    assert [] == pod.links()
    as_it_was()


ASKED_GUID = [{"runtimeConfig": {"infinibandGUID": GUID}}, {"args": {"cni": {"guid": GUID}}}]


@pytest.mark.parametrize("keys", ASKED_GUID, ids=["of the runtime", "of the network"])
def test_a_guid_is_refused_on_ethernet_before_anything_is_touched(
    pod: PodNetns,
    card: Card,
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
    keys: dict[str, Any],
):
    """By PF, VF, setting and driver."""
    answer, code = ours("sriov", pod)("ADD", asked(**EVERYTHING, **keys))

    told = f"infinibandGUID {GUID}: VF 0 of {card.name} (igb) is not on InfiniBand: "
    assert (1, 7) == (code, answer["code"])
    assert answer["msg"].endswith(f"{told}expected a VF that is, or no GUID"), answer
    assert [] == pod.links()
    as_it_was()


@pytest.mark.parametrize("is_bound", [True, False], ids=["bound", "killed in between"])
def test_a_vf_with_a_guid_is_given_to_its_driver_anew(
    pod: PodNetns,
    card: Card,
    vfs: list[str],
    as_it_was: Callable[[], None],
    tmp_path: Path,
    is_bound: bool,
):
    """A driver asks for its GUIDs then; igb has none, but VFs that are bound. Its link is as it was."""
    found = card.link_of(vfs[0])
    assert found is not None
    wanted, before = Settings(node_guid=GUID, port_guid=GUID), card.settings(0)
    own = Before(found.name, found.mac, found.mtu)
    claim = Claim("c1", "eth0", vfs[0], card.name, 0, wanted, before, own, "media", pod.path)
    if not is_bound:
        (Path("/sys/bus/pci/devices") / vfs[0] / "driver" / "unbind").write_text(vfs[0])

    vf_release.release(claim)

    after = card.link_of(vfs[0])
    assert after is not None
    assert found.index != after.index
    as_it_was()


def test_an_mtu_that_the_driver_refuses_is_told(
    pod: PodNetns, vfs: list[str], asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None]
):
    """By then the link is in the pod; it comes back."""
    answer, code = ours("sriov", pod)("ADD", asked(vlan=100, mtu=60000))

    assert 1 == code
    assert answer["msg"].startswith(f"set mtu 60000 of eth0 (VF {vfs[0]}, igbvf): "), answer
    assert [] == pod.links()
    as_it_was()


def test_pods_of_a_vlan_reach_each_other_and_those_of_another_do_not(
    pods: Callable[[str], PodNetns],
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
):
    """Real packets, through the card."""
    made = [pods(name) for name in "abc"]
    configs = [
        asked(deviceID=address, vlan=vlan, ipam=addressed(last))
        for last, (address, vlan) in enumerate(zip(vfs, (100, 100, 200), strict=True), 1)
    ]
    for each, config in zip(made, configs, strict=True):
        add(each, config, CNI_CONTAINERID=each.path.rpartition("/")[2])

    first, second, other = made
    assert source_seen(first.fd, second.fd, "10.1.0.2", wait_s=CARRIER_S)
    assert is_reached(second.fd, first.fd, "10.1.0.1")
    assert is_refused(first.fd, other.fd, "10.1.0.3")
    assert is_refused(other.fd, first.fd, "10.1.0.1")

    for each, config in zip(made, configs, strict=True):
        delete(each, config, CNI_CONTAINERID=each.path.rpartition("/")[2])
    as_it_was()


@pytest.mark.parametrize("keys", [EVERYTHING, {}], ids=["everything", "nothing"])
def test_a_vf_that_was_given_back_serves_the_next_pod(
    pods: Callable[[str], PodNetns],
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
    keys: dict[str, Any],
):
    """Its card has to know its own address again: igb forgets it with one that was given."""
    used, first, second = (pods(name) for name in "abc")
    add(used, asked(**keys))
    given = link.require(used.socket, "eth0", "VF").mac
    deadline = time.monotonic() + CARRIER_S
    while card.settings(0).mac != given and time.monotonic() < deadline:  # it is told with the carrier
        time.sleep(0.1)
    delete(used, asked(**keys))
    configs = [asked(deviceID=address, ipam=addressed(last)) for last, address in enumerate(vfs[:2], 1)]

    for each, config in zip((first, second), configs, strict=True):
        add(each, config, CNI_CONTAINERID=each.path.rpartition("/")[2])

    assert source_seen(second.fd, first.fd, "10.1.0.1", wait_s=CARRIER_S)
    for each, config in zip((first, second), configs, strict=True):
        delete(each, config, CNI_CONTAINERID=each.path.rpartition("/")[2])
    as_it_was()


@pytest.mark.parametrize("trust", ["on", "off"])
def test_a_vf_serves_one_pod_after_another_each_with_a_mac_of_its_own(
    pods: Callable[[str], PodNetns],
    card: Card,
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
    trust: str,
):
    """igb lets a function that is not trusted choose none while it has an address of its card's."""
    for number, mac in enumerate((MAC, OTHER_MAC, MAC)):
        pod = pods(f"pod{number}")
        config = asked(mac=mac, trust=trust)

        answer = add(pod, config)

        assert mac == answer["interfaces"][0]["mac"]
        assert (mac, mac) == (link.require(pod.socket, "eth0", "VF").mac, card.settings(0).mac)
        delete(pod, config)
        as_it_was()


def test_a_bond_is_no_longer_than_the_card_of_its_members(
    pod: PodNetns,
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
):
    """The functions themselves take more than goes through it."""
    for name, address in zip(("net1", "net2"), vfs, strict=False):
        add(pod, asked(deviceID=address, mtu=9000), CNI_IFNAME=name)
    links = [{"name": "net1"}, {"name": "net2"}]
    bond = {"cniVersion": "1.1.0", "name": "bonded", "type": "bond", "mode": "active-backup", "mtu": 9000}
    bond |= {"miimon": "100", "links": links, "linksInContainer": True}

    answer, code = ours("bond", pod)("ADD", bond, CNI_IFNAME="net3")

    told = f"invalid MTU 9000, bigger than that of link {card.name}, whose function net1 is: "
    assert (1, 7, True) == (code, answer["code"], told in answer["msg"]), answer
    assert ["net1", "net2"] == pod.links()
    for name in ("net1", "net2"):
        delete(pod, asked(), CNI_IFNAME=name)
    as_it_was()


def test_a_vf_comes_home_though_the_pod_s_namespace_has_vanished(
    pods: Callable[[str], PodNetns],
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
):
    """The kernel puts it back under the pod's name; a DEL may come before it has."""
    pod = pods("a")
    config = asked(**EVERYTHING)
    add(pod, config, CNI_IFNAME="net1")
    pod.close()

    delete(pod, config, CNI_IFNAME="net1", CNI_NETNS="")

    as_it_was()
    assert link.find(card.host, "net1") is None


def test_a_vf_is_found_under_whatever_name_the_pod_gave_it(
    pod: PodNetns, asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None]
):
    """A pod with NET_ADMIN may do that, and change MAC and MTU, and make another link of the old name."""
    config = asked(trust="on")
    add(pod, config)
    index = link.require(pod.socket, "eth0", "VF").index
    pod.socket.request([link.set_link(index, is_up=False)])
    pod.socket.request([link.set_link(index, name="other", mac="02:00:5e:00:53:66", mtu=1300)])
    pod.socket.request([link.create_bridge("eth0")])

    delete(pod, config)

    as_it_was()
    assert ["eth0"] == pod.links()


def test_a_vf_whose_name_is_taken_meanwhile_comes_home_under_another(
    pod: PodNetns,
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
):
    """It must not be lost for that."""
    found = card.link_of(vfs[0])
    assert found is not None
    add(pod, asked())
    card.host.request([link.create_bridge(found.name)])

    delete(pod, asked())

    back = card.link_of(vfs[0])
    assert back is not None
    assert back.name.startswith("dev")
    assert f"VF link {found.name} is back as {back.name}" in caplog.text


def test_a_vf_is_one_pod_s(
    pods: Callable[[str], PodNetns],
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
):
    """The next one is told to try again, until the first has ended; the first one's DEL may come later."""
    first, second = pods("a"), pods("b")
    add(first, asked(**EVERYTHING), CNI_CONTAINERID="a")
    held = card.settings(0)

    answer, code = ours("sriov", second)("ADD", asked(vlan=7), CNI_CONTAINERID="b")
    assert (1, 11) == (code, answer["code"])
    assert f"VF {vfs[0]} is attached to container a as eth0: expected its DEL" in answer["msg"]
    assert (held, ["eth0"]) == (card.settings(0), first.links())

    first.close()
    add(second, asked(vlan=7), CNI_CONTAINERID="b")
    assert (Vlan(7), False) == (card.settings(0).vlan, card.settings(0).is_trusted)

    delete(first, asked(**EVERYTHING), CNI_CONTAINERID="a", CNI_NETNS="")
    assert (Vlan(7), ["eth0"]) == (card.settings(0).vlan, second.links())
    delete(second, asked(vlan=7), CNI_CONTAINERID="b")
    as_it_was()


def test_a_del_without_a_namespace_leaves_nothing_behind(
    pod: PodNetns, asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None]
):
    """The reference answers with success, and leaves VLAN, trust, allocation and link where they are."""
    add(pod, asked(**EVERYTHING))

    delete(pod, asked(**EVERYTHING), CNI_NETNS="")

    assert [] == pod.links()
    as_it_was()


def test_a_del_that_fails_is_taken_up_by_the_next_one(
    pod: PodNetns,
    card: Card,
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
    tmp_path: Path,
    mocker,
):
    """
    The reference has forgotten the VF by then, and leaves it as it is.

    Its address is nobody else's until it is home.
    """
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    config = asked(**{**EVERYTHING, "ipam": ipam})
    add(pod, config)
    persist = mocker.patch.object(vf, "persist", side_effect=KernelError("set it", errno.EIO))

    answer, code = ours("sriov", pod)("DEL", config)
    assert 1 == code
    assert "set it: Input/output error" in answer["msg"]
    assert [] == pod.links()
    assert 2 == len(claims(tmp_path))
    assert (tmp_path / "media" / "10.1.0.2").exists()

    mocker.stop(persist)
    delete(pod, config)
    as_it_was()
    assert not (tmp_path / "media" / "10.1.0.2").exists()


def to_userspace(card: Card, address: str) -> None:
    """As an operator gives a VF to DPDK."""
    device = Path("/sys/bus/pci/devices") / address
    (device / "driver" / "unbind").write_text(address)
    (device / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(address)


def test_a_userspace_vf_is_set_up_and_stays_where_it_is(
    pod: PodNetns, card: Card, vfs: list[str], asked: Callable[..., dict[str, Any]], tmp_path: Path
):
    """The reference's first DEL of one looks for a link and fails."""
    to_userspace(card, vfs[1])
    before = card.settings(1)
    info = tmp_path / "device-info" / "file"
    config = asked(**{**EVERYTHING, "deviceID": vfs[1], "mtu": 0, "all_multicast": ""})
    config["runtimeConfig"] = {"CNIDeviceInfoFile": str(info)}

    answer = add(pod, config)

    told = {"name": "eth0", "mac": MAC, "mtu": 1500, "sandbox": pod.path, "pciID": vfs[1]}
    assert ([told], ["10.1.0.1/24"]) == (answer["interfaces"], [each["address"] for each in answer["ips"]])
    expected = Settings(Vlan(100, 3), MAC, Rate(0, 100), False, True, "auto")
    assert (expected, []) == (card.settings(1), pod.links())
    document = json.loads(info.read_text())
    parent = (card.device).resolve().name
    assert {"type": "pci", "version": "1.1.0"} == {key: document[key] for key in ("type", "version")}
    assert {"pci-address": vfs[1], "pf-pci-address": parent} == document["pci"]
    assert ({}, 0) == ours("sriov", pod)("CHECK", {**config, "prevResult": answer})

    delete(pod, config)
    assert before == card.settings(1)
    assert [] == claims(tmp_path)


def test_check_tells_what_is_not_so_any_more(
    pod: PodNetns, card: Card, vfs: list[str], asked: Callable[..., dict[str, Any]]
):
    """The reference never looks."""
    config = asked(**EVERYTHING)
    answer = add(pod, config)
    config["prevResult"] = answer
    check = ours("sriov", pod)
    target = f"VF 0 of {card.name} (igb)"
    index = link.require(pod.socket, "eth0", "VF").index

    vlan = ["ip", "link", "set", card.name, "vf", "0", "vlan"]
    subprocess.run([*vlan, "5"], check=True)
    told = check("CHECK", config)[0]["msg"]
    assert f"check eth0: it is not so any more: set vlan 100 qos 3 of {target}" == told
    subprocess.run([*vlan, "100", "qos", "3"], check=True)
    pod.socket.request([link.set_link(index, is_allmulti=False)])
    assert "check eth0: all_multicast is not True" == check("CHECK", config)[0]["msg"]
    delete(pod, config)
    assert "is not claimed for it" in check("CHECK", config)[0]["msg"]


def test_gc_gives_back_what_is_not_listed(
    pod: PodNetns,
    pods: Callable[[str], PodNetns],
    card: Card,
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
):
    """Only this network's; one whose pod is listed stays."""
    gone, other = pods("gone"), pods("other")
    add(pod, asked(vlan=1), CNI_CONTAINERID="kept")
    add(gone, asked(deviceID=vfs[1], vlan=2), CNI_CONTAINERID="gone")
    add(other, asked(deviceID=vfs[2], vlan=3, name="elsewhere"), CNI_CONTAINERID="other")
    gone.close()

    listed = [{"containerID": "kept", "ifname": "eth0"}]
    config = asked(**{"cni.dev/valid-attachments": listed})
    assert ({}, 0) == ours("sriov", pod)("GC", config)

    assert [Vlan(1), Vlan(0), Vlan(3)] == [card.settings(number).vlan for number in range(3)]
    assert (["eth0"], ["eth0"]) == (pod.links(), other.links())
    delete(pod, asked(vlan=1), CNI_CONTAINERID="kept")
    delete(other, asked(), CNI_CONTAINERID="other")
    as_it_was()


def test_a_vf_that_is_gone_is_success(
    pod: PodNetns, card: Card, asked: Callable[..., dict[str, Any]], tmp_path: Path
):
    """Its card has fewer by now; the link went with it."""
    add(pod, asked(vlan=100))
    (card.device / "sriov_numvfs").write_text("0")

    delete(pod, asked(vlan=100))

    assert [] == claims(tmp_path)
    answer, code = ours("sriov", pod)("ADD", asked(vlan=100))
    assert (1, 7) == (code, answer["code"])
    assert "is not there: expected a virtual function of this node" in answer["msg"]


def test_an_add_that_fails_in_the_ipam_gives_the_vf_back(
    pod: PodNetns, asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None], tmp_path: Path
):
    """The last step of all."""
    (tmp_path / "ipam").write_text("")
    ranges = [[{"subnet": "10.1.0.0/24"}]]
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "ipam"), "ranges": ranges}

    assert 1 == ours("sriov", pod)("ADD", asked(**{**EVERYTHING, "ipam": ipam}))[1]

    assert [] == pod.links()
    as_it_was()


def test_a_taken_name_in_the_pod_is_refused_before_anything_is_touched(
    pod: PodNetns, asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None]
):
    """What the pod has stays there."""
    pod.socket.request([link.create_bridge("eth0")])

    answer, code = ours("sriov", pod)("ADD", asked(**EVERYTHING))

    assert 1 == code
    assert "the pod has a link eth0: expected a free name" in answer["msg"]
    as_it_was()
    assert ["eth0"] == pod.links()


def cut_off(call: Callable[[], Any], step: int) -> bool:
    """Kill a call, in a process of its own, before a step, from 0; False when it ended by then."""
    child = os.fork()
    if not child:
        try:
            netns._moved()  # an answer in a socket of both would be read by either
            die_before(step)
            call()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def die_before(step: int) -> None:
    """Every request to the kernel and every change of a file is a step."""
    left = count(step, -1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return inner

    setattr(Socket, "request", counted(Socket.request))  # noqa: B010
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


def test_a_del_undoes_an_add_that_was_killed_wherever_that_was(
    pod: PodNetns, asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None]
):
    """Before every step; nothing of it is known but what is on the disk."""
    config = asked(**EVERYTHING)
    steps = 0
    while cut_off(lambda: ours("sriov", pod)("ADD", config), steps):
        delete(pod, config)
        assert [] == pod.links()
        as_it_was()
        steps += 1

    assert steps > 20
    delete(pod, config)


def test_a_del_goes_on_where_one_was_killed(
    pod: PodNetns, asked: Callable[..., dict[str, Any]], as_it_was: Callable[[], None]
):
    """Before every step."""
    config = asked(**EVERYTHING)
    steps = 0
    while add(pod, config) and cut_off(lambda: delete(pod, config), steps):
        delete(pod, config)
        assert [] == pod.links()
        as_it_was()
        steps += 1

    assert steps > 15


CHOICES: dict[str, list[Any]] = {
    "vlan": [0, 100, 4094],
    "mac": [MAC, OTHER_MAC],
    "spoofchk": ["on", "off"],
    "trust": ["on", "off"],
    "max_tx_rate": [0, 100],
    "mtu": [1400, 9000],
    "all_multicast": ["on", "off"],
    "link_state": ["enable"],
}
"""igb refuses the last one."""
SEQUENCES, PARTS, CALLS, LONGEST = 200, 5, 4, 40


@pytest.mark.parametrize("part", range(PARTS))
def test_random_sequences_with_kills_leave_every_vf_as_it_was(
    pods: Callable[[str], PodNetns],
    vfs: list[str],
    asked: Callable[..., dict[str, Any]],
    as_it_was: Callable[[], None],
    part: int,
):
    """A seed each."""
    for seed in range(part, SEQUENCES, PARTS):
        run_sequence(Random(seed), pods, vfs, asked)
        as_it_was()


def run_sequence(
    random: Random, pods: Callable[[str], PodNetns], vfs: list[str], asked: Callable[..., dict[str, Any]]
) -> None:
    """Calls for two pods, each of which may be killed; a pod may vanish; then a DEL of every attachment."""
    made = [pods(f"{random.getrandbits(32):x}") for _ in range(2)]
    known = []
    for _ in range(CALLS):
        each, interface = random.choice(made), random.choice(["eth0", "net1"])
        keys = {key: random.choice(values) for key, values in CHOICES.items() if random.random() < 0.3}
        config = asked(deviceID=random.choice(vfs), **keys)
        variables = {"CNI_CONTAINERID": each.path.rpartition("/")[2], "CNI_IFNAME": interface}
        call = partial(ours("sriov", each), random.choice(["ADD", "ADD", "DEL"]), config, **variables)
        known.append(partial(ours("sriov", each), "DEL", config, **variables))
        if random.random() < 0.5:
            cut_off(call, random.randrange(LONGEST))
        else:
            call()
    if random.random() < 0.3:
        made[0].close()
    for call in known:
        assert ({}, 0) == call()
    for each in made:
        assert each.fd < 0 or [] == each.links()
        each.close()
