"""Informers: what they keep, through everything that may happen to a watch and to its server."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.cached_store import NODE, CachedStore, Following
from meta_cni.k8s.informer import Informer, trimmed
from meta_cni.k8s.store import EVERY, Event, Expired, Kind, NotFound, NotServed, Object, Selector
from tests.k8s.stand_in import StandIn

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
SOON_S = 120.0
QUICK_S = (0.02,)


def until(condition: Callable[[], object]) -> None:
    """Wait for what comes soon."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


@contextmanager
def running(informer: Informer, server: Server | None = None) -> Iterator[Informer]:
    """On a thread of its own, as the daemon has it."""
    over = threading.Event()
    thread = threading.Thread(target=informer.run, args=(over,))
    thread.start()
    try:
        yield informer
    finally:
        over.set()
        ended(thread, server)


def ended(thread: threading.Thread, server: Server | None) -> None:
    """Wait for an informer that is over; its watch may be opened this moment."""
    deadline = time.monotonic() + SOON_S
    while thread.is_alive():
        assert time.monotonic() < deadline, "it does not end"
        if server is not None:
            server.end_watches()
        thread.join(0.02)


@pytest.fixture
def informer(store: ApiStore, stand_in: StandIn) -> Iterator[Informer]:
    """Of all networks, with one there, synced."""
    stand_in.put(NAD, network("first"))
    with running(Informer(store, NAD, pauses_s=QUICK_S), store.server) as made:
        assert made.wait_until_synced(SOON_S)
        yield made


def network(name: str, config: str = "{}") -> Object:
    """A network of the namespace telco."""
    return {"metadata": {"name": name, "namespace": "telco"}, "spec": {"config": config}}


def config_of(informer: Informer, name: str) -> str | None:
    """As it is kept."""
    found = informer.find("telco", name)
    return None if found is None else found["spec"]["config"]


def test_it_keeps_what_is_there_what_comes_what_changes_and_what_goes(informer: Informer, stand_in: StandIn):
    """One list, then changes."""
    assert "{}" == config_of(informer, "first")

    stand_in.put(NAD, network("second"))
    until(lambda: config_of(informer, "second") == "{}")
    stand_in.put(NAD, network("second", '{"a": 1}'))
    until(lambda: config_of(informer, "second") == '{"a": 1}')
    stand_in.objects.delete(NAD.value, "telco", "second", None)
    until(lambda: config_of(informer, "second") is None)

    assert (1, 1, "") == (len(informer), informer.lists, informer.problem())


def test_a_watch_that_is_cut_goes_on_where_it_was(informer: Informer, stand_in: StandIn):
    """Without a second list: a server that loses all watches at once is not to be asked for everything."""
    until(lambda: stand_in.watches)
    stand_in.cut_watches()
    stand_in.put(NAD, network("second"))

    until(lambda: config_of(informer, "second"))

    assert 1 == informer.lists


def test_changes_that_are_forgotten_are_made_up_for_by_a_list(informer: Informer, stand_in: StandIn):
    """410: what went in between is not kept for ever."""
    stand_in.stop()
    stand_in.objects.delete(NAD.value, "telco", "first", None)
    stand_in.put(NAD, network("second"))
    stand_in.objects.compact()
    stand_in.start()

    until(lambda: config_of(informer, "second"))

    assert (None, 2) == (config_of(informer, "first"), informer.lists)
    until(lambda: not informer.problem())


@pytest.mark.slow
def test_while_the_server_is_away_what_it_had_stays(informer: Informer, stand_in: StandIn):
    """And it is told that it may be old; when the server is back, all is well."""
    stand_in.stop()

    until(informer.problem)

    assert "{}" == config_of(informer, "first")
    assert "network-attachment-definitions" in informer.problem()
    stand_in.start()
    stand_in.put(NAD, network("second"))
    until(lambda: config_of(informer, "second") and not informer.problem())


def test_what_it_may_not_watch_it_says(store: ApiStore, stand_in: StandIn):
    """With the role that is missing."""
    stand_in.forbidden.add(("list", NAD.value.plural))
    with running(Informer(store, NAD, pauses_s=QUICK_S), store.server) as informer:
        until(lambda: "verbs ['list']" in informer.problem())
        assert not informer.is_synced

        stand_in.forbidden.clear()

        assert informer.wait_until_synced(SOON_S)


def test_it_gets_over_a_server_that_has_not_read_its_roles_yet(store: ApiStore, stand_in: StandIn):
    """A restart of the API server needs no restart of ours."""
    stand_in.put(NAD, network("first"))
    informer = Informer(store, NAD, pauses_s=QUICK_S)
    with running(informer, store.server):
        assert informer.wait_until_synced(SOON_S)

        stand_in.stop()
        stand_in.has_read_roles, stand_in.readiness = False, 500
        stand_in.put(NAD, network("second"))
        stand_in.start()
        until(lambda: ("get", "readyz", "403") in store.server.tally.read())
        stand_in.has_read_roles = True

        until(lambda: config_of(informer, "second") and not informer.problem())


