"""The built-in bond: several links that are one, and afterwards what they were."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from delegates.bond import Bond
from meta_cni.cni.errors import KernelError
from meta_cni.linux import bond, link, netns
from meta_cni.linux.netlink import Socket
from tests.netns.chain import ours
from tests.netns.conftest import Node, PodNetns

pytestmark = pytest.mark.guest

Needs = Callable[[str], None]
MACS = {"m1": "02:00:5e:00:53:01", "m2": "02:00:5e:00:53:02"}
STATIC = {"type": "static", "addresses": [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"}]}
LINKS = [{"name": each} for each in MACS]


def config(**keys: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "bond",
        "mode": "active-backup",
        "miimon": "100",
        "links": LINKS,
        **keys,
    }


def member(socket: Socket, name: str, *, mac: str = "", mtu: int = 1500, is_up: bool = True) -> None:
    """One end of a veth whose other end is up, named sw-..."""
    socket.request([link.create_pair(name, f"sw-{name}", mtu=mtu)])
    for each in (f"sw-{name}", name):
        index = link.require(socket, each, "link").index
        socket.request([link.set_link(index, is_up=is_up, mac=mac if each == name else "")])


@pytest.fixture
def inside(pod: PodNetns) -> PodNetns:
    """A pod with two links that can be members."""
    for name, mac in MACS.items():
        member(pod.socket, name, mac=mac)
    return pod


@pytest.fixture
def outside(host: Socket) -> Socket:
    """A node with two of them; one is down, and has a name for people."""
    for name, mac in MACS.items():
        member(host, name, mac=mac)
    second = link.require(host, "m2", "link")
    host.request(
        [link.set_link(second.index, is_up=False), link.rename(second.index, "m2", alias="to rack 7")]
    )
    return host


def seen(socket: Socket) -> dict[str, tuple[Any, ...]]:
    """What a member is to have afterwards as before."""
    found = [link.find(socket, name) for name in MACS]
    return {each.name: (each.mac, each.mtu, each.is_up, each.alias, each.master) for each in found if each}


def test_members_of_the_pod_are_given_back(inside: PodNetns, needs_kind: Needs):
    """MAC, MTU and state: what they were before the bond."""
    needs_kind("bond")
    before = seen(inside.socket)
    asked = config(linksInContainer=True, mtu=1400, ipam=STATIC)
    call = ours("bond", inside)

    answer, code = call("ADD", asked)

    assert 0 == code, answer
    made = link.require(inside.socket, "eth0", "bond")
    assert ("bond", 1400, True, MACS["m1"]) == (made.kind, made.mtu, made.is_up, made.mac)
    assert {("m1", made.index), ("m2", made.index)} == {
        (name, each[-1]) for name, each in seen(inside.socket).items()
    }
    assert {"10.1.0.2/24", "fd00::2/64"} == inside.addresses("eth0")
    assert [("eth0", made.mac, inside.path)] == [
        (each["name"], each["mac"], each["sandbox"]) for each in answer["interfaces"]
    ]
    assert ({}, 0) == call("CHECK", {**asked, "prevResult": answer})
    assert ({}, 0) == call("DEL", asked)
    assert before == seen(inside.socket)
    assert ({}, 0) == call("DEL", asked)
    assert before == seen(inside.socket)


def test_members_of_the_node_come_and_go(pod: PodNetns, outside: Socket, needs_kind: Needs):
    """One that was down is down again, and has its alias."""
    needs_kind("bond")
    before = seen(outside)
    call = ours("bond", pod)

    answer, code = call("ADD", config(failOverMac=1, allSlavesActive=1))

    assert 0 == code, answer
    assert ["eth0", "m1", "m2"] == pod.links()
    assert {} == seen(outside)
    assert ({}, 0) == call("CHECK", config(failOverMac=1, allSlavesActive=1, prevResult=answer))
    assert ({}, 0) == call("DEL", config())
    assert before == seen(outside)
    assert [] == pod.links()
    assert ({}, 0) == call("DEL", config())
    assert before == seen(outside)


def test_members_that_are_back_get_their_state_by_the_next_del(
    pod: PodNetns, outside: Socket, needs_kind: Needs, mocker: MockerFixture
):
    """They had been moved when the DEL before could do no more."""
    needs_kind("bond")
    before = seen(outside)
    call = ours("bond", pod)
    assert 0 == call("ADD", config())[1]
    refused = KernelError("change link m1", errno.ENOBUFS)
    failing = mocker.patch.object(Bond, "_restore", side_effect=refused)

    answer, code = call("DEL", config())
    mocker.stop(failing)

    assert (1, "change link m1: No buffer space available") == (code, answer["msg"])
    assert ({}, 0) == call("DEL", config())
    assert before == seen(outside)


OPTIONS: list[dict[str, Any]] = [
    {"mode": "balance-rr", "miimon": "0"},
    {"mode": "balance-xor", "xmitHashPolicy": "layer3+4"},
    {"mode": "broadcast"},
    {"mode": "802.3ad", "miimon": "0", "xmitHashPolicy": "vlan+srcmac"},
    {"mode": "balance-tlb", "tlbDynamicLb": 0},
    {"mode": "balance-alb", "tlbDynamicLb": 1, "xmitHashPolicy": "encap2+3"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: each["mode"])
def test_every_mode_is_made_and_checked(options: dict[str, Any], inside: PodNetns, needs_kind: Needs):
    """As bonding has them."""
    needs_kind("bond")
    asked = config(linksInContainer=True, **options)
    call = ours("bond", inside)

    answer, code = call("ADD", asked)

    assert 0 == code, answer
    info = link.require(inside.socket, "eth0", "bond").info
    assert bond.MODES[options["mode"]] == info["IFLA_BOND_MODE"]
    assert ({}, 0) == call("CHECK", {**asked, "prevResult": answer})
    other = "balance-rr" if options["mode"] != "balance-rr" else "broadcast"
    told, code = call("CHECK", {**asked, "mode": other, "tlbDynamicLb": None, "prevResult": answer})
    assert 1 == code
    assert "check eth0: its options are" in told["msg"]


def test_members_with_one_mac_get_two_and_one_again(inside: PodNetns, needs_kind: Needs):
    """Some cards give all virtual functions the same; the reference leaves a random one behind."""
    needs_kind("bond")
    index = link.require(inside.socket, "m2", "link").index
    inside.socket.request([link.set_link(index, mac=MACS["m1"])])
    before = seen(inside.socket)
    asked = config(linksInContainer=True, failOverMac=1)

    assert 0 == ours("bond", inside)("ADD", asked)[1]

    assert 2 == len({each[0] for each in seen(inside.socket).values()})
    assert ({}, 0) == ours("bond", inside)("DEL", asked)
    assert before == seen(inside.socket)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"mode": None}, "mode null: expected one of balance-rr, active-backup"),
        ({"mode": "round"}, 'mode "round": expected one of balance-rr, active-backup'),
        ({"miimon": None}, "miimon null: expected milliseconds as text"),
        ({"miimon": 100}, 'miimon 100: expected milliseconds as text, for example "100"'),
        ({"miimon": "often"}, 'miimon "often": expected milliseconds as text'),
        ({"mtu": 67}, "mtu 67: expected a whole number from 68 to 65535"),
        ({"mtu": 1501}, "invalid MTU 1501, bigger than that of link m1: expected at most 1500"),
        ({"failOverMac": 3}, "failOverMac 3: expected a whole number from 0 to 2"),
        ({"allSlavesActive": 2}, "allSlavesActive 2: expected a whole number from 0 to 1"),
        ({"tlbDynamicLb": 1}, "tlbDynamicLb 1: expected it in mode balance-tlb or balance-alb only"),
        ({"mode": "balance-tlb", "tlbDynamicLb": 2}, "tlbDynamicLb 2: expected a whole number from 0 to 1"),
        ({"xmitHashPolicy": "layer7"}, 'xmitHashPolicy "layer7": expected one of layer2, layer3+4'),
        ({"links": [{"name": "m1"}]}, "expected at least 2 objects with the name of a link each"),
        ({"links": [{"name": "m1"}, {}]}, "expected at least 2 objects with the name of a link each"),
        ({"links": [{"name": "m1"}, {"name": "m1"}]}, "expected each link once"),
        ({"links": [{"name": "m1"}, {"name": "eth0"}]}, "expected other links than the bond eth0 itself"),
        ({"links": [{"name": "m1"}, {"name": "m3"}]}, "links: 'm3': expected a link in the pod"),
        ({"linksInContainer": False}, "links: 'm1': expected a link on the node"),
        ({"primary": "m1"}, "primary is not built in"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(keys: dict[str, Any], error: str, inside: PodNetns):
    """Nothing is made of it, and no member touched."""
    before = seen(inside.socket)

    answer, code = ours("bond", inside)("ADD", config(linksInContainer=True) | keys)

    assert 1 == code
    assert error in answer["msg"]
    assert before == seen(inside.socket)
    assert "eth0" not in inside.links()


def test_a_member_of_another_master_is_refused(inside: PodNetns, needs_kind: Needs):
    """It would leave the one for the other."""
    needs_kind("bond")
    inside.socket.request([link.create_bridge("br0")])
    bridge, first = (link.require(inside.socket, each, "link").index for each in ("br0", "m1"))
    inside.socket.request([link.set_link(first, master=bridge)])

    answer, code = ours("bond", inside)("ADD", config(linksInContainer=True))

    assert 1 == code
    assert "links: m1 has a master already: expected one without" in answer["msg"]


def test_a_failing_add_gives_everything_back(
    pod: PodNetns, outside: Socket, needs_kind: Needs, tmp_path: Path
):
    """The reference keeps the address, the bond and the members."""
    needs_kind("bond")
    before = seen(outside)
    ipam = {
        "type": "host-local",
        "dataDir": str(tmp_path),
        "ranges": [[{"subnet": "10.1.0.0/24"}]],
        "routes": [{"dst": "10.9.0.0/16", "gw": "10.8.0.1"}],
    }

    answer, code = ours("bond", pod)("ADD", config(ipam=ipam))

    assert 1 == code, answer
    assert before == seen(outside)
    assert [] == pod.links()
    assert [] == [each.name for each in (tmp_path / "net").iterdir() if each.name.startswith("10.")]


def test_a_name_that_the_pod_has_stops_a_move_and_what_moved_comes_back(
    pod: PodNetns, outside: Socket, needs_kind: Needs
):
    """The pod's own link of that name is not taken for the member."""
    needs_kind("bond")
    pod.socket.request([link.create_pair("m2", "sw-m2")])
    before = seen(outside)

    answer, code = ours("bond", pod)("ADD", config())

    assert 1 == code
    assert "move m2 into the pod: File exists" == answer["msg"]
    assert before == seen(outside)
    assert ["m2", "sw-m2"] == pod.links()


