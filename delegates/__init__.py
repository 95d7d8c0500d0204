"""One CNI type a file; each is loaded when a configuration first names it."""

from functools import cache
from importlib import import_module

from meta_cni.delegate import BuiltIn

BUILTIN = {
    "bond": "Bond",
    "bridge": "Bridge",
    "dummy": "Dummy",
    "host-device": "HostDevice",
    "ipvlan": "Ipvlan",
    "loopback": "Loopback",
    "macvlan": "Macvlan",
    "ptp": "Ptp",
    "route-override": "RouteOverride",
    "sbr": "Sbr",
    "sriov": "Sriov",
    "tap": "Tap",
    "tuning": "Tuning",
    "vlan": "Vlan",
    "vrf": "Vrf",
}
"""CNI type -> class; the module has the type's name."""


@cache
def load(plugin_type: str) -> type[BuiltIn]:
    """The class of a built-in type; KeyError when it is none."""
    module = import_module(f"delegates.{plugin_type.replace('-', '_')}")
    delegate: type[BuiltIn] = getattr(module, BUILTIN[plugin_type])
    return delegate
