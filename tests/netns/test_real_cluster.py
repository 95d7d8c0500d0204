"""
A daemon on a real API server, under the account and the role of deploy/, shims calling it as containerd does.

What happens to a pod and its networks before, in the middle of, and after an ADD. The way to the server
is a gate that can be closed. Skips where there is no kube-apiserver.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s import claims
from meta_cni.k8s.api_store import ApiStore
from meta_cni.k8s.store import Forbidden, Kind, Object, Selector
from meta_cni.linux.netlink import Socket
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.k8s.cluster import Cluster
from tests.k8s.conftest import MANIFESTS, TREE, opened
from tests.k8s.gate import Gate
from tests.k8s.stand_in import write_kubeconfig
from tests.kubelet import FakeKubelet
from tests.netns.conftest import PodNetns
from tests.netns.daemons import PORT, Answer, Daemon, answer_of, metrics, until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT = "v1.multus-cni.io/default-network"
STATUS = "k8s.v1.cni.cncf.io/network-status"
NAMESPACES = ("telco", "other")
NODE = "n1"
GATE = "DRAExtendedResource"
"""Claims that the scheduler makes of resources.limits: off by default in 1.35."""
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def api_server(private_node: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """In the private node's own namespace, with our CRD and our role."""
    try:
        found = assets.find()
    except Missing as missing:
        pytest.skip(str(missing))
    with Cluster(found, tmp_path_factory.mktemp("cluster"), f"--feature-gates={GATE}=true") as made:
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
        serving = ("--http", f"127.0.0.1:{PORT}")
        self.daemon = Daemon(root, "--config", str(root / "daemon-config.json"), *serving)

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
def node(tmp_path: Path, api_server: Cluster, host: Socket) -> Iterator[RealNode]:
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
    """Until an ADD asks the server for nothing; it fails after that, so that no status is written."""
    fails = node.plugin("fails", FAILS)

    def asked() -> float:
        before = _look_ups()
        assert "not today" in node.refused(pod, delegates=[fails])["msg"]
        return _look_ups() - before

    until(lambda: asked() == 0)


def _look_ups() -> float:
    """Single objects that the daemon has asked the server for."""
    told = metrics()
    return sum(told[each] for each in told if each.startswith("meta_cni_api_calls") and 'verb="get"' in each)


FAILS = """
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"code": 999, "msg": "not today"}'
exit 1
"""
WAITS = """
[ "$CNI_COMMAND" = ADD ] || exit 0
touch {root}/reached
while [ ! -e {root}/go ]; do sleep 0.01; done
echo '{{"cniVersion": "1.0.0"}}'
"""
Happens = Callable[[RealNode], object]


def in_the_middle(node: RealNode, pod: PodNetns, uid: str, happens: Happens) -> Answer:
    """An ADD during which something happens, while the plugin of the default network runs."""
    waits = node.plugin("waits", WAITS.format(root=node.root))
    with ThreadPoolExecutor() as pool:
        answered = pool.submit(node.call, "ADD", pod, uid, delegates=[waits])
        until((node.root / "reached").exists)
        try:
            happens(node)
        finally:
            (node.root / "go").touch()
        return answered.result()


def annotated(node: RealNode) -> None:
    """It asks for another network, and somebody adds a key of his own."""
    told = {NETWORKS: f"a-{node.number},b-{node.number}", "example.com/new": "1"}
    node.objects.patch(Kind.POD, "telco", node.name, {"metadata": {"annotations": told}})


def ending(node: RealNode) -> None:
    """It is deleted, and has its grace period; its status may be written still."""
    assert 200 == node.server.ask("DELETE", f"/api/v1/namespaces/telco/pods/{node.name}")[0]


def another_config(node: RealNode) -> None:
    """The network becomes another one."""
    config = json.dumps(node.bridge("a", 99))
    node.objects.patch(NAD, "telco", f"a-{node.number}", {"spec": {"config": config}})