def test_before_its_first_list_it_says_so(store: ApiStore):
    """A daemon is not ready before."""
    assert "has not answered yet" in Informer(store, NAD).problem()


def test_pods_of_other_nodes_are_not_kept(store: ApiStore, stand_in: StandIn):
    """A pod that is put on this node comes later."""
    for name, node in (("here", "n1"), ("there", "n2"), ("nowhere", "")):
        stand_in.put(Kind.POD, {"metadata": {"name": name, "namespace": "telco"}, "spec": {"nodeName": node}})
    informer = Informer(store, Kind.POD, Selector({NODE: "n1"}), pauses_s=QUICK_S)
    with running(informer, store.server):
        assert informer.wait_until_synced(SOON_S)
        assert ["here"] == [name for name in ("here", "there", "nowhere") if informer.find("telco", name)]

        pod = {"metadata": {"name": "nowhere", "namespace": "telco"}, "spec": {"nodeName": "n1"}}
        stand_in.put(Kind.POD, pod)

        until(lambda: informer.find("telco", "nowhere"))


def test_only_what_a_server_has_at_hand_comes_in_one_piece(store: ApiStore, stand_in: StandIn):
    """A list of the newest comes in pages of 500 objects."""
    for number in range(1200):
        stand_in.put(NAD, network(f"n{number}"))
    with running(Informer(store, NAD, pauses_s=QUICK_S), store.server) as informer:
        assert informer.wait_until_synced(SOON_S)
        assert (1200, 1) == (len(informer), len(stand_in.asked("list")))
        stand_in.stop()
        stand_in.objects.delete(NAD.value, "telco", "n0", None)
        stand_in.objects.compact()
        stand_in.start()

        until(lambda: len(informer) == 1199)

        assert 1 + 3 == len(stand_in.asked("list"))


class Scripted:
    """A server whose watches are given; a last one goes on."""

    def __init__(self, watches: Sequence[Any]) -> None:
        self.watches = list(watches)
        self.waits = threading.Event()

    def pages(self, *_: Any) -> Iterator[tuple[Sequence[Object], str]]:
        """One page with one object."""
        yield [{"metadata": {"name": "n", "namespace": "telco", "resourceVersion": "5"}}], "5"

    def watch(self, *_: Any) -> Iterator[Event]:
        """The next one."""
        if not self.watches:
            self.waits.wait(SOON_S)
            return
        given = self.watches.pop(0)
        if isinstance(given, Exception):
            raise given
        yield from given


@pytest.mark.parametrize(
    ("watch", "told"),
    [
        ([], "it ended at once"),
        (TryAgainLater("watch: it was cut off"), "it was cut off"),
        (ValueError("this should not be"), "a bug in meta-cni"),
    ],
    ids=["silent", "cut", "bug"],
)
def test_a_watch_that_fails_at_once_is_no_hot_loop(watch: Any, told: str):
    """It is told, and tried again after a pause."""
    source = Scripted([watch])
    informer = Informer(source, NAD, pauses_s=(0.2,))
    with running(informer):
        until(lambda: told in informer.problem())
        until(lambda: not source.watches)
        source.waits.set()

    assert 1 == informer.lists


def refused(text: str) -> Iterator[tuple[Sequence[Object], str]]:
    """A list of what nobody knows."""
    raise NotServed(text)


def test_a_kind_that_was_taken_away_has_no_objects(mocker: MockerFixture):
    """Its definition went, and its objects with it; a NAD that is made with the next one is a new one."""
    source = Scripted([Expired("410")])
    informer = Informer(source, NAD, pauses_s=QUICK_S)
    first = [source.pages()]
    mocker.patch.object(
        source, "pages", side_effect=lambda *_: first.pop() if first else refused("no such kind")
    )
    with running(informer):
        until(lambda: "no such kind" in informer.problem())
        source.waits.set()

        assert (0, None) == (len(informer), informer.find("telco", "n"))


def test_an_older_event_does_not_undo_what_was_learned(store: ApiStore):
    """The answer to a patch is known before the events that led there."""

    def nad(version: str, config: str) -> Object:
        metadata = {"name": "n", "namespace": "telco", "resourceVersion": version}
        return {"metadata": metadata, "spec": {"config": config}}

    source = Scripted([])
    informer = Informer(source, NAD)
    with running(informer):
        assert informer.wait_until_synced(SOON_S)
        informer.learn(nad("9", "newest"))
        informer.learn(nad("7", "older"))
        source.waits.set()

    assert "newest" == config_of(informer, "n")


