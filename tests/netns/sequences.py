"""
Random sequences of calls, each on networks of its own, after which nothing may be left.

A sequence is told by its seed alone: the same one is the same networks and the same calls. It
knows what every call must answer, but where a fault hits in the middle: of an attachment that
could not be undone then, only a later DEL or GC is asked for.

Run as a program it is one worker: `python -m tests.netns.sequences FIRST STEP COUNT`.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from random import Random
from typing import Any

from meta_cni import compose, standalone
from meta_cni.cni.errors import AlreadyAttached
from meta_cni.linux import address, link, netns, route, rule, sysctl
from meta_cni.linux.netlink import Socket
from meta_cni.linux.route import ANYWHERE, Route
from meta_cni.linux.rule import Rule
from tests.netns import drawing, features, leftovers
from tests.netns.conftest import PodNetns
from tests.netns.drawing import Draw, Plugin

RUN = Path("/run")
PODS = 3
INTERFACES = ("eth0", "eth0", "eth1")
BROKEN_FROM = 100
"""Numbers of networks that cannot work; those of the others are below."""
DEFAULT = re.compile(r"route (0\.0\.0\.0/0|::/0) ")
"""In what a CHECK says."""
PASSING = ("br", "own", "peer")
"""How the names of bridges and devices of a sequence begin."""
PASSING_GROUP = 77
TABLE_OF_DEVICES, RTPROT_OF_DEVICES = 5000, 77
"""Of the networks that devices have on the node."""
ALREADY_ATTACHED = AlreadyAttached.code
LOST = frozenset((errno.ENODEV,))
"""It goes with a namespace, now."""
Answer = tuple[dict[str, Any], int]


class SequenceFailed(AssertionError):
    """A call answered what it must not, or something is left."""


@dataclass(frozen=True)
class Network:
    """A list of plugins under a name."""

    name: str
    version: str
    plugins: tuple[Plugin, ...]
    is_exclusive: bool = False
    devices: tuple[str, ...] = ()

    @property
    def is_once_a_pod(self) -> bool:
        """It brings routes which a pod cannot have twice: to ptp's gateway, and those of addroutes."""
        return any(each["type"] == "ptp" or "addroutes" in each for each in self.plugins)

    @property
    def is_checked(self) -> bool:
        """CHECK exists from 0.4.0 on."""
        return self.version != "0.3.1"

    @property
    def document(self) -> dict[str, Any]:
        """The configuration."""
        return {"cniVersion": self.version, "name": self.name, "plugins": list(self.plugins)}


@dataclass
class Pod:
    """A pod; its namespace is None once it is gone."""

    name: str
    namespace: PodNetns | None
    path: str
    container: str = "c"

    def lose(self) -> None:
        """The namespace goes, as on a reboot."""
        if self.namespace is not None:
            self.namespace.close()
        self.namespace = None


@dataclass
class Attached:
    """What one ADD made, or may have made."""

    pod: Pod
    interface: str
    networks: tuple[Network, ...]
    container: str
    path: str
    namespace: PodNetns | None
    """The one that was there at ADD."""
    is_sure: bool = True
    """Complete, as far as anybody knows."""
    result: dict[str, Any] = field(default_factory=dict)
    is_first: bool = True
    """No later ADD of its pod has had the default routes to decide about: the last one has them."""

    @property
    def is_lost(self) -> bool:
        """Its namespace is gone."""
        return self.namespace is None or self.pod.namespace is not self.namespace

    @property
    def key(self) -> dict[str, str]:
        """As a GC lists it."""
        return {"containerID": self.container, "ifname": self.interface}

    def __str__(self) -> str:
        names = ", ".join(each.name for each in self.networks)
        return f"{self.container} {self.interface} in {self.path} by {names}"


def environment(command: str, attached: Attached, path: str, args: str = "") -> dict[str, str]:
    """A runtime's variables."""
    return {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attached.container,
        "CNI_NETNS": path,
        "CNI_IFNAME": attached.interface,
        "CNI_ARGS": args,
        "CNI_PATH": "/nowhere",
    }


