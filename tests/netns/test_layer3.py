"""Addresses, routes and rules of a link, taken along on a real kernel: as they were, and no others."""

import subprocess
from ipaddress import ip_interface
from typing import Any

import pytest

from meta_cni.cni import result as results
from meta_cni.linux import address, layer3, link, netns, route, rule
from meta_cni.linux.layer3 import Layer3
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

OURS = 110
"""A protocol of rules."""


@pytest.fixture
def index(pod: PodNetns) -> int:
    """A link of the pod with a carrier."""
    pod.socket.request([link.create_pair("net1", "net2")])
    for name in ("net2", "net1"):
        pod.socket.request([link.set_link(link.require(pod.socket, name, "link").index, is_up=True)])
    return link.require(pod.socket, "net1", "link").index


def ip(pod: PodNetns, *commands: str) -> None:
    def run() -> None:
        for each in commands:
            subprocess.run(["ip", *each.split()], check=True)

    netns.run_in(pod.fd, run)


def settle(socket: Socket, index: int, taken: Layer3) -> None:
    """Give it all to a link that has nothing."""
    for batch in (taken.addresses_on(index), taken.routes_by(index), taken.rules_of(OURS)):
        socket.request(batch)


ONE_BY_ONE = [
    ("address add 192.0.2.2/24 broadcast 192.0.2.255 metric 7 dev net1",),
    ("address add 192.0.2.2/24 dev net1", "address add 192.0.2.3/24 dev net1"),
    ("address add 192.0.2.2 peer 192.0.2.1/32 dev net1",),
    ("address add fd00::2/64 nodad dev net1", "address add fd00::3 peer fd00::1 nodad dev net1"),
    ("address add 192.0.2.2/24 dev net1", "route add default via 192.0.2.1 dev net1 metric 50 proto dhcp"),
    ("route add 198.51.100.1 dev net1", "route add default via 198.51.100.1 dev net1"),
    ("route add 203.0.113.0/24 via 198.51.100.1 dev net1 onlink mtu 1400 advmss 1360 initcwnd 20",),
    ("route add 203.0.113.0/24 dev net1 tos 0x10 table 3000",),
    ("-6 route add fd00:1::/32 dev net1", "-6 route add fd00:1:5::/48 via fd00:1::1 dev net1 pref high"),
    ("address add fd00::2/64 nodad dev net1", "route add 203.0.113.0/24 via inet6 fd00::1 dev net1"),
]


@pytest.mark.parametrize("commands", ONE_BY_ONE)
def test_what_was_set_up_is_the_same_on_the_link_that_takes_it(
    pod: PodNetns, index: int, commands: tuple[str, ...]
):
    """Down to what nothing here knows, as the first window of a route; flushing is what a move does."""
    ip(pod, *commands)
    before = told(pod)
    taken = Layer3.read(pod.socket, index)
    ip(pod, "address flush dev net1 scope global", "route flush table all dev net1", "link set net1 up")
    assert before != told(pod)

    settle(pod.socket, index, taken)

    assert before == told(pod)


AUTOMATIC = ("fe80::", "multicast", "proto kernel")


def told(pod: PodNetns) -> tuple[str, ...]:
    """As iproute2 has it, without what comes and goes by itself."""

    def listed(command: str) -> list[str]:
        text = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=True).stdout
        return sorted(" ".join(each.split()) for each in text.splitlines())

    routes = "route show table all dev net1"
    commands = ("-o address show net1", routes, f"-6 {routes}")
    lines = netns.run_in(pod.fd, lambda: [line for each in commands for line in listed(each)])
    return tuple(each for each in lines if not any(word in each for word in AUTOMATIC))


LEFT = [
    ("address add 169.254.1.1/16 scope link dev net1",),
    ("address add fd00::2/64 nodad valid_lft 900 preferred_lft 900 dev net1",),
    ("-6 route add fd00:8::/64 dev net1 proto ra",),
    ("-6 route add fd00:8::/64 dev net1 proto kernel",),
    ("-6 route add fe80:1::/64 dev net1",),
    ("-6 route add fd00:8::/64 nexthop via fe80::1 dev net1 nexthop via fe80::2 dev net1",),
    ("route add 203.0.113.0/24 dev net2",),
    ("rule add from 192.0.2.2 table 100",),
]


@pytest.mark.parametrize("commands", LEFT)
def test_what_the_kernel_makes_by_itself_or_is_not_the_links_stays(
    pod: PodNetns, index: int, commands: tuple[str, ...]
):
    """An address of limited life would be for ever, an advertised route would outlive its router."""
    ip(pod, *commands)

    taken = Layer3.read(pod.socket, index)

    assert ([], [], []) == (taken.addresses, taken.routes, taken.rules)


