"""
What was done for each sandbox, recorded before it is done.

One file a sandbox, `<directory>/<container id>`, holding every attachment with the exact bytes,
arguments and names its undoing needs. It is written before the first touch, replaced by rename,
and goes away when nothing is left to undo. Its first line is the checksum of the second, so a
torn or edited entry is known: it is moved to `damaged/`, never trusted, never thrown away.

What became of the attachments is appended, in two lines like the first two: replacing a file
makes ext4 write it to the disk at once (auto_da_alloc), 0.3 ms. What is cut off there was being
written by an ADD that nobody has an answer of: the entry tells what to undo all the same.

`fsync` is paid for only where a lost entry could not be rediscovered: when an executed plugin
takes part. What our own delegates made is found again in the kernel and in the stores.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import DamagedEntry, IOFailure, TryAgainLater
from meta_cni.quick import quick

FORMAT = 1
ENTRY, RESULTS = f"meta-cni {FORMAT}", f"meta-cni {FORMAT} results"
LOCK_POLL_S = 0.01
LOCKS, LOCK = "locks", "lock"
"""The file of which every sandbox locks a byte; nothing is ever written into it."""
ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
FLOCK = struct.Struct("hhqqi")  # struct flock, fcntl(2)
INTERFACE = re.compile(rb'"interface":"([^"]+)"')
"""As an entry has it."""


@quick
@dataclass(frozen=True, slots=True)
class Executed:
    """One plugin of an attachment, as it was run."""

    type: str
    is_builtin: bool
    stdin: str
    """The whole standard input, without prevResult."""
    binary: str = ""
    ipam_policy: str = "auto"


@quick
@dataclass(frozen=True, slots=True)
class Record:
    """One attachment: all that CHECK and DEL need."""

    container_id: str
    request: str
    """CNI_IFNAME of the runtime's ADD it belongs to."""
    request_network: str
    """The name in the runtime's configuration."""
    network: str
    interface: str
    config_name: str
    cni_version: str
    netns: str
    netns_identity: str
    """Device and inode, to know the namespace again."""
    executed: tuple[Executed, ...]
    cni_args: Mapping[str, str]
    path: tuple[str, ...]
    deadline_s: float
    group: int = 0
    device: str = ""
    resource: str = ""
    device_info: str = ""
    """Its device-info file."""
    is_default: bool = False
    is_check_disabled: bool = False
    is_route_requested: bool = False
    """Its selection had `default-route`."""
    is_side_by_side: bool = False
    """Others are attached and detached at the same time."""
    turn: int = 0
    """When it was attached: behind those with a lower one, or the same and before it here."""
    result: Mapping[str, Any] | None = None
    """The Result in version 1.1.0's form; None until the attachment is complete."""

    @property
    def is_builtin(self) -> bool:
        """No executed plugin takes part."""
        return all(each.is_builtin for each in self.executed)


@quick
@dataclass(frozen=True, slots=True)
class Entry:
    """Everything recorded for one sandbox."""

    container_id: str
    pod: str = ""
    pod_uid: str = ""
    records: tuple[Record, ...] = ()
    created_s: float = field(default=0.0)
    """Seconds since the epoch."""

    def of_request(self, request: str) -> tuple[Record, ...]:
        """The attachments that one ADD of the runtime made, in their order."""
        return tuple(record for record in self.records if record.request == request)

    def without(self, records: tuple[Record, ...]) -> "Entry":
        """The entry without some attachments."""
        return replace(self, records=tuple(each for each in self.records if each not in records))


