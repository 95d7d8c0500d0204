"""A daemon on a large cluster is measured when it knows the cluster, and not before."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import Kind
from tests.bench import clusters
from tests.k8s.stand_in import StandIn

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A cluster with three pods on the node and two networks."""
    with StandIn() as made:
        yield made


@pytest.fixture
def kubeconfig(stand_in: StandIn, tmp_path: Path) -> Path:
    path = stand_in.write_kubeconfig(tmp_path / "kubeconfig")
    store = ApiStore(Server(of_kubeconfig(path)))
    clusters.fill(store, Kind.POD, map(clusters.pod, range(3)))
    clusters.fill(store, NAD, map(clusters.network, range(2)))
    return path


@pytest.mark.slow
def test_a_daemon_is_measured_once_it_knows_the_cluster(tmp_path: Path, kubeconfig: Path):
    """One on another node knows the networks alone."""
    found = [
        clusters.started(tmp_path, kubeconfig, name, pods, 2)
        for name, pods in (("here", 3), ("elsewhere", 0))
    ]

    assert [["mb", "ready_ms"]] * 2 == [sorted(each) for each in found]
    assert all(value > 0 for each in found for value in each.values())


@pytest.mark.slow
def test_a_daemon_that_does_not_know_it_all_is_no_measure(tmp_path: Path, kubeconfig: Path):
    """A figure of an empty cache would be a fine one."""
    with pytest.raises(SystemExit, match="'pods': 3, 'network-attachment-definitions': 2}: expected 3 and 5"):
        clusters.started(tmp_path, kubeconfig, "here", 3, 5)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told(tmp_path: Path, kubeconfig: Path, stand_in: StandIn, mocker):
    """Else it would be waited for without end."""
    mocker.patch.object(clusters, "START_S", 3.0)
    stand_in.stop()

    with pytest.raises(SystemExit, match="not ready: "):
        clusters.started(tmp_path, kubeconfig, "here", 3, 2)


def test_without_a_real_api_server_the_tests_own_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And the report says so."""
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    with clusters.serving(tmp_path) as (name, kubeconfig):
        assert ([], "the tests' own API server") == (opened(kubeconfig), name)


def opened(kubeconfig: Path) -> list[object]:
    """Its networks."""
    return list(ApiStore(Server(of_kubeconfig(kubeconfig))).list(NAD)[0])


def test_networks_are_as_kubectl_applies_them():
    """Twice as large as their configuration, of which a daemon keeps half."""
    metadata = clusters.network(51)["metadata"]

    assert ("net-51", "tenant-1") == (metadata["name"], metadata["namespace"])
    applied = json.loads(metadata["annotations"][clusters.LAST_APPLIED])
    assert clusters.network(51)["spec"] == applied["spec"]
