"""Virtual functions as tests see them: a card's, or those of a tree like sysfs before netdevsim."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meta_cni.linux import link, vf
from meta_cni.linux.netlink import Socket
from meta_cni.linux.vf import NO_MAC, Settings, Target

SYSFS = Path("/sys")
CARRIER_S = 30.0
"""A card starts anew with its VFs, and takes no rate before it knows the speed of its link."""


@dataclass(frozen=True, slots=True)
class State:
    """All that an attachment may change of a VF; no link where it has none on the node."""

    settings: Settings
    link: tuple[Any, ...] | None


class Card:
    """A physical function with some virtual ones."""

    def __init__(self, name: str, host: Socket, sysfs: Path = SYSFS) -> None:
        self.name = name
        self.host = host
        self.sysfs = sysfs
        found = link.require(host, name, "card")
        host.request([link.set_link(found.index, is_up=True)])
        self.index = found.index

    @property
    def device(self) -> Path:
        return self.sysfs / "class" / "net" / self.name / "device"

    def count(self) -> int:
        """Of its VFs."""
        return int((self.device / "sriov_numvfs").read_text())

    def make(self, count: int) -> list[str]:
        """So many VFs, instead of those that there are; their addresses."""
        if self.count():
            (self.device / "sriov_numvfs").write_text("0")
        (self.device / "sriov_numvfs").write_text(str(count))
        self.await_carrier()
        return [Path(os.readlink(self.device / f"virtfn{number}")).name for number in range(count)]

    def await_carrier(self) -> None:
        """Until it can send."""
        carrier = self.device.parent / "carrier"
        deadline = time.monotonic() + CARRIER_S
        while carrier.read_text() != "1\n":
            assert time.monotonic() < deadline, f"{self.name} has no carrier"
            time.sleep(0.05)

    def settings(self, number: int) -> Settings:
        """What the card tells."""
        found = vf.read(self.host, Target(self.index, self.name, number, ""))
        assert found is not None
        return found

    def link_of(self, address: str) -> link.Link | None:
        """A VF's link, on the node."""
        directory = self.sysfs / "bus" / "pci" / "devices" / address / "net"
        names = os.listdir(directory) if directory.is_dir() else []
        return link.find(self.host, names[0]) if names else None

    def state(self, number: int, address: str) -> State:
        """A VF as it is now; igb tells an address that the VF chose itself, some time after it was up."""
        found, settings = self.link_of(address), self.settings(number)
        if found is not None and found.mac == settings.mac:
            settings = replace(settings, mac=NO_MAC)
        told = (found.name, found.mac, found.mtu, found.is_up, found.is_allmulti) if found else None
        return State(settings, told)

    def states(self, addresses: list[str]) -> list[State]:
        """Of all, in the order of their numbers."""
        return [self.state(number, address) for number, address in enumerate(addresses)]
