"""A directory of YAML as an API server: versions, conflicts, and files that are never rewritten."""

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import IOFailure
from meta_cni.k8s import file_store, schema
from meta_cni.k8s.file_store import FileStore
from meta_cni.k8s.store import AlreadyExists, Conflict, Invalid, Kind, NotFound, merge_patch

POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}  # a comment\n  namespace: ns\n"
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NETWORK = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind, "metadata": {"name": "n"}}


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "p.yaml").write_text(POD.format("p"))
    return FileStore(tmp_path / "objects", tmp_path / "state")


def status(text: str, **metadata: str) -> dict[str, object]:
    return {"metadata": {"annotations": {"status": text}, **metadata}}


def test_object_has_what_a_server_adds_and_keeps_it(store: FileStore):
    """uid and resourceVersion, the same at every read."""
    first, second = store.get(Kind.POD, "ns", "p"), store.get(Kind.POD, "ns", "p")

    assert first == second
    assert first["metadata"]["uid"]
    assert "1" == first["metadata"]["resourceVersion"]


def test_patch_is_laid_over_the_file_and_the_file_stays(store: FileStore):
    """The user's comments are worth more than our status."""
    before = (store.directory / "p.yaml").read_bytes()
    version = store.get(Kind.POD, "ns", "p")["metadata"]["resourceVersion"]

    patched = store.patch(Kind.POD, "ns", "p", status("up"), subresource="status")

    assert before == (store.directory / "p.yaml").read_bytes()
    assert patched == store.get(Kind.POD, "ns", "p")
    assert ("up", True) == (
        patched["metadata"]["annotations"]["status"],
        int(patched["metadata"]["resourceVersion"]) > int(version),
    )


def test_a_write_that_was_cut_off_leaves_nothing_after_the_next_one(store: FileStore, mocker):
    """A daemon that is killed again and again must not fill the disk."""
    mocker.patch("meta_cni.k8s.file_store.os.replace", side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        store.get(Kind.POD, "ns", "p")
    mocker.stopall()

    store.get(Kind.POD, "ns", "p")

    assert [] == [each.name for each in store.state.iterdir() if each.name.startswith(".")]


def test_edited_file_is_noticed_and_keeps_uid_and_patch(store: FileStore):
    """Editing by hand is how files are used."""
    old = store.patch(Kind.POD, "ns", "p", status("up"))
    (store.directory / "p.yaml").write_text(POD.format("p") + "  labels: {a: b}\n")

    new = store.get(Kind.POD, "ns", "p")

    assert {"a": "b"} == new["metadata"]["labels"]
    assert old["metadata"]["uid"] == new["metadata"]["uid"]
    assert "up" == new["metadata"]["annotations"]["status"]
    assert old["metadata"]["resourceVersion"] != new["metadata"]["resourceVersion"]


def test_file_is_parsed_again_only_when_it_has_changed(store: FileStore, mocker: MockerFixture):
    """An ADD asks for the pod and for each of its networks; YAML is slow."""
    for path in store.directory.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    mocker.patch.object(file_store, "SETTLED_NS", 0)
    time.sleep(0.01)
    documents = mocker.spy(file_store, "documents")
    store.get(Kind.POD, "ns", "p")
    count = documents.call_count

    store.get(Kind.POD, "ns", "p")

    assert count == documents.call_count
    path = next(store.directory.iterdir())
    path.write_text(path.read_text() + "\n")
    store.get(Kind.POD, "ns", "p")
    assert count + 1 == documents.call_count


def test_file_that_was_changed_just_now_is_parsed_again(store: FileStore, mocker: MockerFixture):
    """Two changes within one tick of a file system's clock look like one."""
    store.get(Kind.POD, "ns", "p")
    documents = mocker.spy(file_store, "documents")

    store.get(Kind.POD, "ns", "p")

    assert documents.call_count > 0


def test_hidden_files_and_directories_hold_no_objects(store: FileStore):
    """The kubelet keeps a ConfigMap's files in ..data, with links to them beside it."""
    hidden = store.directory / "..2026_11_24"
    hidden.mkdir()
    for path in [each for each in store.directory.iterdir() if each.is_file()]:
        (hidden / path.name).write_bytes(path.read_bytes())
    (store.directory / ".editor.yaml").write_text("{ not: yaml")

    assert "p" == store.get(Kind.POD, "ns", "p")["metadata"]["name"]
    assert [] == store.problems()


def test_old_resource_version_is_a_conflict(store: FileStore):
    """Optimistic concurrency, as on a server; the code says try again."""
    old = store.get(Kind.POD, "ns", "p")["metadata"]["resourceVersion"]
    store.patch(Kind.POD, "ns", "p", status("one", resourceVersion=old))

    with pytest.raises(Conflict, match="expected resourceVersion") as caught:
        store.patch(Kind.POD, "ns", "p", status("two", resourceVersion=old))

    assert 11 == caught.value.code


def test_null_in_a_patch_takes_away_what_the_file_has(store: FileStore):
    """RFC 7396."""
    (store.directory / "p.yaml").write_text(POD.format("p") + "  annotations: {a: b}\n")

    patched = store.patch(Kind.POD, "ns", "p", {"metadata": {"annotations": {"a": None}}})

    assert {} == patched["metadata"]["annotations"]


def test_created_object_has_a_file_and_can_be_replaced_and_deleted(store: FileStore):
    """All seven verbs."""
    nad = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "n"},
    }
    made = store.create(NAD, nad)
    with pytest.raises(AlreadyExists):
        store.create(NAD, nad)

    replaced = store.replace(NAD, {**made, "spec": {"config": "{}"}})

    assert "{}" == store.get(NAD, "default", "n")["spec"]["config"]
    with pytest.raises(Conflict):
        store.replace(NAD, made)
    assert replaced["metadata"]["uid"] == made["metadata"]["uid"]
    store.delete(NAD, "default", "n")
    for verb in (store.get, store.delete):
        with pytest.raises(NotFound):
            verb(NAD, "default", "n")
    with pytest.raises(NotFound):
        store.patch(NAD, "default", "n", {})


