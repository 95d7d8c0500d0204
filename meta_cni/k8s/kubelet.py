"""
Which devices the kubelet handed to a pod: PodResources v1, else the device manager's checkpoint.

PodResources (k8s.io/kubelet/pkg/apis/podresources/v1) is gRPC on a unix socket. Get tells one pod
and is served from Kubernetes 1.34 on, before that behind a gate, whose refusal has no status of its
own; List tells every pod of the node, by name and without UID. Containers come in the pod's order; the
devices of one come out of a map, in another order each time, and are put in that of their names. The
checkpoint counts where nobody listens on the socket; a kubelet that listens and does not answer is
waited for.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s import checkpoint, grpc, protobuf
from meta_cni.k8s.allocation import Allocated, Allocation, without_repeats

DIRECTORY = Path("/var/lib/kubelet")
SOCKET = "pod-resources/kubelet.sock"
CHECKPOINT = "device-plugins/kubelet_internal_checkpoint"
SERVICE = "/v1.PodResourcesLister"
LIMIT = 16 << 20  # bytes of an answer, as Multus takes
PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""The kubelet takes 100 calls a second from everybody together; others are told to come again."""


class Kubelet:
    """The kubelet of this node; safe for threads."""

    def __init__(self, directory: Path = DIRECTORY, timeout_s: float = 10.0) -> None:
        self.socket = directory / SOCKET
        self.checkpoint = directory / CHECKPOINT
        self.timeout_s = timeout_s
        self.questions = 0
        """Pods that were asked for."""
        self.failures = 0
        """Those of them that the kubelet gave no answer for, whatever the checkpoint said."""
        self._lock = threading.Lock()
        self._is_get_served = True

    def allocation(self, namespace: str, name: str, uid: str) -> Allocation:
        """What a pod was given; raises TryAgainLater when the kubelet does not answer as it should."""
        with self._lock:
            self.questions += 1
        try:
            return self._asked(namespace, name)
        except TryAgainLater as error:
            with self._lock:
                self.failures += 1
            if not isinstance(error, grpc.NobodyListens):
                raise
            return self._kept(uid, error)

    def problem(self) -> str:
        """Why networks with devices cannot be attached, once one was asked for; empty when they can."""
        if not self.failures or self.socket.exists() or self.checkpoint.exists():
            return ""
        return f"find the kubelet's devices: expected {self.socket} or {self.checkpoint}"

    def _kept(self, uid: str, error: TryAgainLater) -> Allocation:
        """What the checkpoint says."""
        if not uid:
            return Allocation((), f"{error.message}, and the checkpoint goes by UIDs", is_known=False)
        devices = checkpoint.read(self.checkpoint, uid)
        if devices is None:
            return Allocation((), f"{error.message}, and no checkpoint {self.checkpoint}", is_known=False)
        return Allocation(devices, f"checkpoint {self.checkpoint}", is_known=bool(devices))

    def _asked(self, namespace: str, name: str) -> Allocation:
        source = f"kubelet {self.socket}"
        try:
            told = self._told(namespace, name, source)
            if told is None:
                return Allocation((), source, is_known=False)
            return Allocation(without_repeats(_devices(told, source)), source)
        except protobuf.Malformed as error:
            raise TryAgainLater(f"read the answer of {source}: {error}") from None

    def _told(self, namespace: str, name: str, source: str) -> bytes | None:
        """The pod's PodResources; None when the kubelet does not know it."""
        deadline = time.monotonic() + self.timeout_s
        told = self._get(namespace, name, deadline) if self._is_get_served else None
        if told is not None:
            return told
        listed = _members(self._call("List", b"", deadline), 1)
        named = (each for each in listed if name.encode() in each)  # cheap, and passes over most
        pods = [each for each in named if _identity(each) == (namespace, name)]
        if len(pods) > 1:
            raise TryAgainLater(f"{source} has {len(pods)} pods {namespace}/{name}: expected one")
        if not pods:
            return None
        self._is_get_served = False
        return pods[0]

    def _get(self, namespace: str, name: str, deadline: float) -> bytes | None:
        """The pod's PodResources; None when the kubelet has no Get, or does not know the pod."""
        try:
            answer = self._call("Get", protobuf.of_texts(name, namespace), deadline)
        except grpc.CallFailed as error:
            if error.status in (grpc.UNKNOWN, grpc.UNIMPLEMENTED):
                return None
            raise
        return next(_members(answer, 1), None)

    def _call(self, method: str, request: bytes, deadline: float) -> bytes:
        """One call; a kubelet that is asked too often is asked again a little later."""
        for pause_s in (*PAUSES_S, None):
            left_s = max(deadline - time.monotonic(), 0.001)
            try:
                return grpc.call(self.socket, f"{SERVICE}/{method}", request, left_s, LIMIT)
            except grpc.CallFailed as error:
                if error.status != grpc.RESOURCE_EXHAUSTED or pause_s is None:
                    raise
                time.sleep(min(pause_s * random.uniform(0.5, 1.5), left_s))
        raise AssertionError("the last pause is None")


def _members(message: bytes, number: int) -> Iterator[bytes]:
    """All fields of one number."""
    return (value for each, value in protobuf.fields(message) if each == number)


def _text(message: bytes, number: int) -> str:
    return protobuf.text(next(_members(message, number), b""))


def _identity(pod: bytes) -> tuple[str, str]:
    """(namespace, name) of a PodResources."""
    return _text(pod, 2), _text(pod, 1)


def _devices(pod: bytes, source: str) -> Iterator[Allocated]:
    """PodResources.containers (3), their devices (2), each with a resource_name (1) and device_ids (2)."""
    for container in _members(pod, 3):
        name = _text(container, 1)
        told = ((_text(devices, 1), _members(devices, 2)) for devices in _members(container, 2))
        found = [Allocated(each, protobuf.text(value), name, source) for each, ids in told for value in ids]
        yield from sorted(found, key=lambda each: each.device_id)
