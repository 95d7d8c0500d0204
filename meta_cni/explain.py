"""
What is to be done for a pod, and what is attached on this node, as plain data for people.

Nothing is touched: a plan is made as an ADD makes it, and goes no further.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from meta_cni import ipam
from meta_cni.cni import request as requests
from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import BadConfig, CNIError, DamagedEntry, join
from meta_cni.cni.request import Request
from meta_cni.cni.result import Result
from meta_cni.compose import Memory, choose, devices_of, engine_of
from meta_cni.configuration import Configuration, read_configuration
from meta_cni.engine import engine as engines
from meta_cni.engine.engine import pod_of
from meta_cni.engine.inherited import Asked, Inherited
from meta_cni.engine.ledger import Entry, Ledger, Record
from meta_cni.engine.plan import DefaultRoute, Plan, Step
from meta_cni.k8s.allocation import Allocated, Allocation
from meta_cni.k8s.store import Store
from meta_cni.metrics import Timeline
from meta_cni.picture import Pod, PodInterface, Rail, Topology
from meta_cni.settings import Settings

CHAINED = json.dumps(
    {
        "cniVersion": versions.NEWEST,
        "name": "meta-cni-network",
        "type": "meta-cni",
        "prevResult": {"cniVersion": versions.NEWEST, "interfaces": [{"name": "eth0", "sandbox": "/"}]},
    }
).encode()
"""For a node whose configuration is not known: somebody else has given the pod its default network."""


def plan_of(
    pod: dict[str, Any], stdin: bytes, environment: Mapping[str, str], directory: Path, scratch: Path
) -> dict[str, Any]:
    """
    The plan of a pod in a file, as plain data; nothing on the machine is touched.

    Networks come from the configured store, or from `directory` where that is not there; `scratch`
    takes what a file store writes down.
    """
    configuration = _configuration(stdin)
    settings = configuration.settings
    is_there = bool(settings.store_directory) and Path(settings.store_directory).is_dir()
    objects = Path(settings.store_directory) if is_there else directory
    settings = replace(settings, store_directory=str(objects), cni_dir=str(scratch))
    request = requests.parse(environment, stdin)
    memory = Memory()
    engine = engine_of(settings, request, memory, Timeline())
    engine.world = replace(engine.world, devices=partial(_foretold, settings=settings, memory=memory))
    return _told(engine, request, pod, configuration)


def plan_of_live(
    pod: dict[str, Any], stdin: bytes, environment: Mapping[str, str], store: Store, *, is_here: bool
) -> dict[str, Any]:
    """
    The plan of a pod of a cluster, as plain data; nothing is touched, here or there.

    `is_here`: this is the pod's node. Elsewhere its programs are not looked for, nor its kubelet asked.
    """
    configuration = _configuration(stdin)
    settings = configuration.settings
    request = requests.parse(environment, stdin)
    memory = Memory()
    engine = engine_of(settings, request, memory, Timeline(), store)
    world = replace(engine.world, devices=partial(_foretold, settings=settings, memory=memory))
    if not is_here:
        world = replace(world, choose=partial(choose, path=(), is_here=False), devices=_handed_elsewhere)
    engine.world = world
    return _told(engine, request, pod, configuration)


def _configuration(stdin: bytes) -> Configuration:
    configuration = read_configuration(stdin)
    if configuration.problems:
        raise join([BadConfig(f"configuration: {problem}") for problem in configuration.problems])
    return configuration


def _told(
    engine: engines.Engine, request: Request, pod: dict[str, Any], configuration: Configuration
) -> dict[str, Any]:
    plan = engine.plan(request, pod_of(pod), configuration.runtime_config, configuration.previous)
    return {
        "pod": plan.pod,
        "steps": [_step_told(step) for step in plan.steps],
        "defaultRoutes": [
            {"family": each.family, "owner": _owner_told(each, plan)} for each in plan.default_routes
        ],
    }


def _handed_elsewhere(_pod: engines.Pod, _request: Request, needed: tuple[str, ...]) -> Allocation:
    """A device without an id for everyone who needs one; which one, the kubelet there knows."""
    source = "the kubelet of the pod's node"
    return Allocation(tuple(Allocated(each, "", "", source) for each in needed), source)


def _foretold(
    pod: engines.Pod, request: Request, needed: tuple[str, ...], *, settings: Settings, memory: Memory
) -> Allocation:
    """As devices_of(), for a plan: what was not handed out yet is a device without an id."""
    try:
        handed = devices_of(pod, request, needed, settings=settings, memory=memory)
    except CNIError as error:
        handed = Allocation((), error.message)
    missing: list[Allocated] = []
    for resource in dict.fromkeys(needed):
        short = needed.count(resource) - len(handed.of_resource(resource))
        missing.extend([Allocated(resource, "", "", f"not handed out yet: {handed.source}")] * short)
    return replace(handed, devices=(*handed.devices, *missing), is_known=True)


def _owner_told(decision: DefaultRoute, plan: Plan) -> str:
    if decision.owner is None:
        return "left as it is"
    interface = plan.steps[decision.owner].interface
    if decision.gateways:
        return f"{interface} via {', '.join(str(each) for each in decision.gateways)}"
    return f"{interface}, as its network brings it"


def _step_told(step: Step) -> dict[str, Any]:
    return {
        "interface": step.interface,
        "network": step.network,
        "deadline_s": step.deadline_s,
        "device": step.device,
        "resource": step.resource,
        "deviceSource": step.device_source,
        "warnings": list(step.warnings),
        "plugins": [
            {
                "type": each.plugin.type,
                "builtin": each.is_builtin,
                "reason": each.reason,
                "binary": each.binary,
                "ipam": ipam.describe(each.plugin, each.ipam_policy),
                "runtimeConfig": each.plugin.section.value("runtimeConfig") or {},
            }
            for each in step.executions
        ],
    }


def attachments(stdin: bytes) -> tuple[list[dict[str, Any]], tuple[Path, ...]]:
    """Every attachment in the ledger and in Multus' records, as plain data; entries that were set aside."""
    configuration = read_configuration(stdin)
    ledger = Ledger(Path(configuration.settings.cni_dir) / "ledger")
    found: list[dict[str, Any]] = []
    for container_id in ledger.container_ids():
        with suppress(DamagedEntry):
            entry = ledger.read(container_id)
            if entry is not None:
                found.extend(_attachment_told(entry, record) for record in entry.records)
    found.extend(_inherited(Inherited(configuration.settings), {each["container"] for each in found}))
    return found, ledger.damaged()


