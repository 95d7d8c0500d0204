"""A daemon as a process of its own on the private node, and shims that call it as a runtime does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from meta_cni.daemon import server
from tests.netns.conftest import REFERENCE

TOP = Path(__file__).parents[2]
SHIM = TOP / "meta_cni" / "shim"
WAIT_S = 180.0
"""For what takes a second on a machine that has nothing else to do."""
KEPT_DESCRIPTORS = 2
"""By each thread that has served a call: its namespace, and a netlink socket there."""
PORT = 9464
"""Of loopback, for a daemon that is to serve its metrics there."""
Answer = tuple[dict[str, Any], int]


def until(condition: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Wait for what is to happen."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


def page(path: str) -> tuple[int, str]:
    """What the daemon on PORT serves: status code and text."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def metrics() -> dict[str, float]:
    """What it tells of itself, by name and labels."""
    lines = [line for line in page("/metrics")[1].splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def shim(directory: Path) -> list[str]:
    """The shim's command: in C where there is a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return [sys.executable, "-I", "-S", str(SHIM / "shim.py")]
    subprocess.run([compiler, "-O2", "-o", directory / "meta-cni", SHIM / "shim.c"], check=True)
    return [str(directory / "meta-cni")]


class Daemon:
    """`meta-cni daemon` with everything under one directory; started anew after it was killed."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.options = options
        self.socket = root / "d" / "s"
        self.spool = root / "spool"
        self.log = root / "daemon.log"
        self.shim = shim(root)
        self.process: subprocess.Popen[bytes] | None = None

    def launched(self, **more: Any) -> "subprocess.Popen[bytes]":
        """A new process; the one before may be there still."""
        places = ["--socket", self.socket, "--spool", self.spool, "--http", ""]
        command = [sys.executable, "-m", "meta_cni", "daemon", *places, *self.options]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=TOP, **more)

    def start(self, **more: Any) -> None:
        """Start it, and wait until it serves."""
        self.process = self.launched(**more)
        until(lambda: server.is_served(self.socket) or self.running.poll() is not None)
        assert self.running.poll() is None, self.log.read_text()

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        """The process, which was started."""
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        """As a crash does."""
        self.running.kill()
        self.running.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(WAIT_S)

    def close(self) -> None:
        """Whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def executed(self) -> list[int]:
        """Processes that it, or one before it, has started and that still run."""
        found = self.socket.parent.stat()
        mark = f"META_CNI_DAEMON={found.st_dev}:{found.st_ino}".encode()
        return [pid for pid, environment in _environments() if mark in environment]

    @property
    def descriptors(self) -> int:
        """How many are open."""
        return len(os.listdir(f"/proc/{self.running.pid}/fd"))

    @property
    def threads(self) -> int:
        """How many there are."""
        return len(os.listdir(f"/proc/{self.running.pid}/task"))

    @property
    def resident_mb(self) -> float:
        """Its memory."""
        pages = int(Path(f"/proc/{self.running.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def environment(self, verb: str, container: str, path: str, pod: str) -> dict[str, str]:
        """A runtime's variables."""
        return {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME={pod}",
            "CNI_PATH": ":".join(REFERENCE),
            "META_CNI_SOCKET": str(self.socket),
            "META_CNI_SPOOL": str(self.spool),
        }

    def asked(
        self, verb: str, container: str, path: str, pod: str, given: dict[str, Any]
    ) -> "subprocess.Popen[bytes]":
        """A shim that has its standard input; its answer is still to come."""
        started = subprocess.Popen(
            self.shim,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment(verb, container, path, pod),
        )
        assert started.stdin is not None
        started.stdin.write(json.dumps(given).encode())
        started.stdin.close()
        started.stdin = None
        return started

    def call(self, verb: str, container: str, path: str, pod: str, given: dict[str, Any]) -> Answer:
        """One call: the decoded answer, and the exit code."""
        return answer_of(self.asked(verb, container, path, pod, given))


def answer_of(started: "subprocess.Popen[bytes]") -> Answer:
    """What a shim prints in the end."""
    printed, _ = started.communicate(timeout=4 * WAIT_S)
    return (json.loads(printed) if printed else {}), started.returncode


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with suppress(OSError):
                yield int(each.name), (each / "environ").read_bytes().split(b"\0")
