"""What a killed daemon left running, told apart from everything else that runs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from meta_cni import invoke
from meta_cni.linux import process

WAIT_S = 60
LEFT = """
import os, sys
from meta_cni import invoke
os.environ["MARK"] = sys.argv[1]
invoke.run(sys.argv[2], b"x", os.environ, 60, "")
"""


@pytest.fixture
def mark() -> str:
    """A value nobody else has."""
    return str(uuid4())


@pytest.fixture
def orphan(tmp_path: Path, mark: str) -> Iterator[Callable[[str], None]]:
    """A plugin whose daemon was killed; it has said that it runs."""
    with ExitStack() as stack:

        def start(text: str) -> None:
            plugin = tmp_path / "plugin"
            plugin.write_text(f"#!/bin/sh\n{text}\necho $$ > {tmp_path}/pid\nsleep 60\n")
            plugin.chmod(0o755)
            daemon = subprocess.Popen([sys.executable, "-c", LEFT, mark, plugin])
            stack.callback(daemon.wait)
            stack.callback(daemon.kill)
            until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            daemon.kill()
            daemon.wait()

        yield start


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def number(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text())


def test_a_plugin_whose_daemon_was_killed_is_ended_with_all_it_started(
    orphan: Callable[[str], None], tmp_path: Path, mark: str
):
    """It would go on making what nobody has recorded, after the DEL."""
    orphan(f"sleep 60 & echo $! > {tmp_path}/child")
    pids = number(tmp_path / "pid"), number(tmp_path / "child")

    ended = process.end_left(f"MARK={mark}", invoke.STDIN_LINK, 5)

    assert [pids[0]] == ended
    until(lambda: not any(is_running(each) for each in pids))


def test_what_a_plugin_left_running_on_purpose_is_left_alone(
    orphan: Callable[[str], None], tmp_path: Path, mark: str
):
    """A DHCP client, say: it has a session and a standard input of its own."""
    orphan(f"setsid sleep 60 </dev/null & echo $! > {tmp_path}/client")
    client = number(tmp_path / "client")
    until(lambda: os.getsid(client) == client)

    process.end_left(f"MARK={mark}", invoke.STDIN_LINK, 5)

    assert is_running(client)
    os.kill(client, 9)


def test_those_of_another_daemon_are_left_alone(orphan: Callable[[str], None], tmp_path: Path, mark: str):
    """It may well be alive."""
    orphan("")
    pid = number(tmp_path / "pid")

    ended = process.end_left("MARK=another", invoke.STDIN_LINK, 5)

    assert ([], True) == (ended, is_running(pid))
    assert [pid] == process.end_left(f"MARK={mark}", invoke.STDIN_LINK, 5)
