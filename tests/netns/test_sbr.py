"""sbr on the kernel: who is answered and by which way, whose rules go, and what a failure leaves."""

import fcntl
import json
import os
import select
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from delegates.sbr import RTPROT_SBR
from meta_cni import standalone
from meta_cni.cni.result import address_of, interface_address_of
from meta_cni.linux import address, link, netns, route, rule, sysctl
from meta_cni.linux.netlink import Socket
from meta_cni.linux.route import ANYWHERE, RT_TABLE_MAIN, Route
from meta_cni.linux.rule import Rule
from tests.netns.chain import environment, ours, references, theirs, unwire, wire
from tests.netns.conftest import PodNetns
from tests.netns.traffic import PORT, SILENCE_S, WAIT_S

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


@pytest.mark.parametrize("add_all", [by_threads, by_processes])
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
