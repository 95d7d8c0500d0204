"""What a mode is for, is what arrives: bridge ports and macvlan modes with real packets."""

import errno
import re
import subprocess
import time
from collections.abc import Callable
from ipaddress import ip_interface
from typing import Any

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, link, netns, sysctl
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import Socket
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns
from tests.netns.traffic import SILENCE_S, WAIT_S, Wire, is_reached, is_refused, own_namespace

pytestmark = pytest.mark.guest

Pods = Callable[[str], PodNetns]
NOBODY = "02:00:00:00:00:77"


def add(plugin_type: str, pod: PodNetns, address: str = "", **keys: Any) -> None:
    """Attach a pod as eth0."""
    config = {"cniVersion": "1.1.0", "name": "net", "type": plugin_type, **keys}
    if address:
        config["ipam"] = {"type": "static", "addresses": [{"address": address, "gateway": "10.1.0.254"}]}
    answer, code = ours(plugin_type, pod)("ADD", config)
    assert code == 0, answer


def test_isolated_ports_reach_the_gateway_and_other_ports_but_not_each_other(pods: Pods, host: Socket):
    """portIsolation: pods of one network that must not talk to each other."""
    one, two, other = (pods(name) for name in ("one", "two", "other"))
    add("bridge", one, "10.1.0.1/24", bridge="br0", isGateway=True, portIsolation=True)
    add("bridge", two, "10.1.0.2/24", bridge="br0", isGateway=True, portIsolation=True)
    add("bridge", other, "10.1.0.3/24", bridge="br0", isGateway=True)

    assert is_refused(one.fd, two.fd, "10.1.0.2")
    assert is_reached(one.fd, own_namespace(), "10.1.0.254")
    assert is_reached(one.fd, other.fd, "10.1.0.3")
    assert is_reached(other.fd, two.fd, "10.1.0.2")


@pytest.mark.parametrize("is_operators", [True, False], ids=["the operator's", "ours"])
def test_pods_come_and_go_and_the_gateway_keeps_its_mac(pods: Pods, host: Socket, is_operators: bool):
    """Every pod knows its gateway by it; without one of its own a bridge has the lowest of its ports'."""
    if is_operators:
        host.request([link.create_bridge("br0")])
        index = link.require(host, "br0", "bridge").index
        uplink = link.create_pair("sw0", "up0", master=index)
        host.request([uplink, address.add(index, ip_interface("10.1.0.254/24"))])
        for name in ("br0", "sw0", "up0"):
            host.request([link.set_link(link.require(host, name, "link").index, is_up=True)])
        await_up(host, "br0")
    seen = []
    for n, name in enumerate(("one", "two", "three", "four")):
        add("bridge", pods(name), f"10.1.0.{n + 1}/24", bridge="br0", isGateway=True)
        seen.append(link.require(host, "br0", "bridge").mac)
    for name in ("one", "four", "two", "three"):
        with Namespaces(f"/run/netns/{name}") as namespaces:
            link.remove(namespaces.pod, "eth0")
        seen.append(link.require(host, "br0", "bridge").mac)

    assert [seen[0]] * 8 == seen


@pytest.mark.usefixtures("host")
def test_a_port_that_goes_on_listening_to_routers_is_told_by_the_log(
    pod: PodNetns, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
):
    """The runtime has its answer by then; no router's word gets past the bridge to it, so the pod works."""
    refuse = sysctl.refuse_advertisements

    def failing(interface: str) -> None:
        if interface != "br0":
            raise KernelError(f"write net/ipv6/conf/{interface}/accept_ra", errno.EROFS)
        refuse(interface)

    mocker.patch.object(sysctl, "refuse_advertisements", failing)

    add("bridge", pod, "10.1.0.1/24", bridge="br0", isGateway=True)

    (told,) = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert re.fullmatch("port (veth.*) still listens to routers: write .*/\\1/accept_ra: Read-only.*", told)


def await_up(host: Socket, name: str) -> None:
    """A bridge follows its ports, a moment later."""
    deadline = time.monotonic() + WAIT_S
    while link.require(host, name, "bridge").operstate != "UP" and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.parametrize("is_hairpin", [True, False])
