"""
What will be done for a pod: ordered steps, names, capabilities, the default route.

Pure: everything is checked here, and nothing is touched. Every mistake of a pod is told in one
error. `meta-cni plan POD` prints what this module returns.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CNIError, join
from meta_cni.cni.request import Request
from meta_cni.cni.result import Address
from meta_cni.engine import device_info, order
from meta_cni.engine.networks import Network
from meta_cni.engine.selection import Selection
from meta_cni.k8s.allocation import Allocated
from meta_cni.quick import quick
from meta_cni.settings import Settings

FAMILIES = (4, 6)
DEFAULT_DESTINATIONS = ("0.0.0.0/0", "::/0")
GROUP_BASE = 0x6D000000
"""Our links' groups (IFLA_GROUP) are this plus 24 bits; the default group of the kernel is 0."""

SYSCTLS = ("all", "default")
"""Of net.ipv4.conf and others; the kernel makes no link by these names (sysctl_dev_name_is_allowed())."""

LEGACY_ARGS = {"ips": "IP", "mac": "MAC"}
"""Capability arguments that are also sent by CNI_ARGS, as Multus does."""


@quick
@dataclass(frozen=True, slots=True)
class Execution:
    """One plugin of a network: what it gets, and whether it runs in this process."""

    plugin: PluginConfig
    """With `runtimeConfig`, `args` and device put in; `prevResult` is put in when it runs."""
    is_builtin: bool
    reason: str
    """Why it is built in or executed."""
    binary: str = ""
    ipam_policy: str = "auto"
    """The delegatePolicy of its IPAM plugin: auto, builtin or exec."""


Choose = Callable[[PluginConfig, str, str], Execution]
"""(plugin, its policy, its IPAM's policy) -> how it runs; raises BadConfig when it cannot run at all."""


@quick
@dataclass(frozen=True, slots=True)
class Step:
    """One attachment."""

    network: str
    interface: str
    is_default: bool
    config_name: str
    cni_version: str
    executions: tuple[Execution, ...]
    where: str
    cni_args: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float = 60.0
    device: str = ""
    resource: str = ""
    """What the device was handed out as."""
    device_source: str = ""
    """Who says that it is the pod's, in words."""
    device_info: str = ""
    """The attachment's device-info file; empty when nobody asks for one."""
    is_check_disabled: bool = False
    is_continued: bool = False
    """Its first plugin gets an empty prevResult."""
    group: int = 0
    default_route: tuple[Address, ...] | None = None
    """What the selection asked for: None nothing, empty: the network's own."""
    warnings: tuple[str, ...] = ()
    is_side_by_side: bool = False
    """Attached behind the others, at the same time as others of these."""
    turn: int = 0
    """Attached behind those with a lower one, detached before them."""


@quick
@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """Who has the default route of one family."""

    family: int
    owner: int | None
    """The step's index; None when there is no default network here (chained behind one)."""
    gateways: tuple[Address, ...] = ()
    """Set by `default-route`; empty: those that the owner's network brings."""
    is_requested: bool = False
    """A selection asked for it; without a route of its own the default network keeps it."""


@quick
@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an ADD will do."""

    container_id: str
    netns: str
    interface: str
    """CNI_IFNAME of the runtime's request."""
    pod: str
    """namespace/name; empty when the runtime names none."""
    steps: tuple[Step, ...]
    default_routes: tuple[DefaultRoute, ...]


@quick
@dataclass(frozen=True, slots=True)
class Wanted:
    """A network to attach to, and the selection that asked for it (None: every pod gets it)."""

    network: Network
    selection: Selection | None = None
    device: Allocated | None = None
    """What the node handed to the pod for it; its id is empty where that is not known yet."""


