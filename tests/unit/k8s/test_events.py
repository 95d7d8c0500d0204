"""Events: what they say, what repeats, what is too much, and an API server that is away."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from meta_cni.cni import errors
from meta_cni.cni.errors import BadConfig, CNIError, Several, TryAgainLater
from meta_cni.k8s import events
from meta_cni.k8s.events import Limits, Occurrence, PodReference, Recorder, Recorders
from meta_cni.k8s.store import AlreadyExists, Forbidden, Kind, NotFound, Object, merge_patch
from meta_cni.metrics import Made, Timeline

POD = PodReference("telco", "media-a", "0a1b")
SOON_S = 60.0


class Cluster:
    """An API server that keeps events, or raises what it is told to."""

    def __init__(self) -> None:
        self.events: dict[str, Object] = {}
        self.calls = 0
        self.error: Exception | None = None
        self.is_answering = threading.Event()
        self.is_answering.set()

    def _called(self) -> None:
        self.calls += 1
        self.is_answering.wait()
        if self.error is not None:
            raise self.error

    def create(self, kind: Kind, document: Object) -> Object:
        """Keep it."""
        assert kind is Kind.EVENT
        self._called()
        if document["metadata"]["name"] in self.events:
            raise AlreadyExists("create Event: it exists already")
        self.events[document["metadata"]["name"]] = document
        return document

    def patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Change it."""
        assert (kind, namespace) == (Kind.EVENT, POD.namespace)
        self._called()
        if name not in self.events:
            raise NotFound(f"patch Event {namespace}/{name}: there is none")
        self.events[name] = merge_patch(self.events[name], patch)
        return self.events[name]

    def told(self) -> list[tuple[str, int]]:
        """(message, count) of every event."""
        return [(each["message"], each["count"]) for each in self.events.values()]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(cluster: Cluster, clock: Clock) -> Recorder:
    limits = Limits(pauses_s=(0.001,), per_second=1000, burst=10_000)
    return Recorder(cluster, "node-1", limits, clock)  # type: ignore[arg-type]


@contextmanager
def running(recorder: Recorder) -> Iterator[None]:
    """Its thread."""
    thread = threading.Thread(target=recorder.run)
    thread.start()
    try:
        yield
    finally:
        recorder.stop()
        thread.join(SOON_S)
        assert not thread.is_alive()


def until(condition: Any) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.001)


def tell(recorder: Recorder, *occurrences: Occurrence) -> None:
    """Record them, and wait until they are dealt with."""
    recorder.record(occurrences)
    with running(recorder):
        pass
    recorder._is_over = False


def warning(message: str, pod: PodReference = POD) -> Occurrence:
    return Occurrence(pod, "Warning", "InvalidNetwork", message)


def test_an_attachment_is_told_in_multus_words():
    """People search for them, and so do their tools."""
    told = events.added(POD, "net1", ("10.10.0.2/24", "fd00:10::2/64"), "telco/signalling")

    message = "Add net1 [10.10.0.2/24 fd00:10::2/64] from telco/signalling"
    assert Occurrence(POD, "Normal", "AddedInterface", message) == told


KINDS: tuple[tuple[CNIError, str, str], ...] = (
    (errors.NetworkNotFound("no NetworkAttachmentDefinition x"), "NoNetworkFound", "Definition x"),
    (errors.BadConfig("mode 'x': expected bridge"), "InvalidNetwork", "expected bridge"),
    (errors.DecodeFailure("spec.config: no JSON"), "InvalidNetwork", "no JSON"),
    (errors.AddressesExhausted("none in 10.0.0.0/30"), "NoFreeAddress", "(expected a larger range"),
    (errors.DelegateFailed("calico: no node"), "PluginFailed", "no node (these are the words"),
    (errors.DelegateTimedOut("calico: 60 s"), "PluginTimedOut", "(delegateTimeout says"),
    (errors.ProgramFailed("run nft"), "ProgramFailed", "(it runs where"),
    (errors.KernelError("create macvlan", 17), "KernelRefused", "create macvlan: File exists"),
    (errors.NetnsGone("open c1: gone"), "NoSandbox", "gone"),
    (errors.AlreadyAttached("c1"), "AlreadyAttached", "(the runtime deletes"),
    (errors.TryAgainLater("get Pod: no answer"), "NotAttachedYet", "(the kubelet tries again)"),
    (errors.IOFailure("write ledger: No space left on device"), "NodeFailed", "No space left"),
    (errors.CNIError("a bug in meta-cni"), "FailedAttachment", "(the log of meta-cni"),
)


