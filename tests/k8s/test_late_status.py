"""Statuses that an API server could not take: told when it is back, in order, and to nobody else."""

import errno
import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import CNIError, IOFailure, TryAgainLater
from meta_cni.k8s.api_store import ApiStore
from meta_cni.k8s.late_status import LateStatuses
from meta_cni.k8s.store import Conflict, Invalid, Kind, Object
from meta_cni.k8s.untold import Status, Untold
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
        self.may_answer = threading.Event()
        self.may_answer.set()

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Take it, when there is no error left."""
        assert (Kind.POD, "status") == (kind, subresource)
        self.called.set()
        assert self.may_answer.wait(SOON_S)
        if self.errors:
            raise self.errors.pop(0)
        self.told.append((f"{namespace}/{name}", patch))
        return {}


@pytest.fixture
def untold(tmp_path: Path) -> Untold:
    """An empty directory; it is made when it is needed."""
    return Untold(tmp_path / "state" / "untold")


def late(server: Any, untold: Untold, *pauses_s: float, **more: Any) -> LateStatuses:
    return LateStatuses(server, untold, "kubeconfig", pauses_s=pauses_s or QUICK_S, **more)


def status(
    name: str, patch: Mapping[str, Any] | None = None, sandbox: str = "", namespace: str = "telco"
) -> Status:
    """Of a pod's only sandbox, unless another one is named."""
    return Status(sandbox or f"sandbox-{name}", "eth0", namespace, name, patch or {})


def told_of(uid: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "annotations": {KEY: "[]"}}}


def files(untold: Untold) -> list[str]:
    """Everything that is in its directory."""
    return sorted(each.name for each in untold.directory.glob("*"))


def test_it_is_told_when_the_server_is_back(stand_in: StandIn, store: ApiStore, untold: Untold):
    """However often it was away."""
    pod = stand_in.put(Kind.POD, {"metadata": {"name": "p", "namespace": "telco"}})
    stand_in.stop()
    statuses = late(store.within(0.5), untold)

    statuses.put(status("p", told_of(pod["metadata"]["uid"])))
    assert statuses.is_waiting("telco", "p")
    assert ["sandbox-p:eth0"] == files(untold)
    stand_in.start()
    statuses.store = store

    until(lambda: not statuses.waiting)
    assert "[]" == stand_in.objects.known["pods", "telco", "p"]["metadata"]["annotations"][KEY]
    assert [] == files(untold)
    statuses.stop(SOON_S)


def test_another_pod_of_the_name_is_not_told(place: Place, untold: Untold, caplog: pytest.LogCaptureFixture):
    """Its UID is another one; nor is anybody asked for ever, and nobody is to look into it."""
    document = {"metadata": {"name": "p", "namespace": place.namespace}, **CONTAINERS}
    before = place.store.create(Kind.POD, document)
    place.store.delete(Kind.POD, place.namespace, "p")
    place.store.create(Kind.POD, document)
    statuses = late(place.daemon, untold)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put(status("p", told_of(before["metadata"]["uid"]), namespace=place.namespace))
        until(lambda: not statuses.waiting)

    assert "annotations" not in place.store.get(Kind.POD, place.namespace, "p")["metadata"]
    assert ("", []) == (caplog.text, files(untold))
    statuses.stop(SOON_S)


def test_a_pod_that_is_gone_is_not_told(place: Place, untold: Untold, caplog: pytest.LogCaptureFixture):
    """As happens while a server is away."""
    statuses = late(place.daemon, untold)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put(status("p", told_of("of one that was"), namespace=place.namespace))
        until(lambda: not statuses.waiting)

    assert ("", []) == (caplog.text, files(untold))
    statuses.stop(SOON_S)


def test_a_pod_that_moves_is_told_all_the_same(untold: Untold):
    """A conflict says nothing of whose pod it is."""
    server = Refusing(Conflict("patch Pod: the object has been modified"))
    statuses = late(server, untold)

    statuses.put(status("p", {"n": 1}))

    until(lambda: not statuses.waiting)
    assert [("telco/p", {"n": 1})] == server.told
    statuses.stop(SOON_S)


def test_what_is_newer_takes_the_place_of_what_waits(untold: Untold):
    """The server hears the last word alone, of whichever sandbox of the pod."""
    server = Refusing(*[TryAgainLater("away")] * 3)
    server.may_answer.clear()
    statuses = late(server, untold)
    statuses.put(status("p", {"n": 1}, "first"))
    assert server.called.wait(SOON_S)

    statuses.put(status("p", {"n": 2}, "second"))
    assert ["second:eth0"] == files(untold)

    server.may_answer.set()
    until(lambda: not statuses.waiting)
    assert [("telco/p", {"n": 2})] == server.told
    statuses.stop(SOON_S)


def test_what_will_never_be_taken_is_told_in_the_log(caplog: pytest.LogCaptureFixture, untold: Untold):
    """And those behind it are not held up."""
    server = Refusing(Invalid("patch Pod: too long"))
    statuses = late(server, untold)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put(status("p"))
        statuses.put(status("q"))
        until(lambda: not statuses.waiting)

    assert "pod telco/p: network-status is not told any more: patch Pod: too long" in caplog.text
    assert ["telco/q"] == [name for name, _ in server.told]
    assert [] == files(untold)
    statuses.stop(SOON_S)


