"""A real container runtime runs a pod's sandbox by our shim and daemon, with an API server: containerd."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cri_api.v1 import api_pb2, api_pb2_grpc

from meta_cni import standalone
from meta_cni.k8s.store import Kind
from meta_cni.linux import netns
from meta_cni.linux.netlink import Socket
from tests.k8s.stand_in import StandIn
from tests.netns.daemons import Daemon, until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
IMAGE = "localhost/pause:test"
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


class Runtime:
    """containerd with everything of its own below the test's directory, us as its only plugin."""

    def __init__(self, root: Path, stand_in: StandIn) -> None:
        self.root = root
        self.stand_in = stand_in
        for name in ("bin", "net.d", "log"):
            (root / name).mkdir()
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
            "kubeconfig": str(stand_in.write_kubeconfig(root / "kubeconfig")),
        }
        (root / "daemon-config.json").write_text(json.dumps(options))
        self.daemon = Daemon(root, "--config", str(root / "daemon-config.json"))
        shutil.copy(self.daemon.shim[0], root / "bin" / "meta-cni")
        standalone.install(root / "bin")
        shutil.copy(root / "bin" / "meta-loopback", root / "bin" / "loopback")  # containerd's own wish
        disabled = ", ".join(f'"{each}"' for each in DISABLED)
        text = CONFIGURATION.format(root=root, image=IMAGE, disabled=disabled)
        (root / "config.toml").write_text(text)
        self.log = root / "containerd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.channel = grpc.insecure_channel(f"unix:{root}/c.sock")
        self.cri = api_pb2_grpc.RuntimeServiceStub(self.channel)

    def bridge(self, name: str, number: int, **more: Any) -> dict[str, Any]:
        """A built-in plugin, with addresses in the test's directory."""
        ranges = [[{"subnet": f"10.{number}.0.0/24"}]]
        ipam = {"type": "host-local", "dataDir": str(self.root / "ipam"), "ranges": ranges}
        return {"type": "bridge", "bridge": name, "ipam": ipam, **more}

    def start(self) -> None:
        """The daemon, and containerd when there is a configuration for it."""
        self.daemon.start()
        until((self.root / "net.d" / "00-meta-cni.conflist").exists)
        image(self.root / "pause.tar")
        environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "META_CNI_SOCKET": str(self.daemon.socket),
            "META_CNI_SPOOL": str(self.daemon.spool),
        }
        with self.log.open("wb") as log:
            command = ["containerd", "-c", self.root / "config.toml"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(lambda: self.ctr("version").returncode == 0)
        imported = self.ctr(
            "-n", "k8s.io", "images", "import", "--snapshotter", "native", str(self.root / "pause.tar")
        )
        assert 0 == imported.returncode, imported.stderr

    def ctr(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """containerd's own command line."""
        return subprocess.run(["ctr", "-a", f"{self.root}/c.sock", *arguments], capture_output=True)

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
        return str(self.cri.RunPodSandbox(wanted, timeout=60).pod_sandbox_id)

    def remove(self, sandbox: str) -> None:
        """As the kubelet does: two DELs, the second without a namespace."""
        self.cri.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox), timeout=60)
        self.cri.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox), timeout=60)

    def status(self, sandbox: str) -> Any:
        """What the kubelet would know of it."""
        asked = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        return self.cri.PodSandboxStatus(asked, timeout=60)

    def close(self) -> None:
        """Whatever happened."""
        if self.process is not None:
            for each in self.ctr("-n", "k8s.io", "tasks", "ls", "-q").stdout.split():
                self.ctr("-n", "k8s.io", "tasks", "kill", "-s", "KILL", each.decode())
            self.process.terminate()
            self.process.wait(60)
        self.channel.close()
        self.daemon.close()


@pytest.fixture
def runtime(tmp_path: Path, host: Socket) -> Iterator[Runtime]:
    for name in ("containerd", "runc", "busybox", "cc"):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"no {name}")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("containerd needs root")
    netns.mount_empty("/var/lib")  # containerd keeps results of plugins there, wherever its root is
    with StandIn() as stand_in:
        made = Runtime(tmp_path, stand_in)
        try:
            made.start()
            yield made
        finally:
            made.close()
            subprocess.run(["umount", "-l", "/var/lib"], check=True)


def test_containerd_gives_a_pod_its_networks(runtime: Runtime):
    """From the kubelet's call to the kernel, and back when the pod is removed."""
    stand_in = runtime.stand_in
    config = {"cniVersion": "1.0.0", **runtime.bridge("br1", 1)}
    network = {"metadata": {"name": "media", "namespace": "telco"}}
    stand_in.put(NAD, {**network, "spec": {"config": json.dumps(config)}})
    annotations = {"k8s.v1.cni.cncf.io/networks": "media"}
    metadata = {"name": "p", "namespace": "telco", "annotations": annotations}
    uid = stand_in.put(Kind.POD, {"metadata": metadata})["metadata"]["uid"]

    sandbox = runtime.run("p", uid)
    status = runtime.status(sandbox)
    known = stand_in.objects.known
    told = known["pods", "telco", "p"]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
    until(lambda: sum(key[0] == "events" for key in known) == 2)
    ledger = list((runtime.root / "state" / "ledger").glob("[0-9a-f]*"))
    runtime.remove(sandbox)

    assert "10.244.0.2" == status.status.network.ip
    found = [(each["interface"], each["name"], each["ips"]) for each in json.loads(told)]
    assert [("eth0", "cbr0", ["10.244.0.2/24"]), ("net1", "telco/media", ["10.1.0.2/24"])] == found
    assert [sandbox] == [each.name for each in ledger]
    assert [] == list((runtime.root / "state" / "ledger").glob("[0-9a-f]*"))
    left = [each for each in (runtime.root / "ipam").rglob("10.*")]
    assert [] == left


def test_containerd_is_told_why_and_leaves_nothing(runtime: Runtime):
    """The kubelet shows this text as FailedCreatePodSandBox; ours is beside it, with the hint."""
    metadata = {"name": "p", "namespace": "telco", "annotations": {"k8s.v1.cni.cncf.io/networks": "gone"}}
    uid = runtime.stand_in.put(Kind.POD, {"metadata": metadata})["metadata"]["uid"]

    with pytest.raises(grpc.RpcError) as failed:
        runtime.run("p", uid)

    assert "no NetworkAttachmentDefinition gone in namespace telco" in failed.value.details()
    known = runtime.stand_in.objects.known
    until(lambda: any(key[0] == "events" for key in known))
    assert ["NoNetworkFound"] == [each["reason"] for key, each in known.items() if key[0] == "events"]
    assert [] == list((runtime.root / "state" / "ledger").glob("[0-9a-f]*"))
    assert not list((runtime.root / "ipam").rglob("10.*"))
