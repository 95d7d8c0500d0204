"""
A daemon on a real API server, under the account and the role of deploy/, shims calling it as containerd does.

What happens to a pod and its networks before, in the middle of, and after an ADD. The way to the server
is a gate that can be closed. Skips where there is no kube-apiserver.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s.api_store import ApiStore
from meta_cni.k8s.store import Kind, Object
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.k8s.cluster import Cluster
from tests.k8s.conftest import MANIFESTS, TREE, opened
from tests.k8s.gate import Gate
from tests.k8s.stand_in import write_kubeconfig
from tests.netns.conftest import PodNetns
from tests.netns.daemons import Answer, Daemon, answer_of, until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT = "v1.multus-cni.io/default-network"
STATUS = "k8s.v1.cni.cncf.io/network-status"
NAMESPACES = ("telco", "other")
NODE = "n1"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def api_server(private_node: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """In the private node's own namespace, with our CRD and our role."""
    try:
        found = assets.find()
    except Missing as missing:
        pytest.skip(str(missing))
    with Cluster(found, tmp_path_factory.mktemp("cluster")) as made:
        made.apply(TREE / each for each in MANIFESTS)
        for name in NAMESPACES:
            made.create({"metadata": {"name": name}, "kind": "Namespace", "apiVersion": "v1"})
        yield made


class RealNode:
    """A node of the cluster: daemon, shim, and a gate on the way to the API server."""

    def __init__(self, root: Path, server: Cluster, gate: Gate) -> None:
        self.root = root
        self.server = server
        self.gate = gate
        self.objects: ApiStore = opened(server.write_kubeconfig(root / "administrator"))
        self.number = next(_NUMBERS)
        """No two tests have a pod, a network or a bridge of one name."""
        authority = {"certificate-authority": str(server.directory / "authority.crt")}
        token = {"token": server.token("kube-system", "meta-cni")}
        self.kubeconfig = write_kubeconfig(root / "kubeconfig", {"server": gate.url, **authority}, token)
        for name in ("conf", "net.d", "bin"):
            (root / name).mkdir()
        self.settings: dict[str, Any] = {
            "cniDir": str(root / "state"),
            "confDir": str(root / "conf"),
            "binDir": str(root / "bin"),
            "kubeconfig": str(self.kubeconfig),
            "kubeletDir": str(root / "kubelet"),
            "deviceInfoDir": str(root / "devinfo"),
        }
        own = {**self.settings, "cniConfigDir": str(root / "net.d")}
        (root / "daemon-config.json").write_text(json.dumps(own))
        self.daemon = Daemon(root, "--config", str(root / "daemon-config.json"))

    @property
    def name(self) -> str:
        """The pod's."""
        return f"p{self.number}"

    def start(self) -> None:
        """The daemon, on the node of this name."""
        self.daemon.start(env={**os.environ, "NODE_NAME": NODE})

    def bridge(self, name: str, subnet: int) -> dict[str, Any]:
        """A network with its own bridge."""
        ranges = [[{"subnet": f"10.{subnet}.0.0/24"}]]
        ipam = {"type": "host-local", "dataDir": str(self.root / "ipam"), "ranges": ranges}
        bridge = f"br{subnet}-{self.number}"
        return {"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": bridge, "ipam": ipam}

    def network(self, name: str, subnet: int, namespace: str = "telco", **annotations: str) -> str:
        """Somebody makes a network; its name."""
        return self.put_network(name, self.bridge(name, subnet), namespace, **annotations)

    def put_network(
        self, name: str, config: dict[str, Any], namespace: str = "telco", **annotations: str
    ) -> str:
        """Of any configuration."""
        made = f"{name}-{self.number}"
        metadata = {"name": made, "namespace": namespace, "annotations": annotations}
        about = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind, "metadata": metadata}
        self.objects.create(NAD, {**about, "spec": {"config": json.dumps(config)}})
        return made

    def pod(self, networks: str = "", spec: Object | None = None, **annotations: str) -> str:
        """Somebody makes the pod; its UID."""
        told = {NETWORKS: networks, **annotations}
        metadata = {"name": self.name, "namespace": "telco", "annotations": told}
        described = {"nodeName": NODE, "containers": [{"name": "c", "image": "none"}], **(spec or {})}
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": described}
        return str(self.objects.create(Kind.POD, document)["metadata"]["uid"])

    def remove(self) -> None:
        """The pod is gone, at once."""
        path = f"/api/v1/namespaces/telco/pods/{self.name}"
        assert 200 == self.server.ask("DELETE", path, {"gracePeriodSeconds": 0})[0]

    def annotations(self) -> dict[str, str]:
        """The pod's, as the server has them."""
        return dict(self.objects.get(Kind.POD, "telco", self.name)["metadata"].get("annotations") or {})

    def told(self) -> list[str]:
        """The interfaces in its network-status."""
        return [each["interface"] for each in json.loads(self.annotations().get(STATUS, "[]"))]

    def events(self) -> list[tuple[str, str]]:
        """(reason, message) of the pod's events."""
        found = self.objects.list(Kind.EVENT, "telco")[0]
        mine = [each for each in found if each["involvedObject"].get("name") == self.name]
        return [(each["reason"], each["message"]) for each in mine]

    def configuration(self, **more: Any) -> dict[str, Any]:
        """As the runtime hands it on."""
        delegates = [self.bridge("default", 244)]
        about = {"cniVersion": "1.0.0", "name": "node", "type": "meta-cni", "delegates": delegates}
        return {**about, **self.settings, **more}

    def call(self, verb: str, pod: PodNetns, uid: str = "", **more: Any) -> Answer:
        """As containerd does."""
        named = f"{self.name};K8S_POD_UID={uid}"
        given = self.configuration(**more)
        return answer_of(self.daemon.asked(verb, f"sandbox-{self.name}", pod.path, named, given))

    def add(self, pod: PodNetns, uid: str = "", **more: Any) -> None:
        """It must succeed."""
        answer, code = self.call("ADD", pod, uid, **more)
        assert 0 == code, answer

    def refused(self, pod: PodNetns, uid: str = "", **more: Any) -> dict[str, Any]:
        """An ADD that must fail, and leave nothing; the error."""
        answer, code = self.call("ADD", pod, uid, **more)
        assert 1 == code, answer
        self.is_clean(pod)
        return answer

    def is_clean(self, pod: PodNetns) -> None:
        """Nothing is left of the pod, but its bridges."""
        assert [] == pod.links()
        assert [] == [each.name for each in (self.root / "ipam").rglob("10.*")]
        assert [] == [each for each in (self.root / "state").rglob("sandbox-*") if each.is_file()]

    def untold(self) -> list[Path]:
        """What waits for the server."""
        return list((self.root / "state" / "untold").glob("*"))

    def plugin(self, name: str, text: str) -> dict[str, Any]:
        """A plugin of the test's own, and a network of it."""
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return {"cniVersion": "1.0.0", "name": name, "type": name}


