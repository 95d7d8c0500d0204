"""
Putting everything together: the only module that knows all the others.

It turns a configuration into settings, a store and an engine, and answers a runtime's request
with bytes and an exit code. Nothing above it knows how that is done.
"""

import gzip
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import delegates
from delegates.external import External
from meta_cni import invoke, ipam
from meta_cni.cni import request as requests
from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import (
    NetworkConfig,
    PluginConfig,
    RawObject,
    Section,
    encode,
    kind_of,
    parse_network,
    parse_plugin,
)
from meta_cni.cni.errors import (
    BadConfig,
    BadEnvironment,
    CNIError,
    DamagedEntry,
    DecodeFailure,
    IncompatibleVersion,
    join,
)
from meta_cni.cni.request import Request
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Delegate
from meta_cni.engine.engine import Engine, World, pod_of
from meta_cni.engine.ledger import Entry, Executed, Ledger, Record
from meta_cni.engine.plan import GROUP_BASE, DefaultRoute, Execution, Plan, Step
from meta_cni.engine.selection import DEFAULT_NETWORK, NETWORKS, unknown_keys
from meta_cni.engine.selection import parse as parse_selections
from meta_cni.ipam import host_local
from meta_cni.ipam.directories import Directories
from meta_cni.k8s import schema
from meta_cni.k8s.file_store import KINDS, FileStore, documents
from meta_cni.k8s.store import Kind, Store
from meta_cni.linux import link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.metrics import BUILT_IN, Timeline
from meta_cni.picture import Pod, PodInterface, Rail, Topology
from meta_cni.settings import MULTUS_TYPES, LogOptions, Settings
from meta_cni.settings import parse as parse_settings
from meta_cni.shim import is_shim

CHAIN = "META_CNI_CHAIN"
"""Set for executed delegates: container ids that are being attached, so that a loop is seen."""
LEVELS = {
    "panic": logging.CRITICAL,
    "error": logging.ERROR,
    "verbose": logging.INFO,
    "debug": logging.DEBUG,
}
DATA_DIRECTORY = re.compile(rb'dataDir\\*"\s*:\s*\\*"(/[^"\\]+)')
"""host-local's key as it stands in a configuration, and as it stands in a JSON string in an entry."""
SALVAGE_DEADLINE_S = 10.0
STATUS_DEADLINE_S = 10.0
LOG = logging.getLogger("meta_cni")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A runtime's standard input, read."""

    settings: Settings
    problems: tuple[str, ...]
    runtime_config: Mapping[str, object]
    previous: Result | None
    valid: frozenset[tuple[str, str]] | None
    """`cni.dev/valid-attachments` of a GC; None when absent."""


def read_configuration(text: str | bytes) -> Configuration:
    """
    Read our own configuration; raises DecodeFailure (6), BadConfig (7) or IncompatibleVersion (1).

    Problems with our own keys do not stop a DEL, so they are returned.
    """
    raw = RawObject.parse(text, "standard input")
    section = Section("configuration", raw.values())
    name = section.string("name")
    if not name:
        raise BadConfig("configuration: missing network name: expected name")
    if not requests.NAME.match(name):
        raise section.wrong("name", "a letter or digit, then letters, digits, '_', '.' or '-'")
    version = versions.require_supported(section.string("cniVersion") or versions.WHEN_ABSENT)
    values = section.values
    texts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    if section.value("delegates") is not None:
        if isinstance(section.value("delegates"), list):
            texts = raw.elements_of("delegates")
        else:
            problems = (f"delegates {kind_of(section.value('delegates'))}: expected a list of objects",)
    settings, more = parse_settings({**values, "cniVersion": version}, texts)
    runtime = section.section("runtimeConfig")
    return Configuration(
        settings=settings,
        problems=(*problems, *more),
        runtime_config=runtime.values if runtime else {},
        previous=_previous(section, version),
        valid=_valid(section),
    )


def _previous(section: Section, version: str) -> Result | None:
    previous = section.section("prevResult")
    if previous is None:
        return None
    try:
        return results.parse(previous.values, version)
    except DecodeFailure as error:
        raise DecodeFailure(f"configuration: prevResult: {error.message}") from None


def _valid(section: Section) -> frozenset[tuple[str, str]] | None:
    key = "cni.dev/valid-attachments"
    if section.value(key) is None:
        key = "cni.dev/attachments"
    if section.value(key) is None:
        return None
    return frozenset((each.string("containerID"), each.string("ifname")) for each in section.sections(key))


