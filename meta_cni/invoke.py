"""
Running one CNI plugin within a deadline (CNI specification 1.1.0, "Execution Protocol").

The plugin gets a process group of its own, so that a deadline ends whatever it started too, and
what it prints is read only up to a bound. Nobody's pipe is waited for longer than the deadline:
a grandchild that holds it must not hold us.
"""

import ctypes
import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from meta_cni.cni import result as results
from meta_cni.cni.config import decode
from meta_cni.cni.errors import BadConfig, CNIError, DecodeFailure, DelegateFailed, DelegateTimedOut
from meta_cni.cni.result import Result
from meta_cni.cni.version import NEWEST

BUSY_TRIES = 6  # ETXTBSY is tried six times, one second apart, as libcni does
BUSY_PAUSE_S = 1.0
GRACE_S = 1.0
POLL_S = 0.01
STDOUT_BYTES = 16 * 2**20
STDERR_BYTES = 64 * 2**10
PIPE_BYTES = 64 * 2**10  # pipe(7): what a pipe holds, so the most that one read brings
SHOWN_CHARACTERS = 200
CLONE_FS = 0x200  # <linux/sched.h>
STDIN_LINK = "/memfd:stdin (deleted)"
"""What a plugin's /proc/<pid>/fd/0 leads to."""
PARAMETERS = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")
"""The variables of the specification, which belong to one call; others are passed on."""


def find(plugin_type: str, path: Sequence[str]) -> str:
    """
    The first regular file of this name in the directories.

    Raises BadConfig when the name is no file name, DelegateFailed when there is no such file
    or it is not executable.
    """
    if not plugin_type or "/" in plugin_type or plugin_type in (".", ".."):
        raise BadConfig(f"find plugin {plugin_type!r}: expected a file name without '/'")
    candidates = (os.path.join(directory, plugin_type) for directory in path if directory)
    found = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if found is None:
        searched = ", ".join(directory for directory in path if directory) or "no directory"
        raise DelegateFailed(f"find plugin {plugin_type!r}: expected it in {searched}")
    if not os.access(found, os.X_OK):
        raise DelegateFailed(f"find plugin {plugin_type!r}: {found} is not executable")
    return found


def environment(base: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment with the parameters of a delegate; everything else goes through."""
    kept = {key: value for key, value in base.items() if key not in PARAMETERS}
    return {**kept, **values}


def run(
    binary: str,
    stdin: bytes,
    variables: Mapping[str, str],
    deadline_s: float,
    network: str,
    root: str = "",
) -> bytes:
    """
    Execute a plugin with a complete environment; returns what it printed.

    `root` is the directory that is / for it, where that is another one than ours. Raises
    DelegateFailed with the plugin's own code and text, DelegateTimedOut when it was killed at its
    deadline.
    """
    what = _named(network, os.path.basename(binary))
    deadline = time.monotonic() + deadline_s
    execute = partial(_execute, binary, stdin, variables)
    if root:
        execute = partial(_below, root, execute)
    process = _start(binary, execute, deadline, what)
    try:
        printed = _read(process, deadline, what)
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise DelegateTimedOut(f"{what}: no answer within {deadline_s:g} s, {_end(process)}") from None
    except BaseException:
        _end(process)
        raise
    finally:
        _close(process)
    if status != 0:
        raise _failure(status, printed, what)
    return bytes(printed.stdout)


def _named(network: str, plugin_type: str) -> str:
    return f"network {network}: plugin {plugin_type}" if network else f"plugin {plugin_type}"


def _start(
    binary: str, execute: "Callable[[], subprocess.Popen[bytes]]", deadline: float, what: str
) -> "subprocess.Popen[bytes]":
    """Execute the file; one that is being written (ETXTBSY) is tried again."""
    for attempt in range(BUSY_TRIES):
        try:
            return execute()
        except OSError as error:
            is_last = attempt == BUSY_TRIES - 1 or time.monotonic() + BUSY_PAUSE_S > deadline
            if error.errno != errno.ETXTBSY or is_last:
                raise DelegateFailed(f"{what}: execute {binary}: {error.strerror}") from None
            time.sleep(BUSY_PAUSE_S)
        except ValueError as error:
            raise DelegateFailed(f"{what}: execute {binary}: {error}") from None
    raise AssertionError("the last try returns or raises")


def _execute(binary: str, stdin: bytes, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process; standard input is a file in memory, so that nobody has to feed a pipe."""
    with os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b") as file:
        file.write(stdin)
        file.seek(0)
        return subprocess.Popen(
            [binary],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(variables),
            start_new_session=True,
        )


def _below(root: str, execute: "Callable[[], subprocess.Popen[bytes]]") -> "subprocess.Popen[bytes]":
    """
    Start a process on a thread that has another root directory, and dies with it.

    A child has the root of the thread that makes it; threads share theirs until unshare(2). To
    change that of the whole daemon for a moment would change it for all of its threads.
    """

    def work() -> "subprocess.Popen[bytes]":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_FS):
            number = ctypes.get_errno()
            raise OSError(number, f"unshare: {os.strerror(number)}")
        os.chroot(root)
        os.chdir("/")
        return execute()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@dataclass(frozen=True, slots=True)
