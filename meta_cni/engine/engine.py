"""
The verbs: from a runtime's request to its answer.

ADD selects, plans, prepares, records, attaches, tells. DEL and CHECK read the ledger and
nothing else: they work after the NAD, the pod, the annotation, the configuration or the API
has changed or gone.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import indented
from meta_cni.cni.errors import (
    AlreadyAttached,
    BadConfig,
    BadNetns,
    CNIError,
    DamagedEntry,
    NotAvailable,
    TryAgainLater,
    UndoFailed,
    UnknownContainer,
    join,
)
from meta_cni.cni.request import Request
from meta_cni.cni.result import Result
from meta_cni.engine import device_info, devices, execute, status
from meta_cni.engine.inherited import Asked, Inherited, of_runtime
from meta_cni.engine.ledger import Entry, Ledger, Record
from meta_cni.engine.networks import Networks
from meta_cni.engine.plan import Choose, Plan, Wanted, build
from meta_cni.engine.selection import DEFAULT_NETWORK, NETWORKS, Selection, parse
from meta_cni.k8s import untold
from meta_cni.k8s.allocation import Allocation
from meta_cni.k8s.store import Conflict, Kind, NotFound, Store
from meta_cni.linux import netns
from meta_cni.linux.namespaces import Namespaces
from meta_cni.metrics import BUILT_IN, Chosen, Made, Timeline
from meta_cni.settings import Settings

READINESS_WAIT_S = 45.0  # as Multus waits for readinessindicatorfile
READINESS_POLL_S = 1.0
LOCK_WAIT_S = 60.0
STATUS_TRIES = 3
"""Of a status that others change at the same time."""
DEVICES_LOCK = ".devices"
"""No container's id begins with a dot."""
CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_HASH = "kubernetes.io/config.hash"
CONFIG_MIRROR = "kubernetes.io/config.mirror"
LOG = logging.getLogger("meta_cni")


class Later(Protocol):
    """Pods' statuses, for a store that is away; what the engine's own `untold` drops is told to nobody."""

    def put(self, status: untold.Status) -> None:
        """Keep it, over a restart too; never waits for the store. Raises IOFailure."""
        ...

    def is_waiting(self, namespace: str, name: str) -> bool:
        """Whether something is still to be told, which what is newer must come behind."""
        ...


class PodGone(TryAgainLater):
    """The pod was deleted while it was attached; the runtime asks for its end anyway."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside that the engine works with; put together in compose."""

    store: Store | None
    choose: Choose
    construct: execute.Construct
    status_of: Callable[[str, str], None]
    """(plugin configuration text, network) -> raises NotAvailable; one plugin's STATUS."""
    devices: Callable[["Pod", Request, tuple[str, ...]], Allocation]
    """(pod, request, a resource for each network that needs one) -> what was handed to the pod."""
    collect: Callable[[Record, frozenset[tuple[str, str]]], None]
    """(one attachment, valid (container id, interface)) -> one network's GC."""
    salvage: Callable[[str, str], tuple[list[str], tuple[CNIError, ...]]]
    """(container id, netns) -> what could be removed without a ledger entry, in words."""
    later: Later | None = None
    """Where a pod's status waits that the store does not take now; without one, the ADD fails."""
    timeline: Timeline = field(default_factory=Timeline)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time


