"""
Every fault at every door of every call: after it, and what a runtime does then, nothing may be left.

What a call does outside of its process is counted once, by one that goes well. Then each of these
fails, is done and told as an error, is the last thing before the process is killed, or the first of
many that fail.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from meta_cni import compose
from meta_cni.linux import address, link, netns
from tests.netns import drawing, leftovers, sequences
from tests.netns.faults import Door, Fault, World
from tests.netns.sequences import RUN, Answer, Attached, Engine, Network, Pod, Standalone, Worker

Plugin = dict[str, Any]
INDEX = re.compile(r"^\d+: ")
NODE = "/run/netns/node"
MOST = 20
"""Failures that are told."""
EVERY = "FAULTS" in os.environ
"""All that can happen at each door, which takes twice as long; else one of it."""
PLACES = {
    "/ns/net": "network namespace",
    "/proc/sys/": "sysctl",
    "/proc/self/fd/": "network namespace",
    "/dev/net/tun": "create tap",
    "run nft -j list tables": "nft",
    "-t nat -S": "tables",
}
"""What is told of some doors, which have no name that would help."""


class Always:
    """A random generator that always takes the same way."""

    def random(self) -> float:
        """Neither rare nor certain."""
        return 0.5


class OneCall(Engine):
    """Of the whole engine; pod and networks are written once, so that what is counted is ours."""

    def __init__(self, root: Path, random: Any) -> None:
        super().__init__(root, random)
        self.written: set[str] = set()

    def _write(self, kind: str, name: str, version: str, **more: Any) -> None:
        if name not in self.written:
            super()._write(kind, name, version, **more)
        self.written.add(name)


class Daemon(OneCall):
    """One that remembers what it saw; what is killed began with what it knew."""

    def __init__(self, root: Path, random: Any) -> None:
        super().__init__(root, random)
        self.memory = compose.Memory(is_remembering=True)

    def _call(self, command: str, attached: Attached, path: str, **more: Any) -> Answer:
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME={attached.pod.name}"
        given = json.dumps({**self.configuration, **more}).encode()
        variables = sequences.environment(command, attached, path, args)
        return sequences.decoded(compose.serve(variables, given, self.memory))


@dataclass(frozen=True)
class Scenario:
    """The networks of a pod; in the plugins' texts {root} is the directory of the trial."""

    name: str
    networks: tuple[tuple[Plugin, ...], ...]
    calls: Any = Standalone
    devices: tuple[str, ...] = ()
    networked: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    """Links that every ADD makes and no DEL removes."""
    scripts: tuple[str, ...] = ()
    """Executed plugins, which leave a file for each attachment."""


def host_local(number: int, *families: int, **more: Any) -> Plugin:
    ranges = {4: f"10.{number}.0.0/24", 6: f"fd00:{number}::/64"}
    sets = [[{"subnet": ranges[each]}] for each in families or (4, 6)]
    return {"type": "host-local", "dataDir": "{root}/ipam", "ranges": sets, **more}


def static(number: int) -> Plugin:
    gateway = f"10.{number}.0.1"
    addresses = [{"address": f"10.{number}.0.9/24", "gateway": gateway}, {"address": f"fd00:{number}::9/64"}]
    return {"type": "static", "addresses": addresses}


def bridge(number: int, **more: Any) -> Plugin:
    return {"type": "bridge", "bridge": f"br{number}", "ipam": host_local(number), **more}


