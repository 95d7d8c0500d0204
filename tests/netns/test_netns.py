"""Namespaces: opened only when they are some, and nobody is left in one."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import BadNetns, KernelError, NetnsGone, TryAgainLater
from meta_cni.linux import link, netns
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns
from tests.netns.daemons import until
from tests.open_files import open_files

pytestmark = pytest.mark.guest

PR_SET_DUMPABLE = 4  # <linux/prctl.h>
NOBODY = 65534
Go = Callable[[int, Callable[[], Any]], Any]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Things that a runtime might name instead of a namespace."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "nothing": str(tmp_path / "nothing"),
        "below a file": str(tmp_path / "file" / "pod"),
        "an ended process": "/proc/4194305/ns/net",  # above the highest pid_max
        "file": str(tmp_path / "file"),
        "fifo": str(tmp_path / "fifo"),
        "loop": str(tmp_path / "loop"),
        "directory": str(tmp_path),
        "device": "/dev/null",
        "user namespace": "/proc/self/ns/user",
    }


@pytest.mark.parametrize("place", ["nothing", "below a file", "an ended process"])
def test_a_namespace_that_is_gone_is_told_from_a_wrong_path(places: dict[str, str], place: str):
    """A DEL must succeed when the pod's namespace is gone, and only then."""
    with pytest.raises(NetnsGone, match=f"open network namespace {places[place]}: it does not exist"):
        netns.open_netns(places[place])


@pytest.mark.parametrize("place", ["file", "fifo", "directory", "device", "user namespace"])
def test_what_is_no_network_namespace_is_refused(places: dict[str, str], place: str):
    """Links would be made in a namespace that nobody meant; and no descriptor may stay open."""
    before = open_files()

    with pytest.raises(BadNetns, match="expected a path like /run/netns/NAME or /proc/PID/ns/net") as raised:
        netns.open_netns(places[place])

    assert not isinstance(raised.value, NetnsGone)
    assert set() == open_files() - before


def test_a_path_that_cannot_be_followed_is_not_gone(places: dict[str, str]):
    """What may be there must not be given up by a DEL."""
    with pytest.raises(BadNetns, match="Too many levels of symbolic links") as raised:
        netns.open_netns(places["loop"])

    assert not isinstance(raised.value, NetnsGone)


def test_the_own_namespace_is_recognised(pod: PodNetns):
    """Configuring the node in place of a pod is the worst that a wrong path can do."""
    own = netns.open_netns("/proc/self/ns/net")

    answers = netns.is_own(own), netns.is_own(pod.fd), netns.run_in(pod.fd, lambda: netns.is_own(pod.fd))

    os.close(own)
    assert (True, False, True) == answers


def test_two_descriptors_of_one_namespace_have_one_identity(pod: PodNetns):
    """A path is not an identity: it may be mounted over."""
    again = netns.open_netns(pod.path)

    identities = netns.identity(again), netns.identity(pod.fd)

    os.close(again)
    assert identities[0] == identities[1]


def test_the_caller_stays_where_it_is(pod: PodNetns):
    """The serving thread must never be found in a pod, nor a thread be left behind in one."""
    before = os.stat("/proc/thread-self/ns/net").st_ino

    inside = netns.run_in(pod.fd, lambda: os.stat("/proc/thread-self/ns/net").st_ino)

    assert netns.identity(pod.fd)[1] == inside
    assert before == os.stat("/proc/thread-self/ns/net").st_ino
    until(lambda: inside not in _namespaces_of_threads())


