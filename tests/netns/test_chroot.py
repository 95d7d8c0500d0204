"""Executed plugins of a daemon in a container: / is the node's for them, and the container's for us."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_cni import compose, invoke
from meta_cni.cni.errors import DelegateFailed
from tests.netns.conftest import Node, PodNetns

TELLS = """#!/bin/sh
cat > /dev/null
echo "$CNI_COMMAND in $(pwd)" >> /diary
echo '{"cniVersion": "1.1.0"}'
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A node's file system: its programs, and a plugin that we do not have."""
    directory = tmp_path / "hostroot"
    for name in ("usr", "proc", "opt/cni/bin"):
        (directory / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path(f"/{name}").is_symlink():
            (directory / name).symlink_to(f"usr/{name}")
    (directory / "dev").mkdir()
    (directory / "dev" / "null").touch()
    mounts = {"/usr": "usr", "/dev/null": "dev/null"}
    for source, target in mounts.items():
        subprocess.run(["mount", "--bind", source, directory / target], check=True)
    yield directory
    for target in mounts.values():
        subprocess.run(["umount", "-l", directory / target], check=True)


def plugin(directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(TELLS)
    (directory / name).chmod(0o755)


def test_a_plugin_runs_below_the_root_and_we_do_not(root: Path):
    """Its files, its libraries and its programs are the node's."""
    plugin(root / "opt/cni/bin", "tells")
    before = os.stat("/proc/self/root/")

    printed = invoke.run(
        "/opt/cni/bin/tells", b"{}", {"CNI_COMMAND": "ADD", "PATH": "/bin"}, 10, "net", str(root)
    )

    assert {"cniVersion": "1.1.0"} == json.loads(printed)
    assert "ADD in /\n" == (root / "diary").read_text()
    assert os.path.samestat(before, os.stat("/proc/self/root/"))
    assert not Path("/diary").exists()


def test_a_plugin_that_is_not_below_the_root_is_named(root: Path):
    """The image's own plugin directory is no answer."""
    with pytest.raises(DelegateFailed, match="execute /opt/cni/bin/none: No such file or directory"):
        invoke.run("/opt/cni/bin/none", b"{}", {}, 10, "net", str(root))


def test_a_root_that_has_gone_is_named(tmp_path: Path):
    """An unmounted /hostroot."""
    with pytest.raises(DelegateFailed, match="execute /bin/true: No such file or directory"):
        invoke.run("/bin/true", b"{}", {}, 10, "net", str(tmp_path / "gone"))


def test_every_verb_of_an_attachment_goes_there(root: Path, node: Node, pod: PodNetns):
    """The daemon's own root, not the configuration, says so."""
    node.settings = {"delegates": [{"cniVersion": "1.1.0", "name": "n", "type": "tells"}]}
    plugin(node.root / "bin", "tells")  # it is looked for where both have it, as the DaemonSet mounts it
    plugin(root / str(node.root / "bin").lstrip("/"), "tells")
    memory = compose.Memory(is_remembering=True, root=str(root))
    for command in ("ADD", "CHECK", "STATUS", "DEL"):
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "sandbox",
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(node.root / "bin"),
            "PATH": "/bin",
        }

        printed, code = compose.serve(variables, json.dumps(node.configuration()).encode(), memory)

        assert 0 == code, printed
    expected = [f"{each} in /" for each in ("ADD", "CHECK", "STATUS", "DEL")]
    assert expected == (root / "diary").read_text().splitlines()
