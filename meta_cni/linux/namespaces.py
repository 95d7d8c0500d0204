"""
The namespaces of one request: opened when first asked for, closed together.

Most of a DEL's work needs no pod namespace, and often there is none left; so opening waits
for the first use, and a namespace that is gone raises NetnsGone each time.
"""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType

from meta_cni.cni.errors import KernelError, NetnsGone
from meta_cni.linux import netns, threads
from meta_cni.linux.netlink import Socket
from meta_cni.linux.netns import Answer, Closing

Left = list[Closing]
"""What a function left open because to close it takes long."""
_THREAD = threading.local()


class Namespaces:
    """Sockets in the node's and in the pod's namespace, and the pod's descriptor."""

    def __init__(self, path: str, expected_identity: str = "") -> None:
        """`expected_identity` is what identity() gave at ADD; another namespace counts as gone."""
        self.path = path
        self._expected_identity = expected_identity
        self._host: Socket | None = None
        self._pod: Socket | None = None
        self._fd: int | None = None
        self._later = Later()
        self.undoing: dict[str, Callable[[], None]] = {}
        """By the pod's interface, how this request's own ADD is undone to the full; no DEL knows it."""

    def __enter__(self) -> "Namespaces":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def host(self) -> Socket:
        """A socket in the namespace of the node."""
        if self._host is None:
            self._host = Socket.of_thread()
        return self._host

    @property
    def pod(self) -> Socket:
        """A socket in the pod's namespace; raises NetnsGone when that is gone."""
        if self._pod is None:
            self._pod = self.run(Socket.open_host)
        return self._pod

    def run(self, function: Callable[[], Answer]) -> Answer:
        """Call a function in the pod's namespace; raises NetnsGone when that is gone."""
        return netns.visit(self.pod_fd, function)

    def later_here(self, function: Callable[[], object]) -> None:
        """
        Call a function when all is closed; nothing that it raises is told.

        Where a caller waits for an answer he has that by then, see put_off().
        """
        self._later.here.append(function)

    def later(self, function: Callable[[Left], object]) -> None:
        """As later_here(), in the pod; what takes long to close the function leaves open, in its argument."""
        _ = self.pod_fd
        self._later.in_pod.append(function)

    def later_aside(self, function: Callable[[Left], object]) -> None:
        """As later(), of what takes long itself: on another thread, which only the main one waits for."""
        _ = self.pod_fd
        self._later.aside.append(function)

    @property
    def pod_fd(self) -> int:
        """The open descriptor of the pod's namespace; raises NetnsGone when that is gone."""
        if self._fd is None:
            if not self.path:
                raise NetnsGone("open the pod's network namespace: CNI_NETNS is empty")
            descriptor = netns.open_netns(self.path)
            if self._expected_identity and _text(descriptor) != self._expected_identity:
                os.close(descriptor)
                raise NetnsGone(f"open {self.path}: another network namespace has its place")
            self._fd = descriptor
        return self._fd

    @property
    def identity(self) -> str:
        """Device and inode of the pod's namespace, to know it again."""
        return _text(self.pod_fd)

    @property
    def is_gone(self) -> bool:
        """There is no pod namespace (any more)."""
        try:
            return self.pod_fd < 0
        except NetnsGone:
            return True

    def close(self) -> None:
        """Close whatever was opened; what was to be done later still is."""
        if self._pod is not None:
            self._pod.close()
        descriptor, later = self._fd, self._later
        self._host = self._pod = self._fd = None
        self._later = Later()
        if later.is_needed:
            _do_or_put_off(partial(later.do, descriptor))
        elif descriptor is not None:
            os.close(descriptor)


class Later:
    """What is to be done when a request has been served."""

    def __init__(self) -> None:
        self.here: list[Callable[[], object]] = []
        self.in_pod: list[Callable[[Left], object]] = []
        self.aside: list[Callable[[Left], object]] = []

    @property
    def is_needed(self) -> bool:
        """Is there anything?"""
        return bool(self.here or self.in_pod or self.aside)

    def do(self, descriptor: int | None) -> None:
        """Everything, whatever fails of it; the descriptor of the pod's namespace is closed then."""
        _try_all(self.here)
        if descriptor is None:
            return
        left = _visited(descriptor, self.in_pod)
        if left or self.aside:
            _do_aside(partial(_end, descriptor, self.aside, left))
        else:
            os.close(descriptor)


def _try_all(functions: Iterable[Callable[[], object]]) -> None:
    for each in functions:
        with suppress(Exception):
            each()


def _visited(descriptor: int, functions: list[Callable[[Left], object]]) -> Left:
    """What the functions left open in the pod."""
    left: Left = []
    if functions:
        with suppress(KernelError):
            netns.visit(descriptor, lambda: _try_all(partial(each, left) for each in functions))
    return left


def _end(descriptor: int, functions: list[Callable[[Left], object]], left: Left) -> None:
    """What takes long: these functions in the pod, and to close all that was left open."""
    try:
        left += _visited(descriptor, functions)
    finally:
        os.close(descriptor)
        _try_all(each.close for each in left)


def _do_aside(work: Callable[[], None]) -> None:
    """On another thread; here if there is none to be had, or it is the main one, with which all ends."""
    if threading.current_thread() is not threading.main_thread():
        with suppress(KernelError):
            threads.do(work)
            return
    work()


def put_off() -> None:
    """From now on, what is to be done later on this thread is done by its next catch_up()."""
    _THREAD.__dict__.setdefault("put_off", [])


def catch_up() -> None:
    """Do what was put off; put no more off."""
    for each in _THREAD.__dict__.pop("put_off", ()):
        each()


def _do_or_put_off(function: Callable[[], None]) -> None:
    waiting: list[Callable[[], None]] | None = getattr(_THREAD, "put_off", None)
    if waiting is None:
        function()
    else:
        waiting.append(function)


def _text(descriptor: int) -> str:
    device, inode = netns.identity(descriptor)
    return f"{device}:{inode}"
