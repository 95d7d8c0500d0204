"""
VRFs: a table of routes for some links of a namespace alone (Documentation/networking/vrf.rst).

A link that gets a master goes down and up: the main table loses its routes, the VRF's gets those
to the networks of its addresses. All others are put there by hand.
"""

import errno
from dataclasses import replace

from meta_cni.linux import address, link, pack, route, rule
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Request, Socket

IFLA_VRF_TABLE = 1  # <linux/if_link.h>
RTPROT_KERNEL = 2  # <linux/rtnetlink.h>
RESERVED_TABLES = range(253, 256)
"""default, main and local."""
THERE = frozenset((errno.EEXIST,))


def create(name: str, table: int) -> Request:
    """A VRF, up."""
    return link.create("vrf", name, pack.u32(IFLA_VRF_TABLE, table))


def table_of(found: Link | None) -> int:
    """The table of a VRF; 0 of what is none."""
    if found is None or found.kind != "vrf":
        return 0
    return pack.number(link.data_of(found).get(IFLA_VRF_TABLE))


def members(socket: Socket, index: int) -> list[Link]:
    """The links that have it as their master."""
    return [each for each in link.dump(socket) if each.master == index]


def free_table(socket: Socket) -> int:
    """The lowest that no VRF has, and nobody else uses for routes or rules."""
    used = {table_of(each) for each in link.dump(socket)}
    used |= {*route.tables(socket), *(each.table for each in rule.dump(socket)), *RESERVED_TABLES}
    return next(each for each in range(1, 2**32) if each not in used)


def enslave(socket: Socket, found: Link, vrf: Link) -> None:
    """Put a link into a VRF, with its IPv6 addresses and its routes of the main table."""
    before = [each for each in address.dump(socket, found.index) if not each.address.ip.is_link_local]
    routes = [
        each
        for each in route.dump(socket)
        if each.interface_index == found.index and each.hops == 1 and each.protocol != RTPROT_KERNEL
    ]
    change = link.set_link(found.index, master=vrf.index)
    socket.request([replace(change, action=f"put {found.name} into VRF {vrf.name}")])
    after = {each.address for each in address.dump(socket, found.index)}
    lost = [each.address for each in before if each.address not in after]
    socket.request([address.add(found.index, each, is_nodad=True) for each in lost])
    table = table_of(vrf)
    moved = sorted((replace(each, table=table) for each in routes), key=lambda each: each.gateway is not None)
    socket.request([replace(route.add(each), tolerate=THERE) for each in moved])