def _namespaces_of_threads() -> set[int]:
    """Those that any thread of this process is in; one that ends meanwhile is in none."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found.add(os.stat(task / "ns" / "net").st_ino)
    return found


def test_a_visitor_is_at_home_again(pod: PodNetns):
    """What he does next is meant for the node."""
    before = os.stat(netns.OWN).st_ino

    seen = netns.visit(pod.fd, lambda: (os.stat(netns.OWN).st_ino, threading.get_ident()))

    assert (netns.identity(pod.fd)[1], threading.get_ident()) == seen
    assert before == os.stat(netns.OWN).st_ino


class Refused:
    """The C library, whose setns(2) is out of memory for some calls."""

    def __init__(self, library: ctypes.CDLL, refused: Iterable[int]) -> None:
        self.library = library
        self.refused = set(refused)
        self.calls = 0

    def setns(self, descriptor: int, kind: int) -> int:
        """As the kernel answers."""
        self.calls += 1
        return -1 if self.calls in self.refused else self.library.setns(descriptor, kind)


def test_a_visitor_insists_on_coming_home(pod: PodNetns, mocker):
    """Memory may be short for a moment; a thread that went on would configure the node in the pod."""
    before = os.stat(netns.OWN).st_ino
    library = Refused(netns._LIBC, refused=(3, 4))
    mocker.patch("meta_cni.linux.netns._LIBC", library)

    assert "there" == netns.visit(pod.fd, lambda: "there")

    assert (5, before) == (library.calls, os.stat(netns.OWN).st_ino)


NO_WAY_BACK = """
import ctypes, os, sys, threading
from meta_cni.linux import netns
libc = ctypes.CDLL(None)
assert libc.unshare(netns.CLONE_NEWUSER) == 0  # the namespace that we are in is not ours any more
made = []
def make():
    assert libc.unshare(netns.CLONE_NEWNET) == 0
    made.append(os.open(netns.OWN, os.O_RDONLY))
