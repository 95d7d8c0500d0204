"""VLANs of the built-in bridge: who hears whom, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from meta_cni.linux import link, sysctl, vlan
from meta_cni.linux.codec import ifinfmsg
from meta_cni.linux.netlink import Request, Socket
from meta_cni.linux.vlan import Membership
from tests.netns import features
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns
from tests.netns.traffic import SILENCE_S, Wire, is_reached, is_refused, own_namespace

pytestmark = pytest.mark.guest

Pods = Callable[[str], PodNetns]


@pytest.fixture
def filtering(host: Socket) -> None:
    """The test skips where the kernel's bridges cannot filter VLANs."""
    features.need(host, features.VLAN_FILTERING)


def config(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", **keys}


def static(address: str) -> dict[str, Any]:
    return {"type": "static", "addresses": [{"address": address}]}


def add(pod: PodNetns, **keys: Any) -> dict[str, Any]:
    answer, code = ours("bridge", pod)("ADD", config(**keys))
    assert code == 0, answer
    return answer


def memberships(host: Socket, answer: dict[str, Any]) -> set[Membership]:
    """The VLANs of the port that a result tells."""
    return vlan.dump(host)[link.require(host, answer["interfaces"][1]["name"], "port").index]


@pytest.mark.usefixtures("filtering")
def test_pods_of_one_vlan_reach_each_other_and_no_others(pods: Pods, host: Socket):
    """That is what a VLAN is for."""
    first, second, other = (pods(name) for name in ("p1", "p2", "p3"))
    add(first, vlan=100, ipam=static("10.1.0.1/24"))
    add(second, vlan=100, ipam=static("10.1.0.2/24"))
    add(other, vlan=200, ipam=static("10.1.0.3/24"))

    assert is_reached(first.fd, second.fd, "10.1.0.2")
    assert is_refused(first.fd, other.fd, "10.1.0.3")


@pytest.mark.usefixtures("filtering")
def test_a_trunk_hears_its_vlans_tagged_and_no_others(pods: Pods, host: Socket):
    """A trunk is for a pod that tells VLANs apart itself."""
    trunk, inside, outside = (pods(name) for name in ("trunk", "inside", "outside"))
    add(trunk, vlanTrunk=[{"minID": 100, "maxID": 110}, {"id": 200}])
    add(inside, vlan=105)
    add(outside, vlan=300)

    with Wire(trunk.fd, "eth0") as heard, Wire(inside.fd, "eth0") as one, Wire(outside.fd, "eth0") as two:
        one.send(b"from the one inside")
        two.send(b"from the one outside")
        heard.send(b"from the trunk", 105)

        assert 105 == heard.receive(b"from the one inside")
        assert heard.receive(b"from the one outside", wait_s=SILENCE_S) is None
        assert 0 == one.receive(b"from the trunk")
        assert two.receive(b"from the trunk", wait_s=SILENCE_S) is None


PORTS = [
    ({"vlan": 100}, {Membership(100, True)}),
    ({"vlan": 1}, {Membership(1, True)}),
    ({"vlan": 100, "preserveDefaultVlan": True}, {Membership(1), Membership(100, True)}),
    ({"vlanTrunk": [{"id": 7}]}, {Membership(1, True), Membership(7)}),
    ({"vlanTrunk": [{"minID": 1, "maxID": 3}]}, {Membership(1, True), Membership(2), Membership(3)}),
    ({"vlan": 5, "vlanTrunk": [{"minID": 4, "maxID": 5}]}, {Membership(4), Membership(5, True)}),
    (
        {"vlan": 9, "vlanTrunk": [{"minID": 2, "maxID": 3, "id": 8}, {"id": 6}]},
        {*(Membership(vid) for vid in (2, 3, 6, 8)), Membership(9, True)},
    ),
    ({"vlanTrunk": []}, {Membership(1, True)}),
]


@pytest.mark.usefixtures("filtering")
@pytest.mark.parametrize(("keys", "expected"), PORTS)
def test_a_port_is_in_what_was_asked_for_and_in_nothing_else(
    keys: dict[str, Any], expected: set[Membership], pod: PodNetns, host: Socket
):
    """The VLAN that a bridge puts every port into would connect pods that are to be apart."""
    present = memberships(host, add(pod, **keys))

    untagged_only = {Membership(each.vid, each in expected and each.is_native) for each in present}
    assert {each.vid for each in expected} == {each.vid for each in present}
    assert {each for each in expected if each.is_native} == {each for each in untagged_only if each.is_native}


@pytest.mark.usefixtures("filtering")
def test_all_vlans_fit_into_one_trunk(pod: PodNetns, host: Socket):
    """As ranges they are one message."""
    answer = add(pod, vlanTrunk=[{"minID": 1, "maxID": 4094}])

    assert set(range(1, 4095)) == {each.vid for each in memberships(host, answer)}


@pytest.mark.usefixtures("filtering")
def test_a_bridge_whose_default_vlan_is_another_is_left_without_it(pod: PodNetns, host: Socket):
    """Not every bridge puts its ports into VLAN 1."""
    host.request([link.create_bridge("br0", is_vlan_filtering=True)])
    set_default_vlan(host, "br0", 42)

    assert {Membership(100, True)} == memberships(host, add(pod, vlan=100))


def set_default_vlan(host: Socket, name: str, vid: int) -> None:
    message = ifinfmsg()
    message["index"] = link.require(host, name, "bridge").index
    data = {"attrs": [("IFLA_BR_VLAN_DEFAULT_PVID", vid)]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    message["attrs"] = [("IFLA_LINKINFO", info)]
    host.request([Request("change bridge", message, link.RTM_NEWLINK)])


def test_a_bridge_that_does_not_filter_vlans_is_refused(pod: PodNetns, host: Socket):
    """The reference goes on, and pods that are to be apart hear each other."""
    host.request([link.create_bridge("br0")])

    answer, code = ours("bridge", pod)("ADD", config(vlan=100))

    assert (1, 7) == (code, answer["code"])
    assert "it does not filter VLANs" in answer["msg"]
    assert [] == pod.links()
    assert [] == [each.name for each in link.dump(host) if each.kind == "veth"]


@pytest.mark.usefixtures("filtering")
def test_the_gateway_of_a_vlan_is_a_link_of_its_own_that_all_its_pods_share(pods: Pods, host: Socket):
    """The bridge itself is in no VLAN of a pod, so its address could not be reached."""
    first, second, other = (pods(name) for name in ("p1", "p2", "p3"))
    node = own_namespace()
    answer = add(first, vlan=100, isGateway=True, ipam=static("10.1.0.2/24"))
    again = add(second, vlan=100, isGateway=True, ipam=static("10.1.0.3/24"))
    add(other, vlan=200, ipam=static("10.1.0.4/24"))

    told = answer["interfaces"][3]
    assert ("br0.100", link.require(host, "br0.100", "gateway").mac) == (told["name"], told["mac"])
    assert told == again["interfaces"][3]
    assert is_reached(first.fd, node, "10.1.0.1")
    assert is_reached(second.fd, node, "10.1.0.1")
    assert is_refused(other.fd, node, "10.1.0.1")


@pytest.mark.usefixtures("filtering")
def test_half_of_a_gateway_is_completed(pod: PodNetns, host: Socket):
    """An ADD that was killed between two messages must not leave a VLAN without gateway for ever."""
    host.request([link.create_bridge("br0", is_vlan_filtering=True)])
    bridge = link.require(host, "br0", "bridge")
    host.request([link.create_pair("veth0", "br0.100", master=bridge.index)])

    add(pod, vlan=100, isGateway=True, ipam=static("10.1.0.2/24"))

    assert is_reached(pod.fd, own_namespace(), "10.1.0.1")
    assert {Membership(100, True)} == vlan.dump(host)[link.require(host, "veth0", "port").index]


@pytest.mark.usefixtures("filtering")
def test_a_link_that_the_operator_gave_the_gateway_s_name_is_taken_as_it_is(pod: PodNetns, host: Socket):
    """A VLAN device on the bridge is the usual way for a node into a VLAN."""
    host.request([link.create_pair("br0.100", "elsewhere")])

    answer = add(pod, vlan=100, isGateway=True, ipam=static("10.1.0.2/24"))

    found = link.require(host, "br0.100", "gateway")
    assert ("br0.100", found.mac) == (answer["interfaces"][3]["name"], answer["interfaces"][3]["mac"])
    assert (False, 0) == (found.is_up, link.require(host, "elsewhere", "end").master)


@pytest.mark.usefixtures("filtering")
def test_the_gateway_s_port_hears_no_router(pod: PodNetns, host: Socket):
    """As every port that we make: else a pod could give the node a default route."""
    answer = add(pod, vlan=100, isGateway=True, ipam=static("10.1.0.2/24"))

    port = link.find_index(host, link.require(host, "br0.100", "gateway").parent)

    assert port is not None
    assert port.name != answer["interfaces"][1]["name"]
    assert "0" == sysctl.read(f"net/ipv6/conf/{port.name}/accept_ra")


@pytest.mark.usefixtures("filtering")
def test_check_finds_the_native_vlan_of_a_trunk_that_has_vlan_1(pod: PodNetns):
    """ADD makes it untagged, so CHECK must not look for it tagged."""
    trunk = [{"minID": 1, "maxID": 3}]
    answer = add(pod, vlanTrunk=trunk)

    assert ({}, 0) == ours("bridge", pod)("CHECK", config(vlanTrunk=trunk, prevResult=answer))


@pytest.mark.usefixtures("filtering")
def test_check_finds_a_port_that_was_taken_out_of_its_vlan(pod: PodNetns, host: Socket):
    """The pod looks well from inside, and hears nothing."""
    answer = add(pod, vlan=100, vlanTrunk=[{"id": 200}])
    port = link.require(host, answer["interfaces"][1]["name"], "port")
    call = ours("bridge", pod)
    asked = config(vlan=100, vlanTrunk=[{"id": 200}], prevResult=answer)
    assert ({}, 0) == call("CHECK", asked)

    host.request([vlan.leave(port.index, 200)])
    without_tagged, code = call("CHECK", asked)
    host.request([vlan.join(port.index, [100, 200])])
    without_native, _ = call("CHECK", asked)

    assert code == 1
    assert "is not in VLAN 200 tagged" in without_tagged["msg"]
    assert "is not in VLAN 100 untagged" in without_native["msg"]


WRONG = [
    ({"vlan": 4095}, "vlan 4095: expected a whole number from 0 to 4094"),
    ({"vlan": -1}, "vlan -1: expected a whole number from 0 to 4094"),
    ({"vlan": "100"}, 'vlan "100": expected a whole number from 0 to 4094'),
    ({"vlanTrunk": 100}, "vlanTrunk 100: expected a list of objects"),
    ({"vlanTrunk": [{"id": 0}]}, "vlanTrunk[0]: id 0: expected a whole number from 1 to 4094"),
    ({"vlanTrunk": [{"id": 4095}]}, "vlanTrunk[0]: id 4095: expected a whole number from 1 to 4094"),
    ({"vlanTrunk": [{"id": 1}, {"minID": 0, "maxID": 5}]}, "vlanTrunk[1]: minID 0: expected a whole number"),
    ({"vlanTrunk": [{"minID": 1, "maxID": 5000}]}, "vlanTrunk[0]: maxID 5000: expected a whole number"),
    ({"vlanTrunk": [{"minID": 5}]}, "vlanTrunk[0]: maxID is missing: expected minID and maxID together"),
    ({"vlanTrunk": [{"maxID": 5}]}, "vlanTrunk[0]: minID is missing: expected minID and maxID together"),
    ({"vlanTrunk": [{"minID": 6, "maxID": 5}]}, "minID 6 is greater than maxID 5"),
    ({"vlan": 1000, "bridge": "longbridge0", "isGateway": True}, "'longbridge0.1000': expected a name that"),
]


@pytest.mark.parametrize(("keys", "text"), WRONG)
def test_a_wrong_vlan_is_refused_before_anything_is_made(
    keys: dict[str, Any], text: str, pod: PodNetns, host: Socket
):
    """Each is an error of the reference, too."""
    before = {each.name for each in link.dump(host)}

    answer, code = ours("bridge", pod)("ADD", config(**keys))

    assert (1, 7) == (code, answer["code"])
    assert text in answer["msg"]
    assert before == {each.name for each in link.dump(host)}


@pytest.mark.usefixtures("filtering")
def test_del_leaves_the_bridge_and_the_gateway_for_others(pod: PodNetns, host: Socket):
    """They belong to the network; as with the reference."""
    answer = add(pod, vlan=100, isGateway=True, ipam=static("10.1.0.2/24"))

    assert ({}, 0) == ours("bridge", pod)("DEL", config(vlan=100, isGateway=True))

    names = {each.name for each in link.dump(host)}
    assert {"br0", "br0.100"} <= names
    assert answer["interfaces"][1]["name"] not in names
