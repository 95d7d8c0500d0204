"""
Programs of the node that are run for what has no interface of its own: iptables and nft.

A packet filter's rules belong to the program that made them: its kernel messages are private to
it and change, its command line does not. The program runs in the namespace of the calling thread.
"""

import shutil
import subprocess
from collections.abc import Sequence

from meta_cni.cni.errors import ProgramFailed

DEADLINE_S = 55.0  # as the reference gives nft
SHOWN_CHARACTERS = 300


def find(name: str) -> str:
    """The path of a program on PATH; empty when there is none."""
    return shutil.which(name) or ""


def run(command: Sequence[str], given: str = "") -> str:
    """What the program prints; raises ProgramFailed with its own words when it cannot do it."""
    told = " ".join(command)
    binary = find(command[0])
    if not binary:
        raise ProgramFailed(f"run {told}: expected {command[0]} on PATH, and there is none")
    try:
        done = subprocess.run(
            [binary, *command[1:]],
            input=given,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"run {told}: no answer within {DEADLINE_S:g} s, it was killed") from None
    except OSError as error:
        raise ProgramFailed(f"run {told}: {error.strerror}") from None
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[:SHOWN_CHARACTERS]
        raise ProgramFailed(
            f"run {told}: {words or f'exit status {done.returncode}'}", status=done.returncode
        )
    return done.stdout
