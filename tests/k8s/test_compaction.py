"""
410 Gone, by a real API server: what an informer makes of changes that nobody remembers any more.

etcd forgets changes when it is compacted, which an API server asks of it every five minutes; an API
server that has started anew never knew them. An informer that was cut off meanwhile lists again.
Skips where there is no kube-apiserver.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s.api_store import PAGE, ApiStore
from meta_cni.k8s.informer import Informer, trimmed
from meta_cni.k8s.store import Event, Expired, Kind, Object
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.k8s.cluster import Cluster
from tests.k8s.conftest import TREE, opened
from tests.k8s.gate import Gate
from tests.k8s.stand_in import write_kubeconfig
from tests.k8s.test_informer import SOON_S, running, until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NAMESPACE = "telco"
QUICK_S = (0.05,)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server that remembers nothing beside etcd: what is compacted there is gone."""
    try:
        found = assets.find()
    except Missing as missing:
        pytest.skip(str(missing))
    with Cluster(found, tmp_path_factory.mktemp("forgetful"), "--watch-cache=false") as made:
        made.apply([TREE / "crds" / "net-attach-def.yaml"])
        made.create({"metadata": {"name": NAMESPACE}, "kind": "Namespace", "apiVersion": "v1"})
        yield made


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    """No test has another one's networks."""
    forgetful: Cluster = request.getfixturevalue("forgetful")
    path = f"/apis/k8s.cni.cncf.io/v1/namespaces/{NAMESPACE}/network-attachment-definitions"
    assert 200 == forgetful.ask("DELETE", path)[0]


class Recording(ApiStore):
    """As the product has it; what it hands to an informer is written down."""

    between_pages: Callable[[], object] = staticmethod(lambda: None)
    """Called when a page of a list was taken."""

    def __init__(self, store: ApiStore) -> None:
        super().__init__(store.server)
        self.told: list[tuple[str, str, str]] = []
        """(type, name, resource version) of what watches told."""
        self.gone: list[str] = []
        """What expired."""

    def pages(self, *arguments: Any) -> Iterator[tuple[Sequence[Object], str]]:
        """With something that happens in between."""
        with self._noting("list"):
            for page in super().pages(*arguments):
                yield page
                self.between_pages()

    def watch(self, *arguments: Any) -> Iterator[Event]:
        """Bookmarks aside."""
        with self._noting("watch"):
            for event in super().watch(*arguments):
                if event.type != "BOOKMARK":
                    metadata = event.object["metadata"]
                    self.told.append((event.type, metadata["name"], metadata["resourceVersion"]))
                yield event

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except Expired:
            self.gone.append(what)
            raise


@pytest.fixture
def gate(forgetful: Cluster) -> Iterator[Gate]:
    """The informer's way to the server; the administrator has his own."""
    with Gate(forgetful.port) as made:
        yield made


@pytest.fixture
def source(forgetful: Cluster, gate: Gate, tmp_path: Path) -> Recording:
    """The server behind the gate."""
    files = {key: str(forgetful.directory / f"administrator.{end}") for key, end in PAIR.items()}
    authority = {"certificate-authority": str(forgetful.directory / "authority.crt")}
    return Recording(
        opened(write_kubeconfig(tmp_path / "kubeconfig", {"server": gate.url, **authority}, files))
    )


PAIR = {"client-certificate": "crt", "client-key": "key"}


@pytest.fixture
def administrator(forgetful: Cluster, tmp_path: Path) -> ApiStore:
    """Whom no gate holds up."""
    return opened(forgetful.write_kubeconfig(tmp_path / "administrator"))


@pytest.fixture
def informer(source: Recording, administrator: ApiStore) -> Iterator[Informer]:
    """Of all networks, with three there, synced."""
    for name in ("stays", "changes", "goes", "is-replaced"):
        put(administrator, name)
    made = Informer(source, NAD, pauses_s=QUICK_S)
    with running(made, source.server):
        until(lambda: made.is_synced and len(made) == 4)
        yield made


def put(store: ApiStore, name: str, number: int = 0) -> None:
    """Make a network, or change it."""
    about = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind}
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"config": f'{{"type": "bridge", "number": {number}}}'}
    if number:
        store.patch(NAD, NAMESPACE, name, {"spec": spec})
    else:
        store.create(NAD, {**about, "metadata": metadata, "spec": spec})


def kept(informer: Informer) -> dict[str, Object]:
    """Everything that it has."""
    return {name: found for (_, name), found in informer._objects.items()}


def there(store: ApiStore) -> dict[str, Object]:
    """Everything that the server has, as an informer would keep it."""
    return {each["metadata"]["name"]: trimmed(NAD, each) for each in store.list(NAD)[0]}


