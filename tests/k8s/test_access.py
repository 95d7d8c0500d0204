"""How a server is known, and how it knows us: what a kubeconfig or a pod's account says, at work."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s.access import EXPIRY_MARGIN_S, HOST, PORT, Credentials, in_cluster, of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import Forbidden, Kind
from tests.k8s.conftest import opened
from tests.k8s.stand_in import StandIn, write_kubeconfig
from tests.unit.k8s.test_access import EXEC, program

POD = {"metadata": {"name": "p", "namespace": "ns"}}
NAME = "kubernetes.test"


@pytest.fixture
def named() -> Iterator[StandIn]:
    """A server whose certificate is for a name that leads nowhere."""
    with StandIn(is_tls=True, name=NAME) as server:
        server.put(Kind.POD, POD)
        yield server


def found_by(store: ApiStore) -> str:
    """The pod that is there."""
    return str(store.get(Kind.POD, "ns", "p")["metadata"]["name"])


def with_cluster(directory: Path, server: StandIn, **cluster: Any) -> ApiStore:
    """The server as a kubeconfig's cluster has it."""
    return opened(write_kubeconfig(directory / "k", {"server": server.url, **cluster}, {"token": "secret"}))


def authority_in(directory: Path, server: StandIn) -> str:
    """A file with it."""
    assert server.authority is not None
    (directory / "ca.crt").write_text(server.authority.certificate)
    return "ca.crt"


def test_a_certificate_for_another_name_is_refused(named: StandIn, tmp_path: Path):
    """Whoever has some certificate of the authority is not the server yet."""
    store = with_cluster(tmp_path, named, **{"certificate-authority": authority_in(tmp_path, named)})

    with pytest.raises(Forbidden, match=r"certificate verify failed.*expected a certificate as kubeconfig"):
        found_by(store)


def test_tls_server_name_is_the_name_that_counts(named: StandIn, tmp_path: Path):
    """For a server that is reached by an address that its certificate does not have."""
    authority = {"certificate-authority": authority_in(tmp_path, named)}

    assert "p" == found_by(with_cluster(tmp_path, named, **authority, **{"tls-server-name": NAME}))
    with pytest.raises(Forbidden, match=r"certificate verify failed.*expected a certificate as kubeconfig"):
        found_by(with_cluster(tmp_path, named, **authority, **{"tls-server-name": "other.test"}))


def test_whoever_insists_talks_to_anybody(
    named: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
):
    """By insecure-skip-tls-verify, which the log tells once, and not without it."""
    store = with_cluster(tmp_path, named, **{"insecure-skip-tls-verify": True})
    assert ("p", "p") == (found_by(store), found_by(store))
    assert 1 == len(caplog.messages)
    assert caplog.messages[0].endswith("the API server's certificate is not verified")
    assert [] == list(recwarn)
    with pytest.raises(Forbidden, match="certificate verify failed"):
        found_by(with_cluster(tmp_path, named, **{"insecure-skip-tls-verify": False}))


def test_a_pod_asks_the_service_at_an_ipv6_address(tmp_path: Path):
    """With the account's token, and the account's authority."""
    with StandIn(is_tls=True, address="::1") as server:
        server.put(Kind.POD, POD)
        authority_in(tmp_path, server)
        (tmp_path / "token").write_text("secret\n")
        environment = {HOST: "::1", PORT: server.url.rpartition(":")[2]}

        assert "p" == found_by(ApiStore(Server(in_cluster(environment, tmp_path))))


class Printing:
    """A credential plugin that prints what it is told to, and counts its runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program(directory / "program", f"cd {directory}; echo x >> runs; cat printed")

    def print(self, token: str, expires_s: float | None = None) -> None:
        """From the next run on."""
        status: dict[str, str] = {"token": token}
        if expires_s is not None:
            status["expirationTimestamp"] = datetime.fromtimestamp(expires_s, UTC).isoformat()
        credential = {"apiVersion": EXEC["apiVersion"], "kind": "ExecCredential", "status": status}
        (self.directory / "printed").write_text(json.dumps(credential))

    @property
    def runs(self) -> int:
        """So far."""
        return len((self.directory / "runs").read_text().split())


@pytest.fixture
def printing(tmp_path: Path) -> Printing:
    """It prints the token that counts."""
    made = Printing(tmp_path)
    made.print("secret")
    return made


@pytest.fixture
def store(stand_in: StandIn, printing: Printing) -> ApiStore:
    """The stand-in for somebody who has a credential plugin."""
    stand_in.put(Kind.POD, POD)
    return opened(stand_in.write_kubeconfig(printing.directory / "k", exec=EXEC))


def test_a_credential_plugin_is_run_once(store: ApiStore, printing: Printing):
    """As long as nobody complains: each run may ask a server of its own."""
    assert ["p", "p"] == [found_by(store) for _ in range(2)]
    assert 1 == printing.runs


def test_a_credential_that_is_not_known_any_more_is_printed_anew(
    store: ApiStore, printing: Printing, stand_in: StandIn
):
    """401, whatever time it said."""
    printing.print("secret", time.time() + 3600)
    found_by(store)
    stand_in.tokens = {"newer": "us"}
    printing.print("newer", time.time() + 3600)

    assert "p" == found_by(store)
    assert 2 == printing.runs


def test_a_credential_that_nobody_knows_is_told_with_its_program(
    store: ApiStore, printing: Printing, stand_in: StandIn
):
    """It was run once more."""
    found_by(store)
    stand_in.tokens = {"newer": "us"}

    with pytest.raises(
        Forbidden, match=r"\(401\): expected a token .* valid in kubeconfig .*: exec ./program$"
    ):
        found_by(store)

    assert 2 == printing.runs


def test_a_credential_that_expires_is_printed_anew(stand_in: StandIn, printing: Printing):
    """Before the server says that it has, and not before its time comes."""
    now = [1000.0]
    printing.print("secret", now[0] + 60)
    kubeconfig = stand_in.write_kubeconfig(printing.directory / "k", exec=EXEC)
    credentials = Credentials(lambda: of_kubeconfig(kubeconfig).current(), lambda: now[0])
    store = ApiStore(Server(credentials))
    stand_in.put(Kind.POD, POD)
    found_by(store)
    stand_in.tokens = {"secret": "us", "newer": "us"}
    printing.print("newer", now[0] + 120)

    now[0] += 60 - EXPIRY_MARGIN_S - 1
    assert ("p", 1) == (found_by(store), printing.runs)
    now[0] += 2
    assert ("p", 2) == (found_by(store), printing.runs)

    assert "newer" == credentials.current().token
    assert {("get", "pods", "200"): 3} == store.server.tally.read()