def no_network(node: RealNode) -> None:
    """The network is gone."""
    node.objects.delete(NAD, "telco", f"a-{node.number}")


GOES_ON: dict[str, Happens] = {
    "other annotations": annotated,
    "it is being deleted": ending,
    "the network is changed": another_config,
    "the network is gone": no_network,
}
"""What happens in the middle of an ADD, and does not concern it: what was read counts."""


@pytest.mark.parametrize("name", GOES_ON)
def test_what_was_read_counts(node: RealNode, pod: PodNetns, name: str):
    """The pod gets what it asked for when it was asked, is told of it, and its DEL undoes that."""
    node.network("b", 20)
    uid = node.pod(node.network("a", 10))

    answer, code = in_the_middle(node, pod, uid, GOES_ON[name])

    assert 0 == code, answer
    assert (["net1"], ["eth0", "net1"]) == (pod.links(), node.told())
    assert all(each.startswith("10.10.0.") for each in pod.addresses("net1"))
    if name == "other annotations":
        told = node.annotations()
        assert ("1", f"a-{node.number},b-{node.number}") == (told["example.com/new"], told[NETWORKS])
    assert 0 == node.call("DEL", pod)[1]
    node.is_clean(pod)


UNDONE: dict[str, tuple[Happens, str]] = {
    "gone": (RealNode.remove, "it was deleted while it was attached"),
    "replaced": (lambda node: replaced(node, None), "it was replaced by"),  # type: ignore[arg-type]
}
"""What becomes of the pod in the middle of an ADD, and what the runtime is told."""


@pytest.mark.parametrize("name", UNDONE)
def test_a_pod_that_is_another_one_in_the_end_is_undone(node: RealNode, pod: PodNetns, name: str):
    """Code 11, nothing is left, and the new one is told nothing."""
    happens, words = UNDONE[name]
    uid = node.pod(node.network("a", 10))

    answer, code = in_the_middle(node, pod, uid, happens)

    assert (1, 11) == (code, answer["code"]), answer
    assert words in answer["msg"]
    node.is_clean(pod)
    if name == "replaced":
        assert STATUS not in node.annotations()


@contextmanager
def deaf(node: RealNode) -> Iterator[None]:
    """The daemon hears of no change, as when a watch is late: it may get objects, and not watch them."""
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/meta-cni"
    rules: list[Object] = node.server.ask("GET", path)[1]["rules"]
    silent = [{**each, "verbs": [verb for verb in each["verbs"] if verb not in LISTENING]} for each in rules]

    def put(wanted: list[Object]) -> None:
        answer = node.server.ask("PATCH", path, {"rules": wanted}, "application/merge-patch+json")
        assert 200 == answer[0], answer

    put([each for each in silent if each["verbs"]])
    try:
        until(lambda: not _may_list(node))  # the server reads its roles by a watch of its own
        node.gate.cut()
        until(lambda: 2 <= node.daemon.log.read_text().count("what was known before stays"))
        yield
    finally:
        put(rules)


def _may_list(node: RealNode) -> bool:
    try:
        opened(node.kubeconfig).list(NAD)
    except Forbidden:
        return False
    return True


LISTENING = ("list", "watch")


def test_a_network_that_was_made_the_instant_before_is_found(node: RealNode, pod: PodNetns):
    """So is the pod: neither's event has come (D-23)."""
    with deaf(node):
        uid = node.pod(node.network("a", 10))

        node.add(pod, uid)

    assert ["eth0", "net1"] == node.told()
    assert 0 == node.call("DEL", pod)[1]
    node.is_clean(pod)


def test_networks_and_pods_that_come_all_at_once_are_found(node: RealNode, pods: Callable[[str], PodNetns]):
    """Whichever is faster, the watch or the runtime."""
    for number in range(8):
        pod = pods(f"pod{number}")
        node.number = next(_NUMBERS)
        uid = node.pod(node.network("a", 10))

        node.add(pod, uid)

        assert ["eth0", "net1"] == node.told()
        assert 0 == node.call("DEL", pod)[1]
        node.is_clean(pod)