def change_everything(administrator: ApiStore) -> None:
    """In every way; two events of one object are more than one."""
    put(administrator, "comes")
    put(administrator, "changes", 1)
    put(administrator, "changes", 2)
    administrator.delete(NAD, NAMESPACE, "goes")
    administrator.delete(NAD, NAMESPACE, "is-replaced")
    put(administrator, "is-replaced")
    put(administrator, "came-and-went")
    administrator.delete(NAD, NAMESPACE, "came-and-went")


def test_what_etcd_has_forgotten_is_listed(
    informer: Informer, source: Recording, administrator: ApiStore, gate: Gate, forgetful: Cluster
):
    """The watch is told 410; one list makes up for it, and what comes later comes by a watch again."""
    gate.close()
    change_everything(administrator)
    forgetful.compact()
    source.told.clear()
    gate.open()

    until(lambda: kept(informer) == there(administrator))

    assert (["watch"], 2, []) == (source.gone, informer.lists, source.told)
    until(lambda: not informer.problem())
    put(administrator, "later")
    put(administrator, "stays", 3)
    until(lambda: kept(informer) == there(administrator))
    assert [("ADDED", "later"), ("MODIFIED", "stays")] == [(what, name) for what, name, _ in source.told]
    assert 2 == informer.lists


def test_what_is_not_forgotten_is_told_once_and_not_listed(
    informer: Informer, source: Recording, administrator: ApiStore, gate: Gate
):
    """The same without a compaction: no 410, and every change in its order."""
    gate.close()
    source.told.clear()
    change_everything(administrator)
    gate.open()

    until(lambda: kept(informer) == there(administrator))
    until(lambda: len(source.told) == 8)

    assert ([], 1) == (source.gone, informer.lists)
    assert [
        ("ADDED", "comes"),
        *[("MODIFIED", "changes")] * 2,
        ("DELETED", "goes"),
        ("DELETED", "is-replaced"),
        ("ADDED", "is-replaced"),
        ("ADDED", "came-and-went"),
        ("DELETED", "came-and-went"),
    ] == [(what, name) for what, name, _ in source.told]
    versions = [int(version) for _, _, version in source.told]
    assert sorted(set(versions)) == versions


def test_a_list_that_is_forgotten_in_the_middle_begins_anew(
    source: Recording, administrator: ApiStore, forgetful: Cluster
):
    """Its next page is 410; nothing of the half is kept, and nothing is missing."""
    for number in range(PAGE + 20):
        put(administrator, f"n{number:04}")
    happened = threading.Event()

    def forget() -> None:
        if not happened.is_set():
            happened.set()
            administrator.delete(NAD, NAMESPACE, "n0000")
            put(administrator, "a-new-one")
            forgetful.compact()

    source.between_pages = forget
    informer = Informer(source, NAD, pauses_s=QUICK_S)
    with running(informer, source.server):
        until(lambda: informer.is_synced)
        until(lambda: kept(informer) == there(administrator))

    assert (["list"], PAGE + 20) == (source.gone, len(informer))
    assert 2 == informer.lists


def test_an_api_server_that_has_started_anew_knows_no_older_changes(
    informer: Informer, source: Recording, administrator: ApiStore, forgetful: Cluster
):
    """It restarts, etcd is compacted meanwhile, and others were faster to write than we to watch."""
    forgetful.stop()
    until(informer.problem)
    forgetful.start()
    change_everything(administrator)

    until(lambda: kept(informer) == there(administrator))


def test_at_random_the_end_is_always_what_the_server_has(
    informer: Informer, source: Recording, administrator: ApiStore, gate: Gate, forgetful: Cluster
):
    """Changes go on while the watch is cut, etcd compacted, and lists are under way."""
    over, chance = threading.Event(), random.Random(7)
    names = [f"r{number}" for number in range(8)]

    def churn() -> None:
        number = 1
        while not over.wait(0.01):
            name = chance.choice(names)
            known = there(administrator)
            if name not in known:
                put(administrator, name)
            elif chance.random() < 0.4:
                administrator.delete(NAD, NAMESPACE, name)
            else:
                put(administrator, name, number := number + 1)

    churning = threading.Thread(target=churn)
    churning.start()
    deadline = time.monotonic() + 8 * SOON_S
    try:
        while len(source.gone) < 4:
            assert time.monotonic() < deadline, (source.gone, informer.problem())
            gate.close()
            over.wait(chance.uniform(0.05, 0.4))
            forgetful.compact()
            gate.open()
            if chance.random() < 0.5:
                until(lambda: not informer.problem())  # however slow it is to come that far
            over.wait(chance.uniform(0.05, 0.8))
    finally:
        over.set()
        churning.join()

    until(lambda: kept(informer) == there(administrator))
    assert informer.lists > 4
