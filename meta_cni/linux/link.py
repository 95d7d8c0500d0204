"""
Links: finding, making, changing and deleting them, each as one message.

A veth pair is made by one message that carries the pod's namespace for its peer, the name, MAC,
MTU, group, the bridge as master and the host end up: creating and then moving costs 16 ms more.
"""

import errno
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from meta_cni.cni.errors import KernelError
from meta_cni.linux import pack
from meta_cni.linux.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    Reply,
    Request,
    Socket,
    decode,
    random_suffix,
)
from meta_cni.quick import quick

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18  # <linux/rtnetlink.h>
IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200  # <linux/if.h>
MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}  # MACVLAN_MODE_*, <linux/if_link.h>
ARPHRD_INFINIBAND = 32  # <linux/if_arp.h>
OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")  # RFC 2863
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5  # <linux/if_link.h>
IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO = 10, 13, 16, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_PROMISCUITY = 20, 26, 27, 28, 30
IFLA_EXT_MASK, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_PARENT_DEV_NAME = 29, 31, 32, 56
IFLA_ALT_IFNAME = 53
IFNAMSIZ, ALTIFNAMSIZ = 16, 128  # <linux/if.h>, with the NUL
RTEXT_FILTER_SKIP_STATS = 8  # <linux/rtnetlink.h>: counters are two thirds of a link's message
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1  # <linux/veth.h>
IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7
IFLA_BR_VLAN_FILTERING = 7
IFLA_BOND_SLAVE_PERM_HWADDR = 4
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 1, 4, 33
OF_EVERY_LINK = frozenset((IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO))
"""The attributes of which parse() makes a Link; there are forty."""
ATTRIBUTES = HEADER.size + pack.IFINFOMSG.size
"""Where they begin in a message."""
MULTICAST, ADMINISTERED_LOCALLY = 1, 2  # bits of a MAC's first byte, IEEE 802
GROUP_MAC = bytes.fromhex("010000000000")
"""No link can have it."""
GONE = frozenset((errno.ENODEV,))
NOTHING: frozenset[int] = frozenset()
QUEUES = 1
"""tx and rx queues of a veth end: one a CPU, the kernel's default, makes it four times as slow."""


WITHOUT_STATISTICS = pack.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


@quick
@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel tells it; indexes are 0 where there is none."""

    index: int
    name: str
    kind: str = ""
    mac: str = ""
    mtu: int = 0
    is_up: bool = False
    is_promiscuous: bool = False
    """Somebody asked for it; `promiscuity` counts packet sockets and upper devices as well."""
    is_allmulti: bool = False
    master: int = 0
    parent: int = 0
    """IFLA_LINK: a veth's peer, a macvlan's master."""
    message: bytes = field(default=b"", repr=False, compare=False)
    """As it came; what few want to know, and what only its kind has, is read when it is asked for."""

    @property
    def operstate(self) -> str:
        """One of OPERSTATES."""
        return OPERSTATES[(self._attribute(IFLA_OPERSTATE) or b"\0")[0]]

    @property
    def tx_queue_length(self) -> int:
        """In packets."""
        return pack.number(self._attribute(IFLA_TXQLEN))

    @property
    def group(self) -> int:
        """What it can be deleted with."""
        return pack.number(self._attribute(IFLA_GROUP))

    @property
    def promiscuity(self) -> int:
        """How many want it promiscuous."""
        return pack.number(self._attribute(IFLA_PROMISCUITY))

    @property
    def alias(self) -> str:
        """What somebody wrote down beside its name."""
        return pack.string(self._attribute(IFLA_IFALIAS))

    def _attribute(self, number: int) -> bytes | None:
        return pack.find(self.message, number, ATTRIBUTES)

    @property
    def info(self) -> Mapping[str, Any]:
        """Attributes of its kind, by their kernel names."""
        from meta_cni.linux.codec import ifinfmsg  # noqa: PLC0415 - 50 ms to import

        link_info = decode(ifinfmsg, self.message).get_attr("IFLA_LINKINFO") if self.message else None
        data = link_info.get_attr("IFLA_INFO_DATA") if link_info else None
        pairs = data.get("attrs", []) if data is not None and hasattr(data, "get") else []
        return MappingProxyType({name: value for name, value in (pair[:2] for pair in pairs)})

    @property
    def device(self) -> str:
        """The address of the device that it is the link of; empty for none, and before Linux 5.14."""
        return pack.string(self._attribute(IFLA_PARENT_DEV_NAME))

    @property
    def is_infiniband(self) -> bool:
        """Is it IP over InfiniBand? Its address, of 20 bytes, is made by card and fabric."""
        return is_infiniband(self.message)


def is_infiniband(body: bytes) -> bool:
    """The same of an RTM_NEWLINK."""
    return bool(body) and struct.unpack_from("=H", body, HEADER.size + 2) == (ARPHRD_INFINIBAND,)


def parse(body: bytes) -> Link:
    """
    A link out of RTM_NEWLINK, by hand: the codec takes 0.8 ms for it, and an ADD has five of them.

    Held to the codec, attribute by attribute, by tests/netns/test_link.py.
    """
    index, flags = struct.unpack_from("=iI", body, HEADER.size + 4)
    found = pack.attributes(body, ATTRIBUTES, OF_EVERY_LINK)
    info = pack.attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=pack.string(found.get(IFLA_IFNAME)),
        kind=pack.string(info.get(IFLA_INFO_KIND)),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=pack.number(found.get(IFLA_MTU)),
        is_up=bool(flags & IFF_UP),
        is_promiscuous=bool(flags & IFF_PROMISC),
        is_allmulti=bool(flags & IFF_ALLMULTI),
        master=pack.number(found.get(IFLA_MASTER)),
        parent=pack.number(found.get(IFLA_LINK)),
        message=body,
    )


def port_state(body: bytes) -> int:
    """BR_STATE_* of a bridge's port (<linux/if_bridge.h>) by its RTM_NEWLINK; 0 for what is none."""
    info = pack.attributes(pack.find(body, IFLA_LINKINFO, ATTRIBUTES) or b"")
    if pack.string(info.get(IFLA_INFO_SLAVE_KIND)) != "bridge":
        return 0
    return (pack.find(info[IFLA_INFO_SLAVE_DATA], IFLA_BRPORT_STATE) or b"\0")[0]