class Engine:
    """Serves the requests of one node."""

    def __init__(self, settings: Settings, world: World) -> None:
        self.settings = settings
        self.world = world
        self.ledger = Ledger(Path(f"{settings.cni_dir}/ledger"))
        self.untold = untold.Untold(Path(f"{settings.cni_dir}/{untold.DIRECTORY}"))
        self.networks = Networks(settings, world.store)
        self.inherited = Inherited(settings)

    def add(self, request: Request, runtime_config: Mapping[str, object], previous: Result | None) -> Result:
        """Attach a pod to all its networks; on any failure nothing of it is left."""
        self._wait_until_ready()
        with self.ledger.locked(request.container_id, LOCK_WAIT_S), Namespaces(request.netns) as namespaces:
            _refuse_own(namespaces)
            entry = self._entry_for(request)
            mark = self.world.timeline.mark
            mark("lock")
            pod = self._pod(request)
            if pod.document is not None:
                self.world.timeline.pod = pod.namespace, pod.name, pod.uid
            mark("pod")
            taken = {each.device: each.interface for each in entry.records}
            plan = self.plan(request, pod, runtime_config, previous, taken)
            self.world.timeline.chosen.extend(_chosen(plan))
            self.world.timeline.warnings.extend(each for step in plan.steps for each in step.warnings)
            mark("plan")
            path = self._path(request)
            records = execute.records_of(plan, self.settings.name, path, namespaces.identity)
            prepared = execute.prepare(plan, records, self.world.construct, namespaces)
            mark("prepare")
            grown = replace(entry, records=(*entry.records, *records))
            self._begin(entry, grown, records)
            mark("ledger")
            return self._attach(request, grown, pod, prepared, plan, previous, namespaces)

    def _attach(
        self,
        request: Request,
        entry: Entry,
        pod: "Pod",
        prepared: tuple[execute.Prepared, ...],
        plan: Plan,
        previous: Result | None,
        namespaces: Namespaces,
    ) -> Result:
        """From the first touch on: every way out that is not success undoes everything."""
        records = tuple(each.record for each in prepared)
        answered: dict[str, Result] = {}
        try:
            for each in records:
                device_info.put(each)
            done = execute.run(prepared, plan.default_routes, previous, namespaces, answered)
            self.world.timeline.mark("attach")
            newest = [results.to_json(each, versions.NEWEST) for each in done]
            self.ledger.complete(entry, tuple(zip(records, newest, strict=True)))
            self.world.timeline.mark("ledger")
            attached = _attached(records, done)
            self._tell(request, pod, previous, attached)
            self.world.timeline.made.extend(_made(attached))
            self.world.timeline.mark("status")
            return status.merged(previous, attached, self.settings.result)
        except BaseException as error:
            self.world.timeline.mark("failed")
            errors = self._roll_back(request, entry, tuple(_answered(records, answered)), namespaces)
            self.world.timeline.mark("undo")
            if isinstance(error, CNIError) and errors:
                raise join([error, *errors]) from error
            raise

    def _roll_back(
        self, request: Request, entry: Entry, records: tuple[Record, ...], namespaces: Namespaces
    ) -> tuple[CNIError, ...]:
        """Undo a request's attachments, of which there may be none; the sandbox's other requests stay."""
        left, errors = execute.undo(records, self.world.construct, namespaces)
        kept = tuple(each for each in entry.records if each.request != request.interface)
        try:
            self._tell_nobody(records)
            self.ledger.write(replace(entry, records=(*kept, *left)))
        except CNIError as error:
            return (*errors, error)
        return errors

    def plan(
        self,
        request: Request,
        pod: "Pod",
        runtime_config: Mapping[str, object],
        previous: Result | None,
        taken: Mapping[str, str] = MappingProxyType({}),
    ) -> Plan:
        """
        What an ADD would do; nothing is touched. Raises one error with every mistake found.

        `taken`: the devices of the sandbox's other requests, with the interfaces that have them.
        """
        is_chained = previous is not None and not (self.settings.delegates or self.settings.cluster_network)
        if not (is_chained or self.settings.delegates or self.settings.cluster_network):
            raise BadConfig("no default network: expected delegates, clusterNetwork, or to be chained")
        wanted = self._with_devices(self._wanted(pod, is_chained), pod, request, taken)
        return build(
            request,
            pod.reference,
            wanted,
            self.settings,
            self.world.choose,
            runtime_config,
            is_chained=is_chained,
        )

    def _with_devices(
        self, wanted: tuple[Wanted, ...], pod: "Pod", request: Request, taken: Mapping[str, str]
    ) -> tuple[Wanted, ...]:
        """The networks with their devices ; nobody is asked where no network needs one."""
        needed = devices.needed(wanted)
        if not needed:
            return wanted
        allocation = self.world.devices(pod, request, needed)
        self.world.timeline.mark("devices")
        return devices.assign(wanted, allocation, taken, pod.reference)

    def _begin(self, before: Entry, entry: Entry, records: tuple[Record, ...]) -> None:
        """Write the plan down; where that fails, nothing of it may be there: no next ADD is a second one."""
        try:
            self._write_down(entry, records)
        except CNIError as error:
            try:
                self.ledger.write(before)
            except CNIError as undo:
                raise join([error, undo]) from None
            raise

    def _write_down(self, entry: Entry, records: tuple[Record, ...]) -> None:
        """
        Write the plan into the ledger, when no other attachment has one of its devices.

        All that take devices do so one after another. What has one and whose namespace is gone is undone
        here: its own DEL may never come, and if it came later it would reset what is another pod's by then.
        """
        wanted = {each.device for each in records if each.device}
        if not wanted:
            self.ledger.write(entry)
            return
        with self.ledger.locked(DEVICES_LOCK, LOCK_WAIT_S):
            for holder, record in self.ledger.holders(wanted):
                self._release(holder, record)
            self.ledger.write(entry)

    def _release(self, holder: Entry, record: Record) -> None:
        """Undo an attachment of a sandbox that is gone; raises TryAgainLater when it is not."""
        with Namespaces(record.netns, record.netns_identity) as theirs:
            if not theirs.is_gone:
                raise TryAgainLater(
                    f"device {record.device} is {record.interface} of {holder.pod or 'a pod'} "
                    f"(container {holder.container_id}): expected its DEL first"
                )
        with self.ledger.locked(holder.container_id, 0):
            current = self.ledger.read(holder.container_id)
            if current is None or record not in current.records:
                return
            LOG.warning(
                "device %s was %s of %s (container %s), which is gone: it is undone",
                *(record.device, record.interface, holder.pod, holder.container_id),
            )
            errors = self._undo(current, (record,), "")
        if errors:
            raise join(errors)

    def _wanted(self, pod: "Pod", is_chained: bool) -> tuple[Wanted, ...]:
        """Default networks, the annotation's, the auxiliary chain; all their mistakes at once."""
        errors: list[CNIError] = []
        wanted: list[Wanted] = []
        is_system = pod.namespace in self.settings.system_namespaces
        try:
            if not is_chained:
                wanted.extend(Wanted(each) for each in self.networks.defaults(is_system))
        except CNIError as error:
            errors.append(error)
        try:
            wanted.extend(self._selected(pod))
        except CNIError as error:
            errors.append(error)
        try:
            default = self._default_override(pod)
            if default is not None and not is_chained:
                wanted[:1] = [default]
            auxiliary = self.networks.auxiliary()
            if auxiliary is not None:
                wanted.append(Wanted(auxiliary))
        except CNIError as error:
            errors.append(error)
        if errors:
            raise join(errors)
        return tuple(wanted)

    def _selected(self, pod: "Pod") -> list[Wanted]:
        where = f"pod {pod.reference}: annotation {NETWORKS}"
        selections = parse(pod.annotations.get(NETWORKS, ""), pod.namespace, where)
        found: list[Wanted] = []
        errors: list[CNIError] = []
        for selection in selections:
            try:
                found.append(self._selected_network(pod, selection))
            except CNIError as error:
                errors.append(error)
        if errors:
            raise join(errors)
        return found

    def _selected_network(self, pod: "Pod", selection: Selection) -> Wanted:
        """A selected network, when the pod's namespace may use it."""
        allowed = (pod.namespace, *self.settings.global_namespaces)
        if self.settings.is_isolated and selection.namespace not in allowed:
            raise BadConfig(
                f"{selection.where}: network {selection.reference}: namespaceIsolation is on: "
                f"expected a network in one of the namespaces {', '.join(allowed)}"
            )
        network = self.networks.of_nad(selection.namespace, selection.name, selection.where)
        return Wanted(network, selection)

    def _default_override(self, pod: "Pod") -> Wanted | None:
        """The network of the default-network annotation, under the same policy as any other."""
        where = f"pod {pod.reference}: annotation {DEFAULT_NETWORK}"
        text = pod.annotations.get(DEFAULT_NETWORK, "")
        selections = parse(text, self.settings.multus_namespace, where)
        if len(selections) > 1:
            raise BadConfig(f"{where}: {len(selections)} networks: expected one default network")
        return self._selected_network(pod, selections[0]) if selections else None

    def _pod(self, request: Request) -> "Pod":
        """The pod of the request; one that the store does not know (yet) is no pod without networks."""
        namespace, name = request.pod_namespace, request.pod_name
        if self.world.store is None or not name:
            return Pod(namespace, name, request.pod_uid, {}, None)
        try:
            pod = pod_of(self.world.store.get(Kind.POD, namespace or "default", name))
            if not _is_same(pod, request.pod_uid):
                pod = pod_of(self.world.store.get(Kind.POD, namespace or "default", name, is_newest=True))
        except NotFound:
            if not namespace:
                return Pod("default", name, "", {}, None)
            raise TryAgainLater(f"pod {namespace}/{name}: the store does not know it (yet)") from None
        _require_same_uid(pod, request.pod_uid)
        return pod

    def _entry_for(self, request: Request) -> Entry:
        """The sandbox's entry, with nothing of this request in it."""
        try:
            entry = self.ledger.read(request.container_id)
        except DamagedEntry as error:
            aside = self.ledger.set_aside(request.container_id)
            LOG.error("%s; set aside as %s", error.message, aside)
            entry = None
        if entry is None:
            reference = f"{request.pod_namespace}/{request.pod_name}".strip("/")
            return Entry(request.container_id, reference, request.pod_uid, created_s=self.world.clock())
        if entry.of_request(request.interface):
            raise AlreadyAttached(
                f"container {request.container_id} is already attached as {request.interface}: "
                "expected a DEL first"
            )
        return entry

    def _tell(
        self, request: Request, pod: "Pod", previous: Result | None, attached: list[status.Attached]
    ) -> None:
        """Patch the pod's network-status, unless it says the same already."""
        if self.world.store is None or pod.document is None:
            return
        form = self.settings.network_status
        entries = status.network_status(previous, self.settings.name, attached, form)
        text = indented(entries)
        later = self.world.later
        if later is not None and later.is_waiting(pod.namespace, pod.name):
            later.put(_untold(request, pod, text))
            return
        if pod.annotations.get(status.NETWORK_STATUS) == text:
            return
        try:
            self._patch(self.world.store, pod, text)
        except TryAgainLater as error:
            if later is None or isinstance(error, PodGone):
                raise
            later.put(_untold(request, pod, text))
            LOG.warning("pod %s: network-status is told later: %s", pod.reference, error.message)

    def _patch(self, store: Store, pod: "Pod", text: str) -> None:
        """Patch the pod that was read, and no other one of its name; raises PodGone."""
        for tries in range(1, STATUS_TRIES + 1):
            try:
                store.patch(Kind.POD, pod.namespace, pod.name, _status_patch(pod, text), subresource="status")
                return
            except NotFound:
                raise PodGone(f"pod {pod.reference}: it was deleted while it was attached") from None
            except Conflict:
                _require_still_there(store, pod)
                if tries == STATUS_TRIES:
                    raise

    def delete(self, request: Request) -> None:
        """Undo what the ledger has of this request; no entry is success."""
        with self.ledger.locked(request.container_id, LOCK_WAIT_S):
            try:
                entry = self.ledger.read(request.container_id)
            except DamagedEntry as error:
                self.untold.drop(request.container_id, request.interface)
                raise self._salvaged(request, error) from None
            if entry is None:
                self.untold.drop(request.container_id, request.interface)
                self.ledger.remove(request.container_id)
            self.world.timeline.mark("lock")
            if entry is not None:
                errors = self._undo(entry, entry.of_request(request.interface), request.netns)
            else:
                errors = self._undo_inherited(self._asked(request))
            self.world.timeline.mark("detach")
        if errors:
            raise join(errors)

    def _undo(self, entry: Entry, records: tuple[Record, ...], path: str) -> tuple[CNIError, ...]:
        """Undo some records of an entry, and write what is left of it."""
        if not records:
            return ()
        self._tell_nobody(records)
        with Namespaces(path) as asked:
            _refuse_own(asked)
        with Namespaces(path or records[0].netns, records[0].netns_identity) as namespaces:
            left, errors = execute.undo(records, self.world.construct, namespaces)
        done = tuple(each for each in records if each not in left)
        self.ledger.write(entry.without(done))
        return errors

    def _asked(self, request: Request) -> Asked:
        return Asked(
            request.container_id, request.interface, request.netns, request.args, self._path(request)
        )

    def _found_inherited(self, asked: Asked) -> tuple[Inherited, Entry] | None:
        """What others attached of a sandbox before us; their plugins are executed, as they were then."""
        sources = [self.inherited]
        is_chained = not (self.settings.delegates or self.settings.cluster_network)
        if asked.interface and not is_chained:  # else the runtime calls the plugins before us itself
            sources.append(of_runtime(self.settings, asked.interface, self._default_names()))
        for source in sources:
            entry = source.entry(asked, lambda plugin: self.world.choose(plugin, "exec", "exec").binary)
            if entry is not None:
                return source, entry
        return None

    def _default_names(self) -> frozenset[str]:
        """What the default networks are called, as far as the node knows it by itself."""
        try:
            found = Networks(self.settings, None).defaults(is_system_pod=False)
        except CNIError:
            return frozenset()
        return frozenset(each.config.name for each in found)

    def _undo_inherited(self, asked: Asked) -> tuple[CNIError, ...]:
        """Undo what others attached of a sandbox before us; what cannot be undone stays in their records."""
        found = self._found_inherited(asked)
        if found is None:
            return ()
        source, entry = found
        LOG.info("container %s of %s was attached before us: it is detached", entry.container_id, entry.pod)
        with Namespaces(asked.netns) as namespaces:
            _refuse_own(namespaces)
            left, errors = execute.undo(entry.records, self.world.construct, namespaces)
        source.forget(asked.container_id, left)
        return errors

    def _tell_nobody(self, records: tuple[Record, ...]) -> None:
        """Of requests whose undoing was asked for."""
        for container_id, request in {(each.container_id, each.request) for each in records}:
            self.untold.drop(container_id, request)

    def _salvaged(self, request: Request, error: DamagedEntry) -> CNIError:
        """
        Undo what can be found without the entry, and report; the next DEL finds no entry.

        Where something could not be looked at, it finds the entry again.
        """
        with Namespaces(request.netns) as namespaces:
            _refuse_own(namespaces)
        removed, errors = self.world.salvage(request.container_id, request.netns)
        found = ", ".join(removed) or "nothing"
        where = "it stays for the next DEL"
        if not errors:
            where = f"it was set aside as {self.ledger.set_aside(request.container_id)}"
        told = UndoFailed(
            f"{error.message}: {where}; removed from the kernel and the stores: "
            f"{found}; what executed plugins had made is not known"
        )
        return join([told, *errors])

    def check(self, request: Request) -> None:
        """Compare every attachment of the request with what ADD left."""
        with self.ledger.locked(request.container_id, LOCK_WAIT_S), Namespaces(request.netns) as namespaces:
            _refuse_own(namespaces)
            entry = self.ledger.read(request.container_id)
            if entry is None:
                _, entry = self._found_inherited(self._asked(request)) or (None, None)
            records = entry.of_request(request.interface) if entry else ()
            if not records:
                raise UnknownContainer(
                    f"container {request.container_id} has no attachment of {request.interface} in the ledger"
                )
            try:
                execute.check(records, self.world.construct, namespaces)
            except CNIError as error:
                whose = entry.pod if entry else ""
                raise execute.prefixed(error, f"pod {whose}") if whose else error from None

    def collect_garbage(self, request: Request, valid: frozenset[tuple[str, str]]) -> None:
        """Undo every request of this network that the runtime does not list; then GC each network."""
        containers = frozenset(container_id for container_id, _ in valid)
        errors: list[CNIError] = []
        for collect in (
            partial(self._collect_own, valid),
            partial(self._collect_inherited, request, containers),
            partial(self._collect_networks, valid),  # where it is not known what lives, none
        ):
            try:
                errors.extend(collect())
            except CNIError as error:
                errors.append(error)
        if errors:
            raise join(errors)

    def _collect_own(self, valid: frozenset[tuple[str, str]]) -> list[CNIError]:
        """Undo what the ledger has and the runtime does not list."""
        errors: list[CNIError] = []
        for container_id in self.ledger.container_ids():
            try:
                with self.ledger.locked(container_id, LOCK_WAIT_S):
                    errors.extend(self._collect_one(container_id, valid))
            except CNIError as error:
                errors.append(error)
        return errors

    def _collect_one(self, container_id: str, valid: frozenset[tuple[str, str]]) -> list[CNIError]:
        entry = self.ledger.read(container_id)
        if entry is None:
            return []
        stale = tuple(
            record
            for record in entry.records
            if record.request_network == self.settings.name and (container_id, record.request) not in valid
        )
        return list(self._undo(entry, stale, ""))

    def _collect_inherited(self, request: Request, valid: frozenset[str]) -> list[CNIError]:
        """Undo what Multus attached of sandboxes that are not listed, and whose namespaces are gone."""
        errors: list[CNIError] = []
        for container_id in self.inherited.container_ids():
            if container_id in valid:
                continue
            try:
                with self.ledger.locked(container_id, LOCK_WAIT_S):
                    entry = self.inherited.entry(Asked(container_id), lambda _: "")
                    if entry is not None and all(_is_gone(each.netns) for each in entry.records):
                        asked = Asked(container_id, path=self._path(request))
                        errors.extend(self._undo_inherited(asked))
            except CNIError as error:
                errors.append(error)
        return errors

    def _collect_networks(self, valid: frozenset[tuple[str, str]]) -> list[CNIError]:
        """GC of each network that still has attachments: those are valid, and all that others may have."""
        by_network: dict[str, list[tuple[str, Record]]] = {}
        others: set[tuple[str, str]] = set(valid)
        for container_id in self.ledger.container_ids():
            try:
                entry = self.ledger.read(container_id)
            except DamagedEntry:  # that was told when it was to be collected
                others.update((container_id, each) for each in self.ledger.named_interfaces(container_id))
                continue
            for record in entry.records if entry else ():
                by_network.setdefault(record.config_name, []).append((container_id, record))
        if by_network:
            others.update(self._others())
        errors: list[CNIError] = []
        for attachments in by_network.values():
            ours = ((container_id, record.interface) for container_id, record in attachments)
            try:
                self.world.collect(attachments[-1][1], frozenset(others.union(ours)))
            except CNIError as error:
                errors.append(error)
        return errors

    def _others(self) -> Iterator[tuple[str, str]]:
        """
        (container id, interface) of attachments that are none of the ledger's and may be to its networks.

        Multus made them, or the runtime by the default network's own configuration, before we came. The
        latter it may list by the name of that network alone.
        """
        for container_id in self.inherited.container_ids():
            attached = self.inherited.attachments(container_id, "")
            yield from ((container_id, each.interface) for each in attached)
        for container_id, interface, path in of_runtime(self.settings).recorded():
            with suppress(BadNetns):  # whatever is there instead, the runtime has not undone it
                if _is_gone(path):
                    continue
            yield container_id, interface

    def status(self) -> None:
        """Raise NotAvailable (50) when an ADD could not be served now."""
        path = self.settings.readiness_file
        if path and not Path(path).exists():
            raise NotAvailable(f"readinessindicatorfile {path} does not exist: not ready")
        try:
            networks = self.networks.defaults(is_system_pod=False)
        except TryAgainLater:
            raise
        except CNIError as error:
            raise NotAvailable(error.message, error.details) from None
        for network in networks:
            for plugin in network.config.plugins:
                ready = plugin.execution({})
                self.world.status_of(ready.raw.text(), network.reference)

    def _wait_until_ready(self) -> None:
        path = self.settings.readiness_file
        waited_s = 0.0
        while path and not Path(path).exists():
            if waited_s >= READINESS_WAIT_S:
                raise TryAgainLater(
                    f"readinessindicatorfile {path} does not exist: is the default network ready?"
                )
            self.world.sleep(READINESS_POLL_S)
            waited_s += READINESS_POLL_S

    def _path(self, request: Request) -> tuple[str, ...]:
        """Where plugins are searched: our `binDir` first, then the runtime's CNI_PATH."""
        return tuple(dict.fromkeys((self.settings.bin_dir, *request.path)))