class Engine:
    """Calls of the whole engine: a default network and others, by an annotation from the file store."""

    most_networks = 4

    def __init__(self, root: Path, random: Random) -> None:
        self.root = root
        self.random = random
        self.configuration = {
            "cniVersion": "1.1.0",
            "name": "node",
            "type": "meta-cni",
            "cniDir": str(root / "state"),
            "confDir": str(root / "conf"),
            "binDir": str(root / "bin"),
            "store": {"directory": str(root / "objects")},
            "logToStderr": False,
        }

    def _write(self, kind: str, name: str, version: str, **more: Any) -> None:
        metadata = {"name": name, "namespace": "telco", **more.pop("metadata", {})}
        document = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
        (self.root / "objects" / f"{kind}-{name}.json").write_text(json.dumps(document))

    def add(self, attached: Attached) -> Answer:
        """ADD of the first network as the default one, of the others by the annotation."""
        selections = []
        first, *others = attached.networks
        for number, each in enumerate(others):
            spec = {"config": json.dumps(each.document)}
            self._write("NetworkAttachmentDefinition", each.name, "k8s.cni.cncf.io/v1", spec=spec)
            selections.append({"name": each.name, "interface": f"{attached.interface}n{number}"})
        annotations = {"k8s.v1.cni.cncf.io/networks": json.dumps(selections)} if selections else {}
        self._write("Pod", attached.pod.name, "v1", metadata={"annotations": annotations})
        return self._call("ADD", attached, attached.path, delegates=[first.document])

    def _call(self, command: str, attached: Attached, path: str, **more: Any) -> Answer:
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME={attached.pod.name}"
        given = json.dumps({**self.configuration, **more}).encode()
        return decoded(compose.serve(environment(command, attached, path, args), given))

    def check(self, attached: Attached) -> Answer:
        """CHECK of all networks."""
        return self._call("CHECK", attached, attached.path, prevResult=attached.result)

    def delete(self, attached: Attached, path: str) -> Answer:
        """DEL of all networks."""
        return self._call("DEL", attached, path)

    def collect(self, anything: Attached, networks: list[Network], valid: list[Attached]) -> Answer:
        """GC; what is not listed is detached."""
        return self._call("GC", anything, "", **{"cni.dev/valid-attachments": [each.key for each in valid]})


class Standalone:
    """Calls of the plugins one by one, as a runtime makes them of a list."""

    most_networks = 1

    def __init__(self, root: Path, random: Random) -> None:
        self.root = root
        self.random = random

    def _call(self, command: str, attached: Attached, plugin: Plugin, path: str, **more: Any) -> Answer:
        network = attached.networks[0]
        given = {"cniVersion": network.version, "name": network.name, **plugin, **more}
        variables = environment(command, attached, path)
        return decoded(standalone.serve(plugin["type"], variables, json.dumps(given).encode()))

    def add(self, attached: Attached) -> Answer:
        """ADD of each plugin with the result before it; one that fails has all those before it undone."""
        more: dict[str, Any] = {}
        (network,) = attached.networks
        for number, plugin in enumerate(network.plugins):
            answer, code = self._call("ADD", attached, plugin, attached.path, **more)
            if code != 0:
                if answer["code"] != ALREADY_ATTACHED and (number > 0 or self.random.random() < 0.3):
                    undone = replace(
                        attached, networks=(replace(network, plugins=network.plugins[: number + 1]),)
                    )
                    self.delete(undone, attached.path)
                return answer, code
            more = {"prevResult": answer}
        return answer, 0

    def check(self, attached: Attached) -> Answer:
        """CHECK of each plugin."""
        for plugin in attached.networks[0].plugins:
            answer, code = self._call("CHECK", attached, plugin, attached.path, prevResult=attached.result)
            if code != 0:
                break
        return answer, code

    def delete(self, attached: Attached, path: str) -> Answer:
        """DEL in reverse; all are tried."""
        more = {"prevResult": attached.result} if attached.result and self.random.random() < 0.7 else {}
        failed: Answer = ({}, 0)
        for plugin in reversed(attached.networks[0].plugins):
            answer, code = self._call("DEL", attached, plugin, path, **more)
            if code != 0:
                failed = answer, code
        return failed

    def collect(self, anything: Attached, networks: list[Network], valid: list[Attached]) -> Answer:
        """GC of each network that has one, with its own attachments."""
        for network in networks:
            named = replace(anything, networks=(network,))
            listed = [each.key for each in valid if network in each.networks]
            for plugin in network.plugins:
                more = {"cni.dev/valid-attachments": listed}
                answer, code = self._call("GC", named, plugin, "", **more)
                if code != 0:
                    return answer, code
        return {}, 0