Tell = Callable[[Mapping[str, str], Timeline, CNIError | None], None]
"""(variables, timeline, error) of a request that has been served."""


class Memory:
    """What a daemon keeps from one request to the next; a single call begins with nothing."""

    def __init__(self, *, is_remembering: bool = False, root: str = "", tell: Tell | None = None) -> None:
        """
        `is_remembering`: there will be more requests than one; `tell` is told of each.

        `root` is where the node's file system is, for a daemon in a container: / for executed plugins.
        """
        self.root = root
        self.tell = tell or (lambda *_: None)
        self.pools: dict[tuple[str, str], host_local.Options] = {}
        """host-local's of all requests so far, by network and directory."""
        self.state_directories: set[str] = set()
        """`cniDir` of all requests so far."""
        self.directories = Directories(is_remembering=is_remembering)
        self._stores: dict[tuple[str, str], FileStore] = {}

    def learn(self, network: str, addresses: ipam.Addresses) -> None:
        """A pool that is in use."""
        if isinstance(addresses, host_local.HostLocal):
            self.pools[network, str(addresses.options.directory)] = addresses.options

    def learn_entry(self, entry: Entry) -> None:
        """The pools of an entry, which may be from before this daemon started; executed plugins' as well."""
        for record in entry.records:
            for each in record.executed:
                with suppress(CNIError):  # what we do not understand is the plugin's own
                    plugin = parse_plugin(each.stdin, record.network, network=record.config_name)
                    if plugin.ipam_type != "host-local":
                        continue
                    options = host_local.parse(plugin, {})
                    if not each.is_builtin or ipam.is_executed(plugin, each.ipam_policy):
                        options = replace(options, directory=Path(f"{self.root}{options.directory}"))
                    self.pools.setdefault((plugin.network, str(options.directory)), options)

    def file_store(self, directory: str, state: str) -> FileStore:
        """The store in a directory, with what it has read so far."""
        return self._stores.setdefault((directory, state), FileStore(Path(directory), Path(state)))


def store_of(settings: Settings, memory: Memory) -> Store | None:
    """Where objects are kept; None when the configuration names no store."""
    if settings.store_directory:
        return memory.file_store(settings.store_directory, f"{settings.cni_dir}/objects")
    if settings.kubeconfig:
        raise BadConfig(
            f"configuration: kubeconfig {settings.kubeconfig!r}: "
            "there is no access to the API in this version: expected store"
        )
    return None


def engine_of(settings: Settings, request: Request, memory: Memory, timeline: Timeline) -> Engine:
    """An engine for one request."""
    memory.state_directories.add(settings.cni_dir)
    path = tuple(dict.fromkeys((settings.bin_dir, *request.path)))
    world = World(
        store=store_of(settings, memory) if request.command in ("ADD", "STATUS") else None,
        choose=partial(choose, path=path),
        construct=partial(construct, request=request, memory=memory, timeline=timeline),
        status_of=partial(status_of, path=path, request=request, settings=settings, root=memory.root),
        collect=partial(collect, path=path, request=request, root=memory.root),
        salvage=partial(salvage, settings=settings),
        timeline=timeline,
    )
    return Engine(settings, world)


def choose(plugin: PluginConfig, policy: str, ipam_policy: str, *, path: tuple[str, ...]) -> Execution:
    """How a plugin runs, and why; raises BadConfig when it cannot, or when it is ourselves."""
    builtin = delegates.load(plugin.type) if plugin.type in delegates.BUILTIN else None
    refusal = builtin.refuses(plugin) if builtin is not None else f"type {plugin.type} is not built in"
    if policy != "exec" and not refusal:
        _refuse_ipam(plugin, ipam_policy, path)
        return Execution(plugin, True, "every key is built in", ipam_policy=ipam_policy)
    if policy == "builtin":
        raise BadConfig(f"{plugin.where}: delegatePolicy builtin: {refusal}")
    binary = invoke.find(plugin.type, path)
    if is_ourselves(binary):
        raise BadConfig(
            f"{plugin.where}: type {plugin.type!r} is meta-cni itself ({binary}): expected another plugin"
        )
    return Execution(plugin, False, refusal or "delegatePolicy exec", binary)