def test_an_address_that_somebody_else_has_stays(pod: PodNetns, index: int, mocker):
    """Without duplicate address detection it would be used where it is not told to be a duplicate."""
    found = [address.Address(index, ip_interface("fd00::2/64"), is_duplicate=True)]
    mocker.patch("meta_cni.linux.layer3.address.dump", return_value=found)

    assert [] == Layer3.read(pod.socket, index).addresses


RULES = [
    ("from 192.0.2.2 table 100 priority 900", True),
    ("from 192.0.2.0/24 to 203.0.113.0/24 fwmark 7/0xf table 100 priority 901", True),
    ("not from 192.0.2.0/24 table 100 priority 902", True),
    ("from 192.0.2.2 table 100 suppress_prefixlength 0 priority 903 protocol 186", True),
    ("from 192.0.2.2 ipproto tcp dport 80 table 100 priority 904", True),
    ("from 192.0.2.2 table 200 priority 905", False),
    ("from 10.0.0.1 table 100 priority 906", False),
    ("to 192.0.2.2 table 100 priority 907", False),
    ("from 192.0.2.2 blackhole priority 908", False),
]


@pytest.mark.parametrize(("words", "is_taken"), RULES)
def test_a_rule_by_an_address_to_a_table_of_the_link_comes_along(
    pod: PodNetns, index: int, words: str, is_taken: bool
):
    """Whatever else it asks for; one that was changed on the way would steer other packets."""
    ip(pod, "address add 192.0.2.2/24 dev net1", "route add default via 192.0.2.1 dev net1 table 100")
    ip(pod, f"rule add {words}")
    before = rules(pod)

    taken = Layer3.read(pod.socket, index)
    pod.socket.request([rule.delete_found(each) for each in taken.rules])
    after = rules(pod)
    pod.socket.request(taken.rules_of(OURS))

    assert is_taken == (before != after)
    assert before == rules(pod)
    made = [each.protocol for each in rule.dump(pod.socket) if 900 <= each.priority <= 908]
    assert ([OURS] if is_taken else [0]) == [each if each == OURS else 0 for each in made]


def rules(pod: PodNetns) -> str:
    """As iproute2 has them, whoever made them."""

    def listed() -> str:
        return subprocess.run(["ip", "rule"], capture_output=True, text=True, check=True).stdout

    text = netns.run_in(pod.fd, listed)
    return "\n".join(each.split(" proto ")[0].strip() for each in text.splitlines())


def test_rules_go_when_nobody_has_their_addresses_any_more(pod: PodNetns, index: int):
    """A second link of the pod may need the same; what another made stays in any case."""
    ip(pod, "address add 192.0.2.2/24 dev net1", "address add 198.51.100.2/24 dev net2")
    ip(pod, *(f"rule add from {text} table 100 protocol {OURS}" for text in ("192.0.2.0/24", "10.0.0.1")))
    ip(pod, "rule add from 10.0.0.1 table 100 priority 7", f"rule add from 0.0.0.0/1 protocol {OURS}")

    layer3.remove_rules(pod.socket, OURS)
    kept = rules(pod)
    ip(pod, "address flush dev net1")
    layer3.remove_rules(pod.socket, OURS)

    assert ["192.0.2.0/24", "10.0.0.1"] == [each for each in ("192.0.2.0/24", "10.0.0.1") if each in kept]
    assert "from 192.0.2.0/24" not in rules(pod)


def test_a_result_tells_it_behind_its_own(pod: PodNetns, index: int):
    """What an IPAM gave comes first; a default route is one in every form of it."""
    ip(pod, "address add 192.0.2.2/24 dev net1", "route add default via 192.0.2.1 dev net1 metric 50")
    ip(pod, "-6 route add default dev net1 table 100")
    own: dict[str, Any] = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}]}

    merged = Layer3.read(pod.socket, index).told_in(results.parse(own, "1.1.0"))

    assert ["10.1.0.2/24", "192.0.2.2/24"] == [str(each.address) for each in merged.ips]
    assert [("0.0.0.0/0", "192.0.2.1", 50, 254, None), ("::/0", "None", 1024, 100, None)] == [
        (str(each.destination), str(each.gateway), each.priority, each.table, each.scope)
        for each in merged.routes
    ]


def test_a_route_that_is_there_is_left(pod: PodNetns, index: int):
    """A device that never left has everything still."""
    ip(pod, "address add 192.0.2.2/24 dev net1", "route add default via 192.0.2.1 dev net1")
    taken = Layer3.read(pod.socket, index)
    before = told(pod)

    settle(pod.socket, index, taken)

    assert before == told(pod)
    assert 1 == len(route.defaults(pod.socket))
