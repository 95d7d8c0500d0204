"""
Processes that outlived the daemon that had started them.

Nobody waits for them, and nobody would know of what they still make. They are known by a variable
of their environment, by leading a session, and by their standard input, which is our file in
memory: what a plugin leaves running on purpose has detached itself from that.

PR_SET_PDEATHSIG is no answer: it is set between fork and exec, where a process with threads must
not run Python, it ends the plugin but not what that has started, and it goes with the thread.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.01


def end_left(variable: str, stdin: str, deadline_s: float) -> list[int]:
    """
    Kill the process groups of all leaders with this `NAME=value` and this standard input.

    Returns their numbers, when they have ended; one that is stuck in the kernel is not waited for
    longer than the deadline.
    """
    ended: dict[int, None] = {}
    deadline = time.monotonic() + deadline_s
    while (found := _leaders(variable.encode(), stdin)) and time.monotonic() < deadline:
        for pid in found:
            ended[pid] = None
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return list(ended)


def _leaders(variable: bytes, stdin: str) -> list[int]:
    numbers = [int(each.name) for each in PROC.iterdir() if each.name.isdigit()]
    return [each for each in numbers if _is_leader(each, variable, stdin)]


def _is_leader(pid: int, variable: bytes, stdin: str) -> bool:
    """One that has ended meanwhile is none; of a zombie the environment is empty."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        return (
            variable in environment
            and os.getsid(pid) == pid
            and os.readlink(PROC / str(pid) / "fd" / "0") == stdin
        )
    except OSError:
        return False
