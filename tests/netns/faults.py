"""
One fault of the world at a time, at any door by which a call goes out: kernel, files, programs, threads.

The kernel is the real one: a message that is refused is left out of its datagram, and its error told
as the kernel tells it; a call whose answer is lost has really been made. A kill is one, of a child
that made the call. Doors are numbered in the order in which a call passes them, by the thread
that made it alone; what happens inside of one is not passed.
"""

import _thread
import builtins
import errno
import fcntl
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from pytest_mock import MockerFixture

from meta_cni import invoke
from meta_cni.cni.errors import DelegateFailed, KernelError, ProgramFailed
from meta_cni.linux import netlink, netns, program, threads
from meta_cni.linux.netlink import Request, Socket


class Fault(Enum):
    """What happens at a door."""

    REFUSED = "refused"
    """Nothing is done, and an error is told."""
    UNHEARD = "done, and told as an error"
    KILLED = "killed behind it"
    LASTING = "refused, and all behind it"
    """At a door of its kind: a disk stays full."""


class Kind(Enum):
    """Of a door."""

    KERNEL = "kernel"
    FILE = "file"
    PROGRAM = "program"
    THREAD = "thread"


@dataclass(frozen=True)
class Door:
    """One that a call passed."""

    kind: Kind
    action: str
    told: str
    """What an error must name."""
    is_change: bool
    """It changes something outside of the process."""
    is_told_late: bool = False
    """It may be done, and told as an error."""

    @property
    def faults(self) -> Iterator[Fault]:
        """All that can happen here: what only reads is as good as the door before it to be killed at."""
        yield Fault.REFUSED
        if self.is_told_late:
            yield Fault.UNHEARD
        if self.is_change:
            yield Fault.KILLED
            yield Fault.LASTING


KERNEL_ERRORS = (errno.ENOBUFS, errno.EPERM, errno.EBUSY)


class World:
    """The doors, and the fault that one of them has."""

    def __init__(self, mocker: MockerFixture) -> None:
        self.passed: list[Door] = []
        self._fault: Fault | None = None
        self._at = -1
        self._kind: Kind | None = None
        self._thread = 0
        self._inside = 0
        self._paths: dict[int, str] = {}
        _hang(self, mocker)

    @contextmanager
    def having(self, fault: Fault | None = None, at: int = -1) -> Iterator[list[Door]]:
        """
        Count the doors that a call passes, with a fault at one of them; yields them.

        The call begins with nothing that its thread has kept: each passes the same doors then, those
        behind which it is opened among them, and a child has a netlink socket of its own.
        """
        netns._moved()
        self.passed, self._fault, self._at, self._kind = [], fault, at, None
        self._thread, self._inside = threading.get_ident(), 0
        try:
            yield self.passed
        finally:
            self._thread = 0

    def kill(self, at: int, call: Callable[[], Any]) -> bool:
        """Make a call in a process of its own, which is killed behind a door; False when it ended before."""
        child = os.fork()
        if not child:
            try:
                with self.having(Fault.KILLED, at):
                    call()
            finally:
                os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    @property
    def is_watching(self) -> bool:
        """Does the calling thread pass doors now?"""
        return threading.get_ident() == self._thread and not self._inside

    def go(self, door: Door, through: Callable[[], Any], refused: Callable[[], Any]) -> Any:
        """Pass a door; `refused` raises, or answers, what it has to say when it is closed."""
        if not self.is_watching:
            return through()
        number = len(self.passed)
        self.passed.append(door)
        if self._is_closed(number, door):
            return refused()
        with self.inside():
            answer = through()
        if number == self._at and self._fault is Fault.KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self._at and self._fault is Fault.UNHEARD and door.is_told_late:
            return refused()
        return answer

    def _is_closed(self, number: int, door: Door) -> bool:
        if number == self._at and self._fault in (Fault.REFUSED, Fault.LASTING):
            self._kind = door.kind
            return True
        return (
            self._fault is Fault.LASTING and number > self._at and door.is_change and door.kind is self._kind
        )

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What is called passes no doors."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What is called inside of a door, and passes doors of its own."""
        before, self._inside = self._inside, 0
        try:
            yield
        finally:
            self._inside = before

    def opened(self, descriptor: int, path: str) -> int:
        """A descriptor, with the path that an error of it names."""
        if self._thread:
            self._paths[descriptor] = path
        return descriptor

    def path_of(self, descriptor: object) -> str:
        """Of what was opened; a number that has no path is its own."""
        return (
            self._paths.get(descriptor, str(descriptor)) if isinstance(descriptor, int) else str(descriptor)
        )


def _hang(world: World, mocker: MockerFixture) -> None:
    """Hang the doors."""
    _hang_kernel(world, mocker)
    _hang_files(world, mocker)
    _hang_programs(world, mocker)


