"""Clusters to run the same tests on: the stand-in, and the real kube-apiserver where it is."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import Object
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.k8s.cluster import Cluster
from tests.k8s.stand_in import StandIn

MANIFESTS = ("crds/net-attach-def.yaml", "deploy/base/rbac.yaml")
TREE = Path(__file__).parents[2]
_NUMBERS = itertools.count(1)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A server that can be told to fail."""
    with StandIn() as server:
        yield server


@pytest.fixture
def store(stand_in: StandIn, tmp_path: Path) -> ApiStore:
    """The stand-in as the product sees it."""
    return ApiStore(Server(of_kubeconfig(stand_in.write_kubeconfig(tmp_path / "kubeconfig"))))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The real one, with our CRD and our role; one for all tests, each has a namespace of its own."""
    try:
        found = assets.find()
    except Missing as missing:
        pytest.skip(str(missing))
    with Cluster(found, tmp_path_factory.mktemp("cluster")) as made:
        made.apply(TREE / each for each in MANIFESTS)
        yield made


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A new one in the real cluster."""
    name = f"test-{next(_NUMBERS)}"
    cluster.create({"metadata": {"name": name}, "kind": "Namespace", "apiVersion": "v1"})
    return name


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace in one of the clusters, as the product sees it."""

    store: ApiStore
    """Of somebody who may do everything."""
    daemon: ApiStore
    """Of the daemon's account, which may not list events."""
    namespace: str
    ask: Callable[..., tuple[int, Object]]
    """One request as it is: method, path, body, content type; the status code and the answer."""
    forget: Callable[[], str]
    """Forget changes; answers a resource version that is too old to watch from."""


@pytest.fixture(params=["stand-in", pytest.param("kube-apiserver", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """What is true in the one is true in the other."""
    path = tmp_path / "kubeconfig"
    if request.param == "stand-in":
        stand_in: StandIn = request.getfixturevalue("stand_in")
        stand_in.forbidden.add(("list", "events"))
        store = opened(stand_in.write_kubeconfig(path))
        return Place(store, store, "ns", stand_in.ask, _forgetting(stand_in))
    cluster: Cluster = request.getfixturevalue("cluster")
    account = cluster.write_kubeconfig(tmp_path / "account", token=cluster.token("kube-system", "meta-cni"))
    stores = opened(cluster.write_kubeconfig(path)), opened(account)
    return Place(*stores, request.getfixturevalue("namespace"), cluster.ask, lambda: "1")


def opened(kubeconfig: Path) -> ApiStore:
    """The cluster that a kubeconfig leads to."""
    return ApiStore(Server(of_kubeconfig(kubeconfig)))


def _forgetting(stand_in: StandIn) -> Callable[[], str]:
    def forget() -> str:
        stand_in.objects.compact()
        return "1"

    return forget
