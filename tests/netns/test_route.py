"""Routes on a real kernel: what was added is what is found, and can be added again."""

import socket as sockets
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, link, netns, route
from meta_cni.linux.codec import rtmsg
from meta_cni.linux.netlink import NLM_F_CREATE, Request, Socket
from meta_cni.linux.route import ANYWHERE, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, Route
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

IPV6_METRIC = 1024  # what the kernel gives an IPv6 route without one, <linux/ipv6_route.h>


@pytest.fixture
def index(host: Socket, pod: PodNetns) -> int:
    """A link of the pod with a carrier and an address of each family."""
    (reply,) = host.request([link.create_veth("veth0", "net1", pod.fd)])
    _, found = link.veth_indexes(reply)
    addresses = [address.add(found, ip_interface(text)) for text in ("10.0.0.2/24", "fd00::2/64")]
    pod.socket.request([link.set_link(found, is_up=True), *addresses])
    return found


def made(destination: str, gateway: str = "", index: int = 0, **more: Any) -> Route:
    """A route of texts."""
    hop = ip_address(gateway) if gateway else None
    return Route(ip_network(destination), hop, index, **more)


def found(pod: PodNetns, wanted: Route) -> list[Route]:
    """The routes to its destination, in its table."""
    return [each for each in route.dump(pod.socket, wanted.table) if each.destination == wanted.destination]


@pytest.mark.parametrize("gateway", ["10.0.0.1", "fd00::1"])
def test_a_default_route_is_told_as_in_a_result(pod: PodNetns, index: int, gateway: str):
    """The kernel has no destination for it; a tool that misses that never deletes one."""
    wanted = Route(ANYWHERE[ip_address(gateway).version], ip_address(gateway), index)

    pod.socket.request([route.add(wanted)])
    added = found(pod, wanted)
    pod.socket.request([route.delete(each) for each in added])

    assert [(wanted.destination, wanted.gateway, index)] == [
        (each.destination, each.gateway, each.interface_index) for each in added
    ]
    assert [] == found(pod, wanted)


def routes(index: int) -> dict[str, Route]:
    """One of every sort."""
    return {
        "via": made("10.1.0.0/16", "10.0.0.1", index),
        "via, IPv6": made("fd01::/64", "fd00::1", index),
        "host": made("10.1.0.1/32", "10.0.0.1", index),
        "link": made("10.1.0.0/16", "", index),
        "link, IPv6": made("fd01::/64", "", index),
        "metric": made("10.1.0.0/16", "10.0.0.1", index, priority=50),
        "metric, IPv6": made("fd01::/64", "fd00::1", index, priority=50),
        "table": made("10.1.0.0/16", "10.0.0.1", index, table=100),
        "large table": made("fd01::/64", "fd00::1", index, table=100000),
        "mtu": made("10.1.0.0/16", "10.0.0.1", index, mtu=1300, advmss=1260),
        "mtu, IPv6": made("fd01::/64", "fd00::1", index, mtu=1300, advmss=1240),
        "source": made("10.1.0.0/16", "10.0.0.1", index, source=ip_address("10.0.0.2")),
        "IPv6 gateway": made("10.1.0.0/16", "fe80::1", index),
        "default, IPv6 gateway": made("0.0.0.0/0", "fe80::1", index),
        "on link": made("0.0.0.0/0", "192.0.2.1", index, is_on_link=True),
        "on link, IPv6": made("::/0", "2001:db8::1", index, is_on_link=True),
    }


@pytest.mark.parametrize("sort", routes(0))
def test_a_route_is_found_as_it_was_added_and_can_be_added_again(pod: PodNetns, index: int, sort: str):
    """Default routes of other plugins are taken out and put back: nothing may get lost on the way."""
    wanted = routes(index)[sort]

    pod.socket.request([route.add(wanted)])
    (first,) = found(pod, wanted)
    pod.socket.request([route.delete(first)])
    between = found(pod, wanted)
    pod.socket.request([route.add(first)])

    is_link = wanted.gateway is None and wanted.destination.version == 4
    metric = IPV6_METRIC if wanted.destination.version == 6 else 0
    assert first == replace(
        wanted,
        scope=RT_SCOPE_LINK if is_link else RT_SCOPE_UNIVERSE,
        priority=wanted.priority or metric,
    )
    assert [] == between
    assert [first] == found(pod, wanted)


