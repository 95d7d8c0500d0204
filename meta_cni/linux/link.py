"""
Links: finding, making, changing and deleting them, each as one message.

A veth pair is made by one message that carries the pod's namespace for its peer, the name, MAC,
MTU, group, the bridge as master and the host end up: creating and then moving costs 16 ms more.
"""

import errno
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from meta_cni.cni.errors import KernelError
from meta_cni.linux.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    Message,
    Reply,
    Request,
    Socket,
    decode,
    random_suffix,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18  # <linux/rtnetlink.h>
IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200  # <linux/if.h>
MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}  # MACVLAN_MODE_*, <linux/if_link.h>
OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")  # RFC 2863
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5  # <linux/if_link.h>
IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO = 10, 13, 16, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_PROMISCUITY, IFLA_INFO_KIND = 20, 26, 27, 30, 1
NLA_TYPE_MASK = 0x3FFF  # <linux/netlink.h>
QUEUES = 1
"""tx and rx queues of a veth end: one a CPU, the kernel's default, makes it four times as slow."""


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
    tx_queue_length: int = 0
    operstate: str = "UNKNOWN"
    master: int = 0
    parent: int = 0
    """IFLA_LINK: a veth's peer, a macvlan's master."""
    group: int = 0
    promiscuity: int = 0
    alias: str = ""
    message: bytes = field(default=b"", repr=False, compare=False)
    """As it came; what only its kind has is decoded when it is asked for."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Attributes of its kind, by their kernel names."""
        return _attributes(self.message, "IFLA_INFO_DATA")

    @property
    def port(self) -> Mapping[str, Any]:
        """Attributes of it as a port of its master."""
        return _attributes(self.message, "IFLA_INFO_SLAVE_DATA")


def _new() -> Message:
    from meta_cni.linux.codec import ifinfmsg  # noqa: PLC0415 - 50 ms to import

    return ifinfmsg()


def _message(index: int = 0, attributes: list[tuple[str, Any]] | None = None, **header: int) -> Message:
    message = _new()
    message["index"] = index
    for key, value in header.items():
        message[key] = value
    message["attrs"] = attributes or []
    return message


def parse(body: bytes) -> Link:
    """
    A link out of RTM_NEWLINK, by hand: the codec takes 0.8 ms for it, and an ADD has five of them.

    Held to the codec, attribute by attribute, by tests/netns/test_link.py.
    """
    index, flags = struct.unpack_from("=iI", body, HEADER.size + 4)
    found = dict(split(body, HEADER.size + 16))
    info = found.get(IFLA_LINKINFO, b"")
    operstate = found.get(IFLA_OPERSTATE, b"\0")[0]
    return Link(
        index=index,
        name=_text(found.get(IFLA_IFNAME)),
        kind=_text(dict(split(info)).get(IFLA_INFO_KIND)),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(IFLA_MTU)),
        is_up=bool(flags & IFF_UP),
        is_promiscuous=bool(flags & IFF_PROMISC),
        is_allmulti=bool(flags & IFF_ALLMULTI),
        tx_queue_length=_number(found.get(IFLA_TXQLEN)),
        operstate=OPERSTATES[operstate],
        master=_number(found.get(IFLA_MASTER)),
        parent=_number(found.get(IFLA_LINK)),
        group=_number(found.get(IFLA_GROUP)),
        promiscuity=_number(found.get(IFLA_PROMISCUITY)),
        alias=_text(found.get(IFLA_IFALIAS)),
        message=body,
    )


