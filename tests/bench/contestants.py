"""
Who is measured: our daemon with its shim, and what does the same otherwise.

Each is started with files of its own below one directory, and tells for a call of a runtime which
process is to be started. What it costs besides that process is told by the kernel.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.bench import node
from tests.bench.launcher import Job, Launcher
from tests.bench.node import Pod

TOP = Path(__file__).parents[2]
START_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Contestant(Protocol):
    """One way of attaching pods."""

    name: str
    """As the report calls it."""
    most_at_once: int
    """Pods at a time that it is tried with."""

    def job(self, verb: str, pod: Pod, container: str) -> Job:
        """What a runtime starts."""
        ...

    def cpu_ms(self) -> float:
        """CPU that its daemon and what that executed have used so far."""
        ...

    def resident_mb(self) -> float:
        """Memory of its daemon."""
        ...

    def restart(self) -> None:
        """Start its daemon anew."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Process:
    """A daemon in the background."""

    def __init__(self, command: Sequence[str], log: Path, **environment: str) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=TOP, env={**os.environ, **environment}
            )
        self.log = log

    def wait_until(self, is_ready: Path) -> None:
        """Until it has made a file, as a sign that it serves."""
        deadline = time.monotonic() + START_S
        while not is_ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self._process.args} does not serve:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def cpu_ms(self) -> float:
        """Its own to the nanosecond (clock_getcpuclockid(3)), that of ended children in ticks."""
        own = time.clock_gettime_ns((~self.pid << 3) | 2) / 1e6
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return own + sum(map(int, fields[13:15])) * TICK_S * 1000

    def resident_mb(self) -> float:
        """Its memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE / 2**20

    def close(self) -> None:
        """SIGTERM, and what it takes to end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Ours:
    """The daemon and the shim."""

    most_at_once = node.MOST_PODS

    def __init__(
        self, directory: Path, launcher: Launcher, plugins: str, *, name: str = "ours", **keys: Any
    ) -> None:
        """`keys` are put into the configuration."""
        self.name = name
        self.directory = directory / name.replace(" ", "-")
        self.directory.mkdir()
        self.plugins = plugins
        self.shim = launcher.require("shim", TOP / "meta_cni" / "shim")
        self.keys = keys
        self.socket = self.directory / "run" / "s"
        self.process = self._started()

    def _started(self) -> Process:
        places = ["--socket", str(self.socket), "--spool", str(self.directory / "spool"), "--http", ""]
        command = [sys.executable, "-m", "meta_cni", "daemon", *places]
        process = Process(command, self.directory / "log")
        process.wait_until(self.socket)
        return process

    def stdin(self, **more: Any) -> bytes:
        """The runtime's standard input; `more` goes into the default network's configuration."""
        default = node.network(0, self.directory.parent / "addresses" / node.OURS)
        configuration = {
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "meta-cni",
            "cniDir": str(self.directory / "state"),
            "binDir": self.plugins,
            "delegates": [{**default, **more}],
            **self.keys,
        }
        return json.dumps(configuration).encode()

    def job(self, verb: str, pod: Pod, container: str) -> Job:
        """The shim."""
        own = {"META_CNI_SOCKET": str(self.socket), "META_CNI_SPOOL": str(self.directory / "spool")}
        variables = {**node.variables(verb, pod, container, self.plugins, node.OURS), **own}
        return Job((self.shim,), variables, self.stdin())

    def cpu_ms(self) -> float:
        """The daemon's."""
        return self.process.cpu_ms()

    def resident_mb(self) -> float:
        """The daemon's."""
        return self.process.resident_mb()

    def restart(self) -> None:
        """A daemon that knows nothing."""
        self.process.close()
        self.process = self._started()

    def close(self) -> None:
        """End it."""
        self.process.close()