@pytest.mark.parametrize("change", [another_config, no_network, annotated, RealNode.remove])
def test_a_del_undoes_what_was_made_whatever_is_there_by_then(node: RealNode, pod: PodNetns, change: Happens):
    """Its record counts; a CHECK finds all as it was."""
    uid = node.pod(node.network("a", 10))
    node.add(pod, uid)
    change(node)

    result = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}
    assert ({}, 0) == node.call("CHECK", pod, uid, prevResult=result)
    assert ({}, 0) == node.call("DEL", pod, uid)
    node.is_clean(pod)


@pytest.mark.parametrize("namespace", ["other", "kube-system"])
def test_isolation_is_closed_for_the_default_network_as_well(node: RealNode, pod: PodNetns, namespace: str):
    """A pod must not choose its way out; kube-system, where a bare name leads, is another one's (D-45)."""
    name = node.network("default", 30, namespace)
    reference = f"{namespace}/{name}"
    uid = node.pod(**{DEFAULT: name if namespace == "kube-system" else reference})

    error = node.refused(pod, uid, namespaceIsolation=True)

    words = (
        f"pod telco/{node.name}: annotation {DEFAULT}[0]: network {reference}: namespaceIsolation is on: "
        "expected a network in one of the namespaces telco, default"
    )
    assert (7, words) == (error["code"], error["msg"])
    until(node.events)
    ((reason, message),) = node.events()
    assert ("InvalidNetwork", True) == (reason, words in message)
    assert STATUS not in node.annotations()
    node.add(pod, uid, namespaceIsolation=True, globalNamespaces=f"default,{namespace}")
    assert all(each.startswith("10.30.0.") for each in pod.addresses("eth0"))
    assert [reference] == [each["name"] for each in json.loads(node.annotations()[STATUS])]
    assert 0 == node.call("DEL", pod)[1]
    node.is_clean(pod)


def test_isolation_lets_a_pod_choose_a_default_network_of_its_own(node: RealNode, pod: PodNetns):
    """As Multus' documentation has it for all others."""
    uid = node.pod(**{DEFAULT: f"telco/{node.network('default', 31)}"})

    node.add(pod, uid, namespaceIsolation=True)

    assert all(each.startswith("10.31.0.") for each in pod.addresses("eth0"))
    assert 0 == node.call("DEL", pod)[1]


SRIOV, DRIVER = "intel.com/sriov", "sriov.example.com"
RESOURCES = "/apis/resource.k8s.io/v1"
CLAIMS = f"{RESOURCES}/namespaces/telco/resourceclaims"
MERGE = "application/merge-patch+json"
TELLS = """
[ "$CNI_COMMAND" = ADD ] || exit 0
cat > {root}/given
echo '{{"cniVersion": "1.0.0"}}'
"""