def split(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message from an offset on: (number, value)."""
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="surrogateescape")


def _number(value: bytes | None) -> int:
    return int(struct.unpack("=I", value)[0]) if value else 0


def _attributes(message: bytes, key: str) -> Mapping[str, Any]:
    """What a link's kind, or its master's, has of its own."""
    link_info = decode(type(_new()), message).get_attr("IFLA_LINKINFO") if message else None
    data = link_info.get_attr(key) if link_info else None
    pairs = data.get("attrs", []) if data is not None and hasattr(data, "get") else []
    return MappingProxyType({name: value for name, value in (pair[:2] for pair in pairs)})


def find(socket: Socket, name: str) -> Link | None:
    """The link of a name; None when there is none."""
    return _find(socket, _look_up(name))


def find_index(socket: Socket, index: int) -> Link | None:
    """The link of an index; None when there is none."""
    return _find(socket, Request(f"look up link {index}", _message(index), RTM_GETLINK))


def _look_up(name: str) -> Request:
    return Request(f"look up link {name}", _message(attributes=[("IFLA_IFNAME", name)]), RTM_GETLINK)


def _find(socket: Socket, request: Request) -> Link | None:
    (reply,) = socket.request([replace(request, tolerate=frozenset((errno.ENODEV,)))])
    return parse(reply.echoed[0]) if reply.echoed else None


def dump(socket: Socket) -> list[Link]:
    """Every link of the namespace."""
    return [parse(each) for each in socket.dump_undecoded(_message(), RTM_GETLINK, "list links")]


def random_veth_name() -> str:
    """A host-side name, of the form the reference plugins use."""
    return f"veth{random_suffix()}"


def _ethernet(mac: str, mtu: int, group: int) -> list[tuple[str, Any]]:
    values = (("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), ("IFLA_GROUP", group))
    return [(key, value) for key, value in values if value]


def _queues() -> list[tuple[str, Any]]:
    return [("IFLA_NUM_TX_QUEUES", QUEUES), ("IFLA_NUM_RX_QUEUES", QUEUES)]


def _link_info(kind: str, data: list[tuple[str, Any]]) -> tuple[str, Any]:
    attributes: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data:
        attributes.append(("IFLA_INFO_DATA", {"attrs": data}))
    return "IFLA_LINKINFO", {"attrs": attributes}


def create_veth(
    host_name: str,
    pod_name: str,
    pod_fd: int,
    *,
    mac: str = "",
    mtu: int = 0,
    group: int = 0,
    master: int = 0,
) -> Request:
    """A pair: the host end up and in its bridge, the pod's end named and in its namespace."""
    peer = [("IFLA_IFNAME", pod_name), ("IFLA_NET_NS_FD", pod_fd), *_queues(), *_ethernet(mac, mtu, group)]
    attributes = [
        ("IFLA_IFNAME", host_name),
        *_queues(),
        *_ethernet("", mtu, 0),
        *([("IFLA_MASTER", master)] if master else []),
        _link_info("veth", [("VETH_INFO_PEER", {"attrs": peer})]),
    ]
    return Request(
        f"create veth {pod_name} with peer {host_name}",
        _message(attributes=attributes, flags=IFF_UP, change=IFF_UP),
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO,
        lookup=_look_up(host_name),
    )


def veth_indexes(reply: Reply) -> tuple[int, int]:
    """(host index, pod index) out of the answer to create_veth()."""
    created = parse(reply.echoed[0])
    return created.index, created.parent


def create_macvlan(
    name: str,
    parent: int,
    mode: str,
    *,
    pod_fd: int,
    mac: str = "",
    mtu: int = 0,
    group: int = 0,
    broadcast_queue_length: int = 0,
) -> Request:
    """A macvlan on a link of the node, made in the pod's namespace; down."""
    data: list[tuple[str, Any]] = [("IFLA_MACVLAN_MODE", mode)]
    if broadcast_queue_length:
        data.append(("IFLA_MACVLAN_BC_QUEUE_LEN", broadcast_queue_length))
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_LINK", parent),
        ("IFLA_NET_NS_FD", pod_fd),
        *_ethernet(mac, mtu, group),
        _link_info("macvlan", data),
    ]
    message = _message(attributes=attributes)
    return Request(f"create macvlan {name}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def create_bridge(name: str, *, mtu: int = 0, is_vlan_filtering: bool = False) -> Request:
    """A bridge, down; one that is there already is left as it is."""
    data = [("IFLA_BR_VLAN_FILTERING", 1)] if is_vlan_filtering else []
    attributes = [("IFLA_IFNAME", name), *_ethernet("", mtu, 0), _link_info("bridge", data)]
    return Request(
        f"create bridge {name}",
        _message(attributes=attributes),
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        frozenset((errno.EEXIST,)),
    )


def create_pair(name: str, peer: str, *, mtu: int = 0, master: int = 0) -> Request:
    """A veth pair with both ends in this namespace; the first one in a bridge, where one is given."""
    both = _ethernet("", mtu, 0)
    attributes = [
        ("IFLA_IFNAME", name),
        *both,
        *([("IFLA_MASTER", master)] if master else []),
        _link_info("veth", [("VETH_INFO_PEER", {"attrs": [("IFLA_IFNAME", peer), *both]})]),
    ]
    message = _message(attributes=attributes)
    return Request(f"create veth {name} with peer {peer}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


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
    wanted = ((is_up, IFF_UP), (is_promiscuous, IFF_PROMISC), (is_allmulti, IFF_ALLMULTI))
    change = sum(flag for value, flag in wanted if value is not None)
    flags = sum(flag for value, flag in wanted if value)
    attributes: list[tuple[str, Any]] = _ethernet(mac, mtu, 0)
    if name:
        attributes.append(("IFLA_IFNAME", name))
    if tx_queue_length is not None:
        attributes.append(("IFLA_TXQLEN", tx_queue_length))
    if master is not None:
        attributes.append(("IFLA_MASTER", master))
    message = _message(index, attributes, flags=flags, change=change)
    return Request(f"change link {name or index}", message, RTM_NEWLINK)


def set_port(index: int, *, is_hairpin: bool | None = None, is_isolated: bool | None = None) -> Request:
    """Change a link as a port of its bridge."""
    wanted = (("IFLA_BRPORT_MODE", is_hairpin), ("IFLA_BRPORT_ISOLATED", is_isolated))
    port = [(key, int(value)) for key, value in wanted if value is not None]
    data = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": port})]
    message = _message(index, [("IFLA_LINKINFO", {"attrs": data})])
    return Request(f"change bridge port {index}", message, RTM_NEWLINK)


def delete(name: str) -> Request:
    """Delete the link of a name; gone is success."""
    message = _message(attributes=[("IFLA_IFNAME", name)])
    return Request(f"delete link {name}", message, RTM_DELLINK, tolerate=frozenset((errno.ENODEV,)))


def delete_group(group: int) -> Request:
    """Delete every link of a group in one grace period of the kernel; none is success."""
    message = _message(attributes=[("IFLA_GROUP", group)])
    gone = frozenset((errno.ENODEV,))
    return Request(f"delete links of group {group:#x}", message, RTM_DELLINK, tolerate=gone)


def require(socket: Socket, name: str, what: str) -> Link:
    """The link of a name; raises KernelError naming what it is for when there is none."""
    found = find(socket, name)
    if found is None:
        raise KernelError(f"look up {what} {name}", errno.ENODEV)
    return found