@pytest.mark.parametrize(("error", "reason", "text"), KINDS, ids=[type(each[0]).__name__ for each in KINDS])
def test_each_kind_of_failure_has_its_reason_and_hint(error: CNIError, reason: str, text: str):
    """Whoever reads it knows whose turn it is."""
    (told,) = events.failed(POD, "ADD", error)

    assert ("Warning", reason) == (told.type, told.reason)
    assert text in told.message


def test_several_errors_are_told_one_by_one_and_the_verb_where_it_is_not_add():
    """A pod with two bad networks and what could not be undone of it."""
    both = Several([BadConfig("net1: no mode"), errors.UndoFailed("remove eth0: Device busy")])

    told = [(each.reason, each.message) for each in events.failed(POD, "DEL", both)]

    left = "DEL: remove eth0: Device busy (what is left is undone by the next DEL or GC)"
    assert [("InvalidNetwork", "DEL: net1: no mode"), ("NotDetached", left)] == told


def test_a_message_has_an_end():
    """The API refuses longer ones; where it was cut is seen."""
    (told,) = events.failed(POD, "ADD", BadConfig("x" * 5000))

    assert (1024, "...") == (len(told.message), told.message[-3:])


def test_an_event_is_as_kubectl_wants_it(recorder: Recorder, cluster: Cluster):
    """`kubectl describe pod` finds it by the pod's UID; node and component say who tells."""
    tell(recorder, events.added(POD, "net1", ("10.10.0.2/24",), "telco/signalling"))

    ((name, event),) = cluster.events.items()
    assert name.startswith("media-a.17")
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": "telco", "name": "media-a", "uid": "0a1b"}
    assert about == event["involvedObject"]
    assert {"component": "meta-cni", "host": "node-1"} == event["source"]
    assert "2023-11-14T22:13:20Z" == event["firstTimestamp"] == event["lastTimestamp"]
    assert ("Normal", "AddedInterface", 1) == (event["type"], event["reason"], event["count"])
    assert (1, 0) == (recorder.sent, recorder.dropped.total())


def test_what_repeats_is_one_event_with_a_count(recorder: Recorder, cluster: Cluster, clock: Clock):
    """The kubelet tries a pod again and again; the server hears it every ten seconds at most."""
    for seconds in (0, 1, 1, 20, 1, 20):
        clock.now += seconds
        tell(recorder, warning("net1: no mode"))

    assert [("net1: no mode", 6)] == cluster.told()
    (event,) = cluster.events.values()
    assert event["firstTimestamp"] < event["lastTimestamp"] == "2023-11-14T22:14:03Z"
    assert 3 == cluster.calls


def test_an_event_that_the_server_forgot_is_told_anew(recorder: Recorder, cluster: Cluster, clock: Clock):
    """It keeps them for an hour; a pod may fail for longer."""
    tell(recorder, warning("net1: no mode"))
    cluster.events.clear()
    clock.now += 60
    tell(recorder, warning("net1: no mode"))

    assert [("net1: no mode", 1)] == cluster.told()


