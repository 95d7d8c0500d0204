"""sbr on the kernel: who is answered and by which way, whose rules go, and what a failure leaves."""

import errno
import fcntl
import json
import logging
import os
import select
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from delegates.sbr import RTPROT_SBR, Sbr
from meta_cni import standalone
from meta_cni.cni import result as results
from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import CNIError, KernelError
from meta_cni.cni.result import address_of, interface_address_of
from meta_cni.delegate import Attachment
from meta_cni.ipam import Nothing
from meta_cni.linux import address, link, netns, route, rule, sysctl
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import Reply, Request, Socket
from meta_cni.linux.route import ANYWHERE, RT_TABLE_MAIN, Route
from meta_cni.linux.rule import Rule
from tests.netns.chain import environment, ours, references, theirs, unwire, wire
from tests.netns.conftest import Node, PodNetns
from tests.netns.traffic import PORT, SILENCE_S, WAIT_S

pytestmark = [pytest.mark.guest, pytest.mark.slow]

CLIENTS = ("192.0.2.2", "2001:db8::2")
"""Who asks, from behind either network."""


def config(previous: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    given = {"cniVersion": "1.0.0", "name": "net", "type": "sbr", **keys}
    return {**given, "prevResult": previous} if previous is not None else given


def call(pod: PodNetns, command: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A call that succeeds."""
    answer, code = ours("sbr", pod, CNI_IFNAME=name)(command, given)
    assert code == 0, answer
    return answer


def failing(pod: PodNetns, command: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A call that fails; the error."""
    answer, code = ours("sbr", pod, CNI_IFNAME=name)(command, given)
    assert code == 1, answer
    return answer


def ip(pod: PodNetns, *lines: str) -> str:
    """iproute2 in the pod; what it prints."""

    def run() -> str:
        commands = "\n".join(lines)
        done = subprocess.run(["sh", "-ec", commands], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return netns.run_in(pod.fd, run)


def steering(pod: PodNetns) -> list[tuple[str, int]]:
    """(source, table) of our rules."""
    ours = [each for each in rule.dump(pod.socket) if each.protocol == RTPROT_SBR]
    return sorted((str(each.source), each.table) for each in ours)


def routes(pod: PodNetns, table: int = RT_TABLE_MAIN) -> set[str]:
    """The routes of a table as text; link-local ones aside."""
    names = {each.index: each.name for each in link.dump(pod.socket)}
    return {
        f"{each.destination} via {each.gateway} dev {names[each.interface_index]} src {each.source}"
        for each in route.dump(pod.socket, table)
        if not each.destination.is_link_local
    }


def everything(pod: PodNetns) -> tuple[set[Rule], set[Route]]:
    """Every rule and every unicast route of the pod, but for what the kernel makes in its own time."""
    found = route.dump(pod.socket, 0)
    return set(rule.dump(pod.socket)), {each for each in found if not each.destination.is_link_local}


def wired(pod: PodNetns, host: Socket, name: str = "eth0", subnet: int = 1, **more: Any) -> dict[str, Any]:
    """An interface of both families; the result that tells it."""
    previous = wire(pod, host, name, f"10.{subnet}.0.2/24", f"fd00:{subnet}::2/64")
    return {**previous, **more}


@dataclass
class Networks:
    """A pod in two networks; behind each of them is a client of the same address."""

    pod: PodNetns
    first: PodNetns
    second: PodNetns
    results: dict[str, dict[str, Any]]

    def is_answered(self, client: PodNetns, asked: str) -> bool:
        """Does a client behind a network get an answer from an address of the pod?"""
        is_six = ":" in asked
        family = sockets.AF_INET6 if is_six else sockets.AF_INET
        source = CLIENTS[is_six]

        def opened(own: str) -> sockets.socket:
            made = sockets.socket(family, sockets.SOCK_DGRAM)
            made.bind((own, PORT))
            return made

        with (
            netns.run_in(self.pod.fd, lambda: opened(asked)) as server,
            netns.run_in(client.fd, lambda: opened(source)) as asking,
        ):
            deadline = time.monotonic() + 2 * WAIT_S
            asking.sendto(b"?", (asked, PORT))
            while not select.select([server], [], [], WAIT_S / 20)[0]:  # the first may be lost
                assert time.monotonic() < deadline, "the question does not arrive"
                asking.sendto(b"?", (asked, PORT))
            question, who = server.recvfrom(16)
            assert (b"?", source) == (question, who[0])
            while time.monotonic() < deadline:
                try:
                    server.sendto(b"!", who)
                except OSError:
                    return False
                if select.select([asking], [], [], SILENCE_S)[0]:
                    return asking.recvfrom(16)[0] == b"!"
                deadline -= WAIT_S  # silence twice is silence
        return False


@pytest.fixture
def networks(pod: PodNetns, pods: Callable[[str], PodNetns]) -> Networks:
    """eth0 with the default routes, and net1; each leads to a namespace of its own."""
    results = {}
    sides = (pods("first"), pods("second"))
    for side, name, subnet in zip(sides, ("eth0", "net1"), (1, 2), strict=True):
        results[name] = wired(pod, side.socket, name, subnet)
        index = link.require(side.socket, f"up-{name}", "link").index
        netns.run_in(side.fd, lambda name=name: sysctl.write(f"net/ipv6/conf/up-{name}/accept_dad", "0"))
        loopback = link.require(side.socket, "lo", "link").index
        own = (f"10.{subnet}.0.1/24", f"fd00:{subnet}::1/64")
        side.socket.request(
            [
                link.set_link(index, is_up=True),
                *(address.add(index, interface_address_of(each)) for each in own),
                *(
                    address.add(loopback, interface_address_of(f"{each}/{n}"))
                    for each, n in zip(CLIENTS, (32, 128), strict=True)
                ),
            ]
        )
    index = link.require(pod.socket, "eth0", "link").index
    for gateway in ("10.1.0.1", "fd00:1::1"):
        hop = address_of(gateway)
        pod.socket.request([route.add(Route(ANYWHERE[hop.version], hop, index))])
    return Networks(pod, *sides, results)


@pytest.mark.parametrize("asked", ["10.2.0.2", "fd00:2::2"])
def test_the_pod_answers_over_the_interface_it_was_asked_on(networks: Networks, asked: str):
    """What it is for; without it the answer takes the default route of the other network."""
    before = networks.is_answered(networks.second, asked)

    call(networks.pod, "ADD", "net1", config(networks.results["net1"]))

    assert (False, True) == (before, networks.is_answered(networks.second, asked))


@pytest.mark.parametrize(("first", "second"), [("10.1.0.2", "10.2.0.2"), ("fd00:1::2", "fd00:2::2")])
def test_both_interfaces_may_be_steered_and_let_go(networks: Networks, first: str, second: str):
    """A DEL of one leaves the other's way; afterwards it is as without it."""
    for name in ("eth0", "net1"):
        call(networks.pod, "ADD", name, config(networks.results[name]))
        call(networks.pod, "CHECK", name, config(networks.results[name]))
    with_both = [networks.is_answered(networks.first, first), networks.is_answered(networks.second, second)]

    call(networks.pod, "DEL", "eth0", config(networks.results["eth0"]))

    assert [True, True] == with_both
    assert networks.is_answered(networks.second, second)
    assert not networks.is_answered(networks.first, first)  # its routes are only in the table
    call(networks.pod, "DEL", "net1", config(networks.results["net1"]))
    assert [] == steering(networks.pod)


@pytest.mark.parametrize("asked", ["10.2.0.2", "fd00:2::2"])
def test_a_static_gateway_makes_the_way_where_the_ipam_has_none(networks: Networks, asked: str):
    """An IPAM without a gateway is the most frequent reason why sbr does nothing."""
    previous = networks.results["net1"]
    for each in previous["ips"]:
        del each["gateway"]
    given = config(previous, gateways=["10.2.0.1", "fd00:2::1"])

    call(networks.pod, "ADD", "net1", given)

    call(networks.pod, "CHECK", "net1", given)
    assert networks.is_answered(networks.second, asked)


@pytest.mark.parametrize(("destination", "source"), [("10.2.0.1", "10.2.0.2"), ("fd00:2::1", "fd00:2::2")])
def test_with_source_hints_a_neighbour_is_reached_by_its_network(
    networks: Networks, destination: str, source: str
):
    """A program that chooses no address would take the default route to a neighbour of net1."""

    def chosen() -> str:
        family = sockets.AF_INET6 if ":" in destination else sockets.AF_INET
        with sockets.socket(family, sockets.SOCK_DGRAM) as sending:
            sending.connect((destination, 9))
            return str(sending.getsockname()[0])

    given = config(networks.results["net1"])
    call(networks.pod, "ADD", "net1", {**given, "addSourceHints": True})

    assert source == netns.run_in(networks.pod.fd, chosen)
    assert networks.is_answered(networks.second, source)
    call(networks.pod, "CHECK", "net1", given)


def test_a_link_local_neighbour_is_still_reached(pod: PodNetns, host: Socket):
    """No rule asks for a link-local source: the reference takes the way away and gives no other."""
    results = [theirs(each, pod, CNI_IFNAME="eth0") for each in references("sbr")]
    outcomes = []
    for sbr in (*results, ours("sbr", pod, CNI_IFNAME="eth0")):
        previous = wired(pod, host)
        index = link.require(pod.socket, "eth0", "link").index
        host.request([link.set_link(link.require(host, "up-eth0", "link").index, is_up=True)])
        ip(pod, "until ip -6 route show dev eth0 table main | grep -q '^fe80::/64'; do sleep 0.01; done")

        def connect(index: int = index) -> str:
            with sockets.socket(sockets.AF_INET6, sockets.SOCK_DGRAM) as sending:
                try:
                    sending.connect(("fe80::1", 9, 0, index))
                except OSError as error:
                    return error.strerror or ""
            return "reached"

        answer, code = sbr("ADD", config(previous))
        assert code == 0, answer
        outcomes.append(netns.run_in(pod.fd, connect))
        sbr("DEL", config(previous))
        unwire(host)

    assert ["Network is unreachable"] * len(results) + ["reached"] == outcomes


NUMBER = 8
"""Interfaces that are set up at once."""


def many(pod: PodNetns, host: Socket) -> dict[str, dict[str, Any]]:
    """Several interfaces, and what made them."""
    return {f"net{each}": wired(pod, host, f"net{each}", each) for each in range(NUMBER)}


def by_threads(pod: PodNetns, results: dict[str, dict[str, Any]]) -> list[int]:
    """In one process, as the daemon does."""

    def add(name: str) -> int:
        return ours("sbr", pod, CNI_IFNAME=name)("ADD", config(results[name]))[1]

    with ThreadPoolExecutor(NUMBER) as pool:
        return list(pool.map(add, results))


READY = """
import os, sys
sys.path.insert(0, sys.argv[1])
import delegates
from meta_cni import standalone
delegates.load("sbr")
print("ready", flush=True)
sys.exit(standalone.serve("sbr", os.environ, sys.stdin.buffer.readline())[1])
"""
"""A program that has done everything but the call: what takes longest must not keep them apart."""


def by_processes(pod: PodNetns, results: dict[str, dict[str, Any]]) -> list[int]:
    """Each in one of its own, as a runtime does."""
    command = [sys.executable, "-c", READY, str(Path(__file__).parents[2])]
    processes = [
        subprocess.Popen(
            command,
            env=environment("ADD", pod, {"CNI_IFNAME": name}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in results
    ]
    for each in processes:
        assert each.stdout is not None
        assert b"ready\n" == each.stdout.readline()
    for each, previous in zip(processes, results.values(), strict=True):
        assert each.stdin is not None
        each.stdin.write(json.dumps(config(previous)).encode() + b"\n")
        each.stdin.flush()
    for each in processes:
        each.communicate()
    return [each.returncode for each in processes]


@pytest.mark.parametrize("add_all", [by_threads, pytest.param(by_processes, marks=pytest.mark.native)])
def test_interfaces_that_are_set_up_at_once_have_different_tables(
    pod: PodNetns, host: Socket, add_all: Callable[[PodNetns, dict[str, dict[str, Any]]], list[int]]
):
    """Two in one table would send the one's packets over the other."""
    results = many(pod, host)

    codes = add_all(pod, results)

    assert [0] * NUMBER == codes
    assert list(range(100, 100 + 2 * NUMBER)) == sorted(table for _, table in steering(pod))
    for name, previous in results.items():
        call(pod, "CHECK", name, config(previous))


def test_beside_the_reference_tables_are_different_too(pod: PodNetns, host: Socket):
    """While a node changes from one to the other, both run: they have one lock."""
    binary = references("sbr")[0]
    results = many(pod, host)

    def add(number: int, name: str) -> int:
        sbr = ours("sbr", pod, CNI_IFNAME=name) if number % 2 else theirs(binary, pod, CNI_IFNAME=name)
        return sbr("ADD", config(results[name]))[1]

    with ThreadPoolExecutor(NUMBER) as pool:
        codes = list(pool.map(add, range(NUMBER), results))

    tables = [each.table for each in rule.dump(pod.socket) if each.is_by_source]
    assert [0] * NUMBER == codes
    assert list(range(100, 100 + 2 * NUMBER)) == sorted(tables)


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_while_another_has_the_namespace_s_lock_nothing_is_done(
    pod: PodNetns, host: Socket, monkeypatch: pytest.MonkeyPatch, command: str
):
    """The reference's lock, by the path; a runtime tries again."""
    monkeypatch.setattr(standalone, "DEADLINE_S", 0.0)
    given = config(wired(pod, host))
    if command == "DEL":
        call(pod, "ADD", "eth0", given)
    before = everything(pod)
    held = os.open(pod.path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    error = failing(pod, command, "eth0", given)

    os.close(held)
    assert 11 == error["code"], error
    assert "another call for it is still running" in error["msg"]
    assert before == everything(pod)
    call(pod, command, "eth0", given)
    assert before != everything(pod)


def without_hop(pod: PodNetns, previous: dict[str, Any]) -> dict[str, Any]:
    """The first step fails: a route of a table."""
    previous["ips"][1]["gateway"] = "2001:db8::1"
    return config(previous)


def without_address(pod: PodNetns, previous: dict[str, Any]) -> dict[str, Any]:
    """The last step fails: a source that the pod does not have, when the main table has been changed."""
    previous["ips"].append({"address": "10.9.0.2/24", "interface": 0})
    return config(previous, addSourceHints=True)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (without_hop, "add route ::/0 via 2001:db8::1"),
        (without_address, "add route 10.9.0.0/24"),
    ],
)
def test_a_failing_add_leaves_everything_as_it_was(
    pod: PodNetns,
    host: Socket,
    spoilt: Callable[[PodNetns, dict[str, Any]], dict[str, Any]],
    words: str,
):
    """A pod whose main table is lost cannot be reached over any interface."""
    given = spoilt(pod, wired(pod, host))
    ip(
        pod,
        "ip route add default via 10.1.0.1 metric 7 mtu 1300",
        "ip route add 10.8.0.0/16 via 10.1.0.8 src 10.1.0.2",
        "ip -6 route add fd09::/48 via fd00:1::9",
        "ip rule add from 10.7.0.0/16 lookup 77",
    )
    before = everything(pod)

    error = failing(pod, "ADD", "eth0", given)

    assert words in error["msg"]
    assert before == everything(pod)


def test_without_the_interface_nothing_is_done(pod: PodNetns, host: Socket):
    """The plugin before it told another name."""
    given = config(wired(pod, host))
    given["prevResult"]["interfaces"][0]["name"] = "net7"
    before = everything(pod)

    error = failing(pod, "ADD", "net7", given)

    assert "look up link net7: No such device" == error["msg"]
    assert before == everything(pod)


GONE: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "the link": ("ip link del eth0",),
    "the addresses": ("ip address flush dev eth0 scope global",),
    "the routes": ("ip route flush table 100 || true", "ip -6 route flush table 101 || true"),
    "the link's state": ("ip link set eth0 down",),
}


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("keys", [{}, {"table": 200}])
@pytest.mark.parametrize("gone", GONE)
def test_rules_go_whatever_went_before_them(
    pod: PodNetns, host: Socket, gone: str, keys: dict[str, Any], is_told: bool
):
    """A rule that stays takes the table of the next interface; prevResult comes since CNI 0.4.0."""
    previous = wired(pod, host)
    wired(pod, host, "net1", 2)
    ip(
        pod,
        "ip route add 192.0.2.0/24 dev net1 table 200",
        "ip -6 route add 2001:db8::/32 dev net1 table 200",
    )
    before = set(rule.dump(pod.socket))
    call(pod, "ADD", "eth0", config(previous, **keys))
    assert len(before) + 2 == len(rule.dump(pod.socket))
    ip(pod, *GONE[gone])

    call(pod, "DEL", "eth0", config(previous if is_told else None, **keys))

    assert before == set(rule.dump(pod.socket))
    call(pod, "DEL", "eth0", config(previous if is_told else None, **keys))


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("is_link_gone", [True, False])
def test_others_rules_stay(pod: PodNetns, host: Socket, is_told: bool, is_link_gone: bool):
    """An application's rule for the same address is its own; the reference takes it away."""
    previous = wired(pod, host)
    call(pod, "ADD", "eth0", config(previous))
    ip(
        pod,
        "ip rule add from 10.1.0.2 lookup 100",
        "ip rule add from 10.1.0.2 lookup 100 pref 9 protocol static",
        f"ip rule add from 10.1.0.2 fwmark 7 lookup 100 protocol {RTPROT_SBR}",
        f"ip rule add from 10.1.0.0/24 lookup 100 protocol {RTPROT_SBR}",
        f"ip rule add not from 10.1.0.2 lookup 300 protocol {RTPROT_SBR}",
        "ip -6 rule add from fd00:1::2 lookup 101",
    )
    others = [each for each in rule.dump(pod.socket) if each.protocol != RTPROT_SBR or not is_host(each)]
    if is_link_gone:
        ip(pod, "ip link del eth0")

    call(pod, "DEL", "eth0", config(previous if is_told else None))

    assert others == rule.dump(pod.socket)


def is_host(found: Rule) -> bool:
    return found.is_from(found.source.network_address)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("is_link_gone", [True, False])
def test_an_interface_of_the_same_address_keeps_its_rules(
    pod: PodNetns, host: Socket, is_told: bool, is_link_gone: bool
):
    """Two networks may use the same range; the source alone does not tell whose rule it is."""
    results = {name: wired(pod, host, name, 1) for name in ("eth0", "net1")}
    for name, previous in results.items():
        call(pod, "ADD", name, config(previous))
    assert [100, 102, 101, 103] == [table for _, table in steering(pod)]
    if is_link_gone:
        ip(pod, "ip link del eth0")

    call(pod, "DEL", "eth0", config(results["eth0"] if is_told else None))

    expected = {("10.1.0.2/32", 102), ("fd00:1::2/128", 103)}
    if is_link_gone and not is_told:  # nothing says that they were its own
        expected |= {("10.1.0.2/32", 100), ("fd00:1::2/128", 101)}
    assert sorted(expected) == steering(pod)
    call(pod, "CHECK", "net1", config(results["net1"]))


def test_without_prevresult_an_interface_that_lost_its_address_for_a_while_keeps_its_rules(
    pod: PodNetns, host: Socket
):
    """Its routes still lead by it, so it is no remains of the interface that goes."""
    results = {name: wired(pod, host, name, subnet) for name, subnet in (("eth0", 1), ("net1", 2))}
    ip(pod, "ip route add 10.9.0.0/16 dev net1", "ip -6 route add fd09::/48 dev net1")
    for name, previous in results.items():
        call(pod, "ADD", name, config(previous))
    before = steering(pod)
    ip(pod, "ip address del fd00:2::2/64 dev net1")

    call(pod, "DEL", "eth0", config())

    assert [each for each in before if each[1] in (102, 103)] == steering(pod)


@pytest.mark.parametrize(
    "keys",
    [
        {"table": "many"},
        {"gateways": "10.1.0.1"},
        {"addSourceHints": 7},
        {"prevResult": {"ips": 7}},
        {"table": 5, "gateways": ["10.1.0.1"]},
    ],
)
def test_a_configuration_that_became_wrong_keeps_no_rule(pod: PodNetns, host: Socket, keys: dict[str, Any]):
    """What cannot be read is left out; the interface is still there to tell its addresses."""
    call(pod, "ADD", "eth0", config(wired(pod, host)))

    call(pod, "DEL", "eth0", {**config(), **keys})

    assert [] == steering(pod)


@pytest.mark.parametrize("netns_path", ["", "/run/netns/gone"])
def test_without_a_namespace_there_is_nothing_to_delete(pod: PodNetns, host: Socket, netns_path: str):
    """The reference fails, and leaves a file where the namespace was."""
    sbr = ours("sbr", pod, CNI_NETNS=netns_path)

    assert ({}, 0) == sbr("DEL", config())
    assert not os.path.exists("/run/netns/gone")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"table": 0}, "table 0: expected a whole number from 1 to 4294967295"),
    ({"table": -1}, "table -1: expected a whole number from 1 to 4294967295"),
    ({"table": 2**32}, "table 4294967296: expected a whole number from 1 to 4294967295"),
    ({"table": "100"}, 'table "100": expected a whole number from 1 to 4294967295'),
    ({"gateways": "10.1.0.1"}, 'gateways "10.1.0.1": expected a list of strings'),
    ({"gateways": ["10.1.0.1/24"]}, 'gateways ["10.1.0.1/24"]: expected a list of IP addresses'),
    ({"gateways": ["10.1.0.1", "10.1.0.9"]}, "expected at most one IPv4 and one IPv6 address"),
    ({"gateways": ["fd00::1", "10.1.0.1", "fd00::2"]}, "expected at most one IPv4 and one IPv6 address"),
    ({"addSourceHints": "yes"}, 'addSourceHints "yes": expected true or false'),
    ({"table": 5, "gateways": ["10.1.0.1"]}, 'gateways ["10.1.0.1"]: expected none beside table'),
    ({"table": 5, "addSourceHints": True}, "addSourceHints true: expected none beside table"),
    ({"priority": 7}, "priority 7 is not built in"),
    ({"prevResult": None}, "prevResult is missing: This plugin must be called as chained plugin"),
    ({"prevResult": {"ips": []}}, "No IP addresses supplied on interface eth0"),
    (
        {
            "prevResult": {
                "interfaces": [{"name": "net7"}],
                "ips": [{"address": "10.7.0.2/24", "interface": 0}],
            }
        },
        "No IP addresses supplied on interface eth0",
    ),
]


