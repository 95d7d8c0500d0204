"""The server with callers of all kinds: patient, slow, many, gone, foreign."""

import json
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import IOFailure
from meta_cni.daemon import server, wire
from meta_cni.daemon.server import Caller, Errand, Limits, Queue, Server
from meta_cni.daemon.wire import Call

WAIT_S = 60
QUIET: dict[str, float] = {"workers": 2, "queue": 50, "held_up_s": 60}


class Served:
    """A server in a thread, and what it was asked."""

    def __init__(self, path: Path, limits: Limits, *, is_awaited: bool = True, **more: Any) -> None:
        self.calls: list[tuple[str, str]] = []
        self.gates: dict[str, threading.Event] = {}
        """A call for a sandbox waits until its gate is open."""
        self.server = Server(path, self.handle, limits, **more)
        self.is_done: bool | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        if is_awaited:
            until(lambda: server.is_served(path))

    def _run(self) -> None:
        self.is_done = self.server.run()

    def handle(self, call: Call) -> tuple[bytes, int]:
        sandbox = call.variables.get("CNI_CONTAINERID", "")
        self.calls.append((call.variables["CNI_COMMAND"], sandbox))
        if sandbox in self.gates:
            assert self.gates[sandbox].wait(WAIT_S)
        if sandbox == "bug":
            raise ZeroDivisionError
        return b"answer to " + call.stdin, 0

    @property
    def callers(self) -> list[Caller]:
        """Those who are here, whatever they wait for."""
        return list(self.server._callers.values())

    def hurry(self) -> None:
        """The time of everybody who is here is over."""
        for each in self.callers:
            each.deadline = 0.0

    def limit(self, **limits: float) -> None:
        """For those who come from now on."""
        self.server.limits = replace(self.server.limits, **limits)  # type: ignore[arg-type]

    def stop(self) -> None:
        for gate in self.gates.values():
            gate.set()
        self.server.stop()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    """Wait for what is to happen soon."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


Serve = Callable[..., Served]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the socket; sun_path has room for 107 characters."""
    directory = tmp_path / "d"
    directory.mkdir(mode=0o700)
    return directory / "s"


@pytest.fixture
def serve(path: Path) -> Iterator[Serve]:
    """Start a server; it is stopped in the end."""
    with ExitStack() as stack:

        def start(**limits: float) -> Served:
            made = Served(path, Limits(**{**QUIET, **limits}))  # type: ignore[arg-type]
            stack.callback(made.stop)
            return made

        yield start


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(WAIT_S)
    made.connect(str(path))
    return made


def sent(path: Path, verb: str, sandbox: str = "", stdin: bytes = b"{}") -> socket.socket:
    """A caller who waits for his answer."""
    made = connected(path)
    variables = {"CNI_COMMAND": verb, "CNI_CONTAINERID": sandbox}
    made.sendall(wire.request(Call(variables, stdin)))
    made.shutdown(socket.SHUT_WR)
    return made


def answered(caller: socket.socket) -> tuple[bytes, int]:
    with caller:
        data = b""
        while got := caller.recv(65536):
            data += got
    return wire.parse_answer(data)


def ask(path: Path, verb: str, sandbox: str = "", stdin: bytes = b"{}") -> tuple[bytes, int]:
    return answered(sent(path, verb, sandbox, stdin))


def test_a_call_is_answered(serve: Serve, path: Path):
    """As the handler says."""
    serve()

    assert (b"answer to {}", 0) == ask(path, "STATUS")


def test_a_call_wakes_one_worker_and_lets_the_others_sleep():
    """All of them would find nothing and sleep again, which costs more than a small call."""
    queue, calls, workers = Queue(1), 50, 32
    threads = [threading.Thread(target=_take_all, args=(queue,)) for _ in range(workers)]
    for each in threads:
        each.start()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for n in range(calls):
        assert queue.put(Errand(str(n), lambda: None))
        assert queue.is_empty_within(WAIT_S)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    queue.close()
    for each in threads:
        each.join(WAIT_S)

    assert (False, True) == (any(each.is_alive() for each in threads), switches < calls * workers / 2)


