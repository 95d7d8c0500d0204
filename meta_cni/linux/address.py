"""
Addresses of links.

An address that an IPAM handed out is nobody else's: with IFA_F_NODAD it works at once, without
the one to two seconds of IPv6 duplicate address detection.
"""

import socket as sockets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from meta_cni.cni.result import Address as IPAddress
from meta_cni.cni.result import InterfaceAddress
from meta_cni.linux import pack
from meta_cni.linux.netlink import HEADER, NLM_F_CREATE, NLM_F_EXCL, Request, Socket

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22  # <linux/rtnetlink.h>
IFADDRMSG = struct.Struct("=BBBBI")  # struct ifaddrmsg, <linux/if_addr.h>
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x08, 0x40


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a link."""

    interface_index: int
    address: InterfaceAddress
    is_tentative: bool = False
    is_duplicate: bool = False

    @property
    def ip(self) -> IPAddress:
        """The address without its prefix."""
        return self.address.ip


def _message(index: int, address: InterfaceAddress, *more: bytes, flags: int = 0) -> bytes:
    family = sockets.AF_INET if address.version == 4 else sockets.AF_INET6
    header = IFADDRMSG.pack(family, address.network.prefixlen, flags, 0, index)
    packed = address.ip.packed
    both = pack.attribute(IFA_LOCAL, packed) + pack.attribute(IFA_ADDRESS, packed)
    return b"".join((header, both, *more))


def add(index: int, address: InterfaceAddress, *, is_nodad: bool = True) -> Request:
    """Put an address on a link; IPv4 gets its broadcast address where the network has one."""
    message = _message(index, address)
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        broadcast = address.network.broadcast_address.packed
        message = _message(index, address, pack.attribute(IFA_BROADCAST, broadcast))
    elif address.version == 6 and is_nodad:
        message = _message(index, address, pack.u32(IFA_FLAGS, IFA_F_NODAD), flags=IFA_F_NODAD)
    return Request(f"add address {address}", message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)


def delete(index: int, address: InterfaceAddress) -> Request:
    """Take an address off a link."""
    return Request(f"delete address {address}", _message(index, address), RTM_DELADDR)


def dump(socket: Socket, index: int = 0) -> Sequence[Address]:
    """The addresses of a link, or of every link."""
    message = IFADDRMSG.pack(0, 0, 0, 0, index)
    found = [_parse(each) for each in socket.dump_undecoded(message, RTM_GETADDR, "list addresses")]
    return [each for each in found if index in (0, each.interface_index)]


def _parse(body: bytes) -> Address:
    _, prefix_length, short_flags, _, index = IFADDRMSG.unpack_from(body, HEADER.size)
    found = pack.attributes(body, HEADER.size + IFADDRMSG.size)
    own = ip_address(found.get(IFA_LOCAL) or found[IFA_ADDRESS])
    flags = pack.number(found.get(IFA_FLAGS)) or short_flags
    return Address(
        interface_index=index,
        address=interface_address(own, prefix_length),
        is_tentative=bool(flags & IFA_F_TENTATIVE),
        is_duplicate=bool(flags & IFA_F_DADFAILED),
    )


def interface_address(ip: IPAddress, prefix_length: int) -> InterfaceAddress:
    """An address with a prefix length; from the number, which need not be read as text."""
    kind = IPv4Interface if ip.version == 4 else IPv6Interface
    return kind((int(ip), prefix_length))
