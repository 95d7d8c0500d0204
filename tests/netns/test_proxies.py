"""
An API server that is reached by a proxy, or past it: by the environment, and by a kubeconfig.

On addresses of a cluster's services, which this private node has for itself: what is on loopback is never
behind a proxy, and a name would have to be resolved.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s.access import HOST, PORT, in_cluster, of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.informer import Informer
from meta_cni.k8s.store import Forbidden, Kind
from meta_cni.linux import address, link
from meta_cni.linux.netlink import Socket
from tests.k8s.certificates import Authority
from tests.k8s.proxy import ConnectProxy
from tests.k8s.stand_in import StandIn, write_kubeconfig
from tests.k8s.test_informer import ended
from tests.netns.daemons import until

SERVICE, SERVICE_6 = "10.96.0.1", "fd00:10:96::1"
PROXY, PROXY_6 = "192.0.2.8", "2001:db8::8"
POD = {"metadata": {"name": "p", "namespace": "ns"}}
Environment = dict[str, str]


@pytest.fixture(autouse=True)
def addresses(host: Socket) -> Iterator[None]:
    """Those of the services and of the proxies, on the private node's loopback."""
    loopback = link.find(host, "lo")
    assert loopback is not None
    own = [ip_interface(each) for each in (SERVICE, SERVICE_6, PROXY, PROXY_6)]
    host.request([link.set_link(loopback.index, is_up=True)])
    host.request([address.add(loopback.index, each) for each in own])
    yield
    host.request([address.delete(loopback.index, each) for each in own])


class Cluster:
    """A server at a service's address, a proxy that leads there, and how a pod is told of both."""

    def __init__(self, stack: ExitStack, directory: Path, is_ipv6: bool = False, **proxy: Any) -> None:
        self.directory = directory
        self.server = stack.enter_context(StandIn(is_tls=True, address=SERVICE_6 if is_ipv6 else SERVICE))
        assert self.server.authority is not None
        self.proxy = stack.enter_context(ConnectProxy(PROXY_6 if is_ipv6 else PROXY, **proxy))
        self.target = self.server.url.removeprefix("https://")
        self.port = self.target.rpartition(":")[2]
        self.server.put(Kind.POD, POD)
        (directory / "token").write_text("secret")
        (directory / "ca.crt").write_text(self.server.authority.certificate)

    def pod(self, **environment: str) -> ApiStore:
        """As a pod has it, with these variables."""
        named = {HOST: self.server.address, PORT: self.port, **environment}
        return ApiStore(Server(in_cluster(named, self.directory)))

    def kubeconfig(self, environment: Environment | None = None, **cluster: Any) -> ApiStore:
        """As a kubeconfig has it."""
        given = {"server": self.server.url, "certificate-authority": "ca.crt", **cluster}
        path = write_kubeconfig(self.directory / "k", given, {"token": "secret"})
        return ApiStore(Server(of_kubeconfig(path, environment=environment or {})))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Of what is stopped afterwards."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def cluster(stack: ExitStack, tmp_path: Path) -> Cluster:
    """On IPv4, with a proxy that lets everybody through."""
    return Cluster(stack, tmp_path)


