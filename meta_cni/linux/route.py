"""
Routes, one next hop each: what the kernel reports as one route of several hops is taken apart.

The default route has no RTA_DST in a message; here it is 0.0.0.0/0 or ::/0, as in a Result.
"""

import errno
import socket as sockets
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from meta_cni.cni.result import Address, Network
from meta_cni.linux.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Message, Request, Socket

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26  # <linux/rtnetlink.h>
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RTNH_F_ONLINK = 4
RTN_UNICAST = 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
FAMILIES = {4: sockets.AF_INET, 6: sockets.AF_INET6}
ANYWHERE: dict[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


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


def _new() -> Message:
    from meta_cni.linux.codec import rtmsg  # noqa: PLC0415 - 50 ms to import

    return rtmsg()


def _message(route: Route) -> Message:
    message = _new()
    message["family"] = FAMILIES[route.destination.version]
    message["dst_len"] = route.destination.prefixlen
    message["table"] = route.table if route.table < 256 else 252
    message["proto"] = route.protocol
    message["type"] = RTN_UNICAST
    message["scope"] = _scope(route)
    message["flags"] = RTNH_F_ONLINK if route.is_on_link else 0
    attributes: list[tuple[str, Any]] = [("RTA_TABLE", route.table)]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway is not None:
        attributes.append(_next_hop(route.destination, route.gateway))
    if route.interface_index:
        attributes.append(("RTA_OIF", route.interface_index))
    if route.priority:
        attributes.append(("RTA_PRIORITY", route.priority))
    if route.source is not None:
        attributes.append(("RTA_PREFSRC", str(route.source)))
    metrics = (("RTAX_MTU", route.mtu), ("RTAX_ADVMSS", route.advmss))
    if any(value for _, value in metrics):
        attributes.append(("RTA_METRICS", {"attrs": [(key, value) for key, value in metrics if value]}))
    message["attrs"] = attributes
    return message


def _next_hop(destination: Network, gateway: Address) -> tuple[str, Any]:
    """RTA_VIA names its family, RTA_GATEWAY has the destination's."""
    if gateway.version == destination.version:
        return "RTA_GATEWAY", str(gateway)
    return "RTA_VIA", {"family": FAMILIES[gateway.version], "addr": str(gateway)}


def _scope(route: Route) -> int:
    if route.scope is not None:
        return route.scope
    is_link = route.gateway is None and route.destination.version == 4
    return RT_SCOPE_LINK if is_link else RT_SCOPE_UNIVERSE


def _told(route: Route) -> str:
    hop = f" via {route.gateway}" if route.gateway else ""
    return f"route {route.destination}{hop}"


def add(route: Route, *, append: bool = False) -> Request:
    """Add a route; with `append` another next hop may be there already."""
    flags = NLM_F_CREATE | (NLM_F_APPEND if append else NLM_F_EXCL)
    return Request(f"add {_told(route)}", _message(route), RTM_NEWROUTE, flags)


def delete(route: Route) -> Request:
    """Delete a route; gone is success."""
    gone = frozenset((errno.ESRCH,))
    return Request(f"delete {_told(route)}", _message(route), RTM_DELROUTE, tolerate=gone)


def dump(socket: Socket, table: int = RT_TABLE_MAIN) -> list[Route]:
    """The unicast routes of a table, both families."""
    found: list[Route] = []
    for family in FAMILIES.values():
        message = _new()
        message["family"] = family
        for each in socket.dump(message, RTM_GETROUTE, "list routes"):
            found.extend(route for route in _decode(each) if route.table == table)
    return found


def _decode(message: Message) -> list[Route]:
    if message["type"] != RTN_UNICAST:
        return []
    anywhere = "0.0.0.0" if message["family"] == sockets.AF_INET else "::"
    destination = ip_network(f"{message.get_attr('RTA_DST') or anywhere}/{message['dst_len']}")
    metrics = message.get_attr("RTA_METRICS")
    source = message.get_attr("RTA_PREFSRC")
    hops = message.get_attr("RTA_MULTIPATH") or [message]
    return [
        Route(
            destination=destination,
            gateway=_gateway(hop),
            interface_index=hop["oif"] if hop is not message else message.get_attr("RTA_OIF") or 0,
            table=message.get_attr("RTA_TABLE") or message["table"],
            priority=message.get_attr("RTA_PRIORITY") or 0,
            scope=message["scope"],
            protocol=message["proto"],
            mtu=(metrics.get_attr("RTAX_MTU") if metrics else 0) or 0,
            advmss=(metrics.get_attr("RTAX_ADVMSS") if metrics else 0) or 0,
            source=ip_address(source) if source else None,
            is_on_link=bool(hop["flags"] & RTNH_F_ONLINK),
        )
        for hop in hops
    ]


def _gateway(hop: Message) -> Address | None:
    via = hop.get_attr("RTA_VIA")
    text = via["addr"] if via else hop.get_attr("RTA_GATEWAY")
    return ip_address(text) if text else None