def test_list_tells_a_namespace_or_all(store: FileStore):
    """And the version to watch from."""
    (store.directory / "q.yaml").write_text(POD.format("q").replace("namespace: ns", "namespace: other"))

    everything, version = store.list(Kind.POD)

    assert ["p", "q"] == [each["metadata"]["name"] for each in everything]
    assert ["q"] == [each["metadata"]["name"] for each in store.list(Kind.POD, "other")[0]]
    assert "2" == version


def test_watch_tells_what_changed_and_ends_with_a_bookmark(store: FileStore):
    """What happened while one was away comes first."""
    _, version = store.list(Kind.POD)
    store.patch(Kind.POD, "ns", "p", status("up"))
    watching = store.watch(Kind.POD, None, version, 60)

    first = next(watching)
    (store.directory / "q.yaml").write_text(POD.format("q"))
    second = next(watching)
    (store.directory / "p.yaml").unlink()
    third = next(watching)
    _, newest = store.list(Kind.POD)
    rest = [each.type for each in store.watch(Kind.POD, None, newest, 0.1)]

    assert ("ADDED", "p", "ADDED", "q") == (
        first.type,
        first.object["metadata"]["name"],
        second.type,
        second.object["metadata"]["name"],
    )
    assert ("DELETED", ["BOOKMARK"]) == (third.type, rest)