@pytest.fixture
def node(tmp_path: Path, api_server: Cluster) -> Iterator[RealNode]:
    """With a daemon that follows the cluster."""
    with Gate(api_server.port) as gate:
        made = RealNode(tmp_path, api_server, gate)
        made.start()
        yield made
        made.daemon.close()


Happening = Callable[[RealNode, PodNetns], object]


def nothing(node: RealNode, pod: PodNetns) -> None:
    """The pod goes on."""


def replaced(node: RealNode, pod: PodNetns) -> None:
    """As by a StatefulSet."""
    node.remove()
    node.pod()


def gone(node: RealNode, pod: PodNetns) -> None:
    """And no other one comes."""
    node.remove()


def detached(node: RealNode, pod: PodNetns) -> None:
    """There is no daemon: the shim spools it."""
    assert ({}, 0) == node.call("DEL", pod)
    assert pod.links()


MEANWHILE: dict[str, tuple[Happening, list[str]]] = {
    "nothing": (nothing, ["eth0", "net1"]),
    "it is replaced": (replaced, []),
    "it is gone": (gone, []),
    "it is detached": (detached, []),
}
"""What happens to a pod while there is no daemon, and what the pod of its name is told of afterwards."""


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_a_status_outlives_the_daemon_that_could_not_tell_it(node: RealNode, pod: PodNetns, meanwhile: str):
    """The server is away during the ADD, the daemon is killed: the next one tells whom it still concerns."""
    happens, expected = MEANWHILE[meanwhile]
    uid = node.pod(node.network("a", 10))
    _known(node, pod)
    node.gate.close()

    node.add(pod, uid)
    assert 1 == len(node.untold())
    node.daemon.kill()
    happens(node, pod)
    node.gate.open()
    node.start()
    until(lambda: not node.untold())

    if meanwhile != "it is gone":
        assert expected == node.told()
    assert 0 == node.call("DEL", pod)[1]
    node.is_clean(pod)


def _known(node: RealNode, pod: PodNetns) -> None:
    """Until the daemon knows the pod without asking: an ADD and a DEL, and a status of before taken away."""
    node.add(pod)
    assert 0 == node.call("DEL", pod)[1]
    node.objects.patch(Kind.POD, "telco", node.name, {"metadata": {"annotations": {STATUS: None}}})
    until(lambda: STATUS not in node.annotations())
