"""
Our built-in delegates, as the daemon runs them, beside the reference plugins and the kernel's floor.

Every round does ADD, CHECK and DEL with each contestant in turn, so that noise meets all of them
alike: of a few pods, one right after the other. The first one is what a pod alone meets, whose turn
comes after other programs; the others are a burst. IPAM is host-local for ours and the reference;
the floor has none, the chores have its files.
"""

import gc
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Protocol

from meta_cni.cni import request as requests
from meta_cni.cni import result as results
from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import join
from meta_cni.cni.request import Request
from meta_cni.cni.result import Result
from meta_cni.cni.version import NEWEST
from meta_cni.compose import Memory, construct
from meta_cni.engine import execute
from meta_cni.engine.ledger import Record
from meta_cni.engine.plan import GROUP_BASE, Execution, Plan, Step
from meta_cni.linux import address, configure, link, netns
from meta_cni.linux.namespaces import Namespaces, catch_up, put_off
from meta_cni.linux.netlink import Socket
from meta_cni.metrics import Timeline
from tests.bench.chores import Chores
from tests.bench.floor import BridgeFloor, Floor, PtpFloor

VERBS = ("ADD", "CHECK", "DEL")
TYPES: dict[str, dict[str, object]] = {
    "bridge": {"bridge": "own0", "isDefaultGateway": True},
    "macvlan": {"master": "up0"},
    "ptp": {},
    "tap": {},
    "host-device": {"device": "dev0"},
}
CHAINED: dict[str, dict[str, object]] = {
    "loopback": {},
    "tuning": {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400},
    "sbr": {},
    "route-override": {"flushgateway": True, "addroutes": [{"dst": "10.50.0.0/16", "gw": "10.97.0.9"}]},
}
"""Measured on an interface that is there."""
VERSION = "1.0.0"
PODS = 4
"""That come one right after the other."""
IN_A_ROW = "in a row"
"""What is said of them, but the first."""
PLACES = [f"bench{n}" for n in range(PODS)]
"""Their namespaces."""
SHARED = ("host-device", *CHAINED)
"""Of whose device or interface there is only one."""


class Contestant(Protocol):
    """Who makes and removes attachments, all of one configuration."""

    def run(self, verb: str, environment: Mapping[str, str]) -> float:
        """Milliseconds of a verb; CHECK and DEL are about what the container's ADD was about."""
        ...


class Ours:
    """
    A built-in as the daemon runs it for an attachment: constructed, and called with and for objects.

    Its network's configuration was read with an earlier pod's ADD; a CHECK and a DEL read it from the ledger.
    """

    def __init__(self, config: Mapping[str, object], previous: Mapping[str, object] | None) -> None:
        self.plugin = parse_plugin(json.dumps(config).encode(), "network bench")
        self.previous = results.parse(previous, VERSION) if previous is not None else None
        self.memory = Memory(is_remembering=True)
        self.results: dict[str, Mapping[str, object]] = {}

    def run(self, verb: str, environment: Mapping[str, str]) -> float:
        """As a request's part that is about the attachment."""
        request = requests.parse(environment, self.plugin.raw.text().encode())
        call = partial(construct, request=request, memory=self.memory, timeline=Timeline())
        plan = self._plan(request)
        (record,) = execute.records_of(plan, "bench", (), "")
        kept = replace(record, result=self.results.get(request.container_id))
        made: tuple[Result, ...] = ()
        put_off()
        started = time.perf_counter()
        with Namespaces(request.netns) as namespaces:
            if verb == "ADD":
                made = execute.run(self._prepared(plan, record, call, namespaces), (), None, namespaces, {})
            elif verb == "CHECK":
                execute.check((kept,), call, namespaces)
            else:
                _, errors = execute.undo((kept,), call, namespaces)
                if errors:
                    raise join(errors)
        ms = (time.perf_counter() - started) * 1000
        catch_up()
        if made:
            self.results[request.container_id] = results.to_json(made[0], NEWEST)
        return ms

    def _plan(self, request: Request) -> Plan:
        step = Step(
            network=self.plugin.network,
            interface=request.interface,
            is_default=False,
            config_name=self.plugin.network,
            cni_version=VERSION,
            executions=(Execution(self.plugin, True, ""),),
            where="bench",
            group=GROUP_BASE if self.previous is None else 0,
        )
        return Plan(request.container_id, request.netns, request.interface, "", (step,), ())

    def _prepared(
        self, plan: Plan, record: Record, call: execute.Construct, namespaces: Namespaces
    ) -> tuple[execute.Prepared, ...]:
        """Behind another plugin the interface is there, and nobody looks whether its name is free."""
        if self.previous is None:
            return execute.prepare(plan, (record,), call, namespaces)
        delegate = call(record, record.executed[0], self.plugin, namespaces)
        return (execute.Prepared(record, (delegate,), self.previous),)


