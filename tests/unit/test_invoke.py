"""Real processes: every way a plugin can disappoint, within its deadline."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meta_cni import invoke
from meta_cni.cni.errors import BadConfig, DelegateFailed, DelegateTimedOut
from meta_cni.cni.result import Result
from tests.open_files import open_files

Script = Callable[..., str]
LONG_S = 600
"""What nobody waits for."""
WAIT_S = 60
"""For what takes no time where nobody else has work to do."""
PATH = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes an executable of some shell lines; returns its path."""

    def make(body: str, *, name: str = "plugin", mode: int = 0o755) -> str:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(mode)
        return str(file)

    return make


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ignores SIGTERM is not worth a second of every test run."""
    monkeypatch.setattr(invoke, "GRACE_S", 0.2)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """The daemon runs plugins for months."""
    before = open_files()
    yield
    assert set() == open_files() - before


def run(binary: str, *, stdin: bytes = b"{}", deadline_s: float = 10.0, **variables: str) -> bytes:
    return invoke.run(binary, stdin, PATH | variables, deadline_s, "blue")


def is_alive(pid: int) -> bool:
    """Is there such a process, zombies aside?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_gone_soon(pid: int) -> bool:
    until = time.monotonic() + WAIT_S
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not is_alive(pid)


def test_a_plugin_gets_its_standard_input_and_exactly_its_environment(script: Script):
    """What the runtime's environment holds is passed on by who builds it, not by inheritance."""
    os.environ["NOT_MEANT_FOR_PLUGINS"] = "1"
    binary = script('cat; echo "|$CNI_COMMAND|$NOT_MEANT_FOR_PLUGINS"')

    assert b'{"name":"x"}|ADD|\n' == run(binary, stdin=b'{"name":"x"}', CNI_COMMAND="ADD")


def test_standard_input_larger_than_a_pipe_that_nobody_reads_is_no_problem(script: Script):
    """A plugin may answer without reading."""
    assert b"ok\n" == run(script("echo ok"), stdin=b"x" * 2**20)


def test_huge_output_is_read_as_a_whole(script: Script):
    """Both outputs are larger than a pipe, and written one after the other."""
    body = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero"

    assert 3_000_000 == len(run(script(body)))


def test_endless_output_ends_at_its_bound(script: Script, monkeypatch: pytest.MonkeyPatch):
    """One mad plugin must not take the daemon's memory."""
    monkeypatch.setattr(invoke, "STDOUT_BYTES", 2**20)

    with pytest.raises(DelegateFailed, match="printed more than 1048576 bytes, and was killed"):
        run(script("exec cat /dev/zero"))


def test_of_endless_complaints_only_the_end_is_kept(script: Script):
    """The last words tell most."""
    body = "head -c 300000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1"

    with pytest.raises(DelegateFailed) as failed:
        run(script(body))

    assert failed.value.details.endswith("xxxthe end")
    assert invoke.STDERR_BYTES >= len(failed.value.details)
    assert 300 > len(failed.value.message)


FAILURES = {
    "an error object": (
        """echo '{"code":7,"msg":"no master","details":"eth9"}'; exit 1""",
        "no master",
        7,
        "eth9",
    ),
    "its own code": ("""echo '{"cniVersion":"1.0.0","code":11,"msg":"later"}'; exit 1""", "later", 11, ""),
    "without a code": ("""echo '{"msg":"bad"}'; exit 1""", "bad", 101, ""),
    "a code that is none": ("""echo '{"code":"7","msg":"bad"}'; exit 1""", "bad", 101, ""),
    "a log beside it": ("""echo log >&2; echo '{"code":7,"msg":"bad"}'; exit 1""", "bad", 7, "log"),
    "only standard error": (
        "echo broken pipe dream >&2; exit 3",
        "broken pipe dream",
        101,
        "broken pipe dream",
    ),
    "no text": ("exit 3", "exit status 3 with no error message", 101, ""),
    "garbage": ("echo segfault!; exit 1", "exit status 1, and no CNI error but 'segfault!'", 101, ""),
    "a result": (
        """echo '{"ips":[]}'; exit 1""",
        """exit status 1, and no CNI error but '{"ips":[]}'""",
        101,
        "",
    ),
    "a list": ("echo '[]'; exit 1", "exit status 1, and no CNI error but '[]'", 101, ""),
    "two documents": (
        """echo '{"code":7,"msg":"a"}{"code":7,"msg":"b"}'; exit 1""",
        """exit status 1, and no CNI error but '{"code":7,"msg":"a"}{"code":7,"msg":"b"}'""",
        101,
        "",
    ),
    "no UTF-8": ("printf '\\377'; exit 1", "exit status 1, and no CNI error but '\ufffd'", 101, ""),
    "a signal": ("echo help >&2; kill -SEGV $$", "killed by SIGSEGV", 101, "help"),
    "a nameless signal": ("kill -40 $$", "killed by signal 40", 101, ""),
}


