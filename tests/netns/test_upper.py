"""The built-in ipvlan, vlan and dummy: links that not every kernel has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_cni.linux import link, upper
from meta_cni.linux.netlink import Socket
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

STATIC = {"type": "static", "addresses": [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"}]}
Needs = Callable[[str], None]


def config(plugin: str, **keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": plugin, **keys}


@pytest.fixture
def master(host: Socket) -> link.Link:
    """A link of the node with a carrier."""
    host.request([link.create_pair("up0", "sw0", mtu=1400)])
    for name in ("up0", "sw0"):
        host.request([link.set_link(link.require(host, name, "link").index, is_up=True)])
    return link.require(host, "up0", "link")


@pytest.mark.parametrize("kind", ["ipvlan", "vlan", "vrf", "dummy", "bond", "macvlan", "bridge"])
def test_to_ask_for_a_kind_makes_nothing(kind: str, host: Socket, needs_kind: Needs):
    """STATUS must not leave a link, if only for a moment."""
    needs_kind(kind)
    before = {each.index for each in link.dump(host)}

    assert link.knows(host, kind)
    assert before == {each.index for each in link.dump(host)}


def test_a_kind_that_the_kernel_does_not_know_is_told(host: Socket):
    """Code 50 is better than a pod that fails."""
    assert not link.knows(host, "warp")


@pytest.mark.parametrize(("mode", "is_masters"), [("bridge", False), ("passthru", True)])
@pytest.mark.parametrize("asked", ["", "02:00:5e:00:53:09"])
def test_a_macvlan_tells_the_mac_that_it_has(
    pod: PodNetns, master: link.Link, mode: str, asked: str, *, is_masters: bool
):
    """In mode passthru it is the master's, whatever was asked for."""
    keys = {"master": "up0", "mode": mode, "ipam": STATIC} | ({"mac": asked} if asked else {})
    call = ours("macvlan", pod)

    answer, code = call("ADD", config("macvlan", **keys))

    (told,) = [each["mac"] for each in answer["interfaces"]]
    assert (0, told) == (code, link.require(pod.socket, "eth0", "link").mac)
    assert is_masters == (told == master.mac)
    assert asked in ("", told) or is_masters
    assert ({}, 0) == call("CHECK", config("macvlan", **keys, prevResult=answer))


@pytest.mark.parametrize(("plugin", "keys"), [("ipvlan", {}), ("vlan", {"vlanId": 7}), ("macvlan", {})])
def test_a_link_that_never_got_its_name_goes(
    plugin: str, keys: dict[str, Any], pod: PodNetns, host: Socket, needs_kind: Needs, master: link.Link
):
    """An ADD was killed before it could rename it; a VLAN would be in use for as long as the pod lives."""
    needs_kind(plugin)
    pod.socket.request([link.create_pair(upper.unfinished("eth0"), "other")])

    assert ({}, 0) == ours(plugin, pod)("DEL", config(plugin, master="up0", **keys))

    assert [] == pod.links()


@pytest.mark.parametrize(("plugin", "keys"), [("ipvlan", {"mode": "l3s"}), ("vlan", {"vlanId": 7})])
@pytest.mark.parametrize("is_in_pod", [False, True])
def test_a_link_of_the_node_has_the_pod_s_name(
    plugin: str,
    keys: dict[str, Any],
    is_in_pod: bool,
    pod: PodNetns,
    host: Socket,
    needs_kind: Needs,
    master: link.Link,
):
    """Kernels before 6.7 compare the new link's name with the master's namespace."""
    needs_kind(plugin)
    if is_in_pod:
        host.request([link.move(master.index, pod.fd, "up0", alias="")])
        pod.socket.request([link.set_link(link.require(pod.socket, "up0", "link").index, is_up=True)])
    host.request([link.create_pair("eth0", "peer0")])
    asked = config(plugin, master="up0", linkInContainer=is_in_pod, ipam=STATIC, mtu=1300, **keys)
    call = ours(plugin, pod)

    answer, code = call("ADD", asked)

    assert 0 == code, answer
    found = link.require(pod.socket, "eth0", "link")
    assert (plugin, 1300, True) == (found.kind, found.mtu, found.is_up)
    assert {"10.1.0.2/24", "fd00::2/64"} == pod.addresses("eth0")
    assert [("eth0", found.mac, pod.path)] == [
        (each["name"], each["mac"], each["sandbox"]) for each in answer["interfaces"]
    ]
    assert ({}, 0) == call("CHECK", {**asked, "prevResult": answer})
    assert ({}, 0) == call("DEL", asked)
    assert ({}, 0) == call("DEL", asked)
    assert "eth0" not in pod.links()
    assert link.find(host, "eth0") is not None