@pytest.mark.parametrize(("keys", "words"), WRONG)
def test_what_is_wrong_is_named_and_nothing_is_touched(
    pod: PodNetns, host: Socket, keys: dict[str, Any], words: str
):
    """Each with the key and what would be right."""
    given = {**config(wired(pod, host)), **keys}
    before = everything(pod)

    error = failing(pod, "ADD", "eth0", given)

    assert 7 == error["code"], error
    assert words in error["msg"]
    assert before == everything(pod)


def test_a_table_beside_keys_that_are_off_is_no_contradiction(pod: PodNetns, host: Socket):
    """A template writes every key."""
    given = config(wired(pod, host), table=5, gateways=[], addSourceHints=False)

    call(pod, "ADD", "eth0", given)

    assert [5, 5] == [table for _, table in steering(pod)]


def test_a_missing_gateway_is_said_in_the_log_and_the_rest_is_done(
    pod: PodNetns, host: Socket, caplog: pytest.LogCaptureFixture
):
    """Nobody sees why there is no default route, else; a network without a way out is no mistake."""
    previous = wired(pod, host)
    del previous["ips"][0]["gateway"]
    log = logging.getLogger("meta_cni")  # another test may have set it up

    log.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, logger=log.name):
            call(pod, "ADD", "eth0", config(previous))
    finally:
        log.removeHandler(caplog.handler)

    words = "network net: sbr: c1 eth0: address 10.1.0.2/24 has no gateway: no default route is set"
    assert {words} == {each.getMessage() for each in caplog.records}
    assert {"10.1.0.0/24 via None dev eth0 src 10.1.0.2"} == routes(pod, 100)
    assert {"::/0 via fd00:1::1 dev eth0 src None", "fd00:1::/64 via None dev eth0 src None"} == routes(
        pod, 101
    )
    call(pod, "CHECK", "eth0", config(previous))


