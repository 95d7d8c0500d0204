"""
Another network namespace: entered for a moment, or by a thread that dies there.

A namespace belongs to a thread, not to a process (setns(2)), and a socket keeps the namespace
it was born in. A visit there and back is 0.02 ms; two threads that hand something over need
0.1, and milliseconds where others compute, since each time the scheduler has to let both run.
Nobody goes who may not come home. pyroute2's way, a forked child, costs 10 ms and is not safe
with threads.
"""

import _thread
import ctypes
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from meta_cni.cni.errors import BadNetns, KernelError, NetnsGone, TryAgainLater
from meta_cni.linux import threads

CLONE_NEWNS = 0x00020000  # <linux/sched.h>
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703  # <linux/nsfs.h>
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # <linux/mount.h>
MNT_DETACH = 2
USER_NAMESPACE = (
    "make a user namespace (run as root, or allow it: sysctl user.max_user_namespaces above 0, and where "
    "they exist kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0)"
)
OWN = "/proc/thread-self/ns/net"
LOCK_POLL_S = 0.005
HOME_POLL_S = 0.01
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)

Answer = TypeVar("Answer")
_LIBC = ctypes.CDLL(None, use_errno=True)
_THREAD = threading.local()


def open_netns(path: str) -> int:
    """
    A descriptor of the network namespace at `path`, for the caller to close.

    Raises NetnsGone when there is nothing, BadNetns when there is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in GONE:
            raise NetnsGone(f"open network namespace {path}: it does not exist") from None
        raise BadNetns(f"open network namespace {path}: {error.strerror}") from None
    if not _is_network_namespace(descriptor):
        os.close(descriptor)
        raise BadNetns(
            f"open network namespace {path}: it is none: "
            "expected a path like /run/netns/NAME or /proc/PID/ns/net"
        )
    return descriptor


def _is_network_namespace(descriptor: int) -> bool:
    """The kernel answers for namespace files alone; for all else the request is unknown."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    try:
        return fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def identity(descriptor: int) -> tuple[int, int]:
    """Device and inode: equal for two descriptors of one namespace."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class Closing(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Close it."""
        ...


class _Home:
    """The namespace that a thread is in: open from when it is first asked for until that ends or moves."""

    descriptor = -1

    def __init__(self) -> None:
        self.descriptor = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        self.identity = identity(self.descriptor)
        self.kept: dict[str, Closing] = {}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """At the end of the program `os` may have gone first."""
        if self.descriptor >= 0:
            close(self.descriptor)
            for each in self.kept.values():
                each.close()


def _home() -> _Home:
    """Of the calling thread; raises OSError where there is no /proc."""
    try:
        home: _Home = _THREAD.home
    except AttributeError:
        home = _THREAD.home = _Home()
    return home


def kept() -> dict[str, Closing] | None:
    """
    What the calling thread keeps open as long as it is in this namespace, for one request after another.

    None where nothing can be kept: without /proc nobody knows in which namespace he is.
    """
    try:
        return _home().kept
    except OSError:
        return None


def _moved() -> None:
    """The calling thread is in another namespace now."""
    _THREAD.__dict__.clear()


def is_own(descriptor: int) -> bool:
    """Is it the namespace that the calling thread is in?"""
    with _refused("look at our own network namespace"):
        return identity(descriptor) == _home().identity


@contextmanager
def opened_own() -> Iterator[int]:
    """A descriptor of the namespace that the calling thread is in; raises KernelError."""
    with _refused("open our own network namespace"):
        descriptor = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked(descriptor: int, deadline_s: float) -> Iterator[None]:
    """
    Hold the namespace's lock: for what two may not do at once in it, threads or programs.

    It is the lock of the reference sbr: flock(2) on the namespace's inode, whatever path it has.
    The inode is opened anew, because one who has the lock shares it with all who have the
    descriptor. Raises TryAgainLater when another holds it for so long.
    """
    with _refused("open the pod's network namespace"):
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(own, time.monotonic() + deadline_s)
        yield
    finally:
        os.close(own)


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        with _refused("lock the pod's network namespace"), suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise TryAgainLater("lock the pod's network namespace: another call for it is still running")
        time.sleep(LOCK_POLL_S)