def _refuse_ipam(plugin: PluginConfig, policy: str, path: tuple[str, ...]) -> None:
    """An executed IPAM plugin must be there, and must not be ourselves."""
    if not ipam.is_executed(plugin, policy):
        return
    binary = invoke.find(plugin.ipam_type, path)
    if is_ourselves(binary):
        raise BadConfig(
            f"{plugin.where}: ipam type {plugin.ipam_type!r} is meta-cni itself ({binary}): "
            "expected an IPAM plugin"
        )


def is_ourselves(binary: str) -> bool:
    """Is a file our shim, or the program that runs now, by inode or by content, under whatever name?"""
    if is_shim(binary):
        return True
    own = Path(sys.argv[0])
    if not own.is_file() or (own.name.startswith("meta-") and own.name != "meta-cni"):
        return False
    try:
        if os.path.samefile(binary, own):
            return True
        is_as_long = os.stat(binary).st_size == own.stat().st_size
        return is_as_long and Path(binary).read_bytes() == own.read_bytes()
    except OSError:
        return False


def construct(
    record: Record,
    executed: Executed,
    plugin: PluginConfig,
    namespaces: Namespaces,
    *,
    request: Request,
    memory: Memory,
    timeline: Timeline,
) -> Delegate:
    """The delegate of one plugin of an attachment, with its addresses and its environment."""
    netns_path = "" if request.command == "DEL" and namespaces.is_gone else namespaces.path
    variables = {
        "CNI_CONTAINERID": record.container_id,
        "CNI_NETNS": netns_path,
        "CNI_IFNAME": record.interface,
        "CNI_ARGS": requests.format_args(record.cni_args),
        "CNI_PATH": ":".join(record.path),
        CHAIN: record.container_id,
    }
    environment = invoke.environment(request.environment, variables)
    addresses: ipam.Addresses = ipam.Nothing()
    if executed.is_builtin:
        addresses = ipam.open_addresses(
            plugin,
            container_id=variables["CNI_CONTAINERID"],
            interface=record.interface,
            cni_args=record.cni_args,
            environment=environment,
            deadline_s=record.deadline_s,
            policy=executed.ipam_policy,
            directories=memory.directories,
            root=memory.root,
        )
        memory.learn(plugin.network, addresses)
    attachment = Attachment(
        container_id=variables["CNI_CONTAINERID"],
        interface=record.interface,
        netns=netns_path,
        namespaces=namespaces,
        addresses=addresses,
        cni_args=record.cni_args,
        group=record.group,
        device=record.device,
        deadline_s=record.deadline_s,
    )
    if executed.is_builtin:
        return Timed(delegates.load(executed.type)(plugin, attachment), timeline, record, executed)
    external = External(plugin, attachment, executed.binary, environment, memory.root)
    return Timed(external, timeline, record, executed)


@dataclass(frozen=True, slots=True)
class Timed:
    """A delegate whose calls are told to the request's timeline."""

    delegate: Delegate
    timeline: Timeline
    record: Record
    executed: Executed

    def _running(self, verb: str) -> AbstractContextManager[None]:
        record, executed = self.record, self.executed
        how = BUILT_IN if executed.is_builtin else executed.binary
        return self.timeline.running(record.network, record.interface, executed.type, verb, how)

    def add(self, previous: Result | None) -> Result:
        """ADD."""
        with self._running("ADD"):
            return self.delegate.add(previous)

    def check(self, previous: Result) -> None:
        """CHECK."""
        with self._running("CHECK"):
            self.delegate.check(previous)

    def delete(self) -> None:
        """DEL."""
        with self._running("DEL"):
            self.delegate.delete()


def status_of(
    text: str, network: str, *, path: tuple[str, ...], request: Request, settings: Settings, root: str = ""
) -> None:
    """STATUS of one plugin of a network: ours looks itself, an executed one is asked from 1.1.0 on."""
    plugin = parse_plugin(text, f"network {network}")
    policies = [settings.policy_for(network, each) for each in (plugin.type, plugin.ipam_type)]
    execution = choose(plugin, *policies, path=path)
    if execution.is_builtin:
        delegates.load(plugin.type).status(plugin)
        ipam.status(
            plugin,
            environment=invoke.environment(request.environment, {"CNI_PATH": ":".join(path)}),
            deadline_s=STATUS_DEADLINE_S,
            policy=execution.ipam_policy,
            root=root,
        )
    elif versions.at_least(plugin.cni_version, "1.1.0"):
        variables = {"CNI_COMMAND": "STATUS", "CNI_PATH": ":".join(path)}
        environment = invoke.environment(request.environment, variables)
        invoke.run(execution.binary, text.encode(), environment, STATUS_DEADLINE_S, network, root)


