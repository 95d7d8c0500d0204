"""
The QEMU that boots the guest: the one that is installed, or one that is recent.

`-device igb`, a network card with virtual functions, came with QEMU 8, and with the versions since
an emulated Python takes little more than half of the time that it took with QEMU 7. Where the
installed one is older, that of the release's backports is unpacked beside it; it runs with the
libraries of the installed one.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.guest import packages
from tests.guest.cache import Missing, cached, program
from tests.guest.packages import Packages

QEMU = "qemu-system-x86_64"
PROGRAMS = {**packages.PROGRAMS, QEMU: "qemu-system-x86"}
"""What has to be installed, and the package it is in."""
PURPOSE = "QEMU with igb"
BACKPORTS = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
PORTS = (0, 1)
"""Of igb cards, each with one port: its physical function. A hub is between them."""
VIRTUAL_FUNCTIONS = 7
"""Of each, at most, as the card has them."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """How QEMU is started."""

    path: str
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @classmethod
    def installed(cls) -> "Emulator":
        """The one on the PATH; raises Missing."""
        return cls(program(QEMU, PROGRAMS))

    @classmethod
    def fastest(cls, cache: Path | None = None) -> "Emulator":
        """A recent one, else the one that is installed; raises Missing where there is none."""
        try:
            return cls.recent(cache)
        except Missing:
            return cls.installed()

    @classmethod
    def with_igb(cls, cache: Path | None = None) -> "Emulator":
        """With two igb cards, and an IOMMU, which vfio-pci wants; raises Missing."""
        found = cls.recent(cache)
        return cls(found.path, (*found.options, *cards()), found.environment)

    @classmethod
    def recent(cls, cache: Path | None = None) -> "Emulator":
        """One that has igb; raises Missing."""
        found = cls.installed()
        if not found.has_igb():
            found = cls.unpacked(cached("qemu", _fetch, cache))
        if not found.has_igb():
            raise Missing(f"no {PURPOSE}: that of the backports has none either, or does not start")
        return found

    @classmethod
    def unpacked(cls, root: Path) -> "Emulator":
        """One that is not where it was built for."""
        share = root / "usr" / "share"
        return cls(
            str(root / "usr" / "bin" / QEMU),
            ("-L", str(share / "qemu"), "-L", str(share / "seabios")),
            (("QEMU_MODULE_DIR", str(root / "usr" / "lib" / "x86_64-linux-gnu" / "qemu")),),
        )

    def has_igb(self) -> bool:
        """Ask it; its exit status is the same for a device that it does not know."""
        command = [self.path, *self.options, "-device", "igb,help"]
        told = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True)
        return told.stdout.startswith("igb options:")


def _fetch(scratch: Path) -> Path:
    fetched = Packages(PURPOSE, scratch, is_backports=True)
    fetched.fetch(*BACKPORTS)
    return fetched.unpack()


def cards() -> list[str]:
    """The cards, each on a root port, which SR-IOV needs; their MACs end in the number of the port."""
    options = ["-device", "intel-iommu"]
    for port in PORTS:
        options += ["-device", f"pcie-root-port,id=root{port},slot={port + 1}"]
        options += ["-netdev", f"hubport,id=hub{port},hubid=0"]
        options += ["-device", f"igb,bus=root{port},netdev=hub{port},mac={mac(port)},romfile="]
    return options


def mac(port: int) -> str:
    """Of a card's physical function."""
    return f"52:54:00:00:{port:02x}:00"
