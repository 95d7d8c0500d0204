"""
A scenario on a node, put through every fault at every door of its calls.

What a call does outside of its process is counted once, by one that goes well. Then each of these
fails, is done and told as an error, is the last thing before the process is killed, or the first of
many that fail; and what is left after it, and what a runtime does then, is told.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

from meta_cni import compose
from meta_cni.linux import address, link, netns
from tests.netns import leftovers, sequences
from tests.netns.faults import Door, Fault, Kind, World
from tests.netns.sequences import RUN, Answer, Attached, Engine, Network, Pod, Standalone, Worker

Plugin = dict[str, Any]
INDEX = re.compile(r"^\d+: ")
NODE = "/run/netns/node"
PAIR = re.compile(r"^(\S+)@(\S+):", re.MULTILINE)
"""One end and the other."""
AUTOMATIC = ("fe80::", "table local")
"""In what the kernel adds by itself to a link that is up, in its own time."""
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
CHECKED = {"-t nat -S": "masqueraded"}
"""What CHECK may tell of them: who cannot list the rules has none."""

SCRIPT = """#!/bin/sh
mark={root}/marks/$CNI_CONTAINERID-$CNI_IFNAME
[ "$CNI_COMMAND" = DEL ] && exec rm -f "$mark"
[ "$CNI_COMMAND" = ADD ] && : >"$mark"
echo '{"cniVersion": "1.1.0"}'
"""


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
    interface: str = "eth0"

    @property
    def is_exclusive(self) -> bool:
        """One pod at a time has it."""
        return bool(self.devices or self.networked)


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


def filled(value: Any, root: Path) -> Any:
    """A configuration with the directory in it."""
    return json.loads(json.dumps(value).replace("{root}", str(root)))


Place = tuple[int, Door, Fault]
"""The number of a door, and what happens there."""
Sample = Callable[[str, list[Place]], list[Place]]
"""Of the places of a verb."""


def drawn(places: list[Place], most: int, seed: str) -> list[Place]:
    """At most so many of them, the same ones each time, in their order; FAULTS=all is all."""
    if EVERY or len(places) <= most:
        return places
    return [places[each] for each in sorted(Random(seed).sample(range(len(places)), most))]


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
        self.calls = scenario.calls(self.root, Always())
        self.attached = self._of_pod(0, "p", "c", networks)
        self.other = self._of_pod(1, "q", "d", networks)
        """Another pod of the same networks, for GC."""
        for each in (*scenario.devices, *scenario.networked):
            worker.make_pair(each, each.replace("own", "peer"))
        self.doors: dict[str, list[Door]] = {}
        self.failures: list[str] = []
        self.number = 0
        self.where = ""
        self.before: set[str] = set()
        self.present: set[str] = set()
        """What a CHECK is to find and to leave."""
        self.alone: set[str] = set()
        """What a GC is to leave."""
        self._warm_up()

    def _of_pod(self, number: int, name: str, container: str, networks: tuple[Network, ...]) -> Attached:
        namespace = self.worker.pod(number)
        pod = Pod(name, namespace, namespace.path, container)
        return Attached(pod, self.scenario.interface, networks, container, pod.path, namespace)

    def _warm_up(self) -> None:
        """What stays for good; and what a good call does."""
        for _ in range(2):
            self._set_up()
            with self.world.having() as doors:
                self._require(self.add())
            self.doors["ADD"] = list(doors)
            with self.world.having() as doors:
                self._require(self.check())
            self.doors["CHECK"] = list(doors)
            with self.world.having() as doors:
                self._require(self.delete())
            self.doors["DEL"] = list(doors)
            self._renew()
        self._set_up()
        self.before = self._settled(self.state)

    def _require(self, answer: Answer) -> None:
        assert answer[1] == 0, answer

    def _settled(self, look: Callable[[], set[str]]) -> set[str]:
        last: set[str] = set()
        while last != (now := look()):
            last = now
        return now

    def _renew(self) -> None:
        """Links that stay go."""
        for each in self.scenario.fresh:
            self.worker.host.request([link.delete(each)])

    def _set_up(self) -> None:
        """What a device had on the node does not come back with it: it is up, and has a network, again."""
        for number, each in enumerate(self.scenario.networked):
            self.worker.set_up_again(each, number)

    def state(self) -> set[str]:
        """Node, pod and files, a line each."""
        node = leftovers.of_node() if self.scenario.programs else leftovers.of_namespace()
        node = {INDEX.sub("", each) for each in node}  # a link that goes and comes may get another one
        pairs = PAIR.findall("\n".join(node))
        fresh = {*self.scenario.fresh, *(own for own, peer in pairs if peer in self.scenario.fresh)}
        kept = {each for each in node if not any(name in each for name in fresh)}
        return kept | self._inside(self.attached) | self.files()

    def _inside(self, attached: Attached) -> set[str]:
        assert attached.namespace is not None
        return {f"{attached.pod.name}: {each}" for each in leftovers.of_pod(attached.namespace.fd)}

    @staticmethod
    def _lasting(state: set[str]) -> set[str]:
        return {each for each in state if not any(part in each for part in AUTOMATIC)}

    def files(self) -> set[str]:
        """All but the API's."""
        files = {each for each in self.root.rglob("*") if each.is_file()}
        return {str(each) for each in files if leftovers.OBJECTS not in each.parts}

    def left(self) -> list[str]:
        """What came and what went."""
        return leftovers.difference(self.before, self.state())

    def add(self) -> Answer:
        """ADD; its result is known if there was one."""
        return self._add(self.attached)

    def _add(self, attached: Attached) -> Answer:
        attached.result = {}
        answer = self.calls.add(attached)
        attached.result = answer[0] if answer[1] == 0 else {}
        return answer

    def check(self) -> Answer:
        """CHECK."""
        return self.calls.check(self.attached)

    def delete(self) -> Answer:
        """DEL."""
        return self.calls.delete(self.attached, self.attached.path)

    def collect(self) -> Answer:
        """GC, of which the attachment is valid and the other pod's is not."""
        return self.calls.collect(self.attached, list(self.attached.networks), [self.attached])

    @property
    def is_undone_by_itself(self) -> bool:
        """By a failing ADD; of a list a runtime undoes what came before."""
        return isinstance(self.calls, Engine) or len(self.attached.networks[0].plugins) == 1

    def fail(self, what: str, told: object) -> None:
        """Note it, with the place."""
        self.failures.append(f"{self.where}: {what}: {told}")

    def run(self, sample: Sample, *, is_collecting: bool = True) -> list[str]:
        """A sample of the faults of all calls; GC is one of them, where two pods can have the networks."""
        self._run("ADD", sample, self._faulty_add)
        self._run("DEL", sample, self._faulty_delete)
        if len(self.failures) >= MOST:
            return self.failures
        with self._attached():
            self._run("CHECK", sample, self._faulty_check)
            if is_collecting and not self.scenario.is_exclusive:
                self._warm_up_collection()
                self._run("GC", sample, self._faulty_collection)
        return self.failures

    def _run(self, verb: str, sample: Sample, faulty: Callable[[int, Door, Fault], None]) -> None:
        for number, door, fault in sample(verb, list(self._faults(verb))):
            if len(self.failures) >= MOST:
                return
            self.where = f"{self.scenario.name}: {verb}: door {number}, {door.action}: {fault.value}"
            self.number += 1
            faulty(number, door, fault)

    def _faults(self, verb: str) -> Iterator[Place]:
        """All that can happen at a door, or one of it, each at another door."""
        for number, door in enumerate(self.doors[verb]):
            faults = list(door.faults)
            for fault in faults if EVERY else [faults[number % len(faults)]]:
                yield number, door, fault

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
                check, code = self.check()
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
        names = [place]
        if place.startswith("/"):
            names += [os.path.basename(place), os.path.dirname(place)]
        if verb == "CHECK":
            names += [name for part, name in CHECKED.items() if part in door.told]
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
                self._set_up()
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
        self._set_up()
        self._nothing_left("in the end")
        self._renew()

    def _nothing_left(self, when: str) -> None:
        left = leftovers.wait_for(self.left)
        if left:
            self.fail(f"left {when}", "\n    ".join(left))
            self.before = self.state()

    # CHECK and GC, of an attachment that is there.

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """Faults that change nothing of it need one ADD."""
        self._require(self.add())
        self.present = self._settled(self._contents)
        yield
        self._finish()

    def _contents(self) -> set[str]:
        """The state, with what is in the files."""
        digests = {f"{each} {sha256(Path(each).read_bytes()).hexdigest()}" for each in self.files()}
        return self._lasting(self.state() | digests)

    def _faulty_check(self, at: int, door: Door, fault: Fault) -> None:
        """It changes nothing, and tells what failed."""
        if fault is Fault.KILLED:
            self.world.kill(at, self.check)
        else:
            with self.world.having(fault, at):
                answer = self.check()
            if fault is not Fault.LASTING:
                self._judge(answer, at, "CHECK")
                self._judge_place(answer, at)
        changed = leftovers.difference(self.present, self._contents())
        if changed:
            self.fail("changed by CHECK", "\n    ".join(changed))
        told, code = self.check()
        if code:
            self.fail("CHECK behind it", told)

    def _judge_place(self, answer: Answer, at: int) -> None:
        """From the first look at an attachment on an error of the engine names pod, interface and network."""
        looks = (number for number, door in enumerate(self.doors["CHECK"]) if door.kind is Kind.KERNEL)
        if isinstance(self.calls, Engine) and answer[1] and at > next(looks):
            text = answer[0]["msg"]
            if not re.match(r"pod telco/p: eth0\w* of network (telco/)?n\d: ", text):
                self.fail("CHECK does not tell whose", text)

    def _warm_up_collection(self) -> None:
        """What a good GC does."""
        self.alone = self._settled(self._collected)
        self._require(self._add(self.other))
        with self.world.having() as doors:
            self._require(self.collect())
        self.doors["GC"] = list(doors)
        self._require(self.calls.delete(self.other, self.other.path))

    def _collected(self) -> set[str]:
        """Everything that a GC removes of others and leaves of its own."""
        files = {each for each in self.files() if "last_reserved" not in each}
        filters = leftovers.of_packet_filters() if self.scenario.programs else set()
        others = self._inside(self.other) if isinstance(self.calls, Engine) else set()
        return self._lasting(files | filters | self._inside(self.attached) | others)

    def _faulty_collection(self, at: int, door: Door, fault: Fault) -> None:
        """What is listed stays; what is not goes at the latest by the next GC, unless that is told."""
        answer = self._add(self.other)
        if answer[1]:
            self.fail("good ADD", answer)
        if fault is Fault.KILLED:
            self.world.kill(at, self.collect)
        else:
            with self.world.having(fault, at):
                answer = self.collect()
            if fault is not Fault.LASTING:
                self._judge(answer, at, "GC")
            if answer[1] == 0:
                self._require_collected("behind a GC that told nothing")
        if gone := self.alone - self._collected():
            self.fail("removed by GC", gone)
        told, code = self.check()
        if code:
            self.fail("CHECK behind the GC", told)
        told, code = self.collect()
        if code:
            self.fail("next GC", told)
        self._require_collected("behind the next GC")
        told, code = self.calls.delete(self.other, self.other.path)
        if code:
            self.fail("DEL", told)

    def _require_collected(self, when: str) -> None:
        left = leftovers.wait_for(lambda: leftovers.difference(self.alone, self._collected()))
        if left:
            self.fail(f"left {when}", "\n    ".join(left))


@contextmanager
def node() -> Iterator[Worker]:
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