def test_a_missing_gateway_is_said_on_standard_error(pod: PodNetns, host: Socket):
    """Where a runtime keeps it; on standard output there is one document."""
    previous = wired(pod, host)
    del previous["ips"][0]["gateway"]
    command = [sys.executable, "-c", READY, str(Path(__file__).parents[2])]

    done = subprocess.run(
        command,
        env=environment("ADD", pod, {}),
        input=json.dumps(config(previous)).encode(),
        capture_output=True,
    )

    assert (0, b"ready\n") == (done.returncode, done.stdout)
    assert b"address 10.1.0.2/24 has no gateway: no default route is set\n" in done.stderr


def test_a_static_gateway_comes_before_the_result_s_and_the_main_table_s(pod: PodNetns, host: Socket):
    """The reference's main branch puts the old default route over it."""
    previous = wired(pod, host)
    ip(pod, "ip route add default via 10.1.0.1", "ip -6 route add default via fd00:1::1")
    given = config(previous, gateways=["10.1.0.9"])

    call(pod, "ADD", "eth0", given)

    assert "0.0.0.0/0 via 10.1.0.9 dev eth0 src None" in routes(pod, 100)
    assert "0.0.0.0/0 via 10.1.0.1 dev eth0 src None" not in routes(pod, 100)
    assert "::/0 via fd00:1::1 dev eth0 src None" in routes(pod, 101)
    assert set() == routes(pod)
    call(pod, "CHECK", "eth0", given)


