"""
Kubernetes events: what was attached to a pod, and why something was not.

Who looks at a pod that does not start finds them beside the kubelet's; our log is on the node. Nobody
waits for them: they are kept in a queue that has an end, sent by a thread of their own, and what
cannot be sent is counted. What repeats is one event with a count, as client-go's correlator has it:
the kubelet tries a pod that fails again and again, and an API server that is in trouble is not to hear
more from us than from anybody else.
"""

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat

from meta_cni.cni import errors
from meta_cni.cni.errors import CNIError, TryAgainLater
from meta_cni.k8s.store import AlreadyExists, Forbidden, Kind, NotFound, Object, Store
from meta_cni.metrics import Timeline

VERBS = ("ADD", "DEL", "CHECK")
COMPONENT = "meta-cni"
NORMAL, WARNING = "Normal", "Warning"
ADDED = "AddedInterface"  # reason and text are those of Multus, which people search for
LONGEST_MESSAGE = 1024  # of a note in events.k8s.io/v1
LONGEST_NAME = 253  # of an object
COMBINED = "(combined from similar events): "  # as client-go writes it
LOG = logging.getLogger("meta_cni")

FAILURES: tuple[tuple[type[CNIError], str, str], ...] = (
    (errors.NetworkNotFound, "NoNetworkFound", ""),
    (errors.AlreadyAttached, "AlreadyAttached", "the runtime deletes the sandbox, and tries again"),
    (errors.BadConfig, "InvalidNetwork", ""),
    (errors.IncompatibleVersion, "InvalidNetwork", ""),
    (errors.UnsupportedField, "InvalidNetwork", ""),
    (errors.DecodeFailure, "InvalidNetwork", ""),
    (errors.AddressesExhausted, "NoFreeAddress", "expected a larger range, or fewer pods"),
    (errors.DelegateTimedOut, "PluginTimedOut", "delegateTimeout says how long it may take"),
    (errors.DelegateFailed, "PluginFailed", "these are the words of the plugin that was executed"),
    (errors.ProgramFailed, "ProgramFailed", "it runs where meta-cni's daemon does"),
    (errors.KernelError, "KernelRefused", ""),
    (errors.CheckFailed, "CheckFailed", "the pod is not as it was attached: delete it, and it is made anew"),
    (errors.UndoFailed, "NotDetached", "what is left is undone by the next DEL or GC"),
    (errors.DamagedEntry, "NotDetached", "the log of meta-cni on the node tells what was found"),
    (TryAgainLater, "NotAttachedYet", "the kubelet tries again"),
    (errors.BadNetns, "NoSandbox", "the kubelet makes another one"),
    (errors.IOFailure, "NodeFailed", "expected the node's disk to be looked at"),
)
"""Error class -> reason, and what the error itself does not say; the first that fits counts."""
OTHER = ("FailedAttachment", "the log of meta-cni on the node tells more")


@dataclass(frozen=True, slots=True)
class PodReference:
    """Whose event it is."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something to tell of a pod."""

    pod: PodReference
    type: str
    reason: str
    message: str


def added(pod: PodReference, interface: str, addresses: Sequence[str], network: str) -> Occurrence:
    """An attachment was made."""
    return Occurrence(pod, NORMAL, ADDED, f"Add {interface} [{' '.join(addresses)}] from {network}")


def failed(pod: PodReference, verb: str, error: CNIError) -> Iterator[Occurrence]:
    """Each error of a request, as a kind of its own with the hint."""
    for each in getattr(error, "errors", (error,)):
        reason, hint = _kind_of(each)
        told = each.message if verb == "ADD" else f"{verb}: {each.message}"
        yield Occurrence(pod, WARNING, reason, _cut(f"{told} ({hint})" if hint else told, LONGEST_MESSAGE))


def of_request(
    variables: Mapping[str, str], timeline: Timeline, error: CNIError | None
) -> Iterator[Occurrence]:
    """
    What somebody who looks at the pod should know of a request.

    A pod that has its default network alone is told nothing: no network of ours is worth a call of the API.
    """
    given = dict(each.partition("=")[::2] for each in variables.get("CNI_ARGS", "").split(";"))
    asked = [given.get(f"K8S_POD_{key}", "") for key in ("NAMESPACE", "NAME", "UID")]
    pod = PodReference(*(timeline.pod if timeline.pod[1] else asked))
    verb = variables.get("CNI_COMMAND", "")
    if not pod.name or not pod.namespace:
        return
    if error is not None and verb in VERBS:
        yield from failed(pod, verb, error)
    elif len(timeline.made) > 1:
        yield from (added(pod, each.interface, each.addresses, each.network) for each in timeline.made)


