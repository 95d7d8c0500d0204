"""
host-local's directory of one network: one file an address, marks, and a lock.

The files are the reference plugin's (plugins/ipam/host-local/backend/disk), byte for byte, and
so is their lock: both programs hand out addresses from one directory at the same time and never
the same one. No symbolic link is written through: whoever wrote the configuration chose the directory,
and somebody else may have put one there. A file is named by its address, made with O_EXCL, and holds
`<container id>\\r\\n<interface>`; very old versions wrote no interface.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from meta_cni.cni.errors import CNIError, IOFailure, TryAgainLater, join
from meta_cni.cni.result import Address

LOCK = "lock"
LAST_RESERVED = "last_reserved_ip."
SEPARATOR = "\r\n"
DIRECTORY_MODE = 0o755  # the reference's modes
LOCK_MODE = 0o750
FILE_MODE = 0o644
LOCK_POLLS_S = (0.0005, 0.005)  # the first pause, and the longest
READ_BYTES = 4096
WITHOUT_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EXDEV, errno.EPERM)
"""open(2) where a file system has none, linkat(2) without /proc or across mounts."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """One address that is taken; `interface` is empty where an old version wrote none."""

    address: Address
    path: str
    container_id: str
    interface: str


def is_there(directory: Path) -> bool:
    """Is there such a directory? Raises IOFailure when that cannot be told."""
    try:
        return stat.S_ISDIR(os.stat(directory).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def names(directory: Path) -> list[str]:
    """The names of all files; a directory that is not there has none."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def listing(
    directory: Path, container_id: str = "", *, among: Iterable[str] | None = None
) -> list[Reservation]:
    """
    Every reservation, or a container's; files of other names or content are nobody's.

    `among` is what names() said. All files are read under the lock by every ADD and DEL of a
    network, so those of other containers cost no more than reading them.
    """
    start = container_id.encode()
    found = []
    for name in names(directory) if among is None else among:
        content = _content_of_address(directory, name)
        if content is not None and content.lstrip().startswith(start):
            found.append(_reservation(directory, name, content))
    return [each for each in found if each and container_id in ("", each.container_id)]


def _content_of_address(directory: Path, name: str) -> bytes | None:
    """What a file holds whose name may be an address; None when it holds nothing for us."""
    if not name[0].isdigit() and name[0] not in ":abcdef":
        return None
    path = f"{directory}/{name}"
    try:
        return _content(path)
    except (ValueError, FileNotFoundError):
        return None
    except OSError as error:
        raise IOFailure(f"read {path}: {error.strerror}") from None


def _reservation(directory: Path, name: str, content: bytes) -> Reservation | None:
    try:
        address, text = ip_address(name), content.decode().strip()
    except ValueError:
        return None
    container_id, _, interface = text.partition(SEPARATOR)
    return Reservation(address, f"{directory}/{name}", container_id, interface)


def _content(path: str) -> bytes:
    """The start of a regular file, never waiting for a named pipe; raises OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, READ_BYTES)
        if not content and not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
    except (IsADirectoryError, BlockingIOError):
        raise ValueError(f"{path} is no regular file") from None
    finally:
        os.close(descriptor)
    return content


def of(interface: str, reservations: Sequence[Reservation]) -> list[Reservation]:
    """Of a container's reservations the interface's own; where it has none, those without interface."""
    exact = [each for each in reservations if each.interface == interface]
    return exact or [each for each in reservations if not each.interface]


def last_reserved(directory: Path, index: int) -> Address | None:
    """Which address a range set gave last; None when it is not known."""
    try:
        return ip_address(_content(f"{directory}/{LAST_RESERVED}{index}").decode().strip())
    except (OSError, ValueError):
        return None


def write(
    directory: Path, addresses: Sequence[Address], owner: tuple[str, str], marks: Mapping[int, Address]
) -> None:
    """
    Reserve all addresses for (container id, interface) and mark the last of each range set.

    Everything or nothing. Raises FileExistsError when an address is taken, IOFailure.
    """
    undo: list[Callable[[], object]] = []
    try:
        for address in addresses:
            _create(str(directory), str(address), SEPARATOR.join(owner).encode(), undo)
        for index, address in marks.items():
            _mark(f"{directory}/{LAST_RESERVED}{index}", str(address).encode(), undo)
    except BaseException:
        for each in reversed(undo):
            each()
        raise


def _create(directory: str, name: str, content: bytes, undo: list[Callable[[], object]]) -> None:
    path = f"{directory}/{name}"
    with _told(f"write {path}"):
        try:
            _create_whole(directory, path, content)
        except OSError as error:
            if error.errno not in WITHOUT_TMPFILE:
                raise
            _create_empty(path, content, undo)
            return
        undo.append(partial(_try_unlink, path))


def _create_whole(directory: str, path: str, content: bytes) -> None:
    """Written before it has a name: whoever is killed meanwhile leaves no address that is nobody's."""
    descriptor = os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, FILE_MODE)
    try:
        _write_all(descriptor, content)
        # As open(2) says of O_TMPFILE; without a src_dir_fd Python calls link(2), which follows nothing.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _create_empty(path: str, content: bytes, undo: list[Callable[[], object]]) -> None:
    """As the reference does, where the file system has nothing better."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    undo.append(partial(_try_unlink, path))
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _mark(path: str, content: bytes, undo: list[Callable[[], object]]) -> None:
    """Overwrite in place: a full disk must not cost what was there before."""
    with _told(f"write {path}"):
        descriptor, is_there = _open_mark(path)
        try:
            before = os.pread(descriptor, READ_BYTES, 0) if is_there else None
            undo.append(partial(_restore, path, before))
            _overwrite(descriptor, content, before or b"")
        finally:
            os.close(descriptor)


def _open_mark(path: str) -> tuple[int, bool]:
    """The file's descriptor, made where it is missing, and whether it was there."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags), True
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, FILE_MODE), False