def _take_all(queue: Queue) -> None:
    while (taken := queue.take()) is not None:
        queue.done(taken)


def test_calls_of_one_sandbox_are_done_one_after_the_other_and_others_meanwhile(serve: Serve, path: Path):
    """And those that wait keep no worker: with two of them, three callers of one sandbox do not block."""
    served = serve(workers=2)
    gate = served.gates["a"] = threading.Event()

    waiting = [sent(path, verb, "a") for verb in ("ADD", "CHECK", "DEL")]
    until(lambda: served.calls)
    other = ask(path, "ADD", "b")

    assert (b"answer to {}", 0) == other
    assert [("ADD", "a"), ("ADD", "b")] == served.calls
    gate.set()
    assert [0, 0, 0] == [answered(each)[1] for each in waiting]
    assert ["ADD", "CHECK", "DEL"] == [verb for verb, sandbox in served.calls if sandbox == "a"]


@pytest.mark.slow
def test_plugins_that_hang_hold_up_nobody_else(serve: Serve, path: Path):
    """Though they are more than there are workers; the relief goes when all is done."""
    served = serve(workers=2, held_up_s=0.1)
    hanging = ("a", "b", "c", "d")
    gate = threading.Event()
    served.gates.update(dict.fromkeys(hanging, gate))
    waiting = [sent(path, "ADD", each) for each in hanging]

    outcome = ask(path, "ADD", "other")
    gate.set()

    assert (b"answer to {}", 0) == outcome
    assert [0] * 4 == [answered(each)[1] for each in waiting]
    until(lambda: not [each for each in threading.enumerate() if each.name == "relief"])
    assert 0 == ask(path, "ADD", "other")[1]


@pytest.mark.slow
def test_relief_has_a_bound(serve: Serve, path: Path):
    """Threads without end would be no help."""
    served = serve(workers=1, held_up_s=0.1, relief=1)
    gate = threading.Event()
    served.gates.update(dict.fromkeys(("a", "b"), gate))
    waiting = [sent(path, "ADD", each) for each in ("a", "b", "other")]
    until(lambda: len(served.calls) == 2)
    time.sleep(1.2)

    calls, workers = list(served.calls), served.server.workers
    gate.set()

    assert [("ADD", "a"), ("ADD", "b")] == calls
    assert 2 == workers
    assert [0] * 3 == [answered(each)[1] for each in waiting]


def test_relief_that_cannot_be_had_costs_nothing(serve: Serve, path: Path, mocker):
    """A node without a thread left."""
    served = serve(workers=1, held_up_s=0.1)
    gate = served.gates["a"] = threading.Event()
    waiting = [sent(path, "ADD", each) for each in ("a", "other")]
    until(lambda: served.calls)
    start = mocker.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread"))
    until(lambda: start.call_count > 1)
    mocker.stopall()

    gate.set()

    assert [0, 0] == [answered(each)[1] for each in waiting]
    until(lambda: 0 == served.server._relieving)  # one that could be had in the end has nothing to do


def test_why_no_call_should_come_here_is_told(serve: Serve, path: Path, mocker):
    """Of /readyz: a node gets no pods while its daemon takes none on."""
    starting = Server(path, lambda _: (b"", 0))
    assert ["starting: another daemon has not ended, or what waits in the spool is done first"] == (
        starting.problems()
    )
    served = serve(workers=1, queue=1, held_up_s=60)
    until(lambda: not served.server.problems())
    served.gates["held"] = threading.Event()
    held = sent(path, "ADD", "held")
    until(lambda: served.calls)
    waiting = sent(path, "ADD", "waiting")
    until(lambda: ["the queue is full: 1 calls are waiting"] == served.server.problems())
    served.gates["held"].set()
    assert [0, 0] == [answered(each)[1] for each in (held, waiting)]
    until(lambda: not served.server.problems())

    mocker.patch("meta_cni.daemon.server.STUCK_S", -1.0)
    assert ["the reader is stuck"] == served.server.problems()
    served.server.stop()
    assert ["stopping: what was taken on is finished"] == served.server.problems()