@pytest.mark.parametrize(
    ("plugin", "keys", "error"),
    [
        ("ipvlan", {"master": "nowhere0"}, "master 'nowhere0': expected a link that exists"),
        ("ipvlan", {}, "master is missing, and there is no default route"),
        ("ipvlan", {"master": "up0", "mode": "l4"}, 'mode "l4": expected one of l2, l3, l3s'),
        ("ipvlan", {"master": "up0", "mtu": 1401}, "invalid MTU 1401, must be [0, master MTU(1400)]"),
        (
            "ipvlan",
            {"master": "up0", "mode": "l3", "ipam": None},
            "ipam is missing: expected it, for mode l3",
        ),
        ("ipvlan", {"master": "up0", "flag": "vepa"}, "flag is not built in"),
        ("vlan", {"vlanId": 5}, '"master" field is required'),
        ("vlan", {"master": "nowhere0", "vlanId": 5}, "master 'nowhere0': expected a link that exists"),
        ("vlan", {"master": "up0", "vlanId": 4095}, "vlanId 4095: expected a whole number from 0 to 4094"),
        ("vlan", {"master": "up0", "vlanId": "5"}, 'vlanId "5": expected a whole number from 0 to 4094'),
        ("vlan", {"master": "up0", "mtu": 1401}, "invalid MTU 1401, must be [0, master MTU(1400)]"),
        ("vlan", {"master": "up0", "mtu": -1}, "mtu -1: expected a whole number from 0 to 65535"),
        ("dummy", {"ipam": None}, "dummy interface requires an IPAM configuration"),
        ("dummy", {"mtu": 1400}, "mtu 1400 is not built in"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(
    plugin: str, keys: dict[str, Any], error: str, pod: PodNetns, master: link.Link
):
    """Nothing is made of it."""
    asked = config(plugin, **{"ipam": STATIC, **keys})

    answer, code = ours(plugin, pod)("ADD", {key: value for key, value in asked.items() if value is not None})

    assert 1 == code
    assert error in answer["msg"]
    assert [] == pod.links()


def test_one_vlan_of_a_master_is_there_once(
    pods: Callable[[str], PodNetns], needs_kind: Needs, master: link.Link
):
    """In whatever namespace the other one is: two pods cannot share it, and are told why."""
    needs_kind("vlan")
    one, two = pods("one"), pods("two")
    asked = config("vlan", master="up0", vlanId=7)
    assert 0 == ours("vlan", one)("ADD", asked)[1]

    answer, code = ours("vlan", two)("ADD", asked)

    assert 1 == code
    assert "create vlan eth0: VLAN 7 of up0 is in use by another link: File exists" == answer["msg"]
    assert (["eth0"], []) == (one.links(), two.links())


def test_a_vlan_of_a_link_that_is_down_is_refused(pod: PodNetns, host: Socket, master: link.Link):
    """The kernel would make it, and not bring it up."""
    host.request([link.set_link(master.index, is_up=False)])

    answer, code = ours("vlan", pod)("ADD", config("vlan", master="up0", vlanId=7))

    assert 1 == code
    assert "master 'up0' is down: expected a link that is up" in answer["msg"]


@pytest.mark.parametrize(("plugin", "keys"), [("ipvlan", {}), ("vlan", {"vlanId": 7}), ("dummy", {})])
def test_a_failing_add_leaves_neither_link_nor_address(
    plugin: str, keys: dict[str, Any], pod: PodNetns, needs_kind: Needs, master: link.Link, tmp_path: Path
):
    """The reference leaves the ipvlan and its address behind, when a route cannot be set."""
    needs_kind(plugin)
    if plugin != "dummy":
        keys = {**keys, "master": "up0"}
    ipam = {
        "type": "host-local",
        "dataDir": str(tmp_path),
        "ranges": [[{"subnet": "10.1.0.0/24"}]],
        "routes": [{"dst": "10.9.0.0/16", "gw": "10.8.0.1"}],
    }

    answer, code = ours(plugin, pod)("ADD", config(plugin, ipam=ipam, **keys))

    assert 1 == code, answer
    assert [] == pod.links()
    assert [] == [each.name for each in (tmp_path / "net").iterdir() if each.name.startswith("10.")]


@pytest.mark.parametrize(("plugin", "keys"), [("ipvlan", {}), ("vlan", {"vlanId": 7})])
def test_a_del_needs_no_master(
    plugin: str,
    keys: dict[str, Any],
    pod: PodNetns,
    host: Socket,
    needs_kind: Needs,
    master: link.Link,
    tmp_path: Path,
):
    """The reference fails before it releases the address, when the master or the default route is gone."""
    needs_kind(plugin)
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    asked = config(plugin, master="up0", ipam=ipam, **keys)
    assert 0 == ours(plugin, pod)("ADD", asked)[1]
    link.remove(host, "up0")

    assert ({}, 0) == ours(plugin, pod)("DEL", asked)

    assert [] == [each.name for each in (tmp_path / "net").iterdir() if each.name.startswith("10.")]
    assert ({}, 0) == ours(plugin, pod)("DEL", asked, CNI_NETNS="/run/netns/gone")
    assert ({}, 0) == ours(plugin, pod)("DEL", asked, CNI_NETNS="")


def test_ipvlan_takes_master_and_addresses_of_the_plugin_before(
    pod: PodNetns, needs_kind: Needs, master: link.Link
):
    """A chained ipvlan: the interfaces of the result become its own."""
    needs_kind("ipvlan")
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "up0", "mac": master.mac}],
        "ips": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1", "interface": 0}],
        "routes": [{"dst": "10.9.0.0/16"}],
    }
    asked = config("ipvlan", mode="l3")

    answer, code = ours("ipvlan", pod)("ADD", {**asked, "prevResult": previous})

    assert 0 == code, answer
    assert {"10.1.0.9/24"} == pod.addresses("eth0")
    assert ["eth0"] == [each["name"] for each in answer["interfaces"]]
    assert master.index == link.require(pod.socket, "eth0", "link").parent
    assert ({}, 0) == ours("ipvlan", pod)("CHECK", {**asked, "prevResult": answer})
    assert ({}, 0) == ours("ipvlan", pod)("DEL", {**asked, "prevResult": answer})


