"""
Random valid networks: a generator for every built-in delegate.

A network has its number in its subnets, in the names of its bridge and of its device, so that two
of a sequence are never in each other's way; what only one attachment may have is exclusive.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import delegates

Plugin = dict[str, Any]

MASTER = "up0"
"""The node's link that every macvlan may share."""
RARELY = 0.02
"""For what executes programs, and for what not every kernel has."""
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
MTUS = (1280, 1400, 1500)
FAMILIES = ((4,), (4,), (4, 6), (6,))


@dataclass
class Draw:
    """The making of one network."""

    random: Random
    number: int
    root: Path
    is_filtering: bool
    """The kernel's bridges have VLANs."""
    kinds: frozenset[str] = frozenset()
    """Of KINDS those that the kernel has."""
    is_mac_guarded: bool = False
    """Only frames from the MAC that the interface was made with come into its bridge."""
    is_loopback_free: bool = False
    """No other network of the sequence has the pods' loopback, of which each pod has one."""
    devices: list[str] = field(default_factory=list)
    """Links of the node that it is to have of its own."""
    networked: list[str] = field(default_factory=list)
    """Those that are to have an address on the node, a route, and a rule to it."""
    is_exclusive: bool = False
    """Only one attachment at a time may have it."""
    families: tuple[int, ...] = ()
    """Of its addresses; empty without IPAM."""

    def maybe(self, probability: float = 0.3, **keys: Any) -> Plugin:
        """The keys, or nothing."""
        return keys if self.random.random() < probability else {}

    def mac(self) -> str:
        """A locally administered address that nobody else has."""
        return "02:00:00:" + ":".join(f"{self.random.randrange(256):02x}" for _ in range(3))

    def mtu(self) -> Plugin:
        """An MTU that IPv6 can live with, on any master."""
        return self.maybe(mtu=self.random.choice(MTUS))

    def device(self) -> str:
        """A link of the node for this network alone."""
        self.is_exclusive = True
        self.devices.append(f"own{self.number}{'abc'[len(self.devices)]}")
        return self.devices[-1]

    def masquerade(self) -> Plugin:
        """ipMasq by either backend, where there is one."""
        backends = [
            name for name, tool in (("iptables", "iptables"), ("nftables", "nft")) if shutil.which(tool)
        ]
        if not (backends and self.families):
            return {}
        return self.maybe(RARELY, ipMasq=True, ipMasqBackend=self.random.choice(backends))

    def ipam(self, *, is_needed: bool = False) -> Plugin:
        """host-local from the directory that all pods share, static, or none."""
        kinds: list[Callable[[], Plugin]] = [self._host_local, self._host_local, self._static]
        chosen = self.random.choice(kinds if is_needed else [*kinds, dict])
        self.families = self.random.choice(FAMILIES) if chosen is not dict else ()
        section = chosen()
        return {"ipam": section} if section else {}

    def subnet(self, version: int) -> str:
        """The network's own."""
        return f"10.{self.number}.0.0/24" if version == 4 else f"fd00:{self.number}::/64"

    def gateway(self, version: int) -> str:
        """The subnet's first address."""
        return (
            self.subnet(version).split("/")[0].removesuffix("0") + "1"
            if version == 4
            else f"fd00:{self.number}::1"
        )

    def _host_local(self) -> Plugin:
        ranges = [[{"subnet": self.subnet(each)}] for each in self.families]
        destinations = {4: f"10.200.{self.number}.0/24", 6: f"fd01:{self.number}::/64"}
        defaults = {4: "0.0.0.0/0", 6: "::/0"}
        source = self.random.choice((destinations, destinations, defaults))
        routes = [{"dst": source[each]} for each in self.families]
        return {
            "type": "host-local",
            "dataDir": str(self.root / "ipam"),
            "ranges": ranges,
            **self.maybe(routes=routes),
        }

    def _static(self) -> Plugin:
        host = self.random.randrange(2, 250)
        texts = {4: f"10.{self.number}.0.{host}/24", 6: f"fd00:{self.number}::{host:x}/64"}
        addresses = [{"address": texts[each], "gateway": self.gateway(each)} for each in self.families]
        return {"type": "static", "addresses": addresses}


