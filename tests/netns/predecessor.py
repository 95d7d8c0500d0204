"""Pods as Multus leaves them: attached by the reference plugins, recorded as it and its libcni do it."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.netns.conftest import REFERENCE, Node

POD = [["IgnoreUnknown", "true"], ["K8S_POD_NAMESPACE", "telco"], ["K8S_POD_NAME", "p"], ["K8S_POD_UID", "u"]]
Config = dict[str, Any]


@dataclass
class Predecessor:
    """What attaches a pod in Multus' place, before us."""

    node: Node
    reference: Callable[[str], str]
    container_id: str = "sandbox"

    @property
    def directory(self) -> Path:
        """`cniDir`, which Multus has in common with us."""
        return self.node.root / "state"

    @property
    def files(self) -> list[str]:
        """What is recorded."""
        found = (each for each in self.directory.rglob("*") if each.is_file() and "ledger" not in each.parts)
        return sorted(str(each.relative_to(self.directory)) for each in found)

    def attach(self, *networks: Config, **requested: str) -> None:
        """All of them as one pod's; the interface names of networks may be requested."""
        self.write(*networks, **requested)
        for index, config in enumerate(networks):
            self.add(config, requested.get(config["name"]) or (f"net{index}" if index else "eth0"))

    def write(self, *networks: Config, **requested: str) -> None:
        """What Multus records before it attaches the first one."""
        self.directory.mkdir(exist_ok=True)
        written = [
            {"Name": each["name"], "ifnameRequest": requested.get(each["name"], ""), "Bytes": encoded(each)}
            for each in networks
        ]
        (self.directory / self.container_id).write_text(json.dumps(written))

    def add(self, config: Config, interface: str, **offered: Any) -> None:
        """One attachment, and what libcni records of it."""
        result: Config | None = None
        for plugin in config.get("plugins") or [config]:
            result = self._run(config, plugin, interface, offered, result)
        made = {"kind": "cniCacheV1", "containerId": self.container_id, "config": encoded(config)}
        made |= {"ifName": interface, "networkName": config["name"], "netns": self.node.pod.path}
        made |= {"cniArgs": [*POD, *POD[1:]], "capabilityArgs": offered, "result": result}
        path = self.directory / "results" / f"{config['name']}-{self.container_id}-{interface}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made))

    def _run(
        self, config: Config, plugin: Config, interface: str, offered: Config, previous: Config | None
    ) -> Config:
        given = {**plugin, "name": config["name"], "cniVersion": config["cniVersion"]}
        given |= {"prevResult": previous} if previous else {}
        declared = {key: offered[key] for key in plugin.get("capabilities", {}) if key in offered}
        given |= {"runtimeConfig": declared} if declared else {}
        variables = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.node.pod.path,
            "CNI_IFNAME": interface,
            "CNI_ARGS": ";".join("=".join(each) for each in POD),
            "CNI_PATH": ":".join((str(self.node.root / "bin"), *REFERENCE)),
        }
        own = self.node.root / "bin" / plugin["type"]
        done = subprocess.run(
            [str(own) if own.exists() else self.reference(plugin["type"])],
            input=json.dumps(given),
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        assert 0 == done.returncode, done.stdout
        found: Config = json.loads(done.stdout)
        return found


def encoded(config: Config) -> str:
    """Bytes, as Go writes them into JSON."""
    return base64.b64encode(json.dumps(config).encode()).decode()
