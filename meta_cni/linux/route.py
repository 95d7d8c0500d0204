"""
Routes, one next hop each: what the kernel reports as one route of several hops is taken apart.

The default route has no RTA_DST in a message; here it is 0.0.0.0/0 or ::/0, as in a Result.
"""

import errno
import socket as sockets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from meta_cni.cni.errors import KernelError
from meta_cni.cni.result import Address, Network
from meta_cni.linux import pack
from meta_cni.linux.netlink import HEADER, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Request, Socket
from meta_cni.quick import quick

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26  # <linux/rtnetlink.h>
RTMSG = struct.Struct("=BBBBBBBBI")  # struct rtmsg
RTNEXTHOP = struct.Struct("=HBBi")  # struct rtnexthop
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_VIA, RTA_NH_ID = 9, 12, 15, 18, 30
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_COMPAT, RT_TABLE_MAIN, RT_TABLE_LOCAL = 252, 254, 255
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_RA = 2, 3, 9
RTNH_F_ONLINK = 4
RTN_UNICAST = 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 253, 254, 255
RTPROT_UNSPEC = 0
FAMILIES = {4: sockets.AF_INET, 6: sockets.AF_INET6}
ANYWHERE: dict[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@quick
@dataclass(frozen=True, slots=True)
class Route:
    """One next hop to a destination."""

    destination: Network
    gateway: Address | None = None
    """A route to IPv4 may have an IPv6 gateway (RFC 5549)."""
    interface_index: int = 0
    table: int = RT_TABLE_MAIN
    priority: int = 0
    scope: int | None = None
    """None: link without a gateway (IPv4), else universe."""
    protocol: int = RTPROT_BOOT
    mtu: int = 0
    advmss: int = 0
    source: Address | None = None
    is_on_link: bool = False
    """The gateway is taken as a neighbour, whatever the addresses of the interface say."""
    hops: int = 1
    """How many next hops the kernel's route has that this is one of."""
    message: bytes = field(default=b"", repr=False, compare=False)
    """As it came, with what has no field here."""

    def __str__(self) -> str:
        hop = f" via {self.gateway}" if self.gateway else ""
        return f"route {self.destination}{hop}"


def _message(route: Route) -> bytes:
    header = RTMSG.pack(
        FAMILIES[route.destination.version],
        route.destination.prefixlen,
        0,
        0,
        route.table if route.table < 256 else RT_TABLE_COMPAT,
        route.protocol,
        _scope(route),
        RTN_UNICAST,
        RTNH_F_ONLINK if route.is_on_link else 0,
    )
    attributes = pack.u32(RTA_TABLE, route.table)
    if route.destination.prefixlen:
        attributes += pack.attribute(RTA_DST, route.destination.network_address.packed)
    if route.gateway is not None:
        attributes += _next_hop(route.destination, route.gateway)
    if route.interface_index:
        attributes += pack.u32(RTA_OIF, route.interface_index)
    if route.priority:
        attributes += pack.u32(RTA_PRIORITY, route.priority)
    if route.source is not None:
        attributes += pack.attribute(RTA_PREFSRC, route.source.packed)
    if route.mtu or route.advmss:
        metrics = ((RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss))
        attributes += pack.nested(RTA_METRICS, *(pack.u32(kind, value) for kind, value in metrics if value))
    return header + attributes


def _next_hop(destination: Network, gateway: Address) -> bytes:
    """RTA_VIA names its family, RTA_GATEWAY has the destination's."""
    if gateway.version == destination.version:
        return pack.attribute(RTA_GATEWAY, gateway.packed)
    return pack.attribute(RTA_VIA, struct.pack("=H", FAMILIES[gateway.version]) + gateway.packed)


def _scope(route: Route) -> int:
    if route.scope is not None:
        return route.scope
    is_link = route.gateway is None and route.destination.version == 4
    return RT_SCOPE_LINK if is_link else RT_SCOPE_UNIVERSE


def add(route: Route, *, append: bool = False) -> Request:
    """Add a route; with `append` another next hop may be there already."""
    flags = NLM_F_CREATE | (NLM_F_APPEND if append else NLM_F_EXCL)
    return Request("add", _message(route), RTM_NEWROUTE, flags, about=route)


def copy(found: Route, index: int) -> Request:
    """Set a link's route, of one next hop, by another link, beside what is there; with all its attributes."""
    head = HEADER.size
    *most, flags = RTMSG.unpack_from(found.message, head)
    body = RTMSG.pack(*most, flags & RTNH_F_ONLINK)
    body += pack.without(found.message, head + RTMSG.size, RTA_OIF, RTA_CACHEINFO, RTA_NH_ID)
    body += pack.u32(RTA_OIF, index)
    there = frozenset((errno.EEXIST,))
    return Request("add", body, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, there, about=found)


def delete(route: Route) -> Request:
    """Delete a route; gone is success."""
    gone = frozenset((errno.ESRCH,))
    return Request("delete", _message(route), RTM_DELROUTE, tolerate=gone, about=route)


def dump(socket: Socket, table: int = RT_TABLE_MAIN) -> list[Route]:
    """The unicast routes of a table, both families, 0 for every table; one that is not there has none."""
    found = (route for each in _bodies(socket, table) for route in _parse(each))
    return [route for route in found if table in (0, route.table)]  # a kernel before 4.20 tells all


def defaults(socket: Socket) -> list[Route]:
    """The default routes of the main table, both families; others are not looked at."""
    bodies = (each for each in _bodies(socket, RT_TABLE_MAIN) if not _prefix_length(each))
    return [route for each in bodies for route in _parse(each) if route.table == RT_TABLE_MAIN]


def _prefix_length(body: bytes) -> int:
    """rtm_dst_len of a message about a route."""
    return body[HEADER.size + 1]


def tables(socket: Socket) -> frozenset[int]:
    """The tables that have any route, of whatever type."""
    return frozenset(_table(each) for each in _bodies(socket, 0))


def _bodies(socket: Socket, table: int) -> Iterator[bytes]:
    wanted = pack.u32(RTA_TABLE, table) if table else b""
    for family in FAMILIES.values():
        message = RTMSG.pack(family, *(0,) * 8) + wanted
        try:
            yield from socket.dump_undecoded(message, RTM_GETROUTE, "list routes")
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise


def _table(body: bytes) -> int:
    small_table = RTMSG.unpack_from(body, HEADER.size)[4]
    found = pack.attributes(body, HEADER.size + RTMSG.size)
    return pack.number(found.get(RTA_TABLE)) or int(small_table)


def _parse(body: bytes) -> list[Route]:
    family, prefix_length, _, _, _, protocol, scope, kind, flags = RTMSG.unpack_from(body, HEADER.size)
    if kind != RTN_UNICAST:
        return []
    found = pack.attributes(body, HEADER.size + RTMSG.size)
    destination = found.get(RTA_DST, bytes(4 if family == sockets.AF_INET else 16))
    metrics = pack.attributes(found.get(RTA_METRICS, b""))
    source = found.get(RTA_PREFSRC)
    hops = list(_hops(found, flags))
    return [
        Route(
            destination=ip_network((destination, prefix_length)),
            gateway=_gateway(hop),
            interface_index=index,
            table=_table(body),
            priority=pack.number(found.get(RTA_PRIORITY)),
            scope=scope,
            protocol=protocol,
            mtu=pack.number(metrics.get(RTAX_MTU)),
            advmss=pack.number(metrics.get(RTAX_ADVMSS)),
            source=ip_address(source) if source else None,
            is_on_link=bool(hop_flags & RTNH_F_ONLINK),
            hops=len(hops),
            message=body,
        )
        for hop_flags, index, hop in hops
    ]


def _hops(found: dict[int, bytes], flags: int) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """(flags, interface, attributes) of each next hop."""
    several = found.get(RTA_MULTIPATH)
    if several is None:
        yield flags, pack.number(found.get(RTA_OIF)), found
        return
    offset = 0
    while offset + RTNEXTHOP.size <= len(several):
        length, hop_flags, _, index = RTNEXTHOP.unpack_from(several, offset)
        if length < RTNEXTHOP.size:
            return
        yield hop_flags, index, pack.attributes(several[: offset + length], offset + RTNEXTHOP.size)
        offset += (length + 3) & ~3


def _gateway(hop: dict[int, bytes]) -> Address | None:
    value = hop.get(RTA_GATEWAY) or hop.get(RTA_VIA, b"")[2:]
    return ip_address(value) if value else None