def test_what_does_not_fit_into_the_queue_is_told_at_once(serve: Serve, path: Path):
    """Code 11: the runtime tries again."""
    served = serve(workers=1, queue=2)
    gate = served.gates["a"] = threading.Event()
    first = sent(path, "ADD", "a")
    until(lambda: served.calls)

    waiting = [sent(path, "ADD", f"w{n}") for n in range(2)]
    until(lambda: served.server.queue.waiting == 2)
    printed, code = ask(path, "ADD", "late")

    assert 1 == code
    assert b'"code": 11' in printed
    assert b"2 calls are waiting already" in printed
    gate.set()
    assert [0, 0, 0] == [answered(each)[1] for each in (first, *waiting)]
    assert ("ADD", "late") not in served.calls


def test_hundreds_at_once_are_all_served_or_told_so(serve: Serve, path: Path):
    """No call is lost, no descriptor is left."""
    serve(workers=4, queue=100)
    before = descriptors()

    callers = [sent(path, "ADD", f"s{n}") for n in range(300)]
    codes = [answered(each) for each in callers]

    assert 300 == len(codes)
    assert {0} >= {code for printed, code in codes if b"answer to" in printed}
    assert all(code == 0 or b'"code": 11' in printed for printed, code in codes)
    until(lambda: descriptors() <= before)


def test_an_add_whose_caller_has_gone_is_undone(serve: Serve, path: Path):
    """The runtime has given up: nobody would ever DEL it."""
    served = serve()
    gate = served.gates["a"] = threading.Event()
    caller = sent(path, "ADD", "a")
    until(lambda: served.calls)

    caller.close()
    time.sleep(0.05)
    gate.set()

    until(lambda: ("DEL", "a") in served.calls)
    assert [("ADD", "a"), ("DEL", "a")] == served.calls
    until(lambda: (1, 1) == (served.server.gone, served.server.undone))


@pytest.mark.parametrize(("verb", "is_done"), [("ADD", False), ("CHECK", False), ("DEL", True)])
def test_a_call_that_still_waits_when_its_caller_goes(serve: Serve, path: Path, verb: str, is_done: bool):
    """A DEL is done all the same, anything else is not begun."""
    served = serve(workers=1)
    gate = served.gates["a"] = threading.Event()
    first = sent(path, "ADD", "a")
    until(lambda: served.calls)

    sent(path, verb, "b").close()
    until(lambda: served.server.queue.waiting and len(served.callers) == 1)
    gate.set()
    answered(first)
    ask(path, "STATUS")

    assert is_done == ((verb, "b") in served.calls)
    assert (1, 0) == (served.server.gone, served.server.undone)


def test_an_answer_that_takes_too_long_is_given_up_and_undone(serve: Serve, path: Path):
    """A caller must not wait for ever, and what comes too late must not stay."""
    served = serve(answer_s=WAIT_S)
    gate = served.gates["a"] = threading.Event()
    caller = sent(path, "ADD", "a")
    until(lambda: served.calls)

    served.hurry()
    printed, code = answered(caller)
    gate.set()

    assert 1 == code
    assert b"ADD is not done within 60 s" in printed
    until(lambda: ("DEL", "a") in served.calls)


BAD = [b"", b"meta", b"meta-cni 1 request 100 100\nCNI_COMMAND=AD"]


@pytest.mark.parametrize("data", BAD)
def test_half_a_frame_is_never_a_call(serve: Serve, path: Path, data: bytes):
    """A shim that was killed while it wrote."""
    served = serve()
    with connected(path) as caller:
        caller.sendall(data)
        caller.shutdown(socket.SHUT_WR)
        assert b"" == caller.recv(100)

    assert 0 == ask(path, "STATUS")[1]
    assert [("STATUS", "")] == served.calls


