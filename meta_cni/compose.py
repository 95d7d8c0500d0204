"""
Putting everything together: the only module that knows all the others.

It makes an engine of a configuration, and answers a runtime's request with bytes and an exit
code. Nothing above it knows how that is done.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import delegates
from delegates.external import External
from meta_cni import invoke, ipam
from meta_cni.cni import request as requests
from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import (
    PluginConfig,
    encode,
    encode_compact,
    parse_plugin,
)
from meta_cni.cni.errors import (
    BadConfig,
    BadEnvironment,
    CNIError,
    IncompatibleVersion,
    IOFailure,
    NetnsGone,
    NotAvailable,
    join,
)
from meta_cni.cni.request import Request
from meta_cni.cni.result import Result
from meta_cni.configuration import Configuration, read_configuration
from meta_cni.delegate import Attachment, Delegate
from meta_cni.engine import device_info
from meta_cni.engine.engine import Engine, Pod, World
from meta_cni.engine.ledger import Entry, Executed, Record
from meta_cni.engine.plan import GROUP_BASE, Execution
from meta_cni.ipam import host_local
from meta_cni.ipam.directories import Directories
from meta_cni.k8s import access, claims
from meta_cni.k8s.allocation import Allocation, without_repeats
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.cached_store import CachedStore, Following
from meta_cni.k8s.file_store import FileStore
from meta_cni.k8s.kubelet import Kubelet
from meta_cni.k8s.late_status import LateStatuses
from meta_cni.k8s.store import Store
from meta_cni.k8s.untold import DIRECTORY, Untold
from meta_cni.linux import link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.logs import log_to
from meta_cni.metrics import BUILT_IN, Timeline
from meta_cni.quick import quick
from meta_cni.recent import Recent
from meta_cni.settings import Settings
from meta_cni.shim import is_shim

CHAIN = "META_CNI_CHAIN"
"""Set for executed delegates: container ids that are being attached, so that a loop is seen."""
DATA_DIRECTORY = re.compile(rb'dataDir\\*"\s*:\s*\\*"(/[^"\\]+)')
"""host-local's key as it stands in a configuration, and as it stands in a JSON string in an entry."""
POOLS = 1000
"""That a daemon tells of at a time."""
SALVAGE_DEADLINE_S = 10.0
STATUS_DEADLINE_S = 10.0
API_ALLOWANCE_S = 20.0
"""What one request may wait for the API server, by all its calls together."""
WRITING_S, WRITING_WHILE_AWAY_S = 6.0, 1.0
"""What a daemon's request waits for what may be written later."""
STOP_S = 2.0
LOG = logging.getLogger("meta_cni")


Tell = Callable[[Mapping[str, str], Timeline, CNIError | None], None]
"""(variables, timeline, error) of a request that has been served."""


class Memory:
    """What a daemon keeps from one request to the next; a single call begins with nothing."""

    def __init__(
        self, *, is_remembering: bool = False, root: str = "", tell: Tell | None = None, node: str = ""
    ) -> None:
        """
        `is_remembering`: there will be more requests than one; `tell` is told of each.

        `root` is where the node's file system is, for a daemon in a container: / for executed plugins.
        `node` is the node's name in the cluster.
        """
        self.root = root
        self.tell = tell or (lambda *_: None)
        self.pools: Recent[tuple[str, str], host_local.Options] = Recent(POOLS)
        """host-local's of all requests so far, by network and directory."""
        self.state_directories: set[str] = set()
        """`cniDir` of all requests so far."""
        self.directories = Directories(is_remembering=is_remembering)
        self.kubelets: dict[tuple[str, float], Kubelet] = {}
        """Those that were asked for a pod's devices so far, by directory and time-out: one, as a rule."""
        self._stores: dict[tuple[str, str], FileStore] = {}
        self._servers: dict[str, Server] = {}
        """API servers, by the kubeconfig that leads there; empty for the one we are a pod of."""
        self._is_remembering = is_remembering
        self._node = node
        self._following: dict[str, Following] = {}
        self._late: dict[tuple[str, str], LateStatuses] = {}
        """By cluster and state directory."""
        self._lock = threading.Lock()

    def learn(self, network: str, addresses: ipam.Addresses) -> None:
        """A pool that is in use."""
        if isinstance(addresses, host_local.HostLocal):
            self.pools.put((network, str(addresses.options.directory)), addresses.options)

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
                    key = plugin.network, str(options.directory)
                    self.pools.put(key, self.pools.find(key) or options)

    def kubelet(self, directory: str, timeout_s: float) -> Kubelet:
        """The kubelet that has this directory."""
        return self.kubelets.setdefault((directory, timeout_s), Kubelet(Path(directory), timeout_s))

    def file_store(self, directory: str, state: str) -> FileStore:
        """The store in a directory, with what it has read so far."""
        return self._stores.setdefault((directory, state), FileStore(Path(directory), Path(state)))

    def server(self, kubeconfig: str) -> Server:
        """The API server that a kubeconfig leads to, or the one we are a pod of, with its connections."""
        known = self._servers.get(kubeconfig)
        if known is None:
            found = access.of_kubeconfig(Path(kubeconfig)) if kubeconfig else access.in_cluster(os.environ)
            known = self._servers.setdefault(kubeconfig, Server(found))
        return known

    def follow(self, kubeconfig: str) -> Following | None:
        """What is kept of a cluster, from the first call on; None when there will be no other request."""
        if not self._is_remembering:
            return None
        with self._lock:
            known = self._following.get(kubeconfig)
            if known is None:
                server = self.server(kubeconfig)
                known = self._following[kubeconfig] = Following(server, self._node)
                known.start()
            return known

    def late(self, kubeconfig: str, cni_dir: str) -> LateStatuses | None:
        """What a cluster has still to be told, another daemon's too; None when it is not followed."""
        following = self.follow(kubeconfig)
        if following is None:
            return None
        with self._lock:
            known = self._late.get((kubeconfig, cni_dir))
            if known is None:
                untold = Untold(Path(cni_dir) / DIRECTORY)
                store = ApiStore(following.server, is_trying_again=False)
                known = self._late[kubeconfig, cni_dir] = LateStatuses(store, untold, kubeconfig)
                known.start()
            return known

    def clusters(self) -> list[Following]:
        """Every cluster that is followed."""
        with self._lock:
            return list(self._following.values())

    def late_statuses(self) -> list[LateStatuses]:
        """What all of them have still to be told."""
        with self._lock:
            return list(self._late.values())

    def stop(self) -> None:
        """Follow no cluster any more, and tell them what is left."""
        for following in self.clusters():
            following.stop(STOP_S)
        for late in self.late_statuses():
            late.stop(STOP_S)