@pytest.mark.parametrize("vanished", ["the bond", "a member", "the namespace"])
def test_what_vanished_hinders_no_del(vanished: str, inside: PodNetns, needs_kind: Needs, tmp_path: Path):
    """The reference fails where a member or the namespace is gone: pods stay terminating."""
    needs_kind("bond")
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    asked = config(linksInContainer=True, ipam=ipam)
    assert 0 == ours("bond", inside)("ADD", asked)[1]
    path = inside.path
    if vanished == "the namespace":
        path = "/run/netns/gone"
    else:
        link.remove(inside.socket, "eth0" if vanished == "the bond" else "m1")

    assert ({}, 0) == ours("bond", inside)("DEL", asked, CNI_NETNS=path)

    assert [] == [each.name for each in (tmp_path / "net").iterdir() if each.name.startswith("10.")]
    if vanished != "the namespace":
        assert "eth0" not in inside.links()
        assert all(each[2] and not each[-1] for each in seen(inside.socket).values())


WITNESS = """#!/bin/sh
[ "$CNI_COMMAND" = DEL ] && nsenter --net="$CNI_NETNS" ip -brief link >>"$0.seen"
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}]}'
"""


@pytest.mark.parametrize("is_in_pod", [True, False], ids=["members of the pod", "members of the node"])
def test_an_address_is_given_back_when_no_bond_has_it(
    pod: PodNetns, host: Socket, needs_kind: Needs, tmp_path: Path, is_in_pod: bool
):
    """The next pod gets it at once. The reference gives it back first; here an IPAM looks."""
    needs_kind("bond")
    for name, mac in MACS.items():
        member(pod.socket if is_in_pod else host, name, mac=mac)
    (tmp_path / "witness").write_text(WITNESS)
    (tmp_path / "witness").chmod(0o755)
    asked = config(linksInContainer=is_in_pod, ipam={"type": "witness"})
    call = ours("bond", pod, CNI_PATH=str(tmp_path))
    assert 0 == call("ADD", asked)[1]

    assert ({}, 0) == call("DEL", asked)

    seen_then = (tmp_path / "witness.seen").read_text()
    assert "m1" in seen_then
    assert "eth0" not in seen_then
    assert "SLAVE" not in seen_then


