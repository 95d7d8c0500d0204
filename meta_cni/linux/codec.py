"""
pyroute2's message classes without the rest of pyroute2.

Importing any module of the package first runs its `__init__`, which imports everything the
library has: 160 modules, 250 ms. The message classes need 25 of them, 50 ms, and a plugin that
a runtime executes for every ADD pays that each time. So they are imported below a package that
knows only where its modules are; it is taken away afterwards, and whoever imports pyroute2
later gets the whole library, built upon the same message classes.

Import this module inside of functions: on the way to `--help` 50 ms are still too much.
"""

import sys
from importlib.util import find_spec, module_from_spec

PACKAGE = "pyroute2"

_IS_OURS = PACKAGE not in sys.modules
if _IS_OURS:
    _specification = find_spec(PACKAGE)
    if _specification is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    sys.modules[PACKAGE] = module_from_spec(_specification)
try:
    from pyroute2.netlink import nla_slot
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, macvx_data
    from pyroute2.netlink.rtnl.rtmsg import rtmsg
finally:
    if _IS_OURS:
        del sys.modules[PACKAGE]

__all__ = ["ifaddrmsg", "ifinfmsg", "nla_slot", "rtmsg"]


class macvlan(macvx_data):  # type: ignore[misc]  # noqa: N801 - named as its siblings
    """pyroute2 0.9 knows the attributes of <linux/if_link.h> up to IFLA_MACVLAN_MACADDR_COUNT."""

    nla_map = (
        *macvx_data.nla_map,
        ("IFLA_MACVLAN_BC_QUEUE_LEN", "uint32"),
        ("IFLA_MACVLAN_BC_QUEUE_LEN_USED", "uint32"),
    )


ifinfmsg.ifinfo.register_link_kind(module={"macvlan": macvlan})
