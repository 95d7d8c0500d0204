"""
Addresses of links.

An address that an IPAM handed out is nobody else's: with IFA_F_NODAD it works at once, without
the one to two seconds of IPv6 duplicate address detection.
"""

import errno
import socket as sockets
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from meta_cni.cni.result import Address as IPAddress
from meta_cni.cni.result import InterfaceAddress
from meta_cni.linux import pack
from meta_cni.linux.netlink import HEADER, NLM_F_CREATE, NLM_F_EXCL, Reply, Request, Socket, dump_of
from meta_cni.quick import quick

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22  # <linux/rtnetlink.h>
IFADDRMSG = struct.Struct("=BBBBI")  # struct ifaddrmsg, <linux/if_addr.h>
IPV4_MESSAGE = struct.Struct("=BBBBIHH4sHH4sHH4s")
"""One with three attributes of four bytes: what every IPv4 pod gets is packed by one call."""
FOUR_BYTES = 8
"""An attribute with a value of four bytes."""
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 3, 4, 6, 8
ATTRIBUTES = HEADER.size + IFADDRMSG.size
"""Where they begin in a message."""
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_PERMANENT = 0x02, 0x08, 0x40, 0x80


@quick
@dataclass(frozen=True, slots=True)
class Address:
    """One address of a link."""

    interface_index: int
    address: InterfaceAddress
    is_tentative: bool = False
    is_duplicate: bool = False
    is_permanent: bool = True
    """Nobody has to prolong it."""
    scope: int = 0
    """RT_SCOPE_*, <linux/rtnetlink.h>: how far away it is known."""
    message: bytes = field(default=b"", repr=False, compare=False)
    """As it came, with what has no field here."""

    @property
    def ip(self) -> IPAddress:
        """The address without its prefix."""
        return self.address.ip


def _message(index: int, address: InterfaceAddress, *more: bytes, flags: int = 0) -> bytes:
    family = sockets.AF_INET if address.version == 4 else sockets.AF_INET6
    header = IFADDRMSG.pack(family, address.network.prefixlen, flags, 0, index)
    packed = address.packed
    both = pack.attribute(IFA_LOCAL, packed) + pack.attribute(IFA_ADDRESS, packed)
    return b"".join((header, both, *more))


def add(index: int, address: InterfaceAddress, *, is_nodad: bool = True) -> Request:
    """Put an address on a link; IPv4 gets its broadcast address where the network has one."""
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        message = _with_broadcast(index, address)
    elif isinstance(address, IPv6Interface) and is_nodad:
        message = _message(index, address, pack.u32(IFA_FLAGS, IFA_F_NODAD), flags=IFA_F_NODAD)
    else:
        message = _message(index, address)
    return Request("add address", message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, about=address)


def _with_broadcast(index: int, address: IPv4Interface) -> bytes:
    """All bits of the host set; the library makes an object of it, and locks for that."""
    own, prefix_length, number = address.packed, address.network.prefixlen, int(address)
    broadcast = (number | (1 << 32 - prefix_length) - 1).to_bytes(4, "big")
    header = sockets.AF_INET, prefix_length, 0, 0, index
    local, all_of_it = (FOUR_BYTES, IFA_LOCAL, own), (FOUR_BYTES, IFA_ADDRESS, own)
    return IPV4_MESSAGE.pack(*header, *local, *all_of_it, FOUR_BYTES, IFA_BROADCAST, broadcast)


def copy(found: Address, index: int) -> Request:
    """
    Put a link's address on another link, for ever, with its peer, broadcast address and metric.

    Its label is the other link's name. One that is there already is left as it is.
    """
    family, prefix_length, _, scope, _ = IFADDRMSG.unpack_from(found.message, HEADER.size)
    is_nodad = family == sockets.AF_INET6
    body = IFADDRMSG.pack(family, prefix_length, IFA_F_NODAD if is_nodad else 0, scope, index)
    body += pack.without(found.message, ATTRIBUTES, IFA_LABEL, IFA_CACHEINFO, IFA_FLAGS)
    body += pack.u32(IFA_FLAGS, IFA_F_NODAD) if is_nodad else b""
    there = frozenset((errno.EEXIST,))
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request("add address", body, RTM_NEWADDR, flags, there, about=found.address)


def delete(index: int, address: InterfaceAddress) -> Request:
    """Take an address off a link."""
    return Request("delete address", _message(index, address), RTM_DELADDR, about=address)


def dump(socket: Socket, index: int = 0) -> Sequence[Address]:
    """The addresses of a link, or of every link."""
    return [_parse(each) for each in _bodies(socket, index)]


def list_of(index: int) -> Request:
    """Ask for the addresses of a link, or of every link; are_in() reads the answer."""
    return dump_of(IFADDRMSG.pack(0, 0, 0, 0, index), RTM_GETADDR, "list addresses")


def are_in(reply: Reply, index: int, wanted: Collection[tuple[IPAddress, int]]) -> bool:
    """Has a link, for all that is known, all of these addresses, with these prefix lengths?"""
    missing = {(address.packed, prefix_length) for address, prefix_length in wanted}
    lengths = [prefix_length for _, prefix_length in wanted]
    for each in reply.echoed:
        _, prefix_length, _, _, its = IFADDRMSG.unpack_from(each, HEADER.size)
        if its == index and prefix_length in lengths:  # not so the bridge's own link-local one
            missing.discard((_own(pack.attributes(each, ATTRIBUTES)), prefix_length))
    return not missing and not reply.is_interrupted


def _bodies(socket: Socket, index: int) -> Iterator[bytes]:
    """The messages about a link, or about every one."""
    asked = list_of(index)
    return _of_link(socket.dump_undecoded(asked.message, asked.type, asked.action), index)


def _of_link(bodies: Sequence[bytes], index: int) -> Iterator[bytes]:
    """An old kernel tells of all in any case."""
    return (each for each in bodies if index in (0, IFADDRMSG.unpack_from(each, HEADER.size)[4]))


def _own(found: Mapping[int, bytes]) -> bytes:
    """The link's own address, where the peer's is another."""
    return found.get(IFA_LOCAL) or found[IFA_ADDRESS]


def _parse(body: bytes) -> Address:
    _, prefix_length, short_flags, scope, index = IFADDRMSG.unpack_from(body, HEADER.size)
    found = pack.attributes(body, ATTRIBUTES)
    own = ip_address(_own(found))
    flags = pack.number(found.get(IFA_FLAGS)) or short_flags
    return Address(
        interface_index=index,
        address=interface_address(own, prefix_length),
        is_tentative=bool(flags & IFA_F_TENTATIVE),
        is_duplicate=bool(flags & IFA_F_DADFAILED),
        is_permanent=bool(flags & IFA_F_PERMANENT),
        scope=scope,
        message=body,
    )


def interface_address(ip: IPAddress, prefix_length: int) -> InterfaceAddress:
    """An address with a prefix length; from the number, which need not be read as text."""
    kind = IPv4Interface if ip.version == 4 else IPv6Interface
    return kind((int(ip), prefix_length))
