"""A real container runtime runs a pod's sandbox by our shim and daemon, with an API server: containerd."""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from meta_cni.k8s.store import Kind
from meta_cni.linux.netlink import Socket
from tests.k8s.stand_in import StandIn
from tests.netns import containerd
from tests.netns.containerd import Runtime
from tests.netns.daemons import until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """The cluster."""
    with StandIn() as made:
        yield made


@pytest.fixture
def runtime(tmp_path: Path, host: Socket, stand_in: StandIn) -> Iterator[Runtime]:
    """A node of it."""
    containerd.require("cc")
    with containerd.private_directories("/var/lib"):
        made = Runtime(tmp_path, stand_in.write_kubeconfig(tmp_path / "kubeconfig"))
        try:
            made.start()
            yield made
        finally:
            made.close()


def test_containerd_gives_a_pod_its_networks(runtime: Runtime, stand_in: StandIn):
    """From the kubelet's call to the kernel, and back when the pod is removed."""
    config = {"cniVersion": "1.0.0", **runtime.bridge("br1", 1)}
    network = {"metadata": {"name": "media", "namespace": "telco"}}
    stand_in.put(NAD, {**network, "spec": {"config": json.dumps(config)}})
    annotations = {"k8s.v1.cni.cncf.io/networks": "media"}
    metadata = {"name": "p", "namespace": "telco", "annotations": annotations}
    uid = stand_in.put(Kind.POD, {"metadata": metadata})["metadata"]["uid"]

    sandbox = runtime.run("p", uid)
    status = runtime.status(sandbox)
    known = stand_in.objects.known
    told = known["pods", "telco", "p"]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
    until(lambda: sum(key[0] == "events" for key in list(known)) == 2)
    ledger = list((runtime.root / "state" / "ledger").glob("[0-9a-f]*"))
    runtime.remove(sandbox)

    assert "10.244.0.2" == status.status.network.ip
    found = [(each["interface"], each["name"], each["ips"]) for each in json.loads(told)]
    assert [("eth0", "cbr0", ["10.244.0.2/24"]), ("net1", "telco/media", ["10.1.0.2/24"])] == found
    assert [sandbox] == [each.name for each in ledger]
    assert [] == list((runtime.root / "state" / "ledger").glob("[0-9a-f]*"))
    left = [each for each in (runtime.root / "ipam").rglob("10.*")]
    assert [] == left


def test_containerd_is_told_why_and_leaves_nothing(runtime: Runtime, stand_in: StandIn):
    """The kubelet shows this text as FailedCreatePodSandBox; ours is beside it, with the hint."""
    metadata = {"name": "p", "namespace": "telco", "annotations": {"k8s.v1.cni.cncf.io/networks": "gone"}}
    uid = stand_in.put(Kind.POD, {"metadata": metadata})["metadata"]["uid"]

    with pytest.raises(grpc.RpcError) as failed:
        runtime.run("p", uid)

    assert "no NetworkAttachmentDefinition gone in namespace telco" in failed.value.details()
    known = stand_in.objects.known
    until(lambda: any(key[0] == "events" for key in list(known)))
    assert ["NoNetworkFound"] == [each["reason"] for key, each in known.items() if key[0] == "events"]
    assert [] == list((runtime.root / "state" / "ledger").glob("[0-9a-f]*"))
    assert not list((runtime.root / "ipam").rglob("10.*"))