class Claiming:
    """A pod that claims a device for its network; the test is scheduler, driver and claim controller."""

    def __init__(self, node: RealNode, kubelet: FakeKubelet) -> None:
        self.node = node
        self.claim = f"claim-{node.number}"
        self.pool = f"{NODE}-{node.number}"
        kubelet.answer()
        node.settings["kubeletDir"] = str(kubelet.directory)
        tells = node.plugin("tells", TELLS.format(root=node.root))
        annotation = {"k8s.v1.cni.cncf.io/resourceName": SRIOV}
        self.network = node.put_network("media", tells, **annotation)

    def make(self, path: str, document: Object) -> None:
        """Of resource.k8s.io/v1."""
        code, answer = self.node.server.ask("POST", path, {"apiVersion": "resource.k8s.io/v1", **document})
        assert 201 == code, answer

    def claimed(self) -> None:
        """The claim of a user."""
        request = {"name": "nic", "exactly": {"deviceClassName": DRIVER}}
        metadata = {"name": self.claim, "namespace": "telco"}
        spec = {"devices": {"requests": [request]}}
        self.make(CLAIMS, {"kind": "ResourceClaim", "metadata": metadata, "spec": spec})

    def offered(self, name: str, attributes: Mapping[str, str], generation: int = 1) -> None:
        """The driver tells of its device vf0."""
        told = {key: {"string": value} for key, value in attributes.items()}
        pool = {"name": self.pool, "generation": generation, "resourceSliceCount": 1}
        spec = {
            "driver": DRIVER,
            "nodeName": NODE,
            "pool": pool,
            "devices": [{"name": "vf0", "attributes": told}],
        }
        metadata = {"name": f"{name}-{self.node.number}"}
        path = f"{RESOURCES}/resourceslices"
        self.make(path, {"kind": "ResourceSlice", "metadata": metadata, "spec": spec})

    def allocated(self) -> None:
        """The scheduler gives it."""
        result = {"request": "nic", "driver": DRIVER, "pool": self.pool, "device": "vf0"}
        status = {"status": {"allocation": {"devices": {"results": [result]}}}}
        code, answer = self.node.server.ask("PATCH", f"{CLAIMS}/{self.claim}/status", status, MERGE)
        assert 200 == code, answer

    def pod(self, *, is_from_template: bool = False) -> str:
        """Somebody makes it; its UID."""
        key, name = (
            ("resourceClaimTemplateName", "t") if is_from_template else ("resourceClaimName", self.claim)
        )
        return self.node.pod(self.network, {"resourceClaims": [{"name": "nic", key: name}]})

    def told(self, status: Object) -> None:
        """A controller, or the scheduler, writes it into the pod's status."""
        path = f"/api/v1/namespaces/telco/pods/{self.node.name}/status"
        code, answer = self.node.server.ask("PATCH", path, {"status": status}, MERGE)
        assert 200 == code, answer
        assert status.items() <= answer["status"].items(), answer["status"]

    def given(self) -> str:
        """The device in the plugin's configuration."""
        return str(json.loads((self.node.root / "given").read_text())["deviceID"])


@pytest.fixture
def claiming(node: RealNode, fake_kubelet: FakeKubelet) -> Claiming:
    """With its network; nothing of the claim is there."""
    return Claiming(node, fake_kubelet)


VF = "fabric-7"
"""No PCI address: that would have to be this machine's."""
ATTRIBUTES = {claims.DEVICE_ID: VF, claims.RESOURCE_NAME: SRIOV}


def test_a_claims_device_is_waited_for_step_by_step(claiming: Claiming, pod: PodNetns):
    """Each is tried again, with what is missing; then the network gets the device, from the newest slice."""
    node = claiming.node
    uid = claiming.pod()
    missing = []
    for step in (claiming.claimed, claiming.allocated, lambda: claiming.offered("new", ATTRIBUTES, 2)):
        error = node.refused(pod, uid)
        assert 11 == error["code"], error
        missing.append(error["msg"])
        step()
    claiming.offered("old", {**ATTRIBUTES, claims.DEVICE_ID: "fabric-6"}, 1)

    node.add(pod, uid)

    claim = f"claim telco/{claiming.claim}"
    assert [
        f"{claim}: the store does not know it (yet)",
        f"{claim}: no device is allocated (yet)",
        f"{claim}: device {DRIVER}/{claiming.pool}/vf0: no ResourceSlice has it (yet)",
    ] == missing
    assert VF == claiming.given()
    assert ["eth0", "net1"] == node.told()
    assert 0 == node.call("DEL", pod)[1]
    node.is_clean(pod)


def test_a_claim_that_was_made_from_a_template_is_found_by_the_pods_status(claiming: Claiming, pod: PodNetns):
    """Its name is made up by the controller."""
    node = claiming.node
    uid = claiming.pod(is_from_template=True)
    claiming.claimed()
    claiming.allocated()
    claiming.offered("new", ATTRIBUTES)
    claiming.told({"resourceClaimStatuses": [{"name": "nic", "resourceClaimName": claiming.claim}]})

    until(lambda: node.call("ADD", pod, uid)[1] == 0)  # the daemon may not have heard of the status

    assert VF == claiming.given()
    assert 0 == node.call("DEL", pod)[1]


