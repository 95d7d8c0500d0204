"""
The server: one thread that reads what shims send, a bounded number of workers that do it.

Nobody can hold it up: a frame has a few seconds to come, a full queue is told so at once (CNI
1.1.0, code 11), calls for one sandbox are done one after the other without keeping a worker
waiting. Who asked and went away gets his ADD undone.
"""

import errno
import fcntl
import logging
import os
import select
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from meta_cni.cni import version as versions
from meta_cni.cni.config import encode
from meta_cni.cni.errors import CNIError, IOFailure, TryAgainLater
from meta_cni.daemon import wire
from meta_cni.daemon.wire import Call

LOG = logging.getLogger("meta_cni")
UCRED = struct.Struct("=iII")  # struct ucred, unix(7)
BACKLOG = 512
POLL_S = 0.5
STUCK_S = 10.0
"""A reader that has not looked for so long is stuck."""
CLAIM_POLL_S = 0.05
READ_BYTES = 1 << 16
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # accept(2)
WANTED = {"DEL"}
"""Verbs that are done though nobody waits any more."""

Handle = Callable[[Call], tuple[bytes, int]]
"""One call -> what to print, exit code; never raises."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes on."""

    workers: int = field(default_factory=lambda: 4 * (os.cpu_count() or 1))
    """The work is waiting: for the kernel, for executed plugins."""
    relief: int = 32
    """More workers for as long as all are held up, by plugins that hang."""
    held_up_s: float = 1.0
    """When no call was begun for so long though some wait."""
    queue: int = 1000
    """Calls that wait for a worker."""
    connections: int = 2000
    """Callers at a time, whatever they do; more wait to be accepted."""
    read_s: float = 5.0
    """For a frame to come, and for an answer to be taken."""
    answer_s: float = 240.0
    """A caller is told to try again after it, and what was done for him is undone."""
    drain_s: float = 60.0
    """For what is being done when the server is to stop."""
    start_s: float = 70.0
    """For a daemon before this one to end: it drains."""
    first_s: float = 10.0
    """For the errands that are there before anybody is served; what hangs goes on beside."""
    errands_s: float = 5.0
    """How often they are looked for."""


@dataclass(eq=False, slots=True)
class Caller:
    """A connection."""

    socket: socket.socket
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    call: Call | None = None
    """What he asked, when it was read."""
    is_gone: bool = False
    """Nobody waits for the answer."""

    @property
    def verb(self) -> str:
        """CNI_COMMAND."""
        return self.call.variables.get("CNI_COMMAND", "") if self.call else ""

    @property
    def sandbox(self) -> str:
        """CNI_CONTAINERID; calls with the same one are done one after the other."""
        return self.call.variables.get("CNI_CONTAINERID", "") if self.call else ""


@dataclass(frozen=True, eq=False, slots=True)
class Errand:
    """What is to be done of a sandbox, and nobody waits for."""

    sandbox: str
    do: Callable[[], object]