def test_a_hairpin_port_hears_itself(pod: PodNetns, host: Socket, is_hairpin: bool):
    """hairpinMode: a pod that reaches itself by the address of a service."""
    add("bridge", pod, bridge="br0", hairpinMode=is_hairpin)

    with Wire(pod.fd, "eth0") as wire:
        wire.send(b"an echo?")
        heard = wire.receive(b"an echo?", wait_s=SILENCE_S)

    assert is_hairpin == (heard is not None)


@pytest.mark.parametrize("is_promiscuous", [True, False])
def test_a_promiscuous_bridge_hears_what_is_for_others(pod: PodNetns, host: Socket, is_promiscuous: bool):
    """promiscMode: the node sees what pods say to anybody."""
    add("bridge", pod, bridge="br0", promiscMode=is_promiscuous)

    with Wire(pod.fd, "eth0") as inside, Wire(own_namespace(), "br0") as bridge:
        inside.send(b"not for you", destination=NOBODY)
        heard = bridge.receive(b"not for you", wait_s=SILENCE_S)

    assert is_promiscuous == (heard is not None)


def test_a_pod_end_that_was_left_down_works_when_it_is_brought_up(pods: Pods, host: Socket):
    """disableContainerInterface: for one who brings it up himself."""
    down, up = pods("down"), pods("up")
    add("bridge", down, bridge="br0", disableContainerInterface=True)
    add("bridge", up, bridge="br0")

    before = link.require(down.socket, "eth0", "link")
    down.socket.request([link.set_link(before.index, is_up=True)])

    assert (False, True) == (before.is_up, link.require(up.socket, "eth0", "link").is_up)
    with Wire(down.fd, "eth0") as woken, Wire(up.fd, "eth0") as speaker:
        speaker.send(b"anybody now?")
        assert 0 == woken.receive(b"anybody now?")


@pytest.fixture
def wired(host: Socket) -> None:
    """A master whose cable ends in a switch that sends back what comes from there (reflective relay)."""
    host.request([link.create_pair("up0", "sw0"), link.create_bridge("switch")])
    switch, cable = (link.require(host, name, "link") for name in ("switch", "sw0"))
    changes = [link.set_link(cable.index, master=switch.index), link.set_port(cable.index, is_hairpin=True)]
    host.request(changes)
    for name in ("up0", "sw0", "switch"):
        host.request([link.set_link(link.require(host, name, "link").index, is_up=True)])


MODES = [
    # mode, with the switch that reflects, with one that does not
    ("bridge", True, True),
    ("vepa", True, False),
    ("private", False, False),
]


@pytest.mark.usefixtures("wired")
@pytest.mark.parametrize(("mode", "by_reflection", "directly"), MODES)
def test_who_reaches_whom_on_one_master(
    pods: Pods, host: Socket, mode: str, by_reflection: bool, directly: bool
):
    """bridge switches on the node, vepa by the switch outside, private not at all (macvlan.c)."""
    one, two = pods("one"), pods("two")
    add("macvlan", one, "10.1.0.1/24", master="up0", mode=mode)
    add("macvlan", two, "10.1.0.2/24", master="up0", mode=mode)

    assert by_reflection == (not is_refused(one.fd, two.fd, "10.1.0.2"))
    host.request([link.set_port(link.require(host, "sw0", "link").index, is_hairpin=False)])
    for each, other in ((one, "10.1.0.2"), (two, "10.1.0.1")):
        forget_neighbour(each, other)
    assert directly == (not is_refused(one.fd, two.fd, "10.1.0.2"))


def forget_neighbour(pod: PodNetns, address: str) -> None:
    """What was learned while the switch reflected."""
    command = ["ip", "neigh", "flush", "to", address]
    netns.run_in(pod.fd, lambda: subprocess.run(command, check=True, capture_output=True))


