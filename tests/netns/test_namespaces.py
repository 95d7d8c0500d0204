"""The two namespaces of a request."""

import errno
import os
import socket
import threading
import time

import pytest

from meta_cni.cni.errors import KernelError, NetnsGone
from meta_cni.linux import link, netns
from meta_cni.linux.namespaces import Namespaces
from tests.netns.conftest import PodNetns


def test_nothing_is_opened_before_it_is_asked_for_and_all_is_closed(pod: PodNetns):
    """A daemon that leaks one descriptor a request serves for a day."""
    before = len(os.listdir("/proc/self/fd"))

    with Namespaces(pod.path) as namespaces:
        unopened = len(os.listdir("/proc/self/fd"))
        assert link.find(namespaces.pod, "lo") is not None
        assert link.find(namespaces.host, "lo") is not None
        opened = len(os.listdir("/proc/self/fd"))

    assert (before, before + 3) == (unopened, opened)
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_namespace_that_is_gone_is_gone_each_time():
    """Every step of a DEL may ask, and must get the same answer."""
    with Namespaces("/run/netns/gone") as namespaces:
        for _ in range(2):
            with pytest.raises(NetnsGone, match="/run/netns/gone: it does not exist"):
                _ = namespaces.pod
        assert namespaces.is_gone


def test_an_empty_path_is_a_namespace_that_is_gone():
    """CNI_NETNS may be empty on a DEL (CNI 1.1.0, section DEL)."""
    with Namespaces("") as namespaces, pytest.raises(NetnsGone, match="CNI_NETNS is empty"):
        _ = namespaces.pod_fd


def test_another_namespace_at_the_same_path_is_not_the_pod_s(pod: PodNetns):
    """A path is used again after a reboot; a DEL of the old pod must not touch the new one."""
    with Namespaces(pod.path) as namespaces:
        remembered = namespaces.identity
    netns.create("/run/netns/another")

    try:
        with Namespaces("/run/netns/another", remembered) as namespaces:
            assert namespaces.is_gone
            with pytest.raises(NetnsGone, match="another network namespace has its place"):
                _ = namespaces.pod
    finally:
        netns.remove("/run/netns/another")
    with Namespaces(pod.path, remembered) as namespaces:
        assert not namespaces.is_gone


def test_what_is_run_in_the_pod_is_run_there_on_one_thread(pod: PodNetns):
    """The caller's thread must never change its namespace, and the way there costs 0.1 ms."""
    with Namespaces(pod.path) as namespaces:
        threads = {namespaces.run(threading.get_ident) for _ in range(3)}
        names = namespaces.run(lambda: sorted(name for _, name in socket.if_nameindex()))

    assert (1, ["lo"]) == (len(threads), names)
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("kind", [KeyError, SystemExit])
def test_what_is_raised_in_the_pod_is_raised_to_the_caller(pod: PodNetns, kind: type[BaseException]):
    """And the thread goes on."""

    def fail() -> None:
        raise kind("there")

    with Namespaces(pod.path) as namespaces:
        with pytest.raises(kind, match="there"):
            namespaces.run(fail)
        assert 7 == namespaces.run(lambda: 7)


def test_what_is_done_later_is_done_though_it_fails_or_all_is_closed(pod: PodNetns):
    """An announcement goes out after the answer; one that fails keeps nothing."""
    done = threading.Event()

    with Namespaces(pod.path) as namespaces:
        namespaces.later(lambda: 1 / 0)
        namespaces.later(done.set)

    assert done.wait(5)


def is_over(thread: int) -> bool:
    """A thread ends soon; Python's threading knows nothing of it."""
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/self/task/{thread}") and time.monotonic() < deadline:
        time.sleep(0.01)
    return not os.path.exists(f"/proc/self/task/{thread}")


def test_no_thread_is_left(pod: PodNetns):
    """Else a daemon has one more for every request."""
    with Namespaces(pod.path) as namespaces:
        thread = namespaces.run(threading.get_native_id)

    assert is_over(thread)


def test_a_namespace_that_cannot_be_entered_leaves_no_thread(pod: PodNetns, mocker):
    """The error is the caller's, at once."""
    entering: list[int] = []

    def refused(descriptor: int) -> None:
        entering.append(threading.get_native_id())
        raise KernelError("enter", errno.EPERM)

    mocker.patch("meta_cni.linux.netns.enter", side_effect=refused)

    with Namespaces(pod.path) as namespaces, pytest.raises(KernelError, match="Operation not permitted"):
        namespaces.run(int)

    assert [True] == [is_over(each) for each in entering]


def test_no_thread_to_be_had_is_an_error(pod: PodNetns, mocker):
    """Try again later; nothing hangs."""
    mocker.patch("meta_cni.linux.netns._thread.start_new_thread", side_effect=RuntimeError("no"))

    with Namespaces(pod.path) as namespaces, pytest.raises(KernelError, match="start a thread"):
        namespaces.run(int)
