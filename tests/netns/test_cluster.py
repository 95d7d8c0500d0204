"""
Multus' own manifests on our node: every form of them, from the API server to the pod's namespace.

A daemon as a process of its own, its shim called as containerd calls it, and the stand-in for the API
server. The manifests are those of Multus' documentation ("How to use", "Configuration").
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s.store import Kind
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY
from tests.k8s.stand_in import StandIn
from tests.netns.conftest import PodNetns
from tests.netns.daemons import Answer, Daemon, answer_of, until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT = "v1.multus-cni.io/default-network"
STATUS = "k8s.v1.cni.cncf.io/network-status"


def macvlan(number: int, directory: Path, **more: Any) -> dict[str, Any]:
    """Of Multus' quick start, with a directory of the test's own for the addresses."""
    ranges = [[{"subnet": f"192.168.{number}.0/24"}]]
    return {
        "cniVersion": "0.3.1",
        "type": "macvlan",
        "master": "up0",
        "mode": "bridge",
        "ipam": {"type": "host-local", "dataDir": str(directory), "ranges": ranges},
        **more,
    }


def networks(directory: Path) -> dict[str, dict[str, Any] | None]:
    """NetworkAttachmentDefinitions by namespace and name; None has no spec."""
    several = [macvlan(4, directory), {"type": "tuning", "mtu": 1400}]
    static = {"capabilities": {"ips": True, "mac": True}, "ipam": {"type": "static"}}
    return {
        "telco/macvlan-conf-1": macvlan(1, directory),
        "telco/macvlan-conf-2": macvlan(2, directory),
        "other-ns/macvlan-conf-3": macvlan(3, directory),
        "telco/list-conf": {"cniVersion": "0.3.1", "plugins": several},
        "telco/static-conf": macvlan(5, directory, **static),
        "telco/by-name": None,
        "kube-system/other-default": {**bridge("br9", 9, directory), "name": "other-default"},
    }


def bridge(name: str, number: int, directory: Path) -> dict[str, Any]:
    """A default network."""
    ipam = macvlan(number, directory)["ipam"]
    return {"cniVersion": "0.3.1", "type": "bridge", "bridge": name, "isGateway": True, "ipam": ipam}


class Cluster:
    """A node of a cluster: API server, daemon, shim."""

    def __init__(self, root: Path, stand_in: StandIn) -> None:
        self.root = root
        self.stand_in = stand_in
        self.daemon = Daemon(root)
        self.kubeconfig = stand_in.write_kubeconfig(root / "kubeconfig")
        for reference, config in networks(root / "ipam").items():
            namespace, _, name = reference.partition("/")
            spec = {} if config is None else {"spec": {"config": json.dumps(config)}}
            stand_in.put(NAD, {"metadata": {"name": name, "namespace": namespace}, **spec})
        (root / "conf").mkdir()
        by_name = {**macvlan(6, root / "ipam"), "name": "by-name"}
        (root / "conf" / "by-name.conf").write_text(json.dumps(by_name))

    def configuration(self) -> dict[str, Any]:
        """As a runtime hands it on, of type multus as Multus' own."""
        return {
            "cniVersion": "0.3.1",
            "name": "multus-cni-network",
            "type": "multus",
            "kubeconfig": str(self.kubeconfig),
            "cniDir": str(self.root / "state"),
            "confDir": str(self.root / "conf"),
            "delegates": [{**bridge("cbr0", 244, self.root / "ipam"), "name": "cbr0"}],
        }

    def pod(self, name: str, **annotations: str) -> str:
        """Somebody has created it; its UID."""
        told = {{"networks": NETWORKS, "default": DEFAULT}[key]: text for key, text in annotations.items()}
        metadata = {"name": name, "namespace": "telco", "annotations": told}
        return str(self.stand_in.put(Kind.POD, {"metadata": metadata})["metadata"]["uid"])

    def call(self, verb: str, pod: PodNetns, name: str = "p", uid: str = "") -> Answer:
        """As containerd does."""
        started = self.daemon.asked(
            verb, f"sandbox-{name}", pod.path, f"{name};K8S_POD_UID={uid}", self.configuration()
        )
        return answer_of(started)

    def status(self, name: str = "p") -> list[dict[str, Any]]:
        """As `kubectl get pod -o yaml` shows it."""
        found = self.stand_in.objects.known["pods", "telco", name]
        return list(json.loads(found["metadata"]["annotations"][STATUS]))

    def events(self, name: str = "p") -> list[tuple[str, str, str]]:
        """(type, reason, message) of a pod's events, as they came."""
        known = self.stand_in.objects.known
        found = [known[key] for key in sorted(known) if key[0] == "events" and key[2].startswith(f"{name}.")]
        return [(each["type"], each["reason"], each["message"]) for each in found]