def test_source_hints_keep_the_networks_in_the_main_table_alone(pod: PodNetns, host: Socket):
    """To a neighbour by its network, to everybody else by the default route of the pod."""
    previous = wired(pod, host)
    ip(
        pod,
        "ip route add default via 10.1.0.1",
        "ip route add 10.8.0.0/16 via 10.1.0.8",
        "ip route add 10.9.0.0/16 dev eth0",
        "ip -6 route add default via fd00:1::1",
        "ip address add 10.1.0.3/24 dev eth0",
    )
    previous["ips"].append({"address": "10.1.0.3/24", "interface": 0, "gateway": "10.1.0.1"})

    call(pod, "ADD", "eth0", config(previous, addSourceHints=True))

    assert {
        "10.1.0.0/24 via None dev eth0 src 10.1.0.2",
        "10.9.0.0/16 via None dev eth0 src None",
        "fd00:1::/64 via None dev eth0 src fd00:1::2",
    } == routes(pod)
    assert {
        "0.0.0.0/0 via 10.1.0.1 dev eth0 src None",
        "10.1.0.0/24 via None dev eth0 src 10.1.0.2",
        "10.8.0.0/16 via 10.1.0.8 dev eth0 src None",
        "10.9.0.0/16 via None dev eth0 src None",
    } == routes(pod, 100)
    assert [("10.1.0.2/32", 100), ("10.1.0.3/32", 102), ("fd00:1::2/128", 101)] == steering(pod)


