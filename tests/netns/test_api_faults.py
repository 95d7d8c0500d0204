"""
ADD and DEL while the API server is slow, away, forbidding, or changes what was read.

In this process, on a private node, with a memory like the daemon's and the stand-in for the server.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pytest_mock import MockerFixture

from meta_cni import compose
from meta_cni.k8s import api_store
from meta_cni.k8s.access import HOST, PORT, SERVICE_ACCOUNT
from meta_cni.k8s.cached_store import Following
from meta_cni.k8s.store import Kind
from meta_cni.k8s.untold import Status
from tests.k8s.stand_in import StandIn
from tests.netns.conftest import Node
from tests.netns.daemons import until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
PODS, NADS = "pods", NAD.value.plural
Answer = tuple[dict[str, Any], int]


class Cluster:
    """A node that follows a cluster, and one pod of it."""

    def __init__(self, node: Node, stand_in: StandIn) -> None:
        self.node = node
        self.stand_in = stand_in
        self.memory = compose.Memory(is_remembering=True, node="n1")
        self.kubeconfig = str(stand_in.write_kubeconfig(node.root / "kubeconfig"))
        self.uid = ""

    def network(self, name: str, subnet: int) -> None:
        """Somebody makes a network."""
        config = json.dumps(self.node.bridge(name, subnet))
        metadata = {"name": name, "namespace": "telco"}
        self.stand_in.put(NAD, {"metadata": metadata, "spec": {"config": config}})

    def pod(self, networks: str = "", **more: Any) -> None:
        """Somebody makes the pod, or changes it."""
        metadata = {"name": "p", "namespace": "telco", "annotations": {NETWORKS: networks}}
        document = {"metadata": metadata, "spec": {"nodeName": "n1"}, **more}
        self.uid = str(self.stand_in.put(Kind.POD, document)["metadata"]["uid"])

    def remove(self) -> None:
        """The pod is gone, at once."""
        self.stand_in.objects.delete(Kind.POD.value, "telco", "p", 0)

    def follow(self) -> Following:
        """Until the node knows what there is."""
        following = self.memory.follow(self.kubeconfig)
        assert following is not None
        until(lambda: not following.problems())
        if self.uid:
            until(lambda: following.informers[Kind.POD].find("telco", "p"))
        self.stand_in.requests.clear()
        return following

    def freeze(self) -> None:
        """From here on the node hears of nothing, as when a watch is late."""
        following = self.follow()
        self.stand_in.forbidden |= {(verb, each) for verb in ("list", "watch") for each in (PODS, NADS)}

        def is_deaf() -> bool:
            self.stand_in.cut_watches()  # one that was allowed the moment before as well
            return 2 == len(following.problems())

        until(is_deaf)
        self.stand_in.requests.clear()

    def call(self, verb: str, *, uid: str | None = None) -> Answer:
        """As a runtime does."""
        given = {**self.node.configuration(), "kubeconfig": self.kubeconfig}
        del given["store"]
        asked = self.uid if uid is None else uid
        environment = {
            **os.environ,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "sandbox",
            "CNI_NETNS": self.node.pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID={asked}",
            "CNI_PATH": ":".join(self.node.path),
        }
        answer, code = compose.serve(environment, json.dumps(given).encode(), self.memory)
        return (json.loads(answer) if answer else {}), code

    def add(self, **more: Any) -> None:
        """It must succeed."""
        answer, code = self.call("ADD", **more)
        assert code == 0, answer

    def refused(self, **more: Any) -> str:
        """An ADD that the runtime is to try again (11), and that leaves nothing; its words."""
        answer, code = self.call("ADD", **more)
        assert (1, 11) == (code, answer.get("code")), answer
        assert [] == self.node.pod.links()
        assert not self.addresses()
        return str(answer["msg"])

    def addresses(self) -> list[str]:
        """What host-local has given out."""
        return [each.name for each in (self.node.root / "ipam").rglob("10.*")]

    def untold(self) -> list[str]:
        """What waits for the server, over a restart too."""
        return sorted(each.name for each in (self.node.root / "state").glob("untold/*"))

    def calls(self) -> list[str]:
        """What the server was asked for since it was followed, watches aside."""
        asked = [each for each in self.stand_in.asked() if each.verb not in ("list", "watch")]
        return [f"{each.verb} {each.resource}" for each in asked]

    def told(self) -> list[str]:
        """The interfaces in the pod's network-status, as the server has it."""
        annotations = self.stand_in.objects.known[PODS, "telco", "p"]["metadata"]["annotations"]
        return [each["interface"] for each in json.loads(annotations.get(STATUS, "[]"))]


@pytest.fixture
def cluster(node: Node) -> Iterator[Cluster]:
    """With the network telco/a."""
    with StandIn() as stand_in:
        made = Cluster(node, stand_in)
        made.network("a", 10)
        yield made
        made.memory.stop()


