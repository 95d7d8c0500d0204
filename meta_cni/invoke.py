"""
Running one CNI plugin within a deadline (CNI specification 1.1.0, "Execution Protocol").

The plugin gets a process group of its own, so that a deadline ends whatever it started too: a
grandchild that holds the pipe must not hold us.
"""

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from meta_cni.cni import result as results
from meta_cni.cni.config import decode
from meta_cni.cni.errors import CNIError, DelegateFailed, DelegateTimedOut
from meta_cni.cni.result import Result

BUSY_TRIES = 6  # ETXTBSY is tried six times, one second apart, as libcni does
BUSY_PAUSE_S = 1.0
GRACE_S = 1.0
SHOWN_CHARACTERS = 200


def find(plugin_type: str, path: Sequence[str]) -> str:
    """The first regular file of this name in the directories; raises DelegateFailed naming them."""
    for directory in path:
        candidate = Path(directory) / plugin_type
        if candidate.is_file():
            return str(candidate)
    searched = ", ".join(path) or "no directory"
    raise DelegateFailed(f"find plugin {plugin_type!r}: expected it in {searched}")


def environment(base: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment with the CNI_* variables of a delegate; everything else goes through."""
    kept = {key: value for key, value in base.items() if not key.startswith("CNI_")}
    return {**kept, **values}


def run(binary: str, stdin: bytes, variables: Mapping[str, str], deadline_s: float, network: str) -> bytes:
    """
    Execute a plugin with a complete environment; returns what it printed.

    Raises DelegateFailed with the plugin's own code and text, DelegateTimedOut when it was
    killed at its deadline.
    """
    what = f"network {network}: plugin {os.path.basename(binary)}"
    deadline = time.monotonic() + deadline_s
    process = _start(binary, variables, deadline, what)
    try:
        stdout, stderr = process.communicate(stdin, max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(process)
        raise DelegateTimedOut(f"{what}: no answer within {deadline_s:g} s, it was killed") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        raise _failure(process.returncode, stdout, stderr, what)
    return stdout


def _start(
    binary: str, variables: Mapping[str, str], deadline: float, what: str
) -> "subprocess.Popen[bytes]":
    for attempt in range(BUSY_TRIES):
        try:
            return subprocess.Popen(
                [binary],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(variables),
                start_new_session=True,
            )
        except OSError as error:
            is_last = attempt == BUSY_TRIES - 1 or time.monotonic() + BUSY_PAUSE_S > deadline
            if error.errno != errno.ETXTBSY or is_last:
                raise DelegateFailed(f"{what}: execute {binary}: {error.strerror}") from None
            time.sleep(BUSY_PAUSE_S)
    raise AssertionError("unreachable")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the whole group to end, then make it; the pipes are closed whoever holds them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:
            continue
        break
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _failure(code: int, stdout: bytes, stderr: bytes, what: str) -> CNIError:
    """The error of a plugin that did not exit with 0."""
    errors = stderr.decode(errors="replace").strip()
    if code < 0:
        name = signal.Signals(-code).name
        return DelegateFailed(f"{what}: killed by {name}", errors)
    text = stdout.decode(errors="replace").strip()
    if not text:
        return DelegateFailed(f"{what}: {_short(errors) or f'exit status {code} with no error message'}")
    try:
        document = json.loads(text)
    except ValueError:
        return DelegateFailed(f"{what}: exit status {code}, and no CNI error but {_short(text)!r}", errors)
    if not isinstance(document, dict) or not isinstance(document.get("msg"), str):
        return DelegateFailed(f"{what}: exit status {code}, and no CNI error but {_short(text)!r}", errors)
    number = document.get("code")
    details = str(document.get("details") or "")
    is_code = isinstance(number, int) and not isinstance(number, bool) and number > 0
    return DelegateFailed(f"{what}: {document['msg']}", details, number if is_code else None)


def result(stdout: bytes, version: str, network: str, plugin_type: str) -> Result:
    """The Result a plugin printed; nothing and `null` are an empty one, as met in the field."""
    what = f"network {network}: plugin {plugin_type}"
    text = stdout.decode(errors="replace").strip()
    if not text:
        return Result()
    try:
        document = decode(text, "its answer")
        if document is None:
            return Result()
        if not isinstance(document, dict):
            raise DelegateFailed(f"{what}: expected a CNI Result, got {_short(text)!r}")
        return results.parse(document, version)
    except DelegateFailed:
        raise
    except CNIError as error:
        raise DelegateFailed(f"{what}: {error.message}: it printed {_short(text)!r}") from None


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