def test_a_claim_that_the_scheduler_made_of_a_limit_is_found(claiming: Claiming, pod: PodNetns):
    """The pod's manifest is as for a device plugin, and no claim is named in it."""
    node = claiming.node
    container = {
        "name": "c",
        "image": "none",
        "resources": {"limits": {SRIOV: "1"}, "requests": {SRIOV: "1"}},
    }
    uid = node.pod(claiming.network, {"containers": [container]})
    claiming.claimed()
    claiming.allocated()
    claiming.offered("new", ATTRIBUTES)
    mapping = {"containerName": "c", "resourceName": SRIOV, "requestName": "nic"}
    claiming.told(
        {"extendedResourceClaimStatus": {"resourceClaimName": claiming.claim, "requestMappings": [mapping]}}
    )

    until(lambda: node.call("ADD", pod, uid)[1] == 0)

    assert VF == claiming.given()
    assert 0 == node.call("DEL", pod)[1]


@pytest.mark.parametrize("lacking", ATTRIBUTES)
def test_a_device_without_the_attribute_is_none_for_a_network(
    claiming: Claiming, pod: PodNetns, lacking: str
):
    """A graphics card is claimed in the same way; the error says which one it lacks."""
    node = claiming.node
    uid = claiming.pod()
    claiming.claimed()
    claiming.allocated()
    claiming.offered("new", {key: value for key, value in ATTRIBUTES.items() if key != lacking})

    error = node.refused(pod, uid)

    assert 7 == error["code"]
    assert f"(telco/{claiming.network}): resource {SRIOV}: " in error["msg"]
    device = f"{DRIVER}/{claiming.pool}/vf0"
    words = f"; claim telco/{claiming.claim}: device {device} has no attribute {lacking}"
    assert error["msg"].endswith(words)
    assert STATUS not in node.annotations()


def test_of_claims_the_role_allows_what_is_asked_for_and_no_more(claiming: Claiming, tmp_path: Path):
    """get of a claim, list of slices: a daemon that is taken over learns of no other, and changes none."""
    node = claiming.node
    claiming.claimed()
    claiming.offered("new", ATTRIBUTES)
    daemon = opened(node.kubeconfig)
    claim, slices = (Kind.RESOURCE_CLAIM, "telco", claiming.claim), Kind.RESOURCE_SLICE
    name = f"new-{node.number}"

    assert claiming.claim == daemon.get(*claim)["metadata"]["name"]
    selector = Selector({"spec.driver": DRIVER, "spec.nodeName": NODE})
    assert name in [each["metadata"]["name"] for each in daemon.list(slices, None, selector)[0]]
    patch = {"metadata": {"labels": {"a": "b"}}}
    refused: dict[str, Callable[[], object]] = {
        "resourceclaims list": lambda: daemon.list(Kind.RESOURCE_CLAIM, "telco"),
        "resourceclaims watch": lambda: list(daemon.watch(Kind.RESOURCE_CLAIM, "telco", "1", 1)),
        "resourceclaims patch": lambda: daemon.patch(*claim, patch),
        "resourceclaims/status patch": lambda: daemon.patch(*claim, patch, subresource="status"),
        "resourceclaims delete": lambda: daemon.delete(*claim),
        "resourceslices get": lambda: daemon.get(slices, "", name),
        "resourceslices watch": lambda: list(daemon.watch(slices, None, "1", 1)),
        "resourceslices patch": lambda: daemon.patch(slices, "", name, patch),
        "resourceslices delete": lambda: daemon.delete(slices, "", name),
    }
    for what, ask in refused.items():
        resource, verb = what.split()
        with pytest.raises(Forbidden, match=rf"resources \['{resource}'\], verbs \['{verb}'\]"):
            ask()