class Printed:
    """What a plugin printed: all of its standard output, the end of its standard error."""

    stdout: bytearray
    stderr: bytearray

    @property
    def errors(self) -> str:
        """Standard error as text."""
        return self.stderr.decode(errors="replace").strip()


def _read(process: "subprocess.Popen[bytes]", deadline: float, what: str) -> Printed:
    """Both outputs to their ends; raises TimeoutExpired at the deadline, DelegateFailed over the bound."""
    printed = Printed(bytearray(), bytearray())
    with selectors.DefaultSelector() as selector:
        selector.register(_pipe(process.stdout), selectors.EVENT_READ, printed.stdout)
        selector.register(_pipe(process.stderr), selectors.EVENT_READ, printed.stderr)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            ready = selector.select(remaining) if remaining > 0 else []
            if not ready:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in ready:
                data = os.read(key.fd, PIPE_BYTES)
                key.data.extend(data)
                if not data:
                    selector.unregister(key.fileobj)
            del printed.stderr[:-STDERR_BYTES]
            if len(printed.stdout) > STDOUT_BYTES:
                raise DelegateFailed(f"{what}: it printed more than {STDOUT_BYTES} bytes, and was killed")
    return printed


def _pipe(stream: object) -> int:
    """The descriptor of a pipe that Popen was told to make."""
    fileno = getattr(stream, "fileno", None)
    assert fileno is not None
    return int(fileno())


def _end(process: "subprocess.Popen[bytes]") -> str:
    """
    Ask the whole group to end, then make it; says in words what was done.

    The process is not reaped before the last signal: until then the group keeps its number.
    """
    had_ended = process.returncode is not None or _has_ended(process.pid)
    _signal(process.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while not _has_ended(process.pid) and time.monotonic() < until:
        time.sleep(POLL_S)
    _signal(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # one stuck in the kernel dies when it comes back
        process.wait(GRACE_S)
    return "what it started held its output and was killed" if had_ended else "it was killed"


def _has_ended(pid: int) -> bool:
    """Has a child ended? It stays a zombie, so that its number stays taken."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _close(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _failure(status: int, printed: Printed, what: str) -> DelegateFailed:
    """The error of a plugin that did not exit with 0; a negative status is a signal."""
    if status < 0:
        return DelegateFailed(f"{what}: killed by {_signal_name(-status)}", printed.errors)
    text = printed.stdout.decode(errors="replace").strip()
    if not text:
        reason = _short(printed.errors) or f"exit status {status} with no error message"
        return DelegateFailed(f"{what}: {reason}", printed.errors)
    try:
        document = decode(text, "error")
    except DecodeFailure:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("msg"), str):
        return DelegateFailed(
            f"{what}: exit status {status}, and no CNI error but {_short(text)!r}", printed.errors
        )
    number = document.get("code")
    is_code = isinstance(number, int) and not isinstance(number, bool) and number > 0
    details = str(document.get("details") or printed.errors)
    return DelegateFailed(f"{what}: {document['msg']}", details, number if is_code else None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def result(
    stdout: bytes, version: str, network: str, plugin_type: str, *, is_of_addresses: bool = False
) -> Result:
    """
    The Result a plugin printed; nothing and `null` are an empty one, as met in the field.

    Of one that hands out addresses nobody looks at what it says of interfaces.
    """
    what = _named(network, plugin_type)
    if not stdout.strip():
        return Result()
    shown = repr(_short(stdout.decode(errors="replace").strip()))
    try:
        document = decode(stdout, "its answer")
        if document is None:
            return Result()
        if isinstance(document, dict):
            return results.parse(document, version, is_of_addresses=is_of_addresses)
    except CNIError as error:
        raise DelegateFailed(f"{what}: {error.message}: it printed {shown}") from None
    raise DelegateFailed(f"{what}: expected a CNI Result, got {shown}")


def versions(binary: str, base: Mapping[str, str], deadline_s: float) -> tuple[str, ...]:
    """
    The CNI versions a plugin says it speaks; raises DelegateFailed or DelegateTimedOut.

    Plugins older than 0.2.0 do not know the verb, and complain about missing variables first.
    """
    values = dict.fromkeys(PARAMETERS, "dummy") | {"CNI_COMMAND": "VERSION", "CNI_ARGS": ""}
    stdin = f'{{"cniVersion":"{NEWEST}"}}'.encode()
    try:
        stdout = run(binary, stdin, environment(base, values), deadline_s, "")
    except DelegateFailed as error:
        if "unknown CNI_COMMAND: VERSION" in error.message:  # as libcni: nothing else tells them apart
            return ("0.1.0",)
        raise
    try:
        document = decode(stdout, "its answer")
    except DecodeFailure:
        document = None
    if isinstance(document, dict):
        listed = document.get("supportedVersions")
        if isinstance(listed, list) and listed and all(isinstance(each, str) for each in listed):
            return tuple(listed)
        if not listed and document.get("cniVersion") == "0.2.0":
            return ("0.1.0", "0.2.0")
    shown = repr(_short(stdout.decode(errors="replace").strip()))
    raise DelegateFailed(f"{_named('', os.path.basename(binary))}: expected its versions, got {shown}")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