class Queue:
    """Calls in the order they came, at most one of a sandbox in work."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        """Workers wait for it; woken one a call, since more would find nothing and cost 0.02 ms each."""
        self._emptied = threading.Condition(lock)
        self._ready: deque[Caller | Errand] = deque()
        self._behind: dict[str, deque[Caller | Errand]] = {}
        """Sandboxes in work, and who waits behind."""
        self.waiting = 0
        self.in_work = 0
        self._is_closed = False
        self._moved = 0.0
        """When a call was taken last, or the first one came that none was ready for."""

    def put(self, caller: Caller | Errand) -> bool:
        """Take it on, unless the queue is full."""
        with self._changed:
            if self.waiting >= self._longest or self._is_closed:
                return False
            self.waiting += 1
            behind = self._behind.get(caller.sandbox) if caller.sandbox else None
            if behind is not None:
                behind.append(caller)
            else:
                if caller.sandbox:
                    self._behind[caller.sandbox] = deque()
                self._make_ready(caller)
                self._changed.notify()
            return True

    def _make_ready(self, caller: Caller | Errand) -> None:
        if not self._ready:
            self._moved = time.monotonic()
        self._ready.append(caller)

    def take(self, *, is_patient: bool = True) -> Caller | Errand | None:
        """The next one; None when there will be no more, for who is not patient when there is none now."""
        with self._changed:
            while not self._ready:
                if not is_patient or (self._is_closed and not self.waiting):
                    return None
                self._changed.wait()
            self.waiting -= 1
            self.in_work += 1
            self._moved = time.monotonic()
            return self._ready.popleft()

    def is_held_up(self, seconds: float) -> bool:
        """Has nobody taken anything for so long, though there is something?"""
        with self._changed:
            return bool(self._ready) and time.monotonic() - self._moved > seconds

    def done(self, caller: Caller | Errand) -> None:
        """Let the next one of the same sandbox come."""
        with self._changed:
            self.in_work -= 1
            behind = self._behind.get(caller.sandbox)
            if behind:
                self._make_ready(behind.popleft())
                self._changed.notify()
            elif caller.sandbox:
                del self._behind[caller.sandbox]
            if not self.waiting and not self.in_work:
                self._emptied.notify_all()
            if self._is_closed:  # there may be no more for anybody
                self._changed.notify_all()

    def close(self) -> None:
        """Take nothing on any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def is_empty_within(self, seconds: float) -> bool:
        """Wait until everything is done."""
        with self._emptied:
            return self._emptied.wait_for(lambda: not self.waiting and not self.in_work, seconds)