@pytest.mark.parametrize("data", BAD)
def test_a_slow_writer_is_given_up_and_holds_up_nobody(serve: Serve, path: Path, data: bytes):
    """Connections are not worth a thread."""
    served = serve(workers=1, read_s=WAIT_S)
    with connected(path) as slow:
        slow.sendall(data)

        assert 0 == ask(path, "STATUS")[1]
        until(lambda: len(served.callers) == 1)
        served.hurry()
        assert b"" == slow.recv(100)


def trickle(caller: socket.socket, data: bytes) -> None:
    for byte in data:
        caller.sendall(bytes([byte]))
        time.sleep(0.02)


def test_who_writes_a_byte_now_and_then_is_given_up_as_well(serve: Serve, path: Path):
    """The time is for the whole frame: a byte buys none."""
    served = serve(workers=1, read_s=0.3)

    with connected(path) as slow, pytest.raises(BrokenPipeError):
        trickle(slow, wire.request(Call({"CNI_COMMAND": "ADD"}, b"x" * 10000)))

    served.limit(read_s=WAIT_S)
    assert 0 == ask(path, "STATUS")[1]
    assert [("STATUS", "")] == served.calls


def test_an_answer_that_nobody_reads_is_given_up(serve: Serve, path: Path):
    """It is longer than a socket holds: the worker must come back, the ADD must go."""
    served = serve(workers=1)
    gate = served.gates["a"] = threading.Event()
    with sent(path, "ADD", "a", b"x" * (4 << 20)):
        until(lambda: served.calls)
        served.limit(read_s=0.2)
        gate.set()
        until(lambda: ("DEL", "a") in served.calls)
        served.limit(read_s=WAIT_S)

        assert 0 == ask(path, "STATUS")[1]


def test_only_one_answers_a_caller(serve: Serve, path: Path):
    """At the deadline two want to: two frames on one socket would be none."""
    served = serve(workers=1)
    gate = served.gates["a"] = threading.Event()
    caller = sent(path, "ADD", "a")
    until(lambda: served.calls)
    ((_, waiting),) = served.server._callers.items()

    with select.epoll() as poll:
        told = [served.server._answer(waiting, text, 0, poll) for text in (b"first", b"second")]
    gate.set()

    assert [True, False] == told
    assert (b"first", 0) == answered(caller)
    until(lambda: ("DEL", "a") in served.calls)