def _overwrite(descriptor: int, content: bytes, before: bytes) -> None:
    _write_all(descriptor, content)
    if len(before) > len(content):
        os.ftruncate(descriptor, len(content))


def _write_all(descriptor: int, content: bytes) -> None:
    if os.write(descriptor, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _restore(path: str, before: bytes | None) -> None:
    if before is None:
        _try_unlink(path)
        return
    with suppress(OSError), open(path, "r+b", buffering=0) as file:
        file.write(before)
        file.truncate(len(before))


def _try_unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


@contextmanager
def _told(action: str) -> Iterator[None]:
    """The kernel's refusal as IOFailure; a name that is taken goes through."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise IOFailure(f"{action}: {error.strerror}") from None


def remove(reservations: Iterable[Reservation]) -> None:
    """Remove the files, all that can be; gone is what we wanted. Raises IOFailure."""
    errors: list[CNIError] = []
    for each in reservations:
        try:
            os.unlink(each.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            errors.append(IOFailure(f"remove {each.path}: {error.strerror}"))
    if errors:
        raise join(errors)


@contextmanager
def made(directory: Path) -> Iterator[None]:
    """Make a directory that is not there; what was made is removed again when the block raises."""
    missing = [each for each in (directory, *directory.parents) if not is_there(each)]
    try:
        with _told(f"make {directory}"):
            os.makedirs(directory, DIRECTORY_MODE, exist_ok=True)
        yield
    except BaseException as error:
        if missing:
            _unmake(missing)
        if isinstance(error, FileExistsError):
            raise IOFailure(f"make {directory}: {error.strerror}: expected a directory") from None
        raise


def _unmake(directories: Sequence[Path]) -> None:
    """Remove directories from the innermost on, as long as they hold nothing but the lock."""
    lock = directories[0] / LOCK
    with suppress(OSError):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.listdir(lock.parent) == [LOCK]:
                lock.unlink()
        finally:
            os.close(descriptor)
    with suppress(OSError):
        for each in directories:
            if is_there(each):
                each.rmdir()


@contextmanager
def locked(directory: Path, deadline_s: float) -> Iterator[None]:
    """
    Hold the lock that the reference plugin takes; raises TryAgainLater at the deadline.

    A lock file that was removed while we waited for it locks nothing, so it is opened anew.
    """
    path = f"{directory}/{LOCK}"
    deadline = time.monotonic() + deadline_s
    while True:
        descriptor = _open_lock(path)
        try:
            _flock(descriptor, path, deadline)
            if _is_linked(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, LOCK_MODE)
    except OSError as error:
        raise IOFailure(f"open {path}: {error.strerror}") from None


def _flock(descriptor: int, path: str, deadline: float) -> None:
    pause, longest = LOCK_POLLS_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TryAgainLater(f"lock {path}: another program still holds it") from None
            time.sleep(pause)
            pause = min(2 * pause, longest)
        except OSError as error:
            raise IOFailure(f"lock {path}: {error.strerror}") from None


def _is_linked(descriptor: int, path: str) -> bool:
    """Is the open file still the one that has this name?"""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IOFailure(f"lock {path}: {error.strerror}") from None
