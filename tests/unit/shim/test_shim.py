"""What the runtime executes, in C and in Python: the same frames, the same answers, the same spool."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from meta_cni.cni import version as versions
from meta_cni.daemon import wire
from meta_cni.daemon.spool import Spool
from meta_cni.daemon.wire import Call
from meta_cni.shim import is_shim

SOURCE = Path(__file__).parents[3] / "meta_cni" / "shim"
GOLDEN = Path(__file__).parents[2] / "golden" / "wire"
VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "abc",
    "CNI_NETNS": "/run/netns/p",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p",
    "CNI_PATH": "/opt/cni/bin",
    "PATH": "/usr/bin:/bin",
    "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "META_CNI_CHAIN": "xyz",
}
STDIN = b'{"cniVersion": "1.1.0",\n "name": "node", "type": "meta-cni"}\n'
Run = Callable[..., tuple[bytes, int]]


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """shim.c, compiled; the tests skip where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("shim") / "meta-cni"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", made, SOURCE / "shim.c"], check=True)
    return [str(made)]


@pytest.fixture(params=["C", "Python"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Call a shim as a runtime does."""
    if request.param == "C":
        command = request.getfixturevalue("binary")
    else:
        command = [sys.executable, "-I", "-S", str(SOURCE / "shim.py")]

    def call(stdin: bytes = STDIN, **more: str) -> tuple[bytes, int]:
        places = {"META_CNI_SOCKET": str(tmp_path / "s"), "META_CNI_SPOOL": str(tmp_path / "spool")}
        environment = {**VARIABLES, **places, "HOME": "/root", "SECRET": "x", **more}
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, timeout=30, restore_signals=False
        )
        assert b"" == done.stderr
        return done.stdout, done.returncode

    return call


Daemon = Callable[[bytes], list[bytes]]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Something that reads a whole call, sends these bytes and hangs up; what it read is in the list."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def start(answer: bytes) -> list[bytes]:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listeners.append(listener)
        read: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                data = b""
                while got := connection.recv(1 << 16):
                    data += got
                read.append(data)
                connection.sendall(answer)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return read

    yield start
    for each in threads:
        each.join(5)
    for listener in listeners:
        listener.close()


def without_places(call: Call) -> Mapping[str, str]:
    """Its variables but for where this test has its daemon."""
    return {
        key: value
        for key, value in call.variables.items()
        if key not in ("META_CNI_SOCKET", "META_CNI_SPOOL")
    }


def test_a_call_is_handed_on_as_it_is(run: Run, daemon: Daemon):
    """CNI's variables, ours, PATH and the trace; nothing else of the runtime's environment."""
    read = daemon(wire.answer(b"ok", 0))

    outcome = run()

    call = wire.parse_request(read[0])
    assert (b"ok", 0) == outcome
    assert (VARIABLES, STDIN) == (without_places(call), call.stdin)


def test_all_three_write_the_golden_frame(run: Run, daemon: Daemon, request: pytest.FixtureRequest):
    """What is in a spool must still be read by the next version."""
    read = daemon(wire.answer(b"", 0))
    run()
    call = Call(without_places(wire.parse_request(read[0])), STDIN)
    path = GOLDEN / "request"
    if request.config.getoption("--golden"):
        path.write_bytes(wire.request(call))

    assert path.read_bytes() == wire.request(call)
    assert (GOLDEN / "answer").read_bytes() == wire.answer(b'{"code": 11}\n', 1)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_an_answer_is_printed_and_its_code_is_ours(run: Run, daemon: Daemon, code: int):
    """Byte for byte."""
    printed = b'{"x": "\xc3\xa4"}\n' * 50000
    daemon(wire.answer(printed, code))

    assert (printed, code) == run()


def test_standard_input_may_be_long(run: Run, daemon: Daemon):
    """More than a socket takes at once."""
    read = daemon(wire.answer(b"", 0))

    assert (b"", 0) == run(stdin=b"x" * (3 << 20))

    assert b"x" * (3 << 20) == wire.parse_request(read[0]).stdin


def test_versions_need_no_daemon(run: Run):
    """A runtime asks before anything runs."""
    printed, code = run(CNI_COMMAND="VERSION")

    document = json.loads(printed)
    assert (0, versions.NEWEST) == (code, document["cniVersion"])
    assert list(versions.SUPPORTED) == document["supportedVersions"]


@pytest.mark.parametrize(("verb", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_without_a_daemon_it_is_said_that_later_is_better(run: Run, tmp_path: Path, verb: str, code: int):
    """The runtime tries again; there is nothing to undo."""
    printed, exit_code = run(CNI_COMMAND=verb)

    error = json.loads(printed)
    assert (1, code, "1.1.0") == (exit_code, error["code"], error["cniVersion"])
    assert f"{tmp_path}/s: No such file or directory" in error["msg"]
    assert not (tmp_path / "spool").exists()


def test_a_socket_that_nobody_serves_is_no_daemon(run: Run, tmp_path: Path):
    """One that was killed leaves it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "s"))

    assert "Connection refused" in json.loads(run()[0])["msg"]


def test_a_del_without_a_daemon_is_kept_for_the_next_one(run: Run, tmp_path: Path):
    """The runtime never calls again once it was told that it is done."""
    outcomes = [run(CNI_COMMAND="DEL", CNI_CONTAINERID=each) for each in ("a", "b")]

    assert [(b"", 0)] * 2 == outcomes
    spool = tmp_path / "spool"
    assert 0o700 == spool.stat().st_mode & 0o777
    assert {0o600} == {each.stat().st_mode & 0o777 for each in spool.iterdir()}
    done: list[Call] = []
    kept = Spool(spool)
    for each in kept.due().values():
        assert [] == kept.settle(each, lambda call: (b"", done.append(call) or 0))
    assert ["a", "b"] == [each.variables["CNI_CONTAINERID"] for each in done]
    assert {STDIN} == {each.stdin for each in done}
    assert [] == list(spool.iterdir())