def test_what_nobody_reads_is_not_kept():
    """Managed fields and the last applied configuration are most of an object."""
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": "x" * 1000,
        "k8s.v1.cni.cncf.io/networks": "a",
        "example.com/other": "b",
    }
    pod = {
        "metadata": {
            "name": "p",
            "namespace": "telco",
            "uid": "u",
            "resourceVersion": "5",
            "managedFields": [{"manager": "kubectl"}],
            "labels": {"app": "x"},
            "annotations": annotations,
        },
        "spec": {"containers": [{"name": "c"}]},
        "status": {"phase": "Running", "resourceClaimStatuses": [{"name": "claim"}]},
    }

    assert {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "telco",
            "uid": "u",
            "resourceVersion": "5",
            "annotations": {"k8s.v1.cni.cncf.io/networks": "a"},
        },
        "status": {"resourceClaimStatuses": [{"name": "claim"}]},
        "spec": {},
    } == trimmed(Kind.POD, pod)


@pytest.mark.parametrize(
    ("status", "resources", "expected"),
    [
        ({}, [], None),
        ({}, [{"name": "nic", "resourceClaimName": "c"}], ["nodeName", "resourceClaims"]),
        ({"extendedResourceClaimStatus": {"resourceClaimName": "c"}}, [], ["nodeName"]),
    ],
)
def test_of_a_pods_spec_its_claims_alone_are_kept(
    status: dict[str, Any], resources: list[dict[str, str]], expected: list[str] | None
):
    """A claim that the pod names itself is not in its status; a node's devices are asked for by its name."""
    spec = {"nodeName": "n1", "containers": [{"name": "c"}]}
    spec.update({"resourceClaims": resources} if resources else {})

    kept = trimmed(Kind.POD, {"metadata": {"name": "p"}, "spec": spec, "status": status}).get("spec")

    assert expected == (None if kept is None else sorted(kept))


@pytest.fixture
def followed(stand_in: StandIn, tmp_path: Path) -> Iterator[Following]:
    """A cluster as the daemon follows it."""
    kubeconfig = stand_in.write_kubeconfig(tmp_path / "followed")
    following = Following(Server(of_kubeconfig(kubeconfig)), "n1")
    following.start()
    until(lambda: not following.problems())
    yield following
    following.stop(SOON_S)
    assert not any(each.is_alive() for each in following._threads)


def test_a_watch_that_is_just_being_opened_ends_too(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A daemon that ends while its API server is slow does not wait for what it may tell."""
    monkeypatch.setattr("tests.k8s.stand_in.BOOKMARK_S", 600.0)
    stand_in.latency_s = 0.5
    following = Following(Server(of_kubeconfig(stand_in.write_kubeconfig(tmp_path / "k"))), "n1")
    following.start()
    until(lambda: all(each.is_synced for each in following.informers.values()))

    following.stop(SOON_S)

    assert not any(each.is_alive() for each in following._threads)


def test_a_miss_asks_the_server_once_and_a_hit_never(followed: Following, stand_in: StandIn):
    """A network that was made the instant before the pod that names it is found."""
    stand_in.put(NAD, network("kept"))
    until(lambda: followed.informers[NAD].find("telco", "kept"))
    store = CachedStore(ApiStore(followed.server), followed.informers)
    stand_in.requests.clear()

    assert "kept" == store.get(NAD, "telco", "kept")["metadata"]["name"]
    assert [] == stand_in.asked("get")
    with pytest.raises(NotFound):
        store.get(NAD, "telco", "nope")
    assert 1 == len(stand_in.asked("get"))
    assert "kept" == store.get(NAD, "telco", "kept", is_newest=True)["metadata"]["name"]
    assert 2 == len(stand_in.asked("get"))


def test_other_verbs_go_to_the_server(followed: Following, stand_in: StandIn):
    """And what it answers to a change is known here at once."""
    store = CachedStore(ApiStore(followed.server), followed.informers)
    store.create(NAD, network("made"))
    until(lambda: followed.informers[NAD].find("telco", "made"))

    patched = store.patch(NAD, "telco", "made", {"spec": {"config": "patched"}})

    assert "patched" == store.get(NAD, "telco", "made")["spec"]["config"]
    patched["spec"]["config"] = "replaced"
    store.replace(NAD, patched)
    assert "replaced" == store.get(NAD, "telco", "made")["spec"]["config"]
    assert ["made"] == [each["metadata"]["name"] for each in store.list(NAD, "telco", EVERY)[0]]
    store.delete(NAD, "telco", "made")
    until(lambda: followed.informers[NAD].find("telco", "made") is None)
    with pytest.raises(NotFound):
        store.get(NAD, "telco", "made")