# The kernel.


def _hang_kernel(world: World, mocker: MockerFixture) -> None:
    mocker.patch.object(Socket, "request", _request_door(world))
    mocker.patch.object(Socket, "delete_links", _deletion_door(world))
    opening = KernelError("open a netlink socket", errno.EMFILE)
    mocker.patch.object(
        netlink, "_raw_socket", _simple_door(world, netlink._raw_socket, Kind.KERNEL, opening)
    )
    entering = KernelError("enter the pod's network namespace", errno.EPERM)
    mocker.patch.object(netns, "enter", _simple_door(world, netns.enter, Kind.KERNEL, entering))
    starting = RuntimeError("start a thread")
    start = _simple_door(world, _thread.start_new_thread, Kind.THREAD, starting)
    mocker.patch.object(_thread, "start_new_thread", start)
    mocker.patch.object(threads, "_IDLE", [])  # whether one is left from before is chance
    mocker.patch.object(threads, "MOST_IDLE", 0)


def _simple_door(
    world: World, function: Callable[..., Any], kind: Kind, error: Exception
) -> Callable[..., Any]:
    """One that changes nothing, and fails with this error, which begins with what it is about."""
    action = str(error).split(":", maxsplit=1)[0]

    def passing(*arguments: Any) -> Any:
        door = Door(kind, action, action, is_change=False)
        return world.go(door, lambda: function(*arguments), lambda: _raise(error))

    return passing


def _request_door(world: World) -> Callable[..., Any]:
    """One for each message, and then one for all of them."""
    request = Socket.request

    def passing(self: Socket, batch: Sequence[Request]) -> Any:
        if not world.is_watching or not batch:
            return request(self, batch)
        left, failures = _told_apart(world, batch)
        if failures:
            with world.inside(), suppress(KernelError):
                request(self, left)
            raise failures[0]
        is_change = not all(each.is_question for each in batch)
        action = str(batch[0])
        door = Door(Kind.KERNEL, f"datagram: {action}", action, is_change, is_told_late=is_change)
        refused = KernelError(action, errno.ENOBUFS)
        return world.go(door, lambda: request(self, batch), lambda: _raise(refused))

    return passing


def _told_apart(world: World, batch: Sequence[Request]) -> tuple[list[Request], list[KernelError]]:
    """The messages that the kernel takes, and the errors of the others."""
    left: list[Request] = []
    failures: list[KernelError] = []
    for each in batch:
        code = KERNEL_ERRORS[len(world.passed) % len(KERNEL_ERRORS)]
        refused = partial(failures.append, KernelError(str(each), code))
        door = Door(Kind.KERNEL, f"message: {each}", str(each), is_change=False)
        world.go(door, partial(left.append, each), refused)
    return left, failures


def _deletion_door(world: World) -> Callable[..., Any]:
    """What is done meanwhile passes doors of its own."""
    delete_links = Socket.delete_links

    def passing(
        self: Socket, each: Request, indexes: Any, meanwhile: Callable[[], None] = lambda: None
    ) -> Any:
        place = world.outside() if world.is_watching else nullcontext()

        def apart() -> None:
            with place:
                meanwhile()

        door = Door(Kind.KERNEL, str(each), str(each), is_change=True, is_told_late=True)
        refused = KernelError(str(each), errno.ENOBUFS)
        return world.go(door, lambda: delete_links(self, each, indexes, apart), lambda: _raise(refused))

    return passing


def _raise(error: BaseException) -> Any:
    raise error


# Programs.


def _hang_programs(world: World, mocker: MockerFixture) -> None:
    run, execute = program.run, invoke.run

    def ran(command: Sequence[str], given: str = "") -> str:
        told = f"run {' '.join(command)}"
        answer: str = world.go(
            Door(Kind.PROGRAM, told, told, is_change=True, is_told_late=True),
            lambda: run(command, given),
            lambda: _raise(ProgramFailed(f"{told}: exit status 1", status=1)),
        )
        return answer

    def executed(binary: str, *arguments: Any, **more: Any) -> bytes:
        told = f"plugin {os.path.basename(binary)}"
        answer: bytes = world.go(
            Door(Kind.PROGRAM, told, told, is_change=True, is_told_late=True),
            lambda: execute(binary, *arguments, **more),
            lambda: _raise(DelegateFailed(f"{told}: exit status 1 with no error message")),
        )
        return answer

    mocker.patch.object(program, "run", ran)
    mocker.patch.object(invoke, "run", executed)


# Files.

