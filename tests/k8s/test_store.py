"""
Objects by their verbs on an API server: what is found, what is refused, and what is told of it.

Every answer expected here is kube-apiserver's (1.35).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    Kind,
    NotFound,
    Object,
    Selector,
)
from tests.k8s.stand_in import StandIn

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION


@pytest.fixture(scope="module")
def cluster() -> Iterator[StandIn]:
    """One server for all tests here; each has names of its own."""
    with StandIn() as server:
        yield server


@pytest.fixture
def store(cluster: StandIn, tmp_path: Path) -> ApiStore:
    """The cluster as the product sees it."""
    return ApiStore(Server(of_kubeconfig(cluster.write_kubeconfig(tmp_path / "kubeconfig"))))


def pod(name: str, **metadata: Any) -> Object:
    """A pod on our node, as small as the real server takes it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", **metadata},
        "spec": {"nodeName": "mine", "containers": [{"name": "c", "image": "i"}]},
    }


def nad(name: str) -> Object:
    """A network."""
    config = json.dumps({"cniVersion": "1.0.0", "type": "bridge"})
    about = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind}
    return {**about, "metadata": {"name": name, "namespace": "ns"}, "spec": {"config": config}}


def status(text: str, **metadata: Any) -> dict[str, Any]:
    """A merge patch of an annotation."""
    return {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/network-status": text}, **metadata}}


def test_created_object_is_found(store: ApiStore):
    """With what the server gives it."""
    made = store.create(Kind.POD, pod("made"))

    assert made["metadata"]["uid"]
    assert made["metadata"]["uid"] == store.get(Kind.POD, "ns", "made")["metadata"]["uid"]
    with pytest.raises(AlreadyExists, match="already exists"):
        store.create(Kind.POD, pod("made"))


def test_what_is_not_there_is_told(store: ApiStore):
    """By every verb that needs it."""
    for ask in (store.get, store.delete):
        with pytest.raises(NotFound, match='pods "nobody" not found'):
            ask(Kind.POD, "ns", "nobody")
    with pytest.raises(NotFound):
        store.patch(Kind.POD, "ns", "nobody", status("up"), subresource="status")


def test_annotation_is_written_by_the_status_subresource(store: ApiStore):
    """The role of a node's daemon has no more than that; the spec is left as it was."""
    store.create(Kind.POD, pod("annotated"))

    patch = {**status("up"), "spec": {"nodeName": "another"}}
    store.patch(Kind.POD, "ns", "annotated", patch, subresource="status")

    found = store.get(Kind.POD, "ns", "annotated")
    assert "up" == found["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
    assert "mine" == found["spec"]["nodeName"]


def test_a_moved_version_does_not_lose_a_status(store: ApiStore):
    """The kubelet writes the pod all the time; a merge patch names no version."""
    store.create(Kind.POD, pod("moving"))
    for number in range(5):
        store.patch(Kind.POD, "ns", "moving", {"metadata": {"labels": {"n": str(number)}}})

    store.patch(Kind.POD, "ns", "moving", status("up"), subresource="status")

    metadata = store.get(Kind.POD, "ns", "moving")["metadata"]
    assert ("up", "4") == (next(iter(metadata["annotations"].values())), metadata["labels"]["n"])


def test_conditions_are_kept(store: ApiStore):
    """An old version, and the UID of another pod of the same name."""
    made = store.create(Kind.POD, pod("guarded"))
    store.patch(Kind.POD, "ns", "guarded", status("up"))

    version = made["metadata"]["resourceVersion"]
    other = "00000000-0000-0000-0000-000000000000"
    for refusal, condition in ((Conflict, {"resourceVersion": version}), (Invalid, {"uid": other})):
        with pytest.raises(refusal):
            store.patch(Kind.POD, "ns", "guarded", status("down", **condition), subresource="status")

    uid = made["metadata"]["uid"]
    store.patch(Kind.POD, "ns", "guarded", status("again", uid=uid), subresource="status")
    assert "again" in store.get(Kind.POD, "ns", "guarded")["metadata"]["annotations"].values()


def test_an_unchanged_object_keeps_its_version(store: ApiStore):
    """Nobody who watches is told of nothing."""
    store.create(NAD, nad("still"))
    first = store.patch(NAD, "ns", "still", status("same"))

    second = store.patch(NAD, "ns", "still", status("same"))

    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_replace_needs_the_version_it_replaces(store: ApiStore):
    """Who is late reads again."""
    made = store.create(NAD, nad("replaced"))
    store.replace(NAD, {**made, "spec": {"config": "{}"}})

    with pytest.raises(Conflict, match="object has been modified"):
        store.replace(NAD, made)


def test_a_list_has_whole_objects_of_the_selection(store: ApiStore):
    """Kind and version, too, which the server leaves out."""
    store.create(Kind.POD, pod("listed", labels={"app": "a"}))

    found, version = store.list(Kind.POD, "ns", Selector({"spec.nodeName": "mine"}, {"app": "a"}))

    assert [("v1", "Pod", "listed")] == [(e["apiVersion"], e["kind"], e["metadata"]["name"]) for e in found]
    assert version
    assert [] == store.list(Kind.POD, "ns", Selector({"spec.nodeName": "other"}))[0]


def test_a_watch_tells_what_changed(store: ApiStore):
    """ADDED, MODIFIED, DELETED, in order, and it ends when its time is over."""
    _, version = store.list(NAD)
    store.create(NAD, nad("watched"))
    store.patch(NAD, "ns", "watched", status("up"))
    store.delete(NAD, "ns", "watched")

    told = [(each.type, each.object["metadata"].get("name")) for each in store.watch(NAD, None, version, 2)]

    wanted = [(verb, "watched") for verb in ("ADDED", "MODIFIED", "DELETED")]
    assert wanted == [each for each in told if each[0] != "BOOKMARK"]


def test_a_pod_on_a_node_goes_when_its_kubelet_says_so(store: ApiStore):
    """Until then it has a deletionTimestamp."""
    store.create(Kind.POD, pod("leaving"))

    store.delete(Kind.POD, "ns", "leaving")

    assert store.get(Kind.POD, "ns", "leaving")["metadata"]["deletionTimestamp"]


def test_who_has_no_role_is_told_which(cluster: StandIn, tmp_path: Path):
    """The rule that is missing, as it is written in a role."""
    cluster.forbidden.add(("list", "pods"))
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig")

    with pytest.raises(Forbidden, match=r"apiGroups \[''\], resources \['pods'\], verbs \['list'\]"):
        ApiStore(Server(of_kubeconfig(kubeconfig))).list(Kind.POD)
    cluster.forbidden.clear()


def test_a_version_of_long_ago_is_no_longer_known(cluster: StandIn, store: ApiStore):
    """410, in the stream or at once."""
    cluster.objects.compact()

    with pytest.raises(Expired):
        list(store.watch(Kind.POD, None, "1", 3))