@pytest.mark.parametrize(("body", "message", "code", "details"), FAILURES.values(), ids=FAILURES)
def test_a_failing_plugin_is_quoted(script: Script, body: str, message: str, code: int, details: str):
    """The text names network and plugin, and what the plugin said, whatever that is."""
    with pytest.raises(DelegateFailed) as failed:
        run(script(body))

    assert (f"network blue: plugin plugin: {message}", code, details) == (
        failed.value.message,
        failed.value.code,
        failed.value.details,
    )


def test_long_garbage_is_shortened(script: Script):
    """An error is one line of a pod's events."""
    with pytest.raises(DelegateFailed) as failed:
        run(script("head -c 100000 /dev/zero | tr '\\0' x; exit 1"))

    assert 300 > len(failed.value.message)


def test_a_plugin_that_hangs_is_ended_with_its_children(script: Script, tmp_path: Path):
    """The deadline holds, and nothing goes on working behind it."""
    binary = script(f"sleep {LONG_S} & echo $! > {tmp_path}/child; wait")
    started = time.monotonic()

    with pytest.raises(
        DelegateTimedOut, match=r"network blue: plugin plugin: no answer within 1 s, it was killed"
    ):
        run(binary, deadline_s=1)

    assert WAIT_S > time.monotonic() - started
    assert is_gone_soon(int((tmp_path / "child").read_text()))


def test_a_plugin_that_ignores_sigterm_is_killed(script: Script, short_grace: None):
    """A polite request is not a deadline."""
    binary = script("trap '' TERM; while :; do sleep 0.05; done")
    started = time.monotonic()

    with pytest.raises(DelegateTimedOut):
        run(binary, deadline_s=1)

    assert 1.15 < time.monotonic() - started < WAIT_S


def test_a_plugin_can_clean_up_when_it_is_asked_to_end(script: Script, tmp_path: Path):
    """SIGTERM comes first for that."""
    binary = script(f"trap 'touch {tmp_path}/cleaned; exit 0' TERM; while :; do sleep 0.02; done")

    with pytest.raises(DelegateTimedOut):
        run(binary, deadline_s=1)

    assert (tmp_path / "cleaned").exists()


def test_a_grandchild_that_holds_the_pipe_does_not_hold_us(script: Script, tmp_path: Path):
    """The plugin itself ended long ago; reading to the end would take a minute."""
    binary = script(f"sleep {LONG_S} & echo $! > {tmp_path}/child; echo '{{}}'")
    started = time.monotonic()

    with pytest.raises(DelegateTimedOut, match="what it started held its output and was killed"):
        run(binary, deadline_s=1)

    assert WAIT_S > time.monotonic() - started
    assert is_gone_soon(int((tmp_path / "child").read_text()))


def test_a_grandchild_out_of_reach_does_not_hold_us(script: Script, tmp_path: Path):
    """A session of its own saves it from our signal, but we stop reading."""
    binary = script(f"setsid sleep {LONG_S} & echo $! > {tmp_path}/child; echo '{{}}'")
    started = time.monotonic()

    with pytest.raises(DelegateTimedOut):
        run(binary, deadline_s=1)

    assert WAIT_S > time.monotonic() - started
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_a_plugin_that_closes_its_output_and_hangs_is_ended(script: Script):
    """The end of output is not the end of the process."""
    with pytest.raises(DelegateTimedOut):
        run(script(f"exec >&- 2>&-; exec sleep {LONG_S}"), deadline_s=0.3)


def test_a_plugin_being_installed_is_tried_again(script: Script, monkeypatch: pytest.MonkeyPatch):
    """ETXTBSY: an upgrade writes the binary while a pod starts."""
    monkeypatch.setattr(invoke, "BUSY_PAUSE_S", 0.5)
    binary = script("echo installed")
    writer = os.open(binary, os.O_WRONLY)
    done = threading.Timer(0.1, os.close, [writer])
    done.start()

    printed = run(binary)

    done.join()
    assert b"installed\n" == printed


def test_a_plugin_that_stays_busy_is_an_error(script: Script, monkeypatch: pytest.MonkeyPatch):
    """Six tries, then somebody must know."""
    monkeypatch.setattr(invoke, "BUSY_PAUSE_S", 0.01)
    binary = script("echo never")

    with open(binary, "ab"), pytest.raises(DelegateFailed, match=f"execute {binary}: Text file busy"):
        run(binary)


def test_busy_tries_end_with_the_deadline(script: Script, monkeypatch: pytest.MonkeyPatch):
    """Waiting a second is no use when there is none."""
    monkeypatch.setattr(invoke, "BUSY_PAUSE_S", LONG_S)
    binary = script("echo never")
    started = time.monotonic()

    with open(binary, "ab"), pytest.raises(DelegateFailed, match="Text file busy"):
        run(binary, deadline_s=WAIT_S)

    assert WAIT_S > time.monotonic() - started


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path):
    """An interrupted download."""
    file = tmp_path / "plugin"
    file.write_bytes(b"\x00\x01")
    file.chmod(0o755)

    with pytest.raises(DelegateFailed, match=r"execute .*/plugin: Exec format error"):
        run(str(file))


def test_an_environment_that_no_process_can_have_is_an_error(script: Script):
    """JSON can say \\u0000, execve(2) cannot."""
    with pytest.raises(DelegateFailed, match="embedded null byte"):
        run(script("true"), CNI_ARGS="a\0b")