def test_without_descriptors_it_waits_and_does_not_spin(serve: Serve, path: Path, caplog):
    """A listener that cannot be accepted from is told by epoll without end."""
    served = serve(workers=1)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    until(lambda: not served.callers)  # who looked whether it serves has gone
    ask(path, "STATUS")  # so the reader has closed his descriptor
    with ExitStack() as stack:
        caller = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        resource.setrlimit(resource.RLIMIT_NOFILE, (caller.fileno() + 1, most[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, most)
        with suppress(OSError):  # until there is none
            while True:
                stack.callback(os.close, os.dup(caller.fileno()))
        caller.connect(str(path))
        began_s = time.monotonic()
        time.sleep(0.8)
        most_often = 2 + (time.monotonic() - began_s) / server.POLL_S
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
        caller.settimeout(WAIT_S)
        caller.sendall(wire.request(Call({"CNI_COMMAND": "STATUS"}, b"")))
        caller.shutdown(socket.SHUT_WR)

        outcome = wire.parse_answer(caller.recv(100))

    assert (b"answer to ", 0) == outcome
    assert 1 <= len([each for each in caplog.messages if "Too many open files" in each]) <= most_often


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


def test_more_callers_than_it_has_descriptors_for_wait_to_be_accepted(serve: Serve, path: Path, caplog):
    """Those who only hang about take no worker's descriptors, and go when their time is over."""
    served = serve(workers=1, connections=3, read_s=WAIT_S)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(path))
        until(lambda: len(served.callers) == 3)

        began_s = time.monotonic()
        waiting = sent(path, "STATUS")
        until(lambda: "3 callers are here already" in caplog.text)
        served.hurry()
        outcome = answered(waiting)
        most_often = 2 + (time.monotonic() - began_s) / server.POLL_S

    assert (b"answer to {}", 0) == outcome
    assert 1 <= len([each for each in caplog.messages if "3 callers are here already" in each]) <= most_often


VARIABLES = [
    (b"CNI_COMMAND=STATUS\0CNI_ARGS=\xff\xfe=\x80\0", 0),
    (b"CNI_COMMAND=STATUS\0\0\0", 1),
    (b"CNI_COMMAND=STATUS\0\xff\0", 1),
    (b"CNI_COMMAND=STATUS", 1),
]


@pytest.mark.parametrize(("variables", "code"), VARIABLES)
def test_variables_that_are_no_text_cost_one_call(serve: Serve, path: Path, variables: bytes, code: int):
    """The environment holds any bytes; what is no variable is refused."""
    serve(workers=1)
    with connected(path) as caller:
        caller.sendall(b"meta-cni 1 request %d 0\n" % len(variables) + variables)
        outcome = answered(caller)[1]

    assert (code, 0) == (outcome, ask(path, "STATUS")[1])


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"meta-cni 9 request 1 1\n", b"\0" * 4096])
def test_another_protocol_is_told_what_is_spoken_here(serve: Serve, path: Path, data: bytes):
    """A shim of another version says it to the runtime."""
    served = serve()
    with connected(path) as caller:
        caller.sendall(data)
        printed, code = answered(caller)

    assert 1 == code
    assert b'"code": 6' in printed
    assert 0 == ask(path, "STATUS")[1]
    assert [("STATUS", "")] == served.calls


@pytest.mark.parametrize("head", ["meta-cni 0", "meta-cni 2"])
def test_a_shim_of_another_version_is_told_to_be_of_one_with_the_daemon(serve: Serve, path: Path, head: str):
    """Older or newer; whoever reads the pod's events must know what to do."""
    serve()
    with connected(path) as caller:
        caller.sendall(f"{head} request 5 70000\n".encode() + b"x" * 70005)
        printed, code = answered(caller)

    assert 1 == code
    assert f"{head} request 5 70000" in json.loads(printed)["msg"]
    assert "install shim and daemon of one version" in json.loads(printed)["msg"]


def test_another_user_is_refused(serve: Serve, path: Path, mocker):
    """Whoever may call it may change every pod's network."""
    served = serve()
    mocker.patch.object(server.os, "geteuid", return_value=4711)
    credentials = mocker.patch("meta_cni.daemon.server.UCRED", size=12)
    credentials.unpack.return_value = (1, 1000, 1000)

    printed, code = answered(connected(path))

    assert 1 == code
    assert b"call by user 1000: expected root" in printed
    assert [] == served.calls


def test_a_bug_costs_one_call_and_no_worker(serve: Serve, path: Path):
    """A worker that dies is missed by all."""
    serve(workers=1)

    with sent(path, "ADD", "bug") as caller:
        assert b"" == caller.recv(100)

    assert 0 == ask(path, "STATUS")[1]


def test_stopping_does_what_was_taken_on_and_takes_on_nothing_more(serve: Serve, path: Path):
    """SIGTERM: the next daemon is told what comes from now on."""
    served = serve(workers=1)
    gate = served.gates["a"] = threading.Event()
    waiting = [sent(path, "ADD", "a"), sent(path, "ADD", "b")]
    until(lambda: served.calls and served.server.queue.waiting)

    served.server.stop()
    until(lambda: not path.exists())
    with pytest.raises(FileNotFoundError):
        connected(path)
    gate.set()

    assert [0, 0] == [answered(each)[1] for each in waiting]
    served.thread.join(WAIT_S)
    assert served.is_done is True


