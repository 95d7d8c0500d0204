"""
Links on another link, their master: macvlan, ipvlan and VLANs, made in the pod's namespace at once.

The master is on the node, or in the pod itself (`linkInContainer`).
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, KernelError, NotAvailable
from meta_cni.linux import link, pack, route
from meta_cni.linux.link import Link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, Request, Socket
from meta_cni.quick import quick

IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}  # IPVLAN_MODE_*, <linux/if_link.h>
IFLA_IPVLAN_MODE = 1
IFLA_VLAN_ID = 1
LARGEST_VLAN = 4094


@quick
@dataclass(frozen=True, slots=True)
class Master:
    """The link to stand on: `master`, `linkInContainer`, and the `mtu` of what is to stand on it."""

    config: PluginConfig
    namespaces: Namespaces
    name: str
    mtu: int
    is_in_pod: bool

    @classmethod
    def parse(cls, config: PluginConfig, namespaces: Namespaces) -> "Master":
        """Read the keys; nothing is looked for yet."""
        return cls(config, namespaces, *config.once(_keys))

    @property
    def _side(self) -> Socket:
        return self.namespaces.pod if self.is_in_pod else self.namespaces.host

    def find(self) -> Link:
        """
        The link of the name, else that of the first default route; raises BadConfig.

        The kernel takes any MTU from some kinds, and then drops what is above the master's.
        """
        where = self.config.where
        if self.name:
            found = link.find(self._side, self.name)
            if found is None:
                raise BadConfig(f"{where}: master {self.name!r}: expected a link that exists")
        else:
            defaults = [each for each in route.dump(self._side) if each.destination.prefixlen == 0]
            found = link.find_index(self._side, defaults[0].interface_index) if defaults else None
            if found is None:
                raise BadConfig(f"{where}: master is missing, and there is no default route")
        if self.mtu > found.mtu:
            raise BadConfig(f"{where}: invalid MTU {self.mtu}, must be [0, master MTU({found.mtu})]")
        return found

    def make(self, name: str, build: Callable[[str], Request]) -> Link:
        """
        Create under the final name in the pod, else under another one and rename it; its index and name.

        Kernels before 6.7 compare the name with the links of the master's namespace, too.
        """
        pod = self.namespaces.pod
        try:
            self._side.request([build(name)])
        except KernelError as error:
            if error.errno != errno.EEXIST or link.find(pod, name):
                raise
            temporary = unfinished(name)
            self._side.request([replace(build(temporary), action=build(name).action)])
            made = link.require_index(pod, temporary, "link")
            pod.request([link.set_link(made, name=name)])
        return Link(link.require_index(pod, name, "link"), name)


def _keys(config: PluginConfig) -> tuple[str, int, bool]:
    """What a configuration says of the master, for every pod of its network."""
    section = config.section
    name, mtu = section.string("master"), section.integer("mtu", maximum=65535)
    return name, mtu, section.boolean("linkInContainer")


def unfinished(name: str) -> str:
    """What a link is called until it can be renamed: always the same, so that a DEL finds it."""
    return f"new{sha256(name.encode()).hexdigest()[:8]}"


def require(config: PluginConfig, kind: str) -> None:
    """STATUS: the kernel knows the kind, a master that is named is on the node; raises NotAvailable."""
    name = "" if config.section.boolean("linkInContainer") else config.section.string("master")
    with Socket.open_host() as host:
        if not link.knows(host, kind):
            raise NotAvailable(f"{config.where}: kernel has no {kind}")
        if name and link.find(host, name) is None:
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