def test_changed_object_is_told_as_modified(store: FileStore):
    """Known at the start of the watch."""
    _, version = store.list(Kind.POD)
    watching = store.watch(Kind.POD, "ns", version, 1)
    import threading

    threading.Timer(0.1, lambda: store.patch(Kind.POD, "ns", "p", status("up"))).start()

    assert "MODIFIED" == next(watching).type


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "line"),
        ("- 1", "kind and metadata"),
        ("kind: Pod\nmetadata: {}", "expected metadata.name"),
        ("metadata: {name: x}", "kind and metadata"),
        ("x" * (1 << 20) + "x", "at most"),
    ],
)
def test_broken_file_spoils_nothing_but_is_named_when_something_is_missing(
    store: FileStore, text: str, message: str
):
    """D-47: one bad file must not break lookups of what is elsewhere."""
    (store.directory / "bad.yaml").write_text(text)

    assert "p" == store.get(Kind.POD, "ns", "p")["metadata"]["name"]
    with pytest.raises(Invalid, match=message):
        store.get(Kind.POD, "ns", "nope")
    assert any(message in each for each in store.problems())


def test_object_in_two_files_is_refused_naming_both(store: FileStore):
    """Which one would count?"""
    (store.directory / "q.yaml").write_text(POD.format("p"))

    with pytest.raises(Invalid, match=r"p\.yaml and in .*q\.yaml"):
        store.get(Kind.POD, "ns", "p")


def test_file_of_several_objects_is_read_but_not_taken_apart(store: FileStore):
    """Documents and lists; deleting one of them is for the user."""
    (store.directory / "many.yaml").write_text(POD.format("a") + "---\n" + POD.format("b"))

    assert "b" == store.get(Kind.POD, "ns", "b")["metadata"]["name"]
    with pytest.raises(Invalid, match="other objects too"):
        store.delete(Kind.POD, "ns", "b")


@pytest.mark.parametrize("function", ["os.scandir", "pathlib.Path.is_dir"])
def test_directory_that_cannot_be_read_does_not_say_that_nothing_is_there(
    store: FileStore, mocker: MockerFixture, function: str
):
    """A pod would be told that there is no such network, and look for the mistake in its annotation."""
    error = OSError(errno.EIO, os.strerror(errno.EIO), str(store.directory))
    mocker.patch(function, side_effect=error)

    with pytest.raises(IOFailure, match=r"read store .*: Input/output error"):
        store.get(Kind.POD, "ns", "p")


@pytest.mark.parametrize("name", ["pods_ns_p.json", "version"])
def test_state_that_cannot_be_read_is_told(store: FileStore, name: str):
    """A bug is what nobody can mend."""
    store.state.mkdir(parents=True, exist_ok=True)
    (store.state / name).mkdir()

    with pytest.raises(IOFailure, match=f"read .*{name}: Is a directory"):
        store.get(Kind.POD, "ns", "p")


def test_directory_that_is_not_there_is_told(tmp_path: Path):
    """A typing error in the configuration must not look like an empty cluster."""
    with pytest.raises(Invalid, match="expected a directory"):
        FileStore(tmp_path / "nope", tmp_path / "state").get(Kind.POD, "ns", "p")


def test_full_disk_changes_nothing(store: FileStore, mocker):
    """The old state stays readable."""
    before = store.get(Kind.POD, "ns", "p")
    mocker.patch("meta_cni.k8s.file_store.os.replace", side_effect=OSError(28, "No space left on device"))

    with pytest.raises(IOFailure, match="No space left"):
        store.patch(Kind.POD, "ns", "p", status("up"))

    mocker.stopall()
    assert before == store.get(Kind.POD, "ns", "p")


def test_unusable_state_directory_is_told(store: FileStore, tmp_path: Path):
    """The state is ours; without it there are no versions."""
    (tmp_path / "file").write_text("")

    with pytest.raises(IOFailure, match="lock"):
        FileStore(store.directory, tmp_path / "file").get(Kind.POD, "ns", "p")


def _patch_many(directory: Path, state: Path, worker: int) -> None:
    store = FileStore(directory, state)
    for n in range(10):
        store.patch(Kind.POD, "ns", "p", {"metadata": {"annotations": {f"k{worker}-{n}": "x"}}})