def test_half_a_frame_does_not_wait_for_what_is_done_when_stopping(serve: Serve, path: Path):
    """Its shim goes to the next daemon, or says so, at once."""
    served = serve(workers=1)
    gate = served.gates["a"] = threading.Event()
    waiting = sent(path, "ADD", "a")
    until(lambda: served.calls)
    with connected(path) as half:
        half.sendall(b"meta-cni 1 request 100")
        until(lambda: len(served.server._callers) == 2)

        served.server.stop()
        read = half.recv(100)

    assert b"" == read
    gate.set()
    assert 0 == answered(waiting)[1]


def test_what_is_not_done_in_time_is_said_when_stopping(serve: Serve, path: Path):
    """Nobody waits for ever for a plugin that hangs."""
    served = serve(drain_s=0.05)
    served.gates["a"] = threading.Event()
    caller = sent(path, "ADD", "a")
    until(lambda: served.calls)

    served.server.stop()
    served.thread.join(WAIT_S)

    assert served.is_done is False
    caller.close()


def test_a_socket_that_a_killed_daemon_left_is_replaced(serve: Serve, path: Path):
    """Nothing answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    assert path.exists()

    serve()

    assert 0 == ask(path, "STATUS")[1]


def test_a_second_daemon_is_refused(serve: Serve, path: Path):
    """Two of them would undo each other's work."""
    serve()

    with pytest.raises(IOFailure, match="another daemon serves it"):
        Server(path, lambda _: (b"", 0)).run()

    assert 0 == ask(path, "STATUS")[1]


def test_a_daemon_whose_queue_is_full_is_there(path: Path):
    """What does not answer at once is not dead: its socket must not be taken away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy, ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        stack.enter_context(connected(path))

        assert server.is_served(path)


def test_a_daemon_that_still_ends_is_waited_for_and_does_not_take_the_next_one_s_socket(path: Path, mocker):
    """An upgrade: the old one finishes what it took on, the new one serves what comes then."""
    old = Served(path, Limits(workers=1))
    gate = old.gates["a"] = threading.Event()
    waiting = sent(path, "ADD", "a")
    until(lambda: old.calls)
    old.server.stop()
    until(lambda: not path.exists())

    looks = mocker.spy(server, "_is_locked")
    new = Served(path, Limits(workers=1), is_awaited=False)
    until(lambda: looks.call_count > 2)
    is_early = path.exists()
    gate.set()
    outcome = answered(waiting)
    old.thread.join(WAIT_S)
    until(lambda: server.is_served(path))

    assert (False, (b"answer to {}", 0)) == (is_early, outcome)
    assert (b"answer to {}", 0) == ask(path, "ADD", "b")
    assert [("ADD", "b")] == new.calls
    new.stop()


def test_a_daemon_that_never_ends_is_told(serve: Serve, path: Path):
    """Two of them would undo each other's work."""
    served = serve(workers=1)
    gate = served.gates["a"] = threading.Event()
    caller = sent(path, "ADD", "a")
    until(lambda: served.calls)
    served.server.stop()
    until(lambda: not path.exists())

    with pytest.raises(IOFailure, match="another daemon has not ended yet"):
        Server(path, lambda _: (b"", 0), Limits(start_s=0.1)).run()

    gate.set()
    assert 0 == answered(caller)[1]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_refused(path: Path, mode: int):
    """They could put their own socket there."""
    path.parent.chmod(mode)

    with pytest.raises(IOFailure, match="it is not only ours: expected a directory of user"):
        Server(path, lambda _: (b"", 0)).run()


def test_a_link_instead_of_the_directory_is_refused(path: Path, tmp_path: Path):
    """It leads wherever somebody wants."""
    (tmp_path / "link").symlink_to(path.parent)

    with pytest.raises(IOFailure, match="it is not only ours"):
        Server(tmp_path / "link" / "s", lambda _: (b"", 0)).run()