@pytest.fixture
def cluster(tmp_path: Path, outside: PodNetns) -> Iterator[Cluster]:
    """With up0, which Multus' examples call eth0."""
    with StandIn() as stand_in:
        made = Cluster(tmp_path, stand_in)
        made.daemon.start()
        yield made
        made.daemon.close()


Wanted = list[tuple[str, str, str]]
"""Interface, network, and how its address begins."""
FORMS: dict[str, tuple[dict[str, str], Wanted]] = {
    "none": ({}, []),
    "empty": ({"networks": ""}, []),
    "an empty list": ({"networks": "[]"}, []),
    "a name": ({"networks": "macvlan-conf-1"}, [("net1", "telco/macvlan-conf-1", "192.168.1.")]),
    "names": (
        {"networks": "macvlan-conf-1, macvlan-conf-2"},
        [("net1", "telco/macvlan-conf-1", "192.168.1."), ("net2", "telco/macvlan-conf-2", "192.168.2.")],
    ),
    "the same twice": (
        {"networks": "macvlan-conf-1,macvlan-conf-1"},
        [("net1", "telco/macvlan-conf-1", "192.168.1."), ("net2", "telco/macvlan-conf-1", "192.168.1.")],
    ),
    "another namespace's": (
        {"networks": "other-ns/macvlan-conf-3"},
        [("net1", "other-ns/macvlan-conf-3", "192.168.3.")],
    ),
    "an interface's name": (
        {"networks": "macvlan-conf-1@macvlan1"},
        [("macvlan1", "telco/macvlan-conf-1", "192.168.1.")],
    ),
    "all of it": (
        {"networks": "other-ns/macvlan-conf-3@foo,list-conf"},
        [("foo", "other-ns/macvlan-conf-3", "192.168.3."), ("net2", "telco/list-conf", "192.168.4.")],
    ),
    "JSON": (
        {"networks": '[{"name": "macvlan-conf-1"}, {"name": "macvlan-conf-2"}]'},
        [("net1", "telco/macvlan-conf-1", "192.168.1."), ("net2", "telco/macvlan-conf-2", "192.168.2.")],
    ),
    "JSON with a namespace and an interface": (
        {"networks": '[{"name": "macvlan-conf-3", "namespace": "other-ns", "interface": "foo"}]'},
        [("foo", "other-ns/macvlan-conf-3", "192.168.3.")],
    ),
    "JSON with an address and a MAC": (
        {"networks": '[{"name": "static-conf", "ips": ["10.1.1.101/24"], "mac": "02:23:45:67:89:01"}]'},
        [("net1", "telco/static-conf", "10.1.1.101")],
    ),
    "a list of plugins": ({"networks": "list-conf"}, [("net1", "telco/list-conf", "192.168.4.")]),
    "without spec.config": ({"networks": "by-name"}, [("net1", "telco/by-name", "192.168.6.")]),
    "another default network": (
        {"default": "other-default", "networks": "macvlan-conf-1"},
        [
            ("eth0", "kube-system/other-default", "192.168.9."),
            ("net1", "telco/macvlan-conf-1", "192.168.1."),
        ],
    ),
}


def test_multus_forms(cluster: Cluster, pods: Callable[[str], PodNetns]):
    """Interfaces, network-status and events are as Multus has them; nothing is left."""
    for number, (form, (annotations, wanted)) in enumerate(FORMS.items()):
        expected = wanted if "default" in annotations else [("eth0", "cbr0", "192.168.244."), *wanted]
        pod, name = pods(f"pod{number}"), f"p{number}"
        uid = cluster.pod(name, **annotations)

        answer, code = cluster.call("ADD", pod, name, uid)

        assert 0 == code, (form, answer)
        _compare(form, cluster, pod, name, expected)
        assert answer["ips"][0]["address"] in pod.addresses("eth0")
        assert 0 == cluster.call("DEL", pod, name, uid)[1]
        assert [] == pod.links(), form
    left = [each for each in (cluster.root / "state" / "ledger").iterdir() if each.is_file()]
    assert [] == left
    for number, (annotations, wanted) in enumerate(FORMS.values()):  # they are sent in their order
        expected = len(wanted) + ("default" not in annotations)
        assert (expected if expected > 1 else 0) == len(cluster.events(f"p{number}"))