def data_of(found: Link) -> dict[int, bytes]:
    """The attributes of its kind, by their numbers; without the codec, whose import takes 50 ms."""
    attributes = pack.attributes(found.message, ATTRIBUTES)
    return pack.attributes(pack.attributes(attributes.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_DATA, b""))


def own_mac(found: Link) -> str:
    """Its MAC, or what it had before it became a member of a bond, which may give all its members one."""
    attributes = pack.attributes(found.message, ATTRIBUTES)
    info = pack.attributes(attributes.get(IFLA_LINKINFO, b""))
    if pack.string(info.get(IFLA_INFO_SLAVE_KIND)) != "bond":
        return found.mac
    member = pack.attributes(info.get(IFLA_INFO_SLAVE_DATA, b""))
    return member.get(IFLA_BOND_SLAVE_PERM_HWADDR, b"").hex(":")


def find(socket: Socket, name: str) -> Link | None:
    """The link of a name, or of one of its other names (altname); None when there is none."""
    is_name = len(name.encode(errors="surrogateescape")) < ALTIFNAMSIZ
    return _find(socket, _look_up(name, GONE)) if is_name else None


def index_of(socket: Socket, name: str) -> int:
    """The index of the link of a name, as find(); 0 when there is none."""
    return indexes(socket, (name,)).get(name, 0)


def indexes(socket: Socket, names: Sequence[str]) -> dict[str, int]:
    """The indexes of the links of these names, as far as there are any, asked for in one batch."""
    replies = socket.request([_look_up(each, GONE) for each in names])
    return {name: _index(reply.echoed[0]) for name, reply in zip(names, replies, strict=True) if reply.echoed}


def _index(body: bytes) -> int:
    return int(struct.unpack_from("=i", body, HEADER.size + 4)[0])


def find_index(socket: Socket, index: int) -> Link | None:
    """The link of an index; None when there is none."""
    return _find(socket, look_up_index(index, GONE))


@lru_cache(maxsize=256)
def _look_up(name: str, tolerate: frozenset[int] = NOTHING) -> Request:
    """
    By IFLA_IFNAME the kernel finds short names of either kind, and takes no long one.

    Pods have eth0, and networks their bridges: the newest questions are remembered.
    """
    is_short = len(name.encode(errors="surrogateescape")) < IFNAMSIZ
    message = pack.link(WITHOUT_STATISTICS + pack.text(IFLA_IFNAME if is_short else IFLA_ALT_IFNAME, name))
    return Request(f"look up link {name}", message, RTM_GETLINK, 0, tolerate, is_question=True)


