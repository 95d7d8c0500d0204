"""Clusters to run the same tests on: the stand-in, and the real kube-apiserver where it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from tests.k8s.stand_in import StandIn


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A server that can be told to fail."""
    with StandIn() as server:
        yield server


@pytest.fixture
def store(stand_in: StandIn, tmp_path: Path) -> ApiStore:
    """The stand-in as the product sees it."""
    return ApiStore(Server(of_kubeconfig(stand_in.write_kubeconfig(tmp_path / "kubeconfig"))))