TUNING = {
    "type": "tuning",
    "dataDir": "{root}/tuning",
    "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "511"},
    "mac": "02:00:00:00:00:77",
    "promisc": True,
    "allmulti": True,
    "mtu": 1280,
    "txQLen": 100,
}
ROUTES = {"type": "route-override", "flushgateway": True, "addroutes": [{"dst": "10.201.0.0/24"}]}
SCRIPT = """#!/bin/sh
mark={root}/marks/$CNI_CONTAINERID-$CNI_IFNAME
[ "$CNI_COMMAND" = DEL ] && exec rm -f "$mark"
[ "$CNI_COMMAND" = ADD ] && : >"$mark"
echo '{"cniVersion": "1.1.0"}'
"""
OWN = {"type": "host-device", "device": "own1"}
SCENARIOS = (
    Scenario("bridge", ((bridge(1, isDefaultGateway=True, hairpinMode=True, mac="02:00:00:00:00:01"),),)),
    Scenario("new bridge", ((bridge(1, isGateway=True, mtu=1400),),), fresh=("br1",)),
    Scenario(
        "bridge, nftables",
        ((bridge(1, ipMasq=True, ipMasqBackend="nftables", macspoofchk=True),),),
        programs=("nft",),
    ),
    Scenario(
        "bridge, iptables", ((bridge(1, ipMasq=True, ipMasqBackend="iptables"),),), programs=("iptables",)
    ),
    Scenario("macvlan", (({"type": "macvlan", "master": drawing.MASTER, "ipam": static(1)},),)),
    Scenario("ptp", (({"type": "ptp", "ipam": host_local(1, routes=[{"dst": "0.0.0.0/0"}])},),)),
    Scenario(
        "ptp, iptables",
        (({"type": "ptp", "ipam": host_local(1), "ipMasq": True, "ipMasqBackend": "iptables"},),),
        programs=("iptables",),
    ),
    Scenario("tap", (({"type": "tap", "multiQueue": True, "owner": 0, "mtu": 1400, "ipam": static(1)},),)),
    Scenario("host-device", (({**OWN, "ipam": host_local(1)},),), devices=("own1",)),
    Scenario("loopback", (({"type": "loopback"},),)),
    Scenario("bridge, tuning", ((bridge(1), TUNING),)),
    Scenario("bridge, sbr", ((bridge(1, isGateway=True), {"type": "sbr"}),)),
    Scenario("bridge, route-override", ((bridge(1, isDefaultGateway=True), ROUTES),)),
    Scenario(
        "pod, executed",
        (
            (bridge(1, isDefaultGateway=True),),
            ({"type": "marks"}, {"type": "marks", "dns": {"search": ["a"]}}),
            (bridge(3), {"type": "marks"}),
        ),
        Daemon,
        scripts=("marks",),
    ),
    Scenario(
        "pod",
        (
            (bridge(1, isDefaultGateway=True),),
            ({"type": "macvlan", "master": drawing.MASTER, "ipam": static(2)},),
            ({"type": "ptp", "ipam": host_local(3)},),
            ({"type": "tap", "ipam": host_local(4)},),
        ),
        Daemon,
    ),
)


def filled(value: Any, root: Path) -> Any:
    """A configuration with the directory in it."""
    return json.loads(json.dumps(value).replace("{root}", str(root)))


