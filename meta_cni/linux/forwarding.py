"""
Does the node forward packets? Asked for in a batch: to read the parameter is three system calls.

What is turned on is the parameter, which is told of by its path when that fails.
"""

import errno
import struct
from collections.abc import Collection, Sequence

from meta_cni.cni.result import InterfaceAddress
from meta_cni.linux import pack, sysctl
from meta_cni.linux.netlink import HEADER, Reply, Request
from meta_cni.linux.route import FAMILIES

RTM_GETNETCONF = 82  # <linux/rtnetlink.h>
NETCONFA_IFINDEX, NETCONFA_FORWARDING = 1, 2  # <linux/netconf.h>
NETCONFA_IFINDEX_ALL = struct.pack("=i", -1)
NETCONFMSG = struct.Struct("=B3x")  # struct netconfmsg with its padding
PATHS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
UNTOLD = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.EPERM))
"""A kernel without IPv6, or one that tells it nobody: the parameter is looked at."""

_QUESTIONS = {
    version: Request(
        f"look up IPv{version} forwarding",
        NETCONFMSG.pack(family) + pack.attribute(NETCONFA_IFINDEX, NETCONFA_IFINDEX_ALL),
        RTM_GETNETCONF,
        0,
        UNTOLD,
        is_question=True,
    )
    for version, family in FAMILIES.items()
}


def questions(addresses: Collection[InterfaceAddress]) -> list[Request]:
    """Does the node forward what comes for these addresses? One for each of their families."""
    return [each for version, each in _QUESTIONS.items() if any(a.version == version for a in addresses)]


def turn_on(replies: Sequence[Reply]) -> None:
    """Turn on what is not, by the answers to questions(); raises KernelError naming the parameter."""
    for version, question in _QUESTIONS.items():
        for reply in replies:
            if reply.request is question and not _is_on(reply):
                sysctl.write(PATHS[version], "1")


def _is_on(reply: Reply) -> bool:
    told = (
        pack.find(reply.echoed[0], NETCONFA_FORWARDING, HEADER.size + NETCONFMSG.size)
        if reply.echoed
        else None
    )
    return pack.number(told) != 0