def visit(descriptor: int, function: Callable[[], Answer]) -> Answer:
    """
    Call a function in another network namespace, and be home when this returns or raises.

    The function starts no thread: it would be born there. Whoever may not enter his own
    namespace could not come back to it, so a thread goes for him.
    """
    try:
        home = _home()
    except OSError:  # no /proc
        return run_in(descriptor, function)
    if _LIBC.setns(home.descriptor, CLONE_NEWNET) != 0:
        return run_in(descriptor, function)
    enter(descriptor)
    try:
        return function()
    finally:
        _come_home(home.descriptor)
        _THREAD.home = home


def _come_home(home: int) -> None:
    """
    Enter the own namespace again, whatever it takes.

    It was allowed a moment ago, so only memory can be short; a thread that went on without
    would take the pod for the node.
    """
    while _LIBC.setns(home, CLONE_NEWNET) != 0:
        time.sleep(HOME_POLL_S)


def run_in(descriptor: int, function: Callable[[], Answer]) -> Answer:
    """Call a function in another network namespace, on a thread; what it raises is raised here."""

    def work() -> Answer:
        enter(descriptor)
        return function()

    return _in_thread(work)


def enter(descriptor: int) -> None:
    """Move the calling thread into a network namespace."""
    _check(_LIBC.setns(descriptor, CLONE_NEWNET), "enter the pod's network namespace")
    _moved()


def _in_thread(function: Callable[[], Answer]) -> Answer:
    """What a function answers or raises, on a thread of its own, which ends with it."""
    answers: list[Answer] = []
    failures: list[BaseException] = []
    is_done = _thread.allocate_lock()
    is_done.acquire()

    def work() -> None:
        try:
            answers.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failures.append(error)
        finally:
            is_done.release()

    threads.begin(work)
    is_done.acquire()
    if failures:
        raise failures[0]
    return answers[0]


def _check(code: int, action: str) -> None:
    if code != 0:
        raise KernelError(action, ctypes.get_errno())


@contextmanager
def _refused(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelError(action, error.errno or errno.EIO) from None


def create(path: str) -> None:
    """Make a new network namespace, kept alive by a bind mount at `path`, with `lo` up."""
    with _refused(f"make network namespace {path}"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))

    def work() -> None:
        _check(_LIBC.unshare(CLONE_NEWNET), "make a network namespace")
        own = f"/proc/self/task/{_thread.get_native_id()}/ns/net"
        code = _LIBC.mount(own.encode(), path.encode(), None, MS_BIND, None)
        _check(code, f"mount a network namespace at {path}")
        _bring_loopback_up()

    try:
        _in_thread(work)
    except BaseException:
        remove(path)
        raise


def remove(path: str) -> None:
    """Let a namespace made by create() go; gone is success."""
    _LIBC.umount2(path.encode(), MNT_DETACH)
    with _refused(f"remove network namespace {path}"), suppress(FileNotFoundError):
        os.unlink(path)


def _bring_loopback_up() -> None:
    from meta_cni.linux import link  # noqa: PLC0415 - link needs this module for its sockets
    from meta_cni.linux.netlink import Socket  # noqa: PLC0415

    with Socket.open_host() as socket:
        loopback = link.find(socket, "lo")
        if loopback is not None:
            socket.request([link.set_link(loopback.index, is_up=True)])


@dataclass(frozen=True, slots=True)
class Private:
    """How the process came into a private namespace."""

    is_root: bool
    """It was root before."""
    used_user_namespace: bool


def enter_private() -> Private:
    """
    Move the whole process into its own network and mount namespace; `/run` becomes empty.

    It must have one thread only. An ordinary user gets a user namespace in which it is root;
    where the kernel forbids that, KernelError says what to allow.
    """
    user, group = os.getuid(), os.getgid()
    if user != 0:
        _check(_LIBC.unshare(CLONE_NEWUSER), USER_NAMESPACE)
        with _refused(USER_NAMESPACE):  # where AppArmor takes the new root's capabilities away
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _check(_LIBC.unshare(CLONE_NEWNS | CLONE_NEWNET), USER_NAMESPACE)
    else:
        _check(_LIBC.unshare(CLONE_NEWNS | CLONE_NEWNET), "make a network namespace")
    _moved()
    _check(_LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private")
    mount_empty("/run")
    _bring_loopback_up()
    return Private(is_root=user == 0, used_user_namespace=user != 0)


def mount_empty(directory: str) -> None:
    """Put an empty file system over a directory, for this mount namespace alone."""
    code = _LIBC.mount(b"meta-cni", directory.encode(), b"tmpfs", 0, b"mode=0755")
    _check(code, f"mount an empty file system at {directory}")