def test_two_ipv6_routes_to_one_destination_are_two_hops(pod: PodNetns, index: int):
    """The kernel makes one route of them, with two next hops."""
    hops = [made("fd01::/64", gateway, index) for gateway in ("fd00::1", "fd00::3")]

    pod.socket.request([route.add(each, append=True) for each in hops])

    assert [each.gateway for each in hops] == [each.gateway for each in found(pod, hops[0])]


def test_every_hop_of_a_multipath_route_is_told(pod: PodNetns, index: int):
    """A default route over two uplinks is two ways out, and is deleted with both."""
    gateways = ["10.0.0.1", "10.0.0.3"]
    message = rtmsg()
    message["family"] = sockets.AF_INET
    message["table"], message["type"], message["proto"] = route.RT_TABLE_MAIN, 1, 4
    hops = [{"oif": index, "hops": 0, "attrs": [("RTA_GATEWAY", each)]} for each in gateways]
    message["attrs"] = [("RTA_MULTIPATH", hops)]
    pod.socket.request([Request("add multipath", message, route.RTM_NEWROUTE, NLM_F_CREATE)])

    told = found(pod, made("0.0.0.0/0"))
    pod.socket.request([route.delete(each) for each in told])

    assert [2, 2] == [each.hops for each in told]
    assert [(each, index) for each in gateways] == [
        (str(each.gateway), each.interface_index) for each in told
    ]
    assert [] == found(pod, made("0.0.0.0/0"))


def test_a_route_that_is_there_is_not_added_silently(pod: PodNetns, index: int):
    """A second default route that nobody sees is why traffic goes the wrong way."""
    pod.socket.request([route.add(made("0.0.0.0/0", "10.0.0.1", index))])

    with pytest.raises(KernelError, match=r"add route 0.0.0.0/0 via 10.0.0.3: File exists"):
        pod.socket.request([route.add(made("0.0.0.0/0", "10.0.0.3", index))])


def test_an_unreachable_gateway_is_told(pod: PodNetns, index: int):
    """The most frequent mistake in a static configuration."""
    with pytest.raises(KernelError, match=r"add route 10.1.0.0/16 via 192.0.2.1: .*unreachable"):
        pod.socket.request([route.add(made("10.1.0.0/16", "192.0.2.1", index))])


def test_local_and_broadcast_routes_are_not_told(pod: PodNetns, index: int):
    """They come and go with addresses, by themselves."""
    told = [str(each.destination) for each in route.dump(pod.socket)]

    assert {"10.0.0.0/24", "fd00::/64", "fe80::/64"} >= set(told)
    assert "10.0.0.0/24" in told


def test_a_table_that_is_not_there_has_no_routes(pod: PodNetns, index: int):
    """The kernel makes tables when they are first used, and refuses to list others."""
    assert [] == route.dump(pod.socket, 4711)

    pod.socket.request([route.add(Route(ip_network("10.9.0.0/16"), interface_index=index, table=4711))])

    assert ["10.9.0.0/16"] == [str(each.destination) for each in route.dump(pod.socket, 4711)]
    assert [] == [each for each in route.dump(pod.socket) if str(each.destination) == "10.9.0.0/16"]


def test_the_routes_of_every_table_are_told_at_once(pod: PodNetns, index: int):
    """0 is no table of its own."""
    wanted = [made("10.9.0.0/16", "", index, table=table) for table in (RT_TABLE_MAIN, 100, 100000)]
    pod.socket.request([route.add(each) for each in wanted])

    told = route.dump(pod.socket, 0)

    assert [100, 254, 100000] == sorted(
        each.table for each in told if each.destination == wanted[0].destination
    )


def test_a_table_is_in_use_by_a_route_of_any_type(pod: PodNetns, index: int):
    """A table that only refuses is somebody's; the unicast routes do not tell it."""
    commands = [
        "ip route add unreachable 10.9.0.0/16 table 100",
        "ip -6 route add blackhole fd09::/48 table 700",
    ]
    netns.run_in(pod.fd, lambda: [subprocess.run(each.split(), check=True) for each in commands])

    told = route.tables(pod.socket)

    assert {100, 700, RT_TABLE_MAIN} <= told
    assert not {0, 101} & told
    assert not [each for each in route.dump(pod.socket, 0) if each.table in (100, 700)]