def build(
    request: Request,
    pod: str,
    wanted: Iterable[Wanted],
    settings: Settings,
    choose: Choose,
    runtime_config: Mapping[str, object],
    *,
    is_chained: bool = False,
) -> Plan:
    """
    The plan for an ADD; the first wanted network is the default one unless `is_chained`.

    `runtime_config` is what the runtime sent: only the default network gets it (S-35).
    Raises one error that tells every mistake.
    """
    wanted = tuple(wanted)
    errors: list[CNIError] = []
    steps: list[Step] = []
    names = _interface_names(request.interface, wanted, errors, is_chained)
    for index, (each, name) in enumerate(zip(wanted, names, strict=True)):
        is_default = index == 0 and not is_chained
        given = runtime_config if is_default else {}
        try:
            steps.append(_step(each, name, is_default, request, settings, choose, given))
        except CNIError as error:
            errors.append(error)
    errors.extend(_devices_twice(steps))
    routes = _default_routes(wanted, errors, is_chained)
    if errors:
        raise join(errors)
    turns = _turns(steps)
    if settings.is_parallel:
        steps = _side_by_side(steps)
    return Plan(
        container_id=request.container_id,
        netns=request.netns,
        interface=request.interface,
        pod=pod,
        steps=_in_turn(steps, turns, request.interface),
        default_routes=routes,
    )


def _interface_names(
    first: str, wanted: tuple[Wanted, ...], errors: list[CNIError], is_chained: bool
) -> list[str]:
    """Requested names, CNI_IFNAME for the default network, else net1, net2 ... by position."""
    names: list[str] = []
    owners: dict[str, str] = {first: "the default network"} if is_chained else {}
    for index, each in enumerate(wanted):
        requested = each.selection.interface if each.selection else ""
        number = index + 1 if is_chained else index
        name = requested or (f"net{number}" if number else first)
        where = each.selection.where if each.selection else each.network.where
        if name in owners:
            errors.append(
                BadConfig(f"{where}: interface {name!r}: expected a name not used by {owners[name]}")
            )
        owners.setdefault(name, f"{where} ({each.network.reference})")
        names.append(name)
    return names


def _step(
    wanted: Wanted,
    interface: str,
    is_default: bool,
    request: Request,
    settings: Settings,
    choose: Choose,
    runtime_config: Mapping[str, object],
) -> Step:
    network, selection = wanted.network, wanted.selection
    where = f"{selection.where} ({network.reference})" if selection else network.where
    requests = selection.requests if selection else {}
    _check_interface(interface, network, where)
    warnings = _check_capabilities(requests, network, settings, where)
    device, source, ignored = _device(wanted, where)
    is_info_taken = bool(device) or device_info.CAPABILITY in network.config.capabilities
    info = _device_info(settings, network, request, interface) if is_info_taken else ""
    offered: dict[str, object] = {**runtime_config, **requests}
    offered.update({"deviceID": device} if device else {})
    offered.update({device_info.CAPABILITY: info} if info else {})
    return Step(
        network=network.reference,
        interface=interface,
        is_default=is_default,
        config_name=network.config.name,
        cni_version=network.config.cni_version,
        executions=_executions(wanted, offered, device, settings, choose),
        where=where,
        cni_args=_cni_args(request, requests),
        deadline_s=settings.timeout_for(network.reference),
        device=device,
        resource=network.resource_name,
        device_source=source,
        device_info=info,
        is_check_disabled=network.config.is_check_disabled,
        is_continued=network.is_continued,
        default_route=selection.default_route if selection else None,
        warnings=(*network.config.warnings, *warnings, *ignored, *_claim(selection, where)),
    )


def _executions(
    wanted: Wanted, offered: Mapping[str, object], device: str, settings: Settings, choose: Choose
) -> tuple[Execution, ...]:
    """What runs each plugin, with its own configuration; raises all that is wrong with them."""
    network = wanted.network
    executions: list[Execution] = []
    errors: list[CNIError] = []
    for plugin in network.config.plugins:
        try:
            ready = _execution_config(plugin, offered, wanted.selection, device)
            policies = [
                settings.policy_for(network.reference, each) for each in (plugin.type, plugin.ipam_type)
            ]
            executions.append(choose(ready, *policies))
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)
    return tuple(executions)


