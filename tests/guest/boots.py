"""
The boots of the guest, and which tests run in which: a test's markers say it.

What is marked native as well stays out. The boots are few, for the start of Python and of pytest
alone takes half a minute there; and they run side by side. Where virtual functions are, the node is
the guest's own namespace: that is where the kernel puts a function whose namespace has vanished.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.guest import netdevsim
from tests.guest.artefacts import Artefacts
from tests.guest.emulator import Emulator

VARIABLE = "META_CNI_GUEST"
"""In the environment of the guest's tests: the name of the boot."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One machine, and the tests it is for."""

    name: str
    markers: tuple[str, ...]
    """A test that has any of them."""
    emulator: Callable[[], Emulator]
    preparation: Callable[[Artefacts], list[str]]
    """Shell lines that come before the tests."""

    @property
    def is_running(self) -> bool:
        """Are we inside of it?"""
        return os.environ.get(VARIABLE) == self.name


def _load_drivers(artefacts: Artefacts) -> list[str]:
    """The cards' drivers, that of the functions first; and netdevsim, without a device."""
    module = netdevsim.module(artefacts.release)
    return ["modprobe -a igbvf igb vfio-pci psample", f"insmod '{module.resolve()}'"]


FUNCTIONS = Boot("functions", ("igb", "netdevsim"), Emulator.with_igb, _load_drivers)
REFERENCE = Boot("reference", ("reference",), Emulator.fastest, lambda artefacts: [])
KERNEL = Boot("kernel", ("guest",), Emulator.fastest, lambda artefacts: [])
BOOTS = (FUNCTIONS, REFERENCE, KERNEL)
MARKERS = tuple(marker for boot in BOOTS for marker in boot.markers)


def boot_of(markers: Iterable[str]) -> Boot:
    """The first one that any of a test's markers is for."""
    return next(boot for boot in BOOTS if not set(markers).isdisjoint(boot.markers))