def test_ipvlan_behind_several_interfaces_needs_a_master(pod: PodNetns, master: link.Link):
    """Which of them it is nobody can know."""
    previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "up0"}, {"name": "sw0"}]}

    answer, code = ours("ipvlan", pod)("ADD", config("ipvlan", prevResult=previous, ipam=STATIC))

    assert 1 == code
    assert "PrevResult lacks a single named interface: expected master" in answer["msg"]


def test_ipvlan_stands_on_the_default_route_s_link(
    pod: PodNetns, host: Socket, needs_kind: Needs, master: link.Link
):
    """As macvlan does."""
    needs_kind("ipvlan")
    from meta_cni.cni.result import address_of, interface_address_of
    from meta_cni.linux import address, route

    host.request([address.add(master.index, interface_address_of("192.0.2.1/24"))])
    host.request([route.add(route.Route(route.ANYWHERE[4], address_of("192.0.2.2")))])

    answer, code = ours("ipvlan", pod)("ADD", config("ipvlan"))

    assert 0 == code, answer
    assert master.index == link.require(pod.socket, "eth0", "link").parent


CHANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "mode": ("ipvlan", {"mode": "l2"}, {"mode": "l3"}, "in mode l2: expected ipvlan in mode l3"),
    "kind": ("dummy", {}, {"type": "ipvlan", "master": "up0"}, "it is dummy in mode None"),
    "not dummy": ("ipvlan", {}, {"type": "dummy"}, "it is ipvlan: expected dummy"),
    "vlan": ("vlan", {"vlanId": 7}, {"vlanId": 8}, "it is VLAN 7: expected VLAN 8"),
    "no vlan": ("dummy", {}, {"type": "vlan", "master": "up0"}, "it is dummy: expected VLAN 0"),
    "parent": ("vlan", {"vlanId": 7}, {"master": "sw0"}, "on another link than sw0"),
    "mtu": ("vlan", {"vlanId": 7}, {"mtu": 1300}, "of MTU 1400: expected 1300"),
}