def _check_interface(interface: str, network: Network, where: str) -> None:
    """Names that no link of a pod can be made with."""
    if interface == "lo" and network.config.plugins[0].type != "loopback":
        raise BadConfig(f"{where}: interface lo: every pod has it already: expected another name")
    if interface in SYSCTLS:
        raise BadConfig(f"{where}: interface {interface}: a name of sysctls: expected another name")


def _check_capabilities(
    requests: Mapping[str, object], network: Network, settings: Settings, where: str
) -> tuple[str, ...]:
    """Every request needs a plugin that declares the capability (S-12 to S-16)."""
    missing = [key for key in requests if key not in network.config.capabilities]
    warnings = [key for key in missing if settings.capability_check == "legacy" and key in LEGACY_ARGS]
    errors: list[CNIError] = [
        BadConfig(
            f"{where}: {key} is asked for, but no plugin of network {network.config.name} declares "
            f'it: expected "capabilities": {{"{key}": true}} in one of them'
        )
        for key in missing
        if key not in warnings
    ]
    if errors:
        raise join(errors)
    return tuple(f"{where}: {key} goes by CNI_ARGS alone: no capability is declared" for key in warnings)


def _claim(selection: Selection | None, where: str) -> Iterator[str]:
    """Nobody is handed an IPAMClaim: plugins that know them read the pod's annotation themselves (S-20)."""
    if selection is not None and selection.ipam_claim:
        yield (
            f"{where}: ipam-claim-reference {selection.ipam_claim} means nothing to meta-cni: "
            "expected a plugin that reads it in the annotation"
        )


def _device(wanted: Wanted, where: str) -> tuple[str, str, tuple[str, ...]]:
    """(the device of an attachment, who says so, warnings); what was handed to the pod comes first."""
    asked = wanted.selection.device_id if wanted.selection else ""
    if wanted.device is None:
        return asked, "the selection" if asked else "", ()
    handed = wanted.device
    container = f", container {handed.container}" if handed.container else ""
    ignored = f"{where}: deviceID {asked} is not used: it is not among what was handed to the pod"
    is_other = asked and handed.device_id and asked != handed.device_id
    return handed.device_id, f"{handed.source}{container}", (ignored,) if is_other else ()


def _device_info(settings: Settings, network: Network, request: Request, interface: str) -> str:
    return device_info.path_of(
        settings.device_info_directory, network.reference, request.container_id, interface
    )


def _devices_twice(steps: Iterable[Step]) -> Iterator[CNIError]:
    """A device is one attachment's."""
    owners: dict[str, Step] = {}
    for each in steps:
        first = owners.setdefault(each.device, each)
        if each.device and first is not each:
            yield BadConfig(
                f"{each.where}: device {each.device}: expected one that {first.interface} does not have"
            )


def _execution_config(
    plugin: PluginConfig, offered: Mapping[str, object], selection: Selection | None, device: str
) -> PluginConfig:
    """A plugin's configuration with what the runtime puts in (specification, section 4)."""
    injected: dict[str, object] = {
        "runtimeConfig": {key: value for key, value in offered.items() if key in plugin.capabilities} or None
    }
    if selection is not None and selection.cni_args:
        injected["args"] = _merged_args(plugin, selection.cni_args)
    if device:
        injected.update(deviceID=device, pciBusID=device)
    return plugin.execution(injected)


def _merged_args(plugin: PluginConfig, cni_args: Mapping[str, object]) -> dict[str, object]:
    """`args` with the selection's `cni-args` in `args.cni`; the pod's word wins (S-18)."""
    args = plugin.section.section("args")
    old = args.section("cni") if args else None
    return {**(args.values if args else {}), "cni": {**(old.values if old else {}), **cni_args}}


