"""
A node of a cluster as it is: API server, kubelet, containerd, our shim and daemon; nothing is stood in for.

Only the devices are names, of a plugin of the tests, and what would use them notes what it was given.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s.api_store import ApiStore
from meta_cni.k8s.store import Kind, NotFound
from tests import device_plugin
from tests.device_plugin import DevicePlugin
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.k8s.cluster import Cluster
from tests.k8s.conftest import MANIFESTS, TREE, opened
from tests.netns import containerd
from tests.netns.conftest import PodNetns
from tests.netns.containerd import IMAGE, Runtime
from tests.netns.daemons import until
from tests.netns.kubelets import NODE, RealKubelet

pytestmark = pytest.mark.slow
NAMESPACE = "telco"
RESOURCE = "example.com/sriov"
DEVICES = [f"function-{n}" for n in range(4)]
STATUS = "k8s.v1.cni.cncf.io/network-status"
PROBE = """\
cat >{root}/given/$CNI_COMMAND-$CNI_IFNAME
[ $CNI_COMMAND != ADD ] || echo '{{"cniVersion": "1.0.0"}}'
"""


@pytest.fixture
def cluster(tmp_path: Path, private_node: object) -> Iterator[Cluster]:
    """With our CRD and our role."""
    try:
        found = assets.find(programs=tuple(assets.PROGRAMS))
    except Missing as missing:
        pytest.skip(str(missing))
    (tmp_path / "cluster").mkdir()
    with Cluster(found, tmp_path / "cluster") as made:
        made.apply(TREE / each for each in MANIFESTS)
        made.create({"metadata": {"name": NAMESPACE}, "kind": "Namespace", "apiVersion": "v1"})
        yield made


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path) -> ApiStore:
    """The administrator's hands."""
    return opened(cluster.write_kubeconfig(tmp_path / "administrator"))


@pytest.fixture
def runtime(
    cluster: Cluster, tmp_path: Path, outside: PodNetns, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runtime]:
    """Our daemon goes by the account that deploy/ gives it; `probe` notes what it is given."""
    containerd.require("cc")
    monkeypatch.setenv("NODE_NAME", NODE)
    account = {"token": cluster.token("kube-system", "meta-cni")}
    (tmp_path / "given").mkdir()
    with containerd.private_directories("/var/lib", "/var/log"):
        made = Runtime(tmp_path, cluster.write_kubeconfig(tmp_path / "account", **account))
        probe = tmp_path / "bin" / "probe"
        probe.write_text(f"#!/bin/sh\n{PROBE.format(root=tmp_path)}")
        probe.chmod(0o755)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def plugin(tmp_path: Path, runtime: Runtime, store: ApiStore) -> Iterator[DevicePlugin]:
    """The node's kubelet runs, and has devices to give."""
    kubelet = RealKubelet(tmp_path, runtime)
    try:
        kubelet.start(f"--kubeconfig={tmp_path / 'administrator'}", "--node-ip=192.0.2.1")
        with device_plugin.registered(kubelet.plugins, RESOURCE, DEVICES) as made:
            until(lambda: all(each.encode() in kubelet.allocatable() for each in DEVICES))
            yield made
    finally:
        kubelet.kill()
        for sandbox in runtime.sandboxes():
            runtime.remove(sandbox.id)


def network(name: str, config: dict[str, Any], **annotations: str) -> dict[str, Any]:
    """As applied."""
    about = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
    kind = Kind.NETWORK_ATTACHMENT_DEFINITION.value
    text = json.dumps({"cniVersion": "1.0.0", "name": name, **config})
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": about, "spec": {"config": text}}


