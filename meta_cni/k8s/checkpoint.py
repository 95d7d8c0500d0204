"""
The file in which the kubelet's device manager keeps what it handed out.

It is written before a pod's sandbox is made, so it says what PodResources would, by the pod's UID.
Two forms are about (pkg/kubelet/cm/devicemanager/checkpoint): device ids by NUMA node since
Kubernetes 1.20, a plain list before. It is written out of maps, so its order says nothing. The checksum
is over Go's memory and cannot be checked here; the file is replaced by rename, so it is never half written.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s.allocation import Allocated, without_repeats

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read(path: Path, uid: str) -> tuple[Allocated, ...] | None:
    """
    The devices of a pod by the names of container and device; None when there is no file of this boot.

    Raises TryAgainLater when it cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TryAgainLater(f"read checkpoint {path}: {error.strerror}") from None
    except ValueError:
        raise TryAgainLater(f"read checkpoint {path}: expected JSON") from None
    try:
        if document.get("BootID", "") not in ("", BOOT_ID.read_text().strip()):
            return None
        entries = document["Data"]["PodDeviceEntries"] or []
        found = _devices(entries, uid, f"checkpoint {path}")
        return without_repeats(sorted(found, key=lambda each: (each.container, each.device_id)))
    except (AttributeError, KeyError, TypeError):
        raise TryAgainLater(f"read checkpoint {path}: expected Data.PodDeviceEntries") from None


def _devices(entries: list[Mapping[str, object]], uid: str, source: str) -> Iterator[Allocated]:
    for entry in entries:
        if entry["PodUID"] == uid:
            resource, container = str(entry["ResourceName"]), str(entry["ContainerName"])
            for each in _ids(entry["DeviceIDs"]):
                yield Allocated(resource, each, container, source)


def _ids(told: object) -> Iterator[str]:
    """Of either form."""
    if isinstance(told, Mapping):
        for ids in told.values():
            yield from _ids(ids)
    elif isinstance(told, list):
        yield from (str(each) for each in told)
    elif told is not None:
        raise TypeError
