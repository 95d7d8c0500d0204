"""
The daemon of a node: the server, its spool, what it tells, and what is generated beside.

Above everything that serves a request, because it is made of one more part: the process that stays.
"""

import gc
import logging
import os
import platform
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import delegates
from meta_cni import __version__, compose, invoke
from meta_cni import settings as settings_table
from meta_cni.cni.config import NetworkConfig, RawObject
from meta_cni.cni.errors import CNIError
from meta_cni.cni.request import Request
from meta_cni.daemon import http
from meta_cni.daemon.configuration import Generator, Options
from meta_cni.daemon.log import FIELDS, JSONLines, fields_of
from meta_cni.daemon.server import Errand, Limits, Server, own_directory
from meta_cni.daemon.spool import Spool
from meta_cni.daemon.wire import Call
from meta_cni.engine.census import Census, Count
from meta_cni.engine.ledger import Ledger
from meta_cni.ipam import host_local
from meta_cni.k8s import events
from meta_cni.k8s.api_store import ApiStore
from meta_cni.linux import memory, namespaces, process
from meta_cni.logs import LEVELS, log_to
from meta_cni.metrics import Metrics, Reading, Timeline
from meta_cni.settings import Settings

DAEMON = "META_CNI_DAEMON"
"""Set for what a daemon executes: the directory of its socket, so that the next one there knows it."""
ORPHANS_DEADLINE_S = 5.0
ARENAS = 2
"""Of memory; threads wait for the interpreter, not for these."""
RELIEF = 32
"""Workers more, while plugins hang."""
DESCRIPTORS = 32
"""What a worker has open at most: sockets, namespaces, locks, files, a plugin's pipes."""
SPARE_DESCRIPTORS = 64
FEWEST_CONNECTIONS = 8
LOG = logging.getLogger("meta_cni")
Told = tuple[Mapping[str, str], Timeline, CNIError | None]
"""One request that was served."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    socket: Path
    spool: Path
    log_level: str
    workers: int
    queue: int
    http: str = ""
    """ADDRESS:PORT of metrics and probes; empty for none."""
    options: Options | None = None
    """How our configuration is generated; None when it is not."""


def run(wanted: Wanted) -> bool:
    """
    Serve the shims of a node until SIGTERM or SIGINT; returns whether everything was done by then.

    What waits in the spool is done before anybody is served. Raises BadConfig; IOFailure when the
    socket is served already, or is not in a directory of our own. A port that is not free is waited for.
    """
    memory.use_arenas(ARENAS)
    _log_as_json(wanted)
    for plugin_type in delegates.BUILTIN:
        delegates.load(plugin_type)
    node = Node(wanted)
    gc.collect()
    gc.freeze()  # what is there by now stays, and need not be looked at again
    return node.run()


class Node:
    """A daemon with all that belongs to it."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.metrics = Metrics(self.readings)
        self.recorders = events.Recorders(lambda cluster: ApiStore(self.memory.server(cluster)), node_name())
        self._untold = threading.local()
        root = wanted.options.root if wanted.options else ""
        self.memory = compose.Memory(is_remembering=True, root=root, tell=self.tell, node=node_name())
        self._censuses: dict[str, Census] = {}
        """Of the ledgers of all state directories so far."""
        self.spool = Spool(wanted.spool)
        self.generator = generator_of(wanted.options) if wanted.options else None
        found = own_directory(wanted.socket.parent)
        mark = f"{found.st_dev}:{found.st_ino}"
        self._handle = partial(_handle, marks={DAEMON: mark}, memory=self.memory)
        limits = Limits(
            workers=wanted.workers,
            relief=RELIEF,
            queue=wanted.queue,
            connections=_connections(wanted.workers, wanted.queue),
        )
        self.server = Server(
            wanted.socket,
            partial(self.spool.serve, handle=self._handle),
            limits,
            prepare=partial(_clear_up, self.spool, f"{DAEMON}={mark}"),
            errands=self._errands,
            ready=self._tell_late,
            finish=self._finish,
        )

    def _errands(self) -> list[Errand]:
        """What waits in the spool."""
        due = self.spool.due()
        return [Errand(each, partial(self.spool.settle, mine, self._handle)) for each, mine in due.items()]

    def run(self) -> bool:
        """Until a signal comes."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.server.stop())
        with ExitStack() as stack:
            stack.callback(self.recorders.stop)
            stack.callback(self.memory.stop)
            self._follow()
            if self.wanted.http:
                pages = http.Pages(self.metrics.exposed, lambda: self.server.is_alive, self.problems)
                stack.enter_context(http.serving(self.wanted.http, pages))
            if self.generator is not None:
                over = threading.Event()
                generating = threading.Thread(target=self.generator.run, args=(over,), name="configuration")
                generating.start()
                stack.callback(generating.join)
                stack.callback(over.set)
            return self.server.run()

    def _follow(self) -> None:
        """The cluster of our own configuration, before the first request of a pod comes."""
        if self.wanted.options is None:
            return
        cluster = compose.cluster_of(_settings_of(self.wanted.options))
        if cluster is not None:
            self.memory.follow(cluster)

    def _tell_late(self) -> None:
        """What the daemon before this one could not; what has a DEL in the spool is gone by now."""
        if self.wanted.options is None:
            return
        settings = _settings_of(self.wanted.options)
        cluster = compose.cluster_of(settings)
        if cluster is not None:
            self.memory.late(cluster, settings.cni_dir)

    def tell(self, variables: Mapping[str, str], timeline: Timeline, error: CNIError | None) -> None:
        """Keep it until the caller has his answer."""
        self._untold.__dict__.setdefault("calls", []).append((variables, timeline, error))

    def _finish(self) -> None:
        """Do what this thread has put off, and tell of what it has done."""
        namespaces.catch_up()
        calls = self._untold.__dict__.pop("calls", [])
        for each in calls:
            self._log(*each)
        self._tell_cluster(calls)

    def _tell_cluster(self, calls: list[Told]) -> None:
        """Events of the pods; an ADD that was undone at once is none."""
        deleted = {each.get("CNI_CONTAINERID") for each, _, _ in calls if each.get("CNI_COMMAND") == "DEL"}
        for variables, timeline, error in calls:
            is_undone = variables.get("CNI_COMMAND") == "ADD" and variables.get("CNI_CONTAINERID") in deleted
            if timeline.cluster is None or (is_undone and error is None):
                continue
            occurrences = list(events.of_request(variables, timeline, error))
            if occurrences:
                self.recorders.record(timeline.cluster, occurrences)

    def _log(self, variables: Mapping[str, str], timeline: Timeline, error: CNIError | None) -> None:
        """One line in the log, and the metrics."""
        fields = fields_of(variables, timeline, error)
        level = logging.ERROR if error else logging.INFO
        LOG.log(level, "%s %s", fields["verb"], error or "is done", extra={FIELDS: fields})
        self.metrics.observe(fields["verb"], timeline, fields["code"])

    def problems(self) -> list[str]:
        """Why the node is not ready, a line each."""
        found = self.server.problems()
        if self.generator is not None and self.generator.problem():
            found.append(self.generator.problem())
        found.extend(filter(None, (each.problem() for each in self.memory.kubelets.copy().values())))
        for following in self.memory.clusters():
            found.extend(following.problems())
        return found + [
            f"write the ledger in {each}: expected a directory that can be written"
            for each in self._state_directories()
            if os.path.isdir(each) and not os.access(each, os.W_OK)
        ]

    def _state_directories(self) -> list[str]:
        own = {self.wanted.options.cni_dir} if self.wanted.options else set()
        return sorted(own | self.memory.state_directories)

    def readings(self) -> Iterator[Reading]:
        """What is looked up when somebody asks."""
        server, queue = self.server, self.server.queue
        build = {"version": __version__, "python": platform.python_version()}
        yield Reading("meta_cni_build_info", "What runs here", 1, build)
        yield Reading("meta_cni_queue_length", "Calls that wait for a worker", queue.waiting)
        yield Reading("meta_cni_requests_in_flight", "Calls that workers serve", queue.in_work)
        yield Reading("meta_cni_workers", "Workers, those for relief among them", server.workers)
        refused = "Calls that did not fit into the queue"
        yield Reading("meta_cni_calls_refused", refused, server.refused, is_counter=True)
        gone = "Callers who did not wait for their answer"
        yield Reading("meta_cni_callers_gone", gone, server.gone, is_counter=True)
        undone = "ADDs undone because their callers did not wait"
        yield Reading("meta_cni_adds_undone", undone, server.undone, is_counter=True)
        tries = "Tries of DELs in the spool that failed"
        yield Reading("meta_cni_spool_failures", tries, self.spool.failures, is_counter=True)
        with suppress(CNIError):
            waiting = self.spool.waiting()
            yield Reading("meta_cni_spool_entries", "DELs that wait in the spool", len(waiting))
            failing = sum(1 for each in waiting if each.pause_s)
            yield Reading("meta_cni_spool_failing_entries", "DELs in the spool that failed", failing)
        kubelets = self.memory.kubelets.copy().values()
        asked = "Pods whose devices the kubelet was asked for"
        questions = sum(each.questions for each in kubelets)
        yield Reading("meta_cni_kubelet_questions", asked, questions, is_counter=True)
        unanswered = "Those of them that it gave no answer for, whatever its checkpoint said"
        failures = sum(each.failures for each in kubelets)
        yield Reading("meta_cni_kubelet_failures", unanswered, failures, is_counter=True)
        yield from self._cluster_readings()
        yield from self._event_readings()
        yield from self._ledger_readings()
        yield from self._pool_readings()

    def _cluster_readings(self) -> Iterator[Reading]:
        """Of the API server: one, as a rule."""
        calls: Counter[tuple[str, str, str]] = Counter()
        for following in self.memory.clusters():
            calls.update(following.server.tally.read())
            for kind, informer in following.informers.items():
                labels = {"resource": kind.value.plural}
                text = "Objects that are kept of an API server"
                yield Reading("meta_cni_informer_objects", text, len(informer), labels)
                text = "Is what is kept as the API server has it, as far as we know"
                yield Reading("meta_cni_informer_is_well", text, int(not informer.problem()), labels)
                text = "Times that everything was listed"
                yield Reading("meta_cni_informer_lists", text, informer.lists, labels, is_counter=True)
        if late := self.memory.late_statuses():
            text = "Pods whose network-status waits for the API server"
            yield Reading("meta_cni_late_statuses", text, sum(each.waiting for each in late))
        for (verb, plural, code), count in calls.items():
            labels = {"verb": verb, "resource": plural, "code": code}
            text = "Calls of the API server, by HTTP status code"
            yield Reading("meta_cni_api_calls", text, count, labels, is_counter=True)

    def _event_readings(self) -> Iterator[Reading]:
        sent, waiting, dropped = self.recorders.read()
        taken = "Calls of the API server for events that it took"
        yield Reading("meta_cni_events_sent", taken, sent, is_counter=True)
        yield Reading("meta_cni_events_waiting", "Events that are still to be sent", waiting)
        for reason, count in dropped.items():
            labels = {"reason": reason}
            text = "Events that were not sent"
            yield Reading("meta_cni_events_dropped", text, count, labels, is_counter=True)

    def _ledger_readings(self) -> Iterator[Reading]:
        found: list[Count] = []
        for each in self._state_directories():
            made = Census(Ledger(Path(each) / "ledger"), self.memory.learn_entry)
            with suppress(CNIError, OSError):
                found.append(self._censuses.setdefault(each, made).count())
        entries = sum(each.entries for each in found)
        yield Reading("meta_cni_ledger_entries", "Sandboxes with attachments", entries)
        incomplete = sum(each.incomplete for each in found)
        text = "Entries with an attachment that is being made, or could not be undone"
        yield Reading("meta_cni_ledger_incomplete_entries", text, incomplete)
        damaged = sum(each.damaged for each in found)
        yield Reading("meta_cni_ledger_damaged_entries", "Entries that cannot be trusted", damaged)

    def _pool_readings(self) -> Iterator[Reading]:
        """Of every host-local network in the ledger, or named by a request; a range is told once."""
        free: dict[tuple[str, str], int] = {}
        used: dict[tuple[str, str], int] = {}
        for (network, _), options in sorted(self.memory.pools.items(), key=lambda each: each[0]):
            with suppress(CNIError):
                for each in host_local.usage(options):
                    key = network, each.name
                    free[key] = free.get(key, 0) + each.free
                    used[key] = used.get(key, 0) + each.used
        for (network, name), count in used.items():
            labels = {"network": network, "range": name}
            yield Reading("meta_cni_pool_used_addresses", "Addresses that are taken", count, labels)
            could = free[network, name]
            yield Reading("meta_cni_pool_free_addresses", "Addresses that can be had", could, labels)


def node_name() -> str:
    """As Kubernetes knows it, where the manifest says so."""
    environment = os.environ
    return environment.get("NODE_NAME") or environment.get("MULTUS_NODE_NAME") or os.uname().nodename


def _log_as_json(wanted: Wanted) -> None:
    """To standard error, and to the `logFile` of the daemon's own file."""
    LOG.setLevel(LEVELS[wanted.log_level])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.getLogger().addHandler(handler)
    if wanted.options is not None:
        _log_as(wanted.options, wanted.log_level)