class Ledger:
    """The entries of a node, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def locked(self, container_id: str, deadline_s: float) -> Iterator[None]:
        """
        Hold the sandbox's lock: calls for one container are serial, others run beside them.

        Raises TryAgainLater when another call holds it for longer than `deadline_s`.
        """
        path = f"{self.directory}/{LOCKS}/{LOCK}"
        descriptor = _lock(path, container_id, time.monotonic() + deadline_s)
        try:
            yield
        finally:
            os.close(descriptor)

    def forget_locks(self) -> None:
        """Remove the file that is locked; whoever waits for it notices."""
        with suppress(OSError):
            os.unlink(self.directory / LOCKS / LOCK)

    def read(self, container_id: str) -> Entry | None:
        """The entry of a sandbox; None when there is none, DamagedEntry when it cannot be trusted."""
        path = self._path(container_id)
        try:
            return _decode(_read(path), path)
        except FileNotFoundError:
            return None

    def named_interfaces(self, container_id: str) -> frozenset[str]:
        """Every interface that is named in what is left of a damaged entry. Raises IOFailure."""
        try:
            found = INTERFACE.findall(_read(self._path(container_id)))
        except FileNotFoundError:
            return frozenset()
        return frozenset(each.decode(errors="replace") for each in found)

    def write(self, entry: Entry) -> None:
        """Replace an entry; one without attachments is removed. Nothing is lost when it fails."""
        if not entry.records:
            self.remove(entry.container_id)
            return
        path, content = self._path(entry.container_id), _section(ENTRY, _document(entry))
        try:
            _replace(path, content, _is_durable(entry))
        except FileNotFoundError:
            _make_directory(self.directory)
            _replace(path, content, _is_durable(entry))

    def complete(self, entry: Entry, results: Sequence[tuple[Record, Mapping[str, Any]]]) -> None:
        """Add to an entry, as it was written, the results that some of its attachments have by now."""
        if not results:  # there may be no entry
            return
        path = self._path(entry.container_id)
        content = b"\n" + _section(RESULTS, {_place(each): result for each, result in results}) + b"\n"
        try:
            _write(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), content, _is_durable(entry))
        except OSError as error:
            raise IOFailure(f"write ledger entry {path}: {error.strerror}") from None

    def remove(self, container_id: str) -> None:
        """Forget a sandbox, and what was being written of it when we were killed; gone is success."""
        path = self._path(container_id)
        try:
            for each in (_unfinished(path), path):
                with suppress(FileNotFoundError):
                    os.unlink(each)
        except OSError as error:
            raise IOFailure(f"remove ledger entry {path}: {error.strerror}") from None

    def set_aside(self, container_id: str) -> Path:
        """Move a damaged entry out of the way, where it can be looked at."""
        target = self.directory / "damaged" / f"{container_id}.{time.time_ns()}"
        _make_directory(target.parent)
        try:
            os.replace(self.directory / container_id, target)
        except OSError as error:
            raise IOFailure(f"set aside ledger entry {container_id}: {error.strerror}") from None
        return target

    def holders(self, devices: Collection[str]) -> list[tuple[Entry, Record]]:
        """
        Every attachment that has one of these devices.

        Entries are searched as bytes, and read only where one is named. A damaged one holds nothing.
        """
        wanted = [json.dumps(each, ensure_ascii=False).encode() for each in devices]
        found: list[tuple[Entry, Record]] = []
        for container_id in self.container_ids():
            with suppress(FileNotFoundError, DamagedEntry):
                path = self._path(container_id)
                text = _read(path)
                if any(each in text for each in wanted):
                    entry = _decode(text, path)
                    found.extend((entry, each) for each in entry.records if each.device in devices)
        return found

    def container_ids(self) -> tuple[str, ...]:
        """Every sandbox that has an entry."""
        try:
            with os.scandir(self.directory) as found:
                names = [each.name for each in found if each.is_file()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise IOFailure(f"read ledger {self.directory}: {error.strerror}") from None
        return tuple(sorted(name for name in names if not name.startswith(".")))

    def marks(self) -> dict[str, tuple[int, ...]]:
        """Every sandbox that has an entry, with what is another one when the entry is. Raises IOFailure."""
        found: dict[str, tuple[int, ...]] = {}
        for name in self.container_ids():
            with suppress(FileNotFoundError):
                status = os.stat(self.directory / name)
                found[name] = (status.st_ino, status.st_mtime_ns, status.st_size)
        return found

    def _path(self, container_id: str) -> str:
        return f"{self.directory}/{container_id}"

    def damaged(self) -> tuple[Path, ...]:
        """Entries that were set aside."""
        directory = self.directory / "damaged"
        return tuple(sorted(directory.iterdir())) if directory.is_dir() else ()


def _read(path: str) -> bytes:
    """The bytes of an entry; raises FileNotFoundError, and IOFailure for anything else."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IOFailure(f"read ledger entry {path}: {error.strerror}") from None