def _inherited(inherited: Inherited, known: set[str]) -> Iterator[dict[str, Any]]:
    """What Multus attached before us."""
    for container_id in inherited.container_ids():
        if container_id in known:
            continue
        with suppress(CNIError):
            entry = inherited.entry(Asked(container_id), lambda _: "")
            if entry is not None:
                told = (_attachment_told(entry, each) for each in entry.records)
                yield from ({**each, "how": "by Multus"} for each in told)


def _attachment_told(entry: Entry, record: Record) -> dict[str, Any]:
    result = results.parse(record.result, versions.NEWEST) if record.result is not None else Result()
    inside = next((each for each in result.interfaces if each.sandbox), None)
    first = parse_plugin(record.executed[0].stdin, f"network {record.network}")
    device = first.section.string("bridge") or first.section.string("master") or record.device
    return {
        "container": entry.container_id,
        "pod": entry.pod,
        "interface": record.interface,
        "network": record.network,
        "type": first.type,
        "device": device,
        "mac": inside.mac if inside else "",
        "addresses": [str(each.address) for each in result.ips],
        "gateways": [str(each.gateway) for each in result.ips if each.gateway is not None],
        "isDefaultRoute": any(each.is_default for each in result.routes),
        "isComplete": record.result is not None,
        "netns": record.netns,
        "how": "built in" if record.is_builtin else "executed",
    }


def topology(found: list[dict[str, Any]]) -> Topology:
    """What a picture shows of attachments() output."""
    rails: dict[str, Rail] = {}
    pods: dict[str, list[PodInterface]] = {}
    for each in found:
        gateways = tuple(each["gateways"]) if each["isDefaultRoute"] else ()
        device = each["device"] or each["type"]
        rails.setdefault(device, Rail(device, each["type"], gateways))
        pods.setdefault(each["pod"] or each["container"], []).append(
            PodInterface(
                each["interface"],
                each["network"],
                device,
                each["mac"],
                tuple(each["addresses"]),
                each["isDefaultRoute"],
            )
        )
    drawn = tuple(Pod(name, tuple(interfaces)) for name, interfaces in pods.items())
    return Topology(os.uname().nodename, tuple(rails.values()), drawn)
