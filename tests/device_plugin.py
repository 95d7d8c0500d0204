"""
A device plugin (v1beta1) whose devices are but names, in a process of its own, as tests.kubelet is.

It registers with the kubelet that listens in a directory, lists its devices there, and notes what
every container was allocated, in the order in which it was asked:

    with device_plugin.registered(directory, "example.com/sriov", ["vf0", "vf1"]) as plugin:
        plugin.allocations()
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import messages

ROOT = Path(__file__).parents[1]
PACKAGE = "v1beta1"
KUBELET = "kubelet.sock"
MESSAGES: Mapping[str, messages.Fields] = {
    "Empty": [],
    "DevicePluginOptions": [],
    "RegisterRequest": [("version", 1, "text"), ("endpoint", 2, "text"), ("resource_name", 3, "text")],
    "ListAndWatchResponse": [("devices", 1, "Device*")],
    "Device": [("ID", 1, "text"), ("health", 2, "text"), ("topology", 3, "TopologyInfo")],
    "TopologyInfo": [("nodes", 1, "NUMANode*")],
    "NUMANode": [("ID", 1, "integer")],
    "AllocateRequest": [("container_requests", 1, "ContainerAllocateRequest*")],
    "ContainerAllocateRequest": [("devices_ids", 1, "text*")],
    "AllocateResponse": [("container_responses", 1, "ContainerAllocateResponse*")],
    "ContainerAllocateResponse": [],
}
"""Message -> its fields, as in k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto, as far as we go."""


@dataclass(frozen=True, slots=True)
class DevicePlugin:
    """A test's hold on the process."""

    notes: Path

    def allocations(self) -> list[list[str]]:
        """The devices of one container after the other."""
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


@contextmanager
def registered(directory: Path, resource: str, devices: Sequence[str]) -> Iterator[DevicePlugin]:
    """A plugin with these devices, registered with the kubelet that listens in a directory."""
    notes = directory / f"{resource.replace('/', '_')}.notes"
    notes.write_text("")
    command = [sys.executable, "-m", "tests.device_plugin", str(directory), str(notes), resource, *devices]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"registered\n"
            yield DevicePlugin(notes)
        finally:
            process.kill()


def _served(devices: Sequence[str], notes: Path, known: Mapping[str, Any]) -> Any:
    """The handlers; the first device is near a NUMA node, the others are near none."""
    import grpc

    def listed(request: bytes, context: Any) -> Iterator[bytes]:
        near = {"topology": {"nodes": [{"ID": 0}]}}
        told = [
            {"ID": each, "health": "Healthy", **(near if not n else {})} for n, each in enumerate(devices)
        ]
        yield known["ListAndWatchResponse"](devices=told).SerializeToString()
        over = threading.Event()
        context.add_callback(over.set)
        over.wait()

    def allocate(request: bytes, context: Any) -> bytes:
        asked = known["AllocateRequest"].FromString(request).container_requests
        with notes.open("a") as file:
            file.writelines(json.dumps(list(each.devices_ids)) + "\n" for each in asked)
        answer: bytes = known["AllocateResponse"](container_responses=[{} for _ in asked]).SerializeToString()
        return answer

    def optional(request: bytes, context: Any) -> bytes:
        return b""  # none of what may be asked for

    handlers = {
        "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(optional),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(listed),
        "Allocate": grpc.unary_unary_rpc_method_handler(allocate),
    }
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.DevicePlugin", handlers)


def _register(kubelet: Path, about: bytes) -> None:
    """The kubelet dials back for ten seconds; on a busy machine that may be too short, and is tried again."""
    import grpc

    with grpc.insecure_channel(f"unix:{kubelet}") as channel:
        for is_last in (False, False, True):
            try:
                channel.unary_unary(f"/{PACKAGE}.Registration/Register")(about, 60, wait_for_ready=True)
                return
            except grpc.RpcError:
                if is_last:
                    raise


def main(directory: Path, notes: Path, resource: str, devices: Sequence[str]) -> None:
    """Serve until killed."""
    import grpc

    known = messages.classes(PACKAGE, MESSAGES)
    own = directory / f"{notes.stem}.sock"
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((_served(devices, notes, known),))
    assert server.add_insecure_port(f"unix:{own}")
    server.start()
    about = known["RegisterRequest"](version=PACKAGE, endpoint=own.name, resource_name=resource)
    _register(directory / KUBELET, about.SerializeToString())
    print("registered", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
