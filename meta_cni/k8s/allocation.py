"""What the node handed to a pod's containers: devices by resource, and who said so."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allocated:
    """One device of one container."""

    resource: str
    """As in resources.limits, like intel.com/sriov."""
    device_id: str
    """The device plugin's word: mostly a PCI or auxiliary-bus address."""
    container: str
    """Empty where nobody says which."""
    source: str
    """Who said so: the kubelet, its checkpoint, a claim."""

    def __str__(self) -> str:
        return f"{self.device_id} (container {self.container})" if self.container else self.device_id


@dataclass(frozen=True, slots=True)
class Allocation:
    """Everything that was handed to one pod, in the order in which it was told."""

    devices: tuple[Allocated, ...]
    source: str
    """Who was asked, or why nobody could be."""
    is_known: bool = True
    """The one who was asked knows the pod."""
    passed_over: tuple[str, ...] = ()
    """Why a device that the pod has by a claim is none for a network, a text each."""

    def of_resource(self, resource: str) -> tuple[Allocated, ...]:
        """The devices of one resource."""
        return tuple(each for each in self.devices if each.resource == resource)


def without_repeats(devices: Iterable[Allocated]) -> tuple[Allocated, ...]:
    """Each device once: an init container hands its own on to the containers that come after it."""
    first: dict[tuple[str, str], Allocated] = {}
    for each in devices:
        first.setdefault((each.resource, each.device_id), each)
    return tuple(first.values())
