"""Threads that stay a moment for more."""

import os
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import threads
from tests.netns.daemons import WAIT_S, until


@pytest.fixture(autouse=True)
def idle(mocker) -> Iterator[list[SimpleQueue[threads.Work]]]:
    """Threads of this test alone; those that are left end soon."""
    found: list[SimpleQueue[threads.Work]] = []
    mocker.patch.object(threads, "_IDLE", found)
    mocker.patch.object(threads, "LINGER_S", 0.2)
    yield found
    until(lambda: not found)


def done_by(count: int) -> list[int]:
    """Which threads do so much, one thing after the other."""
    seen: list[int] = []
    for n in range(count):
        threads.do(lambda: seen.append(threading.get_native_id()))
        until(lambda n=n: len(seen) > n and threads._IDLE != [])
    return seen


def test_the_next_one_finds_the_thread_of_the_one_before():
    """To begin one costs more than to tell one."""
    assert 1 == len(set(done_by(3)))


def test_no_thread_is_left_when_there_is_nothing_to_do():
    """Else a daemon has as many as its greatest burst needed."""
    (thread,) = done_by(1)

    until(lambda: not os.path.exists(f"/proc/self/task/{thread}"))
    assert [] == threads._IDLE


def test_what_takes_long_holds_nothing_up():
    """Who is at work is not told of more."""
    may_end = threading.Event()
    done: list[int] = []

    threads.do(lambda: may_end.wait(WAIT_S))
    threads.do(lambda: done.append(1))

    until(lambda: done == [1])
    may_end.set()


def test_few_wait_for_more(idle: list[SimpleQueue[threads.Work]], mocker):
    """A burst has an end, and who is one too many does not wait for it."""
    mocker.patch.object(threads, "MOST_IDLE", 2)
    mocker.patch.object(threads, "LINGER_S", 2 * WAIT_S)
    together = threading.Barrier(6)
    seen: list[int] = []

    def work() -> None:
        together.wait(WAIT_S)
        seen.append(threading.get_native_id())

    for _ in range(5):
        threads.do(work)
    together.wait(WAIT_S)

    try:
        until(lambda: len(seen) == 5 and sum(os.path.exists(f"/proc/self/task/{each}") for each in seen) <= 2)
    finally:
        mocker.patch.object(threads, "LINGER_S", 0)
        while idle:
            threads.do(lambda: None)


def test_who_is_found_at_the_last_moment_does_the_work(mocker):
    """He was about to end, and nobody else would do it."""
    done: list[str] = []

    class Late(SimpleQueue[threads.Work]):
        """Nothing comes in time, and then it does."""

        def get(self, block: bool = True, timeout: float | None = None) -> threads.Work:
            """Somebody takes us from the list before we do."""
            if timeout is not None and not done[1:]:
                threads.do(lambda: done.append("second"))
                raise Empty
            return super().get(block, timeout)

    mocker.patch.object(threads, "SimpleQueue", Late)

    threads.do(lambda: done.append("first"))

    until(lambda: done == ["first", "second"])


def test_a_mistake_ends_its_thread_and_no_other(mocker):
    """It is not among those that are told of more."""
    told = mocker.patch("sys.unraisablehook")

    threads.do(lambda: 1 / 0)
    until(lambda: told.called)

    assert [] == threads._IDLE
    assert 1 == len(set(done_by(2)))


def test_no_thread_to_be_had_is_told(mocker):
    """The caller does it himself, or not at all."""
    mocker.patch("meta_cni.linux.threads._thread.start_new_thread", side_effect=RuntimeError("no"))

    for each in (threads.do, threads.begin):
        with pytest.raises(KernelError, match="start a thread: Resource temporarily unavailable"):
            each(lambda: None)


def test_a_child_process_has_none_of_its_parent_s(mocker):
    """Fork takes the calling thread along alone: the others would never do what they are told."""
    mocker.stopall()
    done_by(1)

    child = os.fork()
    if child == 0:
        os._exit(len(threads._IDLE))

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
