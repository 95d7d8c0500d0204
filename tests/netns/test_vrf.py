"""The built-in vrf: an interface gets a table of routes of its own, and loses nothing by it."""

from collections.abc import Callable
from typing import Any

import pytest

from meta_cni.cni.result import address_of, network_of
from meta_cni.linux import link, route, vrf
from tests.netns.chain import ours
from tests.netns.conftest import Node, PodNetns
from tests.netns.traffic import is_reached, is_refused

pytestmark = pytest.mark.guest

Needs = Callable[[str], None]
ROUTES = [
    {"dst": "10.9.0.0/16", "gw": "10.1.0.1"},
    {"dst": "10.8.0.0/16", "scope": 253},
    {"dst": "fd09::/48", "gw": "fd00::1"},
]


def config(plugin: str, **keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": plugin, **keys}


def interface(pod: PodNetns, name: str, *addresses: str, routes: Any = ()) -> dict[str, Any]:
    """An interface of the pod on a bridge of the node, and the result of its ADD."""
    ipam = {"type": "static", "addresses": [{"address": each} for each in addresses], "routes": list(routes)}
    asked = config("bridge", bridge="br0", ipam=ipam)
    answer, code = ours("bridge", pod)("ADD", asked, CNI_IFNAME=name)
    assert 0 == code, answer
    return answer


def table(pod: PodNetns, number: int) -> set[tuple[str, str]]:
    """(destination, gateway) of every route of a table, but for those to single addresses and groups."""
    found = route.dump(pod.socket, number)
    return {
        (str(each.destination), str(each.gateway or ""))
        for each in found
        if each.destination.prefixlen < each.destination.max_prefixlen
        and not each.destination.is_link_local
        and not each.destination.is_multicast
    }


def test_an_interface_keeps_addresses_and_routes_in_the_table_of_its_vrf(pod: PodNetns, needs_kind: Needs):
    """The kernel takes IPv6 addresses and every route away when a link gets a master."""
    needs_kind("vrf")
    previous = interface(pod, "eth0", "10.1.0.2/24", "fd00::2/64", routes=ROUTES)
    asked = config("vrf", vrfname="blue", prevResult=previous)
    call = ours("vrf", pod)

    answer, code = call("ADD", asked)

    assert (previous, 0) == (answer, code)
    its = link.require(pod.socket, "blue", "VRF")
    assert (True, 1) == (its.is_up, vrf.table_of(its))
    assert its.index == link.require(pod.socket, "eth0", "link").master
    assert {"10.1.0.2/24", "fd00::2/64"} == pod.addresses("eth0")
    assert {
        ("10.1.0.0/24", ""),
        ("10.9.0.0/16", "10.1.0.1"),
        ("10.8.0.0/16", ""),
        ("fd00::/64", ""),
        ("fd09::/48", "fd00::1"),
    } == table(pod, 1)
    assert set() == table(pod, route.RT_TABLE_MAIN)
    assert ({}, 0) == call("CHECK", asked)
    assert ({}, 0) == ours("bridge", pod)("CHECK", config("bridge", bridge="br0", prevResult=previous))
    assert ({}, 0) == call("DEL", asked)
    assert ({}, 0) == call("DEL", asked)
    assert ["eth0"] == pod.links()
    assert 0 == link.require(pod.socket, "eth0", "link").master


def test_the_last_interface_takes_the_vrf_with_it(pod: PodNetns, needs_kind: Needs):
    """Two networks of one customer share it."""
    needs_kind("vrf")
    results = {name: interface(pod, name, f"10.{n}.0.2/24") for n, name in enumerate(("net1", "net2"), 1)}
    call = ours("vrf", pod)
    for name, result in results.items():
        asked = config("vrf", vrfname="blue", table=77, prevResult=result)
        assert 0 == call("ADD", asked, CNI_IFNAME=name)[1]
    assert 77 == vrf.table_of(link.find(pod.socket, "blue"))

    left = []
    for name, result in results.items():
        assert ({}, 0) == call("DEL", config("vrf", vrfname="blue", prevResult=result), CNI_IFNAME=name)
        left.append("blue" in pod.links())

    assert [True, False] == left


def test_what_overlaps_is_apart(pods: Callable[[str], PodNetns], needs_kind: Needs):
    """Two customers with the same addresses: each is reached by its own VRF alone."""
    needs_kind("vrf")
    pod, red, blue = (pods(name) for name in ("pod", "red", "blue"))
    for name, peer in (("net1", red), ("net2", blue)):
        bridge = f"br-{name}"
        for one, ifname, address in ((pod, name, "10.1.0.1/24"), (peer, "eth0", "10.1.0.2/24")):
            ipam = {"type": "static", "addresses": [{"address": address}]}
            answer, code = ours("bridge", one)(
                "ADD", config("bridge", bridge=bridge, ipam=ipam), CNI_IFNAME=ifname
            )
            assert 0 == code, answer
        if name == "net1":
            asked = config("vrf", vrfname="red", prevResult=answer)
            first = {"cniVersion": "1.1.0", "interfaces": [{"name": "net1", "sandbox": pod.path}]}
            assert 0 == ours("vrf", pod)("ADD", {**asked, "prevResult": first}, CNI_IFNAME="net1")[1]

    assert is_reached(pod.fd, blue.fd, "10.1.0.2", device="net2")
    assert is_reached(pod.fd, red.fd, "10.1.0.2", device="red")
    assert is_refused(pod.fd, red.fd, "10.1.0.2", device="net2")


@pytest.mark.parametrize("of", ["a VRF", "a route", "a rule"])
def test_a_table_in_use_is_not_taken(of: str, pod: PodNetns, needs_kind: Needs):
    """The reference looks at VRFs alone, and mixes its routes with those of others."""
    needs_kind("vrf")
    from meta_cni.linux import rule

    previous = interface(pod, "eth0", "10.1.0.2/24")
    index = link.require(pod.socket, "eth0", "link").index
    pod.socket.request(
        [
            {
                "a VRF": vrf.create("red", 1),
                "a route": route.add(route.Route(network_of("10.7.0.0/16"), interface_index=index, table=1)),
                "a rule": rule.add(rule.Rule(rule.alone(address_of("10.7.0.1")), 1)),
            }[of]
        ]
    )

    assert 0 == ours("vrf", pod)("ADD", config("vrf", vrfname="blue", prevResult=previous))[1]

    assert 2 == vrf.table_of(link.find(pod.socket, "blue"))


def test_an_interface_of_another_master_is_refused(pod: PodNetns, needs_kind: Needs):
    """It would leave the one for the other."""
    needs_kind("vrf")
    previous = interface(pod, "eth0", "10.1.0.2/24")
    assert 0 == ours("vrf", pod)("ADD", config("vrf", vrfname="red", prevResult=previous))[1]

    answer, code = ours("vrf", pod)("ADD", config("vrf", vrfname="blue", prevResult=previous))

    assert 1 == code
    assert "interface eth0 has already a master set: red: expected none" in answer["msg"]
    assert ["eth0", "red"] == pod.links()
    assert link.require(pod.socket, "red", "VRF").index == link.require(pod.socket, "eth0", "link").master


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({}, "configuration is expected to have a valid vrf name"),
        ({"vrfname": "sixteen-letters-"}, 'vrfname "sixteen-letters-": expected a name for a link'),
        ({"vrfname": "eth0"}, 'vrfname "eth0": expected a name for a link beside the interface'),
        ({"vrfname": "a b"}, 'vrfname "a b": expected a name'),
        ({"vrfname": "blue", "table": -1}, "table -1: expected a whole number"),
        ({"vrfname": "blue", "metric": 1}, "metric 1 is not built in"),
        ({"vrfname": "blue"}, "missing prevResult from earlier plugin"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(keys: dict[str, Any], error: str, pod: PodNetns):
    """Nothing is made of it."""
    answer, code = ours("vrf", pod)("ADD", config("vrf", **keys))

    assert 1 == code
    assert error in answer["msg"]
    assert [] == pod.links()


def test_a_vrf_of_another_table_or_kind_is_refused(pod: PodNetns, needs_kind: Needs):
    """Nor is it taken away again by the undoing."""
    needs_kind("vrf")
    first, second = interface(pod, "net1", "10.1.0.2/24"), interface(pod, "net2", "10.2.0.2/24")
    call = ours("vrf", pod)
    assert 0 == call("ADD", config("vrf", vrfname="blue", table=7, prevResult=first), CNI_IFNAME="net1")[1]

    other = call("ADD", config("vrf", vrfname="blue", table=8, prevResult=second), CNI_IFNAME="net2")
    kind = call("ADD", config("vrf", vrfname="net1", prevResult=second), CNI_IFNAME="net2")

    assert (
        "VRF blue already exist with different routing table 7: expected table 7, or none" in other[0]["msg"]
    )
    assert "vrfname 'net1': expected a VRF, or no link of this name" in kind[0]["msg"]
    assert ["blue", "net1", "net2"] == pod.links()


def test_check_tells_what_is_not_as_it_was(pod: PodNetns, needs_kind: Needs):
    """VRF gone, interface out of it, another table."""
    needs_kind("vrf")
    previous = interface(pod, "eth0", "10.1.0.2/24")
    asked = config("vrf", vrfname="blue", prevResult=previous)
    call = ours("vrf", pod)
    assert 0 == call("ADD", asked)[1]

    table = call("CHECK", {**asked, "table": 9})[0]["msg"]
    index = link.require(pod.socket, "eth0", "link").index
    pod.socket.request([link.set_link(index, master=0)])
    outside = call("CHECK", asked)[0]["msg"]
    link.remove(pod.socket, "blue")
    gone = call("CHECK", asked)[0]["msg"]

    assert "check eth0: VRF blue has table 1: expected 9" == table
    assert "check eth0: it is not in VRF blue" == outside
    assert "check eth0: VRF blue is not there" == gone


def test_a_vanished_namespace_hinders_no_del(pod: PodNetns):
    """Everything went with it."""
    for path in ("/run/netns/gone", ""):
        assert ({}, 0) == ours("vrf", pod)("DEL", config("vrf", vrfname="blue"), CNI_NETNS=path)


def test_a_del_leaves_alone_what_has_the_vrf_s_name(pod: PodNetns, needs_kind: Needs):
    """A DEL of an ADD that was refused."""
    needs_kind("vrf")
    interface(pod, "blue", "10.1.0.2/24")

    assert ({}, 0) == ours("vrf", pod)("DEL", config("vrf", vrfname="blue"))

    assert ["blue"] == pod.links()


def test_a_default_route_of_a_vrf_is_beside_the_pod_s(node: Node, needs_kind: Needs):
    """A customer's way out is not the pod's: each VRF has its own."""
    needs_kind("vrf")
    ipam = {"type": "static", "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}
    first = {**node.bridge("customer", 10), "ipam": {**ipam, "routes": [{"dst": "0.0.0.0/0"}]}}
    plugins = [first, {"type": "vrf", "vrfname": "blue"}]
    node.nad("customer", {"cniVersion": "1.1.0", "name": "customer", "plugins": plugins})
    node.annotate("customer")
    before = node.traces()

    node.add()

    assert {("10.1.0.0/24", ""), ("0.0.0.0/0", "10.1.0.1")} == table(node.pod, 1)
    assert {("10.244.0.1", "eth0"), ("fd00:244::1", "eth0")} == node.pod.defaults()
    assert ({}, 0) == node.call("CHECK")
    node.delete()
    assert before == node.traces()