class Trial:
    """A scenario on a node: what a good call does, and what a faulty one leaves."""

    def __init__(self, worker: Worker, world: World, scenario: Scenario) -> None:
        self.worker, self.world, self.scenario = worker, world, scenario
        self.root = RUN / "faults" / scenario.name.replace(" ", "-").replace(",", "")
        for name in ("objects", "conf", "bin", "state", "tuning", "ipam", "marks"):
            (self.root / name).mkdir(parents=True)
        for name in scenario.scripts:
            (self.root / "bin" / name).write_text(SCRIPT.replace("{root}", str(self.root)))
            (self.root / "bin" / name).chmod(0o755)
        networks = tuple(
            Network(f"n{number}", "1.1.0", tuple(filled(each, self.root) for each in plugins))
            for number, plugins in enumerate(scenario.networks)
        )
        pod = Pod("p", worker.pod(), worker.pod().path)
        self.calls = scenario.calls(self.root, Always())
        self.attached = Attached(pod, "eth0", networks, "c", pod.path, pod.namespace)
        for each in (*scenario.devices, *scenario.networked):
            worker.make_pair(each, each.replace("own", "peer"))
        for number, each in enumerate(scenario.networked):
            worker.set_up(each, number)
        self.doors: dict[str, list[Door]] = {}
        self.failures: list[str] = []
        self.number = 0
        self.where = ""
        self.before: set[str] = set()
        self._warm_up()

    def _warm_up(self) -> None:
        """What stays for good; and what a good call does."""
        for _ in range(2):
            with self.world.having() as doors:
                self._require(self.add())
            self.doors["ADD"] = list(doors)
            with self.world.having() as doors:
                self._require(self.calls.check(self.attached))
            self.doors["CHECK"] = list(doors)
            with self.world.having() as doors:
                self._require(self.delete())
            self.doors["DEL"] = list(doors)
            self._renew()
        self.before = self._settled()

    def _require(self, answer: Answer) -> None:
        assert answer[1] == 0, answer

    def _settled(self) -> set[str]:
        last: set[str] = set()
        while last != (now := self.state()):
            last = now
        return now

    def _renew(self) -> None:
        """Links that stay go."""
        for each in self.scenario.fresh:
            self.worker.host.request([link.delete(each)])

    def state(self) -> set[str]:
        """Node, pod and files, a line each."""
        node = leftovers.of_node() if self.scenario.programs else leftovers.of_namespace()
        node = {INDEX.sub("", each) for each in node}  # a link that goes and comes may get another one
        kept = {each for each in node if not any(name in each for name in self.scenario.fresh)}
        pod = self.attached.namespace
        assert pod is not None
        inside = {f"pod: {each}" for each in leftovers.of_pod(pod.fd)}
        files = {each for each in self.root.rglob("*") if each.is_file()}
        return kept | inside | {str(each) for each in files if leftovers.OBJECTS not in each.parts}

    def left(self) -> list[str]:
        """What came and what went."""
        return leftovers.difference(self.before, self.state())

    def add(self) -> Answer:
        """ADD; its result is known if there was one."""
        self.attached.result = {}
        answer = self.calls.add(self.attached)
        self.attached.result = answer[0] if answer[1] == 0 else {}
        return answer

    def delete(self) -> Answer:
        """DEL."""
        return self.calls.delete(self.attached, self.attached.path)

    @property
    def is_undone_by_itself(self) -> bool:
        """By a failing ADD; of a list a runtime undoes what came before."""
        return isinstance(self.calls, Engine) or len(self.attached.networks[0].plugins) == 1

    def fail(self, what: str, told: object) -> None:
        """Note it, with the place."""
        self.failures.append(f"{self.where}: {what}: {told}")

    def run(self) -> list[str]:
        """All faults of all calls."""
        for verb, faulty in (("ADD", self._faulty_add), ("DEL", self._faulty_delete)):
            for number, door in enumerate(self.doors[verb]):
                for fault in self._faults(number, door):
                    self.where = f"{self.scenario.name}: {verb}: door {number}, {door.action}: {fault.value}"
                    self.number += 1
                    faulty(number, door, fault)
                    if len(self.failures) >= MOST:
                        return self.failures
        return self.failures

    def _faults(self, number: int, door: Door) -> list[Fault]:
        """All that can happen at a door, or one of it, each at another door."""
        faults = list(door.faults)
        return faults if EVERY else [faults[number % len(faults)]]

    def _faulty_add(self, at: int, door: Door, fault: Fault) -> None:
        if fault is Fault.KILLED:
            self.world.kill(at, self.add)
            self._invariant()
        else:
            with self.world.having(fault, at):
                answer = self.add()
            if fault is not Fault.LASTING:
                self._judge(answer, at, "ADD")
            if fault is not Fault.LASTING and answer[1] and self.is_undone_by_itself:
                self._nothing_left("behind the failing ADD")
            if answer[1] == 0:
                check, code = self.calls.check(self.attached)
                if code:
                    self.fail("CHECK behind an ADD that went well in spite of it", check)
        self._finish()

    def _judge(self, answer: Answer, at: int, verb: str) -> None:
        """An error names what failed, be it by its place."""
        told, code = answer
        if at >= len(self.world.passed):  # what is remembered was not looked for
            self._require(answer)
            return
        door = self.world.passed[at]
        text = told.get("msg", "") + told.get("details", "")
        place = next((name for part, name in PLACES.items() if part in door.told), door.told)
        names = (
            (place, os.path.basename(place), os.path.dirname(place)) if place.startswith("/") else (place,)
        )
        if "a bug in meta-cni" in text or (code and not any(each in text for each in names)):
            self.fail(f"{verb} tells of {door.told}", text)

    def _faulty_delete(self, at: int, door: Door, fault: Fault) -> None:
        answer = self.add()
        if answer[1]:
            self.fail("good ADD", answer)
            self._finish()
            return
        if fault is Fault.KILLED:
            self.world.kill(at, self.delete)
            self._invariant()
        else:
            with self.world.having(fault, at):
                answer = self.delete()
            if fault is not Fault.LASTING:
                self._judge(answer, at, "DEL")
            if answer[1] == 0:
                self._nothing_left("behind a DEL that told nothing")
            else:
                self._invariant()
        self._finish()

    def _invariant(self) -> None:
        """No address is free that a link still has."""
        pod = self.attached.namespace
        assert pod is not None
        present = [each.address.ip for each in address.dump(pod.socket)]
        for network in self.attached.networks:
            section = network.plugins[0].get("ipam", {})
            subnets = [ip_network(each[0]["subnet"]) for each in section.get("ranges", ())]
            used = {str(each) for each in present if any(each in subnet for subnet in subnets)}
            held = {each.name for each in (self.root / "ipam" / network.name).glob("*")}
            if used - held:
                self.fail("free and in use", used - held)

    def _finish(self) -> None:
        """What a runtime does then."""
        if isinstance(self.calls, Engine) and self.number % 2:
            told, code = self.calls.collect(self.attached, list(self.attached.networks), [])
            if code:
                self.fail("GC", told)
        for _ in range(2):
            told, code = self.delete()
            if code:
                self.fail("DEL", told)
        self._nothing_left("in the end")
        self._renew()

    def _nothing_left(self, when: str) -> None:
        left = leftovers.wait_for(self.left)
        if left:
            self.fail(f"left {when}", "\n    ".join(left))
            self.before = self.state()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A node for all of them, and of its own: it forwards, and what once was needed there stays."""
    netns.create(NODE)
    descriptor = netns.open_netns(NODE)
    with netns.opened_own() as home:
        netns.enter(descriptor)
        try:
            made = Worker()
            yield made
            for each in made.pods:
                each.close()
            made.host.close()
        finally:
            netns.enter(home)
    os.close(descriptor)
    netns.remove(NODE)


@pytest.fixture
def world(mocker: MockerFixture) -> World:
    """The doors."""
    return World(mocker)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_nothing_is_left_by_any_fault(worker: Worker, world: World, scenario: Scenario):
    """Whatever fails, wherever a call is killed."""
    trial = Trial(worker, world, scenario)
    try:
        failures = trial.run()
    finally:
        shutil.rmtree(trial.root)
        worker.drop()

    assert failures == [], "\n\n".join(failures)


def test_what_is_forgotten_is_told_with_its_place(worker: Worker, world: World, mocker: MockerFixture):
    """A proof that could not fail would be none."""
    mocker.patch.object(leftovers, "DEADLINE_S", 0.0)
    mocker.patch("tests.netns.test_every_fault.MOST", 1)
    (scenario,) = [each for each in SCENARIOS if each.name == "ptp"]
    trial = Trial(worker, world, scenario)
    mocker.patch("meta_cni.ipam.reservations.remove")
    try:
        failures = trial.run()
    finally:
        shutil.rmtree(trial.root)

    assert re.search(r"ptp: ADD: door \d+, .*: left .*: \+ /run/faults/ptp/ipam/n0/10", failures[0])
