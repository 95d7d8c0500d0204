"""
VLANs of bridge ports, as `bridge vlan` shows them: AF_BRIDGE messages about links.

A trunk is sent as ranges: all 4094 VLANs are one message of two attributes.
"""

import errno
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meta_cni.linux import pack
from meta_cni.linux.link import IFLA_AF_SPEC, RTM_DELLINK, RTM_GETLINK
from meta_cni.linux.netlink import HEADER, Request, Socket

RTM_SETLINK = 19  # <linux/rtnetlink.h>
AF_BRIDGE = 7
IFLA_EXT_MASK = 29
RTEXT_FILTER_BRVLAN = 2
IFLA_BRIDGE_FLAGS, IFLA_BRIDGE_VLAN_INFO = 0, 2  # <linux/if_bridge.h>
BRIDGE_FLAGS_MASTER = 1
PVID, UNTAGGED, RANGE_BEGIN, RANGE_END = 0x2, 0x4, 0x8, 0x10  # BRIDGE_VLAN_INFO_*
LARGEST = 4094
"""VLAN identifiers 0 and 4095 are reserved (IEEE 802.1Q)."""


@dataclass(frozen=True, slots=True, order=True)
class Membership:
    """One VLAN that a port is in."""

    vid: int
    is_native: bool = False
    """The port's own: what comes untagged is in it, and what is in it leaves untagged."""


def _info(vid: int, flags: int) -> bytes:
    """struct bridge_vlan_info."""
    return pack.attribute(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags, vid))


def _ranges(vids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of what is without a gap."""
    first = last = 0
    for vid in sorted(vids):
        if first and vid == last + 1:
            last = vid
            continue
        if first:
            yield first, last
        first = last = vid
    if first:
        yield first, last


def _tagged(vids: Iterable[int]) -> Iterator[bytes]:
    for first, last in _ranges(vids):
        if first == last:
            yield _info(first, 0)
        else:
            yield _info(first, RANGE_BEGIN)
            yield _info(last, RANGE_END)


def _message(port: int, infos: Iterable[bytes]) -> bytes:
    flags = pack.u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_MASTER)
    return pack.link(pack.nested(IFLA_AF_SPEC, flags, *infos), family=AF_BRIDGE, index=port)


def join(port: int, tagged: Iterable[int], native: int = 0) -> Request:
    """Put a port into VLANs, `native` untagged; it may be in them already."""
    infos = [*_tagged(set(tagged) - {native}), *([_info(native, PVID | UNTAGGED)] if native else [])]
    return Request(f"put bridge port {port} into VLANs", _message(port, infos), RTM_SETLINK)


def leave(port: int, vid: int) -> Request:
    """Take a port out of a VLAN; not in it is success."""
    gone = frozenset((errno.ENOENT,))
    message = _message(port, [_info(vid, 0)])
    return Request(f"take bridge port {port} out of VLAN {vid}", message, RTM_DELLINK, tolerate=gone)


def dump(socket: Socket) -> dict[int, set[Membership]]:
    """The VLANs of every port (and of every bridge itself), by the link's index."""
    message = pack.link(pack.u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN), family=AF_BRIDGE)
    found: dict[int, set[Membership]] = {}
    for body in socket.dump_undecoded(message, RTM_GETLINK, "list bridge VLANs"):
        (index,) = struct.unpack_from("=i", body, HEADER.size + 4)
        found.setdefault(index, set()).update(_memberships(body))
    return found


def _memberships(body: bytes) -> Iterator[Membership]:
    for kind, value in pack.split(body, HEADER.size + pack.IFINFOMSG.size):
        if kind != IFLA_AF_SPEC:
            continue
        for inner, info in pack.split(value):
            if inner == IFLA_BRIDGE_VLAN_INFO:
                flags, vid = struct.unpack("=HH", info)
                yield Membership(vid, flags & (PVID | UNTAGGED) == PVID | UNTAGGED)
