"""What becomes of a call when the server is away, slow, busy, or does not know us."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s import api_store
from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import Expired, Forbidden, Kind
from tests.k8s.certificates import Authority
from tests.k8s.stand_in import StandIn, write_kubeconfig

POD = {"metadata": {"name": "p", "namespace": "ns"}}
PATCH = {"metadata": {"annotations": {"a": "b"}}}


def opened(kubeconfig: Path) -> ApiStore:
    """The cluster that a kubeconfig leads to."""
    return ApiStore(Server(of_kubeconfig(kubeconfig)))


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(stand_in: StandIn, store: ApiStore, status: int):
    """A server that restarts, or has too much to do, is no reason to start a pod again."""
    stand_in.put(Kind.POD, POD)
    stand_in.fail(status, 2)

    store.patch(Kind.POD, "ns", "p", PATCH, subresource="status")

    assert {"a": "b"} == store.get(Kind.POD, "ns", "p")["metadata"]["annotations"]
    assert 3 == len(stand_in.asked("patch"))


def test_server_says_when_to_come_back(stand_in: StandIn, store: ApiStore):
    """Retry-After is the only way it has to live through a storm."""
    stand_in.put(Kind.POD, POD)
    stand_in.fail(429, 1, retry_after_s=1)
    started = time.monotonic()

    store.get(Kind.POD, "ns", "p")

    assert time.monotonic() - started >= 1


def test_a_storm_of_429_ends_with_the_allowance(stand_in: StandIn, store: ApiStore):
    """Whoever calls has a deadline of his own; so many tries are told of."""
    stand_in.fail(429, 100, retry_after_s=1)

    with pytest.raises(
        TryAgainLater, match=r"get Pod ns/p: .*: 429 a fault: given up after [12] (try|tries) in 1.5 s"
    ):
        store.within(1.5).get(Kind.POD, "ns", "p")


def test_a_last_try_that_has_hardly_any_time_does_not_hide_what_was_said(
    stand_in: StandIn, store: ApiStore, monkeypatch: pytest.MonkeyPatch
):
    """That there was no answer within the rest of the allowance says nothing of the server."""
    stand_in.fail(503, 1)
    send, sent = store.server.send, []

    def silent_after_the_first(*arguments: Any) -> Any:
        stand_in.latency_s = 5.0 if sent else 0.0
        sent.append(arguments)
        return send(*arguments)

    monkeypatch.setattr(store.server, "send", silent_after_the_first)

    with pytest.raises(TryAgainLater, match=r"503 a fault: given up after 2 tries in 2.5 s"):
        store.within(2.5).get(Kind.POD, "ns", "p")


def test_who_tries_again_himself_has_one_try(stand_in: StandIn, store: ApiStore):
    """What waits for a server looks first whether it is still wanted."""
    stand_in.put(Kind.POD, POD)
    stand_in.fail(503, 1)
    single = ApiStore(store.server, is_trying_again=False)

    with pytest.raises(TryAgainLater, match="503 a fault: given up after 1 try"):
        single.patch(Kind.POD, "ns", "p", PATCH)

    assert 1 == len(stand_in.asked("patch"))
    single.patch(Kind.POD, "ns", "p", PATCH)


def test_all_calls_of_a_request_share_one_allowance(stand_in: StandIn, store: ApiStore):
    """Eight networks must not wait eight times as long as one."""
    stand_in.fail(503, 100)
    shared = store.within(1.0)

    with pytest.raises(TryAgainLater, match="503 a fault: given up"):
        shared.get(Kind.POD, "ns", "p")
    asked = len(stand_in.asked())

    with pytest.raises(TryAgainLater, match="no time is left for it: given up after 0 tries in 1 s"):
        shared.get(Kind.POD, "ns", "q")

    assert asked == len(stand_in.asked())


def test_a_create_is_not_sent_twice(stand_in: StandIn, store: ApiStore):
    """Without an answer nobody knows whether it was done."""
    stand_in.fail(0, 1, verb="create")

    with pytest.raises(TryAgainLater, match="it may have been done"):
        store.create(Kind.POD, POD)

    assert 1 == len(stand_in.asked("create"))


def test_server_that_is_away_is_told_with_its_address(stand_in: StandIn, store: ApiStore):
    """Code 11: the runtime comes back."""
    stand_in.stop()

    with pytest.raises(TryAgainLater, match=rf"get Pod ns/p: {stand_in.url}: Connection refused: given up"):
        store.within(0.5).get(Kind.POD, "ns", "p")


def test_server_that_does_not_answer_is_given_up(stand_in: StandIn, store: ApiStore):
    """A connection that is open may lead nowhere."""
    stand_in.latency_s = 5

    with pytest.raises(TryAgainLater, match="no answer in time"):
        store.within(0.5).get(Kind.POD, "ns", "p")


def test_what_a_role_lacks_is_named(stand_in: StandIn, store: ApiStore):
    """Whoever installs us reads this, and writes the rule."""
    stand_in.put(Kind.POD, POD)
    stand_in.forbidden.add(("patch", "pods/status"))

    with pytest.raises(Forbidden, match=r"apiGroups \[''\], resources \['pods/status'\], verbs \['patch'\]"):
        store.patch(Kind.POD, "ns", "p", PATCH, subresource="status")

    assert 1 == len(stand_in.asked("patch"))


def test_what_a_starting_server_forbids_is_asked_again(
    stand_in: StandIn, store: ApiStore, monkeypatch: pytest.MonkeyPatch
):
    """Until it has read its roles nobody has any; it is not ready then, and says so a moment later."""
    monkeypatch.setattr(api_store, "UNSURE_REFUSALS", 1000)  # it may be slow to read them
    stand_in.put(Kind.POD, POD)
    stand_in.has_read_roles, stand_in.readiness = False, 500

    def read_roles() -> None:
        while not store.server.tally.read().get(("get", "readyz", "403")):
            time.sleep(0.01)
        stand_in.forbidden |= {("get", "pods")}
        stand_in.has_read_roles = True
        while not store.server.tally.read().get(("get", "readyz", "500")):
            time.sleep(0.01)
        stand_in.forbidden.clear()

    reader = threading.Thread(target=read_roles)
    reader.start()
    found = store.get(Kind.POD, "ns", "p")
    reader.join()

    assert "p" == found["metadata"]["name"]


@pytest.mark.parametrize("readiness", [500, 503, 429])
def test_what_a_server_forbids_that_stays_unready_is_tried_later(
    stand_in: StandIn, store: ApiStore, readiness: int
):
    """With the server's words, and why they may not be its last ones."""
    stand_in.forbidden.add(("get", "pods"))
    stand_in.readiness = readiness

    with pytest.raises(
        TryAgainLater, match=rf"cannot get resource.*\(/readyz: {readiness}\): given up"
    ) as caught:
        ApiStore(store.server, is_trying_again=False).get(Kind.POD, "ns", "p")

    assert TryAgainLater is caught.type


