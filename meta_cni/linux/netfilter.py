"""
What the kernel says of nf_tables by itself, where a program could not say it.

A program that fails may lack the kernel's support, and then there is nothing of ours, or lack
memory, and then there is. So the kernel is asked for the names of the chains, and for nothing else:
the rules are the program's own (<linux/netfilter/nf_tables.h>).
"""

import errno
import socket as sockets
import struct

from meta_cni.cni.errors import KernelError
from meta_cni.linux.netlink import HEADER, Socket

NETLINK_NETFILTER = 12  # <linux/netlink.h>
NFT_MSG_GETCHAIN = 10 << 8 | 4  # NFNL_SUBSYS_NFTABLES, <linux/netfilter/nfnetlink.h>
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME = 1, 3
NFGENMSG = struct.Struct("=BBH")
ATTRIBUTE = struct.Struct("=HH")
FAMILIES = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}  # NFPROTO_..., <linux/netfilter.h>

UNSUPPORTED = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
"""Without nfnetlink, or without nf_tables (nfnetlink_rcv_msg(), net/netfilter/nfnetlink.c); or not for us."""


def chains(family: str, table: str) -> frozenset[str]:
    """
    The names of a table's chains, in the namespace of the calling thread; none without nf_tables.

    Raises KernelError where that cannot be told.
    """
    message = NFGENMSG.pack(FAMILIES[family], 0, 0)
    action = f"list chains of {family} {table}"
    try:
        with Socket(_raw_socket(action)) as socket:
            found = socket.dump_undecoded(message, NFT_MSG_GETCHAIN, action)
    except KernelError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return frozenset()
    told = [_texts(each[HEADER.size + NFGENMSG.size :]) for each in found]
    return frozenset(each[NFTA_CHAIN_NAME] for each in told if each.get(NFTA_CHAIN_TABLE) == table)


def _raw_socket(action: str) -> sockets.socket:
    kind = sockets.SOCK_RAW | sockets.SOCK_CLOEXEC
    try:
        return sockets.socket(sockets.AF_NETLINK, kind, NETLINK_NETFILTER)
    except OSError as error:
        raise KernelError(action, error.errno or errno.EIO) from None


def _texts(attributes: bytes) -> dict[int, str]:
    """Table and name of a chain."""
    found: dict[int, str] = {}
    while len(attributes) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(attributes)
        if length < ATTRIBUTE.size:
            break
        if kind in (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME):
            found[kind] = attributes[ATTRIBUTE.size : length].rstrip(b"\0").decode(errors="replace")
        attributes = attributes[(length + 3) & ~3 :]
    return found
