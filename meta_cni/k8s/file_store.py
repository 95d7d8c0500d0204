"""
A directory of YAML files as a store: for demos, tests, single nodes and podman.

The files are the user's and are never rewritten by a patch. What a server would add (uid,
resourceVersion, patched annotations and status) is kept beside them, one small JSON file an
object, under a directory of our own. An edited file is noticed at the next read: the object
gets a new resourceVersion, keeps its uid, and what was patched is laid over it again.
"""

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import IOFailure
from meta_cni.k8s import schema
from meta_cni.k8s.store import (
    EVERY,
    AlreadyExists,
    Conflict,
    Event,
    Invalid,
    Kind,
    NotFound,
    Object,
    Replaced,
    Selector,
    merge_patch,
)

SUFFIXES = (".yaml", ".yml", ".json")
MAXIMUM_BYTES = 1 << 20
LONGEST_STEM = 220
"""Of a file's name, which ends with the digest of what is longer, and is at most 255 bytes with it."""
WATCH_POLL_S = 0.05
SETTLED_NS = 2 * 10**9  # two changes within the coarsest times of a file system look like one
KINDS = {kind.value.kind: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class _Source:
    """An object as its file has it."""

    path: Path
    document: Object


@dataclass(frozen=True, slots=True)
class _Read:
    """What a file held, and by what it is seen that it still does."""

    stamp: tuple[int, int, int]
    objects: Sequence[Object]
    sound: set[tuple[Kind, str]] = field(default_factory=set)
    """Those that were found to be as their schema says."""


class FileStore:
    """
    The objects in a directory; several processes and threads may use it at once.

    A file is parsed again when it has changed: by its times, size and inode, which tell a change
    only when the one before is some time ago.
    """

    def __init__(self, directory: Path, state: Path) -> None:
        self.directory = directory
        self.state = state
        self._read: dict[str, _Read] = {}

    def get(self, kind: Kind, namespace: str, name: str, *, is_newest: bool = True) -> Object:
        """
        The newest, always; raises NotFound.

        Raises Invalid when it breaks its schema, or when a file that may hold it cannot be read.
        """
        with self._locked():
            source = self._found(kind, namespace, name)
            self._require_sound(kind, source)
            return self._current(kind, source)

    def list(
        self, kind: Kind, namespace: str | None = None, selector: Selector = EVERY
    ) -> tuple[Sequence[Object], str]:
        """The objects of a namespace, or of all, by name, and the newest resource version."""
        with self._locked():
            sources, _ = self._sources(kind)
            objects = [self._current(kind, source) for source in sources.values()]
            wanted = [each for each in objects if namespace in (None, each["metadata"]["namespace"])]
            return [each for each in wanted if selector.matches(each)], str(self._version())

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        timeout_s: float,
        selector: Selector = EVERY,
    ) -> Iterator[Event]:
        """What changed after a resource version, looked for by reading again; a BOOKMARK ends it."""
        deadline = time.monotonic() + timeout_s
        start = int(resource_version or 0)
        known: dict[str, Object] = {}
        for each in self.list(kind, namespace, selector)[0]:
            if int(each["metadata"]["resourceVersion"]) <= start:
                known[_key(each)] = each
        while True:
            objects, version = self.list(kind, namespace, selector)
            present = {_key(each): each for each in objects}
            yield from _changes(known, present)
            known = present
            if time.monotonic() >= deadline:
                yield Event("BOOKMARK", {"metadata": {"resourceVersion": version}})
                return
            time.sleep(WATCH_POLL_S)

    def create(self, kind: Kind, document: Object) -> Object:
        """Add an object in a file of its own."""
        _require_valid(kind, document)
        namespace, name = _namespace_of(document), document["metadata"]["name"]
        with self._locked():
            if self._source(kind, namespace, name)[0] is not None:
                raise AlreadyExists(f"create {kind.value.kind} {namespace}/{name}: it exists already")
            path = self.directory / _file_name(f"{kind.value.kind.lower()}-{namespace}-{name}", ".yaml")
            if path.exists():
                raise AlreadyExists(f"create {kind.value.kind} {namespace}/{name}: {path} exists already")
            self._write_document(path, document)
            return self._current(kind, _Source(path, document))

    def replace(self, kind: Kind, document: Object) -> Object:
        """Replace an object; one that shares its file with others is replaced beside it."""
        _require_valid(kind, document)
        namespace, name = _namespace_of(document), document["metadata"]["name"]
        current = self.get(kind, namespace, name)
        _require_current(document, current)
        patch = _difference(current, document)
        patch.setdefault("metadata", {})["resourceVersion"] = current["metadata"]["resourceVersion"]
        return self.patch(kind, namespace, name, patch)

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Lay a merge patch over an object; its file is left as it is."""
        with self._locked():
            source = self._found(kind, namespace, name)
            _require_current(patch, self._current(kind, source))
            known = self._known(kind, namespace, name)
            kept = {key: value for key, value in patch.items() if key != "metadata"}
            metadata = dict(patch.get("metadata") or {})
            for key in ("resourceVersion", "uid", "name", "namespace"):
                metadata.pop(key, None)
            kept["metadata"] = metadata
            _require_valid(kind, merge_patch(_with_namespace(source.document), _laid(known["patch"], kept)))
            known["patch"] = _laid(known["patch"], kept)
            known["resourceVersion"] = self._next_version()
            self._write_known(kind, namespace, name, known)
            return _dressed(source.document, known)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Remove an object's file; one that shares it with others cannot be removed here."""
        with self._locked():
            source, _ = self._source(kind, namespace, name)
            if source is None:
                raise NotFound(
                    f"delete {kind.value.kind} {namespace}/{name}: there is none in {self.directory}"
                )
            if len(documents(source.path)) != 1:
                raise Invalid(
                    f"delete {kind.value.kind} {namespace}/{name}: {source.path} holds other objects too"
                )
            source.path.unlink()
            self._known_path(kind, namespace, name).unlink(missing_ok=True)
            self._next_version()

    def problems(self) -> Sequence[str]:
        """Everything wrong with the files: what cannot be read, and what breaks a schema."""
        found: list[str] = []
        for kind in Kind:
            sources, unreadable = self._sources(kind)
            found.extend(each for each in unreadable if each not in found)
            for source in sources.values():
                found.extend(f"{source.path}: {each}" for each in schema.problems(kind, source.document))
        return found

    def _source(self, kind: Kind, namespace: str, name: str) -> tuple[_Source | None, Sequence[str]]:
        sources, problems = self._sources(kind)
        return sources.get(f"{namespace}/{name}"), problems

    def _found(self, kind: Kind, namespace: str, name: str) -> _Source:
        source, problems = self._source(kind, namespace, name)
        if source is not None:
            return source
        what = f"find {kind.value.kind} {namespace}/{name}"
        if problems:
            raise Invalid(f"{what}: not found, and {problems[0]}", "\n".join(problems))
        raise NotFound(f"{what}: there is none in {self.directory}")

    def _require_sound(self, kind: Kind, source: _Source) -> None:
        """What a server would have refused is nothing to work with; looked at once, while its file stays."""
        key = _key(source.document)
        read = self._read.get(str(source.path))
        if read is not None and (kind, key) in read.sound:
            return
        found = schema.problems(kind, source.document)
        if found:
            raise Invalid(f"read {source.path}: {kind.value.kind} {key}: {'; '.join(found)}")
        if read is not None:
            read.sound.add((kind, key))

    def _sources(self, kind: Kind) -> tuple[dict[str, _Source], Sequence[str]]:
        """The objects of a kind by namespace/name, and what could not be read."""
        found: dict[str, _Source] = {}
        problems: list[str] = []
        if not _is_directory(self.directory):
            raise Invalid(f"read store {self.directory}: expected a directory of YAML files")
        for name in self._files():
            path = Path(name)
            try:
                objects = self._documents(name)
            except Invalid as error:
                problems.append(error.message)
                continue
            for document in objects:
                if document.get("kind") != kind.value.kind:
                    continue
                key = _key(document)
                if key in found:
                    raise Invalid(
                        f"{kind.value.kind} {key}: expected it once: in {found[key].path} and in {path}"
                    )
                found[key] = _Source(path, document)
        return found, problems

    def _files(self) -> Sequence[str]:
        """
        Every file that may hold objects, by name; what is known of others is forgotten.

        Hidden ones are none: the kubelet keeps a ConfigMap's files twice, the second time in `..data`.
        """
        found: list[str] = []
        for top, directories, names in os.walk(self.directory, onerror=_raise_unreadable):
            directories[:] = [each for each in directories if not each.startswith(".")]
            found += [f"{top}/{each}" for each in names if each.endswith(SUFFIXES) and each[0] != "."]
        found.sort()
        for gone in self._read.keys() - set(found):
            self._read.pop(gone, None)
        return found

    def _documents(self, name: str) -> Sequence[Object]:
        """As documents(), from memory when the file is as it was."""
        now = time.time_ns()
        try:
            status = os.stat(name)
        except OSError:
            return documents(Path(name))
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._read.get(name)
        if known is not None and known.stamp == stamp:
            return known.objects
        objects = documents(Path(name))
        if now - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
            self._read[name] = _Read(stamp, objects)
        return objects

    def _current(self, kind: Kind, source: _Source) -> Object:
        """The object with what a server would add; a changed file gets a new resource version."""
        namespace, name = _namespace_of(source.document), source.document["metadata"]["name"]
        known = self._known(kind, namespace, name)
        digest = hashlib.sha256(json.dumps(source.document, sort_keys=True, default=str).encode()).hexdigest()
        if known.get("digest") != digest:
            known.update(digest=digest, resourceVersion=self._next_version())
            self._write_known(kind, namespace, name, known)
        return _dressed(source.document, known)

    def _known_path(self, kind: Kind, namespace: str, name: str) -> Path:
        return self.state / _file_name(f"{kind.value.plural}_{namespace}_{name}", ".json")

    def _known(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """The object's own; a change of it goes by _write_known()."""
        try:
            file_name = _file_name(f"{kind.value.plural}_{namespace}_{name}", ".json")
            with open(f"{self.state}/{file_name}", "rb") as file:
                known: dict[str, Any] = json.loads(file.read())
        except (FileNotFoundError, ValueError):
            return {"uid": str(uuid.uuid4()), "patch": {}}
        except OSError as error:
            raise IOFailure(f"read {self.state}/{file_name}: {error.strerror}") from None
        return known

    def _write_known(self, kind: Kind, namespace: str, name: str, known: dict[str, Any]) -> None:
        self._write(self._known_path(kind, namespace, name), json.dumps(known))

    def _version(self) -> int:
        try:
            return int((self.state / "version").read_text())
        except (FileNotFoundError, ValueError):
            return 0
        except OSError as error:
            raise IOFailure(f"read {self.state}/version: {error.strerror}") from None

    def _next_version(self) -> str:
        """Written in place: a version that gets lost is as good as one that was never given."""
        version = str(self._version() + 1)
        path = f"{self.state}/version"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, version.encode(), 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise IOFailure(f"write {path}: {error.strerror}") from None
        return version

    def _write_document(self, path: Path, document: Object) -> None:
        import yaml  # noqa: PLC0415 - only for those who write files

        self._write(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.new")  # our lock is held: one that is left is taken again
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise IOFailure(f"write {path}: {error.strerror}") from None

    def _open_lock(self, *, is_made: bool = True) -> int:
        path = f"{self.state}/lock"
        try:
            if not is_made:
                self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IOFailure(f"open {path}: {error.strerror}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = self._open_lock()
        except FileNotFoundError:
            descriptor = self._open_lock(is_made=False)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise IOFailure(f"lock {self.state}/lock: {error.strerror}") from None
            yield
        finally:
            os.close(descriptor)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise IOFailure(f"read store {path}: {error.strerror}") from None


def _raise_unreadable(error: OSError) -> None:
    """A directory that cannot be listed does not say that its objects are not there; one that went does."""
    if not isinstance(error, FileNotFoundError):
        raise IOFailure(f"read store {error.filename}: {error.strerror}") from None


def documents(path: Path) -> list[Object]:
    """The objects in a file; raises Invalid naming file and line."""
    import yaml  # noqa: PLC0415 - only for those who keep objects in files

    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise Invalid(f"read {path}: expected at most {MAXIMUM_BYTES} bytes")
        found = list(yaml.load_all(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except OSError as error:
        raise Invalid(f"read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise Invalid(f"read {path}{line}: {getattr(error, 'problem', None) or 'is not YAML'}") from None
    objects: list[Any] = []
    for document in found:
        items = document.get("items") if isinstance(document, dict) and "items" in document else [document]
        objects.extend(each for each in items or [] if each is not None)
    for each in objects:
        if not isinstance(each, dict) or not isinstance(each.get("metadata"), dict) or not each.get("kind"):
            raise Invalid(f"read {path}: expected Kubernetes objects with kind and metadata")
        if not isinstance(each["metadata"].get("name"), str):
            raise Invalid(f"read {path}: {each['kind']}: expected metadata.name")
    return objects


def _file_name(stem: str, ending: str) -> str:
    """Of an object; names may be longer than a file's, then a part of it is a digest."""
    if len(stem) > LONGEST_STEM:
        stem = f"{stem[:LONGEST_STEM]}-{hashlib.sha256(stem.encode()).hexdigest()[:16]}"
    return stem + ending


def _namespace_of(document: Object) -> str:
    return str(document["metadata"].get("namespace") or "default")


def _key(document: Object) -> str:
    return f"{_namespace_of(document)}/{document['metadata']['name']}"


def _with_namespace(document: Object) -> Object:
    return {**document, "metadata": {**document["metadata"], "namespace": _namespace_of(document)}}


def _dressed(document: Object, known: Mapping[str, Any]) -> Object:
    """The file's object under what was patched, with the server's metadata."""
    dressed: Object = merge_patch(_with_namespace(document), known["patch"])
    dressed["metadata"].setdefault("uid", known["uid"])
    dressed["metadata"]["resourceVersion"] = known["resourceVersion"]
    return dressed


def _laid(old: Any, new: Any) -> Any:
    """Two merge patches as one: nulls stay, because they take away what the file has."""
    if not isinstance(new, Mapping):
        return new
    laid = dict(old) if isinstance(old, Mapping) else {}
    for key, value in new.items():
        laid[key] = _laid(laid.get(key), value) if isinstance(value, Mapping) else value
    return laid


def _difference(current: Object, wanted: Object) -> Object:
    """The merge patch that turns one object into another, the server's metadata aside."""
    patch: Object = {}
    for key in {**current, **wanted}:
        old, new = current.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new)
            if inner:
                patch[key] = inner
        elif old != new and key not in ("uid", "resourceVersion"):
            patch[key] = new
    return patch


def _changes(known: dict[str, Object], present: dict[str, Object]) -> Iterator[Event]:
    for key, each in present.items():
        if key not in known:
            yield Event("ADDED", each)
        elif known[key]["metadata"]["resourceVersion"] != each["metadata"]["resourceVersion"]:
            yield Event("MODIFIED", each)
    for key, each in known.items():
        if key not in present:
            yield Event("DELETED", each)


def _require_valid(kind: Kind, document: Object) -> None:
    found = schema.problems(kind, document)
    if found:
        raise Invalid(f"{kind.value.kind}: {'; '.join(found)}")


def _require_current(wanted: Mapping[str, Any], current: Object) -> None:
    metadata, given = current["metadata"], wanted.get("metadata") or {}
    if given.get("uid") not in (None, metadata["uid"]):
        raise Replaced(
            f"{current['kind']} {_key(current)}: it is another one: expected UID {metadata['uid']}"
        )
    if given.get("resourceVersion") not in (None, metadata["resourceVersion"]):
        raise Conflict(
            f"{current['kind']} {_key(current)}: it changed: "
            f"expected resourceVersion {metadata['resourceVersion']}"
        )