def look_up_index(index: int, tolerate: frozenset[int] = NOTHING) -> Request:
    """Ask for a link, for a batch whose answer mac_in() or port_state_in() reads."""
    message = pack.link(WITHOUT_STATISTICS, index=index)
    return Request(f"look up link {index}", message, RTM_GETLINK, 0, tolerate, is_question=True)


def names(socket: Socket, indexes: Sequence[int]) -> dict[int, str]:
    """The names of the links of these indexes, as far as there are any, asked for in one batch."""
    replies = socket.request([look_up_index(each, GONE) for each in indexes])
    found = {index: reply.echoed for index, reply in zip(indexes, replies, strict=True)}
    return {index: _name(echoed[0]) for index, echoed in found.items() if echoed}


def _name(body: bytes) -> str:
    return pack.string(pack.find(body, IFLA_IFNAME, ATTRIBUTES))


def mac_in(reply: Reply) -> str:
    """The MAC of the link in the answer to look_up_index(), for whom nothing else is news."""
    return (pack.find(reply.echoed[0], IFLA_ADDRESS, ATTRIBUTES) or b"").hex(":")


def port_state_in(reply: Reply) -> int:
    """port_state() of the link in the answer to look_up_index()."""
    return port_state(reply.echoed[0])


def _find(socket: Socket, request: Request) -> Link | None:
    (reply,) = socket.request([request])
    return parse(reply.echoed[0]) if reply.echoed else None


def find_of_device(socket: Socket, device: str, name: str) -> Link | None:
    """The link of a device; where the kernel does not tell devices, the one of a name."""
    found = dump(socket)
    exact = next((each for each in found if each.device == device), None)
    return exact or next((each for each in found if each.name == name and not each.device), None)


def dump(socket: Socket) -> list[Link]:
    """Every link of the namespace."""
    return [parse(each) for each in _bodies(socket)]


def _bodies(socket: Socket) -> list[bytes]:
    return socket.dump_undecoded(pack.link(WITHOUT_STATISTICS), RTM_GETLINK, "list links")


def random_veth_name() -> str:
    """A host-side name, of the form the reference plugins use."""
    return f"veth{random_suffix()}"


def random_mac() -> str:
    """
    Of one station, administered locally, as the kernel makes them (eth_random_addr(), <linux/etherdevice.h>).

    Who makes a link with one knows it without asking, and udev leaves it alone: it gives links whose
    MAC the kernel made up another one, a moment later (MACAddressPolicy=persistent, systemd.link(5)).
    """
    first, *others = os.urandom(6)
    return bytes((first & ~MULTICAST | ADMINISTERED_LOCALLY, *others)).hex(":")


def ethernet(mac: str, mtu: int, group: int = 0) -> bytes:
    """The attributes of those that are given."""
    packed = pack.attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))) if mac else b""
    packed += pack.u32(IFLA_MTU, mtu) if mtu else b""
    packed += pack.u32(IFLA_GROUP, group) if group else b""
    return packed


def link_info(kind: str, data: bytes = b"") -> bytes:
    """The attribute that says of which kind a link is, with what that kind has."""
    told = pack.attribute(IFLA_INFO_DATA, data) if data else b""
    return pack.nested(IFLA_LINKINFO, pack.text(IFLA_INFO_KIND, kind), told)


def _pair(peer: bytes) -> bytes:
    """The veth's peer, a message about a link in itself."""
    its = pack.attribute(VETH_INFO_PEER, UNCHANGED + peer)
    return pack.attribute(IFLA_LINKINFO, VETH + pack.attribute(IFLA_INFO_DATA, its))


VETH = pack.text(IFLA_INFO_KIND, "veth")
UNCHANGED = pack.link()
ONE_QUEUE = pack.u32(IFLA_NUM_TX_QUEUES, QUEUES) + pack.u32(IFLA_NUM_RX_QUEUES, QUEUES)


def create_veth(
    host_name: str,
    pod_name: str,
    pod_fd: int,
    *,
    mac: str = "",
    host_mac: str = "",
    mtu: int = 0,
    group: int = 0,
    master: int = 0,
) -> Request:
    """A pair: the host end up and in its bridge, the pod's end with `mac` named and in its namespace."""
    named = pack.text(IFLA_IFNAME, pod_name) + pack.u32(IFLA_NET_NS_FD, pod_fd)
    attributes = (
        pack.text(IFLA_IFNAME, host_name)
        + ONE_QUEUE
        + ethernet(host_mac, mtu)
        + (pack.u32(IFLA_MASTER, master) if master else b"")
        + _pair(named + ONE_QUEUE + ethernet(mac, mtu, group))
    )
    return Request(
        f"create veth {pod_name} with peer {host_name}",
        pack.link(attributes, flags=IFF_UP, change=IFF_UP),
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO,
        lookup=partial(_look_up, host_name),
    )


