"""Statuses that an API server could not take: told when it is back, in order, and to nobody else."""

import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from meta_cni.cni.errors import CNIError, TryAgainLater
from meta_cni.k8s.api_store import ApiStore
from meta_cni.k8s.late_status import LateStatuses
from meta_cni.k8s.store import Conflict, Invalid, Kind, Object
from tests.k8s.conftest import Place
from tests.k8s.stand_in import StandIn
from tests.k8s.test_informer import SOON_S, until

QUICK_S = (0.02,)
KEY = "k8s.v1.cni.cncf.io/network-status"
CONTAINERS = {"spec": {"containers": [{"name": "c", "image": "none"}]}}


class Refusing:
    """A server that answers patches as it is told to."""

    def __init__(self, *errors: CNIError) -> None:
        self.errors = list(errors)
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.called = threading.Event()

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Take it, when there is no error left."""
        assert (Kind.POD, "status") == (kind, subresource)
        self.called.set()
        if self.errors:
            raise self.errors.pop(0)
        self.told.append((f"{namespace}/{name}", patch))
        return {}


def late(server: Any, **more: Any) -> LateStatuses:
    return LateStatuses(server, QUICK_S, **more)


def test_it_is_told_when_the_server_is_back(stand_in: StandIn, store: ApiStore):
    """However often it was away."""
    pod = stand_in.put(Kind.POD, {"metadata": {"name": "p", "namespace": "telco"}})
    stand_in.stop()
    statuses = LateStatuses(store.within(0.5), QUICK_S)

    statuses.put("telco", "p", {"metadata": {"uid": pod["metadata"]["uid"], "annotations": {KEY: "[]"}}})
    assert statuses.is_waiting("telco", "p")
    stand_in.start()
    statuses.store = store

    until(lambda: not statuses.waiting)
    assert "[]" == stand_in.objects.known["pods", "telco", "p"]["metadata"]["annotations"][KEY]
    statuses.stop(SOON_S)


def status(uid: str) -> Object:
    """What a pod is to be told."""
    return {"metadata": {"uid": uid, "annotations": {KEY: "[]"}}}


def test_another_pod_of_the_name_is_not_told(place: Place, caplog: pytest.LogCaptureFixture):
    """Its UID is another one; nor is anybody asked for ever, and nobody is to look into it."""
    document = {"metadata": {"name": "p", "namespace": place.namespace}, **CONTAINERS}
    before = place.store.create(Kind.POD, document)
    place.store.delete(Kind.POD, place.namespace, "p")
    place.store.create(Kind.POD, document)
    statuses = late(place.daemon)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put(place.namespace, "p", status(before["metadata"]["uid"]))
        until(lambda: not statuses.waiting)

    assert "annotations" not in place.store.get(Kind.POD, place.namespace, "p")["metadata"]
    assert "" == caplog.text
    statuses.stop(SOON_S)


def test_a_pod_that_is_gone_is_not_told(place: Place, caplog: pytest.LogCaptureFixture):
    """As happens while a server is away."""
    statuses = late(place.daemon)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put(place.namespace, "p", status("of one that was"))
        until(lambda: not statuses.waiting)

    assert "" == caplog.text
    statuses.stop(SOON_S)


def test_a_pod_that_moves_is_told_all_the_same():
    """A conflict says nothing of whose pod it is."""
    server = Refusing(Conflict("patch Pod: the object has been modified"))
    statuses = late(server)

    statuses.put("telco", "p", {"n": 1})

    until(lambda: not statuses.waiting)
    assert [("telco/p", {"n": 1})] == server.told
    statuses.stop(SOON_S)


def test_what_is_newer_takes_the_place_of_what_waits():
    """The server hears the last word alone."""
    server = Refusing(*[TryAgainLater("away")] * 3)
    statuses = LateStatuses(server, (1.0,))  # type: ignore[arg-type]
    statuses.put("telco", "p", {"n": 1})
    server.called.wait(SOON_S)

    statuses.put("telco", "p", {"n": 2})

    until(lambda: not statuses.waiting)
    assert [("telco/p", {"n": 2})] == server.told
    statuses.stop(SOON_S)


def test_what_will_never_be_taken_is_told_in_the_log(caplog: pytest.LogCaptureFixture):
    """And those behind it are not held up."""
    server = Refusing(Invalid("patch Pod: too long"))
    statuses = late(server)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put("telco", "p", {})
        statuses.put("telco", "q", {})
        until(lambda: not statuses.waiting)

    assert "pod telco/p: network-status is not told any more: patch Pod: too long" in caplog.text
    assert ["telco/q"] == [name for name, _ in server.told]
    statuses.stop(SOON_S)


def test_there_is_an_end_to_what_waits():
    """The oldest are forgotten, and counted."""
    statuses = late(Refusing(*[TryAgainLater("away")] * 1000), most=2)

    for name in ("a", "b", "c"):
        statuses.put("telco", name, {})

    assert (2, 1, False) == (statuses.waiting, statuses.forgotten, statuses.is_waiting("telco", "a"))
    statuses.stop(SOON_S)


def test_the_daemon_that_ends_tries_once_more_and_says_what_is_left(caplog: pytest.LogCaptureFixture):
    """Without waiting for the next pause."""
    server = Refusing(*[TryAgainLater("away")] * 2)
    statuses = LateStatuses(server, (SOON_S,))  # type: ignore[arg-type]
    statuses.put("telco", "p", {})
    server.called.wait(SOON_S)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.stop(SOON_S)

    assert "network-status of 1 pods was not told" in caplog.text