def generator_of(options: Options) -> Generator:
    """What keeps our configuration as it should be; it knows the node's plugins."""
    if options.ignored:
        LOG.warning("keys of Multus' server that have no effect: %s", ", ".join(options.ignored))
    path = (options.bin_dir,)
    request = Request("STATUS", "", "", "", {}, path, os.environ, b"")
    ask = partial(
        compose.status_of, path=path, request=request, settings=_settings_of(options), root=options.root
    )

    def is_own(plugin_type: str) -> bool:
        return compose.is_ourselves(os.path.join(options.bin_dir, plugin_type))

    def status(network: NetworkConfig) -> None:
        for plugin in network.plugins:
            ask(plugin.execution({}).raw.text(), network.name)

    return Generator(options, is_own, status)


def _settings_of(options: Options) -> Settings:
    return settings_table.parse(RawObject.of(options.merged).values(), ())[0]


def _log_as(options: Options, log_level: str) -> None:
    """The daemon logs into the `logFile` of its own file, too."""
    settings = _settings_of(options)
    if settings.log_file:
        log_to(replace(settings, log_level=log_level), JSONLines())


def _connections(workers: int, queue: int) -> int:
    """How many callers there may be, so that workers have descriptors left; the limit is raised for them."""
    kept = DESCRIPTORS * (workers + RELIEF) + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = kept + queue + SPARE_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(FEWEST_CONNECTIONS, min(soft, wanted) - kept)


def _handle(call: Call, marks: Mapping[str, str], memory: compose.Memory) -> tuple[bytes, int]:
    """Do a call; what nobody waits for is done when _finish() is called."""
    namespaces.put_off()
    return compose.serve({**call.variables, **marks}, call.stdin, memory)


def _clear_up(kept: Spool, variable: str) -> None:
    """End the plugins of a daemon that was killed, before anything that they do is undone."""
    for pid in process.end_left(variable, invoke.STDIN_LINK, ORPHANS_DEADLINE_S):
        LOG.warning("process %d of a daemon that was killed was still running: it is ended", pid)
    kept.clear_unfinished()