class Theirs:
    """The reference binary, executed as a runtime does."""

    def __init__(
        self, binary: str, config: Mapping[str, object], previous: Mapping[str, object] | None
    ) -> None:
        self.binary = binary
        self.config = config
        self.previous = previous
        self.printed: dict[str, object] = {}

    def run(self, verb: str, environment: Mapping[str, str]) -> float:
        """From the start of its process to the end."""
        container_id = environment["CNI_CONTAINERID"]
        before = self.previous if verb == "ADD" else self.printed[container_id]
        given = self.config if before is None else {**self.config, "prevResult": before}
        stdin = json.dumps(given).encode()
        started = time.perf_counter()
        printed = subprocess.run(
            [self.binary], input=stdin, env=environment, stdout=-1, stderr=-1, check=True
        ).stdout
        ms = (time.perf_counter() - started) * 1000
        if verb == "ADD":
            self.printed[container_id] = json.loads(printed)
        return ms


def measure(contestant: Contestant, plugin_type: str, name: str, path: str) -> list[list[float]]:
    """Milliseconds of ADD, CHECK and DEL, each of one pod after the other."""
    pods = ["chained"] if plugin_type in CHAINED else PLACES[: 1 if plugin_type in SHARED else PODS]
    environment = {"CNI_IFNAME": "eth0", "CNI_PATH": path, "PATH": os.environ["PATH"]}
    return [
        [
            contestant.run(
                verb,
                {
                    **environment,
                    "CNI_COMMAND": verb,
                    "CNI_CONTAINERID": f"{name}-{pod}",
                    "CNI_NETNS": f"/run/netns/{pod}",
                },
            )
            for pod in pods
        ]
        for verb in VERBS
    ]


def told_apart(who: str, rest: str, times: list[float]) -> dict[str, list[float]]:
    """The samples of the first pod, and of those that came right after it."""
    return {f"{who}/{rest}": times[:1], f"{who}, {IN_A_ROW}/{rest}": times[1:]}


def contestants_of(plugin_type: str, directory: Path, path: str) -> dict[str, Contestant]:
    """Ours, and the reference where it is in `path`; each has a directory of its own."""
    previous = RESULT if plugin_type in CHAINED else None
    found: dict[str, Contestant] = {"ours": Ours(configuration(plugin_type, directory / "ours"), previous)}
    binary = shutil.which(plugin_type, path=path)
    if binary is not None:
        found["reference"] = Theirs(binary, configuration(plugin_type, directory / "reference"), previous)
    return found


def configuration(plugin_type: str, directory: Path) -> dict[str, object]:
    """One address of a range of its own; nothing of the kind behind another plugin."""
    own: dict[str, object] = {"cniVersion": VERSION, "name": plugin_type, "type": plugin_type}
    if plugin_type in CHAINED:
        kept = {"dataDir": str(directory)} if plugin_type == "tuning" else {}
        return {**own, **kept, **CHAINED[plugin_type]}
    ipam = {"type": "host-local", "dataDir": str(directory), "subnet": "10.98.0.0/16"}
    return {**own, "ipam": ipam, **TYPES[plugin_type]}