def _kind_of(error: CNIError) -> tuple[str, str]:
    return next(((reason, hint) for known, reason, hint in FAILURES if isinstance(error, known)), OTHER)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is told."""

    queue: int = 4096
    """Occurrences that wait."""
    per_second: float = 25.0
    """Calls of the API in the long run; a node with a hundred pods starting has four hundred events."""
    burst: int = 100
    pod_burst: int = 25  # client-go's, as is the next one
    pod_every_s: float = 300.0
    """One more event for a pod that has used up its burst."""
    repeat_s: float = 10.0
    """An event that repeats is counted here, and told the server no more often."""
    similar: int = 10  # client-go's, as is the next one
    """Different messages with one reason for one pod; more are combined."""
    remembered_s: float = 600.0
    keep_s: float = 300.0
    """How long an occurrence waits for an API server that is away."""
    pauses_s: tuple[float, ...] = (1, 2, 5, 10, 30)
    """After tries that failed."""
    stop_s: float = 2.0
    """For what is left when the daemon ends."""
    pods: int = 2048
    """Remembered at most."""


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time."""

    tokens: float
    filled_s: float

    def take(self, now: float, burst: int, per_second: float) -> bool:
        """One of them, when there is one."""
        self.tokens = min(burst, self.tokens + (now - self.filled_s) * per_second)
        self.filled_s = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class Told:
    """An event that the server has."""

    name: str
    first_s: float
    sent_s: float
    count: int


@dataclass(slots=True)
class Memory:
    """What was told of a pod."""

    bucket: Bucket
    seen_s: float
    events: dict[tuple[str, str], Told] = field(default_factory=dict)
    """(reason, message) -> event."""
    messages: Counter[str] = field(default_factory=Counter)
    """Reason -> how many different ones."""


class Recorder:
    """Tells an API server what occurs, behind everything else."""

    def __init__(
        self,
        store: Store,
        host: str,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`host` is the node's name."""
        self.store = store
        self.host = host
        self.limits = limits or Limits()
        self.clock = clock
        self.sent = 0
        """Calls that the server took."""
        self.dropped: Counter[str] = Counter()
        """Occurrences that were not told, by the reason."""
        self._queue: deque[tuple[float, Occurrence]] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._pods: OrderedDict[PodReference, Memory] = OrderedDict()
        self._bucket = Bucket(self.limits.burst, clock())
        self._is_refused = False
        self._made = 0

    def record(self, occurrences: Iterable[Occurrence]) -> None:
        """Keep them until they are sent; never waits, and never raises."""
        with self._changed:
            for each in occurrences:
                if len(self._queue) >= self.limits.queue:
                    self.dropped["queue full"] += 1
                else:
                    self._queue.append((self.clock(), each))
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many are still to be sent."""
        return len(self._queue)

    def stop(self) -> None:
        """Let run() end, when what is left was sent or a moment is over."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def run(self) -> None:
        """Send what comes, until stop()."""
        while (taken := self._next()) is not None:
            since, occurrence = taken
            try:
                self._send_patiently(since, occurrence)
            except Exception:  # a thread that dies is never replaced
                LOG.exception("a bug in meta-cni")
                self.dropped["bug"] += 1
        with self._changed:
            if self._queue:
                self.dropped["stopped"] += len(self._queue)
            self._queue.clear()

    def _next(self) -> tuple[float, Occurrence] | None:
        """The next one, at the pace that is allowed; None when it is over."""
        with self._changed:
            while not self._queue:
                if self._is_over:
                    return None
                self._changed.wait()
        if not self._pace():
            return None
        with self._changed:
            return self._queue.popleft()

    def _pace(self) -> bool:
        """Wait for a token; is there one in time?"""
        deadline: float | None = None
        while not self._bucket.take(self.clock(), self.limits.burst, self.limits.per_second):
            if self._is_over and deadline is None:
                deadline = self.clock() + self.limits.stop_s
            if deadline is not None and self.clock() > deadline:
                return False
            self._pause(1 / self.limits.per_second)
        return True

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, seconds)

    def _send_patiently(self, since: float, occurrence: Occurrence) -> None:
        """An API server that is away is waited for, not for ever."""
        for pause_s in chain(self.limits.pauses_s, repeat(self.limits.pauses_s[-1])):
            try:
                self._send(occurrence)
            except (Forbidden, AlreadyExists, errors.BadConfig) as error:
                self._refused(error)
            except NotFound:
                self.dropped["gone"] += 1  # the namespace
            except TryAgainLater:
                if not self._is_over and self.clock() - since < self.limits.keep_s:
                    self._pause(pause_s)
                    continue
                self.dropped["api away"] += 1
            except CNIError as error:
                self._refused(error)
            return

    def _refused(self, error: CNIError) -> None:
        self.dropped["refused"] += 1
        if not self._is_refused:
            LOG.warning("events are not told: %s", error.message)
        self._is_refused = True

    def _send(self, occurrence: Occurrence) -> None:
        """Tell the server, unless it is too much; raises what the store raises, and then nothing changed."""
        now = self.clock()
        memory = self._memory_of(occurrence.pod, now)
        key = occurrence.reason, occurrence.message
        message = occurrence.message
        if key not in memory.events and memory.messages[occurrence.reason] >= self.limits.similar:
            key = occurrence.reason, COMBINED
            message = _cut(f"{COMBINED}{occurrence.message}", LONGEST_MESSAGE)
        told = memory.events.get(key)
        if told is None:
            self._create(memory, key, occurrence, message, now)
        elif now - told.sent_s < self.limits.repeat_s:
            told.count += 1
        else:
            self._repeat(memory, key, occurrence, message, now)

    def _memory_of(self, pod: PodReference, now: float) -> Memory:
        known = self._pods.pop(pod, None)
        if known is None or now - known.seen_s > self.limits.remembered_s:
            bucket = known.bucket if known else Bucket(self.limits.pod_burst, now)
            known = Memory(bucket, now)
        known.seen_s = now
        self._pods[pod] = known
        while len(self._pods) > self.limits.pods:
            self._pods.popitem(last=False)
        return known

    def _create(
        self, memory: Memory, key: tuple[str, str], occurrence: Occurrence, message: str, now: float
    ) -> None:
        if not memory.bucket.take(now, self.limits.pod_burst, 1 / self.limits.pod_every_s):
            self.dropped["too many of one pod"] += 1
            return
        self._made += 1
        name = f"{_cut_name(occurrence.pod.name)}.{int(now * 1e9) + self._made:x}"
        try:
            self.store.create(Kind.EVENT, self._document(name, occurrence, message, now))
        except CNIError:
            memory.bucket.tokens += 1
            raise
        memory.events[key] = Told(name, now, now, 1)
        memory.messages[occurrence.reason] += 1
        self._is_told()

    def _repeat(
        self, memory: Memory, key: tuple[str, str], occurrence: Occurrence, message: str, now: float
    ) -> None:
        told = memory.events[key]
        patch = {"count": told.count + 1, "lastTimestamp": _time(now), "message": message}
        try:
            self.store.patch(Kind.EVENT, occurrence.pod.namespace, told.name, patch)
        except NotFound:  # the server forgets events, after an hour
            del memory.events[key]
            self._create(memory, key, occurrence, message, now)
            return
        told.count += 1
        told.sent_s = now
        self._is_told()

    def _is_told(self) -> None:
        self.sent += 1
        self._is_refused = False

    def _document(self, name: str, occurrence: Occurrence, message: str, now: float) -> Object:
        pod = occurrence.pod
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                **({"uid": pod.uid} if pod.uid else {}),
            },
            "type": occurrence.type,
            "reason": occurrence.reason,
            "message": message,
            "source": {"component": COMPONENT, "host": self.host},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.host,
            "firstTimestamp": _time(now),
            "lastTimestamp": _time(now),
            "count": 1,
        }