def bridge(draw: Draw) -> Plugin:
    """Every key but enabledad: an address that is looked for takes seconds."""
    ipam = draw.ipam()
    keys = draw.random.choice(({}, {"isGateway": True}, {"isDefaultGateway": True}, {"forceAddress": True}))
    port = draw.random.choice(({}, {}, {"hairpinMode": True}, {"promiscMode": True}, {"portIsolation": True}))
    down = {} if ipam else draw.maybe(disableContainerInterface=True)
    vlan = draw.maybe(RARELY, vlan=draw.random.randrange(2, 4095)) if draw.is_filtering else {}
    filters = draw.maybe(RARELY, macspoofchk=True) if shutil.which("nft") else {}
    draw.is_mac_guarded = bool(filters)
    mac = draw.maybe(mac=draw.mac())
    named = {"type": "bridge", "bridge": f"br{draw.number}"}
    return {
        **named,
        **keys,
        **port,
        **down,
        **vlan,
        **filters,
        **mac,
        **draw.mtu(),
        **draw.masquerade(),
        **ipam,
    }


def macvlan(draw: Draw) -> Plugin:
    """On the shared master, or in passthru mode on one of its own."""
    mode = draw.random.choice(("bridge", "bridge", "vepa", "private", "passthru"))
    master = draw.device() if mode == "passthru" else MASTER
    mac = draw.maybe(mac=draw.mac())
    draw.is_exclusive |= bool(mac)  # a master takes each address once
    return {"type": "macvlan", "master": master, "mode": mode, **mac, **draw.mtu(), **draw.ipam()}


def ptp(draw: Draw) -> Plugin:
    """With addresses; the node routes one address to one pod."""
    ipam = draw.ipam(is_needed=True)
    draw.is_exclusive |= ipam["ipam"]["type"] == "static"
    return {"type": "ptp", **draw.mtu(), **ipam, **draw.masquerade()}


def tap(draw: Draw) -> Plugin:
    """With one queue or several."""
    return {
        "type": "tap",
        **draw.maybe(multiQueue=True),
        **draw.maybe(mac=draw.mac()),
        **draw.maybe(owner=0, group=0),
        **draw.mtu(),
        **draw.ipam(),
    }


def host_device(draw: Draw) -> Plugin:
    """A device of its own, which may bring its network along."""
    name = draw.device()
    taken = draw.maybe(useInterfaceNetwork=True)
    draw.networked += [name] if taken else []
    return {"type": "host-device", "device": name, **taken, **draw.ipam()}


def ipvlan(draw: Draw) -> Plugin:
    """On a link of its own: one that has macvlans takes none."""
    mode = draw.random.choice(("l2", "l2", "l3"))
    return {
        "type": "ipvlan",
        "master": draw.device(),
        "mode": mode,
        **draw.mtu(),
        **draw.ipam(is_needed=True),
    }


def vlan(draw: Draw) -> Plugin:
    """A link has each VLAN once, wherever it is."""
    number = draw.random.randrange(1, 4095)
    return {
        "type": "vlan",
        "master": draw.device(),
        "vlanId": number,
        **draw.mtu(),
        **draw.ipam(is_needed=True),
    }


def dummy(draw: Draw) -> Plugin:
    """With addresses."""
    return {"type": "dummy", **draw.ipam(is_needed=True)}


def bond(draw: Draw) -> Plugin:
    """Of two links of the node."""
    links = [{"name": draw.device()} for _ in range(2)]
    mode = draw.random.choice(("active-backup", "balance-rr", "balance-xor"))
    return {"type": "bond", "mode": mode, "miimon": "100", "links": links, **draw.ipam()}


def tuning(draw: Draw) -> Plugin:
    """Sysctls and link attributes, with what was before in a directory that all pods share."""
    mac = {} if draw.is_mac_guarded else draw.maybe(mac=draw.mac())
    draw.is_exclusive |= bool(mac)  # a master takes each address once
    return {
        "type": "tuning",
        "dataDir": str(draw.root / "tuning"),
        **draw.maybe(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "511"}),
        **mac,
        **draw.maybe(promisc=True),
        **draw.maybe(allmulti=True),
        **draw.maybe(txQLen=draw.random.choice((100, 2000))),
        **draw.maybe(mtu=1280),
    }


def route_override(draw: Draw) -> Plugin:
    """Routes away, routes to; without an address there is no way to route by."""
    if not draw.families:
        return {"type": "route-override", **draw.maybe(flushroutes=True)}
    added = (
        [{"dst": f"10.201.{draw.number}.0/24"}]
        if 4 in draw.families
        else [{"dst": f"fd02:{draw.number}::/64"}]
    )
    return {
        "type": "route-override",
        **draw.maybe(flushroutes=True),
        **draw.maybe(flushgateway=True),
        **draw.maybe(addroutes=added),
    }


def sbr(draw: Draw) -> Plugin:
    """It needs nothing but addresses."""
    return {"type": "sbr"}