def _compare(form: str, cluster: Cluster, pod: PodNetns, name: str, expected: Wanted) -> None:
    """The namespace, the annotation and the events, all with the same addresses."""
    found = {link: pod.addresses(link) for link in pod.links()}
    assert sorted(link for link, _, _ in expected) == sorted(found), form
    addresses = [
        address for link, _, start in expected for address in found[link] if address.startswith(start)
    ]
    assert len(expected) == len(addresses), (form, found)
    told = [(each["interface"], each["name"], each["ips"]) for each in cluster.status(name)]
    bare = [address.partition("/")[0] for address in addresses]
    assert [(link, network, [bare[n]]) for n, (link, network, _) in enumerate(expected)] == told, form
    assert [True, *[None] * (len(expected) - 1)] == [each.get("default") for each in cluster.status(name)]
    wanted = [
        ("Normal", "AddedInterface", f"Add {link} [{addresses[n]}] from {network}")
        for n, (link, network, _) in enumerate(expected)
    ]
    if len(expected) > 1:
        until(lambda: len(cluster.events(name)) == len(expected))
    assert (wanted if len(expected) > 1 else []) == cluster.events(name), form


def test_a_default_route_goes_where_the_selection_says(cluster: Cluster, pod: PodNetns):
    """Multus' key, in its own example."""
    text = '[{"name": "static-conf", "ips": ["10.1.1.101/24"], "default-route": ["10.1.1.1"]}]'
    cluster.pod("p", networks=text)

    answer, code = cluster.call("ADD", pod)

    assert 0 == code, answer
    assert {("10.1.1.1", "net1")} == pod.defaults()
    cluster.call("DEL", pod)


FAILURES: dict[str, tuple[str, str, str]] = {
    "no such network": ("gone", "NoNetworkFound", "no NetworkAttachmentDefinition gone in namespace telco"),
    "a mistake": ('[{"name": "static-conf", "mac": "x"}]', "InvalidNetwork", 'mac "x": expected'),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_an_event_with_the_hint(cluster: Cluster, pod: PodNetns, failure: str):
    """The kubelet tries again and again; it stays one event, with a count."""
    networks, reason, hint = FAILURES[failure]
    uid = cluster.pod("p", networks=networks)

    codes = [cluster.call("ADD", pod, uid=uid)[1] for _ in range(3)]
    until(cluster.events)

    assert [1, 1, 1] == codes
    ((kind, told, message),) = cluster.events()
    assert ("Warning", reason) == (kind, told)
    assert hint in message
    (about,) = [
        each["involvedObject"]
        for key, each in list(cluster.stand_in.objects.known.items())
        if key[0] == "events"
    ]
    assert (uid, "p", "telco") == (about["uid"], about["name"], about["namespace"])


def test_an_add_waits_for_no_event(cluster: Cluster, pod: PodNetns):
    """The role has no events: pods get their networks, and the metrics tell."""
    cluster.stand_in.forbidden.add(("create", "events"))
    cluster.pod("p", networks="macvlan-conf-1")

    _, code = cluster.call("ADD", pod)
    until(lambda: ("create", "events") in [(each.verb, each.resource) for each in cluster.stand_in.requests])
    _, deleted = cluster.call("DEL", pod)

    assert (0, 0) == (code, deleted)
    until(lambda: "events are not told" in cluster.daemon.log.read_text())
    assert [] == cluster.events()


def test_the_role_of_the_manifest_is_what_the_daemon_asks_for(cluster: Cluster, pod: PodNetns):
    """Every verb that it uses is granted, and no other."""
    rules = manifests.only(manifests.rendered(DEPLOY), "ClusterRole")["rules"]
    granted = {(verb, name) for each in rules for verb in each["verbs"] for name in each["resources"]}
    uid = cluster.pod("p", networks="macvlan-conf-1")
    cluster.pod("q", networks="gone")
    cluster.call("ADD", pod, uid=uid)
    cluster.call("CHECK", pod, uid=uid)
    cluster.call("DEL", pod, uid=uid)
    for seconds in (0, 11):
        time.sleep(seconds)
        cluster.call("ADD", pod, "q")
    until(lambda: ("patch", "events") in {(each.verb, each.resource) for each in cluster.stand_in.requests})

    used = {(each.verb, each.resource) for each in cluster.stand_in.requests}
    assert set() == used - granted
    unknown = {("get", "pods"), ("get", "network-attachment-definitions")}  # of what no list has yet
    claims = {("get", "resourceclaims"), ("list", "resourceslices")}  # of pods that claim devices
    assert granted - used <= unknown | claims
