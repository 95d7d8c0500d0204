"""The two namespaces of a request."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from functools import partial

import pytest

from meta_cni.cni.errors import KernelError, NetnsGone
from meta_cni.linux import link, netns
from meta_cni.linux.namespaces import Left, Namespaces, catch_up, put_off
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns
from tests.netns.daemons import WAIT_S, until
from tests.open_files import open_files


def test_nothing_is_opened_before_it_is_asked_for_and_all_is_closed(pod: PodNetns):
    """A daemon that leaks one descriptor a request serves for a day; what a thread keeps is opened once."""
    with Namespaces(pod.path) as namespaces:
        assert link.find(namespaces.host, "lo") is not None
    before = open_files()

    with Namespaces(pod.path) as namespaces:
        unopened = open_files() - before
        assert link.find(namespaces.pod, "lo") is not None
        assert link.find(namespaces.host, "lo") is not None
        opened = open_files() - before

    assert (0, 2) == (len(unopened), len(opened))
    assert set() == open_files() - before


def test_what_a_thread_keeps_is_closed_when_it_ends_or_moves(pod: PodNetns):
    """Its namespace and a socket there: in another one they would be the wrong ones."""
    before = open_files()
    kept: list[set[tuple[int, str]]] = []

    def work() -> None:
        for _ in range(2):
            assert link.find(Socket.of_thread(), "lo") is not None
            kept.append(open_files() - before)
        netns.enter(pod.fd)
        kept.append(open_files() - before)
        assert netns.is_own(pod.fd)
        assert link.find(Socket.of_thread(), "lo") is not None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert [2, 2, 0] == list(map(len, kept))
    until(lambda: open_files() <= before)


def test_a_visitor_has_his_own_socket_again(pod: PodNetns):
    """What he had at home is still there, and what he opened abroad is closed."""
    own = Socket.of_thread()
    before = open_files()

    there = netns.visit(pod.fd, lambda: [Socket.of_thread() is own, len(open_files() - before)])

    assert [False, 2] == there
    assert own is Socket.of_thread()
    assert set() == open_files() - before


def test_a_socket_on_which_answers_are_left_is_not_used_again(mocker):
    """A dump that was cut off would have the kernel refuse each later one of that thread (EBUSY)."""
    own = Socket.of_thread()
    mocker.patch.object(Socket, "_receive", side_effect=KernelError("list links", errno.ETIMEDOUT))
    with pytest.raises(KernelError, match="Connection timed out"):
        link.dump(own)
    mocker.stopall()

    assert own is not Socket.of_thread()
    with pytest.raises(KernelError, match="Bad file descriptor"):
        link.dump(own)
    assert "lo" in {each.name for each in link.dump(Socket.of_thread())}
    with pytest.raises(KernelError, match="No such device"):
        Socket.of_thread().request([link.set_link(0x7FFFFFF, is_up=True)])
    assert Socket.of_thread() is Socket.of_thread()


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


def test_what_is_run_in_the_pod_is_run_there_and_the_caller_is_at_home_again(pod: PodNetns):
    """A serving thread that stayed would take the pod for the node."""
    home = os.stat(netns.OWN).st_ino

    with Namespaces(pod.path) as namespaces:
        there = {namespaces.run(lambda: os.stat(netns.OWN).st_ino) for _ in range(3)}
        names = namespaces.run(lambda: sorted(name for _, name in socket.if_nameindex()))

    assert ({os.fstat(pod.fd).st_ino}, ["lo"]) == (there, names)
    assert home == os.stat(netns.OWN).st_ino


@pytest.mark.parametrize("kind", [KeyError, SystemExit])
def test_what_is_raised_in_the_pod_is_raised_to_the_caller(pod: PodNetns, kind: type[BaseException]):
    """Who is at home again all the same."""
    home = os.stat(netns.OWN).st_ino

    def fail() -> None:
        raise kind("there")

    with Namespaces(pod.path) as namespaces:
        with pytest.raises(kind, match="there"):
            namespaces.run(fail)
        assert home == os.stat(netns.OWN).st_ino
        assert 7 == namespaces.run(lambda: 7)


def test_what_is_done_later_is_done_though_it_fails_or_all_is_closed(pod: PodNetns):
    """On the node first, then in the pod; one that fails keeps nothing, and what is left open is closed."""
    before = open_files()
    done: list[tuple[str, int, list[bool]]] = []

    def note(what: str, left: Left = ()) -> None:
        done.append((what, os.stat(netns.OWN).st_ino, [each.fileno() >= 0 for each in left]))

    def leave(left: Left) -> None:
        left.append(socket.socket())
        raise OSError

    with Namespaces(pod.path) as namespaces:
        namespaces.later_aside(leave)
        namespaces.later_aside(partial(note, "aside"))
        namespaces.later(leave)
        namespaces.later(partial(note, "pod"))
        namespaces.later_here(lambda: 1 / 0)
        namespaces.later_here(partial(note, "node"))
        assert [] == done

    home, there = os.stat(netns.OWN).st_ino, os.stat(pod.path).st_ino
    assert [("node", home, []), ("pod", there, [True]), ("aside", there, [True])] == done
    assert set() == open_files() - before


def test_what_is_put_off_is_done_when_the_caller_has_his_answer(pod: PodNetns):
    """A worker answers first; two requests of his may be put off, the ADD and what undoes it."""
    before = open_files()
    done: list[object] = []
    announced = threading.Event()

    def serve() -> None:
        for n in range(2):
            put_off()
            with Namespaces(pod.path) as namespaces:
                namespaces.later_here(lambda n=n: done.append(n))
                namespaces.later(lambda _: announced.set())
        done.append(("answered", announced.is_set()))
        catch_up()
        catch_up()
        with Namespaces(pod.path) as namespaces:
            namespaces.later_here(lambda: done.append(2))
        done.append("end")

    in_thread(serve)

    assert [("answered", False), 0, 1, 2, "end"] == done
    assert announced.wait(WAIT_S)
    until(lambda: not open_files() - before)


def test_what_a_thread_puts_off_is_no_matter_of_the_others(pod: PodNetns):
    """A worker's caller waits, theirs do not."""
    done: list[int] = []
    in_thread(put_off)

    with Namespaces(pod.path) as namespaces:
        namespaces.later_here(lambda: done.append(1))

    assert [1] == done


