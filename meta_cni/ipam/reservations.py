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
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from meta_cni.cni.errors import CNIError, IOFailure, TryAgainLater, join
from meta_cni.cni.result import Address
from meta_cni.quick import quick

LOCK = "lock"
LAST_RESERVED = "last_reserved_ip."
SEPARATOR = "\r\n"
DIRECTORY_MODE = 0o755  # the reference's modes
LOCK_MODE = 0o750
FILE_MODE = 0o644
LOCK_POLLS_S = (0.0005, 0.005)  # the first pause, and the longest
READ_BYTES = 4096
FIRST_OF_ADDRESS = frozenset("0123456789abcdef:")
WITHOUT_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EXDEV, errno.EPERM)
"""open(2) where a file system has none, linkat(2) without /proc or across mounts."""


@quick
@dataclass(frozen=True, slots=True)
class Reservation:
    """One address that is taken; `interface` is empty where an old version wrote none."""

    address: Address
    path: str
    container_id: str
    interface: str

    @property
    def name(self) -> str:
        """The file's, which is the address as text."""
        return self.path.rpartition("/")[2]


Before = list[tuple[str, bytes | None]]
"""Files that were written, and what each held before; None for one that was not there."""


class NoDirectory(IOFailure):
    """There is no directory to lock."""


def is_there(directory: str | Path) -> bool:
    """Is there such a directory? Raises IOFailure when that cannot be told."""
    try:
        return stat.S_ISDIR(os.stat(directory).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def names(directory: str | Path) -> list[str]:
    """The names of all files; a directory that is not there has none."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def listing(
    directory: str | Path, container_id: str = "", *, among: Iterable[str] | None = None
) -> list[Reservation]:
    """
    Every reservation, or a container's; files of other names or content are nobody's.

    `among` is what names() said. All files are read under the lock by every ADD and DEL of a
    network, so those of other containers cost no more than reading them.
    """
    start = container_id.encode()
    found = []
    for name in names(directory) if among is None else among:
        if name[0] not in FIRST_OF_ADDRESS:
            continue
        path = f"{directory}/{name}"
        try:
            content = _content(path)
        except (ValueError, FileNotFoundError):
            continue
        except OSError as error:
            raise IOFailure(f"read {path}: {error.strerror}") from None
        if content.lstrip().startswith(start):
            found.append(_reservation(path, name, content))
    return [each for each in found if each and container_id in ("", each.container_id)]


def _reservation(path: str, name: str, content: bytes) -> Reservation | None:
    try:
        address, text = address_of(name), content.decode().strip()
    except ValueError:
        return None
    container_id, _, interface = text.partition(SEPARATOR)
    return Reservation(address, path, container_id, interface)


def address_of(name: str) -> Address:
    """
    The address that a file is called by, or that stands in a mark; raises ValueError.

    The C library reads one in a quarter of the time that ip_address() takes, and no zones, as in Go.
    """
    try:
        if ":" in name:
            return IPv6Address(socket.inet_pton(socket.AF_INET6, name))
        return IPv4Address(socket.inet_pton(socket.AF_INET, name))
    except OSError:
        raise ValueError(f"{name!r} is no address") from None


def name_of(address: Address) -> str:
    """How an address's file is called: str(), which takes ten times as long for IPv6."""
    if isinstance(address, IPv4Address):
        return socket.inet_ntop(socket.AF_INET, address.packed)
    text = socket.inet_ntop(socket.AF_INET6, address.packed)
    return str(address) if "." in text else text  # the C library ends some of them as ::10.0.0.1


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


def last_reserved(directory: str | Path, index: int) -> Address | None:
    """Which address a range set gave last; None when it is not known."""
    try:
        return address_of(_content(f"{directory}/{LAST_RESERVED}{index}").decode().strip())
    except (OSError, ValueError):
        return None


def write(directory: str | Path, wanted: Sequence[Reservation]) -> None:
    """
    Make reservations, one of each range set in their order, and mark each as the last of its set.

    Everything or nothing. Raises FileExistsError when an address is taken, IOFailure.
    """
    path = ""
    written: Before = []
    try:
        for each in wanted:
            path = each.path
            _create(directory, path, f"{each.container_id}{SEPARATOR}{each.interface}".encode(), written)
        for index, each in enumerate(wanted):
            path = f"{directory}/{LAST_RESERVED}{index}"
            _mark(path, each.name.encode(), written)
    except BaseException as error:
        for other, before in reversed(written):
            _restore(other, before)
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise IOFailure(f"write {path}: {error.strerror}") from None
        raise


def _create(directory: str | Path, path: str, content: bytes, written: Before) -> None:
    try:
        _create_whole(directory, path, content)
    except OSError as error:
        if error.errno not in WITHOUT_TMPFILE:
            raise
        _create_empty(path, content, written)
        return
    written.append((path, None))


def _create_whole(directory: str | Path, path: str, content: bytes) -> None:
    """Written before it has a name: whoever is killed meanwhile leaves no address that is nobody's."""
    descriptor = os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, FILE_MODE)
    try:
        _write_all(descriptor, content)
        # As open(2) says of O_TMPFILE; without a src_dir_fd Python calls link(2), which follows nothing.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _create_empty(path: str, content: bytes, written: Before) -> None:
    """As the reference does, where the file system has nothing better."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    written.append((path, None))
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _mark(path: str, content: bytes, written: Before) -> None:
    """Overwrite in place: a full disk must not cost what was there before."""
    descriptor, is_there = _open_mark(path)
    try:
        before = os.pread(descriptor, READ_BYTES, 0) if is_there else None
        written.append((path, before))
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
        _make(directory)
        yield
    except BaseException:
        if missing:
            _unmake(missing)
        raise


def _make(directory: Path) -> None:
    try:
        os.makedirs(directory, DIRECTORY_MODE, exist_ok=True)
    except FileExistsError as error:
        raise IOFailure(f"make {directory}: {error.strerror}: expected a directory") from None
    except OSError as error:
        raise IOFailure(f"make {directory}: {error.strerror}") from None


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


class Lock:
    """A lock that is held until its file is closed."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        """It is held already."""

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def locked(directory: str | Path, deadline_s: float) -> Lock:
    """
    The lock that the reference plugin takes; raises NoDirectory, TryAgainLater at the deadline.

    A lock file that was removed while we waited for it locks nothing, so it is opened anew.
    """
    path = f"{directory}/{LOCK}"
    deadline = time.monotonic() + deadline_s
    while True:
        descriptor = _open_lock(directory, path)
        try:
            _flock(descriptor, path, deadline)
            is_linked = _is_linked(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        if is_linked:
            return Lock(descriptor)
        os.close(descriptor)


def _open_lock(directory: str | Path, path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, LOCK_MODE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoDirectory(f"open {path}: {error.strerror}") from None
    except OSError as error:
        is_there(directory)  # if that cannot be told, either, this is the error
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
        opened, named = os.fstat(descriptor), os.stat(path)
        return opened.st_ino == named.st_ino and opened.st_dev == named.st_dev
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IOFailure(f"lock {path}: {error.strerror}") from None
