"""Devices by dynamic resource allocation: from a pod's claims to what a NAD names."""

import json
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import BadConfig, TryAgainLater
from meta_cni.k8s import claims
from meta_cni.k8s.file_store import FileStore
from meta_cni.k8s.store import Kind, Object

DRIVER, SRIOV = "sriov.example.com", "intel.com/sriov"
VFS = ["0000:03:02.0", "0000:03:02.1", "0000:03:02.2"]


def device(name: str, device_id: str | None, resource: str | None = SRIOV) -> dict[str, Any]:
    told = {claims.DEVICE_ID: device_id, claims.RESOURCE_NAME: resource}
    attributes = {key: {"string": value} for key, value in told.items() if value is not None}
    return {"name": name, "attributes": {**attributes, "example.com/numa": {"int": 0}}}


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """An API with one node's devices: vf0, vf1 and vf2 in one pool, gpu, old and shared in others."""
    (tmp_path / "objects").mkdir()
    made = FileStore(tmp_path / "objects", tmp_path / "state")
    add_slice(made, "a", [device("vf0", VFS[0]), device("vf1", VFS[1])], generation=2)
    add_slice(
        made, "b", [device("vf2", VFS[2]), device("gpu", None), device("nameless", "x", None)], generation=2
    )
    add_slice(made, "old", [device("vf0", "0000:ff:00.0")], generation=1)
    add_slice(made, "elsewhere", [device("vf0", "0000:ee:00.0")], node="n2", pool="n2")
    add_slice(made, "all", [device("fabric", "fabric-7", "example.com/fabric")], node="", pool="fabric")
    add_slice(made, "other", [device("vf0", "0000:dd:00.0")], driver="other.example.com")
    return made


def add_slice(
    store: FileStore,
    name: str,
    devices: list[dict[str, Any]],
    *,
    generation: int = 1,
    node: str = "n1",
    pool: str = "n1",
    driver: str = DRIVER,
) -> None:
    place = {"nodeName": node} if node else {"allNodes": True}
    described = {"name": pool, "generation": generation, "resourceSliceCount": 1}
    spec = {"driver": driver, "pool": described, "devices": devices, **place}
    document = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}}
    store.create(Kind.RESOURCE_SLICE, {**document, "spec": spec})


def result(device: str, **more: Any) -> dict[str, Any]:
    return {"request": "nic", "driver": DRIVER, "pool": "n1", "device": device, **more}


def claim(store: FileStore, name: str, *results: dict[str, Any] | str) -> None:
    """A claim with these devices; without any it is not allocated."""
    told = [result(each) if isinstance(each, str) else each for each in results]
    metadata = {"name": name, "namespace": "telco"}
    status = {"status": {"allocation": {"devices": {"results": told}}}} if told else {}
    document = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata, "spec": {}}
    store.create(Kind.RESOURCE_CLAIM, {**document, **status})


def pod(*names: str, made: dict[str, str | None] | None = None, extended: Any = None) -> Object:
    """A pod that names claims, and templates that claims were made from."""
    named = [{"name": f"r-{each}", "resourceClaimName": each} for each in names]
    templates = [{"name": each, "resourceClaimTemplateName": "t"} for each in made or {}]
    status: dict[str, Any] = {
        "resourceClaimStatuses": [
            {"name": key, **({"resourceClaimName": value} if value else {})}
            for key, value in (made or {}).items()
        ]
    }
    if extended is not None:
        status["extendedResourceClaimStatus"] = extended
    spec = {"nodeName": "n1", "resourceClaims": [*templates, *named]}
    return {"kind": "Pod", "metadata": {"name": "p", "namespace": "telco"}, "spec": spec, "status": status}


def told(store: FileStore, document: Object) -> list[tuple[str, str, str]]:
    return [(each.resource, each.device_id, each.source) for each in claims.allocated(store, document)]


def test_devices_come_in_the_order_of_the_pods_claims(store: FileStore):
    """Those of templates and those that the pod names itself, of which Multus knows the former alone."""
    claim(store, "made-1", "vf2", "vf0")
    claim(store, "named", "vf1")

    found = told(store, pod("named", made={"r": "made-1"}))

    assert [
        (SRIOV, VFS[2], "claim telco/made-1"),
        (SRIOV, VFS[0], "claim telco/made-1"),
        (SRIOV, VFS[1], "claim telco/named"),
    ] == found