def test_the_first_file_on_the_path_counts(script: Script, tmp_path: Path):
    """As a shell, and libcni, look."""
    (tmp_path / "none").mkdir()
    binary = script("true")

    assert binary == invoke.find(
        "plugin", ["", str(tmp_path / "none"), str(tmp_path / "gone"), str(tmp_path)]
    )


def test_a_directory_is_no_plugin(tmp_path: Path):
    """/opt/cni/bin/bridge/ was met in the field."""
    (tmp_path / "plugin").mkdir()

    with pytest.raises(DelegateFailed, match=f"find plugin 'plugin': expected it in /nowhere, {tmp_path}$"):
        invoke.find("plugin", ["/nowhere", str(tmp_path)])


def test_a_file_without_permission_is_named(script: Script, tmp_path: Path):
    """`chmod +x` is all that was missing."""
    binary = script("true", mode=0o644)

    with pytest.raises(DelegateFailed, match=f"find plugin 'plugin': {binary} is not executable"):
        invoke.find("plugin", [str(tmp_path)])


@pytest.mark.parametrize("name", ["", ".", "..", "../../bin/sh", "/bin/sh"])
def test_a_type_cannot_leave_the_path(name: str):
    """A user's network must not choose any program of the node."""
    with pytest.raises(BadConfig, match="expected a file name without '/'"):
        invoke.find(name, ["/bin"])


def test_no_path_at_all_is_said():
    """An empty CNI_PATH is the mistake, not the plugin."""
    with pytest.raises(DelegateFailed, match="expected it in no directory"):
        invoke.find("plugin", [])


def test_only_the_parameters_of_a_call_are_replaced():
    """Trace context and switches of the runtime reach the delegates; another call's arguments do not."""
    base = {"TRACEPARENT": "00-1", "CNI_NETNS_OVERRIDE": "1", "CNI_ARGS": "IP=1", "CNI_IFNAME": "eth0"}

    built = invoke.environment(base, {"CNI_IFNAME": "net1", "CNI_COMMAND": "ADD"})

    assert {
        "TRACEPARENT": "00-1",
        "CNI_NETNS_OVERRIDE": "1",
        "CNI_IFNAME": "net1",
        "CNI_COMMAND": "ADD",
    } == built


@pytest.mark.parametrize("stdout", [b"", b" \n", b"null", b" null\n"])
def test_no_result_is_an_empty_one(stdout: bytes):
    """As met in the field: plugins that only tune something print nothing."""
    assert Result() == invoke.result(stdout, "1.0.0", "blue", "tuning")


NO_RESULTS = {
    "a list": (b"[1]", r"expected a CNI Result, got '\[1\]'"),
    "a text": (b'"done"', "expected a CNI Result, got '\"done\"'"),
    "garbage": (b"done", "decode its answer: .*: it printed 'done'"),
    "two documents": (b"{}\n{}", "more than one JSON document: it printed"),
    "no UTF-8": (b'{"a":"\xff"}', "byte 6 is not UTF-8: it printed"),
    "a wrong address": (b'{"ips":[{"address":"10.0.0.300/24"}]}', r"10\.0\.0\.300/24.*: it printed"),
}


@pytest.mark.parametrize(("stdout", "message"), NO_RESULTS.values(), ids=NO_RESULTS)
def test_what_is_no_result_is_shown(stdout: bytes, message: str):
    """Whoever maintains that plugin needs to see what it printed."""
    with pytest.raises(DelegateFailed, match=f"^network blue: plugin tuning: .*{message}"):
        invoke.result(stdout, "1.0.0", "blue", "tuning")


def test_a_plugin_is_asked_for_its_versions(script: Script):
    """It gets the verb, and the version we would like."""
    body = """[ "$CNI_COMMAND$(cat)" = 'VERSION{"cniVersion":"1.1.0"}' ] &&
    echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'"""

    assert ("0.4.0", "1.0.0") == invoke.versions(script(body), PATH, 10)


def test_old_plugins_do_not_know_the_verb(script: Script):
    """As libcni reads these answers."""
    unknown = script("""echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1""", name="old")
    unlisted = script("""echo '{"cniVersion":"0.2.0"}'""", name="older")

    assert ("0.1.0",) == invoke.versions(unknown, PATH, 10)
    assert ("0.1.0", "0.2.0") == invoke.versions(unlisted, PATH, 10)


@pytest.mark.parametrize(
    "body", ["true", "echo x", "echo '{}'", """echo '{"supportedVersions":[1]}'""", "echo '[]'"]
)
def test_an_answer_without_versions_is_an_error(script: Script, body: str):
    """Guessing would end in a Result nobody can read."""
    with pytest.raises(DelegateFailed, match="plugin plugin: expected its versions, got"):
        invoke.versions(script(body), PATH, 10)


def test_a_version_probe_that_fails_otherwise_is_an_error(script: Script):
    """Only one text means an old plugin."""
    with pytest.raises(DelegateFailed, match="plugin plugin: no licence"):
        invoke.versions(script("echo no licence >&2; exit 1"), PATH, 10)