def veth_indexes(reply: Reply) -> tuple[int, int]:
    """(host index, pod index) out of the answer to create_veth()."""
    body = reply.echoed[0]
    return _index(body), pack.number(pack.find(body, IFLA_LINK, ATTRIBUTES))


def create_macvlan(
    name: str,
    parent: Link,
    mode: str,
    *,
    pod_fd: int,
    mac: str = "",
    mtu: int = 0,
    group: int = 0,
    broadcast_queue_length: int = 0,
) -> Request:
    """A macvlan on a link of the node, made in the pod's namespace; down."""
    length = broadcast_queue_length
    data = pack.u32(IFLA_MACVLAN_MODE, MODES[mode])
    data += pack.u32(IFLA_MACVLAN_BC_QUEUE_LEN, length) if length else b""
    attributes = (
        pack.text(IFLA_IFNAME, name)
        + pack.u32(IFLA_LINK, parent.index)
        + pack.u32(IFLA_NET_NS_FD, pod_fd)
        + ethernet(mac, mtu, group)
        + link_info("macvlan", data)
    )
    action = f"create macvlan {name} on {parent.name}"
    return Request(action, pack.link(attributes), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def create_bridge(name: str, *, mtu: int = 0, is_vlan_filtering: bool = False) -> Request:
    """A bridge, down; one that is there already is left as it is."""
    data = pack.u8(IFLA_BR_VLAN_FILTERING, 1) if is_vlan_filtering else b""
    attributes = pack.text(IFLA_IFNAME, name) + ethernet("", mtu) + link_info("bridge", data)
    return Request(
        f"create bridge {name}",
        pack.link(attributes),
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        frozenset((errno.EEXIST,)),
    )


def create_pair(name: str, peer: str, *, mtu: int = 0, master: int = 0) -> Request:
    """A veth pair with both ends in this namespace; the first one in a bridge, where one is given."""
    both = ethernet("", mtu)
    attributes = (
        pack.text(IFLA_IFNAME, name)
        + both
        + (pack.u32(IFLA_MASTER, master) if master else b"")
        + _pair(pack.text(IFLA_IFNAME, peer) + both)
    )
    action = f"create veth {name} with peer {peer}"
    return Request(action, pack.link(attributes), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def create(kind: str, name: str, data: bytes = b"", *, mtu: int = 0, group: int = 0) -> Request:
    """A link of a kind that stands on nothing, in the namespace of the socket, up."""
    attributes = pack.text(IFLA_IFNAME, name) + ethernet("", mtu, group) + link_info(kind, data)
    message = pack.link(attributes, flags=IFF_UP, change=IFF_UP)
    return Request(f"create {kind} {name}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def knows(socket: Socket, kind: str) -> bool:
    """
    Can the kernel make links of a kind? None is made: it is asked for one with a group's MAC.

    Every kind refuses that, or to stand on nothing; what the kernel does not know, after it has
    looked for a module, it says otherwise (rtnl_newlink(), net/core/rtnetlink.c).
    """
    attributes = pack.attribute(IFLA_ADDRESS, GROUP_MAC) + link_info(kind)
    request = Request(f"look for {kind}", pack.link(attributes), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    try:
        socket.request([request])
    except KernelError as error:
        return error.errno != errno.EOPNOTSUPP
    return True


def set_link(
    index: int,
    *,
    is_up: bool | None = None,
    is_promiscuous: bool | None = None,
    is_allmulti: bool | None = None,
    name: str = "",
    mac: str = "",
    mtu: int = 0,
    tx_queue_length: int | None = None,
    master: int | None = None,
) -> Request:
    """Change a link; only what is given is changed. A master of 0 releases it."""
    change = flags = 0
    if is_up is not None:
        change, flags = IFF_UP, IFF_UP if is_up else 0
    if is_promiscuous is not None:
        change, flags = change | IFF_PROMISC, flags | IFF_PROMISC if is_promiscuous else flags
    if is_allmulti is not None:
        change, flags = change | IFF_ALLMULTI, flags | IFF_ALLMULTI if is_allmulti else flags
    attributes = ethernet(mac, mtu)
    attributes += pack.text(IFLA_IFNAME, name) if name else b""
    attributes += pack.u32(IFLA_TXQLEN, tx_queue_length) if tx_queue_length is not None else b""
    attributes += pack.u32(IFLA_MASTER, master) if master is not None else b""
    message = pack.link(attributes, index=index, flags=flags, change=change)
    return Request(f"change link {name or index}", message, RTM_NEWLINK)


def move(index: int, namespace_fd: int, name: str, *, alias: str) -> Request:
    """
    Move a link to another namespace, under a name there, with an alias (none when it is empty).

    It goes down. The kernel moves first and renames then: where the name is taken there, it has
    been moved all the same.
    """
    attributes = pack.u32(IFLA_NET_NS_FD, namespace_fd) + pack.text(IFLA_IFNAME, name) + _alias(alias)
    message = pack.link(attributes, index=index, change=IFF_UP)
    return Request(f"move link {index} to {name}", message, RTM_NEWLINK)


def rename(index: int, name: str, *, alias: str) -> Request:
    """Name a link, which must be down, and give it an alias (none when it is empty)."""
    message = pack.link(pack.text(IFLA_IFNAME, name) + _alias(alias), index=index)
    return Request(f"rename link {index} to {name}", message, RTM_NEWLINK)


def set_alias(index: int, alias: str) -> Request:
    """Give a link an alias, none when it is empty."""
    return Request(f"change alias of link {index}", pack.link(_alias(alias), index=index), RTM_NEWLINK)


def _alias(text: str) -> bytes:
    """Without NUL: an alias of no length is none."""
    return pack.attribute(IFLA_IFALIAS, text.encode(errors="surrogateescape"))


def set_group(index: int, group: int) -> Request:
    """Put a link that was not made with it into a group."""
    message = pack.link(pack.u32(IFLA_GROUP, group), index=index)
    return Request(f"put link {index} into group {group:#x}", message, RTM_NEWLINK)


def set_port(index: int, *, is_hairpin: bool | None = None, is_isolated: bool | None = None) -> Request:
    """Change a link as a port of its bridge."""
    wanted = ((IFLA_BRPORT_MODE, is_hairpin), (IFLA_BRPORT_ISOLATED, is_isolated))
    port = b"".join(pack.u8(kind, value) for kind, value in wanted if value is not None)
    data = pack.text(IFLA_INFO_SLAVE_KIND, "bridge") + pack.attribute(IFLA_INFO_SLAVE_DATA, port)
    message = pack.link(pack.attribute(IFLA_LINKINFO, data), index=index)
    return Request(f"change bridge port {index}", message, RTM_NEWLINK)


def delete(name: str) -> Request:
    """Delete the link of a name; gone is success."""
    message = pack.link(pack.text(IFLA_IFNAME, name))
    return Request(f"delete link {name}", message, RTM_DELLINK, tolerate=GONE)


def delete_group(group: int) -> Request:
    """Delete every link of a group in one grace period of the kernel; none is success."""
    message = pack.link(pack.u32(IFLA_GROUP, group))
    return Request(f"delete links of group {group:#x}", message, RTM_DELLINK, tolerate=GONE)


def remove(socket: Socket, name: str) -> None:
    """Delete the link of a name, until it is announced to be gone; gone is success."""
    if name in socket.gone:
        return
    index = index_of(socket, name)
    if index:
        socket.delete_links(delete(name), (index,))


def remove_group(socket: Socket, group: int, meanwhile: Callable[[], None] = lambda: None) -> None:
    """
    Delete every link of a group, until all are announced to be gone; none is success.

    `meanwhile` is called while the kernel is at it.
    """
    members = [each for each in _bodies(socket) if _group(each) == group]
    if not members:
        return
    names: list[str] = []

    def apart() -> None:
        names.extend(map(_name, members))
        meanwhile()

    socket.delete_links(delete_group(group), map(_index, members), apart)
    socket.gone.update(names)


def _group(body: bytes) -> int:
    return pack.number(pack.find(body, IFLA_GROUP, ATTRIBUTES))


def require(socket: Socket, name: str, what: str) -> Link:
    """The link of a name; raises KernelError naming what it is for when there is none."""
    found = find(socket, name)
    if found is None:
        raise KernelError(f"look up {what} {name}", errno.ENODEV)
    return found


def require_index(socket: Socket, name: str, what: str) -> int:
    """As require(), of whom nothing but the index is asked."""
    found = index_of(socket, name)
    if not found:
        raise KernelError(f"look up {what} {name}", errno.ENODEV)
    return found
