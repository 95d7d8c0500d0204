"""
What only a real API server can show: roles, tokens, a schema that is enforced, restarts, a large node.

Skips where there is none.
"""

import base64
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s import access, api_store
from meta_cni.k8s.access import HOST, PORT, in_cluster
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.cached_store import NODE
from meta_cni.k8s.informer import Informer
from meta_cni.k8s.store import Forbidden, Kind, NotServed, Object, Selector
from tests.k8s.certificates import Authority
from tests.k8s.cluster import Cluster
from tests.k8s.conftest import TREE, opened
from tests.k8s.proxy import ConnectProxy
from tests.k8s.test_informer import ended, until
from tests.unit.k8s.test_access import EXEC, program

pytestmark = pytest.mark.slow

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
SOON_S = 180.0
SHORT_S = 8
"""Of a token: enough to be asked for and used on a busy machine."""
NETWORKS, PODS = 1000, 500
RESTARTS = 12


def network(namespace: str, name: str, spec: Any = None) -> Object:
    """As applied."""
    about = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind}
    metadata = {"name": name, "namespace": namespace}
    return {**about, "metadata": metadata, "spec": {"config": "{}"} if spec is None else spec}


def pod(namespace: str, name: str, node: str = "n1") -> Object:
    """One that a server accepts."""
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "none"}]}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture
def administrator(cluster: Cluster, tmp_path: Path) -> ApiStore:
    """Who may do everything."""
    return opened(cluster.write_kubeconfig(tmp_path / "administrator"))


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Path:
    """The directory that the daemon's pod has, with what the kubelet writes there."""
    (tmp_path / "token").write_text(cluster.token("kube-system", "meta-cni"))
    (tmp_path / "ca.crt").write_text(cluster.authority.certificate)
    return tmp_path


@pytest.fixture
def daemon(cluster: Cluster, account: Path) -> ApiStore:
    """The store as the daemon has it, under its own service account."""
    host, _, port = cluster.url.removeprefix("https://").rpartition(":")
    return ApiStore(Server(in_cluster({HOST: host, PORT: port}, account)))


def test_the_role_is_enough_for_all_that_the_daemon_does(
    daemon: ApiStore, administrator: ApiStore, namespace: str
):
    """And it is the one in deploy/."""
    made = administrator.create(Kind.POD, pod(namespace, "p"))
    administrator.create(NAD, network(namespace, "n"))
    status = {"metadata": {"uid": made["metadata"]["uid"], "annotations": {"status": "x"}}}
    reference = {"kind": "Pod", "name": "p", "namespace": namespace}
    event = {"metadata": {"name": "e", "namespace": namespace}, "involvedObject": reference}

    daemon.patch(Kind.POD, namespace, "p", status, subresource="status")
    daemon.create(Kind.EVENT, event)
    daemon.patch(Kind.EVENT, namespace, "e", {"count": 2})
    daemon.list(Kind.RESOURCE_SLICE)
    for kind, name in ((Kind.POD, "p"), (NAD, "n")):
        _, version = daemon.list(kind)
        list(daemon.watch(kind, None, version, 1))
        assert name == daemon.get(kind, namespace, name)["metadata"]["name"]

    assert {"status": "x"} == daemon.get(Kind.POD, namespace, "p")["metadata"]["annotations"]


def test_what_the_daemon_must_not_do_is_refused_with_the_rule_that_is_missing(
    daemon: ApiStore, administrator: ApiStore, namespace: str
):
    """A daemon that is taken over can neither start pods nor change networks."""
    administrator.create(Kind.POD, pod(namespace, "p"))
    administrator.create(NAD, network(namespace, "n"))
    labels = {"metadata": {"labels": {"a": "b"}}}
    refused = {
        "pods create": lambda: daemon.create(Kind.POD, pod(namespace, "q")),
        "pods patch": lambda: daemon.patch(Kind.POD, namespace, "p", labels),
        "pods delete": lambda: daemon.delete(Kind.POD, namespace, "p"),
        "network-attachment-definitions create": lambda: daemon.create(NAD, network(namespace, "m")),
        "network-attachment-definitions patch": lambda: daemon.patch(NAD, namespace, "n", labels),
        "network-attachment-definitions delete": lambda: daemon.delete(NAD, namespace, "n"),
        "events list": lambda: daemon.list(Kind.EVENT),
    }
    for what, ask in refused.items():
        resource, verb = what.split()
        rule = rf"is forbidden.*resources \['{resource}'\], verbs \['{verb}'\]"

        with pytest.raises(Forbidden, match=rule):
            ask()