class Server:
    """Serves calls on a unix socket until it is stopped."""

    def __init__(
        self,
        path: Path,
        handle: Handle,
        limits: Limits | None = None,
        *,
        prepare: Callable[[], object] = lambda: None,
        errands: Callable[[], Sequence[Errand]] = tuple,
        ready: Callable[[], object] = lambda: None,
        finish: Callable[[], object] = lambda: None,
    ) -> None:
        """
        `prepare` is called when no other daemon is left; `errands` tells what is to be done by now.

        `ready` is called when the first of them are done, and callers are heard; `finish` by a worker
        when a call has been answered, or an errand done.
        """
        self.path = path
        self.handle = handle
        self.limits = limits or Limits()
        self.prepare = prepare
        self.errands = errands
        self.ready = ready
        self.finish = finish
        self._on_errands: set[str] = set()
        """Sandboxes whose errand is not done yet."""
        self._relieving = 0
        """Workers beyond the usual ones."""
        self.queue = Queue(self.limits.queue)
        self._callers: dict[int, Caller] = {}
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self.refused = 0
        """Calls that did not fit into the queue."""
        self.gone = 0
        """Callers who did not wait for their answer."""
        self.undone = 0
        """ADDs of theirs that were undone."""
        self._turned = 0.0
        """When the reader looked last, by the monotonic clock; 0 before it listens."""
        self._deaf_until = 0.0
        """No connection is accepted before: there is no descriptor for it."""
        self._bell, self._ear = socket.socketpair()

    def stop(self) -> None:
        """End run() when what is being done is done; may be called by a signal handler."""
        self._is_stopping.set()
        with suppress(OSError):  # it has ended already
            self._bell.send(b"!", socket.MSG_DONTWAIT)

    @property
    def workers(self) -> int:
        """How many there are now, those for relief among them."""
        return self.limits.workers + self._relieving

    @property
    def is_alive(self) -> bool:
        """The reader turns; before it listens, and when it has stopped, there is nothing to turn."""
        is_turning = time.monotonic() - self._turned < STUCK_S
        return is_turning or not self._turned or self._is_stopping.is_set()

    def problems(self) -> list[str]:
        """Why no call should come here now."""
        if self._is_stopping.is_set():
            return ["stopping: what was taken on is finished"]
        if not self._turned:
            return ["starting: another daemon has not ended, or what waits in the spool is done first"]
        if self.queue.waiting >= self.limits.queue:
            return [f"the queue is full: {self.queue.waiting} calls are waiting"]
        return [] if self.is_alive else ["the reader is stuck"]

    def run(self) -> bool:
        """
        Serve; returns whether everything that was taken on was done in time.

        Raises IOFailure when the socket cannot be had, or was taken away.
        """
        with (
            self._bell,
            self._ear,
            claimed(self.path, self.limits.start_s, self._is_stopping),
            select.epoll() as poll,
        ):
            self.prepare()
            workers = [
                threading.Thread(target=self._work, args=(poll,), name=f"worker {n}", daemon=True)
                for n in range(self.limits.workers)
            ]
            for each in workers:
                each.start()
            self._do_errands_first()
            with listening(self.path) as listener:
                self.ready()
                is_lost = not self._listen(listener, poll)
            self._hang_up(poll)
            self.queue.close()
            is_done = self.queue.is_empty_within(self.limits.drain_s)
            if is_lost:
                raise IOFailure(
                    f"serve on {self.path}: somebody has removed the socket: start the daemon again"
                )
            return is_done

    def _do_errands_first(self) -> None:
        """All that there are, but not for ever."""
        until = time.monotonic() + self.limits.first_s
        while not self._send_on_errands() and time.monotonic() < until:
            self.queue.is_empty_within(until - time.monotonic())
        self.queue.is_empty_within(max(0.0, until - time.monotonic()))

    def _send_on_errands(self) -> bool:
        """Give the workers what nobody waits for; did it all fit?"""
        try:
            errands = self.errands()
        except CNIError as error:
            LOG.error("%s", error.message)
            return True
        for each in errands:
            if each.sandbox not in self._on_errands:
                self._on_errands.add(each.sandbox)
                if not self.queue.put(each):
                    self._on_errands.discard(each.sandbox)
                    return False
        return True

    def _listen(self, listener: socket.socket, poll: select.epoll) -> bool:
        """Take calls on until it is time to stop, or nobody can find us any more: was it time?"""
        ours = _identity(self.path)
        for each in (listener, self._ear):
            poll.register(each, select.EPOLLIN)
        LOG.info("serving on %s with %d workers", self.path, self.limits.workers)
        errands_at = time.monotonic() + self.limits.errands_s
        while not self._is_stopping.is_set():
            self._turned = time.monotonic()
            for descriptor, _ in poll.poll(POLL_S):
                if descriptor == listener.fileno():
                    self._accept(listener, poll)
                elif descriptor != self._ear.fileno():
                    self._hear(descriptor, poll)
            self._expire(poll)
            self._relieve(poll)
            if self._deaf_until and self._deaf_until < time.monotonic():
                self._deaf_until = 0.0
                poll.modify(listener, select.EPOLLIN)
            if errands_at < time.monotonic():
                errands_at = time.monotonic() + self.limits.errands_s
                self._send_on_errands()
                if _identity(self.path) != ours:
                    return False
        return True

    def _hang_up(self, poll: select.epoll) -> None:
        """Callers whose frame has not come yet are told to go to the next daemon."""
        with self._lock:
            unread = [each for each in self._callers.values() if each.call is None]
        for each in unread:
            self._close(each, poll)

    def _accept(self, listener: socket.socket, poll: select.epoll) -> None:
        if len(self._callers) >= self.limits.connections:
            self._rest(listener, poll, f"{self.limits.connections} callers are here already")
            return
        try:
            connection, _ = listener.accept()
        except OSError as error:  # it went away, or there is no descriptor for it
            if error.errno in EXHAUSTED:
                self._rest(listener, poll, str(error.strerror))
            return
        connection.setblocking(False)
        caller = Caller(connection, time.monotonic() + self.limits.read_s)
        with self._lock:
            self._callers[connection.fileno()] = caller
        poll.register(connection, select.EPOLLIN)
        refusal = refusal_of(connection)
        if refusal:
            self._answer(caller, *told(CNIError(refusal)), poll)
        else:  # a shim has sent its call by now, as a rule
            self._hear(connection.fileno(), poll)

    def _rest(self, listener: socket.socket, poll: select.epoll, reason: str) -> None:
        """Accept nobody for a while; the listener would be told without end."""
        LOG.error("accept a call: %s: it is tried again in %g s", reason, POLL_S)
        self._deaf_until = time.monotonic() + POLL_S
        poll.modify(listener, 0)

    def _hear(self, descriptor: int, poll: select.epoll) -> None:
        """Read on, or notice that a caller who waits has gone."""
        with self._lock:
            caller = self._callers.get(descriptor)
        if caller is None:
            return
        if caller.call is not None:
            caller.is_gone = True  # nothing but EPOLLHUP and EPOLLERR is asked for by now
            self._close(caller, poll)
            return
        try:
            data = caller.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        caller.data += data
        self._advance(caller, is_over=not data, poll=poll)

    def _advance(self, caller: Caller, *, is_over: bool, poll: select.epoll) -> None:
        """Take the call on when it is whole; refuse what never will be."""
        try:
            length = wire.length_of(caller.data)
            if length is None or len(caller.data) < length:
                if is_over:
                    self._close(caller, poll)
                return
            caller.call = wire.parse_request(caller.data)
        except CNIError as error:
            self._answer(caller, *told(error), poll)
            return
        caller.data = bytearray()
        caller.deadline = time.monotonic() + self.limits.answer_s
        poll.modify(caller.socket, 0)  # a caller that goes is told all the same
        if not self.queue.put(caller):
            self.refused += 1
            full = TryAgainLater(f"{self.limits.queue} calls are waiting already: try again later")
            self._answer(caller, *told(full), poll)

    def _expire(self, poll: select.epoll) -> None:
        """Give up on frames that do not come, and on callers who waited too long."""
        now = time.monotonic()
        with self._lock:
            late = [each for each in self._callers.values() if each.deadline < now]
        for each in late:
            if each.call is None:
                self._close(each, poll)
            elif not each.is_gone:
                each.is_gone = True
                error = TryAgainLater(f"{each.verb} is not done within {self.limits.answer_s:g} s")
                self._answer(each, *told(error), poll)

    def _relieve(self, poll: select.epoll) -> None:
        """One more worker where all are held up; it goes when there is nothing to do."""
        if not self.queue.is_held_up(self.limits.held_up_s):
            return
        with self._lock:
            if self._relieving >= self.limits.relief:
                return
            self._relieving += 1
        LOG.warning("all workers are held up: %d more for now", self._relieving)
        thread = threading.Thread(target=self._help_out, args=(poll,), name="relief", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are to be had
            self._relieved()

    def _help_out(self, poll: select.epoll) -> None:
        try:
            self._work(poll, is_patient=False)
        finally:
            self._relieved()

    def _relieved(self) -> None:
        with self._lock:
            self._relieving -= 1

    def _work(self, poll: select.epoll, *, is_patient: bool = True) -> None:
        """A worker's life."""
        while (taken := self.queue.take(is_patient=is_patient)) is not None:
            try:
                if isinstance(taken, Caller):
                    self._serve(taken, poll)
                else:
                    taken.do()
                self.finish()
            except Exception:  # a worker that dies is never replaced
                LOG.exception("a bug in meta-cni")
                if isinstance(taken, Caller):
                    self._close(taken, poll)
            finally:
                if isinstance(taken, Errand):
                    self._on_errands.discard(taken.sandbox)
                self.queue.done(taken)

    def _serve(self, caller: Caller, poll: select.epoll) -> None:
        call = caller.call
        assert call is not None
        if caller.is_gone and caller.verb not in WANTED:
            self._count(gone=1)
            return
        printed, code = self.handle(call)
        if self._answer(caller, printed, code, poll):
            return
        self._count(gone=1)
        if caller.verb == "ADD" and code == 0:
            LOG.warning("ADD %s: the caller has gone: it is undone", caller.sandbox)
            _, left = self.handle(Call({**call.variables, "CNI_COMMAND": "DEL"}, call.stdin))
            self._count(undone=not left)

    def _count(self, *, gone: int = 0, undone: int = 0) -> None:
        """Workers count at the same time."""
        with self._lock:
            self.gone += gone
            self.undone += undone

    def _answer(self, caller: Caller, printed: bytes, code: int, poll: select.epoll) -> bool:
        """Send it and close; was it taken, and by nobody else's hand?"""
        if not self._forget(caller, poll):
            return False
        try:
            caller.socket.settimeout(self.limits.read_s)
            caller.socket.sendall(wire.answer(printed, code))
            _read_up(caller.socket)
        except OSError:
            return False
        finally:
            caller.socket.close()
        return True

    def _close(self, caller: Caller, poll: select.epoll) -> None:
        if self._forget(caller, poll):
            caller.socket.close()

    def _forget(self, caller: Caller, poll: select.epoll) -> bool:
        """Of all who want to answer or give up a caller only the first may: he alone closes."""
        descriptor = caller.socket.fileno()
        with self._lock:
            if self._callers.get(descriptor) is not caller:
                return False
            del self._callers[descriptor]
        with suppress(OSError, ValueError):
            poll.unregister(descriptor)
        return True


def told(error: CNIError) -> tuple[bytes, int]:
    """An error as it is printed."""
    return encode(error.to_json(versions.NEWEST)), 1


def _read_up(connection: socket.socket) -> None:
    """Whoever is refused may still write; were anything left unread, he would see a reset, not the answer."""
    connection.shutdown(socket.SHUT_RD)
    while connection.recv(READ_BYTES):
        pass


def refusal_of(connection: socket.socket) -> str:
    """Why a caller is not served: he is neither root nor who we are; empty when he is."""
    _, user, _ = UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    if user in (0, os.geteuid()):
        return ""
    return f"call by user {user}: expected root"


@contextmanager
def claimed(path: Path, wait_s: float, is_stopping: threading.Event) -> Iterator[None]:
    """
    The socket's directory, which one daemon has at a time, from before it listens until it has drained.

    One that takes nothing on any more is waited for. Raises IOFailure: another daemon serves, or
    does not end, or somebody else owns the place.
    """
    own_directory(path.parent)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + wait_s
        while not _is_locked(descriptor):
            if is_served(path):
                raise IOFailure(f"listen on {path}: another daemon serves it")
            if is_stopping.is_set() or time.monotonic() > deadline:
                raise IOFailure(f"listen on {path}: another daemon has not ended yet")
            time.sleep(CLAIM_POLL_S)  # an Event that is waited for must not be set by a signal handler
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_served(path: Path) -> bool:
    """Does anybody listen there? One whose queue is full does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """
    A socket that listens in a directory that is claimed; taken away in the end.

    One that is there is left from a daemon that was killed. Raises IOFailure.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as made:
        try:
            path.unlink(missing_ok=True)
            os.fchmod(made.fileno(), 0o600)  # before it is bound: unix_bind() takes it from there
            made.bind(str(path))
            made.listen(BACKLOG)
        except OSError as error:
            raise IOFailure(f"listen on {path}: {error.strerror or error}") from None
        ours = _identity(path)
        try:
            yield made
        finally:
            with suppress(OSError):
                if _identity(path) == ours:
                    path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode; zeros where there is nothing."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def own_directory(directory: Path) -> os.stat_result:
    """Make it, or see that nobody else can put anything there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(directory)
    except OSError as error:
        raise IOFailure(f"make {directory}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise IOFailure(
            f"use {directory}: it is not only ours: "
            f"expected a directory of user {os.geteuid()} with mode 0700"
        )
    return found