def collect(
    record: Record, valid: frozenset[tuple[str, str]], *, path: tuple[str, ...], request: Request, root: str
) -> None:
    """GC of one network: host-local's files, and every executed plugin from 1.1.0 on."""
    listed = [{"containerID": container_id, "ifname": name} for container_id, name in sorted(valid)]
    errors: list[CNIError] = []
    for executed in record.executed:
        plugin = parse_plugin(executed.stdin, f"network {record.network}")
        try:
            if executed.is_builtin:
                delegates.load(executed.type).collect(plugin, valid)
                ipam.reclaim(
                    plugin,
                    valid,
                    environment=invoke.environment(request.environment, {"CNI_PATH": ":".join(path)}),
                    deadline_s=record.deadline_s,
                    policy=executed.ipam_policy,
                    root=root,
                )
            elif versions.at_least(record.cni_version, "1.1.0"):
                given = plugin.execution({"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed})
                variables = {"CNI_COMMAND": "GC", "CNI_PATH": ":".join(path)}
                environment = invoke.environment(request.environment, variables)
                text = given.raw.text().encode()
                invoke.run(executed.binary, text, environment, record.deadline_s, record.network, root)
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)


def salvage(
    container_id: str, netns_path: str, *, settings: Settings
) -> tuple[list[str], tuple[CNIError, ...]]:
    """
    Without a ledger entry: delete our links in the pod, release the container's addresses.

    Returns what was removed, and what could not be looked at.
    """
    errors: list[CNIError] = []
    removed: list[str] = []
    with Namespaces(netns_path) as namespaces, suppress(CNIError):
        ours = [each for each in link.dump(namespaces.pod) if each.group & 0xFF000000 == GROUP_BASE]
        for each in ours:
            link.remove(namespaces.pod, each.name)
            removed.append(f"link {each.name}")
    for directory in _data_directories(settings):
        try:
            released = host_local.release_container(directory, container_id, SALVAGE_DEADLINE_S)
            removed.extend(f"address {each}" for each in released)
        except CNIError as error:
            errors.append(error)
    return removed, tuple(errors)


def _data_directories(settings: Settings) -> list[Path]:
    """
    host-local's directory, and any other that the configuration or the ledger names.

    The ledger's files are searched as bytes: what is left of a damaged entry still tells.
    Nothing but files that name the container is removed from any of them.
    """
    texts = [text.encode() for text in settings.delegates]
    texts += [path.read_bytes() for path in (Path(settings.cni_dir) / "ledger").rglob("*") if path.is_file()]
    found = {Path(host_local.DATA_DIRECTORY)}
    for text in texts:
        found.update(Path(os.fsdecode(each)) for each in DATA_DIRECTORY.findall(text))
    return sorted(found)


def serve(environment: Mapping[str, str], stdin: bytes, memory: Memory | None = None) -> tuple[bytes, int]:
    """
    Answer one request of a runtime: what to print, and the exit code.

    Never raises: an error becomes an error object, a bug of ours one with code 999. A daemon, which
    has a memory, logs where it was told to when it was started, whatever a configuration says.
    """
    version = versions.NEWEST
    timeline = Timeline()
    try:
        request = requests.parse(environment, stdin)
        if request.command == "VERSION":
            return encode({"cniVersion": version, "supportedVersions": list(versions.SUPPORTED)}), 0
        _refuse_loop(request)
        configuration = read_configuration(stdin)
        version = configuration.settings.cni_version
        if memory is None:
            log_to(configuration.settings)
        timeline.mark("parse")
        answer = _serve(request, configuration, memory or Memory(), timeline)
        _tell(environment, timeline, None, memory)
        return (b"", 0) if answer is None else (encode(results.to_json(answer, version)), 0)
    except CNIError as error:
        _tell(environment, timeline, error, memory)
        return encode(error.to_json(version)), 1
    except Exception as error:
        LOG.exception("a bug in meta-cni")
        bug = CNIError(f"a bug in meta-cni: {error!r}")
        _tell(environment, timeline, bug, memory)
        return encode(bug.to_json(version)), 1


def _tell(
    environment: Mapping[str, str], timeline: Timeline, error: CNIError | None, memory: Memory | None
) -> None:
    """What became of a request, in the log; a daemon has a way of its own, which fails no request."""
    timeline.mark("answer")
    if memory is not None:
        try:
            memory.tell(environment, timeline, error)
        except Exception:
            LOG.exception("a bug in meta-cni")
        return
    verb, sandbox = environment.get("CNI_COMMAND", ""), environment.get("CNI_CONTAINERID", "")
    for each in timeline.chosen:
        LOG.info(
            "%s %s %s: network %s: %s: %s: %s",
            *(verb, sandbox, each.interface, each.network, each.type, each.how, each.reason),
        )
    if error is not None:
        LOG.error("%s: %s", verb, error.message)
    else:
        LOG.info("%s %s took %.1f ms", verb, sandbox, timeline.seconds * 1000)


def _refuse_loop(request: Request) -> None:
    chain = request.environment.get(CHAIN, "")
    if chain and chain == request.container_id:
        raise BadEnvironment(
            f"container {chain}: meta-cni is called by its own delegate: expected another type"
        )


def _serve(
    request: Request, configuration: Configuration, memory: Memory, timeline: Timeline
) -> Result | None:
    settings = configuration.settings
    if configuration.problems and request.command not in ("DEL", "GC"):
        raise join([BadConfig(f"configuration: {problem}") for problem in configuration.problems])
    _require_version(request.command, settings.cni_version)
    engine = engine_of(settings, request, memory, timeline)
    if request.command == "ADD":
        return engine.add(request, configuration.runtime_config, configuration.previous)
    if request.command == "DEL":
        engine.delete(request)
    elif request.command == "CHECK":
        engine.check(request)
    elif request.command == "GC":
        if configuration.valid is None:
            raise BadConfig("configuration: cni.dev/valid-attachments is missing: expected a list")
        engine.collect_garbage(configuration.valid)
    else:
        engine.status()
    return None


def _require_version(command: str, version: str) -> None:
    needed = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(command)
    if needed is not None and not versions.at_least(version, needed):
        raise IncompatibleVersion(
            f"config version does not allow {command}", f"config is {version!r}, {command} needs {needed}"
        )


def log_to(settings: Settings, formatter: logging.Formatter | None = None) -> None:
    """Log to standard error and to a file, as the configuration says."""
    LOG.setLevel(LEVELS[settings.log_level])
    LOG.propagate = False
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = []
    if settings.is_logged_to_stderr:
        handlers.append(logging.StreamHandler())
    if settings.log_file:
        with suppress(OSError):
            handlers.append(_log_file(settings.log_file, settings.log_options))
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter or logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
        LOG.addHandler(handler)


def _log_file(path: str, options: LogOptions) -> RotatingFileHandler:
    handler = RotatingFileHandler(
        path, maxBytes=options.max_size_mb << 20, backupCount=options.max_backups, delay=True
    )
    if options.is_compressed:
        handler.namer = "{}.gz".format
        handler.rotator = _compress
    oldest = time.time() - options.max_age_days * 86400
    for backup in Path(path).parent.glob(f"{Path(path).name}.*"):
        if backup.stat().st_mtime < oldest:
            backup.unlink(missing_ok=True)
    return handler


def _compress(source: str, target: str) -> None:
    with open(source, "rb") as plain, gzip.open(target, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    os.unlink(source)


def problems_of_network(config: NetworkConfig, path: tuple[str, ...]) -> list[str]:
    """What is wrong with a network's plugins, as far as can be told without attaching anything."""
    found: list[str] = []
    for plugin in config.plugins:
        if plugin.type not in delegates.BUILTIN or delegates.load(plugin.type).refuses(plugin):
            continue
        executed = Executed(plugin.type, True, plugin.raw.text())
        record = Record(
            container_id="validate",
            request="eth0",
            request_network="validate",
            network=config.name,
            interface="net1",
            config_name=config.name,
            cni_version=config.cni_version,
            netns="",
            netns_identity="",
            executed=(executed,),
            cni_args={},
            path=path,
            deadline_s=1.0,
        )
        request = Request("ADD", "validate", "", "eth0", {}, path, {}, b"")
        try:
            given, beside = plugin.execution({}), Memory()
            construct(
                record, executed, given, Namespaces(""), request=request, memory=beside, timeline=Timeline()
            )
        except CNIError as error:
            found.append(error.message)
    return found


def plan_of(
    pod: dict[str, Any], stdin: bytes, environment: Mapping[str, str], directory: Path, scratch: Path
) -> dict[str, Any]:
    """
    The plan of a pod in a file, as plain data; nothing on the machine is touched.

    Networks come from the configured store, or from `directory` where that is not there; `scratch`
    takes what a file store writes down.
    """
    configuration = read_configuration(stdin)
    if configuration.problems:
        raise join([BadConfig(f"configuration: {problem}") for problem in configuration.problems])
    settings = configuration.settings
    is_there = bool(settings.store_directory) and Path(settings.store_directory).is_dir()
    objects = Path(settings.store_directory) if is_there else directory
    settings = replace(settings, store_directory=str(objects), cni_dir=str(scratch))
    request = requests.parse(environment, stdin)
    engine = engine_of(settings, request, Memory(), Timeline())
    plan = engine.plan(request, pod_of(pod), configuration.runtime_config, configuration.previous)
    return {
        "pod": plan.pod,
        "steps": [_step_told(step) for step in plan.steps],
        "defaultRoutes": [
            {"family": each.family, "owner": _owner_told(each, plan)} for each in plan.default_routes
        ],
    }


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
    """Every attachment in the ledger as plain data, and the damaged entries that were set aside."""
    configuration = read_configuration(stdin)
    ledger = Ledger(Path(configuration.settings.cni_dir) / "ledger")
    found: list[dict[str, Any]] = []
    for container_id in ledger.container_ids():
        with suppress(DamagedEntry):
            entry = ledger.read(container_id)
            if entry is not None:
                found.extend(_attachment_told(entry, record) for record in entry.records)
    return found, ledger.damaged()


def _attachment_told(entry: Entry, record: Record) -> dict[str, Any]:
    result = results.parse(record.result, versions.NEWEST) if record.result is not None else Result()
    inside = next((each for each in result.interfaces if each.sandbox), None)
    first = parse_plugin(record.executed[0].stdin, f"network {record.network}")
    device = first.section.string("bridge") or first.section.string("master")
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


def problems_of_file(path: Path, plugin_path: tuple[str, ...]) -> list[str]:
    """Every mistake in a file: a CNI configuration (by its ending), or Kubernetes objects."""
    try:
        if path.suffix in (".conf", ".conflist"):
            return [f"{path}: {each}" for each in _problems_of_configuration(path, plugin_path)]
        return [
            f"{path}: {document['kind']} {document['metadata']['name']}: {each}"
            for document in documents(path)
            for each in _problems_of_object(document, plugin_path)
        ]
    except CNIError as error:
        return [f"{path}: {each.message}" for each in getattr(error, "errors", (error,))]


def _problems_of_configuration(path: Path, plugin_path: tuple[str, ...]) -> list[str]:
    try:
        network = parse_network(path.read_bytes(), "configuration")
    except OSError as error:
        return [f"read: {error.strerror}"]
    found: list[str] = list(network.warnings)
    for plugin in network.plugins:
        if plugin.type in ("meta-cni", *MULTUS_TYPES):
            configuration = read_configuration(plugin.execution({}).raw.text())
            found.extend(configuration.problems)
            for index, text in enumerate(configuration.settings.delegates):
                found.extend(_problems_of_text(text, f"delegates[{index}]", network.name, plugin_path))
    return found + problems_of_network(network, plugin_path)


def _problems_of_object(document: dict[str, Any], plugin_path: tuple[str, ...]) -> list[str]:
    kind = KINDS.get(document["kind"])
    if kind is None:
        return []
    found = schema.problems(kind, document)
    if found:
        return found
    name = document["metadata"]["name"]
    if kind is Kind.NETWORK_ATTACHMENT_DEFINITION:
        text = (document.get("spec") or {}).get("config") or ""
        return _problems_of_text(text, "spec.config", name, plugin_path) if text.strip() else []
    pod = pod_of(document)
    for annotation, namespace in ((NETWORKS, pod.namespace), (DEFAULT_NETWORK, "kube-system")):
        text = pod.annotations.get(annotation, "")
        try:
            parse_selections(text, namespace, f"annotation {annotation}")
        except CNIError as error:
            found.extend(each.message for each in getattr(error, "errors", (error,)))
        found.extend(f"annotation {annotation}: unknown key {key!r}" for key in unknown_keys(text))
    return found


def _problems_of_text(text: str, where: str, name: str, plugin_path: tuple[str, ...]) -> list[str]:
    try:
        network = parse_network(text, where, default_name=name)
    except CNIError as error:
        return [error.message]
    return [*network.warnings, *problems_of_network(network, plugin_path)]
