"""What `kubectl apply -k` would send, and the containers in it."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
Object = dict[str, Any]


def rendered(directory: Path) -> list[Object]:
    """The objects of a kustomization; the test skips where there is nothing that reads it."""
    return list(yaml.safe_load_all(_text(directory)))


@cache
def _text(directory: Path) -> str:
    built, kubectl = TOP / ".reference" / "bin" / "kustomize", shutil.which("kubectl")
    if not built.exists() and kubectl is None:
        pytest.skip("no kustomize")
    command = [built, "build"] if built.exists() else [kubectl, "kustomize"]
    done = subprocess.run([*command, directory], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def only(objects: list[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    return found


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the node in a container."""

    source: str
    """Of the node; empty for what is not of the node."""
    target: str
    is_read_only: bool
    is_propagated: bool


@dataclass(frozen=True, slots=True)
class Pod:
    """The DaemonSet's pod template, with the ConfigMaps that are there."""

    spec: Object
    data: dict[str, str]
    """The daemon's file as it is mounted, by name."""

    @property
    def install(self) -> Object:
        """The init container."""
        (container,) = self.spec["initContainers"]
        return dict(container)

    @property
    def daemon(self) -> Object:
        """The container."""
        (container,) = self.spec["containers"]
        return dict(container)

    @property
    def options(self) -> Object:
        """The daemon's file."""
        return dict(json.loads(self.data["daemon-config.json"]))

    def mounts(self, container: Object) -> list[Mount]:
        """A container's, in its order."""
        volumes = {each["name"]: each for each in self.spec["volumes"]}
        return [
            Mount(
                source=volumes[each["name"]].get("hostPath", {}).get("path", ""),
                target=each["mountPath"],
                is_read_only=each.get("readOnly", False),
                is_propagated=each.get("mountPropagation") == "HostToContainer",
            )
            for each in container.get("volumeMounts", ())
        ]


def pod_of(objects: list[Object], **more: dict[str, str]) -> Pod:
    """The pod of the DaemonSet; `more` are ConfigMaps of the cluster by name, as Multus' own."""
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    maps.update(more)
    spec = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    (config,) = (each for each in spec["volumes"] if "hostPath" not in each)
    sources = config["projected"]["sources"] if "projected" in config else [config]
    data: dict[str, str] = {}
    for each in sources:
        name = each["configMap"]["name"]
        if name in maps or not each["configMap"].get("optional"):
            data.update(maps[name])
    return Pod(spec, data)