def test_a_token_that_the_server_does_not_take_is_replaced_by_the_new_one(
    daemon: ApiStore, account: Path, cluster: Cluster, namespace: str, administrator: ApiStore
):
    """And until there is one, it is told what is wrong."""
    administrator.create(Kind.POD, pod(namespace, "p"))
    daemon.get(Kind.POD, namespace, "p")
    good = (account / "token").read_text()
    (account / "token").write_text(good[:-8] + "AAAAAAAA")
    time.sleep(1.1)  # files are looked at once a second

    with pytest.raises(Forbidden, match=r"Unauthorized \(401\): expected a token"):
        daemon.get(Kind.POD, namespace, "p")

    (account / "token").write_text(cluster.token("kube-system", "meta-cni", 600))
    assert "p" == daemon.get(Kind.POD, namespace, "p")["metadata"]["name"]


def expired(cluster: Cluster) -> str:
    """A token that the server took a moment ago."""
    token = cluster.sign("kube-system", "meta-cni", SHORT_S)
    assert cluster.knows(token)
    deadline = time.monotonic() + SOON_S
    while cluster.knows(token):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return token


def by_file(cluster: Cluster, directory: Path) -> tuple[ApiStore, Callable[[str], object], str]:
    """As the daemon has its token: in a file that the kubelet writes."""
    host, _, port = cluster.url.removeprefix("https://").rpartition(":")
    (directory / "ca.crt").write_text(cluster.authority.certificate)
    store = ApiStore(Server(in_cluster({HOST: host, PORT: port}, directory)))
    return store, (directory / "token").write_text, str(directory / "token")


def by_program(cluster: Cluster, directory: Path) -> tuple[ApiStore, Callable[[str], object], str]:
    """As many have it on a command line: from a credential plugin."""
    program(directory / "program", f"cat {directory}/printed")
    path = cluster.write_kubeconfig(directory / "kubeconfig", exec=EXEC)

    def write(token: str) -> None:
        credential = {"apiVersion": EXEC["apiVersion"], "kind": "ExecCredential", "status": {"token": token}}
        (directory / "printed").write_text(json.dumps(credential))

    return opened(path), write, f"kubeconfig {path}, user us: exec ./program"


@pytest.mark.parametrize("way", [by_file, by_program])
def test_a_token_that_expires_is_read_again(
    cluster: Cluster,
    tmp_path: Path,
    namespace: str,
    administrator: ApiStore,
    monkeypatch: pytest.MonkeyPatch,
    way: Any,
):
    """
    When the server says so, by 401; until there is a new one it is told where it should be.

    Nobody looks at the file in between: what counts here is the server's word.
    """
    monkeypatch.setattr(access, "CHECK_S", 3600.0)
    administrator.create(Kind.POD, pod(namespace, "p"))
    store, write, place = way(cluster, tmp_path)
    token = expired(cluster)
    write(token)

    with pytest.raises(Forbidden) as caught:
        store.get(Kind.POD, namespace, "p")
    write(cluster.token("kube-system", "meta-cni"))
    found = store.get(Kind.POD, namespace, "p")

    assert 11 == caught.value.code
    assert (
        f"Unauthorized (401): expected a token or certificate that is valid in {place}"
        in caught.value.message
    )
    assert "p" == found["metadata"]["name"]
    assert {("get", "pods", "401"): 2, ("get", "pods", "200"): 1} == store.server.tally.read()


def test_informers_live_through_an_expiring_token(
    cluster: Cluster, tmp_path: Path, administrator: ApiStore, namespace: str
):
    """The kubelet has written a new one by then: a watch that ends begins anew with that, without a list."""
    administrator.create(NAD, network(namespace, "n"))
    store, write, _ = by_file(cluster, tmp_path)
    token = cluster.sign("kube-system", "meta-cni", SHORT_S)
    write(token)
    with following(store, NAD, Selector()) as informer:
        assert cluster.knows(token)
        write(cluster.token("kube-system", "meta-cni"))
        deadline = time.monotonic() + SOON_S
        while cluster.knows(token):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        store.server.end_watches()
        administrator.create(NAD, network(namespace, "m"))
        while not informer.find(namespace, "m"):
            assert time.monotonic() < deadline, informer.problem()
            time.sleep(0.05)

        assert 1 == informer.lists


def test_a_client_certificate_is_who_we_are(
    cluster: Cluster, tmp_path: Path, namespace: str, administrator: ApiStore
):
    """Its common name is the user; what that one may do is allowed, and no more."""
    user = f"daemon-of-{namespace}"
    bind(cluster, user)
    administrator.create(Kind.POD, pod(namespace, "p"))
    pair = cluster.authority.issue(user, "nodes")
    store = opened(
        cluster.write_kubeconfig(
            tmp_path / "k",
            **{
                "client-certificate-data": in_base64(pair.certificate),
                "client-key-data": in_base64(pair.key),
            },
        )
    )

    assert "p" == store.get(Kind.POD, namespace, "p")["metadata"]["name"]
    with pytest.raises(Forbidden, match=rf'User "{user}" cannot delete .*verbs \[\'delete\'\]'):
        store.delete(Kind.POD, namespace, "p")