def test_patches_of_several_processes_are_all_kept(store: FileStore):
    """Every CNI call is a process of its own."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_patch_many, args=(store.directory, store.state, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert 30 == len(store.get(Kind.POD, "ns", "p")["metadata"]["annotations"])


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_that_of_the_rfc(target: object, patch: object, expected: object):
    """RFC 7396, appendix A."""
    assert expected == merge_patch(target, patch)


@pytest.mark.parametrize(
    ("kind", "document", "fragment"),
    [
        (Kind.POD, {"kind": "Pod", "metadata": {"name": "p"}}, "expected the key apiVersion"),
        (
            Kind.POD,
            {"apiVersion": "v2", "kind": "Pod", "metadata": {"name": "p"}},
            "apiVersion: 'v2': expected 'v1'",
        ),
        (Kind.POD, {"apiVersion": "v1", "kind": "Pod", "metadata": {}}, "metadata: expected the key name"),
        (
            Kind.POD,
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {"a": 5}}},
            "metadata.annotations.a: 5: expected string",
        ),
        (
            Kind.POD,
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "A"}},
            "metadata.namespace: 'A': expected a DNS-1123 label",
        ),
        (NAD, {**NETWORK, "spec": {"config": {}}}, "spec.config: {}: expected string"),
        (NAD, {**NETWORK, "kind": "Network"}, "kind: 'Network': expected 'NetworkAttachmentDefinition'"),
        (
            NAD,
            {**NETWORK, "metadata": {"name": "n", "labels": {"a b": "c"}}},
            "metadata.labels: 'a b': expected [prefix/]name, as example.com/color",
        ),
        (
            NAD,
            {**NETWORK, "spec": {"config": "{" + "x" * 262144 + "}"}},
            " ...: expected at most 262144 characters, not 262146",
        ),
    ],
)
def test_schema_names_the_key_and_what_would_be_right(kind: Kind, document: dict[str, object], fragment: str):
    """The CRD's own schema; there is no second one."""
    (problem,) = schema.problems(kind, document)

    assert fragment in problem


@pytest.mark.parametrize("spec", [{}, {"spec": {}}, {"spec": {"config": ""}}, {"spec": {"config": "{}"}}])
def test_every_nad_upstream_allows_is_valid(spec: dict[str, object]):
    """Manifests written for Multus must not change."""
    assert [] == schema.problems(NAD, {**NETWORK, **spec})


@pytest.mark.parametrize("name", ["n" * 253, "a." * 126 + "a"])
def test_the_longest_names_are_kept(store: FileStore, name: str):
    """A file's name is shorter than an object's may be; two that begin alike are two."""
    for each in (name, name[:-1] + "b"):
        document = {**NETWORK, "metadata": {"name": each, "namespace": "n" * 63}}
        store.create(NAD, document)
        store.patch(NAD, "n" * 63, each, {"metadata": {"annotations": {"a": each}}})

    for each in (name, name[:-1] + "b"):
        found = store.get(NAD, "n" * 63, each)
        assert (each, each) == (found["metadata"]["name"], found["metadata"]["annotations"]["a"])
    store.delete(NAD, "n" * 63, name)
    assert 1 == len(store.list(NAD)[0])


def test_what_a_server_would_refuse_cannot_be_had(store: FileStore):
    """It was put there by hand; once it is right, it is there."""
    path = store.directory / "n.json"
    path.write_text(json.dumps({**NETWORK, "spec": {"config": {"type": "bridge"}}}))

    with pytest.raises(Invalid, match=r"n.json: Netw.* default/n: spec.config: .*expected string"):
        store.get(NAD, "default", "n")

    path.write_text(json.dumps({**NETWORK, "spec": {"config": "{}"}}))
    assert "{}" == store.get(NAD, "default", "n")["spec"]["config"]


def test_what_is_sound_is_looked_at_once(store: FileStore, mocker: MockerFixture):
    """While its file stays as it is."""
    path = store.directory / "n.json"
    path.write_text(json.dumps(NETWORK))
    os.utime(path, (0, 0))
    mocker.patch.object(file_store, "SETTLED_NS", -1)
    looked = mocker.spy(schema, "problems")

    for _ in range(3):
        store.get(NAD, "default", "n")

    assert 1 == looked.call_count
