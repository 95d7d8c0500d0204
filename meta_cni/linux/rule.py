"""
Policy rules: by what a packet is, in which table its route is looked up (ip-rule(8)).

A rule has a protocol (FRA_PROTOCOL, Linux 4.17), as a route has: it says who made it, so that
whoever removes rules can leave alone what others made.
"""

import errno
import socket as sockets
import struct
from dataclasses import dataclass, field
from ipaddress import ip_network

from meta_cni.cni.result import Address, Network
from meta_cni.linux import pack
from meta_cni.linux.netlink import HEADER, NLM_F_CREATE, NLM_F_EXCL, Request, Socket
from meta_cni.linux.route import FAMILIES, RT_TABLE_COMPAT
from meta_cni.quick import quick

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34  # <linux/rtnetlink.h>
HEAD = struct.Struct("=BBBBBxxBI")  # struct fib_rule_hdr, <linux/fib_rules.h>
FRA_SRC, FRA_PRIORITY, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PAD, FRA_PROTOCOL = 2, 6, 14, 15, 18, 21
FR_ACT_TO_TBL = 1
FIB_RULE_INVERT = 2
GONE = frozenset((errno.ENOENT,))
NOT_SUPPRESSED = b"\xff" * 4  # -1: the kernel's word for none
BY_SOURCE = frozenset((FRA_SRC, FRA_PRIORITY, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PAD, FRA_PROTOCOL))
"""The attributes of a rule that asks for the source alone."""


@quick
@dataclass(frozen=True, slots=True)
class Rule:
    """What comes from some addresses is looked up in a table."""

    source: Network
    """Everything, where a rule does not ask for it."""
    table: int
    """0 for an action that is no look-up."""
    priority: int = 0
    """The lowest is asked first; 0 has the kernel choose one before all but the first rule."""
    protocol: int = 0
    """Who made it."""
    is_by_source: bool = True
    """It asks for the source, and for nothing else."""
    message: bytes = field(default=b"", repr=False, compare=False)
    """As it came, with what else it asks for."""

    def is_from(self, ip: Address) -> bool:
        """Does it ask for this source alone?"""
        return self.is_by_source and self.source == alone(ip)


def alone(ip: Address) -> Network:
    """The network that has this address and no other."""
    return ip_network(ip)


def _message(rule: Rule) -> bytes:
    header = HEAD.pack(
        FAMILIES[rule.source.version],
        0,
        rule.source.prefixlen,
        0,
        rule.table if rule.table < 256 else RT_TABLE_COMPAT,
        FR_ACT_TO_TBL,
        0,
    )
    attributes = [pack.u32(FRA_TABLE, rule.table)]
    if rule.source.prefixlen:
        attributes.append(pack.attribute(FRA_SRC, rule.source.network_address.packed))
    if rule.priority:
        attributes.append(pack.u32(FRA_PRIORITY, rule.priority))
    if rule.protocol:
        attributes.append(pack.u8(FRA_PROTOCOL, rule.protocol))
    return header + b"".join(attributes)


def _told(rule: Rule) -> str:
    return f"rule from {rule.source} lookup {rule.table}"


def add(rule: Rule) -> Request:
    """Add a rule by source; an equal one is an error if it has the same priority, which is then not 0."""
    return Request(f"add {_told(rule)}", _message(rule), RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)


def delete(rule: Rule) -> Request:
    """Delete a rule by source; gone is success."""
    return Request(f"delete {_told(rule)}", _message(rule), RTM_DELRULE, tolerate=GONE)


def copy(found: Rule, protocol: int) -> Request:
    """Add a rule of another namespace, whatever it asks for, as made by `protocol`; unless it is there."""
    body = _as_it_is(found, FRA_PROTOCOL) + pack.u8(FRA_PROTOCOL, protocol)
    there = frozenset((errno.EEXIST,))
    return Request(f"add {_told(found)}", body, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, there)


def delete_found(found: Rule) -> Request:
    """Delete a rule as the kernel told it, whatever it asks for; gone is success."""
    return Request(f"delete {_told(found)}", _as_it_is(found), RTM_DELRULE, tolerate=GONE)


def _as_it_is(found: Rule, *without: int) -> bytes:
    """Without what the kernel tells of its interfaces at the moment."""
    *most, flags = HEAD.unpack_from(found.message, HEADER.size)
    attributes = pack.without(found.message, HEADER.size + HEAD.size, FRA_PAD, *without)
    return HEAD.pack(*most, flags & FIB_RULE_INVERT) + attributes


def dump(socket: Socket) -> list[Rule]:
    """Every rule of both families, in the order in which they are asked."""
    message = HEAD.pack(*(0,) * 7)
    bodies = socket.dump_undecoded(message, RTM_GETRULE, "list rules")
    return [_parse(each) for each in bodies if each[HEADER.size] in FAMILIES.values()]  # not of multicast


def _parse(body: bytes) -> Rule:
    family, other_length, length, tos, small_table, action, flags = HEAD.unpack_from(body, HEADER.size)
    found = pack.attributes(body, HEADER.size + HEAD.size)
    source = found.get(FRA_SRC, bytes(4 if family == sockets.AF_INET else 16))
    suppressed = found.get(FRA_SUPPRESS_PREFIXLEN, NOT_SUPPRESSED)
    return Rule(
        source=ip_network((source, length)),
        table=(pack.number(found.get(FRA_TABLE)) or small_table) if action == FR_ACT_TO_TBL else 0,
        priority=pack.number(found.get(FRA_PRIORITY)),
        protocol=found.get(FRA_PROTOCOL, b"\0")[0],
        is_by_source=bool(length)
        and action == FR_ACT_TO_TBL
        and not (other_length or tos or flags & FIB_RULE_INVERT)
        and suppressed == NOT_SUPPRESSED
        and BY_SOURCE.issuperset(found),
        message=body,
    )
