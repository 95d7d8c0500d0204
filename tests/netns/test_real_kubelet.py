"""
What the real kubelet says of a pod's devices, by its socket and by its file.

Everywhere else its gRPC is served by the tests' own server. Here it has a device plugin, a static pod
and containerd, and no API server; what it allocated is told by the plugin, which it asked for each.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.k8s import checkpoint
from meta_cni.k8s.allocation import Allocated, Allocation
from meta_cni.k8s.kubelet import CHECKPOINT, Kubelet
from meta_cni.linux.netlink import Socket
from tests import device_plugin
from tests.device_plugin import DevicePlugin
from tests.netns import containerd
from tests.netns.containerd import IMAGE, Containerd
from tests.netns.daemons import until
from tests.netns.kubelets import NODE, SETTINGS, RealKubelet

pytestmark = pytest.mark.slow
RESOURCE = "example.com/sriov"
DEVICES = ["0000:03:02.0", "0000:03:02.1", "0000:03:02.2", "0000:03:02.3"]
CONTAINERS = {"app": 1, "sidecar": 3}
"""How many devices each asks for."""
AGAIN = 20
"""The kubelet tells the devices of a container in any order."""


@pytest.fixture
def runtime(tmp_path: Path, host: Socket) -> Iterator[Containerd]:
    """A runtime that makes no networks."""
    containerd.require()
    with containerd.private_directories("/var/lib", "/var/log"):
        made = Containerd(tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def kubelet(tmp_path: Path, runtime: Containerd) -> Iterator[Callable[..., RealKubelet]]:
    """One with these features, which is started; it leaves the machine's kernel as it is."""
    made: list[RealKubelet] = []
    before = settings()

    def start(**gates: bool) -> RealKubelet:
        made.append(RealKubelet(tmp_path, runtime, **gates))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.kill()
    for sandbox in runtime.sandboxes():
        runtime.remove(sandbox.id)
    assert before == settings()


def settings() -> dict[str, str]:
    """Of the kernel, which a kubelet changes where it can."""
    return {each: Path("/proc/sys", each).read_text() for each in SETTINGS}


def pod() -> dict[str, Any]:
    """In the node's own network, so that nobody has to make one."""
    containers = [
        {"name": name, "image": IMAGE, "resources": {"limits": {RESOURCE: str(count)}}}
        for name, count in CONTAINERS.items()
    ]
    metadata = {"name": "p", "namespace": "telco"}
    spec = {"hostNetwork": True, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def admitted(kubelet: RealKubelet, runtime: Containerd, plugin: DevicePlugin) -> str:
    """Let it run the pod; its UID, as the runtime was told it."""
    until(lambda: all(each.encode() in kubelet.allocatable() for each in (RESOURCE, *DEVICES)))
    (kubelet.manifests / "p.json").write_text(json.dumps(pod()))
    until(lambda: runtime.running() == sorted(CONTAINERS))
    (sandbox,) = runtime.sandboxes()
    return str(sandbox.metadata.uid)


def devices_of(found: Allocation | tuple[Allocated, ...] | None) -> list[tuple[str, list[str]]]:
    """(container, its devices) in the order in which they are told."""
    assert found is not None
    told: dict[str, list[str]] = {}
    for each in found.devices if isinstance(found, Allocation) else found:
        assert RESOURCE == each.resource
        told.setdefault(each.container, []).append(each.device_id)
    return list(told.items())


@pytest.mark.parametrize("is_get_served", [True, False])
def test_what_the_kubelet_allocated_is_what_we_are_told(
    kubelet: Callable[..., RealKubelet], runtime: Containerd, is_get_served: bool
):
    """By Get, by List where that is switched off, and by the checkpoint once nobody listens."""
    started = kubelet(KubeletPodResourcesGet=is_get_served)
    client = Kubelet(started.directory)
    with device_plugin.registered(started.plugins, RESOURCE, DEVICES) as plugin:
        uid = admitted(started, runtime, plugin)
        told = client.allocation("telco", f"p-{NODE}", uid)
        again = [client.allocation("telco", f"p-{NODE}", uid) for _ in range(AGAIN)]
        allocated = list(zip(CONTAINERS, map(sorted, plugin.allocations()), strict=True))
    started.kill()
    kept = client.allocation("telco", f"p-{NODE}", uid)

    assert [1, 3] == [len(ids) for _, ids in allocated]
    assert (allocated, True, f"kubelet {client.socket}") == (devices_of(told), told.is_known, told.source)
    assert [told] * AGAIN == again
    assert allocated == devices_of(checkpoint.read(started.directory / CHECKPOINT, uid))
    assert (allocated, True, f"checkpoint {client.checkpoint}") == (
        devices_of(kept),
        kept.is_known,
        kept.source,
    )