def decoded(answered: tuple[bytes, int]) -> Answer:
    """The answer, empty where nothing was printed."""
    printed, code = answered
    return (json.loads(printed) if printed else {}), code


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nothing can be written there for a while."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", "bind,ro", directory, directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


class Worker:
    """A private node with its pods, on which sequences run one after the other."""

    def __init__(self) -> None:
        self.host = Socket.open_host()
        self.pods: list[PodNetns] = []
        self.made = 0
        self.is_filtering = features.has(self.host, features.VLAN_FILTERING)
        self.kinds = frozenset(each for each in drawing.KINDS if features.has(self.host, each))
        self._set_up()
        self.fresh_pod = leftovers.of_pod(self.pod().fd)
        self.before = self._settled()

    def _set_up(self) -> None:
        """The master; and what the first pod of all changes for good."""
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            sysctl.write(f"net/{path}", "1")
        sysctl.write("net/ipv6/conf/default/accept_dad", "0")
        self.make_pair(drawing.MASTER, "down0")
        pod = Pod("first", self.pod(), self.pod().path)
        for backend in ("iptables", "nftables"):
            if shutil.which(backend.removesuffix("ables") if backend == "nftables" else backend):
                self._warm_up(pod, backend)
        self.drop()

    def _warm_up(self, pod: Pod, backend: str) -> None:
        """Tables and base chains stay where they were once needed."""
        root = RUN / "first"
        draw = Draw(Random(0), 1, root, is_filtering=False, families=(4, 6))
        keys = {"ipMasq": True, "ipMasqBackend": backend, "macspoofchk": shutil.which("nft") is not None}
        plugin = {"type": "bridge", "bridge": "br1", "ipam": draw._host_local(), **keys}
        attached = Attached(
            pod, "eth0", (Network("first", "1.1.0", (plugin,)),), "first", pod.path, pod.namespace
        )
        calls = Standalone(root, Random(0))
        added, deleted = calls.add(attached), calls.delete(attached, attached.path)
        assert (0, 0) == (added[1], deleted[1]), (added, deleted)
        shutil.rmtree(root)

    def _settled(self) -> set[str]:
        """The node when it does not change any more."""
        last: set[str] = set()
        while last != (now := leftovers.of_node()):
            last = now
            time.sleep(0.2)
        return now

    def make_pair(self, *names: str) -> None:
        """Two links of the node, up."""
        self.host.request([link.create_pair(*names)])
        self.host.request(
            [link.set_link(link.require(self.host, each, "veth").index, is_up=True) for each in names]
        )

    def set_up(self, device: str, number: int) -> None:
        """Give a device of the node a network, of which no other device has anything."""
        index = link.require(self.host, device, "veth").index
        ip, router = ip_interface(f"198.18.{number}.2/24"), ip_address(f"198.18.{number}.1")
        table = TABLE_OF_DEVICES + number
        self.host.request(
            [
                address.add(index, ip),
                route.add(Route(ANYWHERE[4], router, index, table)),
                route.add(Route(ip_network(f"203.0.113.{number}/32"), router, index)),
                rule.add(Rule(rule.alone(ip.ip), table, protocol=RTPROT_OF_DEVICES)),
            ]
        )

    def set_up_again(self, device: str, number: int) -> None:
        """The same of a device that may have been in a pod."""
        found = link.require(self.host, device, "veth")
        batch = [rule.delete(each) for each in self._rules_of_devices(TABLE_OF_DEVICES + number)]
        had = [each.address for each in address.dump(self.host, found.index) if each.address.version == 4]
        batch += [address.delete(found.index, each) for each in had]
        self.host.request([*batch, link.set_link(found.index, is_up=True)])
        self.set_up(device, number)

    def _rules_of_devices(self, table: int = 0) -> list[Rule]:
        found = rule.dump(self.host)
        return [each for each in found if each.protocol == RTPROT_OF_DEVICES and table in (0, each.table)]

    def pod(self, number: int = 0) -> PodNetns:
        """A pod's namespace: one that is there, or a new one."""
        while len(self.pods) <= number:
            self.pods.append(self.new())
        return self.pods[number]

    def new(self) -> PodNetns:
        """A new namespace under a new name."""
        self.made += 1
        return PodNetns(f"pod{self.made}")

    def drop(self) -> None:
        """
        Bridges stay for the next pod, with the gateways in their VLANs; not for the next sequence.

        As a group they go in one of the kernel's grace periods, and the sequence's devices with them.
        """
        passing = [each for each in link.dump(self.host) if each.name.startswith(PASSING)]
        if passing:
            batch = [link.set_group(each.index, PASSING_GROUP) for each in passing]
            self.host.request([replace(each, tolerate=LOST) for each in batch])
            self.host.request([link.delete_group(PASSING_GROUP)])
        self.host.request([rule.delete(each) for each in self._rules_of_devices()])

    def left(self, files: Callable[[], set[str]]) -> list[str]:
        """What is on the node or in a pod that was not before."""
        found = leftovers.difference(self.before, leftovers.of_node())
        for pod in self.pods:
            found += [f"{pod.path}: {each}" for each in self._left_in(pod)]
        return found + [f"+ {each}" for each in sorted(files())]

    def _left_in(self, pod: PodNetns) -> list[str]:
        return leftovers.difference(self.fresh_pod, leftovers.of_pod(pod.fd))

    def run(self, seed: int) -> None:
        """One sequence, by the engine or by plugins of their own; raises SequenceFailed."""
        sequence = Sequence(self, seed)
        try:
            sequence.run()
        except SequenceFailed:
            raise
        except Exception as error:
            raise sequence.failed(repr(error)) from error
        finally:
            shutil.rmtree(sequence.root, ignore_errors=True)