def test_source_hints_make_the_way_to_a_network_that_has_none(pod: PodNetns, host: Socket):
    """An address without a route of its network (noprefixroute) still is in it."""
    previous = wired(pod, host)
    ip(pod, "ip route del 10.1.0.0/24 dev eth0", "ip -6 route del fd00:1::/64 dev eth0")
    for each in previous["ips"]:
        del each["gateway"]

    call(pod, "ADD", "eth0", config(previous, addSourceHints=True))

    assert {
        "10.1.0.0/24 via None dev eth0 src 10.1.0.2",
        "fd00:1::/64 via None dev eth0 src fd00:1::2",
    } == routes(pod)


def test_a_route_over_several_interfaces_stays_in_the_main_table(pod: PodNetns, host: Socket):
    """It is nobody's alone; to move one of its hops would take the other with it."""
    previous = wired(pod, host)
    wired(pod, host, "net1", 2)
    hops = "nexthop via 10.1.0.9 dev eth0 nexthop via 10.2.0.9 dev net1"
    ip(pod, f"ip route add 10.9.0.0/16 {hops}")

    call(pod, "ADD", "eth0", config(previous))

    left = [each for each in routes(pod) if each.startswith("10.9.0.0/16")]
    assert 2 == len(left)
    assert not [each for each in routes(pod, 100) if each.startswith("10.9.0.0/16")]


