"""
Devices of the node by what sysfs says of them: PCI functions, auxiliary-bus and kernel paths.

Which link of the node is a device's, and whether its driver leaves it to user space. Directories
below `net` show the links of the namespace that sysfs was mounted in, which is the node's.
"""

import re
from pathlib import Path

SYSFS = Path("/sys")
BUSES = ("pci", "auxiliary")
ANY = "0000:00:00.0"
"""Stands for the device that a pod brings, where a configuration is looked at without a pod."""
USERSPACE_DRIVERS = ("vfio-pci", "uio_pci_generic", "igb_uio")
"""Their devices have no link: a program in the pod drives them (DPDK)."""

PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)


def is_pci_address(text: str) -> bool:
    """Is it written like the address of a PCI function? A device plugin may name its devices as it likes."""
    return PCI_ADDRESS.fullmatch(text) is not None


def path_of(device: str, sysfs: Path = SYSFS) -> Path | None:
    """The directory of a device by its address on one of the buses that network devices sit on."""
    if not device or "/" in device or device in (".", ".."):
        return None
    paths = (sysfs / "bus" / bus / "devices" / device for bus in BUSES)
    return next((path for path in paths if path.exists()), None)


def exists(device: str, sysfs: Path = SYSFS) -> bool:
    """Is there such a device?"""
    return path_of(device, sysfs) is not None


def driver_of(path: Path) -> str:
    """The name of a device's driver; empty when none is bound."""
    driver = path / "driver"
    return driver.resolve().name if driver.exists() else ""


def link_of(path: Path) -> str:
    """The name of a device's first link, that of virtio below its PCI function; empty when it has none."""
    for directory in (path / "net", *sorted(path.glob("virtio*/net"))):
        if directory.is_dir():
            return next((each.name for each in sorted(directory.iterdir())), "")
    return ""