def test_a_bug_holds_up_nobody(caplog: pytest.LogCaptureFixture, untold: Untold):
    """The thread that tells is the only one."""
    server = Refusing(ValueError("this should not be"))  # type: ignore[arg-type]
    statuses = late(server, untold)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.put(status("p"))
        statuses.put(status("q"))
        until(lambda: not statuses.waiting)

    assert "a bug in meta-cni: pod telco/p" in caplog.text
    assert ["telco/q"] == [name for name, _ in server.told]
    assert [] == files(untold)
    statuses.stop(SOON_S)


def test_there_is_an_end_to_what_waits(untold: Untold):
    """The oldest are forgotten, and counted."""
    statuses = late(Refusing(*[TryAgainLater("away")] * 1000), untold, most=2)

    for name in ("a", "b", "c"):
        statuses.put(status(name))

    assert (2, 1, False) == (statuses.waiting, statuses.forgotten, statuses.is_waiting("telco", "a"))
    assert ["sandbox-b:eth0", "sandbox-c:eth0"] == files(untold)
    statuses.stop(SOON_S)


def test_the_daemon_that_ends_tries_once_more_and_the_next_one_goes_on(
    caplog: pytest.LogCaptureFixture, untold: Untold
):
    """Without waiting for the next pause; what is left is told in the order in which it came."""
    server = Refusing(*[TryAgainLater("away")] * 2)
    statuses = late(server, untold, SOON_S)
    statuses.put(status("q", {"n": 1}))
    assert server.called.wait(SOON_S)
    statuses.put(status("p", {"n": 2}))

    with caplog.at_level(logging.WARNING, "meta_cni"):
        statuses.stop(SOON_S)
    again = late(server, untold)
    again.start()

    assert "network-status of 2 pods was not told" in caplog.text
    until(lambda: not again.waiting)
    assert [("telco/q", {"n": 1}), ("telco/p", {"n": 2})] == server.told
    assert [] == files(untold)
    again.stop(SOON_S)


def test_nobody_is_told_of_a_request_that_was_undone(untold: Untold):
    """Whoever undoes it takes the file away; a daemon that is not there need not know."""
    server = Refusing(TryAgainLater("away"))
    server.may_answer.clear()
    statuses = late(server, untold)
    statuses.put(status("p"))
    assert server.called.wait(SOON_S)

    Untold(untold.directory).drop("sandbox-p", "eth0")

    assert not statuses.is_waiting("telco", "p")
    server.may_answer.set()
    until(lambda: not statuses.waiting)
    statuses.stop(SOON_S)
    assert [] == server.told


def test_another_cluster_is_told_nothing(untold: Untold):
    """Two configurations may share a state directory."""
    away = Refusing(TryAgainLater("away"))
    theirs = LateStatuses(away, untold, "theirs", pauses_s=(SOON_S,))  # type: ignore[arg-type]
    theirs.put(status("p"))
    assert away.called.wait(SOON_S)
    ours = late(Refusing(), untold)

    ours.start()

    assert (0, ["sandbox-p:eth0"]) == (ours.waiting, files(untold))
    theirs.stop(SOON_S)
    assert [] == files(untold)


WRONG = {"container_id": "sandbox-p", "request": "eth0", "namespace": "telco", "name": "p", "patch": []}


@pytest.mark.parametrize("text", ["", '{"container_id": "sand', '{"other": 1}', "[]", json.dumps(WRONG)])
def test_a_file_that_tells_nothing_goes(caplog: pytest.LogCaptureFixture, untold: Untold, text: str):
    """As a power cut may leave it, or another version."""
    untold.put(status("q"))
    (untold.directory / "sandbox-p:eth0").write_text(text)

    with caplog.at_level(logging.WARNING, "meta_cni"):
        found = untold.read()

    assert ["q"] == [each.name for each in found]
    assert "it is removed" in caplog.text
    assert ["sandbox-q:eth0"] == files(untold)


def test_a_file_that_cannot_be_read_now_stays(
    caplog: pytest.LogCaptureFixture, untold: Untold, mocker: MockerFixture
):
    """No descriptor was left: it went, and its pod was never told."""
    untold.put(status("p"))
    mocker.patch.object(Path, "read_bytes", side_effect=OSError(errno.EMFILE, os.strerror(errno.EMFILE)))

    assert [] == untold.read()

    assert "sandbox-p:eth0: Too many open files: the next daemon reads it" in caplog.text
    mocker.stopall()
    assert ["p"] == [each.name for each in untold.read()]


def test_a_directory_that_cannot_be_read_is_told(untold: Untold, caplog: pytest.LogCaptureFixture):
    """The daemon serves all the same."""
    untold.directory.parent.mkdir(parents=True)
    untold.directory.symlink_to(untold.directory)

    late(Refusing(), untold).start()

    assert f"read {untold.directory}: Too many levels of symbolic links" in caplog.text


def test_a_write_that_was_cut_off_goes_too(untold: Untold):
    """It has a name of its own until it is whole."""
    untold.put(status("p"))
    os.replace(untold.directory / "sandbox-p:eth0", untold.directory / ".sandbox-p:eth0")

    assert [] == untold.read()
    assert [] == files(untold)


def test_what_cannot_be_kept_is_refused(untold: Untold):
    """The ADD fails, and is undone: a status that may get lost is none."""
    untold.directory.parent.mkdir(parents=True)
    untold.directory.write_text("a file in its place")
    server = Refusing()
    statuses = late(server, untold)

    with pytest.raises(IOFailure, match="write untold status"):
        statuses.put(status("p"))

    assert (0, []) == (statuses.waiting, server.told)
    untold.drop("sandbox-p", "eth0")