def vrf(draw: Draw) -> Plugin:
    """Of its own, for an interface without addresses: no other plugin looks for its routes."""
    return {"type": "vrf", "vrfname": f"vrf{draw.number}"}


def loopback(draw: Draw) -> Plugin:
    """A pod has one."""
    draw.is_exclusive = True
    return {"type": "loopback"}


FIRST: dict[str, Callable[[Draw], Plugin]] = {
    "bridge": bridge,
    "macvlan": macvlan,
    "ptp": ptp,
    "tap": tap,
    "host-device": host_device,
    "ipvlan": ipvlan,
    "vlan": vlan,
    "dummy": dummy,
    "bond": bond,
}
"""What makes an interface."""
CHAINED: dict[str, Callable[[Draw], Plugin]] = {
    "tuning": tuning,
    "route-override": route_override,
    "sbr": sbr,
    "loopback": loopback,
    "vrf": vrf,
}
"""What comes after it in a list."""
KINDS = ("ipvlan", "vlan", "dummy", "bond", "vrf")
"""Plugins that need a kind of link of their name, which not every kernel has."""
NEEDS_ADDRESSES = ("sbr",)


def plugins(draw: Draw) -> list[Plugin]:
    """The plugins of a network: one that makes the interface, then up to two chained ones."""
    first = draw.random.choice([each for each in FIRST if each in delegates.BUILTIN and _has(draw, each)])
    made = [FIRST[first](draw)]
    chained = [each for each in CHAINED if each in delegates.BUILTIN and _is_possible(draw, each)]
    for each in draw.random.sample(chained, min(len(chained), draw.random.choice((0, 0, 0, 1, 1, 2)))):
        made.append(CHAINED[each](draw))
    return made


def _is_possible(draw: Draw, chained: str) -> bool:
    """May it come after what was drawn?"""
    if chained == "loopback":
        return draw.is_loopback_free
    if chained == "vrf":
        return _has(draw, chained) and not draw.families
    return bool(draw.families) or chained not in NEEDS_ADDRESSES


def _has(draw: Draw, plugin: str) -> bool:
    """Has the kernel what it needs?"""
    return plugin not in KINDS or plugin in draw.kinds


def exhausted(draw: Draw) -> Plugin:
    """A range without an address but the gateway's."""
    alone = f"10.{draw.number}.0.9"
    range_ = {"subnet": draw.subnet(4), "rangeStart": alone, "rangeEnd": alone, "gateway": alone}
    return {
        "type": "bridge",
        "bridge": f"br{draw.number}",
        "ipam": {"type": "host-local", "dataDir": str(draw.root / "ipam"), "ranges": [[range_]]},
    }


def without_master(draw: Draw) -> Plugin:
    """A macvlan on nothing, a device that is not there."""
    kinds = [{"type": "macvlan", "master": "nowhere0"}, {"type": "host-device", "device": "nowhere0"}]
    return {
        **draw.random.choice([each for each in kinds if each["type"] in delegates.BUILTIN]),
        **draw.ipam(),
    }


def unreachable(draw: Draw) -> Plugin:
    """A route by a gateway that is in no network of the pod's, known when links and addresses are there."""
    kinds = [
        {"type": "bridge", "bridge": f"br{draw.number}"},
        {"type": "macvlan", "master": MASTER},
        {"type": "ptp"},
    ]
    route = {"dst": f"10.200.{draw.number}.0/24", "gw": "192.0.2.77"}
    range_ = {"subnet": draw.subnet(4)}
    ipam = {"type": "host-local", "dataDir": str(draw.root / "ipam"), "ranges": [[range_]], "routes": [route]}
    return {**draw.random.choice(kinds), "ipam": ipam}


def failing_tuning(draw: Draw) -> Plugin:
    """A sysctl that there is not, after others and after a change of the link was asked for."""
    sysctls = {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.conf.IFNAME.no_such_thing": "1"}
    return {"type": "tuning", "dataDir": str(draw.root / "tuning"), "sysctl": sysctls, "mac": draw.mac()}


def refused_tuning(draw: Draw) -> Plugin:
    """An MTU that no link has, after another attribute was changed."""
    return {"type": "tuning", "dataDir": str(draw.root / "tuning"), "promisc": True, "mtu": 9_999_999}


BROKEN: tuple[Callable[[Draw], Plugin], ...] = (exhausted, without_master, unreachable)
"""What makes no interface."""
BROKEN_CHAINED: tuple[Callable[[Draw], Plugin], ...] = (failing_tuning, refused_tuning)
"""What fails after an interface was made."""
