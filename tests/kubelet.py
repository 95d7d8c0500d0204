"""
A kubelet that serves PodResources v1 by grpcio and Google's own protobuf, in a process of its own.

What it answers stands in a file that a test writes; it is read for each call. A process, because
grpcio starts threads that it never ends, and a test that enters namespaces must have none.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meta_cni.k8s.kubelet import CHECKPOINT, SOCKET
from tests import messages

ROOT = Path(__file__).parents[1]
ANSWERS = "answers.json"
START_S = 60.0
MESSAGES = {
    "ListPodResourcesRequest": [],
    "ListPodResourcesResponse": [("pod_resources", 1, "PodResources*")],
    "GetPodResourcesRequest": [("pod_name", 1, "text"), ("pod_namespace", 2, "text")],
    "GetPodResourcesResponse": [("pod_resources", 1, "PodResources")],
    "PodResources": [("name", 1, "text"), ("namespace", 2, "text"), ("containers", 3, "ContainerResources*")],
    "ContainerResources": [
        ("name", 1, "text"),
        ("devices", 2, "ContainerDevices*"),
        ("cpu_ids", 3, "integer*"),
    ],
    "ContainerDevices": [
        ("resource_name", 1, "text"),
        ("device_ids", 2, "text*"),
        ("topology", 3, "TopologyInfo"),
    ],
    "TopologyInfo": [("nodes", 1, "NUMANode*")],
    "NUMANode": [("ID", 1, "integer")],
}
"""Message -> its fields, as in k8s.io/kubelet/pkg/apis/podresources/v1/api.proto."""


@dataclass(frozen=True, slots=True)
class FakeKubelet:
    """A test's hold on the process."""

    directory: Path

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / SOCKET

    @property
    def checkpoint(self) -> Path:
        """Where its device manager would keep its file."""
        return self.directory / CHECKPOINT

    def answer(self, *pods: dict[str, Any], **more: Any) -> None:
        """
        What it is to say from now on.

        `get`: Get is served, or "disabled" or "absent"; `delay_s`, `padding` in bytes;
        `statuses`: of the next calls, before it answers.
        """
        told = json.dumps({"pods": pods, "get": "served", "statuses": [], "padding": 0, **more})
        temporary = self.directory / f".{ANSWERS}"
        temporary.write_text(told)
        temporary.replace(self.directory / ANSWERS)
        (self.directory / "calls").write_text("")

    def calls(self) -> list[str]:
        """The methods that were called since."""
        return (self.directory / "calls").read_text().split()


def pod(
    *containers: tuple[str, list[tuple[str, list[str]]]], name: str = "p", namespace: str = "telco"
) -> dict[str, Any]:
    """A pod with containers (name, [(resource, device ids)])."""
    return {
        "name": name,
        "namespace": namespace,
        "containers": [
            {"name": each, "devices": [{"resource_name": n, "device_ids": ids} for n, ids in devices]}
            for each, devices in containers
        ],
    }


@contextmanager
def serving(directory: Path) -> Iterator[FakeKubelet]:
    """A kubelet with this directory, which is made; its path must be short."""
    for each in (SOCKET, CHECKPOINT):
        (directory / each).parent.mkdir(parents=True, exist_ok=True)
    made = FakeKubelet(directory)
    made.answer()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kubelet", str(directory)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        yield made
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _served(directory: Path, known: Mapping[str, Any]) -> Any:
    """The handlers."""
    import grpc

    def begin(method: str, context: Any) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((directory / ANSWERS).read_text())
        done = (directory / "calls").read_text().split()
        (directory / "calls").write_text(" ".join([*done, method]))
        time.sleep(told.get("delay_s", 0))
        if len(done) < len(told["statuses"]):
            code = next(each for each in grpc.StatusCode if each.value[0] == told["statuses"][len(done)])
            context.abort(code, "as the test wants it")
        return told

    def listed(request: bytes, context: Any) -> bytes:
        told = begin("List", context)
        filler = {"name": "x" * told["padding"], "namespace": "elsewhere"}
        pods = [*told["pods"], filler] if told["padding"] else told["pods"]
        answer: bytes = known["ListPodResourcesResponse"](pod_resources=pods).SerializeToString()
        return answer

    def got(request: bytes, context: Any) -> bytes:
        told = begin("Get", context)
        if told["get"] == "disabled":
            context.abort(grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled")
        if told["get"] == "absent":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method Get")
        asked = known["GetPodResourcesRequest"].FromString(request)
        for each in told["pods"]:
            if (each["name"], each["namespace"]) == (asked.pod_name, asked.pod_namespace):
                answer: bytes = known["GetPodResourcesResponse"](pod_resources=each).SerializeToString()
                return answer
        context.abort(grpc.StatusCode.UNKNOWN, f"pod {asked.pod_name} not found")
        raise AssertionError

    handlers = {"List": listed, "Get": got}
    return grpc.method_handlers_generic_handler(
        "v1.PodResourcesLister",
        {name: grpc.unary_unary_rpc_method_handler(each) for name, each in handlers.items()},
    )


def main(directory: Path) -> None:
    """Serve until killed."""
    import grpc

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((_served(directory, messages.classes("v1", MESSAGES)),))
    assert server.add_insecure_port(f"unix:{directory / SOCKET}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