def store_of(settings: Settings, memory: Memory) -> Store | None:
    """Where objects are kept: files, else a cluster; None when the configuration names neither."""
    if settings.store_directory:
        return memory.file_store(settings.store_directory, f"{settings.cni_dir}/objects")
    cluster = cluster_of(settings)
    if cluster is None:
        return None
    server = ApiStore(memory.server(cluster)).within(API_ALLOWANCE_S)
    following = memory.follow(cluster)
    if following is None:
        return server
    writing_s = WRITING_S if not following.problems() else WRITING_WHILE_AWAY_S
    return CachedStore(server, following.informers, ApiStore(following.server).within(writing_s))


def cluster_of(settings: Settings) -> str | None:
    """The kubeconfig of our cluster, empty for the one we are a pod of; None for none, as with files."""
    is_one = settings.kubeconfig or access.is_in_cluster(os.environ)
    return settings.kubeconfig if is_one and not settings.store_directory else None


def engine_of(
    settings: Settings, request: Request, memory: Memory, timeline: Timeline, store: Store | None = None
) -> Engine:
    """An engine for one request; `store` counts instead of the configuration's."""
    memory.state_directories.add(settings.cni_dir)
    cluster = timeline.cluster = cluster_of(settings)
    is_telling = request.command == "ADD" and cluster is not None
    late = memory.late(cluster or "", settings.cni_dir) if is_telling else None
    path = tuple(dict.fromkeys((settings.bin_dir, *request.path)))
    world = World(
        store=store or (store_of(settings, memory) if request.command in ("ADD", "STATUS") else None),
        choose=partial(choose, path=path),
        construct=partial(construct, request=request, memory=memory, timeline=timeline),
        status_of=partial(status_of, path=path, request=request, settings=settings, root=memory.root),
        devices=partial(devices_of, settings=settings, memory=memory),
        collect=partial(collect, path=path, request=request, root=memory.root),
        salvage=partial(salvage, settings=settings),
        later=late,
        timeline=timeline,
    )
    return Engine(settings, world)


def devices_of(
    pod: Pod, request: Request, needed: tuple[str, ...], *, settings: Settings, memory: Memory
) -> Allocation:
    """What was handed to a pod; the kubelet's UID of a static pod is the runtime's, not the API's."""
    kubelet = memory.kubelet(settings.kubelet_directory, settings.kubelet_timeout_s)
    told = kubelet.allocation(pod.namespace, pod.name, request.pod_uid or pod.uid)
    store = store_of(settings, memory) if pod.document is not None else None
    passed: list[str] = []
    claimed = claims.allocated(store, dict(pod.document or {}), passed.append) if store is not None else ()
    devices = without_repeats((*told.devices, *claimed))
    is_known = told.is_known or bool(claimed or passed)
    return replace(told, devices=devices, is_known=is_known, passed_over=tuple(passed))