def test_default_routes_of_other_metrics_stand_beside_the_gateway_s(pod: PodNetns, host: Socket):
    """One is there for the time when the other is not."""
    previous = wired(pod, host)
    ip(pod, "ip route add default via 10.1.0.8 metric 8", "ip route add default via 10.1.0.9 metric 9")

    call(pod, "ADD", "eth0", config(previous))

    hops = {str(each.gateway) for each in route.dump(pod.socket, 100) if not each.destination.prefixlen}
    assert {"10.1.0.1", "10.1.0.8", "10.1.0.9"} == hops


def test_an_address_is_found_where_the_interface_says_no_sandbox(pod: PodNetns, host: Socket):
    """Some plugins tell the pod's interface without it."""
    previous = wired(pod, host)
    del previous["interfaces"][0]["sandbox"]

    call(pod, "ADD", "eth0", config(previous))

    assert [("10.1.0.2/32", 100), ("fd00:1::2/128", 101)] == steering(pod)


def test_a_link_of_the_node_that_has_the_same_name_is_not_meant(pod: PodNetns, host: Socket):
    """A bridge with a gateway's address may be called eth0 on the node."""
    previous = wired(pod, host)
    previous["interfaces"].append({"name": "eth0"})
    previous["ips"].append({"address": "10.1.0.1/24", "interface": 1})

    call(pod, "ADD", "eth0", config(previous))

    assert [("10.1.0.2/32", 100), ("fd00:1::2/128", 101)] == steering(pod)


