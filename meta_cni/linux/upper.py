"""
Links on another link, their master: macvlan, ipvlan and VLANs, made in the pod's namespace at once.

The master is on the node, or in the pod itself (`linkInContainer`).
"""

import errno
from collections.abc import Callable
from dataclasses import replace

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, KernelError, NotAvailable
from meta_cni.linux import link, pack, route
from meta_cni.linux.link import Link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, Request, Socket

IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}  # IPVLAN_MODE_*, <linux/if_link.h>
IFLA_IPVLAN_MODE = 1
IFLA_VLAN_ID = 1
LARGEST_VLAN = 4094


def master(config: PluginConfig, side: Socket, name: str, mtu: int) -> Link:
    """
    The link of a name, else that of the first default route; raises BadConfig.

    The kernel takes any MTU from some kinds, and then drops what is above the master's.
    """
    if name:
        found = link.find(side, name)
        if found is None:
            raise BadConfig(f"{config.where}: master {name!r}: expected a link that exists")
    else:
        defaults = [each for each in route.dump(side) if each.destination.prefixlen == 0]
        found = link.find_index(side, defaults[0].interface_index) if defaults else None
        if found is None:
            raise BadConfig(f"{config.where}: master is missing, and there is no default route")
    if mtu > found.mtu:
        raise BadConfig(f"{config.where}: invalid MTU {mtu}, must be [0, master MTU({found.mtu})]")
    return found


def make(namespaces: Namespaces, side: Socket, name: str, build: Callable[[str], Request]) -> Link:
    """
    Create under the final name in the pod, else under another one and rename it.

    Kernels before 6.7 compare the name with the links of the master's namespace, too.
    """
    try:
        side.request([build(name)])
    except KernelError as error:
        if error.errno != errno.EEXIST or link.find(namespaces.pod, name):
            raise
        temporary = link.random_veth_name()
        side.request([replace(build(temporary), action=build(name).action)])
        made = link.require(namespaces.pod, temporary, "link")
        namespaces.pod.request([link.set_link(made.index, name=name)])
    return link.require(namespaces.pod, name, "link")


def require(config: PluginConfig, kind: str, name: str, *, is_in_pod: bool) -> None:
    """STATUS: the kernel must know the kind, and a master that is named be there; raises NotAvailable."""
    with Socket.open_host() as host:
        if not link.knows(host, kind):
            raise NotAvailable(f"{config.where}: kernel has no {kind}")
        if name and not is_in_pod and link.find(host, name) is None:
            raise NotAvailable(f"{config.where}: master {name!r} does not exist")


def create_ipvlan(name: str, on: Link, mode: str, *, pod_fd: int, mtu: int = 0, group: int = 0) -> Request:
    """An ipvlan, down; its MAC is the master's."""
    data = pack.u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode])
    return _create("ipvlan", name, on, data, pod_fd, mtu, group)


def create_vlan(name: str, on: Link, vlan: int, *, pod_fd: int, mtu: int = 0, group: int = 0) -> Request:
    """A VLAN of 802.1Q, down."""
    return _create("vlan", name, on, pack.u16(IFLA_VLAN_ID, vlan), pod_fd, mtu, group)


def _create(kind: str, name: str, on: Link, data: bytes, pod_fd: int, mtu: int, group: int) -> Request:
    attributes = (
        pack.text(link.IFLA_IFNAME, name)
        + pack.u32(link.IFLA_LINK, on.index)
        + pack.u32(link.IFLA_NET_NS_FD, pod_fd)
        + link.ethernet("", mtu, group)
        + link.link_info(kind, data)
    )
    action = f"create {kind} {name} on {on.name}"
    return Request(action, pack.link(attributes), link.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def ipvlan_mode(found: Link) -> str:
    """The mode of an ipvlan; empty of what is none."""
    if found.kind != "ipvlan":
        return ""
    number = pack.number16(link.data_of(found).get(IFLA_IPVLAN_MODE))
    return next((mode for mode, each in IPVLAN_MODES.items() if each == number), "")


def vlan_id(found: Link) -> int | None:
    """The VLAN of a link; None of what is none."""
    return pack.number16(link.data_of(found).get(IFLA_VLAN_ID)) if found.kind == "vlan" else None
