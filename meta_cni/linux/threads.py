"""
Threads for what nobody waits for; who has done his work stays a moment for more.

To begin a thread and to let it end is 0.1 ms, half of which is paid by whoever runs meanwhile: its
stack is mapped and unmapped, and every CPU of the process is told. Pods come in bursts, each with a
deletion to send or addresses to announce, so the next one finds the thread of the one before.
"""

import _thread
import errno
import os
from collections.abc import Callable
from queue import Empty, SimpleQueue

from meta_cni.cni.errors import KernelError

Work = Callable[[], object]
LINGER_S = 1.0
MOST_IDLE = 16
_IDLE: list[SimpleQueue[Work]] = []
"""Where the threads that have nothing to do are told what to do, the newest of them last."""
os.register_at_fork(after_in_child=_IDLE.clear)


def begin(work: Work) -> None:
    """
    Begin a bare thread: threading.Thread adds the half of what one costs, to be found by others.

    Raises KernelError when there are no more threads to be had.
    """
    try:
        _thread.start_new_thread(work, ())
    except RuntimeError:
        raise KernelError("start a thread", errno.EAGAIN) from None


def do(work: Work) -> None:
    """
    Have it done by a thread that is there, or by a new one; it may leave no trace in the thread.

    Raises KernelError when there is none, and no more to be had.
    """
    try:
        inbox = _IDLE.pop()
    except IndexError:
        begin(lambda: _serve(work))
    else:
        inbox.put(work)


def _serve(work: Work) -> None:
    """One after another, until there was none for LINGER_S."""
    inbox: SimpleQueue[Work] = SimpleQueue()
    while True:
        work()
        _IDLE.append(inbox)
        try:
            work = inbox.get(timeout=LINGER_S if len(_IDLE) <= MOST_IDLE else 0)
        except Empty:
            try:
                _IDLE.remove(inbox)
            except ValueError:  # somebody has just found us
                work = inbox.get()
            else:
                return
