"""
Addresses of links.

An address that an IPAM handed out is nobody else's: with IFA_F_NODAD it works at once, without
the one to two seconds of IPv6 duplicate address detection.
"""

import socket as sockets
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, ip_interface

from meta_cni.cni.result import Address as IPAddress
from meta_cni.cni.result import InterfaceAddress
from meta_cni.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, Message, Request, Socket

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22  # <linux/rtnetlink.h>
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x08, 0x40  # <linux/if_addr.h>


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


def _message(index: int, address: InterfaceAddress | None) -> Message:
    from meta_cni.linux.codec import ifaddrmsg  # noqa: PLC0415 - 50 ms to import

    message = ifaddrmsg()
    message["index"] = index
    if address is not None:
        message["family"] = sockets.AF_INET if address.version == 4 else sockets.AF_INET6
        message["prefixlen"] = address.network.prefixlen
        message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    return message


def add(index: int, address: InterfaceAddress, *, is_nodad: bool = True) -> Request:
    """Put an address on a link; IPv4 gets its broadcast address where the network has one."""
    message = _message(index, address)
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        message["attrs"].append(("IFA_BROADCAST", str(address.network.broadcast_address)))
    if address.version == 6 and is_nodad:
        message["flags"] = IFA_F_NODAD
        message["attrs"].append(("IFA_FLAGS", IFA_F_NODAD))
    return Request(f"add address {address}", message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)


def delete(index: int, address: InterfaceAddress) -> Request:
    """Take an address off a link."""
    return Request(f"delete address {address}", _message(index, address), RTM_DELADDR)


def dump(socket: Socket, index: int = 0) -> Sequence[Address]:
    """The addresses of a link, or of every link."""
    message = _message(index, None)
    found = [_decode(each) for each in socket.dump(message, RTM_GETADDR, "list addresses")]
    return [each for each in found if index in (0, each.interface_index)]


def _decode(message: Message) -> Address:
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return Address(
        interface_index=message["index"],
        address=ip_interface(f"{text}/{message['prefixlen']}"),
        is_tentative=bool(flags & IFA_F_TENTATIVE),
        is_duplicate=bool(flags & IFA_F_DADFAILED),
    )


def interface_address(ip: IPAddress, prefix_length: int) -> InterfaceAddress:
    """An address with a prefix length."""
    return ip_interface(f"{ip}/{prefix_length}")