def choose(
    plugin: PluginConfig, policy: str, ipam_policy: str, *, path: tuple[str, ...], is_here: bool = True
) -> Execution:
    """
    How a plugin runs, and why; raises BadConfig when it cannot, or when it is ourselves.

    `is_here`: on this node; on another one, a program is not looked for.
    """
    refusal = plugin.once(_refusal)
    if policy != "exec" and not refusal:
        if is_here:
            _refuse_ipam(plugin, ipam_policy, path)
        return Execution(plugin, True, "every key is built in", ipam_policy=ipam_policy)
    if policy == "builtin":
        raise BadConfig(f"{plugin.where}: delegatePolicy builtin: {refusal}")
    binary = invoke.find(plugin.type, path) if is_here else ""
    if binary and is_ourselves(binary):
        raise BadConfig(
            f"{plugin.where}: type {plugin.type!r} is meta-cni itself ({binary}): expected another plugin"
        )
    return Execution(plugin, False, refusal or "delegatePolicy exec", binary)


def _refusal(plugin: PluginConfig) -> str:
    """Why no delegate of ours can have it; empty when one can."""
    if plugin.type not in delegates.BUILTIN:
        return f"type {plugin.type} is not built in"
    return delegates.load(plugin.type).refuses(plugin)


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
    netns_path = "" if request.command != "CHECK" and namespaces.is_gone else namespaces.path
    environment = request.environment
    if not executed.is_builtin or ipam.is_executed(plugin, executed.ipam_policy):
        environment = invoke.environment(environment, _variables(request, record, netns_path))
    addresses: ipam.Addresses = ipam.Nothing()
    if executed.is_builtin:
        addresses = ipam.open_addresses(
            plugin,
            container_id=record.container_id,
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
        container_id=record.container_id,
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
        made: Delegate = delegates.load(executed.type)(plugin, attachment)
    else:
        made = External(plugin, attachment, executed.binary, environment, memory.root)
    return Timed(made, timeline, record, executed)


def _variables(request: Request, record: Record, netns_path: str) -> dict[str, str]:
    """What an executed plugin of an attachment is told beside its configuration; it may get another verb."""
    return {
        "CNI_COMMAND": request.command,
        "CNI_CONTAINERID": record.container_id,
        "CNI_NETNS": netns_path,
        "CNI_IFNAME": record.interface,
        "CNI_ARGS": requests.format_args(record.cni_args),
        "CNI_PATH": ":".join(record.path),
        CHAIN: record.container_id,
    }


@quick
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
    try:
        execution = choose(plugin, *policies, path=path)
    except CNIError as error:  # no program, or one that must not run
        raise NotAvailable(error.message, error.details) from None
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
    try:
        removed.extend(f"link {each}" for each in _salvaged_links(netns_path))
    except NetnsGone:
        pass
    except CNIError as error:
        errors.append(error)
    for directory in _data_directories(settings, errors):
        try:
            released = host_local.release_container(directory, container_id, SALVAGE_DEADLINE_S)
            removed.extend(f"address {each}" for each in released)
        except CNIError as error:
            errors.append(error)
    try:
        files = device_info.remove_all(Path(settings.device_info_directory), container_id)
        removed.extend(f"device-info {each}" for each in files)
    except OSError as error:
        errors.append(IOFailure(f"remove device-info of {container_id}: {error.strerror}"))
    return removed, tuple(errors)


def _salvaged_links(netns_path: str) -> list[str]:
    """Delete the links in a pod that are ours by their group; raises NetnsGone, KernelError."""
    with Namespaces(netns_path) as namespaces:
        ours = [each for each in link.dump(namespaces.pod) if each.group & 0xFF000000 == GROUP_BASE]
        for each in ours:
            link.remove(namespaces.pod, each.name)
    return [each.name for each in ours]


def _data_directories(settings: Settings, errors: list[CNIError]) -> list[Path]:
    """
    host-local's directory, and any other that the configuration or the ledger names.

    The ledger's files are searched as bytes: what is left of a damaged entry still tells.
    Nothing but files that name the container is removed from any of them. A file that is gone by now was
    another sandbox's; `errors` gets what could not be read.
    """
    texts = [text.encode() for text in settings.delegates]
    for path in (Path(settings.cni_dir) / "ledger").rglob("*"):
        try:
            texts.append(path.read_bytes())
        except (FileNotFoundError, IsADirectoryError):
            continue
        except OSError as error:
            errors.append(IOFailure(f"read {path}: {error.strerror}"))
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
        return (b"", 0) if answer is None else (encode_compact(results.to_json(answer, version)), 0)
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
    for warning in timeline.warnings:
        LOG.warning("%s %s: %s", verb, sandbox, warning)
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
    is_enough = request.command in ("DEL", "GC") and configuration.is_ledger_known
    if configuration.problems and not is_enough:
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
        engine.collect_garbage(request, configuration.valid)
    else:
        engine.status()
    return None


def _require_version(command: str, version: str) -> None:
    needed = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(command)
    if needed is not None and not versions.at_least(version, needed):
        raise IncompatibleVersion(
            f"config version does not allow {command}", f"config is {version!r}, {command} needs {needed}"
        )
