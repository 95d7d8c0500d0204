"""
What requests cost and what became of them: one timeline a request, and the daemon's metrics.

A timeline is a clock that is read between steps; it costs microseconds and needs nothing. The
metrics are kept and written by prometheus_client, which is imported when there is a daemon to have
them. No label names a pod or a container: there are as many series as networks and plugins.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meta_cni.quick import quick
from meta_cni.recent import Recent

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
BUILT_IN = "built in"
HIGHEST_CODE = 999
"""A plugin may answer any number; each one more would be one more series."""
NETWORKS = 1000
"""That have series at a time, each three times some 5 kB."""
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")


@quick
@dataclass(frozen=True, slots=True)
class Ran:
    """One plugin of one attachment, as it ran."""

    network: str
    interface: str
    type: str
    verb: str
    how: str
    """BUILT_IN, or the path of what was executed."""
    seconds: float
    is_failed: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a plugin of a plan is run, and why."""

    network: str
    interface: str
    type: str
    how: str
    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """An attachment that an ADD has made."""

    network: str
    interface: str
    addresses: tuple[str, ...]
    """With their prefix lengths."""


@dataclass(slots=True)
class Timeline:
    """One request: how long its steps took, and what ran."""

    started: float = field(default_factory=time.perf_counter)
    steps_s: dict[str, float] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    """Of an ADD that has succeeded."""
    warnings: list[str] = field(default_factory=list)
    """What was asked for and is done otherwise, or not."""
    pod: tuple[str, str, str] = ("", "", "")
    """Namespace, name and UID, as the store has them."""
    cluster: str | None = None
    """The kubeconfig of the API server whose pod it is, empty for the one we are a pod of; None for none."""
    _last: float = 0.0

    def mark(self, step: str) -> None:
        """All since the last mark was this step."""
        now = time.perf_counter()
        self.steps_s[step] = self.steps_s.get(step, 0.0) + now - (self._last or self.started)
        self._last = now

    def running(self, network: str, interface: str, plugin_type: str, verb: str, how: str) -> "Running":
        """One call of a delegate; several may run at the same time."""
        return Running(self.ran, (network, interface, plugin_type, verb, how))

    @property
    def seconds(self) -> float:
        """From when the request came to the last mark."""
        return (self._last or time.perf_counter()) - self.started


class Running:
    """One call of a delegate, told when it ends; as a generator it would cost three times as much."""

    __slots__ = ("_ran", "_started", "_what")

    def __init__(self, ran: list[Ran], what: tuple[str, str, str, str, str]) -> None:
        """`what` is how a Ran begins."""
        self._ran = ran
        self._what = what

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        self._ran.append(Ran(*self._what, seconds, failure is not None))


@dataclass(frozen=True, slots=True)
class Reading:
    """A value that is looked up when somebody asks for the metrics."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    is_counter: bool = False


class Metrics:
    """The metrics of a daemon."""

    def __init__(self, read: Callable[[], Iterable[Reading]] = tuple) -> None:
        """`read` looks up everything that is not counted here; it may raise nothing."""
        from prometheus_client import CollectorRegistry, Counter, Histogram  # noqa: PLC0415 - 60 ms to import

        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "meta_cni_request_duration_seconds",
            "From the call's arrival at a worker to its answer",
            ["verb"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._networks = Histogram(
            "meta_cni_network_duration_seconds",
            "All plugins of one network for one pod",
            ["network", "verb"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._delegates = Histogram(
            "meta_cni_delegate_duration_seconds",
            "One call of one plugin",
            ["type", "verb", "how"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._errors = Counter(
            "meta_cni_errors",
            "Answers that were errors, by CNI error code",
            ["verb", "code"],
            registry=self._registry,
        )
        self._told: Recent[str, None] = Recent(NETWORKS, self._forget)
        """The networks that have series."""
        self._registry.register(_Readings(read))

    def observe(self, verb: str, timeline: Timeline, code: int) -> None:
        """Count one answered request; `code` is the CNI error code, 0 for success."""
        verb = verb if verb in VERBS else "other"
        self._requests.labels(verb).observe(timeline.seconds)
        if code:
            self._errors.labels(verb, str(code) if 0 < code <= HIGHEST_CODE else "other").inc()
        by_network: dict[tuple[str, str, str], float] = {}
        for each in timeline.ran:
            how = each.how if each.how == BUILT_IN else "executed"
            self._delegates.labels(each.type, each.verb, how).observe(each.seconds)
            key = (each.network, each.interface, each.verb)
            by_network[key] = by_network.get(key, 0.0) + each.seconds
        for (network, _, ran), seconds in by_network.items():
            self._told.put(network, None)
            self._networks.labels(network, ran).observe(seconds)

    def _forget(self, network: str) -> None:
        """Networks come and go; their series would stay for as long as the daemon."""
        for verb in VERBS:
            self._networks.remove(network, verb)

    def exposed(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        return generate_latest(self._registry)


class _Readings:
    """What is looked up, as the library wants it."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def describe(self) -> "Iterable[Metric]":
        """Nothing: looking it up when the library is told of it would be too early."""
        return ()

    def collect(self) -> "Iterator[Metric]":
        """One family a name."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for each in self._read():
            if each.name not in families:
                kind = CounterMetricFamily if each.is_counter else GaugeMetricFamily
                families[each.name] = kind(each.name, each.help, labels=list(each.labels))
            families[each.name].add_metric(list(each.labels.values()), each.value)
        yield from families.values()