class Recorders:
    """A recorder for each cluster whose pods come here: one, as a rule; may be used by several threads."""

    def __init__(self, open_store: Callable[[str], Store], host: str, limits: Limits | None = None) -> None:
        """`open_store` takes what a timeline has as its cluster."""
        self._open_store = open_store
        self._host = host
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Recorder, threading.Thread]] = {}

    def record(self, cluster: str, occurrences: Sequence[Occurrence]) -> None:
        """Keep them until they are sent there; never waits for anybody."""
        with self._lock:
            known = self._known.get(cluster)
            if known is None:
                recorder = Recorder(self._open_store(cluster), self._host, self._limits)
                thread = threading.Thread(target=recorder.run, name="events", daemon=True)
                thread.start()
                known = self._known[cluster] = recorder, thread
        known[0].record(occurrences)

    def stop(self) -> None:
        """Send what is left for a moment; a call that is on its way is not waited for."""
        with self._lock:
            known = list(self._known.values())
        for recorder, _ in known:
            recorder.stop()
        deadline = time.monotonic() + self._limits.stop_s
        for _, thread in known:
            thread.join(max(0.0, deadline - time.monotonic()))

    def read(self) -> tuple[int, int, Counter[str]]:
        """Calls that servers took, occurrences that wait, and those that were dropped, by the reason."""
        with self._lock:
            known = [recorder for recorder, _ in self._known.values()]
        dropped: Counter[str] = Counter()
        for each in known:
            dropped.update(dict(each.dropped))
        return sum(each.sent for each in known), sum(each.waiting for each in known), dropped


def _cut_name(name: str) -> str:
    """What leaves room for the time behind it."""
    return name[: LONGEST_NAME - 17].rstrip(".-")


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