TAKEN: list[tuple[dict[str, Any], str, str]] = [
    ({}, "ip rule del from 10.1.0.2", "there is no rule from 10.1.0.2"),
    ({}, "ip -6 rule del from fd00:1::2", "there is no rule from fd00:1::2"),
    ({}, "ip -6 route flush table 101", "there is no default route from fd00:1::2 via fd00:1::1"),
    ({"table": 200}, "ip rule del from 10.1.0.2", "there is no rule from 10.1.0.2 to table 200"),
    (
        {"table": 200},
        "ip rule del from 10.1.0.2; ip rule add from 10.1.0.2 lookup 201",
        "there is no rule from 10.1.0.2 to table 200",
    ),
    (
        {"gateways": ["10.1.0.9"]},
        "ip route replace default via 10.1.0.1 table 100",
        "the default route from 10.1.0.2 is not via 10.1.0.9",
    ),
    (
        {"routes": [{"dst": "10.8.0.0/16"}]},
        "ip route del 10.8.0.0/16 table 100",
        "route 10.8.0.0/16 is not in",
    ),
    ({}, "ip link del eth0", "there is no such interface in"),
]


@pytest.mark.parametrize(("keys", "command", "words"), TAKEN)
def test_check_says_what_is_missing(
    pod: PodNetns, host: Socket, keys: dict[str, Any], command: str, words: str
):
    """The reference looks at nothing."""
    previous = wired(pod, host, routes=keys.pop("routes", [])) if "routes" in keys else wired(pod, host)
    ip(pod, "ip route add 10.8.0.0/16 via 10.1.0.1")
    given = config(previous, **keys)
    call(pod, "ADD", "eth0", given)
    call(pod, "CHECK", "eth0", given)
    ip(pod, command)

    error = failing(pod, "CHECK", "eth0", given)

    assert 105 == error["code"], error
    assert f"check eth0: {words}" in error["msg"]


def test_check_without_gateways_says_that_the_network_is_missing(pod: PodNetns, host: Socket):
    """Without a default route the network is all that is in the table."""
    previous = wired(pod, host)
    for each in previous["ips"]:
        del each["gateway"]
    call(pod, "ADD", "eth0", config(previous))
    call(pod, "CHECK", "eth0", config(previous))
    ip(pod, "ip route flush table 100")

    error = failing(pod, "CHECK", "eth0", config(previous))

    assert "check eth0: there is no route from 10.1.0.2 by it" == error["msg"]


def test_check_passes_over_what_a_later_plugin_added(pod: PodNetns, host: Socket):
    """route-override behind sbr puts its routes into the main table, and tells them."""
    previous = wired(pod, host)
    call(pod, "ADD", "eth0", config(previous))
    ip(pod, "ip route add 10.8.0.0/16 dev eth0")

    call(pod, "CHECK", "eth0", config({**previous, "routes": [{"dst": "10.8.0.0/16"}]}))