@pytest.mark.usefixtures("wired")
@pytest.mark.parametrize("mode", ["bridge", "vepa", "private", "passthru"])
def test_every_mode_reaches_the_outside_and_none_the_node_by_its_master(pods: Pods, host: Socket, mode: str):
    """The most frequent question of users: a node does not reach its own pods by their master."""
    pod = pods("pod0")
    add("macvlan", pod, "10.1.0.1/24", master="up0", mode=mode)

    with Wire(pod.fd, "eth0") as inside, Wire(own_namespace(), "switch") as outside:
        inside.send(b"to the outside", source=link.require(pod.socket, "eth0", "link").mac)
        outside.send(b"to the inside", source=NOBODY)

        assert 0 == outside.receive(b"to the outside")
        assert 0 == inside.receive(b"to the inside")
    host.request([link.set_port(link.require(host, "sw0", "link").index, is_hairpin=False)])
    if mode != "passthru":  # which takes all that comes to the master
        with Wire(own_namespace(), "up0") as master, Wire(pod.fd, "eth0") as inside:
            mac = link.require(pod.socket, "eth0", "link").mac
            master.send(b"from the node", destination=mac)
            assert inside.receive(b"from the node", wait_s=SILENCE_S) is None


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlans_of_a_master_reach_each_other_and_the_outside(
    mode: str, pods: Pods, host: Socket, outside: PodNetns, needs_kind: Callable[[str], None]
):
    """l2 switches by address, l3 and l3s route: in those the pods may be in different networks."""
    needs_kind("ipvlan")
    one, two = pods("one"), pods("two")
    second = "192.0.2.12/24" if mode == "l2" else "10.2.0.12/24"
    routes = [{"dst": "0.0.0.0/0", "scope": 253}]
    for pod, text in ((one, "192.0.2.11/24"), (two, second)):
        ipam = {"type": "static", "addresses": [{"address": text}], "routes": routes}
        config = {"cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "master": "up0", "mode": mode}
        answer, code = ours("ipvlan", pod)("ADD", {**config, "ipam": ipam})
        assert code == 0, answer

    assert is_reached(one.fd, two.fd, second.partition("/")[0])
    assert is_reached(two.fd, one.fd, "192.0.2.11")
    assert is_reached(outside.fd, one.fd, "192.0.2.11") == (mode == "l2")  # who routes answers no ARP
    assert is_reached(outside.fd, two.fd, second.partition("/")[0])
    assert is_reached(one.fd, outside.fd, "192.0.2.2")


@pytest.mark.parametrize(("mode", "is_filtered"), [("l3", False), ("l3s", True)])
def test_the_node_s_packet_filter_sees_l3s_alone(
    mode: str,
    is_filtered: bool,
    pod: PodNetns,
    host: Socket,
    outside: PodNetns,
    needs_kind: Callable[[str], None],
    packet_filters: Callable[[], list[str]],
):
    """What l3s is for: the node's rules hold for what comes to a pod."""
    needs_kind("ipvlan")
    ipam = {"type": "static", "addresses": [{"address": "10.2.0.12/24"}]}
    config = {"cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "master": "up0", "mode": mode}
    assert ours("ipvlan", pod)("ADD", {**config, "ipam": ipam})[1] == 0
    assert is_reached(outside.fd, pod.fd, "10.2.0.12")
    chain = "add chain inet t input { type filter hook input priority 0; }"
    for line in ("add table inet t", chain, "add rule inet t input ip daddr 10.2.0.12 drop"):
        subprocess.run(["nft", line], check=True)

    assert is_filtered == is_refused(outside.fd, pod.fd, "10.2.0.12")


def test_a_vlan_reaches_the_same_vlan_and_no_other(
    pods: Pods, host: Socket, needs_kind: Callable[[str], None]
):
    """Two uplinks of a switch that knows nothing of VLANs: frames keep their tags."""
    needs_kind("vlan")
    host.request([link.create_bridge("sw0")])
    switch = link.require(host, "sw0", "bridge").index
    host.request([link.set_link(switch, is_up=True)])
    for name in ("up0", "up1"):
        host.request([link.create_pair(f"port-{name}", name, master=switch)])
        for each in (f"port-{name}", name):
            host.request([link.set_link(link.require(host, each, "veth").index, is_up=True)])
    one, two, other = (pods(name) for name in ("one", "two", "other"))
    add("vlan", one, "10.1.0.1/24", master="up0", vlanId=100)
    add("vlan", two, "10.1.0.2/24", master="up1", vlanId=100)
    add("vlan", other, "10.1.0.3/24", master="up1", vlanId=200)

    assert is_reached(one.fd, two.fd, "10.1.0.2")
    assert is_reached(two.fd, one.fd, "10.1.0.1")
    assert is_refused(one.fd, other.fd, "10.1.0.3")
    assert is_refused(two.fd, other.fd, "10.1.0.3")