def test_a_spool_that_cannot_be_written_is_an_error(run: Run, tmp_path: Path):
    """Success would be a lie: the runtime calls again."""
    (tmp_path / "spool").touch()

    printed, code = run(CNI_COMMAND="DEL")

    error = json.loads(printed)
    assert (1, 5) == (code, error["code"])
    assert f"spool DEL in {tmp_path}/spool: Not a directory" in error["msg"]


BROKEN = [b"", b"meta-cni 1 ans", wire.answer(b"all of it", 0)[:-1]]


@pytest.mark.parametrize("answer", BROKEN)
def test_a_daemon_that_dies_while_it_answers_is_no_daemon(run: Run, daemon: Daemon, answer: bytes):
    """Half a result is none: nothing of it is printed."""
    daemon(answer)

    printed, code = run()

    assert (1, 11) == (code, json.loads(printed)["code"])


@pytest.mark.parametrize("answer", BROKEN)
def test_a_del_whose_daemon_dies_is_kept(run: Run, daemon: Daemon, tmp_path: Path, answer: bytes):
    """It may have been done or not; doing it twice is no harm."""
    daemon(answer)

    assert (b"", 0) == run(CNI_COMMAND="DEL")

    assert 1 == len(Spool(tmp_path / "spool").entries())


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[None]:
    """A daemon that is stopped: the kernel connects, and takes what its buffers have room for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(("verb", "code", "stdin"), [("ADD", 11, b"x" * (4 << 20)), ("STATUS", 50, STDIN)])
def test_a_daemon_that_is_stopped_is_not_waited_for_for_ever(run: Run, verb: str, code: int, stdin: bytes):
    """A runtime without a time-out of its own would hang, and the pod with it."""
    printed, exit_code = run(stdin, CNI_COMMAND=verb, META_CNI_TIMEOUT="1")

    error = json.loads(printed)
    assert (1, code) == (exit_code, error["code"])
    assert "the meta-cni daemon does not answer, try again later: " in error["msg"]


@pytest.mark.usefixtures("silent")
def test_a_del_that_is_not_answered_is_kept(run: Run, tmp_path: Path):
    """It may be done when the daemon goes on, or a new one comes; twice is no harm."""
    assert (b"", 0) == run(CNI_COMMAND="DEL", META_CNI_TIMEOUT="1")

    assert 1 == len(Spool(tmp_path / "spool").entries())


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_daemon_of_another_version_is_told(run: Run, daemon: Daemon, tmp_path: Path, verb: str):
    """Neither may guess what the other means."""
    daemon(b"meta-cni 2 answer 0 0\n")

    printed, code = run(CNI_COMMAND=verb)

    error = json.loads(printed)
    assert (1, 5) == (code, error["code"])
    assert 'a daemon that does not speak "meta-cni 1", install shim and daemon of one version' in error["msg"]
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    ("answer", "printed"),
    [(wire.answer(b'{"code": 6}', 1), b'{"code": 6}'), (b"meta-cni 2 answer 1 0\n", b"of one version")],
)
def test_an_answer_counts_though_the_daemon_has_not_read_all(
    run: Run, tmp_path: Path, answer: bytes, printed: bytes
):
    """Another version, or a user it does not serve, is refused at the first line; the rest is reset."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = threading.Thread(target=hang_up, args=(listener, answer))
        thread.start()

        outcome = run(stdin=b"x" * (3 << 20))

        thread.join(5)
    assert 1 == outcome[1]
    assert printed in outcome[0]


def hang_up(listener: socket.socket, answer: bytes) -> None:
    """Answer the first bytes, and go."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(10)
        connection.sendall(answer)


def test_a_full_disk_is_an_error_and_leaves_nothing(run: Run, tmp_path: Path):
    """Half a DEL would be none: the runtime is told, and calls again."""
    spool = tmp_path / "spool"
    spool.mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        printed, code = run(CNI_COMMAND="DEL")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handled)

    error = json.loads(printed)
    assert (1, 5) == (code, error["code"])
    assert f"spool DEL in {spool}" in error["msg"]
    assert [] == list(spool.iterdir())


def test_a_socket_s_path_that_is_too_long_is_told(run: Run):
    """sockaddr_un has room for 107 characters."""
    printed, code = run(META_CNI_SOCKET="/run/" + "x" * 120)

    assert (1, 11) == (code, json.loads(printed)["code"])


def test_a_shim_is_known_under_every_name(binary: list[str], tmp_path: Path):
    """Nothing may ever be delegated to it, and an uninstallation removes it alone."""
    other = tmp_path / "bridge"
    other.write_text("#!/bin/sh\n# talks to meta-cni 1\n")
    large = tmp_path / "large"
    large.write_bytes(b"meta-cni 1 answer " + bytes(5 << 20))

    known = [is_shim(each) for each in (binary[0], SOURCE / "shim.py")]

    assert [True, True] == known
    assert [False] * 4 == [is_shim(each) for each in (other, large, tmp_path, tmp_path / "gone")]


def test_what_is_executed_needs_nothing(binary: list[str], tmp_path: Path):
    """Static where the C library allows it: hosts have other libraries, or none."""
    made = tmp_path / "static"
    compiler = shutil.which("musl-gcc") or shutil.which("cc")
    subprocess.run([str(compiler), "-Os", "-s", "-static", "-o", made, SOURCE / "shim.c"], check=True)

    told = subprocess.run([made], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True, cwd="/")

    assert b"supportedVersions" in told.stdout
    assert os.access(made, os.X_OK)
    assert is_shim(made)