def test_similar_ones_are_combined(recorder: Recorder, cluster: Cluster, clock: Clock):
    """A text with a container's id in it is another one every time."""
    for number in range(14):
        clock.now += 11
        tell(recorder, warning(f"container c{number}"))

    assert [(f"container c{number}", 1) for number in range(10)] == cluster.told()[:10]
    assert [("(combined from similar events): container c13", 4)] == cluster.told()[10:]


def test_one_pod_does_not_speak_for_all(recorder: Recorder, cluster: Cluster):
    """What is too much of one pod is dropped and counted; the next pod is heard."""
    flood = [replace(warning(f"m{n}"), reason=f"Reason{n}") for n in range(60)]

    tell(recorder, *flood, warning("another", PodReference("telco", "media-b", "2c3d")))

    assert 26 == len(cluster.events)
    assert ("another", 1) in cluster.told()
    assert {"too many of one pod": 35} == recorder.dropped


def test_a_pod_is_heard_again_after_a_while(recorder: Recorder, cluster: Cluster, clock: Clock):
    """One more event every five minutes, and its old ones are forgotten here."""
    tell(recorder, *(replace(warning(f"m{n}"), reason=f"Reason{n}") for n in range(40)))
    clock.now += 3600
    tell(recorder, warning("later"))

    assert ("later", 1) in cluster.told()


def test_nobody_waits_and_the_queue_has_an_end(cluster: Cluster, clock: Clock):
    """An API server that does not answer costs an ADD nothing, and memory of a known size."""
    recorder = Recorder(cluster, "node-1", Limits(queue=5, pauses_s=(0.001,)), clock)  # type: ignore[arg-type]
    cluster.is_answering.clear()

    with running(recorder):
        recorder.record([warning("first")])
        until(lambda: cluster.calls)
        recorder.record(warning(f"m{n}") for n in range(8))
        waiting = recorder.waiting
        cluster.is_answering.set()
        until(lambda: not recorder.waiting)

    assert 5 == waiting
    assert {"queue full": 3} == recorder.dropped
    assert 6 == len(cluster.events)


def test_an_api_server_that_comes_back_is_told(recorder: Recorder, cluster: Cluster):
    """It was restarted."""
    cluster.error = TryAgainLater("create Event: no answer")
    with running(recorder):
        recorder.record([warning("net1: no mode")])
        until(lambda: cluster.calls > 3)
        cluster.error = None
        until(lambda: recorder.sent)

    assert [("net1: no mode", 1)] == cluster.told()
    assert 0 == recorder.dropped.total()