@pytest.mark.parametrize(("plugin", "keys", "changed", "error"), CHANGES.values(), ids=CHANGES)
def test_check_tells_what_is_not_as_it_was(
    plugin: str,
    keys: dict[str, Any],
    changed: dict[str, Any],
    error: str,
    pod: PodNetns,
    needs_kind: Needs,
    master: link.Link,
):
    """Each of them with what it is, and what it should be."""
    needs_kind(plugin)
    keys = keys if plugin == "dummy" else {"master": "up0", **keys}
    asked = config(plugin, ipam=STATIC, **keys)
    answer, code = ours(plugin, pod)("ADD", asked)
    assert 0 == code, answer

    told, code = ours(changed.get("type", plugin), pod)("CHECK", {**asked, **changed, "prevResult": answer})

    assert 1 == code
    assert error in told["msg"]


def test_a_dummy_that_is_down_is_told(pod: PodNetns, needs_kind: Needs):
    """Its addresses would not answer."""
    needs_kind("dummy")
    asked = config("dummy", ipam=STATIC)
    answer, _ = ours("dummy", pod)("ADD", asked)
    pod.socket.request([link.set_link(link.require(pod.socket, "eth0", "link").index, is_up=False)])

    told, code = ours("dummy", pod)("CHECK", {**asked, "prevResult": answer})

    assert 1 == code
    assert "check eth0:" in told["msg"]


@pytest.mark.parametrize(
    ("plugin", "keys", "error"),
    [
        ("ipvlan", {"master": "nowhere0"}, "master 'nowhere0' does not exist"),
        ("vlan", {"master": "nowhere0"}, "master 'nowhere0' does not exist"),
        ("vlan", {"master": "nowhere0", "linkInContainer": True}, ""),
        ("dummy", {"ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]}}, ""),
        ("vrf", {}, ""),
        ("bond", {}, ""),
    ],
)
def test_status_asks_for_kind_and_master(
    plugin: str, keys: dict[str, Any], error: str, host: Socket, pod: PodNetns, needs_kind: Needs
):
    """What is in a pod is not there before it."""
    needs_kind(plugin)
    answer, code = ours(plugin, pod)("STATUS", config(plugin, **keys))

    assert ((50, 1) if error else (None, 0)) == (answer.get("code"), code), answer
    assert error in json.dumps(answer)


def test_status_of_a_dummy_without_ipam_says_what_every_add_would(pod: PodNetns):
    """Whatever the kernel has; the reference says it, too."""
    answer, code = ours("dummy", pod)("STATUS", config("dummy", ipam={}))

    assert (1, 50) == (code, answer["code"])
    assert "ipam is missing: dummy interface requires an IPAM configuration" in answer["msg"]


def test_status_is_available_where_the_kernel_has_the_kind(host: Socket, pod: PodNetns):
    """On the others it says what they lack."""
    answer, code = ours("ipvlan", pod)("STATUS", config("ipvlan"))

    assert link.knows(host, "ipvlan") == (code == 0)
    assert {} == answer or (50, True) == (answer["code"], "kernel has no ipvlan" in answer["msg"])