def _lock(path: str, container_id: str, deadline: float) -> int:
    """
    An exclusive lock on the sandbox's own byte of a file that is still the one at `path`.

    A file for each sandbox would cost ext4 0.02 ms to make and remove, and 0.3 where many were removed
    in the last minute. The lock is the open file's, not the process's (F_OFD_SETLK, fcntl(2)).
    """
    own_byte = _byte_of(container_id)
    while True:
        descriptor = _open_lock(path)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, own_byte)
            if _is_same(descriptor, path):
                return descriptor
        except BlockingIOError:
            pass
        except OSError as error:
            os.close(descriptor)
            raise IOFailure(f"lock {path}: {error.strerror}") from None
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise TryAgainLater(f"lock sandbox {container_id}: another call for it is still running")
        time.sleep(LOCK_POLL_S)


def _byte_of(container_id: str) -> bytes:
    """A struct flock; that two sandboxes have one byte is as likely as a guessed key, and makes them wait."""
    digest = hashlib.blake2b(container_id.encode(errors="surrogateescape"), digest_size=8).digest()
    start = int.from_bytes(digest, "big") >> 2
    return FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)


def _open_lock(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        _make_directory(Path(path).parent)
    except OSError as error:
        raise IOFailure(f"open lock {path}: {error.strerror}") from None
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise IOFailure(f"open lock {path}: {error.strerror}") from None


def _is_same(descriptor: int, path: str) -> bool:
    """The file was not removed meanwhile."""
    ours = os.fstat(descriptor)
    try:
        theirs = os.stat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IOFailure(f"make directory {directory}: {error.strerror}") from None


def _is_durable(entry: Entry) -> bool:
    return not all(record.is_builtin for record in entry.records)


def _section(head: str, document: Mapping[str, Any]) -> bytes:
    """A line with the checksum of the next one, which has no end."""
    body = ENCODER.encode(document).encode()
    return f"{head} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _replace(path: str, content: bytes, is_durable: bool) -> None:
    """
    Write beside and rename; a failure leaves what was there. The sandbox's lock is held.

    Raises FileNotFoundError where there is no directory, IOFailure.
    """
    temporary = _unfinished(path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        _write(os.open(temporary, flags, 0o600), content, is_durable)
        os.replace(temporary, path)
        if is_durable:
            _sync_directory(os.path.dirname(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise IOFailure(f"write ledger entry {path}: {error.strerror}") from None


def _write(descriptor: int, content: bytes, is_durable: bool) -> None:
    """Write all of it, and close the file."""
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unfinished(path: str) -> str:
    """What a write that is cut off leaves: one file, which the next write takes and remove() removes."""
    directory, name = os.path.split(path)
    return f"{directory}/.{name}.new"


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _document(entry: Entry) -> dict[str, Any]:
    """As dataclasses.asdict() makes it, which copies every result deeply: 2 ms for four attachments."""
    records = [
        {**_values(each), "executed": [_values(one) for one in each.executed]} for each in entry.records
    ]
    return {**_values(entry), "records": records}


def _values(told: Entry | Record | Executed) -> dict[str, Any]:
    return {name: getattr(told, name) for name in told.__slots__}


def _decode(text: bytes, path: str) -> Entry:
    lines = text.split(b"\n")
    document = _checked(ENTRY, lines[:2])
    if document is None:
        raise DamagedEntry(f"read ledger entry {path}: the checksum does not match")
    told = _checked(RESULTS, lines[2:4])
    if told is None and len(lines) > 4:  # it is all there, and not as it was written
        raise DamagedEntry(f"read ledger entry {path}: the checksum of its results does not match")
    try:
        records = tuple(_record(each, told or {}) for each in document.pop("records"))
        return Entry(records=records, **document)
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedEntry(f"read ledger entry {path}: another version wrote it: {error}") from None


def _checked(head: str, lines: list[bytes]) -> dict[str, Any] | None:
    """What a section holds; None when it is not whole."""
    if len(lines) < 2 or lines[0] != f"{head} {hashlib.sha256(lines[1]).hexdigest()}".encode():
        return None
    document: dict[str, Any] = json.loads(lines[1])
    return document


def _record(document: dict[str, Any], told: Mapping[str, Any]) -> Record:
    """A record; one that was written without its result has the one that was appended."""
    document["executed"] = tuple(Executed(**each) for each in document["executed"])
    document["path"] = tuple(document["path"])
    if document.get("result") is None:
        document["result"] = told.get(f"{document['request']}/{document['interface']}")
    return Record(**document)


def _place(record: Record) -> str:
    return f"{record.request}/{record.interface}"