def test_an_address_is_kept_while_the_bond_cannot_be_deleted(
    inside: PodNetns, needs_kind: Needs, tmp_path: Path, mocker
):
    """It would be two pods'; the next DEL gives it back."""
    needs_kind("bond")
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    asked = config(linksInContainer=True, ipam=ipam)
    call = ours("bond", inside)
    assert 0 == call("ADD", asked)[1]
    refusing = mocker.patch.object(link, "remove", side_effect=KernelError("delete eth0", errno.EBUSY))

    assert 1 == call("DEL", asked)[1]
    assert {"10.1.0.2/24"} == inside.addresses("eth0")
    assert (tmp_path / "net" / "10.1.0.2").exists()

    mocker.stop(refusing)
    assert ({}, 0) == call("DEL", asked)
    assert not (tmp_path / "net" / "10.1.0.2").exists()


def test_a_second_add_leaves_the_bond_alone(inside: PodNetns, needs_kind: Needs):
    """ADD twice without a DEL is the runtime's mistake."""
    needs_kind("bond")
    asked = config(linksInContainer=True)
    result, _ = ours("bond", inside)("ADD", asked)

    answer, code = ours("bond", inside)("ADD", asked)

    assert 1 == code
    assert "expected a DEL first" in answer["msg"]
    assert ({}, 0) == ours("bond", inside)("CHECK", {**asked, "prevResult": result})