def test_status_and_gc_have_nothing_to_say(pod: PodNetns, host: Socket):
    """All that it makes is in the pods' namespaces, and dies with them."""
    call(pod, "ADD", "eth0", config(wired(pod, host)))
    before = everything(pod)
    newest = {**config(), "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}

    assert ({}, 0) == ours("sbr", pod)("STATUS", newest)
    assert ({}, 0) == ours("sbr", pod)("GC", newest)
    assert before == everything(pod)


def test_in_a_list_of_a_network_behind_the_bridge(node: Node):
    """ADD, CHECK of every plugin and DEL by the engine; the default network is not steered."""
    given = node.bridge("steered", 70, isGateway=True)
    given["ipam"]["routes"] = [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16"}]
    chain = {"cniVersion": "1.1.0", "name": "steered", "plugins": [given, {"type": "sbr"}]}
    node.nad("steered", chain)
    before = set(rule.dump(node.pod.socket))
    node.annotate([{"name": "steered", "interface": "net1"}])

    node.add()

    assert [("10.70.0.2/32", 100), ("fd00:70::2/128", 101)] == steering(node.pod)
    assert "10.9.0.0/16 via 10.70.0.1 dev net1 src None" in routes(node.pod, 100)
    assert {("10.244.0.1", "eth0"), ("fd00:244::1", "eth0")} == node.pod.defaults()
    answer, code = node.call("CHECK")
    assert 0 == code, answer
    node.pod.socket.request([link.delete("net1")])
    node.delete()
    assert before == set(rule.dump(node.pod.socket))


class Refusing(Socket):
    """The pod's kernel, which refuses what it is asked for by some words, once each."""

    refused: tuple[str, ...] = ()

    def request(self, batch: Sequence[Request]) -> list[Reply]:
        for words in self.refused:
            found = [each for each in batch if str(each).startswith(words)]
            if found:
                self.refused = tuple(each for each in self.refused if each != words)
                super().request([each for each in batch if each not in found])
                raise KernelError(str(found[0]), errno.ENOBUFS)
        return super().request(batch)


class RefusingNamespaces(Namespaces):
    """Namespaces of such a pod."""

    refusing: Refusing

    @property
    def pod(self) -> Socket:
        return self.refusing


@pytest.fixture
def add(pod: PodNetns) -> Iterator[Callable[..., CNIError]]:
    """An ADD that the kernel refuses in a step, and the engine does not undo; the error."""
    with RefusingNamespaces(pod.path) as namespaces:
        namespaces.refusing = netns.run_in(pod.fd, Refusing.open_host)  # type: ignore[assignment]

        def run(given: dict[str, Any], *refused: str) -> CNIError:
            namespaces.refusing.refused = refused
            parsed = parse_plugin(json.dumps(given), "network net")
            attachment = Attachment("c1", "eth0", pod.path, namespaces, Nothing())
            with pytest.raises(CNIError) as caught:
                Sbr(parsed, attachment).add(results.parse(given["prevResult"], "1.0.0"))
            assert () == namespaces.refusing.refused
            return caught.value

        yield run
        namespaces.refusing.close()


STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "a route of the second table": ("add route ::/0", {}),
    "the first rule": ("add rule from 10.1.0.2/32", {}),
    "the second rule": ("add rule from fd00:1::2/128", {}),
    "the second rule to a table of others": ("add rule from fd00:1::2/128", {"table": 200}),
    "to take a route": ("delete route 10.8.0.0/16", {}),
}


@pytest.mark.parametrize("step", STEPS)
def test_whatever_step_fails_nothing_is_left_and_nothing_is_lost(
    pod: PodNetns, host: Socket, add: Callable[..., CNIError], step: str
):
    """Without the DEL that follows: it takes away rules, and gives back no route."""
    refused, keys = STEPS[step]
    previous = wired(pod, host)
    ip(pod, "ip route add default via 10.1.0.1", "ip route add 10.8.0.0/16 via 10.1.0.8 metric 7 mtu 1300")
    ip(pod, f"ip rule add from 10.1.0.2 lookup 200 protocol {RTPROT_SBR}")
    before = everything(pod)

    error = add(config(previous, **keys), refused)

    assert error.message.startswith(refused)
    assert error.message.endswith("No buffer space available")
    assert before == everything(pod)


def test_a_hint_that_fails_gives_the_main_table_its_routes_back(
    pod: PodNetns, host: Socket, add: Callable[..., CNIError]
):
    """The last thing that is done; by then the others have left the main table."""
    previous = wired(pod, host)
    for each in previous["ips"]:
        del each["gateway"]
    ip(pod, "ip -6 route add fd09::/48 via fd00:1::9", "ip route del 10.1.0.0/24")
    before = everything(pod)

    error = add(config(previous, addSourceHints=True), "add route 10.1.0.0/24")

    assert "add route 10.1.0.0/24: No buffer space available" == error.message
    assert before == everything(pod)


def test_what_cannot_be_undone_is_told_and_the_rest_is_undone(
    pod: PodNetns, host: Socket, add: Callable[..., CNIError]
):
    """Who reads it knows which route is left."""
    previous = wired(pod, host)
    ip(pod, "ip route add 10.8.0.0/16 via 10.1.0.8")
    rules, main = set(rule.dump(pod.socket)), routes(pod)

    error = add(config(previous), "add route 10.8.0.0/16 via 10.1.0.8", "delete route fd00:1::/64")

    words = "No buffer space available"
    told = f"add route 10.8.0.0/16 via 10.1.0.8: {words}; delete route fd00:1::/64: {words}"
    assert f"2 errors: {told}" == error.message
    assert (rules, main) == (set(rule.dump(pod.socket)), routes(pod))
    assert set() == routes(pod, 100)
    assert {"fd00:1::/64 via None dev eth0 src None"} == routes(pod, 101)