def test_what_a_role_lacks_is_named_where_readiness_is_forbidden_too(stand_in: StandIn, store: ApiStore):
    """Some take the right to read /readyz away: nobody waits until the allowance is over."""
    stand_in.forbidden |= {("get", "pods"), ("get", "/readyz")}

    with pytest.raises(Forbidden, match=r"resources \['pods'\], verbs \['get'\]"):
        store.within(60).get(Kind.POD, "ns", "p")

    assert api_store.UNSURE_REFUSALS + 1 == len(stand_in.asked("get"))


def test_a_token_that_was_replaced_is_read_again(stand_in: StandIn, tmp_path: Path):
    """The kubelet writes a new one every hour; the old one is refused at the worst moment."""
    (tmp_path / "token").write_text("secret")
    store = opened(stand_in.write_kubeconfig(tmp_path / "k", tokenFile="token"))
    stand_in.put(Kind.POD, POD)
    store.get(Kind.POD, "ns", "p")

    stand_in.tokens = {"newer": "us"}
    (tmp_path / "token").write_text("newer")

    assert "p" == store.get(Kind.POD, "ns", "p")["metadata"]["name"]


def test_an_expired_token_is_told_with_where_it_is_from(stand_in: StandIn, store: ApiStore):
    """It is asked for anew once, not until the allowance is used up."""
    stand_in.tokens = {"newer": "us"}

    with pytest.raises(Forbidden, match=r"\(401\): expected a token or certificate that is valid in kubec"):
        store.get(Kind.POD, "ns", "p")

    assert [] == stand_in.asked()