RESULT = {
    "cniVersion": VERSION,
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/chained"}],
    "ips": [{"address": "10.97.0.2/16", "gateway": "10.97.0.1", "interface": 0}],
}


def chained() -> None:
    """A new interface, with an address, for a plugin that stands behind another one."""
    with Namespaces("/run/netns/chained") as namespaces:
        link.remove(namespaces.host, "chained0")
        (reply,) = namespaces.host.request([link.create_veth("chained0", "eth0", namespaces.pod_fd)])
        result = results.parse(RESULT, "1.0.0")
        configure.configure(namespaces, link.veth_indexes(reply)[1], "eth0", result)


def links() -> link.Link:
    """A master on the node, and the floor's bridge, which is a gateway."""
    with Socket.open_host() as host:
        pairs = [link.create_pair("up0", "sw0"), link.create_pair("dev0", "dev1")]
        host.request([*pairs, link.create_bridge("br9")])
        for name in ("up0", "sw0", "dev1", "br9"):
            host.request([link.set_link(link.require(host, name, "link").index, is_up=True)])
        bridge = link.require(host, "br9", "bridge")
        host.request([address.add(bridge.index, ip_interface("10.100.0.1/24"))])
        return bridge


def run(rounds: int, path: str) -> dict[str, list[float]]:
    """
    Samples in milliseconds by "contestant/type/verb"; the first round warms up and is not kept.

    The reference plugins are looked for in `path`.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    netns.create("/run/netns/chained")
    for each in PLACES:
        netns.create(f"/run/netns/{each}")
    bridge = links()
    pods = [netns.open_netns(f"/run/netns/{each}") for each in PLACES]
    floors = [Floor(each, bridge.index) for each in pods]
    own_floors: dict[str, Sequence[Floor]] = {
        "bridge": [BridgeFloor(each, bridge) for each in pods],
        "ptp": [PtpFloor(each, number) for number, each in enumerate(pods)],
    }
    with tempfile.TemporaryDirectory() as scratch:
        chores = [Chores(f"/run/netns/{each}", Path(scratch) / f"chores-{each}") for each in PLACES]
        contestants = {each: contestants_of(each, Path(scratch), path) for each in (*TYPES, *CHAINED)}
        for n in range(rounds + 1):
            found = least(floors, own_floors, chores)
            for plugin_type in (*TYPES, *CHAINED):
                for who, contestant in contestants[plugin_type].items():
                    if plugin_type in CHAINED:
                        chained()
                    try:
                        measured = measure(contestant, plugin_type, f"c{n}", path)
                    except subprocess.CalledProcessError:  # an older one does not know every key
                        continue
                    for verb, times in zip(VERBS, measured, strict=True):
                        found |= told_apart(who, f"{plugin_type}/{verb}", times)
            for key, values in found.items():
                samples[key].extend(values if n else [])
    return {key: values for key, values in samples.items() if values}


def least(
    floors: Sequence[Floor], own_floors: Mapping[str, Sequence[Floor]], chores: Sequence[Chores]
) -> dict[str, list[float]]:
    """What the pods' ADDs and DELs cost anybody; the DELs are announced, and acknowledged."""
    found = told_apart("chores", "/ADD", [each.add() for each in chores])
    found |= told_apart("chores", "/DEL", [each.delete() for each in chores])
    for plugin_type, own in own_floors.items():
        found |= told_apart("floor", f"{plugin_type}/ADD", [each.add() for each in own])
        for each in own:
            each.delete()
    found |= told_apart("floor", "/ADD", [each.add() for each in floors])
    announced, acknowledged = zip(*[each.delete() for each in floors], strict=True)
    found |= told_apart("floor", "/DEL", list(announced))
    return found | told_apart("floor acknowledged", "/DEL", list(acknowledged))


def run_aside(rounds: int, path: str) -> dict[str, list[float]]:
    """
    As run(), on a thread like a daemon's: the main one waits for announcements as well.

    And as in a daemon, what was there before is not looked at by each collection of garbage.
    """
    gc.collect()
    gc.freeze()
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(run, rounds, path).result()
    finally:
        gc.unfreeze()
