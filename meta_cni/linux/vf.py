"""
The settings of a virtual function (VF), which its card keeps: told and changed through the physical one (PF).

One message a setting, so that a driver's refusal names it; RTM_GETLINK with RTEXT_FILTER_VF tells
them all (<linux/if_link.h>). Which of them a driver knows is its own affair: what it does not tell
is None here.
"""

import errno
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace

from meta_cni.cni.errors import KernelError
from meta_cni.linux import pack
from meta_cni.linux.link import (
    GONE,
    IFLA_EXT_MASK,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETLINK,
    RTM_NEWLINK,
    is_infiniband,
)
from meta_cni.linux.netlink import HEADER, Request, Socket

RTEXT_FILTER_VF = 1  # <linux/rtnetlink.h>
IFLA_VFINFO_LIST, IFLA_VF_INFO = 22, 1  # <linux/if_link.h>
IFLA_VF_MAC, IFLA_VF_VLAN, IFLA_VF_SPOOFCHK, IFLA_VF_LINK_STATE = 1, 2, 4, 5
IFLA_VF_RATE, IFLA_VF_TRUST = 6, 9
IFLA_VF_IB_NODE_GUID, IFLA_VF_IB_PORT_GUID, IFLA_VF_VLAN_LIST, IFLA_VF_VLAN_INFO = 10, 11, 12, 1
MAX_ADDR_LEN, ETH_ALEN = 32, 6  # <linux/netdevice.h>, <linux/if_ether.h>
PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}  # ETH_P_8021Q and ETH_P_8021AD, <linux/if_ether.h>
LINK_STATES = ("auto", "enable", "disable")
"""In the order of IFLA_VF_LINK_STATE_*."""
ON_OFF = ("off", "on")
NOT_YET = (errno.EBUSY, errno.EAGAIN)
"""A driver is still at work on what it was told before, or resets the VF."""
PAUSES_S = (0.005, 0.01, 0.02, 0.04, *(0.1,) * 19)
"""Between two tries: two seconds in all, as the reference plugin, but short at first."""
NO_MAC = "00:00:00:00:00:00"
"""The VF's driver chooses one."""
NO_GUIDS = (None, "00:00:00:00:00:00:00:00")
"""What is told of a VF that has none, or by a driver that does not tell it."""
ANY_GUID = "ff:ff:ff:ff:ff:ff:ff:ff"
"""Takes a GUID away: the fabric gives one."""


@dataclass(frozen=True, slots=True)
class Vlan:
    """What the card puts on and takes off; id 0 is none."""

    id: int
    qos: int = 0
    protocol: str = "802.1q"