def test_an_api_server_that_stays_away_is_given_up(recorder: Recorder, cluster: Cluster, clock: Clock):
    """What is old helps nobody; the newer ones still have their time."""
    cluster.error = TryAgainLater("create Event: no answer")
    with running(recorder):
        recorder.record([warning("old")])
        until(lambda: cluster.calls > 1)
        clock.now += 301
        until(lambda: recorder.dropped)

    assert {"api away": 1} == recorder.dropped


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Forbidden("create Event: forbidden"), "refused"),
        (BadConfig("create Event: invalid"), "refused"),
        (NotFound("create Event: no such namespace"), "gone"),
        (errors.IOFailure("something else"), "refused"),
        (RuntimeError("a bug"), "bug"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_will_never_be_taken_is_dropped_and_the_next_one_tried(
    recorder: Recorder, cluster: Cluster, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
):
    """A role without events, a namespace on its way out: no event is worth waiting for that."""
    cluster.error = error
    tell(recorder, warning("first"), warning("second"))
    cluster.error = None
    tell(recorder, warning("third"))

    assert {reason: 2} == recorder.dropped
    assert [("third", 1)] == cluster.told()
    told = [each for each in caplog.records if each.getMessage().startswith("events are not told")]
    assert (1 if reason == "refused" else 0) == len(told)


def test_the_end_waits_a_moment_and_no_longer(cluster: Cluster):
    """What is not sent by then is counted."""
    limits = Limits(per_second=0.001, burst=1, stop_s=0.05)
    recorder = Recorder(cluster, "node-1", limits)  # type: ignore[arg-type]
    recorder.record(warning(f"m{n}") for n in range(5))

    with running(recorder):
        until(lambda: recorder.sent)

    assert {"stopped": 4} == recorder.dropped
    assert 1 == len(cluster.events)


def test_no_more_pods_are_remembered_than_there_may_be(cluster: Cluster, clock: Clock):
    """A node has hundreds at a time, and thousands over the months."""
    limits = Limits(pods=3, per_second=1000, burst=1000)
    recorder = Recorder(cluster, "node-1", limits, clock)  # type: ignore[arg-type]

    tell(recorder, *(warning("m", PodReference("telco", f"p{n}", f"{n}")) for n in range(9)))

    assert 3 == len(recorder._pods)
    assert 9 == len(cluster.events)


ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=media-a;K8S_POD_UID=0a1b"


def request(verb: str, args: str = ARGS) -> dict[str, str]:
    return {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_ARGS": args}


def made(*networks: str) -> Timeline:
    return Timeline(made=[Made(each, f"net{n}", (f"10.0.{n}.2/24",)) for n, each in enumerate(networks)])


def test_a_request_tells_of_each_network():
    """By the runtime's word of the pod where no store has it."""
    told = list(events.of_request(request("ADD"), made("cbr0", "telco/media"), None))

    messages = ["Add net0 [10.0.0.2/24] from cbr0", "Add net1 [10.0.1.2/24] from telco/media"]
    assert [(POD, each) for each in messages] == [(each.pod, each.message) for each in told]


def test_the_store_s_uid_counts():
    """A static pod has another one in the API, where its events are looked for."""
    timeline = replace(made("a", "b"), pod=("telco", "media-a", "mirror"))

    assert {"mirror"} == {each.pod.uid for each in events.of_request(request("ADD"), timeline, None)}


@pytest.mark.parametrize(
    ("variables", "timeline", "error"),
    [
        (request("ADD"), made("cbr0"), None),
        (request("DEL"), Timeline(), None),
        (request("ADD", "IgnoreUnknown=1"), made("a", "b"), None),
        (request("ADD", ""), Timeline(), BadConfig("no mode")),
        (request("STATUS"), Timeline(), BadConfig("no mode")),
        ({}, Timeline(), BadConfig("no verb")),
    ],
    ids=["default network alone", "DEL", "no pod", "no pod, failed", "STATUS", "nothing"],
)
def test_nothing_is_told_where_nobody_would_look(
    variables: dict[str, str], timeline: Timeline, error: CNIError | None
):
    """A pod without networks of ours costs no call; without a pod there is no place for it."""
    assert [] == list(events.of_request(variables, timeline, error))


def test_a_cluster_has_one_recorder(cluster: Cluster):
    """It is opened when there is something to tell, and its thread ends with it."""
    opened: list[str] = []

    def open_store(name: str) -> Any:
        opened.append(name)
        return cluster

    recorders = Recorders(open_store, "node-1")
    nothing = recorders.read()
    for number in range(3):
        recorders.record("", [warning(f"m{number}")])
    until(lambda: recorders.read()[0] == 3)
    recorders.stop()

    assert (0, 0, {}) == nothing
    assert [""] == opened
    assert (3, 0, {}) == recorders.read()
    until(lambda: "events" not in [each.name for each in threading.enumerate()])


def test_a_server_that_hangs_does_not_keep_the_daemon(cluster: Cluster):
    """The end is waited for only so long."""
    cluster.is_answering.clear()
    recorders = Recorders(lambda _: cluster, "node-1", Limits(stop_s=0.05))  # type: ignore[arg-type,return-value]
    recorders.record("", [warning("m")])
    until(lambda: cluster.calls)

    recorders.stop()

    cluster.is_answering.set()
    until(lambda: recorders.read()[0] == 1)