def test_a_path_that_is_too_long_is_told(path: Path):
    """sockaddr_un has room for 107 characters."""
    with pytest.raises(IOFailure, match=r"listen on .*too long"):
        Server(path.parent / ("x" * 120), lambda _: (b"", 0)).run()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_daemon_whose_socket_was_removed_ends_and_says_so(path: Path, is_replaced: bool):
    """Nobody can reach it, for ever, though it runs; whoever started it starts it again."""
    removed = Server(path, lambda _: (b"", 0), Limits(workers=1, errands_s=0.05))

    def remove() -> None:
        until(lambda: server.is_served(path))
        path.unlink()
        if is_replaced:
            path.touch()

    thread = threading.Thread(target=remove)
    thread.start()
    with pytest.raises(IOFailure, match="somebody has removed the socket"):
        removed.run()
    thread.join()

    assert is_replaced == path.exists()


class Errands:
    """What is to be done without being asked for: of "a" until its gate is open."""

    def __init__(self, *sandboxes: str) -> None:
        self.sandboxes = list(sandboxes)
        self.gate = threading.Event()
        self.done: list[str] = []

    def due(self) -> list[Errand]:
        return [Errand(each, lambda name=each: self.do(name)) for each in self.sandboxes]

    def do(self, sandbox: str) -> None:
        if sandbox == "a":
            assert self.gate.wait(WAIT_S)
        if sandbox == "bug":
            raise ZeroDivisionError
        self.sandboxes.remove(sandbox)
        self.done.append(sandbox)


def test_errands_are_done_before_anybody_is_served(path: Path):
    """A DEL that waited comes before the ADD that follows it."""
    errands = Errands("a", "b")
    served = Served(path, Limits(workers=2), is_awaited=False, errands=errands.due)
    until(lambda: errands.done)
    is_early = server.is_served(path)
    errands.gate.set()
    until(lambda: server.is_served(path))

    assert (False, ["b", "a"]) == (is_early, errands.done)
    served.stop()


def test_more_errands_than_the_queue_holds_are_done_before_anybody_is_served(path: Path):
    """A node whose daemon was away while all its pods went."""
    errands = Errands(*(f"s{number}" for number in range(100)))
    served = Served(path, Limits(workers=2, queue=10), errands=errands.due)

    assert [] == errands.sandboxes
    assert 100 == len(errands.done)
    served.stop()


def test_an_errand_that_hangs_keeps_only_its_own_sandbox(path: Path):
    """One pod's plugin must not keep the node from being served."""
    errands = Errands("a")
    served = Served(path, Limits(workers=2, first_s=0.1, errands_s=0.1), errands=errands.due)

    other = ask(path, "ADD", "b")
    waiting = sent(path, "ADD", "a")
    time.sleep(0.8)
    calls = list(served.calls)
    errands.gate.set()
    outcome = answered(waiting)

    assert ((b"answer to {}", 0), [("ADD", "b")], 0) == (other, calls, outcome[1])
    assert ["a"] == errands.done
    served.stop()


def test_errands_that_come_later_are_done_and_one_with_a_bug_costs_no_worker(path: Path, caplog):
    """They are looked for now and then."""
    errands = Errands("bug")
    served = Served(path, Limits(workers=1, errands_s=0.05), errands=errands.due)

    errands.sandboxes.append("late")
    until(lambda: "late" in errands.done)

    assert 0 == ask(path, "STATUS")[1]
    assert "a bug in meta-cni" in caplog.messages
    served.stop()


def test_errands_that_cannot_be_told_keep_nobody(path: Path, caplog):
    """A spool that cannot be read."""

    def fail() -> list[Errand]:
        raise IOFailure("read spool: Input/output error")

    served = Served(path, Limits(workers=1), errands=fail)

    assert 0 == ask(path, "STATUS")[1]
    assert "read spool: Input/output error" in caplog.messages
    served.stop()


def test_what_is_prepared_comes_first_and_only_when_no_other_daemon_is_left(serve: Serve, path: Path):
    """Clearing up behind a daemon that still works would be sabotage."""
    serve()
    done: list[str] = []

    with pytest.raises(IOFailure, match="another daemon serves it"):
        Server(path, lambda _: (b"", 0), prepare=lambda: done.append("prepared")).run()

    assert [] == done