class Sequence:
    """One sequence: its networks, its pods, and what it did."""

    def __init__(self, worker: Worker, seed: int) -> None:
        self.worker = worker
        self.seed = seed
        self.random = Random(seed)
        self.root = RUN / "sequences" / str(seed)
        for name in ("objects", "conf", "bin", "state", "tuning", "ipam"):
            (self.root / name).mkdir(parents=True)
        kind = self.random.choice((Engine, Engine, Standalone))
        self.calls = kind(self.root, self.random)
        self.diary: list[str] = []
        self.drawn = 0
        self.networks: list[Network] = []
        for _ in range(self.random.randrange(2, 6)):
            self.networks.append(self._network())
        namespaces = [self.worker.pod(each) for each in range(PODS)]
        self.pods = [Pod(f"p{n}", each, each.path) for n, each in enumerate(namespaces)]
        self.attached: list[Attached] = []
        self.spoiled: set[str] = set()
        """Exclusive networks whose attachment went with its namespace, in the kernel's own time."""

    def _draw(self, number: int) -> Draw:
        return Draw(self.random, number, self.root, self.worker.is_filtering, self.worker.kinds)

    def _network(self) -> Network:
        self.drawn += 1
        draw = self._draw(self.drawn)
        drawn = {plugin["type"] for network in self.networks for plugin in network.plugins}
        draw.is_loopback_free = "loopback" not in drawn
        plugins = tuple(drawing.plugins(draw))
        for each in draw.devices:
            self.worker.make_pair(each, each.replace("own", "peer"))
        for each in draw.networked:
            self.worker.set_up(each, self.drawn)
        version = self.random.choice(drawing.VERSIONS)
        network = Network(f"n{self.drawn}", version, plugins, draw.is_exclusive, tuple(draw.devices))
        self.diary.append(json.dumps(network.document))
        return network

    def run(self) -> None:
        """Steps, the end, and a look at what is left."""
        steps = [each for each, weight in STEPS.items() for _ in range(weight)]
        for _ in range(self.random.randrange(4, 10)):
            self.random.choice(steps)(self)
        self._finish()
        self._require_nothing_left()

    def failed(self, reason: str) -> SequenceFailed:
        """What to print, and how to see it again."""
        diary = "\n".join(f"  {each}" for each in self.diary)
        return SequenceFailed(f"SEQUENCE_SEED={self.seed}: {type(self.calls).__name__}:\n{diary}\n{reason}")

    def _told(self, what: str, answer: Answer, *, expected: tuple[int, ...] = (0,)) -> int:
        """Write a call down; its exit code, which must be an expected one."""
        told, code = answer
        self.diary.append(f"{what}: {told.get('msg', 'success') if code else 'success'}")
        if code not in expected or "a bug in meta-cni" in told.get("msg", ""):
            raise self.failed(f"expected exit code {' or '.join(map(str, expected))}: {json.dumps(told)}")
        return code

    # The networks of an ADD.

    def _is_free(self, network: Network) -> bool:
        used = any(network in each.networks for each in self.attached)
        return not network.is_exclusive or not (used or network.name in self.spoiled)

    def _selection(self, present: list[Network]) -> tuple[Network, ...]:
        free = [each for each in self.networks if self._is_free(each)]
        free = [each for each in free if not (each.is_once_a_pod and each in present)]
        most = self.random.randrange(1, self.calls.most_networks + 1)
        chosen: list[Network] = []
        for each in self.random.choices(free, k=most) if free else []:
            if not ((each.is_exclusive or each.is_once_a_pod) and each in chosen):
                chosen.append(each)
        return tuple(chosen)

    def _place(self) -> Attached | None:
        """A pod's interface that is free, and networks for it."""
        pod, interface = self.random.choice(self.pods), self.random.choice(INTERFACES)
        mine = [each for each in self.attached if each.pod is pod]
        if pod.namespace is None and not mine:
            self._revive(pod)
        if pod.namespace is None or any(each.interface == interface for each in mine):
            return None
        if not mine:
            pod.container = f"{pod.name}-{self.random.randrange(1000)}"
        networks = self._selection([network for each in mine for network in each.networks])
        return (
            Attached(pod, interface, networks, pod.container, pod.path, pod.namespace) if networks else None
        )

    def _revive(self, pod: Pod) -> None:
        number = self.pods.index(pod)
        self.worker.pods[number] = pod.namespace = self.worker.new()
        pod.path = pod.namespace.path

    # The steps.

    def add(self) -> None:
        """An ADD that must succeed, and the CHECK behind it."""
        place = self._place()
        if place is None:
            return
        answer = self.calls.add(place)
        self._told(f"ADD {place}", answer)
        place.result = answer[0]
        self._keep(place)
        self._check(place)

    def _keep(self, place: Attached) -> None:
        for each in self.attached:
            each.is_first &= each.pod is not place.pod
        self.attached.append(place)

    def check(self) -> None:
        """Of an attachment that is there."""
        present = [each for each in self.attached if each.is_sure and not each.is_lost]
        if present:
            self._check(self.random.choice(present))

    def _check(self, attached: Attached) -> None:
        if not isinstance(self.calls, Engine) and not attached.networks[0].is_checked:
            return
        answer = self.calls.check(attached)
        is_default_lost = not attached.is_first and DEFAULT.search(answer[0].get("msg", "")) is not None
        self._told(f"CHECK {attached}", answer, expected=(0, 1) if is_default_lost else (0,))

    def delete(self) -> None:
        """Of an attachment that may be there."""
        if self.attached:
            self._delete(self.random.choice(self.attached))

    def _delete(self, attached: Attached, expected: tuple[int, ...] = (0,)) -> None:
        path = self.random.choice((attached.path, "")) if attached.is_lost else attached.path
        code = self._told(
            f"DEL {attached}, netns {path!r}", self.calls.delete(attached, path), expected=expected
        )
        if code == 0:
            self._forget(attached)
        else:
            attached.is_sure = False

    def _forget(self, attached: Attached) -> None:
        self.attached = [each for each in self.attached if each is not attached]
        if attached.is_lost:
            self.spoiled.update(each.name for each in attached.networks if each.is_exclusive)

    def delete_twice(self) -> None:
        """DEL, and again."""
        if self.attached:
            chosen = self.random.choice(self.attached)
            self._delete(chosen)
            self._delete(chosen)

    def delete_nothing(self) -> None:
        """DEL of what was never added, or is gone."""
        place = self._place()
        if place is not None:
            self._told(f"DEL of nothing {place}", self.calls.delete(place, place.path))

    def collect(self) -> None:
        """GC: nothing listed is touched, by plugins of their own no link at all."""
        is_engine = isinstance(self.calls, Engine)
        valid = [each for each in self.attached if not is_engine or self.random.random() < 0.7]
        self._collect(valid)
        for each in valid:
            if each.is_sure and not each.is_lost:
                self._check(each)

    def _collect(self, valid: list[Attached]) -> None:
        """GC by every plugin that has one, by an engine of all that is not listed."""
        anything = Attached(self.pods[0], "eth0", (self.networks[0],), "gc", "", None)
        networks = [each for each in self.networks if each.version == "1.1.0"]
        listed = ", ".join(f"{each.container} {each.interface}" for each in valid) or "nothing"
        self._told(f"GC, valid: {listed}", self.calls.collect(anything, networks, valid))
        if isinstance(self.calls, Engine):
            for each in [each for each in self.attached if each not in valid]:
                self._forget(each)

    def lose(self) -> None:
        """A pod's namespace goes without a DEL."""
        pod = self.random.choice(self.pods)
        self.diary.append(f"{pod.path} is removed")
        self._lost(pod)

    def _lost(self, pod: Pod) -> None:
        pod.lose()
        for each in self.attached:
            if each.pod is pod:
                self.spoiled.update(network.name for network in each.networks if network.is_exclusive)

    def fail(self) -> None:
        """An ADD that fails, in one of the ways of FAULTS."""
        place = self._place()
        if place is not None:
            faults = ENGINE_FAULTS if isinstance(self.calls, Engine) else FAULTS
            self.random.choice(faults)(self, place)
        for each in [each for each in self.attached if each.is_sure and not each.is_lost]:
            self._check(each)

    # The faults.

    def _broken(self, place: Attached, *plugins: Plugin, version: str = "1.0.0") -> Attached:
        """The attachment with a network that does not work, at any place."""
        self.drawn += 1
        broken = Network(f"broken{self.drawn}", version, plugins)
        self.diary.append(json.dumps(broken.document))
        networks = list(place.networks)
        at = self.random.randrange(len(networks) + 1)
        networks[at:at] = [broken]
        return replace(place, networks=tuple(networks) if self.calls.most_networks > 1 else (broken,))

    def _broken_draw(self) -> Draw:
        return self._draw(BROKEN_FROM + self.drawn)

    def broken_network(self, place: Attached) -> None:
        """A network of the pod cannot be had."""
        broken = self._broken(place, self.random.choice(drawing.BROKEN)(self._broken_draw()))
        self._told(f"ADD {broken}", self.calls.add(broken), expected=(1,))

    def broken_chain(self, place: Attached) -> None:
        """The interface is there when the next plugin of the list fails."""
        draw = self._broken_draw()
        plugins = drawing.bridge(draw), self.random.choice(drawing.BROKEN_CHAINED)(draw)
        broken = self._broken(place, *plugins)
        self._told(f"ADD {broken}", self.calls.add(broken), expected=(1,))

    def taken_name(self, place: Attached) -> None:
        """The pod has a link of this name."""
        assert place.namespace is not None
        makes = [each for each in place.networks if each.plugins[0]["type"] != "loopback"]
        pair = (place.interface, "taken0")
        place.namespace.socket.request([link.create_pair(*pair)])
        self._told(f"ADD {place}, name taken", self.calls.add(place), expected=(1,) if makes else (0, 1))
        place.namespace.socket.request([link.delete(each) for each in pair])

    def no_namespace(self, place: Attached) -> None:
        """The runtime names a namespace that is not there."""
        gone = replace(place, path="/run/netns/nowhere")
        self._told(f"ADD {gone}", self.calls.add(gone), expected=(1,))

    def unwritable(self, place: Attached) -> None:
        """A directory cannot be written while an ADD or a DEL goes on."""
        directory = self.root / self.random.choice(("ipam", "tuning", "state"))
        self.diary.append(f"{directory.name} is read-only for one call")
        mine = [each for each in self.attached if each.is_sure]
        with read_only(directory):
            if mine and self.random.random() < 0.4:
                self._delete(self.random.choice(mine), expected=(0, 1))
            else:
                self._add_unsurely(place)

    def _add_unsurely(self, place: Attached) -> None:
        """An ADD that may fail, and then may leave what only a later call can undo."""
        answer = self.calls.add(place)
        code = self._told(f"ADD {place}", answer, expected=(0, 1))
        place.is_sure = code == 0
        place.result = answer[0] if code == 0 else {}
        self._keep(place)

    def second_add(self, place: Attached) -> None:
        """An ADD of what is attached already is refused, and touches nothing."""
        present = [
            each for each in self.attached if each.is_sure and not each.is_lost and self._is_known(each)
        ]
        if present:
            chosen = self.random.choice(present)
            self._told(f"second ADD {chosen}", self.calls.add(chosen), expected=(1,))

    def _is_known(self, attached: Attached) -> bool:
        """To the ledger; a plugin of its own knows only the addresses that host-local gave."""
        ipam = attached.networks[0].plugins[0].get("ipam", {})
        return isinstance(self.calls, Engine) or ipam.get("type") == "host-local"

    def _script(self, name: str, text: str) -> Plugin:
        """An executed plugin that does something on ADD."""
        path = self.root / "bin" / name
        path.write_text(f'#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\n{text}\n')
        path.chmod(0o755)
        return {"type": name}

    def executed_failure(self, place: Attached) -> None:
        """An executed plugin in the list fails."""
        failing = self._script("failing", """echo '{"cniVersion":"1.0.0","code":100,"msg":"no"}'; exit 1""")
        broken = self._broken(place, drawing.bridge(self._broken_draw()), failing)
        self._told(f"ADD {broken}", self.calls.add(broken), expected=(1,))

    def removed_meanwhile(self, place: Attached) -> None:
        """The pod's namespace is removed by the time the ADD is half-way."""
        removing = self._script(
            "removing", """umount -l "$CNI_NETNS"; rm -f "$CNI_NETNS"; echo '{"cniVersion":"1.0.0"}'"""
        )
        broken = self._broken(place, drawing.bridge(self._broken_draw()), removing)
        self._add_unsurely(broken)
        self._lost(place.pod)

    def unwritable_meanwhile(self, place: Attached) -> None:
        """Ledger or addresses cannot be written from the middle of an ADD on."""
        directory = self.root / self.random.choice(("ipam", "state"))
        mount = f"mount -o bind,ro {directory} {directory}"
        locking = self._script("locking", f"""{mount}; echo '{{"cniVersion":"1.0.0"}}'""")
        self.diary.append(f"{directory.name} becomes read-only in the middle of the next call")
        try:
            self._add_unsurely(self._broken(place, drawing.bridge(self._broken_draw()), locking))
        finally:
            subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL)

    # The end.

    def _finish(self) -> None:
        """Everything is undone by DEL, by GC, or by both; what is gone may be asked for as well."""
        how = self.random.choice(("delete", "delete", "collect", "both"))
        if isinstance(self.calls, Standalone) and how != "delete":
            self._lose_and_collect(is_deleted=how == "both")
        elif how != "delete":
            self._collect([])
        self.random.shuffle(self.attached)
        for each in list(self.attached):
            self._delete(each)
        if self.random.random() < 0.3:
            self.delete_nothing()
        if how == "both":
            self._collect([])

    def _lose_and_collect(self, *, is_deleted: bool) -> None:
        """By plugins of their own a GC does not touch links: they go with their namespaces."""
        for pod in self.pods:
            self._lost(pod)
        self.diary.append("all namespaces are removed")
        self._collect([])
        if not is_deleted:
            self.attached = [
                each
                for each in self.attached
                if each.networks[0] not in self.networks or each.networks[0].version != "1.1.0"
            ]

    def _require_nothing_left(self) -> None:
        is_any_lost = any(each.namespace is None for each in self.pods) or bool(self.spoiled)
        for device in [each for network in self.networks for each in network.devices]:
            if not is_any_lost and link.find(self.worker.host, device) is None:
                raise self.failed(f"left: device {device} is not back")
        for pod in self.pods:
            if pod.namespace is None:
                self._revive(pod)
        self.worker.drop()
        left = leftovers.wait_for(lambda: self.worker.left(self._files))
        if left:
            raise self.failed("left:\n" + "\n".join(left))

    def _files(self) -> set[str]:
        found = leftovers.of_files(
            self.root, *(each for each in RUN.iterdir() if each.name not in ("netns", "sequences"))
        )
        return {each for each in found if "/bin/" not in each and not each.endswith("xtables.lock")}


STEPS: dict[Callable[[Sequence], None], int] = {
    Sequence.add: 6,
    Sequence.delete: 3,
    Sequence.delete_twice: 1,
    Sequence.delete_nothing: 1,
    Sequence.check: 2,
    Sequence.fail: 4,
    Sequence.collect: 1,
    Sequence.lose: 1,
}
"""How often each comes."""
FAULTS = (
    *(Sequence.broken_network,) * 2,
    *(Sequence.broken_chain,) * 2,
    Sequence.taken_name,
    Sequence.no_namespace,
    Sequence.unwritable,
    Sequence.second_add,
)
ENGINE_FAULTS = (
    *FAULTS,
    Sequence.executed_failure,
    Sequence.removed_meanwhile,
    Sequence.unwritable_meanwhile,
)


def main(arguments: list[str]) -> int:
    """Run every STEP-th of the sequences from FIRST on, COUNT of them; 1 when one failed."""
    first, step, count = map(int, arguments)
    netns.enter_private()
    worker = Worker()
    for seed in range(first, first + step * count, step):
        try:
            worker.run(seed)
        except SequenceFailed as failure:
            print(failure)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
