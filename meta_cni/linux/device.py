"""
Devices that a device plugin hands to pods: PCI functions and auxiliary-bus devices.

Only whether they are there; what is done with them is their delegate's business.
"""

from pathlib import Path

SYSFS = Path("/sys")
BUSES = ("pci", "auxiliary")


def exists(device: str, sysfs: Path = SYSFS) -> bool:
    """Is there a device of this address on one of the buses that network devices sit on?"""
    if not device or "/" in device or device in (".", ".."):
        return False
    return any((sysfs / "bus" / bus / "devices" / device).exists() for bus in BUSES)
