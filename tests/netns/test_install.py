"""`meta-cni install --plugins`: the built-in delegates where a runtime looks for plugins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import delegates
from meta_cni import standalone
from meta_cni.cli import command_line
from meta_cni.cni.errors import BadConfig, KernelError
from tests.netns.conftest import PodNetns


def call(path: Path, command: str, pod: PodNetns, config: dict[str, object]) -> dict[str, object]:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": pod.path}
    environment |= {"CNI_IFNAME": "eth0", "CNI_PATH": str(path.parent), "PATH": os.environ["PATH"]}
    done = subprocess.run([path], input=json.dumps(config), env=environment, capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout
    printed: dict[str, object] = json.loads(done.stdout) if done.stdout else {}
    return printed


def test_every_built_in_is_installed_as_a_plugin_that_runs(tmp_path: Path, pod: PodNetns, capsys):
    """Any runtime, any list; twice is as good as once."""
    assert [0, 0] == [command_line(["install", "--plugins", str(tmp_path / "bin")]) for _ in range(2)]

    installed = sorted((tmp_path / "bin").iterdir())
    assert [f"meta-{each}" for each in sorted(delegates.BUILTIN)] == [each.name for each in installed]
    assert [str(each) for each in installed] == capsys.readouterr().out.splitlines()[: len(installed)]
    for each in installed:
        answer = call(each, "VERSION", pod, {"cniVersion": "1.1.0"})
        assert "1.1.0" in answer["supportedVersions"]  # type: ignore[operator]


def test_an_installed_plugin_attaches_and_detaches(tmp_path: Path, pod: PodNetns, host: object):
    """The one that everybody has."""
    standalone.install(tmp_path)
    config: dict[str, object] = {"cniVersion": "1.1.0", "name": "n", "type": "meta-bridge", "bridge": "brm"}

    answer = call(tmp_path / "meta-bridge", "ADD", pod, config)
    links = pod.links()
    call(tmp_path / "meta-bridge", "DEL", pod, config)

    assert ["brm", "eth0"] == [answer["interfaces"][n]["name"] for n in (0, 2)]  # type: ignore[index]
    assert (["eth0"], []) == (links, pod.links())


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path):
    """A file has its place."""
    (tmp_path / "bin").write_text("")

    with pytest.raises(KernelError, match=f"write plugins to {tmp_path}/bin: File exists"):
        standalone.install(tmp_path / "bin")


def test_an_interpreter_the_kernel_would_not_run_is_refused(tmp_path: Path, mocker):
    """A script's first line has no quotes."""
    mocker.patch.object(sys, "executable", "/opt/my python/bin/python3")

    with pytest.raises(BadConfig, match="expected a path without white space"):
        standalone.install(tmp_path / "bin")
    assert not list(tmp_path.rglob("meta-*"))