@pytest.fixture
def hurried(mocker: MockerFixture) -> None:
    """Whoever waits for the server has little time."""
    mocker.patch.object(compose, "API_ALLOWANCE_S", 0.3)
    mocker.patch.object(compose, "WRITING_S", 0.3)
    mocker.patch.object(compose, "WRITING_WHILE_AWAY_S", 0.3)


def test_an_add_of_a_known_pod_is_one_patch(cluster: Cluster):
    """Nothing is read, and the DEL needs nobody."""
    cluster.pod("a")
    cluster.follow()

    cluster.add()

    assert ["patch pods/status"] == cluster.calls()
    assert ["eth0", "net1"] == cluster.told()
    cluster.stand_in.requests.clear()
    cluster.call("DEL")
    assert [] == cluster.calls()


def test_a_status_that_is_the_same_is_not_told_again(cluster: Cluster):
    """A sandbox that is made anew with the same addresses and MACs costs no call at all."""
    delegate = {**cluster.node.bridge("default", 244), "ipam": {}, "mac": "02:00:5e:00:53:01"}
    cluster.node.settings["delegates"] = [delegate]
    cluster.pod()
    cluster.follow()
    cluster.add()
    cluster.call("DEL")
    cluster.stand_in.requests.clear()

    cluster.add()

    assert [] == cluster.calls()


def test_a_pod_that_nobody_knows_is_tried_again(cluster: Cluster):
    """Never a success with nothing behind it (D-21); the server is asked once."""
    cluster.follow()

    assert "pod telco/p: the store does not know it (yet)" in cluster.refused()
    assert ["get pods"] == cluster.calls()


def test_a_network_that_was_made_the_instant_before_is_found(cluster: Cluster):
    """Its event has not come yet (D-23)."""
    cluster.pod("b")
    cluster.freeze()
    cluster.network("b", 20)

    cluster.add()

    assert [f"get {NADS}", "patch pods/status"] == cluster.calls()
    assert ["eth0", "net1"] == cluster.told()


def test_another_pod_of_the_same_name_is_asked_for(cluster: Cluster):
    """A StatefulSet's pod that was replaced: what is kept is the one before."""
    cluster.pod("a")
    cluster.freeze()
    cluster.remove()
    cluster.pod()

    cluster.add()

    assert ["get pods", "patch pods/status"] == cluster.calls()
    assert ["eth0"] == cluster.told()


def test_a_pod_of_another_uid_is_refused(cluster: Cluster):
    """With both UIDs."""
    cluster.pod()
    cluster.follow()

    assert "expected UID other, the store has" in cluster.refused(uid="other")


def test_a_pod_that_is_deleted_meanwhile_is_not_attached(cluster: Cluster):
    """It was there when its networks were read."""
    cluster.pod("a")
    cluster.freeze()
    cluster.remove()

    assert "pod telco/p: it was deleted while it was attached" in cluster.refused()


def test_a_pod_that_is_replaced_meanwhile_is_not_attached(cluster: Cluster):
    """And the new one is not told of networks that it does not have."""
    cluster.pod("a")
    uid = cluster.uid
    cluster.freeze()
    cluster.remove()
    cluster.pod()

    assert f"it was replaced by {cluster.uid} while" in cluster.refused(uid=uid)
    assert [] == cluster.told()


def test_annotations_that_change_meanwhile_are_kept(cluster: Cluster):
    """What was read counts for the attachment; the status is written beside what is new."""
    cluster.pod("a")
    cluster.freeze()
    before = cluster.stand_in.objects.known[PODS, "telco", "p"]
    annotations = {NETWORKS: "a,a", "example.com/new": "1"}
    cluster.stand_in.put(Kind.POD, {**before, "metadata": {**before["metadata"], "annotations": annotations}})

    cluster.add()

    after = cluster.stand_in.objects.known[PODS, "telco", "p"]["metadata"]["annotations"]
    assert ("a,a", "1") == (after[NETWORKS], after["example.com/new"])
    assert ["eth0", "net1"] == cluster.told()


@pytest.mark.usefixtures("hurried")
def test_while_the_server_is_away_known_pods_live(cluster: Cluster):
    """They are attached and detached; their status is told when the server is back."""
    cluster.pod("a")
    following = cluster.follow()
    cluster.stand_in.stop()
    until(following.problems)

    cluster.add()
    assert ["eth0", "net1"] == sorted(cluster.node.pod.links())
    cluster.call("DEL")
    assert [] == cluster.node.pod.links()
    cluster.add()

    cluster.stand_in.start()
    until(lambda: ["eth0", "net1"] == cluster.told())
    until(lambda: not cluster.untold())