@dataclass(frozen=True, slots=True)
class Pod:
    """What the engine needs of a pod; `document` is None when no store has it."""

    namespace: str
    name: str
    uid: str
    annotations: Mapping[str, str]
    document: Mapping[str, object] | None

    @property
    def reference(self) -> str:
        """namespace/name; empty when the runtime named no pod."""
        return f"{self.namespace}/{self.name}" if self.name else ""


def _is_gone(path: str) -> bool:
    with Namespaces(path) as namespaces:
        return namespaces.is_gone


def _made(attached: list[status.Attached]) -> Iterator[Made]:
    """What has an interface or an address."""
    for each in attached:
        if each.result.interfaces or each.result.ips:
            yield Made(each.network, each.interface, tuple(str(ip.address) for ip in each.result.ips))


def _chosen(plan: Plan) -> Iterator[Chosen]:
    """What runs each plugin, and why."""
    for step in plan.steps:
        for each in step.executions:
            how = BUILT_IN if each.is_builtin else each.binary
            yield Chosen(step.network, step.interface, each.plugin.type, how, each.reason)


def pod_of(document: Mapping[str, object]) -> Pod:
    """A pod from its object."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return Pod(
        namespace=metadata.get("namespace", "default"),
        name=metadata.get("name", ""),
        uid=metadata.get("uid", ""),
        annotations=metadata.get("annotations") or {},
        document=document,
    )


def _status_patch(pod: Pod, text: str) -> dict[str, object]:
    """A merge patch; the UID in it is a condition."""
    uid = {"uid": pod.uid} if pod.uid else {}
    return {"metadata": {**uid, "annotations": {status.NETWORK_STATUS: text}}}


def _untold(request: Request, pod: Pod, text: str) -> untold.Status:
    """What the pod is to be told when its store is back."""
    patch = _status_patch(pod, text)
    return untold.Status(request.container_id, request.interface, pod.namespace, pod.name, patch)


def _require_still_there(store: Store, pod: Pod) -> None:
    """Raises PodGone when there is another pod of this name by now, or none."""
    try:
        newest = pod_of(store.get(Kind.POD, pod.namespace, pod.name, is_newest=True))
    except NotFound:
        raise PodGone(f"pod {pod.reference}: it was deleted while it was attached") from None
    if newest.uid != pod.uid:
        raise PodGone(f"pod {pod.reference}: it was replaced by {newest.uid} while it was attached")


def _is_same(pod: Pod, uid: str) -> bool:
    """
    The runtime's pod and the store's are the same one.

    The kubelet knows a static pod by its configuration's hash, its mirror in the API has a UID of
    its own; so the hashes count as well.
    """
    known = {pod.uid, pod.annotations.get(CONFIG_HASH, ""), pod.annotations.get(CONFIG_MIRROR, "")}
    is_static = pod.annotations.get(CONFIG_SOURCE, "api") != "api"
    return not uid or not pod.uid or uid in known or is_static


def _require_same_uid(pod: Pod, uid: str) -> None:
    if not _is_same(pod, uid):
        raise TryAgainLater(
            f"pod {pod.reference}: expected UID {uid}, the store has {pod.uid}: another pod of this name"
        )


def _answered(records: tuple[Record, ...], answers: Mapping[str, Result]) -> Iterator[Record]:
    """The records, with the results of those that have any by now: undoing them takes prevResult."""
    for each in records:
        found = answers.get(each.interface)
        yield each if found is None else replace(each, result=results.to_json(found, versions.NEWEST))


def _attached(records: tuple[Record, ...], done: tuple[Result, ...]) -> list[status.Attached]:
    return [
        status.Attached(
            network=record.network,
            interface=record.interface,
            is_default=record.is_default,
            result=result,
            device=record.device,
            asked_default_route=record.is_route_requested,
            device_info=device_info.read(record),
        )
        for record, result in zip(records, done, strict=True)
    ]


def _refuse_own(namespaces: Namespaces) -> None:
    """A pod's namespace is never the one we run in (code 8), before anything is touched."""
    if not namespaces.is_gone and netns.is_own(namespaces.pod_fd):
        raise BadNetns(f"CNI_NETNS {namespaces.path} is the plugin's own network namespace")