def is_found(store: ApiStore) -> bool:
    """The pod that is there."""
    return bool(store.get(Kind.POD, "ns", "p")["metadata"]["name"] == "p")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("is_ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_the_service_is_asked_by_the_proxy(stack: ExitStack, tmp_path: Path, name: str, is_ipv6: bool):
    """One tunnel, which is kept; the proxy sees no token, and the server's certificate counts."""
    cluster = Cluster(stack, tmp_path, is_ipv6)
    store = cluster.pod(**{name: cluster.proxy.url})

    assert all(is_found(store) for _ in range(3))
    assert [cluster.target] == cluster.proxy.asked
    assert 3 == len(cluster.server.asked("get"))
    assert "secret" not in "".join(cluster.proxy.heads)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(
    ("is_ipv6", "no_proxy", "tunnels"),
    [
        (False, SERVICE, 0),
        (False, "example.com, 10.96.0.0/12", 0),
        (False, f"{SERVICE}:%(port)s", 0),
        (False, f"{SERVICE}:1", 1),
        (False, "10.112.0.0/12,fd00::/8,example.com", 1),
        (False, "*", 0),
        (True, SERVICE_6, 0),
        (True, "fd00:10:96::/112", 0),
        (True, f"[{SERVICE_6}]:%(port)s", 0),
        (True, f"[{SERVICE_6}]:1", 1),
        (True, "10.96.0.0/12,fd00:10:97::/112", 1),
    ],
)
def test_who_is_in_no_proxy_is_asked_directly(
    stack: ExitStack, tmp_path: Path, is_ipv6: bool, no_proxy: str, tunnels: int, name: str
):
    """The pods' own services, as every installation has them there."""
    cluster = Cluster(stack, tmp_path, is_ipv6)
    excluded = no_proxy % {"port": cluster.port}

    assert is_found(cluster.pod(**{"HTTPS_PROXY": cluster.proxy.url, name: excluded}))
    assert tunnels == len(cluster.proxy.asked)


def test_a_kubeconfig_goes_by_the_environment_of_the_process(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """What nobody has given counts as the process has it."""
    monkeypatch.setenv("HTTPS_PROXY", cluster.proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    cluster.kubeconfig()

    assert is_found(ApiStore(Server(of_kubeconfig(cluster.directory / "k"))))
    assert [cluster.target] == cluster.proxy.asked


def test_proxy_url_wins_over_the_environment(cluster: Cluster):
    """And nothing is taken out of it."""
    environment = {"HTTPS_PROXY": f"http://{PROXY}:1", "NO_PROXY": "*", "no_proxy": "*"}

    assert is_found(cluster.kubeconfig(environment, **{"proxy-url": cluster.proxy.url}))
    assert [cluster.target] == cluster.proxy.asked


def test_proxy_url_counts_without_what_the_process_has(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """The transport has rules of its own, which do not count."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")

    assert is_found(cluster.kubeconfig(**{"proxy-url": cluster.proxy.url}))
    assert [cluster.target] == cluster.proxy.asked


def test_a_proxy_is_told_its_password(stack: ExitStack, tmp_path: Path):
    """The server is not."""
    cluster = Cluster(stack, tmp_path, user="me:p@ss")

    assert is_found(cluster.pod(HTTPS_PROXY=cluster.proxy.url.replace("//", "//me:p%40ss@")))
    assert [cluster.target] == cluster.proxy.asked


def test_a_proxy_that_wants_another_password_is_told(stack: ExitStack, tmp_path: Path):
    """Without the one that we have."""
    cluster = Cluster(stack, tmp_path, user="me:other")
    store = cluster.pod(HTTPS_PROXY=cluster.proxy.url.replace("//", "//me:mine@"))

    with pytest.raises(TryAgainLater, match="407 Proxy Authentication Required") as caught:
        ApiStore(store.server, is_trying_again=False).get(Kind.POD, "ns", "p")

    assert f"{cluster.server.url} by proxy {cluster.proxy.url}: " in caught.value.message
    assert "mine" not in caught.value.message
    assert [] == cluster.server.asked()


def test_a_proxy_that_is_away_is_told_and_waited_for(cluster: Cluster):
    """Not the server, which may be well."""
    store = cluster.pod(HTTPS_PROXY=cluster.proxy.url)
    cluster.proxy.stop()

    with pytest.raises(TryAgainLater, match=f"by proxy {cluster.proxy.url}: Connection refused: given up"):
        ApiStore(store.server, is_trying_again=False).get(Kind.POD, "ns", "p")

    back = threading.Timer(0.3, cluster.proxy.start)
    back.start()
    assert is_found(store)
    back.join()


def test_a_proxy_that_refuses_is_asked_again(cluster: Cluster):
    """A create as well: the server has not heard of it."""
    store = cluster.pod(HTTPS_PROXY=cluster.proxy.url)
    cluster.proxy.answer = "503 Service Unavailable"
    with pytest.raises(TryAgainLater, match="503 Service Unavailable: given up"):
        ApiStore(store.server, is_trying_again=False).get(Kind.POD, "ns", "p")

    def recover() -> None:
        cluster.proxy.heads.clear()
        until(lambda: len(cluster.proxy.heads) > 1)
        cluster.proxy.answer = ""

    recovery = threading.Thread(target=recover)
    recovery.start()
    store.create(Kind.EVENT, {"metadata": {"name": "e", "namespace": "ns"}})
    recovery.join()

    assert 1 == len(cluster.server.asked("create"))


def test_a_proxy_does_not_stand_in_for_the_servers_certificate(cluster: Cluster):
    """Behind it as before it."""
    (cluster.directory / "ca.crt").write_text(Authority().certificate)

    with pytest.raises(
        Forbidden, match=r"by proxy .*certificate verify failed.*expected a certificate as the serv"
    ):
        is_found(cluster.pod(HTTPS_PROXY=cluster.proxy.url))

    assert [cluster.target] == cluster.proxy.asked


def test_a_proxy_may_speak_tls(stack: ExitStack, tmp_path: Path):
    """Known by the same authorities as the server, as kubectl has it."""
    authority = Authority()
    cluster = Cluster(stack, tmp_path, authority=authority)
    store = cluster.pod(HTTPS_PROXY=cluster.proxy.url)
    with pytest.raises(Forbidden, match=r"by proxy https://.*certificate verify failed"):
        is_found(store)
    assert [] == cluster.proxy.heads

    assert cluster.server.authority is not None
    both = cluster.server.authority.certificate + authority.certificate
    (cluster.directory / "ca.crt").write_text(both)

    assert is_found(store)
    assert [cluster.target] == cluster.proxy.asked


def test_an_informer_watches_by_the_proxy(cluster: Cluster):
    """And goes on when the proxy, which many hold up long connections, was away."""
    store = cluster.pod(HTTPS_PROXY=cluster.proxy.url)
    informer = Informer(ApiStore(store.server, 5.0), Kind.POD, pauses_s=(0.02,))
    over = threading.Event()
    thread = threading.Thread(target=informer.run, args=(over,))
    thread.start()
    try:
        assert informer.wait_until_synced(30)
        cluster.proxy.stop()
        until(informer.problem)
        cluster.server.put(Kind.POD, {"metadata": {"name": "q", "namespace": "ns"}})
        cluster.proxy.start()

        until(lambda: informer.find("ns", "q") and not informer.problem())
        assert {cluster.target} == set(cluster.proxy.asked)
    finally:
        over.set()
        ended(thread, store.server)
