"""One CNI type a file; each is loaded when a configuration first names it."""

from functools import cache
from importlib import import_module

from meta_cni.delegate import BuiltIn

MAKING = {
    "bridge": "Bridge",
    "dummy": "Dummy",
    "ipvlan": "Ipvlan",
    "macvlan": "Macvlan",
    "ptp": "Ptp",
    "tap": "Tap",
    "vlan": "Vlan",
}
"""Those that make a link of CNI_IFNAME, whose name must be free before: CNI type -> class."""
BUILTIN = MAKING | {
    # These move one there, and look by themselves what is in its place.
    "bond": "Bond",
    "host-device": "HostDevice",
    "sriov": "Sriov",
    # And these are about one that is there.
    "loopback": "Loopback",
    "route-override": "RouteOverride",
    "sbr": "Sbr",
    "tuning": "Tuning",
    "vrf": "Vrf",
}
"""CNI type -> class; the module has the type's name."""


@cache
def load(plugin_type: str) -> type[BuiltIn]:
    """The class of a built-in type; KeyError when it is none."""
    module = import_module(f"delegates.{plugin_type.replace('-', '_')}")
    delegate: type[BuiltIn] = getattr(module, BUILTIN[plugin_type])
    return delegate