def test_a_wrong_authority_is_told_at_once(tmp_path: Path):
    """No retry makes a certificate right."""
    with StandIn(is_tls=True) as server:
        cluster = {"server": server.url, "certificate-authority": "ca.crt"}
        (tmp_path / "ca.crt").write_text(Authority().certificate)
        store = ApiStore(
            Server(of_kubeconfig(write_kubeconfig(tmp_path / "k", cluster, {"token": "secret"})))
        )

        with pytest.raises(Forbidden, match=r"certificate verify failed.*expected a certificate as kubec"):
            store.get(Kind.POD, "ns", "p")


def test_an_authority_that_was_replaced_is_read_again(tmp_path: Path):
    """A cluster's authority is rotated while nodes run."""
    with StandIn(is_tls=True) as server:
        cluster = {"server": server.url, "certificate-authority": "ca.crt"}
        (tmp_path / "ca.crt").write_text(Authority().certificate)
        store = ApiStore(
            Server(of_kubeconfig(write_kubeconfig(tmp_path / "k", cluster, {"token": "secret"})))
        )
        server.put(Kind.POD, POD)
        with pytest.raises(Forbidden):
            store.get(Kind.POD, "ns", "p")

        assert server.authority is not None
        (tmp_path / "ca.crt").write_text(server.authority.certificate)

        assert "p" == store.get(Kind.POD, "ns", "p")["metadata"]["name"]


def test_a_watch_that_is_cut_off_says_so(stand_in: StandIn, store: ApiStore):
    """Whoever watches begins again where it ended."""
    stand_in.put(Kind.POD, POD)
    events = store.watch(Kind.POD, None, "1", 30)
    assert "ADDED" == next(events).type

    stand_in.cut_watches()

    with pytest.raises(TryAgainLater, match="watch pods: it was cut off"):
        list(events)


class Ending:
    """A watch whose own thread takes the socket away as soon as somebody has looked at it."""

    def __init__(self, sock: socket.socket) -> None:
        self.connection = self
        self._left = [sock]

    @property
    def sock(self) -> socket.socket | None:
        """There once."""
        return self._left.pop() if self._left else None

    def close(self) -> None:
        """As of every response."""


def test_a_watch_that_ends_this_moment_is_ended_all_the_same(store: ApiStore):
    """A daemon that stops must not fail for that."""
    ours, theirs = socket.socketpair()
    with ours, theirs, store.server.watching(Ending(ours)):
        store.server.end_watches()

        assert b"" == theirs.recv(1)


def test_a_watch_that_is_not_answered_is_given_up(
    stand_in: StandIn, store: ApiStore, monkeypatch: pytest.MonkeyPatch
):
    """A server that hangs is known by its first line, not when a whole watch is over."""
    monkeypatch.setattr(api_store, "TRY_S", 0.2)
    stand_in.latency_s = 5.0

    with pytest.raises(TryAgainLater, match=r"watch pods: .*no answer in time: given up"):
        next(store.within(0.5).watch(Kind.POD, None, "1", 30), None)


@pytest.mark.slow
def test_a_watch_may_have_nothing_to_tell(
    stand_in: StandIn, store: ApiStore, monkeypatch: pytest.MonkeyPatch
):
    """For longer than any answer may take."""
    monkeypatch.setattr(api_store, "TRY_S", 0.3)
    monkeypatch.setattr("tests.k8s.stand_in.BOOKMARK_S", 600.0)

    assert [] == list(store.watch(Kind.POD, None, "1", 2))


def test_changes_that_are_no_longer_known_are_told(stand_in: StandIn, store: ApiStore):
    """410: whoever was away for too long lists again."""
    stand_in.put(Kind.POD, POD)
    stand_in.objects.compact()

    with pytest.raises(Expired, match="too old resource version: 1"):
        list(store.watch(Kind.POD, None, "1", 5))


def test_server_at_an_ipv6_address(tmp_path: Path):
    """Services of an IPv6 cluster have such addresses."""
    with StandIn(is_tls=True, address="::1") as server:
        server.put(Kind.POD, POD)
        store = opened(server.write_kubeconfig(tmp_path / "k"))

        assert "p" == store.get(Kind.POD, "ns", "p")["metadata"]["name"]
