"""
Which of a pod's devices goes to which of its networks.

Pure. The NAD's annotation names a resource; the pod's containers were handed devices of it. They go
to the networks in an order that does not change from call to call (P-18), each to one. A selection
may choose among them by `deviceID`; what it names beside them is not the pod's to take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from meta_cni.cni.errors import BadConfig, CNIError, TryAgainLater, join
from meta_cni.engine.plan import Wanted
from meta_cni.k8s.allocation import Allocated, Allocation


def needed(wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """The resource of each network that has one."""
    return tuple(each.network.resource_name for each in wanted if each.network.resource_name)


def assign(
    wanted: Sequence[Wanted], allocation: Allocation, taken: Mapping[str, str], pod: str
) -> tuple[Wanted, ...]:
    """
    The networks with their devices; `taken` are those of the pod's other attachments, by device.

    Raises one error with every network that there is no device for.
    """
    left = {each: list(allocation.of_resource(each)) for each in needed(wanted)}
    for resource, devices in left.items():
        left[resource] = [each for each in devices if each.device_id not in taken]
    chosen = {n: found for n, each in enumerate(wanted) if (found := _chosen(each, left)) is not None}
    ready: list[Wanted] = []
    errors: list[CNIError] = []
    for n, each in enumerate(wanted):
        free = left.get(each.network.resource_name, [])
        if n in chosen:
            ready.append(replace(each, device=chosen[n]))
        elif not each.network.resource_name or _is_left_to_selection(each, allocation):
            ready.append(each)
        elif free:
            ready.append(replace(each, device=free.pop(0)))
        else:
            errors.append(_missing(each, allocation, pod))
    if errors:
        raise join(errors)
    return tuple(ready)


def _chosen(wanted: Wanted, left: Mapping[str, list[Allocated]]) -> Allocated | None:
    """The device that the selection names, out of those that are left."""
    device_id = wanted.selection.device_id if wanted.selection else ""
    free = left.get(wanted.network.resource_name, [])
    found = next((each for each in free if device_id and each.device_id == device_id), None)
    if found is not None:
        free.remove(found)
    return found


def _is_left_to_selection(wanted: Wanted, allocation: Allocation) -> bool:
    """Nothing of the resource was handed to the pod, and the selection names a device, as without kubelet."""
    handed = any(each.device_id for each in allocation.of_resource(wanted.network.resource_name))
    return bool(wanted.selection and wanted.selection.device_id and not handed)


def _missing(wanted: Wanted, allocation: Allocation, pod: str) -> CNIError:
    where = wanted.selection.where if wanted.selection else wanted.network.where
    resource = wanted.network.resource_name
    at = f"{where} ({wanted.network.reference}): resource {resource}"
    if not allocation.is_known:
        return TryAgainLater(f"{at}: no device of pod {pod} is known (yet): {allocation.source}")
    handed = allocation.of_resource(resource)
    others = [f"{each.resource} {each}" for each in allocation.devices if each.resource != resource]
    told = ", ".join(str(each) for each in handed) or f"none of it, but {', '.join(others) or 'nothing'}"
    more = "one more of it" if handed else "it"
    passed = "".join(f"; {each}" for each in allocation.passed_over)
    return BadConfig(
        f"{at}: {allocation.source} gave pod {pod} {told}: "
        f"expected {more} in resources.limits of a container{passed}"
    )
