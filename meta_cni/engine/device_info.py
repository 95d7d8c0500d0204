"""
Device-info files (NPWG device-info specification 1.1.0).

A device plugin writes what it knows of a device below `dp/`. Each attachment has a file of its own
below `cni/`, which begins as a copy of that, may be read and changed by the plugins, and ends as
`device-info` in the network-status. Its name is in the ledger before it is there, and it goes with
its attachment: by DEL, by GC, when an ADD fails, and after a crash.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from meta_cni.cni.errors import IOFailure
from meta_cni.engine.ledger import Record

CAPABILITY = "CNIDeviceInfoFile"
MAXIMUM_BYTES = 1 << 16
"""All annotations of an object together have 256 KiB."""
NAME_LENGTH = 100
"""Of the network's name in a file's name, which has 255 bytes; what comes behind makes it unique."""
LOG = logging.getLogger("meta_cni")


def path_of(directory: str, network: str, container_id: str, interface: str) -> str:
    """The file of one attachment, and of no other."""
    name = network.replace("/", "-")[:NAME_LENGTH]
    return f"{directory}/cni/{name}-{container_id}_{interface}"


def given_by_plugin(record: Record) -> Path:
    """Where the device plugin writes what it knows of an attachment's device (S-43)."""
    name = f"{record.resource}-{record.device}-device.json".replace("/", "-")
    return Path(record.device_info).parent.parent / "dp" / name


def put(record: Record) -> None:
    """Copy what the device plugin wrote, if it did; raises IOFailure."""
    if not record.device_info:
        return
    path = Path(record.device_info)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        content = _given(record)
        if content is not None:
            path.write_bytes(content)
    except OSError as error:
        raise IOFailure(f"write device-info {path}: {error.strerror}") from None


def _given(record: Record) -> bytes | None:
    if not (record.resource and record.device):
        return None
    source = given_by_plugin(record)
    try:
        return source.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IOFailure(f"read device-info {source}: {error.strerror}") from None


def read(record: Record) -> Mapping[str, object] | None:
    """What is in the file now; None when there is nothing that could be told, which is no failure."""
    if not record.device_info:
        return None
    try:
        with open(record.device_info, "rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
        document = json.loads(content) if len(content) <= MAXIMUM_BYTES else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        LOG.warning("read device-info %s: %s", record.device_info, error)
        return None
    if not isinstance(document, dict):
        LOG.warning(
            "read device-info %s: expected an object of at most %d bytes", record.device_info, MAXIMUM_BYTES
        )
        return None
    return document


def remove(record: Record) -> None:
    """Remove the attachment's file; gone is success. Raises IOFailure."""
    if not record.device_info:
        return
    try:
        os.unlink(record.device_info)
    except FileNotFoundError:
        return
    except OSError as error:
        raise IOFailure(f"remove device-info {record.device_info}: {error.strerror}") from None


def remove_all(directory: Path, container_id: str) -> list[str]:
    """Remove every file of a container, whose ledger entry is lost; returns their names."""
    found = [each for each in directory.glob(f"cni/*-{container_id}_*") if each.is_file()]
    for each in found:
        each.unlink(missing_ok=True)
    return [each.name for each in found]