def _cni_args(request: Request, requests: Mapping[str, object]) -> Mapping[str, str]:
    args = {"IgnoreUnknown": "1", **request.args}
    for key, name in LEGACY_ARGS.items():
        value = requests.get(key)
        if value:
            args[name] = ",".join(value) if isinstance(value, list) else str(value)
    return args


def _default_routes(
    wanted: tuple[Wanted, ...], errors: list[CNIError], is_chained: bool
) -> tuple[DefaultRoute, ...]:
    """One owner a family: who asked for it by `default-route`, else the default network."""
    routes = []
    for family in FAMILIES:
        askers = [(index, each) for index, each in enumerate(wanted) if _asks_for(each, family)]
        if len(askers) > 1:
            names = " and ".join(f"{each.selection.where}" for _, each in askers if each.selection)
            errors.append(
                BadConfig(f"default-route for IPv{family} in {names}: expected it in one selection only")
            )
        if askers:
            index, asker = askers[0]
            gateways = asker.selection.default_route if asker.selection else None
            of_family = tuple(gateway for gateway in gateways or () if gateway.version == family)
            routes.append(DefaultRoute(family, index, of_family, is_requested=True))
        else:
            routes.append(DefaultRoute(family, None if is_chained else 0))
    return tuple(routes)


def _asks_for(wanted: Wanted, family: int) -> bool:
    if wanted.selection is None or wanted.selection.default_route is None:
        return False
    gateways = wanted.selection.default_route
    return not gateways or any(gateway.version == family for gateway in gateways)


def _side_by_side(steps: list[Step]) -> list[Step]:
    """Mark the executed secondaries that can be attached at the same time, where there are several."""
    found = [each for each in steps if _is_apart(each, steps)]
    if len(found) < 2:
        return steps
    return [replace(each, is_side_by_side=each in found) for each in steps]


def _is_apart(step: Step, steps: list[Step]) -> bool:
    """Only plugins of others, no default route, and nobody's link is needed by another one."""
    if step.is_default or step.default_route is not None or any(each.is_builtin for each in step.executions):
        return False
    texts = set(_texts_of(step))
    if texts.intersection(DEFAULT_DESTINATIONS) or _is_gateway_asked(step):
        return False
    others = [each for each in steps if each is not step]
    is_using = any(each.interface in texts for each in others)
    return not is_using and not any(step.interface in _texts_of(each) for each in others)


def _is_gateway_asked(step: Step) -> bool:
    return any(each.plugin.section.value("isDefaultGateway") for each in step.executions)


def _texts_of(step: Step) -> Iterator[str]:
    """Every string that stands in its configurations."""
    waiting: list[object] = [each.plugin.section.values for each in step.executions]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _turns(steps: list[Step]) -> tuple[int, ...]:
    """When each step is attached; the steps stay in the order in which others are told of them."""
    needs = [[name for each in step.executions for name in order.links_of(each.plugin)] for step in steps]
    return order.turns([step.interface for step in steps], needs)


def _in_turn(steps: list[Step], turns: Sequence[int], request_interface: str) -> tuple[Step, ...]:
    """
    The steps with their turns, and with one link group for every unbroken run of built-in ones.

    A DEL goes backwards; the links of a run go in one message, those of a step with an
    executed plugin are left to their delegates.
    """
    placed: dict[int, Step] = {}
    run = 0
    for turn, step in sorted(zip(turns, steps, strict=True), key=lambda each: each[0]):
        is_builtin = all(execution.is_builtin for execution in step.executions)
        run += not is_builtin
        group = link_group(request_interface, run) if is_builtin else 0
        placed[turn] = replace(step, turn=turn, group=group)
    return tuple(placed[turn] for turn in turns)


def link_group(request_interface: str, run: int) -> int:
    """The group of a run's links: the same for the same request, another one for others."""
    return GROUP_BASE | (zlib.crc32(f"{request_interface}/{run}".encode()) & 0xFFFFFF)