thread = threading.Thread(target=make)
thread.start()
thread.join()
home = os.stat(netns.OWN).st_ino
there, who = netns.visit(made[0], lambda: (os.stat(netns.OWN).st_ino, threading.get_ident()))
assert there == os.fstat(made[0]).st_ino
assert who != threading.get_ident()
assert home == os.stat(netns.OWN).st_ino
"""


def test_who_may_not_come_home_sends_a_thread():
    """The root of a user namespace may enter its pods' namespaces, and not the node's."""
    done = subprocess.run([sys.executable, "-c", NO_WAY_BACK], capture_output=True, text=True)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("go", [netns.visit, netns.run_in])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_is_raised_in_a_namespace_is_raised_to_the_caller(
    pod: PodNetns, go: Go, kind: type[BaseException]
):
    """A thread that swallows a failure makes an ADD that failed look done."""

    def fail() -> None:
        raise kind("inside")

    with pytest.raises(kind, match="inside"):
        go(pod.fd, fail)


@pytest.mark.parametrize("go", [netns.visit, netns.run_in])
def test_nothing_runs_when_the_namespace_cannot_be_entered(go: Go):
    """Else it would run on the node."""
    ran: list[bool] = []
    with open("/dev/null") as wrong, pytest.raises(KernelError, match="enter the pod's network namespace"):
        go(wrong.fileno(), lambda: ran.append(True))

    assert [] == ran


def test_the_lock_is_the_namespace_s_whatever_path_and_descriptor_it_has(pod: PodNetns):
    """Two threads may share a descriptor, and two programs have a path each."""
    other = netns.open_netns(pod.path)

    with netns.locked(pod.fd, 0):
        for each in (pod.fd, other):
            with pytest.raises(TryAgainLater, match="another call"), netns.locked(each, 0):
                pytest.fail("it is locked twice")

    with netns.locked(other, 0):
        os.close(other)


def test_a_lock_goes_when_its_holder_fails(pod: PodNetns):
    """What is raised inside must not lock the pod for ever."""
    with pytest.raises(ZeroDivisionError), netns.locked(pod.fd, 0):
        raise ZeroDivisionError

    with netns.locked(pod.fd, 0):
        assert pod.fd >= 0


def test_a_lock_of_another_namespace_is_another(pod: PodNetns, pods: Callable[[str], PodNetns]):
    """Pods do not wait for each other."""
    with netns.locked(pod.fd, 0), netns.locked(pods("second").fd, 0):
        assert pod.fd


def test_a_namespace_that_cannot_be_opened_again_is_told():
    """A descriptor that was closed meanwhile."""
    with (
        pytest.raises(KernelError, match="open the pod's network namespace: No such"),
        netns.locked(10**6, 0),
    ):
        pytest.fail("there is no such descriptor")


def test_a_created_namespace_has_its_loopback_up(pod: PodNetns):
    """A pod whose services talk over localhost needs it from the start."""
    loopback = link.find(pod.socket, "lo")

    assert loopback is not None
    assert loopback.is_up
    assert [] == pod.links()


def test_a_namespace_is_not_created_over_another(pod: PodNetns):
    """The first one would be lost, with everything in it."""
    with pytest.raises(KernelError, match=f"make network namespace {pod.path}: File exists"):
        netns.create(pod.path)

    still = netns.open_netns(pod.path)
    assert netns.identity(pod.fd) == netns.identity(still)
    os.close(still)


def test_a_namespace_that_cannot_have_its_path_leaves_nothing(tmp_path: Path):
    """A mistyped directory is an error with a text, and no thread or file."""
    (tmp_path / "file").touch()

    with pytest.raises(KernelError, match=r"make network namespace .*/file/pod"):
        netns.create(str(tmp_path / "file" / "pod"))

    assert ["file"] == os.listdir(tmp_path)


def test_a_namespace_that_cannot_be_finished_leaves_no_file(mocker):
    """A failed create() leaves nothing to be removed."""
    mocker.patch("meta_cni.linux.netns._bring_loopback_up", side_effect=ZeroDivisionError)

    with pytest.raises(ZeroDivisionError):
        netns.create("/run/netns/failing")

    assert not Path("/run/netns/failing").exists()


def test_removing_is_repeatable():
    """Whoever cleans up after a crash does not know how far it had come."""
    netns.create("/run/netns/twice")

    netns.remove("/run/netns/twice")
    netns.remove("/run/netns/twice")

    with pytest.raises(NetnsGone):
        netns.open_netns("/run/netns/twice")


def test_what_cannot_be_removed_is_told(tmp_path: Path):
    """Success would leave it behind, unseen."""
    with pytest.raises(KernelError, match=f"remove network namespace {tmp_path}: "):
        netns.remove(str(tmp_path))

    assert tmp_path.is_dir()


def in_child(function: Callable[[], str]) -> str:
    """What a function says in a forked child, which is free to change what it is."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = function()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def enter_and_look() -> str:
    """Enter a private namespace: how, which links it has, and what is in /run."""
    entered = netns.enter_private()
    with Socket.open_host() as socket:
        links = [(each.name, each.is_up) for each in link.dump(socket)]
    return f"{entered} {links} {os.listdir('/run')}"


def test_root_enters_a_private_namespace(pod: PodNetns):
    """The node of a test starts empty, whatever the machine has."""
    told = in_child(enter_and_look)

    assert "Private(is_root=True, used_user_namespace=False) [('lo', True)] []" == told
    assert Path(pod.path).exists()


def test_an_ordinary_user_enters_one_by_a_user_namespace(private_node: netns.Private):
    """`make run` must not need root; where a user runs the tests, that they run is the proof."""
    if private_node.used_user_namespace:
        return

    def as_nobody() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)  # else its /proc files stay root's
        return enter_and_look()

    told = in_child(as_nobody)

    assert "Private(is_root=False, used_user_namespace=True) [('lo', True)] []" == told


def test_a_user_who_may_not_is_told_what_to_allow():
    """A user without a mapping may not make user namespaces (user_namespaces(7))."""

    def without_mapping() -> str:
        ctypes.CDLL(None).unshare(netns.CLONE_NEWUSER)
        return enter_and_look()

    told = in_child(without_mapping)

    assert told.startswith("KernelError: make a user namespace (run as root, or allow it: sysctl user.max_")
    assert told.endswith(os.strerror(errno.EPERM))