@pytest.mark.usefixtures("hurried")
def test_a_pod_that_was_detached_is_not_told_when_the_server_is_back(cluster: Cluster):
    """Its networks are gone; nothing waits, in memory or in a file."""
    cluster.pod("a")
    following = cluster.follow()
    cluster.stand_in.stop()
    until(following.problems)
    cluster.add()
    assert ["sandbox:eth0"] == cluster.untold()

    cluster.call("DEL")

    assert [] == cluster.untold()
    cluster.stand_in.start()
    until(lambda: not any(each.waiting for each in cluster.memory.late_statuses()))
    assert [] == cluster.told()


@pytest.mark.usefixtures("hurried")
def test_a_pod_that_gc_detached_is_not_told_either(cluster: Cluster):
    """GC knows sandboxes by the ledger, and pods not at all."""
    cluster.pod("a")
    following = cluster.follow()
    cluster.stand_in.stop()
    until(following.problems)
    cluster.add()
    assert ["sandbox:eth0"] == cluster.untold()
    cluster.node.settings["cni.dev/valid-attachments"] = []

    assert ({}, 0) == cluster.call("GC")

    assert [] == cluster.untold()


@pytest.mark.usefixtures("hurried")
def test_another_daemon_goes_on_with_the_first_add_that_it_serves(cluster: Cluster):
    """One that was not told of any configuration learns then where statuses are kept."""
    cluster.pod("a")
    following = cluster.follow()
    cluster.stand_in.stop()
    until(following.problems)
    cluster.add()
    cluster.memory.stop()
    assert ["sandbox:eth0"] == cluster.untold()
    cluster.stand_in.start()

    cluster.memory = compose.Memory(is_remembering=True, node="n1")
    assert 104 == cluster.call("ADD")[0]["code"]  # it has its networks already

    until(lambda: ["eth0", "net1"] == cluster.told())
    until(lambda: not cluster.untold())


@pytest.mark.usefixtures("hurried")
def test_a_status_that_cannot_be_kept_fails_the_add(cluster: Cluster):
    """Nothing is left of it: the runtime tries again."""
    cluster.pod("a")
    following = cluster.follow()
    cluster.stand_in.stop()
    until(following.problems)
    (cluster.node.root / "state").mkdir(exist_ok=True)
    (cluster.node.root / "state" / "untold").write_text("a file in its place")

    answer, code = cluster.call("ADD")

    assert (1, 5) == (code, answer["code"]), answer
    assert "write untold status" in answer["msg"]
    assert ([], []) == (cluster.node.pod.links(), cluster.addresses())


@pytest.mark.usefixtures("hurried")
def test_while_the_server_is_away_others_are_tried_again(cluster: Cluster):
    """The error has the server's address."""
    cluster.follow()
    cluster.stand_in.stop()

    assert cluster.stand_in.url in cluster.refused()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_storm_holds_up_no_known_pod(cluster: Cluster, status: int):
    """0 is a connection that is closed without an answer."""
    cluster.pod("a")
    cluster.follow()
    cluster.stand_in.fail(status, 5, verb="patch")

    cluster.add()

    until(lambda: ["eth0", "net1"] == cluster.told())


@pytest.mark.usefixtures("hurried")
def test_what_the_role_lacks_holds_up_no_known_pod(cluster: Cluster):
    """It is told as soon as it may be."""
    cluster.pod("a")
    cluster.follow()
    cluster.stand_in.forbidden.add(("patch", "pods/status"))

    cluster.add()

    cluster.stand_in.forbidden.clear()
    until(lambda: ["eth0", "net1"] == cluster.told())


def test_what_the_role_lacks_is_named(cluster: Cluster):
    """For a pod that must be asked for."""
    cluster.follow()
    cluster.stand_in.forbidden.add(("get", PODS))

    assert "resources ['pods'], verbs ['get']" in cluster.refused()


def test_a_server_that_has_not_read_its_roles_yet_is_waited_for(cluster: Cluster, mocker: MockerFixture):
    """While it starts it forbids everything: no pod is to be made anew for that."""
    mocker.patch.object(api_store, "UNSURE_REFUSALS", 1000)  # it may be slow to read them
    following = cluster.follow()
    cluster.freeze()
    cluster.pod("a")
    cluster.stand_in.has_read_roles, cluster.stand_in.readiness = False, 500

    with ThreadPoolExecutor() as pool:
        answered = pool.submit(cluster.call, "ADD")
        until(lambda: ("get", PODS, "403") in following.server.tally.read())
        cluster.stand_in.has_read_roles = True
        answer, code = answered.result()

    assert 0 == code, answer
    assert ["eth0", "net1"] == cluster.told()


