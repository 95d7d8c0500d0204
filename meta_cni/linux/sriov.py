"""
Virtual functions (VF) of a card as sysfs tells of them: whose they are, their number, their links.

<device>/physfn leads to the physical function (PF), whose virtfnN lead back; N is the number by
which the PF's driver knows the VF (Documentation/ABI/testing/sysfs-bus-pci). A PF may have several
links: the ports of one function, and in switchdev mode one more for each VF, its representor, which
is not the PF's link (Documentation/networking/switchdev.rst).
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meta_cni.cni.errors import BadConfig, IOFailure
from meta_cni.linux.device import SYSFS, USERSPACE_DRIVERS, driver_of, link_of

REPRESENTOR = re.compile(r"(?:c\d+)?pf(\d+)(?:vf|sf)(\d+)")
"""phys_port_name of what stands for a VF or a subfunction (devlink_port_phys_port_name_get())."""


@dataclass(frozen=True, slots=True)
class Function:
    """A VF that is there."""

    address: str
    number: int
    """What the PF calls it."""
    driver: str
    """Empty when none is bound."""
    link: str
    """Its own link's name on the node; empty when it has none, or has it in a pod."""
    parent_address: str
    parent: str
    """The name of the PF's link."""
    parent_driver: str

    @property
    def is_userspace(self) -> bool:
        """A program drives it, and it has no link."""
        return self.driver in USERSPACE_DRIVERS


def path_of(address: str, sysfs: Path = SYSFS) -> Path:
    """The directory of a PCI function."""
    return sysfs / "bus" / "pci" / "devices" / address


def find(address: str, sysfs: Path = SYSFS) -> Function | None:
    """
    The VF of a PCI address; None when there is no such device (any more).

    Raises BadConfig when it is no VF, or its PF has no link on the node.
    """
    path = path_of(address, sysfs)
    if not path.exists():
        return None
    parent = path / "physfn"
    if not parent.exists():
        if not path.exists():
            return None
        raise BadConfig(
            f"device {address} is no virtual function: expected one, which has a physfn in {path}"
        )
    driver = driver_of(path)
    found = Function(
        address=address,
        number=_number(address, parent),
        driver=driver,
        link="" if driver in USERSPACE_DRIVERS else link_of(path),
        parent_address=parent.resolve().name,
        parent=_parent_link(path, parent),
        parent_driver=driver_of(parent),
    )
    return found if path.exists() else None


def parent_link_of(device: str, sysfs: Path = SYSFS) -> str:
    """The name of the PF's link of a device; empty for one that is no VF, or whose PF has none."""
    path = path_of(device, sysfs)
    parent = path / "physfn"
    with suppress(BadConfig):
        return _parent_link(path, parent) if device and parent.exists() else ""
    return ""


def _number(address: str, parent: Path) -> int:
    for each in parent.glob("virtfn*"):
        if each.is_symlink() and Path(os.readlink(each)).name == address:
            return int(each.name.removeprefix("virtfn"))
    raise BadConfig(
        f"device {address}: its physical function {parent.resolve().name} has no such virtual function: "
        "expected a virtfn of it"
    )


def _parent_link(path: Path, parent: Path) -> str:
    """That of the VF's port; representors beside it are other VFs'."""
    links = [each for each in sorted(_listed(parent / "net")) if not _is_representor(each)]
    if not links:
        raise BadConfig(
            f"device {path.name}: its physical function {parent.resolve().name} has no link on the node: "
            "expected one, to set up virtual functions by"
        )
    own = {_read(each / "dev_port") for each in _listed(path / "net")}
    return min(links, key=lambda each: (_read(each / "dev_port") not in own, _port(each), each.name)).name


def _port(link: Path) -> int:
    text = _read(link / "dev_port")
    return int(text) if text.isdigit() else 0


def _is_representor(link: Path) -> bool:
    return REPRESENTOR.fullmatch(_read(link / "phys_port_name")) is not None


def representor_of(function: Function, sysfs: Path = SYSFS) -> str:
    """The link that stands for a VF on the switch in its card; empty where there is none."""
    links = sysfs / "class" / "net"
    switch = _read(links / function.parent / "phys_switch_id")
    card = function.parent_address.rpartition(".")[2]
    for each in sorted(_listed(links)) if switch else ():
        name = _read(each / "phys_port_name")
        found = REPRESENTOR.fullmatch(name)
        is_ours = found is not None and "vf" in name and found.groups() == (card, str(function.number))
        if is_ours and _read(each / "phys_switch_id") == switch:
            return each.name
    return ""


def rdma_device_of(function: Function, sysfs: Path = SYSFS) -> str:
    """The name of its RDMA device; empty when it has none."""
    return min((each.name for each in _listed(path_of(function.address, sysfs) / "infiniband")), default="")


def rebind(address: str, sysfs: Path = SYSFS) -> None:
    """
    Take a VF from its driver, if it has one, and let the kernel find one for it.

    Its link is made anew, under whatever name. Raises IOFailure.
    """
    driver = path_of(address, sysfs) / "driver"
    try:
        if driver.exists():
            (driver / "unbind").write_text(address)
        (sysfs / "bus" / "pci" / "drivers_probe").write_text(address)
    except OSError as error:
        raise IOFailure(f"bind VF {address} to its driver: {error.strerror}") from None


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    """What a file says; nothing where the driver has nothing to say (EOPNOTSUPP), or it is gone."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
