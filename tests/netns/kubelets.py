"""A real kubelet on the private node, with containerd as its runtime."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s import grpc, kubelet
from tests import device_plugin
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.netns.containerd import Containerd
from tests.netns.daemons import until

NODE = "node"
CONFIGURATION = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": "127.0.0.1",
    "port": 10250,
    "healthzPort": 0,
    "authentication": {"webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failCgroupV1": False,
    "failSwapOn": False,
    "makeIPTablesUtilChains": False,
    "localStorageCapacityIsolation": False,
    "evictionHard": {"memory.available": "1Mi"},
    "fileCheckFrequency": "1s",
    "syncFrequency": "1s",
}
"""For a node that may have neither cgroups of its own nor a disk that anybody knows."""
SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""Of the kernel, which it changes: the machine's, so it has copies of them."""
IN_PRIVATE = """\
for each in $SETTINGS; do mount --bind "$COPIES/$each" /proc/sys/$each || exit; done
exec "$@"
"""


class RealKubelet:
    """
    The process; its directory is that of every node, where it looks for plugins whatever it is told.

    So /var/lib and /var/log must be private.
    """

    def __init__(self, root: Path, runtime: Containerd, **gates: bool) -> None:
        """Static pods are those below `root`/manifests; `gates` are features."""
        try:
            self.program = assets.find(programs=("kubelet",)).kubelet
        except Missing as missing:
            pytest.skip(str(missing))
        self.directory = kubelet.DIRECTORY
        self.plugins = (self.directory / kubelet.CHECKPOINT).parent
        self.manifests = root / "manifests"
        self.manifests.mkdir()
        self.log = root / "kubelet.log"
        self.file = root / "kubelet.json"
        places = {
            "containerRuntimeEndpoint": f"unix://{runtime.socket}",
            "staticPodPath": str(self.manifests),
            "volumePluginDir": str(root / "volume-plugins"),
        }
        self.file.write_text(json.dumps({**CONFIGURATION, **places, "featureGates": gates}))
        self.copies = root / "settings"
        for each in SETTINGS:
            (self.copies / each).parent.mkdir(parents=True, exist_ok=True)
            (self.copies / each).write_text(Path("/proc/sys", each).read_text())
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Until plugins can register; a test skips where it ends before that, for want of something."""
        private = ["unshare", "--mount", "sh", "-c", IN_PRIVATE, "sh"]
        command = [*private, self.program, f"--config={self.file}", f"--hostname-override={NODE}", *options]
        environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SETTINGS": " ".join(SETTINGS),
            "COPIES": str(self.copies),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(self._is_serving)

    def allocatable(self) -> bytes:
        """What it has to hand out, as it tells it: names of resources and of devices among it."""
        path = self.directory / kubelet.SOCKET
        return grpc.call(path, f"{kubelet.SERVICE}/GetAllocatableResources", b"", 10, kubelet.LIMIT)

    def kill(self) -> None:
        """As a crash does; what it has started goes on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _is_serving(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.skip(f"no kubelet that runs here: {self.log.read_text().splitlines()[-1]}")
        if not (self.plugins / device_plugin.KUBELET).is_socket():
            return False
        try:
            self.allocatable()
        except TryAgainLater:
            return False
        return True