def pod(networks: str, *containers: str) -> dict[str, Any]:
    """On the node, with a device for each container."""
    wanted = [
        {"name": each, "image": IMAGE, "imagePullPolicy": "Never", "resources": {"limits": {RESOURCE: "1"}}}
        for each in containers
    ]
    annotations = {"k8s.v1.cni.cncf.io/networks": networks}
    spec = {
        "nodeName": NODE,
        "containers": wanted,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
    }
    metadata = {"name": "p", "namespace": NAMESPACE, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_a_pod_gets_its_networks_and_devices_and_leaves_nothing(
    plugin: DevicePlugin, runtime: Runtime, store: ApiStore, tmp_path: Path
):
    """From `kubectl apply` to the kernel, and back by `kubectl delete`."""
    for name in ("rx", "tx"):
        named = {"k8s.v1.cni.cncf.io/resourceName": RESOURCE}
        store.create(Kind.NETWORK_ATTACHMENT_DEFINITION, network(name, {"type": "probe"}, **named))
    store.create(Kind.NETWORK_ATTACHMENT_DEFINITION, network("media", runtime.bridge("br1", 1)))
    store.create(Kind.POD, pod("media,rx,tx", "app", "sidecar"))
    until(lambda: runtime.running() == ["app", "sidecar"])
    until(lambda: store.get(Kind.POD, NAMESPACE, "p")["status"]["phase"] == "Running")
    found = store.get(Kind.POD, NAMESPACE, "p")
    until(lambda: len(messages(store, "AddedInterface")) == 2)  # probe makes no interface
    ledger = list((tmp_path / "state" / "ledger").glob("[0-9a-f]*"))
    store.delete(Kind.POD, NAMESPACE, "p")
    until(lambda: is_gone(store))

    assert "10.244.0.2" == found["status"]["podIP"]
    told = [
        (each["interface"], each["name"]) for each in json.loads(found["metadata"]["annotations"][STATUS])
    ]
    names = [f"{NAMESPACE}/{each}" for each in ("media", "rx", "tx")]
    assert [("eth0", "cbr0"), *zip(("net1", "net2", "net3"), names, strict=True)] == told
    devices = [device for (device,) in plugin.allocations()]
    for verb in ("ADD", "DEL"):
        assert devices == [given(tmp_path, f"{verb}-{each}")["deviceID"] for each in ("net2", "net3")]
    assert 1 == len(ledger)
    assert [] == list((tmp_path / "state" / "ledger").glob("[0-9a-f]*"))
    assert [] == list((tmp_path / "ipam").rglob("10.*"))


def test_a_pod_whose_network_comes_late_runs_then(
    plugin: DevicePlugin, runtime: Runtime, store: ApiStore, tmp_path: Path
):
    """The kubelet tells why and tries again, with the same device; what was undone holds no address."""
    store.create(Kind.POD, pod("media,rx", "app"))
    until(lambda: messages(store, "FailedCreatePodSandBox") and messages(store, "NoNetworkFound"))
    told = messages(store, "FailedCreatePodSandBox")[0]
    networks = {
        "media": network("media", runtime.bridge("br1", 1)),
        "rx": network("rx", {"type": "probe"}, **{"k8s.v1.cni.cncf.io/resourceName": RESOURCE}),
    }
    for each in networks.values():
        store.create(Kind.NETWORK_ATTACHMENT_DEFINITION, each)

    until(lambda: runtime.running() == ["app"])

    for name in networks:
        assert f"no NetworkAttachmentDefinition {name} in namespace {NAMESPACE}" in told
    ((device,),) = plugin.allocations()
    assert device == given(tmp_path, "ADD-net2")["deviceID"]
    assert 1 == len(list((tmp_path / "state" / "ledger").glob("[0-9a-f]*")))
    assert 2 == len(list((tmp_path / "ipam").rglob("10.*")))


def messages(store: ApiStore, reason: str) -> list[str]:
    """Of the events with this reason."""
    return [each["message"] for each in store.list(Kind.EVENT, NAMESPACE)[0] if each["reason"] == reason]


def is_gone(store: ApiStore) -> bool:
    """The kubelet has said that nothing is left of it."""
    try:
        store.get(Kind.POD, NAMESPACE, "p")
    except NotFound:
        return True
    return False


def given(root: Path, call: str) -> dict[str, Any]:
    """What probe was given."""
    told: dict[str, Any] = json.loads((root / "given" / call).read_text())
    return told
