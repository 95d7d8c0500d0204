"""
Devices that a pod has by dynamic resource allocation (resource.k8s.io/v1, from Kubernetes 1.34 on).

A claim's allocation names driver, pool and device; the device's slice has two attributes by which
drivers tell meta plugins what it is: its address, and the resource that a NAD names. Devices without
them are no network devices, and devices for administrators are other pods' too.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meta_cni.cni.errors import BadConfig, TryAgainLater
from meta_cni.k8s.allocation import Allocated
from meta_cni.k8s.store import Kind, NotFound, Object, Selector, Store

DEVICE_ID = "k8s.cni.cncf.io/deviceID"
RESOURCE_NAME = "k8s.cni.cncf.io/resourceName"
Result = Mapping[str, Any]
"""A DeviceRequestAllocationResult."""


def allocated(
    store: Store, pod: Object, tell: Callable[[str], object] = lambda why: None
) -> tuple[Allocated, ...]:
    """
    The devices of a pod's claims, in the pod's order; nobody is asked for a pod without claims.

    `tell` hears of every other device why it is none for a network.
    """
    namespace = str(_at(pod, "metadata", "namespace") or "default")
    slices = _Slices(store, str(_at(pod, "spec", "nodeName") or ""), tell)
    found: list[Allocated] = []
    for name in dict.fromkeys(_claims_of(pod)):
        for result in _results(store, namespace, name):
            found.extend(_network_device(slices, result, f"claim {namespace}/{name}"))
    extended = _at(pod, "status", "extendedResourceClaimStatus")
    if extended:
        found.extend(_extended(store, slices, namespace, extended))
    return tuple(found)


def _claims_of(pod: Object) -> Iterator[str]:
    """Claims that the pod names itself, and those made from templates, whose names are in its status."""
    made = {
        each["name"]: each.get("resourceClaimName")
        for each in _at(pod, "status", "resourceClaimStatuses") or ()
    }
    for each in _at(pod, "spec", "resourceClaims") or ():
        name = each.get("resourceClaimName") or made.pop(each["name"], None)
        if name:
            yield name
    yield from (name for name in made.values() if name)


def _extended(
    store: Store, slices: "_Slices", namespace: str, extended: Mapping[str, Any]
) -> Iterator[Allocated]:
    """Devices that are asked for in resources.limits and allocated by a claim of the scheduler's."""
    name = extended.get("resourceClaimName", "")
    results = _results(store, namespace, name)
    for mapping in extended.get("requestMappings") or ():
        source = f"claim {namespace}/{name}"
        mine = [each for each in results if each.get("request") == mapping.get("requestName")]
        if not mine:
            raise TryAgainLater(f"{source}: request {mapping.get('requestName')} is not allocated (yet)")
        for each in (device for result in mine for device in _network_device(slices, result, source)):
            if each.resource != mapping.get("resourceName"):
                raise BadConfig(
                    f"{source}: device {each.device_id}: attribute {RESOURCE_NAME} {each.resource!r}: "
                    f"expected {mapping.get('resourceName')}, as the pod asks for it"
                )
            yield Allocated(each.resource, each.device_id, mapping.get("containerName", ""), source)


def _results(store: Store, namespace: str, name: str) -> list[Result]:
    """What a claim was allocated; raises TryAgainLater when it is not (yet)."""
    try:
        claim = store.get(Kind.RESOURCE_CLAIM, namespace, name)
    except NotFound:
        raise TryAgainLater(f"claim {namespace}/{name}: the store does not know it (yet)") from None
    results = _at(claim, "status", "allocation", "devices", "results")
    if not results:
        raise TryAgainLater(f"claim {namespace}/{name}: no device is allocated (yet)")
    return [each for each in results if not each.get("adminAccess")]


def _network_device(slices: "_Slices", result: Result, source: str) -> Iterator[Allocated]:
    """The device, when it is one for a network."""
    attributes = slices.attributes(result, source)
    told = {each: str((attributes.get(each) or {}).get("string", "")) for each in (DEVICE_ID, RESOURCE_NAME)}
    missing = [key for key, text in told.items() if not text]
    if missing:
        slices.tell(f"{source}: device {_place(result)} has no attribute {' and no '.join(missing)}")
        return
    yield Allocated(told[RESOURCE_NAME], told[DEVICE_ID], "", source)


def _place(result: Result) -> str:
    return "/".join(str(result.get(each)) for each in ("driver", "pool", "device"))


class _Slices:
    """The slices of drivers, asked for once each."""

    def __init__(self, store: Store, node: str, tell: Callable[[str], object]) -> None:
        self.tell = tell
        self._store = store
        self._node = node
        self._known: dict[tuple[str, str], list[Object]] = {}

    def attributes(self, result: Result, source: str) -> Mapping[str, Any]:
        """Those of an allocated device; raises TryAgainLater when no slice has it (yet)."""
        driver = str(result.get("driver", ""))
        nodes = (self._node, "") if self._node else ("",)  # most devices are a node's; others are all nodes'
        for node in nodes:
            for each in self._of(driver, node):
                if _at(each, "spec", "pool", "name") == result.get("pool"):
                    for device in _at(each, "spec", "devices") or ():
                        if device.get("name") == result.get("device"):
                            return device.get("attributes") or {}
        raise TryAgainLater(f"{source}: device {_place(result)}: no ResourceSlice has it (yet)")

    def _of(self, driver: str, node: str) -> list[Object]:
        """A driver's slices, the newest generation of a pool first."""
        if (driver, node) not in self._known:
            fields = {"spec.driver": driver, **({"spec.nodeName": node} if node else {})}
            found, _ = self._store.list(Kind.RESOURCE_SLICE, None, Selector(fields))
            newest = sorted(
                found, key=lambda each: _at(each, "spec", "pool", "generation") or 0, reverse=True
            )
            self._known[driver, node] = newest
        return self._known[driver, node]


def _at(document: Any, *keys: str) -> Any:
    """The value below some keys; None where there is none."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
