"""A real container runtime with everything of its own below one directory: containerd, with runc."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cri_api.v1 import api_pb2, api_pb2_grpc

from meta_cni import standalone
from meta_cni.linux import netns
from tests.netns.daemons import WAIT_S, Daemon, until

IMAGE = "localhost/pause:test"
"""It has nothing but busybox, which sleeps."""
CONFIGURATION = """
version = 2
root = "{root}/containerd/root"
state = "{root}/containerd/state"
disabled_plugins = [{disabled}]
oom_score = 0
[grpc]
  address = "{root}/c.sock"
[ttrpc]
  address = "{root}/c.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/bin"
    conf_dir = "{root}/net.d"
    max_conf_num = 1
"""
DISABLED = (
    *(f"io.containerd.snapshotter.v1.{each}" for each in ("btrfs", "zfs", "devmapper", "aufs", "overlayfs")),
    "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp",
)


def image(path: Path) -> None:
    """An OCI archive with nothing but busybox, which sleeps."""
    layer = _tar({"bin/busybox": Path(str(shutil.which("busybox"))).read_bytes()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "3600"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = {"config": json.dumps(config).encode(), "layer": layer}
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "config": _described(blobs["config"], f"{kind}.config.v1+json"),
        "layers": [_described(layer, f"{kind}.layer.v1.tar")],
    }
    blobs["manifest"] = json.dumps(manifest).encode()
    about = {**_described(blobs["manifest"], f"{kind}.manifest.v1+json")}
    about["annotations"] = {"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": "test"}
    files = {f"blobs/sha256/{_digest(each).removeprefix('sha256:')}": each for each in blobs.values()}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [about]}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    path.write_bytes(_tar(files))


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content), 0o755
            archive.addfile(about, io.BytesIO(content))
    return packed.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _described(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def require(*more: str) -> None:
    """Skip by the name of what is not here."""
    for name in ("containerd", "runc", "busybox", *more):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"no {name}")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("containerd needs root")


@contextmanager
def private_directories(*directories: str) -> Iterator[None]:
    """Empty ones over those of the machine: some are written to wherever a program's root is."""
    with ExitStack() as stack:
        for each in directories:
            netns.mount_empty(each)
            stack.callback(subprocess.run, ["umount", "-l", each], check=True)
        yield


class Containerd:
    """The process, and the kubelet's side of its socket."""

    def __init__(self, root: Path) -> None:
        """Plugins are below `root`/bin, their configurations in `root`/net.d."""
        self.root = root
        for name in ("bin", "net.d", "log"):
            (root / name).mkdir()
        disabled = ", ".join(f'"{each}"' for each in DISABLED)
        text = CONFIGURATION.format(root=root, image=IMAGE, disabled=disabled)
        (root / "config.toml").write_text(text)
        self.socket = root / "c.sock"
        self.log = root / "containerd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")
        self.cri = api_pb2_grpc.RuntimeServiceStub(self.channel)

    def start(self, **variables: str) -> None:
        """Until it serves, and has the image; `variables` are those of its plugins, too."""
        image(self.root / "pause.tar")
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **variables}
        with self.log.open("wb") as log:
            command = ["containerd", "-c", self.root / "config.toml"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(lambda: self.ctr("version").returncode == 0)
        archive = str(self.root / "pause.tar")
        imported = self.ctr("-n", "k8s.io", "images", "import", "--snapshotter", "native", archive)
        assert 0 == imported.returncode, imported.stderr

    def ctr(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """containerd's own command line."""
        return subprocess.run(["ctr", "-a", self.socket, *arguments], capture_output=True)

    def sandboxes(self) -> list[Any]:
        """All that are there."""
        return list(self.cri.ListPodSandbox(api_pb2.ListPodSandboxRequest(), timeout=WAIT_S).items)

    def running(self) -> list[str]:
        """The names of containers that run."""
        every = self.cri.ListContainers(api_pb2.ListContainersRequest(), timeout=WAIT_S).containers
        return sorted(each.metadata.name for each in every if each.state == api_pb2.CONTAINER_RUNNING)

    def remove(self, sandbox: str) -> None:
        """As the kubelet does: two DELs, the second without a namespace."""
        self.cri.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox), timeout=WAIT_S)
        self.cri.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox), timeout=WAIT_S)

    def close(self) -> None:
        """Whatever happened."""
        if self.process is not None:
            for each in self.ctr("-n", "k8s.io", "tasks", "ls", "-q").stdout.split():
                self.ctr("-n", "k8s.io", "tasks", "kill", "-s", "KILL", each.decode())
            self.process.terminate()
            self.process.wait(WAIT_S)
        self.channel.close()


class Runtime(Containerd):
    """Our daemon behind our shim as its only plugin."""

    def __init__(self, root: Path, kubeconfig: Path) -> None:
        super().__init__(root)
        primary = {
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "plugins": [self.bridge("cbr0", 244, isGateway=True)],
        }
        (root / "net.d" / "10-cbr0.conflist").write_text(json.dumps(primary))
        options = {
            "cniConfigDir": str(root / "net.d"),
            "binDir": str(root / "bin"),
            "cniDir": str(root / "state"),
            "kubeconfig": str(kubeconfig),
        }
        (root / "daemon-config.json").write_text(json.dumps(options))
        self.daemon = Daemon(root, "--config", str(root / "daemon-config.json"))
        shutil.copy(self.daemon.shim[0], root / "bin" / "meta-cni")
        standalone.install(root / "bin")
        shutil.copy(root / "bin" / "meta-loopback", root / "bin" / "loopback")  # containerd's own wish

    def bridge(self, name: str, number: int, **more: Any) -> dict[str, Any]:
        """A built-in plugin, with addresses in the test's directory."""
        ranges = [[{"subnet": f"10.{number}.0.0/24"}]]
        ipam = {"type": "host-local", "dataDir": str(self.root / "ipam"), "ranges": ranges}
        return {"type": "bridge", "bridge": name, "ipam": ipam, **more}

    def start(self, **variables: str) -> None:
        """The daemon, and containerd when there is a configuration for it."""
        self.daemon.start()
        until((self.root / "net.d" / "00-meta-cni.conflist").exists)
        places = {"META_CNI_SOCKET": str(self.daemon.socket), "META_CNI_SPOOL": str(self.daemon.spool)}
        super().start(**places, **variables)

    def sandbox(self, name: str, uid: str) -> Any:
        """As the kubelet describes one."""
        return api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name=name, uid=uid, namespace="telco", attempt=0),
            hostname=name,
            log_directory=str(self.root / "log"),
            linux=api_pb2.LinuxPodSandboxConfig(),
        )

    def run(self, name: str, uid: str) -> str:
        """A sandbox with its network; its id."""
        wanted = api_pb2.RunPodSandboxRequest(config=self.sandbox(name, uid))
        return str(self.cri.RunPodSandbox(wanted, timeout=WAIT_S).pod_sandbox_id)

    def status(self, sandbox: str) -> Any:
        """What the kubelet would know of it."""
        asked = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        return self.cri.PodSandboxStatus(asked, timeout=WAIT_S)

    def close(self) -> None:
        """Whatever happened."""
        super().close()
        self.daemon.close()