def in_thread(function: Callable[[], object]) -> None:
    """To its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("what", ["function", "close"])
def test_nobody_waits_for_what_takes_long_but_the_main_thread(pod: PodNetns, what: str):
    """A process ends with its main thread; a worker has other things to do."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    class Long:
        """Takes long."""

        def close(self) -> None:
            """As to close a packet socket."""
            began.set()
            may_end.wait(2 * WAIT_S)
            ended.set()

    def attach() -> None:
        with Namespaces(pod.path) as namespaces:
            if what == "close":
                namespaces.later(lambda left: left.append(Long()))
            else:
                namespaces.later_aside(lambda _: Long().close())

    in_thread(attach)
    assert (True, False) == (began.wait(WAIT_S), ended.is_set())
    may_end.set()
    assert ended.wait(WAIT_S)

    ended.clear()
    attach()
    assert ended.is_set()


def test_a_namespace_that_cannot_be_entered_leaves_nothing(pod: PodNetns, mocker):
    """The error is the caller's, at once, and what was to be done later is dropped."""
    before = open_files()
    done: list[int] = []
    mocker.patch("meta_cni.linux.netns.enter", side_effect=KernelError("enter", errno.EPERM))

    with Namespaces(pod.path) as namespaces:
        with pytest.raises(KernelError, match="Operation not permitted"):
            namespaces.run(int)
        namespaces.later(lambda _: done.append(1))
        namespaces.later_aside(lambda _: done.append(2))

    assert (set(), []) == (open_files() - before, done)


def test_where_no_thread_is_to_be_had_it_is_done_all_the_same(pod: PodNetns, mocker):
    """Later, by the worker himself."""
    before = open_files()
    done: list[int] = []

    def attach() -> None:
        mocker.patch("meta_cni.linux.threads.do", side_effect=KernelError("start a thread", errno.EAGAIN))
        with Namespaces(pod.path) as namespaces:
            namespaces.later(lambda left: left.append(socket.socket()))
            namespaces.later_aside(lambda _: done.append(1))
            assert namespaces.run(lambda: True)

    in_thread(attach)

    assert [1] == done
    until(lambda: not open_files() - before)
