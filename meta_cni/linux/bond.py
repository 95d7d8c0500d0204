"""
Bonds: several links that are one (Documentation/networking/bonding.rst).

The kernel keeps a member's MAC and MTU, and gives them back when it is released or the bond is
deleted; the member is down then.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType

from meta_cni.linux import link, pack
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, Request, Socket

MODES = {  # BOND_MODE_*, <linux/if_bonding.h>
    "balance-rr": 0,
    "active-backup": 1,
    "balance-xor": 2,
    "broadcast": 3,
    "802.3ad": 4,
    "balance-tlb": 5,
    "balance-alb": 6,
}
POLICIES = {  # BOND_XMIT_POLICY_*
    "layer2": 0,
    "layer3+4": 1,
    "layer2+3": 2,
    "encap2+3": 3,
    "encap3+4": 4,
    "vlan+srcmac": 5,
}
IFLA_BOND_MODE, IFLA_BOND_MIIMON, IFLA_BOND_FAIL_OVER_MAC = 1, 3, 13  # <linux/if_link.h>
IFLA_BOND_XMIT_HASH_POLICY, IFLA_BOND_ALL_SLAVES_ACTIVE, IFLA_BOND_TLB_DYNAMIC_LB = 14, 17, 27
LOCALLY_ADMINISTERED = b"\x02"


@dataclass(frozen=True, slots=True)
class Options:
    """What a bond is made with; what is not chosen is the kernel's default."""

    mode: str
    monitor_ms: int
    """How often the carriers of the members are looked at."""
    choices: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """More attributes, of 8 bits each."""


def create(name: str, options: Options, *, mtu: int = 0, group: int = 0) -> Request:
    """A bond without members, down: some options can be set in no other state."""
    data = pack.u8(IFLA_BOND_MODE, MODES[options.mode])
    data += pack.u32(IFLA_BOND_MIIMON, options.monitor_ms)
    data += b"".join(pack.u8(kind, value) for kind, value in options.choices.items())
    attributes = pack.text(link.IFLA_IFNAME, name) + link.ethernet("", mtu, group)
    message = pack.link(attributes + link.link_info("bond", data))
    return Request(f"create bond {name}", message, link.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def options_of(found: Link, wanted: Options) -> Options:
    """Those of a bond, as far as they are wanted."""
    data = link.data_of(found)
    mode = data.get(IFLA_BOND_MODE, b"\xff")[0]
    return Options(
        next((name for name, number in MODES.items() if number == mode), ""),
        pack.number(data.get(IFLA_BOND_MIIMON)),
        {kind: data.get(kind, b"\xff")[0] for kind in wanted.choices},
    )


def enslave(socket: Socket, member: Link, bond: Link) -> None:
    """Put a link into a bond, which wants it down, and up again."""
    change = replace(
        link.set_link(member.index, master=bond.index), action=f"put {member.name} into bond {bond.name}"
    )
    down, up = (link.set_link(member.index, is_up=each) for each in (False, True))
    socket.request([down, change])
    socket.request([up])


def distinct_mac(mac: str, name: str) -> str:
    """
    Instead of a MAC that another member has: it always is the same, so that it can be taken back.

    Some cards give their virtual functions one MAC; a bond of them would answer its own frames.
    """
    digest = sha256(f"{mac} {name}".encode()).digest()
    return (LOCALLY_ADMINISTERED + digest[:5]).hex(":")


def duplicates(members: Collection[Link]) -> dict[Link, str]:
    """The members whose MAC one before them has, and what they get instead."""
    seen: set[str] = set()
    found: dict[Link, str] = {}
    for each in members:
        if each.mac in seen:
            found[each] = distinct_mac(each.mac, each.name)
        seen.add(each.mac)
    return found


def disguised(members: Collection[Link]) -> dict[Link, str]:
    """The members that got a MAC instead of their own, and their own."""
    macs = {each.mac for each in members}
    return {
        each: mac
        for each in members
        for mac in macs
        if mac != each.mac and distinct_mac(mac, each.name) == each.mac
    }