def test_a_client_certificate_that_the_server_does_not_know_is_replaced(
    cluster: Cluster, tmp_path: Path, namespace: str, administrator: ApiStore, monkeypatch: pytest.MonkeyPatch
):
    """By what its files have then; no token is there to tell that it is another one."""
    monkeypatch.setattr(access, "CHECK_S", 3600.0)
    user = f"daemon-of-{namespace}"
    bind(cluster, user)
    administrator.create(Kind.POD, pod(namespace, "p"))

    def write(authority: Authority) -> None:
        pair = authority.issue(user, "nodes")
        (tmp_path / "our.crt").write_text(pair.certificate)
        (tmp_path / "our.key").write_text(pair.key)

    write(Authority())
    files = {"client-certificate": "our.crt", "client-key": "our.key"}
    store = opened(cluster.write_kubeconfig(tmp_path / "k", **files))

    with pytest.raises(
        Forbidden, match=rf"\(401\): expected a token or certificate .* in kubeconfig {tmp_path}/k, user us"
    ):
        store.get(Kind.POD, namespace, "p")
    write(cluster.authority)

    assert "p" == store.get(Kind.POD, namespace, "p")["metadata"]["name"]


def test_a_certificate_of_a_credential_plugin_is_printed_anew(
    cluster: Cluster, tmp_path: Path, namespace: str, administrator: ApiStore
):
    """When the server does not know the one before."""
    user = f"daemon-of-{namespace}"
    bind(cluster, user)
    administrator.create(Kind.POD, pod(namespace, "p"))
    program(tmp_path / "program", f"cd {tmp_path}; echo x >> runs; cat printed")
    store = opened(cluster.write_kubeconfig(tmp_path / "k", exec=EXEC))

    def found(authority: Authority) -> str:
        pair = authority.issue(user, "nodes")
        status = {"clientCertificateData": pair.certificate, "clientKeyData": pair.key}
        credential = {"apiVersion": EXEC["apiVersion"], "kind": "ExecCredential", "status": status}
        (tmp_path / "printed").write_text(json.dumps(credential))
        return str(store.get(Kind.POD, namespace, "p")["metadata"]["name"])

    with pytest.raises(Forbidden, match=r"\(401\): .* valid in kubeconfig .*: exec ./program$"):
        found(Authority())
    assert "p" == found(cluster.authority)
    assert 3 == len((tmp_path / "runs").read_text().split())


def bind(cluster: Cluster, user: str) -> None:
    """Give a user the daemon's role."""
    group = "rbac.authorization.k8s.io"
    cluster.create(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "meta-cni"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
    )


def in_base64(text: str) -> str:
    """As the keys that end with -data have it."""
    return base64.b64encode(text.encode()).decode()


def test_a_proxy_of_a_kubeconfig_leads_to_the_server(cluster: Cluster, tmp_path: Path, namespace: str):
    """With the client's certificate, which is shown to the server behind it; watches as well."""
    with ConnectProxy() as proxy:
        store = opened(cluster.write_kubeconfig(tmp_path / "k", proxy.url))
        _, version = store.list(NAD, namespace)
        store.create(NAD, network(namespace, "n"))
        told = next(store.watch(NAD, namespace, version, SOON_S))
        target = cluster.url.removeprefix("https://")

    assert ("ADDED", "n") == (told.type, told.object["metadata"]["name"])
    assert {target} == set(proxy.asked)


def test_a_server_that_restarts_is_waited_for(
    daemon: ApiStore, administrator: ApiStore, cluster: Cluster, namespace: str
):
    """Connections that are open lead nowhere then."""
    administrator.create(Kind.POD, pod(namespace, "p"))
    daemon.get(Kind.POD, namespace, "p")
    cluster.stop()
    back = threading.Timer(0.5, cluster.start)
    back.start()

    found = daemon.within(SOON_S).get(Kind.POD, namespace, "p")
    back.join()

    assert "p" == found["metadata"]["name"]


def test_what_a_server_forbids_while_it_starts_is_asked_again(
    daemon: ApiStore,
    administrator: ApiStore,
    cluster: Cluster,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
):
    """
    It serves before it has read its roles, and answers 403 to everybody, for some milliseconds.

    So it is restarted until somebody met that, which many who ask all the time soon do.
    """
    monkeypatch.setattr(api_store, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(api_store, "LONGEST_PAUSE_S", 0.002)
    monkeypatch.setattr(api_store, "UNSURE_REFUSALS", 100_000)  # who asks all the time is refused more often
    administrator.create(Kind.POD, pod(namespace, "p"))
    for _ in range(RESTARTS):
        cluster.stop()
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(daemon.within(SOON_S).get, Kind.POD, namespace, "p") for _ in range(4)]
            cluster.start()
            assert ["p"] * 4 == [each.result()["metadata"]["name"] for each in asked]
        if ("get", "pods", "403") in daemon.server.tally.read():
            return
    pytest.fail(f"nobody was refused in {RESTARTS} restarts")