def test_a_server_that_stays_unready_is_told(cluster: Cluster, mocker: MockerFixture):
    """With what it forbids and how ready it is."""
    mocker.patch.object(compose, "API_ALLOWANCE_S", 2.0)
    cluster.follow()
    cluster.stand_in.forbidden.add(("get", PODS))
    cluster.stand_in.readiness = 500

    assert "a server that may not have read its roles yet (/readyz: 500)" in cluster.refused()


def test_a_token_that_has_expired_is_told(cluster: Cluster):
    """With the file that it is from; the new one there counts at once."""
    token = cluster.node.root / "token"
    token.write_text("secret")
    cluster.kubeconfig = str(cluster.stand_in.write_kubeconfig(cluster.node.root / "k", tokenFile=str(token)))
    cluster.freeze()
    cluster.pod("a")
    cluster.stand_in.tokens = {"newer": "us"}

    assert cluster.refused().endswith(f"expected a token or certificate that is valid in {token}")
    token.write_text("newer")
    cluster.add()


def test_a_pod_without_its_account_is_told(node: Node, monkeypatch: pytest.MonkeyPatch):
    """The kubelet says where the API server is, and nobody has mounted who we are."""
    monkeypatch.setenv(HOST, "fd00:10:96::1")
    monkeypatch.setenv(PORT, "443")
    with StandIn() as stand_in:
        cluster = Cluster(node, stand_in)
        cluster.kubeconfig = ""
        said = (
            f"read {SERVICE_ACCOUNT}/ca.crt: No such file or directory: expected it as the kubelet mounts it"
        )

        assert said in cluster.refused(uid="u")

        following = cluster.memory.follow("")
        assert following is not None
        until(lambda: 2 == len([each for each in following.problems() if said in each]))
        cluster.memory.stop()


def test_a_status_that_waits_is_not_overtaken(cluster: Cluster):
    """A newer one goes behind it, whether or not the server is back."""
    cluster.pod("a")
    cluster.follow()
    late = cluster.memory.late(cluster.kubeconfig, str(cluster.node.root / "state"))
    assert late is not None
    cluster.stand_in.forbidden.add(("patch", "pods/status"))
    patch = {"metadata": {"uid": cluster.uid, "annotations": {STATUS: "[]"}}}
    late.put(Status("of the sandbox before", "eth0", "telco", "p", patch))

    cluster.add()
    cluster.stand_in.forbidden.clear()

    until(lambda: ["eth0", "net1"] == cluster.told())


def test_a_server_that_takes_five_seconds_is_waited_for(cluster: Cluster, mocker: MockerFixture):
    """By the status alone; what is not known is asked for."""
    assert compose.WRITING_S > 5
    mocker.patch.object(compose, "WRITING_S", 60.0)  # on a busy machine it takes more than five
    cluster.pod("a")
    following = cluster.follow()
    cluster.stand_in.latency_s = 5.0

    cluster.add()

    assert ["eth0", "net1"] == cluster.told()
    cluster.call("DEL")
    cluster.remove()
    until(lambda: following.informers[Kind.POD].find("telco", "p") is None)
    assert "the store does not know it (yet)" in cluster.refused()


SCRIPT = """
if [ "$CNI_COMMAND" = ADD ]; then
    touch {root}/reached
    while [ ! -e {root}/go ]; do sleep 0.01; done
    echo '{{"cniVersion": "1.1.0"}}'
fi
"""


def in_the_middle(cluster: Cluster, happens: Callable[[], object]) -> Answer:
    """An ADD during which something happens, while a plugin runs."""
    root = cluster.node.root
    cluster.node.script("waits", SCRIPT.format(root=root))
    cluster.node.settings["delegates"] = [{"cniVersion": "1.1.0", "name": "w", "type": "waits"}]
    with ThreadPoolExecutor() as pool:
        answered = pool.submit(cluster.call, "ADD")
        until((root / "reached").exists)
        try:
            happens()
        finally:
            (root / "go").touch()
        return answered.result()


@pytest.mark.usefixtures("hurried")
def test_a_server_that_is_killed_in_the_middle_fails_no_add(cluster: Cluster):
    """What was read was read; what is to be told is told later."""
    cluster.pod("a")
    cluster.follow()

    assert 0 == in_the_middle(cluster, cluster.stand_in.stop)[1]

    cluster.stand_in.start()
    until(lambda: "net1" in cluster.told())


def test_a_pod_that_is_deleted_in_the_middle_is_undone(cluster: Cluster):
    """Though its event came."""
    cluster.pod("a")
    following = cluster.follow()

    def delete() -> None:
        cluster.remove()
        until(lambda: following.informers[Kind.POD].find("telco", "p") is None)

    answer, code = in_the_middle(cluster, delete)

    assert (1, 11) == (code, answer["code"]), answer
    assert [] == cluster.node.pod.links()
