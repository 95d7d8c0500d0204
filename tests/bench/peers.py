"""
Multus 4, thick and thin, where its programs are to be had: who they are and how they are called.

They are found on PATH or in a directory that is named; nothing of them is part of this project.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import node
from tests.bench.api import TOKEN
from tests.bench.contestants import Process
from tests.bench.launcher import Job
from tests.bench.node import Pod

PROGRAMS = ("multus", "multus-daemon", "multus-shim")
SERVICE_ACCOUNT = Path("/run/secrets/kubernetes.io/serviceaccount")


def found(path: str) -> dict[str, str]:
    """The programs that are there, by their names."""
    places = {each: shutil.which(each, path=path) for each in PROGRAMS}
    return {name: place for name, place in places.items() if place}


def version_of(program: str) -> str:
    """The module's version, as Go has noted it in the file; empty when it has not."""
    go = shutil.which("go")
    if go is None:
        return ""
    printed = subprocess.run([go, "version", "-m", program], capture_output=True, text=True).stdout
    return next(_versions(printed), "")


def _versions(printed: str) -> Iterator[str]:
    for line in printed.splitlines():
        words = line.split()
        if words[:1] == ["mod"]:
            yield words[2]


def build_of(program: str) -> str:
    """What the program says of itself, else what Go has noted."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    words = (each.strip("(),") for each in told.replace("version:", " ").split())
    return next((each for each in words if each.startswith("v")), "") or version_of(program)


class Thin:
    """Multus as a plugin."""

    most_at_once = 10
    """More of them are more connections than the small API server takes in a minute."""

    def __init__(self, directory: Path, programs: dict[str, str], plugins: str, api: Path) -> None:
        self.name = "Multus thin"
        self.directory = directory / "thin"
        self.directory.mkdir()
        self.program = programs["multus"]
        self.plugins, self.api = plugins, api

    def configuration(self) -> dict[str, Any]:
        """The runtime's standard input."""
        return {
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "multus",
            "kubeconfig": str(self.api / "kubeconfig"),
            "cniDir": str(self.directory / "state"),
            "binDir": self.plugins,
            "logLevel": "error",
            "delegates": [node.network(0, self.directory.parent / "addresses" / node.THEIRS)],
        }

    def job(self, verb: str, pod: Pod, container: str) -> Job:
        """The plugin."""
        variables = node.variables(verb, pod, container, self.plugins, node.THEIRS)
        return Job((self.program,), variables, json.dumps(self.configuration()).encode())

    def cpu_ms(self) -> float:
        """There is no daemon."""
        return 0.0

    def resident_mb(self) -> float:
        """There is no daemon."""
        return 0.0

    def restart(self) -> None:
        """There is no daemon."""

    def close(self) -> None:
        """There is no daemon."""


class Thick(Thin):
    """Multus' daemon with its shim."""

    most_at_once = node.MOST_PODS

    def __init__(self, directory: Path, programs: dict[str, str], plugins: str, api: Path) -> None:
        self.name = "Multus thick"
        self.directory = directory / "thick"
        self.directory.mkdir()
        self.program = programs["multus-shim"]
        self.daemon = programs["multus-daemon"]
        self.plugins, self.api = plugins, api
        self.process = self._started()

    def _started(self) -> Process:
        """As in its DaemonSet: with a service account, and a primary network in a file."""
        configurations = self.directory / "net.d"
        configurations.mkdir(exist_ok=True)
        primary = node.network(0, self.directory.parent / "addresses" / node.THEIRS)
        listed = {"cniVersion": "1.0.0", "name": "net0", "plugins": [primary]}
        (configurations / "10-net0.conflist").write_text(json.dumps(listed))
        SERVICE_ACCOUNT.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.api / "ca.crt", SERVICE_ACCOUNT / "ca.crt")
        (SERVICE_ACCOUNT / "token").write_text(TOKEN)
        own = {
            "cniVersion": "1.0.0",
            "cniConfigDir": str(configurations),
            "multusAutoconfigDir": str(configurations),
            "multusConfigFile": "auto",
            "socketDir": str(self.directory / "run"),
            "cniDir": str(self.directory / "state"),
            "binDir": self.plugins,
            "logLevel": "error",
            "logToStderr": True,
        }
        file = self.directory / "daemon.json"
        file.write_text(json.dumps(own))
        socket = self.directory / "run" / "multus.sock"
        socket.unlink(missing_ok=True)
        process = Process(
            [self.daemon, "-config", str(file)],
            self.directory / "log",
            KUBERNETES_SERVICE_HOST="127.0.0.1",
            KUBERNETES_SERVICE_PORT=(self.api / "port").read_text(),
            MULTUS_NODE_NAME="node",
            PATH=f"{self.plugins}:{os.environ['PATH']}",
        )
        process.wait_until(configurations / "00-multus.conf")
        return process

    def configuration(self) -> dict[str, Any]:
        """The runtime's standard input."""
        own = {"type": "multus-shim", "daemonSocketDir": str(self.directory / "run"), "logLevel": "error"}
        return {**super().configuration(), **own}

    def cpu_ms(self) -> float:
        """The daemon's and its plugins'."""
        return self.process.cpu_ms()

    def resident_mb(self) -> float:
        """The daemon's."""
        return self.process.resident_mb()

    def restart(self) -> None:
        """A daemon that knows nothing."""
        self.close()
        (self.directory / "net.d" / "00-multus.conf").unlink(missing_ok=True)
        self.process = self._started()

    def close(self) -> None:
        """End it."""
        self.process.close()