def test_no_status_is_lost_while_the_pod_moves(daemon: ApiStore, administrator: ApiStore, namespace: str):
    """The kubelet and controllers write a pod at the same time."""
    count = 40
    for name in ("p", "q"):
        administrator.create(Kind.POD, pod(namespace, name))

    def move() -> None:
        for number in range(count):
            for name in ("p", "q"):
                patch = {"metadata": {"labels": {f"l{number}": "x"}}}
                administrator.patch(Kind.POD, namespace, name, patch)

    mover = threading.Thread(target=move)
    mover.start()
    for number in range(count):
        for name in ("p", "q"):
            patch = {"metadata": {"annotations": {f"a{number}": "x"}}}
            daemon.patch(Kind.POD, namespace, name, patch, subresource="status")
    mover.join()

    for name in ("p", "q"):
        metadata = daemon.get(Kind.POD, namespace, name)["metadata"]
        assert (count, count) == (len(metadata["labels"]), len(metadata["annotations"]))


def test_without_the_definition_it_is_named(administrator: ApiStore, cluster: Cluster, namespace: str):
    """The first thing that is forgotten when somebody installs by hand."""
    definition = "network-attachment-definitions.k8s.cni.cncf.io"
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition}"
    try:
        assert 200 == cluster.ask("DELETE", path)[0]
        deadline = time.monotonic() + SOON_S
        while cluster.ask("GET", f"/apis/k8s.cni.cncf.io/v1/{NAD.value.plural}")[0] != 404:
            assert time.monotonic() < deadline
            time.sleep(0.1)

        with pytest.raises(NotServed, match=f"expected the CustomResourceDefinition {definition}"):
            administrator.get(NAD, namespace, "n")
    finally:
        cluster.apply([TREE / "crds" / "net-attach-def.yaml"])


def test_one_apply_is_enough(cluster: Cluster, tmp_path: Path):
    """What deploy/ has is what a server takes, and it takes it twice."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig")
    command = [kubectl, f"--kubeconfig={kubeconfig}", "apply", "-k", str(TREE / "deploy")]
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}})

    applied = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2)]

    assert [(0, ""), (0, "")] == [(each.returncode, _complaints(each.stderr)) for each in applied]
    assert "daemonset.apps/meta-cni unchanged" in applied[1].stdout
    assert 200 == cluster.ask("GET", "/apis/apps/v1/namespaces/kube-system/daemonsets/meta-cni")[0]


def _complaints(text: str) -> str:
    """Without kubectl's word on what was created by others."""
    return "\n".join(line for line in text.splitlines() if "last-applied-configuration" not in line)


@contextmanager
def following(store: ApiStore, kind: Kind, selector: Selector) -> Iterator[Informer]:
    """An informer on a thread of its own."""
    informer, over = Informer(store, kind, selector, pauses_s=(0.1,)), threading.Event()
    thread = threading.Thread(target=informer.run, args=(over,))
    thread.start()
    try:
        assert informer.wait_until_synced(SOON_S)
        yield informer
    finally:
        over.set()
        ended(thread, store.server)


def test_a_large_node_is_known_over_a_restart(
    daemon: ApiStore, administrator: ApiStore, cluster: Cluster, namespace: str
):
    """1 000 networks and 500 pods; what changes after the server came back is told, too."""
    for number in range(NETWORKS):
        administrator.create(NAD, network(namespace, f"n{number}"))
    for number in range(PODS):
        administrator.create(Kind.POD, pod(namespace, f"p{number}", "large"))
    administrator.create(Kind.POD, pod(namespace, "elsewhere", "other"))

    with (
        following(daemon, NAD, Selector()) as networks,
        following(daemon, Kind.POD, Selector(fields={NODE: "large"})) as pods,
    ):
        until(lambda: all(networks.find(namespace, f"n{number}") for number in range(NETWORKS)))
        until(lambda: PODS == len(pods))  # what the server had at hand may have been older

        cluster.stop()
        cluster.start()
        administrator.create(NAD, network(namespace, "later"))
        administrator.create(Kind.POD, pod(namespace, "later", "large"))

        deadline = time.monotonic() + SOON_S
        while not (networks.find(namespace, "later") and pods.find(namespace, "later")):
            assert time.monotonic() < deadline, (networks.problem(), pods.problem())
            time.sleep(0.05)
        assert PODS + 1 == len(pods)
