"""A real container runtime calls us, with nothing but files: podman and its CNI backend."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.netns import containerd
from tests.netns.conftest import Node

Podman = Callable[..., str]
pytestmark = pytest.mark.slow
CONTAINERS = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["{beside}"]
network_config_dir = "{root}/net.d"
default_network = "telco"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "{root}/tmp"
[containers]
default_sysctls = []
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
NETAVARK_ALONE = 5
"""The first podman that is built without it."""
STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "{root}/graph"\nrunroot = "{root}/run"\n'


@pytest.fixture
def podman(node: Node) -> Iterator[Podman]:
    """Run podman with everything of its own below the test's directory, us as its only plugin."""
    for name in ("podman", "runc", "conmon", "busybox"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name}")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("podman's CNI backend needs root")
    version = subprocess.check_output(["podman", "--version"], text=True).split()[-1]
    if int(version.partition(".")[0]) >= NETAVARK_ALONE:
        pytest.skip("no podman with a CNI backend")
    for name in ("net.d", "tmp", "rootfs/bin"):
        (node.root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), node.root / "rootfs" / "bin" / "busybox")
    configuration = {**node.configuration(), "cniVersion": "1.0.0"}
    plugins = {"cniVersion": "1.0.0", "name": "telco", "plugins": [configuration]}
    (node.root / "net.d" / "10-telco.conflist").write_text(json.dumps(plugins))
    beside = Path(sys.executable).parent
    (node.root / "containers.conf").write_text(CONTAINERS.format(root=node.root, beside=beside))
    (node.root / "storage.conf").write_text(STORAGE.format(root=node.root))
    variables = {
        "CONTAINERS_CONF": str(node.root / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(node.root / "storage.conf"),
    }

    def run(*arguments: str) -> str:
        # Into a file: conmon lives on, and would hold a pipe open.
        with open(node.root / "printed", "w+") as printed:
            command = ["podman", *arguments]
            done = subprocess.run(command, env={**os.environ, **variables}, stdout=printed, stderr=printed)
            printed.seek(0)
            text = printed.read()
        assert 0 == done.returncode, text
        return text

    with containerd.private_directories("/var/lib", "/dev/shm"):  # its cache of results, and its locks
        yield run
    subprocess.run(["umount", "-l", "/run/netns"], check=True)  # podman binds it upon itself


def test_podman_gives_a_container_the_networks_of_its_pod_file(node: Node, podman: Podman):
    """Networks are files in a directory, the runtime is podman; nothing is left when it stops."""
    node.nad("second", node.bridge("second", 9, cniVersion="1.0.0"))
    annotations = {"k8s.v1.cni.cncf.io/networks": "telco/second"}
    metadata = {"name": "x1", "namespace": "default", "annotations": annotations}
    node.write({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
    rootfs = str(node.root / "rootfs")
    podman(
        "run", "-d", "--name", "x1", "--network", "telco", "--rootfs", rootfs, "/bin/busybox", "sleep", "99"
    )

    printed = podman("exec", "x1", "/bin/busybox", "ip", "-o", "addr")
    podman("rm", "-f", "-t", "0", "x1")

    found = {tuple(line.split()[1:4:2]) for line in printed.splitlines()}
    assert {("eth0", "10.244.0.2/24"), ("net1", "10.9.0.2/24"), ("net1", "fd00:9::2/64")} <= found
    assert [] == node.pod.links()
    assert {"lo"} == node.traces()["host links"]
    assert [] == [str(path) for path in (node.root / "state" / "ledger").iterdir() if path.is_file()]
    assert {"lock", "last_reserved_ip.0", "last_reserved_ip.1"} == {
        path.name for path in (node.root / "ipam" / "second").iterdir()
    }