def test_claims_that_stand_in_the_status_alone_count(store: FileStore):
    """What is kept of a pod may lack its spec."""
    claim(store, "made-1", "vf0")
    document = pod(made={"r": "made-1"})
    del document["spec"]

    assert [VFS[0]] == [each for _, each, _ in told(store, document)]


def test_devices_for_something_else_are_passed_over(store: FileStore):
    """A graphics card has none of the attributes; a device for an administrator is another pod's too."""
    claim(store, "c", "gpu", "nameless", result("vf0", adminAccess=True), "vf1")

    assert [VFS[1]] == [each for _, each, _ in told(store, pod("c"))]


def test_why_a_device_is_passed_over_is_told(store: FileStore):
    """What the driver should have told of it; who claims a graphics card beside it is not bothered."""
    claim(store, "c", "gpu", "nameless", "vf1")
    why: list[str] = []

    claims.allocated(store, pod("c"), why.append)

    assert [
        f"claim telco/c: device {DRIVER}/n1/gpu has no attribute {claims.DEVICE_ID}",
        f"claim telco/c: device {DRIVER}/n1/nameless has no attribute {claims.RESOURCE_NAME}",
    ] == why


def test_devices_of_all_nodes_and_of_other_drivers_are_told_apart(store: FileStore):
    """A slice belongs to a node or to all; the same names are used by every driver."""
    claim(
        store,
        "c",
        result("fabric", pool="fabric"),
        result("vf0", driver="other.example.com"),
        result("vf0"),
    )

    found = [(resource, each) for resource, each, _ in told(store, pod("c"))]

    assert [("example.com/fabric", "fabric-7"), (SRIOV, "0000:dd:00.0"), (SRIOV, VFS[0])] == found


def test_nobody_is_asked_for_a_pod_without_claims(mocker):
    """Every pod but a few."""
    store = mocker.Mock()

    assert () == claims.allocated(store, pod(made={"r": None}))

    assert [] == store.mock_calls


def test_slices_of_a_driver_are_asked_for_once(store: FileStore, mocker):
    """There are as many as nodes."""
    claim(store, "c", "vf0", "vf1", "vf2")
    asked = mocker.spy(store, "list")

    claims.allocated(store, pod("c"))

    assert 1 == asked.call_count
    assert {"spec.driver": DRIVER, "spec.nodeName": "n1"} == asked.call_args.args[2].fields


def test_what_is_not_there_yet_is_asked_for_again(store: FileStore):
    """The objects come one after another."""
    claim(store, "waiting")
    claim(store, "lost", "vf9")

    for name, text in (
        ("none", "claim telco/none: the store does not know it"),
        ("waiting", "claim telco/waiting: no device is allocated"),
        ("lost", f"claim telco/lost: device {DRIVER}/n1/vf9: no ResourceSlice has it"),
    ):
        with pytest.raises(TryAgainLater, match=text):
            claims.allocated(store, pod(name))


def extended(**mapping: str) -> dict[str, Any]:
    told = {"containerName": "app", "resourceName": SRIOV, "requestName": "container-0", **mapping}
    return {"resourceClaimName": "ext", "requestMappings": [told]}


def test_extended_resources_are_told_by_container(store: FileStore):
    """resources.limits of the pod, allocated by a claim that the scheduler made."""
    claim(store, "ext", result("vf0", request="container-0"), result("vf1", request="other"))

    found = claims.allocated(store, pod(extended=extended()))

    assert [(SRIOV, VFS[0], "app")] == [(each.resource, each.device_id, each.container) for each in found]


def test_extended_resources_that_are_not_allocated_are_asked_for_again(store: FileStore):
    """By the request's name."""
    claim(store, "ext", result("vf1", request="other"))

    with pytest.raises(TryAgainLater, match="claim telco/ext: request container-0 is not allocated"):
        claims.allocated(store, pod(extended=extended()))


def test_a_device_of_another_resource_than_the_container_asked_for_is_refused(store: FileStore):
    """The driver's attribute and the device class disagree; nothing is guessed."""
    claim(store, "ext", result("vf0", request="container-0"))

    with pytest.raises(
        BadConfig, match=r"attribute .*resourceName 'intel.com/sriov': expected example.com/nic"
    ):
        claims.allocated(store, pod(extended=extended(resourceName="example.com/nic")))


def test_golden_objects_are_valid(store: FileStore):
    """What this test writes is what a server would take, as far as we look at it."""
    claim(store, "c", "vf0")

    assert [] == list(store.problems())
    assert json.dumps(store.get(Kind.RESOURCE_CLAIM, "telco", "c"))
