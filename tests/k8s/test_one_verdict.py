"""
A NetworkAttachmentDefinition is right or wrong wherever somebody looks at it.

What `meta-cni validate` takes, an API server takes, and a directory of files; what they refuse, it
refuses, with the key that is wrong. Of what only a reader of the text can see, it tells the same
whether the object is in a file or in the cluster.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.cli import command_line
from meta_cni.cni.errors import CNIError
from meta_cni.k8s.api_store import ApiStore
from meta_cni.k8s.file_store import FileStore
from meta_cni.k8s.store import Invalid, Kind
from tests.k8s.cluster import Cluster
from tests.k8s.conftest import opened
from tests.k8s.networks import CASES

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
Validate = Callable[..., list[dict[str, str]]]


@pytest.fixture
def validate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Validate:
    """The command, on a machine without plugins: the problems that it prints, and its exit code's word."""
    monkeypatch.setenv("CNI_PATH", "/nowhere")

    def call(*arguments: str) -> list[dict[str, str]]:
        code = command_line(["validate", "-o", "json", *arguments])
        found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
        assert bool(found) == bool(code)
        return found

    return call


def files(directory: Path) -> FileStore:
    (directory / "objects").mkdir()
    return FileStore(directory / "objects", directory / "state")


@pytest.mark.parametrize("name", CASES)
def test_of_a_file(tmp_path: Path, validate: Validate, name: str):
    """By the command, by a store that is asked to make it, and by one where somebody put it."""
    case = CASES[name]
    document = case.document("telco")
    store = files(tmp_path)
    path = tmp_path / "network.json"
    path.write_text(json.dumps(document, ensure_ascii=False))

    told = [each["problem"] for each in validate(str(path))]

    if case.refused:
        assert case.refused in " ".join(told)
        with pytest.raises(Invalid, match=case.refused):
            store.create(NAD, document)
        path.rename(tmp_path / "objects" / "network.json")
        if document["kind"] == NAD.value.kind:
            with pytest.raises(Invalid, match=case.refused):
                store.get(NAD, "telco", document["metadata"].get("name", "n"))
        return
    assert bool(case.problem) == bool(told)
    assert case.problem in " ".join(told)
    store.create(NAD, document)
    metadata = document["metadata"]
    found = files_again(tmp_path).get(NAD, metadata["namespace"], metadata["name"])
    assert document.get("spec") == found.get("spec")


def files_again(directory: Path) -> FileStore:
    """Another process."""
    return FileStore(directory / "objects", directory / "state")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_of_a_cluster(cluster: Cluster, namespace: str, tmp_path: Path, validate: Validate, name: str):
    """By the API server; of what it takes, the command tells what it tells of the file."""
    case = CASES[name]
    document = case.document(namespace)
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig")
    store: ApiStore = opened(kubeconfig)

    if case.refused:
        with pytest.raises(CNIError) as refused:
            store.create(NAD, document)
        assert isinstance(refused.value, Invalid)
        return
    store.create(NAD, document)
    path = tmp_path / "network.json"
    path.write_text(json.dumps(document, ensure_ascii=False))
    live = validate("--live", "--kubeconfig", str(kubeconfig), "-n", namespace)
    written = validate(str(path))

    where = f"NetworkAttachmentDefinition {namespace}/{document['metadata']['name']}"
    assert [where] * len(written) == [each["where"] for each in live]
    prefix = f"NetworkAttachmentDefinition {document['metadata']['name']}: "
    assert [each["problem"].removeprefix(prefix) for each in written] == [each["problem"] for each in live]
    assert bool(case.problem) == bool(live)