def test_a_returned_member_is_as_it_was(pod: PodNetns, outside: Socket, needs_kind: Needs):
    """A physical link comes back by itself when its namespace ends; its alias says how it was."""
    before = seen(outside)
    for name in MACS:
        found = link.require(outside, name, "link")
        alias = f"bond eth0 {'up' if found.is_up else 'down'} {found.alias}"
        outside.request(
            [link.set_link(found.index, is_up=False), link.rename(found.index, name, alias=alias)]
        )

    assert ({}, 0) == ours("bond", pod)("DEL", config(), CNI_NETNS="/run/netns/gone")

    assert before == seen(outside)


def test_traffic_goes_on_when_a_member_fails(
    pods: Callable[[str], PodNetns], host: Socket, needs_kind: Needs
):
    """What a bond is for: the active member loses its carrier, and the other one takes over."""
    needs_kind("bond")
    from tests.netns.traffic import is_reached

    pod, peer = pods("pod"), pods("peer")
    host.request([link.create_bridge("br0")])
    bridge = link.require(host, "br0", "bridge").index
    host.request([link.set_link(bridge, is_up=True)])
    for one, names in ((pod, ("m1", "m2")), (peer, ("eth0",))):
        for name in names:
            host.request([link.create_veth(f"{one.path[-1]}{name}", name, one.fd, master=bridge)])
            index = link.require(one.socket, name, "link").index
            one.socket.request([link.set_link(index, is_up=True)])
    from meta_cni.cni.result import interface_address_of
    from meta_cni.linux import address

    end = link.require(peer.socket, "eth0", "link").index
    peer.socket.request([address.add(end, interface_address_of("10.1.0.3/24"))])
    asked = config(linksInContainer=True, ipam=STATIC)
    assert 0 == ours("bond", pod)("ADD", asked)[1]
    assert is_reached(pod.fd, peer.fd, "10.1.0.3")
    for failing, working in (("m1", "m2"), ("m2", "m1")):
        for name, is_up in ((working, True), (failing, False)):
            index = link.require(host, f"d{name}", "veth").index
            host.request([link.set_link(index, is_up=is_up)])

        assert is_reached(pod.fd, peer.fd, "10.1.0.3"), failing
    assert netns.identity(pod.fd) != netns.identity(peer.fd)


def test_a_bond_is_attached_after_its_members_wherever_it_is_named(node: Node, needs_kind: Needs):
    """Pods name their networks in the order in which people think of them; Multus fails then."""
    needs_kind("bond")
    for name in ("one", "two"):
        node.nad(name, {**node.bridge(name, 10), "ipam": {}})
    links = [{"name": "net2"}, {"name": "net3"}]
    node.nad("bonded", config(links=links, linksInContainer=True, ipam=STATIC))
    node.annotate("bonded,one,two")
    before = node.traces()

    answer = node.add()

    made = link.require(node.pod.socket, "net1", "bond")
    assert {made.index} == {link.require(node.pod.socket, each, "link").master for each in ("net2", "net3")}
    told = [each["name"] for each in answer["interfaces"] if each.get("sandbox")]
    assert ["eth0", "net1", "net2", "net3"] == told
    assert ["default", "telco/bonded", "telco/one", "telco/two"] == [each["name"] for each in node.status()]
    assert ({}, 0) == node.call("CHECK")
    node.delete()
    assert before == node.traces()


def test_a_failing_bond_takes_its_members_with_it(node: Node, needs_kind: Needs):
    """They are undone in the reverse order."""
    needs_kind("bond")
    node.nad("one", {**node.bridge("one", 10), "ipam": {}})
    links = [{"name": "net2"}, {"name": "eth0"}]
    node.nad("bonded", config(links=links, linksInContainer=True, mtu=9000))
    node.annotate("bonded,one")
    before = node.traces()

    error = node.fail()

    assert "invalid MTU 9000, bigger than that of link net2: expected at most 1500" in error["msg"]
    assert before == node.traces()


def test_networks_that_stand_on_each_other_are_refused(node: Node):
    """Nothing is touched."""
    before = node.traces()
    for name, master in (("one", "net2"), ("two", "net1")):
        vlan = {"cniVersion": "1.1.0", "name": name, "type": "vlan", "master": master, "vlanId": 5}
        node.nad(name, {**vlan, "linkInContainer": True})
    node.annotate("one,two")

    error = node.fail()

    assert "interfaces net1, net2 stand on each other: expected one that stands on none" in error["msg"]
    assert before == node.traces()