READING = {
    "read": errno.EIO,
    "pread": errno.EIO,
    "listdir": errno.EIO,
    "scandir": errno.EIO,
    "stat": errno.EIO,
}
CHANGING = {
    "write": errno.ENOSPC,
    "pwrite": errno.ENOSPC,
    "link": errno.ENOSPC,
    "mkdir": errno.ENOSPC,
    "replace": errno.ENOSPC,
    "rename": errno.ENOSPC,
    "unlink": errno.EIO,
    "remove": errno.EIO,
    "rmdir": errno.EIO,
    "fsync": errno.EIO,
    "ftruncate": errno.EIO,
    "utime": errno.EIO,
    "chmod": errno.EIO,
}
LIBRARIES = "/lib/python"
OF_A_PAIR = ("link", "replace", "rename")
"""Of two paths the second one is told."""


def _hang_files(world: World, mocker: MockerFixture) -> None:
    for name, code in {**READING, **CHANGING}.items():
        mocker.patch.object(os, name, _file_door(world, name, code))
    mocker.patch.object(os, "open", _open_door(world))
    for module in (builtins, io):
        mocker.patch.object(module, "open", _file_object_door(world))
    for name in ("fcntl", "flock", "ioctl"):
        mocker.patch.object(fcntl, name, _descriptor_door(world, name))


def _file_door(world: World, name: str, code: int) -> Callable[..., Any]:
    function = getattr(os, name)

    def passing(*arguments: Any, **more: Any) -> Any:
        if not world.is_watching or any(LIBRARIES in str(each) for each in arguments):
            return function(*arguments, **more)
        which = arguments[1 if name in OF_A_PAIR else 0] if arguments else "."
        path = world.path_of(which)

        def refused() -> Any:
            raise OSError(code, os.strerror(code), path)

        door = Door(Kind.FILE, f"{name} {path}", path, is_change=name in CHANGING)
        return world.go(door, lambda: function(*arguments, **more), refused)

    return passing


def _open_door(world: World) -> Callable[..., Any]:
    function = os.open

    def passing(path: Any, flags: int, *arguments: Any, **more: Any) -> Any:
        if not world.is_watching:
            return world.opened(function(path, flags, *arguments, **more), os.fspath(path))
        is_made = bool(flags & (os.O_CREAT | os.O_TRUNC))
        code = errno.ENOSPC if is_made else errno.EIO

        def through() -> int:
            return world.opened(function(path, flags, *arguments, **more), os.fspath(path))

        door = Door(Kind.FILE, f"open {path}", os.fspath(path), is_change=is_made)
        return world.go(door, through, lambda: _raise(OSError(code, os.strerror(code), path)))

    return passing


class _File:
    """A file object whose writing and closing are doors."""

    def __init__(self, world: World, file: Any, path: str) -> None:
        self._world, self._file, self._path = world, file, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _go(
        self, name: str, through: Callable[[], Any], refused: Callable[[], Any], *, is_change: bool
    ) -> Any:
        door = Door(Kind.FILE, f"{name} {self._path}", self._path, is_change=is_change)
        return self._world.go(door, through, refused)

    def _full(self) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, content: Any) -> Any:
        """What is buffered is not written yet."""
        return self._go("write", lambda: self._file.write(content), self._full, is_change=True)

    def read(self, *size: Any) -> Any:
        """All of it, or as much as there is."""
        refused = lambda: _raise(OSError(errno.EIO, os.strerror(errno.EIO)))  # noqa: E731
        return self._go("read", lambda: self._file.read(*size), refused, is_change=False)

    def close(self) -> None:
        """What was buffered is written now, or cut off."""
        if self._file.closed or not self._file.writable():
            self._file.close()
            return

        def refused() -> None:
            self._file.close()
            size = os.path.getsize(self._path)
            os.truncate(self._path, size // 2)
            self._full()

        self._go("close", self._file.close, refused, is_change=True)


def _file_object_door(world: World) -> Callable[..., Any]:
    function = builtins.open

    def passing(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if not world.is_watching or isinstance(file, int):
            return function(file, mode, *arguments, **more)
        path = os.fspath(file)
        is_made = "r" not in mode
        code = errno.ENOSPC if is_made else errno.EIO
        door = Door(Kind.FILE, f"open {path}", path, is_change=is_made)

        def refused() -> Any:
            raise OSError(code, os.strerror(code), path)

        return _File(world, world.go(door, lambda: function(file, mode, *arguments, **more), refused), path)

    return passing


def _descriptor_door(world: World, name: str) -> Callable[..., Any]:
    function = getattr(fcntl, name)
    code = errno.EPERM if name == "ioctl" else errno.ENOLCK

    def passing(descriptor: Any, *arguments: Any) -> Any:
        if not world.is_watching:
            return function(descriptor, *arguments)
        path = world.path_of(descriptor)
        door = Door(Kind.FILE, f"{name} {path}", path, is_change=name == "ioctl")
        return world.go(
            door, lambda: function(descriptor, *arguments), lambda: _raise(OSError(code, os.strerror(code)))
        )

    return passing