@dataclass(frozen=True, slots=True)
class Rate:
    """Of sending; 0 is no bound."""

    min_mbps: int = 0
    max_mbps: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """None is what the driver does not tell, and what is left alone."""

    vlan: Vlan | None = None
    mac: str | None = None
    """The administrative address; NO_MAC for none."""
    rate: Rate | None = None
    is_spoof_checked: bool | None = None
    is_trusted: bool | None = None
    link_state: str | None = None
    """One of LINK_STATES."""
    node_guid: str | None = None
    """InfiniBand, eight bytes like 02:00:5e:00:53:00:00:01."""
    port_guid: str | None = None

    def differing(self, other: "Settings") -> "Settings":
        """What is set here and is another value there."""
        names = [each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name)]
        return replace(Settings(), **{name: getattr(self, name) for name in names})

    def among(self, other: "Settings") -> "Settings":
        """What is set here, of all that is set there."""
        names = [each.name for each in fields(self) if getattr(other, each.name) is not None]
        return replace(Settings(), **{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class Target:
    """A VF as messages name it."""

    parent_index: int
    parent: str
    """The name of the PF's link."""
    number: int
    driver: str
    """The PF's."""

    def __str__(self) -> str:
        return f"VF {self.number} of {self.parent} ({self.driver or 'no driver'})"


def requests(target: Target, wanted: Settings) -> list[Request]:
    """A message for each setting, in the reference plugin's order: a rate must fit, and trust comes late."""
    told: list[Request] = []
    for name, (text, packed) in _MESSAGES.items():
        value = getattr(wanted, name)
        if value is not None:
            information = pack.nested(IFLA_VF_INFO, packed(target.number, value))
            message = pack.link(pack.nested(IFLA_VFINFO_LIST, information), index=target.parent_index)
            told.append(Request(f"set {text(value)} of {target}", message, RTM_NEWLINK))
    return told


def apply(socket: Socket, target: Target, wanted: Settings) -> None:
    """Set what is given, one after the other; raises KernelError of the first that is refused."""
    for each in requests(target, wanted):
        persist(socket, each, NOT_YET)
    if wanted.mac is not None:
        _await_mac(socket, target, wanted.mac)


def persist(socket: Socket, request: Request, not_yet: Collection[int]) -> None:
    """Repeat a request while it is refused with one of these errors, for two seconds."""
    for pause_s in PAUSES_S:
        try:
            socket.request([request])
            return
        except KernelError as error:
            if error.errno not in not_yet:
                raise
        time.sleep(pause_s)
    socket.request([request])


def with_guids(settings: Settings) -> Settings:
    """What takes a GUID away again stands where there was none."""
    node, port = (ANY_GUID if each in NO_GUIDS else each for each in (settings.node_guid, settings.port_guid))
    return replace(settings, node_guid=node, port_guid=port)


def _await_mac(socket: Socket, target: Target, mac: str) -> None:
    """Some drivers answer before it is so."""
    for pause_s in (0.0, *PAUSES_S):
        time.sleep(pause_s)
        found = read(socket, target)
        if found is None or found.mac == mac:
            return
    raise KernelError(f"set mac {mac} of {target}: it is {found.mac if found else ''}", errno.ETIMEDOUT)


def _vlan(number: int, vlan: Vlan) -> bytes:
    """The list is of Linux 4.9; it is needed for 802.1ad alone."""
    if vlan.protocol == "802.1q":
        return pack.attribute(IFLA_VF_VLAN, struct.pack("=III", number, vlan.id, vlan.qos))
    protocol = struct.pack("!H", PROTOCOLS[vlan.protocol])
    one = struct.pack("=III2s2x", number, vlan.id, vlan.qos, protocol)
    return pack.nested(IFLA_VF_VLAN_LIST, pack.attribute(IFLA_VF_VLAN_INFO, one))


def _mac(number: int, mac: str) -> bytes:
    return pack.attribute(IFLA_VF_MAC, struct.pack(f"=I{MAX_ADDR_LEN}s", number, _octets(mac)))


def _rate(number: int, rate: Rate) -> bytes:
    return pack.attribute(IFLA_VF_RATE, struct.pack("=III", number, rate.min_mbps, rate.max_mbps))


def _switch(kind: int) -> Callable[[int, bool], bytes]:
    return lambda number, value: pack.attribute(kind, struct.pack("=II", number, value))


def _link_state(number: int, state: str) -> bytes:
    return pack.attribute(IFLA_VF_LINK_STATE, struct.pack("=II", number, LINK_STATES.index(state)))


def _guid(kind: int) -> Callable[[int, str], bytes]:
    """struct ifla_vf_guid, whose second member is a number of 64 bits, aligned."""
    return lambda number, guid: pack.attribute(
        kind, struct.pack("@IQ", number, int.from_bytes(_octets(guid), "big"))
    )


def _octets(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _vlan_text(vlan: Vlan) -> str:
    qos = f" qos {vlan.qos}" if vlan.qos else ""
    return f"vlan {vlan.id}{qos}{'' if vlan.protocol == '802.1q' else f' protocol {vlan.protocol}'}"


def _rate_text(rate: Rate) -> str:
    """Those that are bounds; without any, the upper one is taken away."""
    low = f"min_tx_rate {rate.min_mbps}" if rate.min_mbps else ""
    high = f"max_tx_rate {rate.max_mbps}" if rate.max_mbps or not low else ""
    return " ".join(each for each in (low, high) if each)


_MESSAGES: dict[str, tuple[Callable[..., str], Callable[..., bytes]]] = {
    "vlan": (_vlan_text, _vlan),
    "mac": ("mac {}".format, _mac),
    "rate": (_rate_text, _rate),
    "is_spoof_checked": (lambda value: f"spoofchk {ON_OFF[value]}", _switch(IFLA_VF_SPOOFCHK)),
    "is_trusted": (lambda value: f"trust {ON_OFF[value]}", _switch(IFLA_VF_TRUST)),
    "link_state": ("link_state {}".format, _link_state),
    "node_guid": ("node guid {}".format, _guid(IFLA_VF_IB_NODE_GUID)),
    "port_guid": ("port guid {}".format, _guid(IFLA_VF_IB_PORT_GUID)),
}
"""Setting -> how it is told, and how it is packed; in the order in which they are made."""


def read(socket: Socket, target: Target) -> Settings | None:
    """What the PF tells of a VF; None where it tells nothing of it."""
    mask = pack.u32(IFLA_EXT_MASK, RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS)
    message = pack.link(mask, index=target.parent_index)
    (reply,) = socket.request([Request(f"read {target}", message, RTM_GETLINK, tolerate=GONE)])
    return parse(reply.echoed[0], target.number) if reply.echoed else None


def parse(body: bytes, number: int) -> Settings | None:
    """
    One VF out of the PF's RTM_NEWLINK; None where it is not there.

    A PF of InfiniBand tells its own address as everybody's (ipoib_get_vf_config()): that is no setting.
    """
    listed = pack.attributes(body, HEADER.size + pack.IFINFOMSG.size).get(IFLA_VFINFO_LIST, b"")
    for kind, information in pack.split(listed):
        found = pack.attributes(information)
        if kind == IFLA_VF_INFO and pack.number(found.get(IFLA_VF_MAC, b"\xff" * 4)[:4]) == number:
            settings = _settings(found)
            return replace(settings, mac=None) if is_infiniband(body) else settings
    return None


def _settings(found: dict[int, bytes]) -> Settings:
    rate = _numbers(found.get(IFLA_VF_RATE), 3)
    state = _number(found.get(IFLA_VF_LINK_STATE))
    return Settings(
        vlan=_vlan_of(found),
        mac=found[IFLA_VF_MAC][4 : 4 + ETH_ALEN].hex(":"),
        rate=Rate(*rate[1:]) if rate else None,
        is_spoof_checked=_boolean(found.get(IFLA_VF_SPOOFCHK)),
        is_trusted=_boolean(found.get(IFLA_VF_TRUST)),
        link_state=LINK_STATES[state] if state is not None and state < len(LINK_STATES) else None,
        node_guid=_guid_of(found.get(IFLA_VF_IB_NODE_GUID)),
        port_guid=_guid_of(found.get(IFLA_VF_IB_PORT_GUID)),
    )


def _vlan_of(found: dict[int, bytes]) -> Vlan | None:
    """The list has the protocol; a VF without a VLAN may have any, or none."""
    infos = pack.attributes(found.get(IFLA_VF_VLAN_LIST, b""))
    if IFLA_VF_VLAN_INFO in infos:
        _, vid, qos, protocol = struct.unpack_from("=III2s", infos[IFLA_VF_VLAN_INFO])
        names = {number: name for name, number in PROTOCOLS.items()}
        return Vlan(vid, qos, names.get(int.from_bytes(protocol, "big"), "802.1q"))
    numbers = _numbers(found.get(IFLA_VF_VLAN), 3)
    return Vlan(numbers[1], numbers[2]) if numbers else None


def _numbers(value: bytes | None, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"={count}I", value) if value else ()


def _number(value: bytes | None) -> int | None:
    """The second number, behind the VF's."""
    numbers = _numbers(value, 2)
    return numbers[1] if numbers else None


def _boolean(value: bytes | None) -> bool | None:
    """What a driver does not know is -1 (rtnl_fill_vfinfo(), net/core/rtnetlink.c)."""
    number = _number(value)
    return bool(number) if number in (0, 1) else None


def _guid_of(value: bytes | None) -> str | None:
    if not value:
        return None
    _, guid = struct.unpack_from("@IQ", value)
    return int(guid).to_bytes(8, "big").hex(":")
