"""
bridge: a veth pair with its host end in a bridge (containernetworking/plugins, main/bridge).

The pair is made by one message, its pod end in place with name, MAC and MTU. Unlike the
reference: nothing is left behind by a failing ADD, a DEL needs no link to release addresses,
CHECK works without IPAM and whoever made the bridge promiscuous, VLANs on a bridge that does not
filter them are refused instead of being without effect, and what masquerades a pod or checks its
MAC is removed when link or namespace went first.
"""

import errno
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import BadConfig, CheckFailed, KernelError, NotAvailable, ProgramFailed
from meta_cni.cni.request import interface_name_problem
from meta_cni.cni.result import Address, Interface, InterfaceAddress, IPConfig, Result, Route
from meta_cni.delegate import Attachment, Valid, detach, requested_mac, undo, unimplemented
from meta_cni.linux import address, configure, forwarding, link, masquerade, spoof, sysctl, vlan
from meta_cni.linux.address import interface_address
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Reply, Request
from meta_cni.linux.route import ANYWHERE

LOG = logging.getLogger("meta_cni")
KEYS = (
    *("bridge", "isGateway", "isDefaultGateway", "forceAddress", "mtu", "hairpinMode", "promiscMode"),
    *("enabledad", "disableContainerInterface", "portIsolation", "mac"),
    *("vlan", "vlanTrunk", "preserveDefaultVlan", "ipMasq", "ipMasqBackend", "macspoofchk"),
)
DEFAULT_BRIDGE = "cni0"
FORWARDING = 3  # BR_STATE_FORWARDING, <linux/if_bridge.h>
PORT_UP_DELAYS_S = (0.0, 0.002, 0.01, 0.05, 0.5, 1.0, 1.0)  # the reference waits up to 2.55 s
THERE = frozenset((errno.EEXIST,))
"""Another ADD was faster."""
POD = 2
"""Index of the pod's end in the result's interfaces."""
LONGEST_NAME = 15  # IFNAMSIZ less the NUL, <linux/if.h>
PORTS = "fe:"
"""How the MACs of pods' ports begin on a bridge that has one: no other station's is higher, so it stays."""
NO_MAC = "00:00:00:00:00:00"
"""Of a bridge that has no ports any more."""
TRUNK_NATIVE = 1
"""The native VLAN of a trunk for which no `vlan` is given."""


@dataclass(frozen=True, slots=True)
class Vlans:
    """What a port is to be in."""

    is_filtering: bool
    """VLANs were asked for, if only by an empty trunk."""
    native: int
    tagged: frozenset[int]
    is_default_kept: bool

    @classmethod
    def parse(cls, section: Section) -> "Vlans":
        """`vlan`, `vlanTrunk` and `preserveDefaultVlan`; raises BadConfig."""
        native = section.integer("vlan", maximum=vlan.LARGEST)
        trunk = section.sections("vlanTrunk")
        tagged = frozenset(vid for entry in trunk for vid in _trunk_vids(entry))
        is_filtering = bool(native) or section.value("vlanTrunk") is not None
        native = native or (TRUNK_NATIVE if tagged else 0)
        return cls(
            is_filtering=is_filtering,
            native=native,
            tagged=tagged - {native},
            is_default_kept=section.boolean("preserveDefaultVlan"),
        )

    def requests(self, port: int, default: int) -> list[Request]:
        """What puts a new port into them, and out of the VLAN that its bridge puts every port into."""
        if not self.native:
            return []
        is_left = default not in (0, self.native, *self.tagged) and not self.is_default_kept
        first = [vlan.leave(port, default)] if is_left else []
        return [*first, vlan.join(port, self.tagged, self.native)]


def _trunk_vids(entry: Section) -> set[int]:
    found: set[int] = set()
    first, last = (entry.integer(key, 0, minimum=1, maximum=vlan.LARGEST) for key in ("minID", "maxID"))
    for key, other in (("minID", "maxID"), ("maxID", "minID")):
        if entry.value(key) is None and entry.value(other) is not None:
            raise BadConfig(f"{entry.where}: {key} is missing: expected minID and maxID together")
    if first > last:
        raise BadConfig(f"{entry.where}: minID {first} is greater than maxID {last}: expected at most that")
    if first:
        found.update(range(first, last + 1))
    if entry.value("id") is not None:
        found.add(entry.integer("id", minimum=1, maximum=vlan.LARGEST))
    return found


@dataclass(frozen=True, slots=True)
class Keys:
    """What a configuration asks for, for every pod of its network."""

    bridge: str
    is_gateway: bool
    is_default_gateway: bool
    is_address_forced: bool
    mtu: int
    is_hairpin: bool
    is_promiscuous: bool
    is_dad: bool
    is_pod_down: bool
    is_isolated: bool
    is_spoof_checked: bool
    masquerade: str | None
    """The backend that was asked for, empty for any; None for no masquerade."""
    vlans: Vlans
    vlan: int

    @classmethod
    def parse(cls, config: PluginConfig) -> "Keys":
        """Read and check them; raises BadConfig."""
        section = config.section
        keys = cls(
            bridge=section.string("bridge") or DEFAULT_BRIDGE,
            is_gateway=section.boolean("isGateway") or section.boolean("isDefaultGateway"),
            is_default_gateway=section.boolean("isDefaultGateway"),
            is_address_forced=section.boolean("forceAddress"),
            mtu=section.integer("mtu", maximum=65535),
            is_hairpin=section.boolean("hairpinMode"),
            is_promiscuous=section.boolean("promiscMode"),
            is_dad=section.boolean("enabledad"),
            is_pod_down=section.boolean("disableContainerInterface"),
            is_isolated=section.boolean("portIsolation"),
            is_spoof_checked=section.boolean("macspoofchk"),
            masquerade=masquerade.wanted(config),
            vlans=Vlans.parse(section),
            vlan=section.integer("vlan"),
        )
        keys._check(config.where)
        return keys

    def _check(self, where: str) -> None:
        problem = interface_name_problem(self.bridge)
        if problem:
            raise BadConfig(f"{where}: bridge {self.bridge!r}: {problem}")
        if self.is_hairpin and self.is_promiscuous:
            raise BadConfig(f"{where}: hairpinMode and promiscMode: expected only one of them")
        if self.is_gateway and self.vlan and len(self.gateway_name.encode()) > LONGEST_NAME:
            raise BadConfig(
                f"{where}: bridge {self.bridge!r}: its gateway would be {self.gateway_name!r}: "
                f"expected a name that leaves it at most {LONGEST_NAME} characters"
            )

    @property
    def gateway_name(self) -> str:
        """The link that has a VLAN's gateway addresses; every pod of the VLAN shares it."""
        return f"{self.bridge}.{self.vlan}"


class Bridge:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        self.keys = config.once(Keys.parse)
        self.mac = requested_mac(config, attachment, is_args_first=True)
        if self.keys.is_pod_down and not attachment.addresses.is_none:
            raise BadConfig(f"{config.where}: disableContainerInterface: expected no ipam with it")

    @property
    def owner(self) -> masquerade.Owner:
        """Whose rules the masquerade's are."""
        return masquerade.Owner(self.config.network, self.attachment.container_id, self.attachment.interface)

    @property
    def guarded(self) -> spoof.Guarded:
        """Whose MAC is checked."""
        return spoof.Guarded(self.config.network, self.attachment.container_id, self.attachment.interface)

    def add(self, previous: Result | None) -> Result:
        """Create the pair and configure its pod end; what failed is removed by delete()."""
        backend = self._packet_filters()
        bridge = self._bridge()
        addresses = self._with_gateways(self.attachment.addresses.acquire())
        masquerade.require(backend, [each.address for each in addresses.ips])
        namespaces, name, ips = self.attachment.namespaces, self.attachment.interface, addresses.ips
        host_name, host_mac = link.random_veth_name(), link.random_mac()
        mac = self.mac or link.random_mac()
        may_change = _may_change(bridge)
        if not may_change:
            host_mac = PORTS + host_mac[len(PORTS) :]
        kept = self._keep_mac(bridge) if may_change else []
        port, index = self._pair(bridge, kept, host_name, host_mac, mac)
        configure.configure(
            namespaces,
            index,
            name,
            addresses,
            is_nodad=not self.keys.is_dad,
            is_up=not self.keys.is_pod_down,
            mac=mac,
        )
        gateway = self._gateway(bridge) if self.keys.is_gateway and ips else None
        # The bridge's MAC is known if it cannot change, or not any more.
        bridge_mac = self._settle(bridge, port, gateway, ips, is_known=bool(kept) or not may_change)
        if backend and ips:
            masquerade.setup(backend, self.owner, [each.address for each in ips])
        if self.keys.is_dad:
            configure.await_detection(namespaces, index, name, ips)
        if not self.keys.is_pod_down:
            configure.announce(namespaces, name, ips)
        interfaces = [
            Interface(bridge.name, bridge_mac),
            Interface(host_name, host_mac),
            Interface(name, mac, self.attachment.netns),
        ]
        if gateway and self.keys.vlan:
            interfaces.append(Interface(gateway.name, gateway.mac))
        dns = configure.dns_over(self.config, addresses.dns)
        return Result(tuple(interfaces), ips, addresses.routes, dns)

    def _pair(
        self, bridge: Link, kept: list[Request], host_name: str, host_mac: str, mac: str
    ) -> tuple[int, int]:
        """The indexes of the bridge's new port and of the pod's end; before it, its MAC is `kept`."""
        host = self.attachment.namespaces.host
        request = link.create_veth(
            host_name,
            self.attachment.interface,
            self.attachment.namespaces.pod_fd,
            mac=mac,
            host_mac=host_mac,
            mtu=self.keys.mtu,
            group=self.attachment.group,
            master=bridge.index,
        )
        *_, reply = host.request([*kept, request])
        port, index = link.veth_indexes(reply)
        host.request(self._port_requests(bridge, port))
        # The bridge takes every frame of a port before the node can look at it (br_handle_frame()).
        self.attachment.namespaces.later_here(partial(_refuse_advertisements, host_name))
        if self.keys.is_spoof_checked:  # before the pod's end is up
            spoof.setup(self.guarded, host_name, mac)
        return port, index

    def _keep_mac(self, bridge: Link) -> list[Request]:
        """
        A gateway's MAC that may change is set to what it is, before it has one more port.

        Else it is the lowest one of its ports, and changes with them (net/bridge/br_stp_if.c).
        """
        is_gateway = self.keys.is_gateway and not self.keys.vlan and not self.attachment.addresses.is_none
        is_kept = is_gateway and bridge.mac != NO_MAC
        return [link.set_link(bridge.index, mac=bridge.mac)] if is_kept else []

    def _packet_filters(self) -> str:
        """The backend of a masquerade, empty for none; raises ProgramFailed when a program is missing."""
        if self.keys.is_spoof_checked:
            spoof.require()
        return masquerade.choose(self.keys.masquerade) if self.keys.masquerade is not None else ""

    def _port_requests(self, bridge: Link, port: int) -> list[Request]:
        """What makes the host end the port that was asked for."""
        batch = []
        if self.keys.is_hairpin or self.keys.is_isolated:
            batch.append(
                link.set_port(port, is_hairpin=self.keys.is_hairpin, is_isolated=self.keys.is_isolated)
            )
        if self.keys.vlans.is_filtering:
            batch += self.keys.vlans.requests(port, _default_vlan(bridge))
        return batch

    def _bridge(self) -> Link:
        """The bridge, made when it is missing, and up."""
        host = self.attachment.namespaces.host
        found = link.find(host, self.keys.bridge)
        if found is None:
            is_filtering = self.keys.vlans.is_filtering
            host.request(
                [link.create_bridge(self.keys.bridge, mtu=self.keys.mtu, is_vlan_filtering=is_filtering)]
            )
            found = link.require(host, self.keys.bridge, "bridge")
            sysctl.refuse_advertisements(self.keys.bridge)
        if found.kind != "bridge":
            kind = found.kind or "a device"
            raise BadConfig(
                f"{self.config.where}: bridge {self.keys.bridge!r}: it is {kind}: "
                "expected a bridge, or a free name"
            )
        if self.keys.vlans.is_filtering and not found.info.get("IFLA_BR_VLAN_FILTERING"):
            raise BadConfig(
                f"{self.config.where}: bridge {self.keys.bridge!r}: it does not filter VLANs, so VLANs "
                "would be without effect: expected a bridge made with vlan_filtering 1, or a free name"
            )
        wants_promiscuous = self.keys.is_promiscuous and not found.is_promiscuous
        if not found.is_up or wants_promiscuous:
            promiscuous = True if wants_promiscuous else None
            host.request([link.set_link(found.index, is_up=True, is_promiscuous=promiscuous)])
        return found

    def _with_gateways(self, addresses: Result) -> Result:
        """Missing gateways and default routes, as isGateway and isDefaultGateway want them."""
        ips = tuple(IPConfig(each.address, self._gateway_of(each), POD) for each in addresses.ips)
        routes = (
            self._with_default_routes(addresses.routes, ips)
            if self.keys.is_default_gateway
            else addresses.routes
        )
        return configure.with_gateways(Result(ips=ips, routes=routes, dns=addresses.dns))

    def _gateway_of(self, address: IPConfig) -> Address | None:
        if address.gateway is None and self.keys.is_gateway:
            return address.address.network.network_address + 1
        return address.gateway

    def _with_default_routes(self, routes: tuple[Route, ...], ips: tuple[IPConfig, ...]) -> tuple[Route, ...]:
        for family, destination in ANYWHERE.items():
            gateways = [each.gateway for each in ips if each.address.version == family]
            has_one = any(each.is_default and each.destination.version == family for each in routes)
            if gateways and not has_one:
                routes = (*routes, Route(destination, gateways[0]))
        return routes

    def _gateway(self, bridge: Link) -> Link:
        """What has the gateway addresses: the bridge, or a VLAN's link into it."""
        return self._vlan_gateway(bridge) if self.keys.vlan else bridge

    def _settle(
        self, bridge: Link, port: int, gateway: Link | None, ips: tuple[IPConfig, ...], *, is_known: bool
    ) -> str:
        """
        Gateway and forwarding for a new port of this index, and when it forwards; the bridge's MAC then.

        All of it is looked at in one batch, and is there as a rule.
        """
        looks = [link.look_up_index(each) for each in ([port] if is_known else [bridge.index, port])]
        asked = forwarding.questions([each.address for each in ips]) if gateway else []
        listed = [address.list_of(gateway.index)] if gateway else []
        seen = self.attachment.namespaces.host.request([*looks, *asked, *listed])
        if gateway:
            self._be_gateway(bridge, gateway, ips, seen[-1])
            forwarding.turn_on(seen[len(looks) : -1])
        return self._wait_for_port(bridge, looks, seen[: len(looks)])

    def _be_gateway(self, bridge: Link, gateway: Link, ips: tuple[IPConfig, ...], present: Reply) -> None:
        """The gateway addresses, as far as they are not `present`."""
        wanted = [(each.gateway, each.address.network.prefixlen) for each in ips if each.gateway is not None]
        is_new = not address.are_in(present, gateway.index, wanted)
        if is_new:
            self._put_addresses(gateway, [interface_address(*each) for each in wanted])
        # It may have the MAC of its first port by now.
        if not self.keys.vlan and (is_new or bridge.mac == NO_MAC):
            host = self.attachment.namespaces.host
            mac = link.require(host, bridge.name, "bridge").mac
            host.request([link.set_link(bridge.index, mac=mac)])

    def _vlan_gateway(self, bridge: Link) -> Link:
        """
        The node's link into the VLAN, made when it is missing.

        A pair is completed if another ADD was interrupted half-way; whatever else has the name,
        like a VLAN device on the bridge, is the operator's and taken as it is.
        """
        host = self.attachment.namespaces.host
        found = link.find(host, self.keys.gateway_name)
        if found is None:
            port = link.random_veth_name()
            made = link.create_pair(port, self.keys.gateway_name, mtu=bridge.mtu, master=bridge.index)
            host.request([replace(made, tolerate=THERE)])
            found = link.require(host, self.keys.gateway_name, "gateway")
        end = link.find_index(host, found.parent) if found.kind == "veth" else None
        if end is not None and end.master == bridge.index:
            native = replace(self.keys.vlans, native=self.keys.vlan, tagged=frozenset())
            batch = native.requests(end.index, _default_vlan(bridge))
            host.request([*batch, *(link.set_link(each.index, is_up=True) for each in (end, found))])
            sysctl.refuse_advertisements(end.name)
        return found

    def _put_addresses(self, gateway: Link, wanted: list[InterfaceAddress]) -> None:
        """Those that the gateway has not got yet."""
        present = [each.address for each in address.dump(self.attachment.namespaces.host, gateway.index)]
        others = [each for each in present if each not in wanted]
        for each in dict.fromkeys(wanted):
            if each not in present:
                self._put_address(gateway, each, others)

    def _put_address(self, gateway: Link, wanted: InterfaceAddress, others: list[InterfaceAddress]) -> None:
        """
        One address on the gateway; another IPv4 one, or an overlapping IPv6 one, is in the way.

        What is taken away of the others is taken from the list, too.
        """
        host = self.attachment.namespaces.host
        batch = []
        for each in tuple(others):
            is_other_family = each.version != wanted.version or each.ip.is_link_local
            if is_other_family or (wanted.version == 6 and not each.network.overlaps(wanted.network)):
                continue
            if not self.keys.is_address_forced:
                raise BadConfig(
                    f'{self.config.where}: "{gateway.name}" already has an IP address different from '
                    f"{wanted}: expected forceAddress true, or the same gateway"
                )
            batch.append(address.delete(gateway.index, each))
            others.remove(each)
        added = address.add(gateway.index, wanted, is_nodad=not self.keys.is_dad)
        host.request([*batch, replace(added, tolerate=THERE)])

    def _wait_for_port(self, bridge: Link, looks: list[Request], seen: Sequence[Reply]) -> str:
        """The bridge's MAC when it forwards for the port, as was `seen` or is seen then; normally at once."""
        for delay_s in PORT_UP_DELAYS_S:
            if delay_s:
                time.sleep(delay_s)
                seen = self.attachment.namespaces.host.request(looks)
            *its, ports = seen
            if self.keys.is_pod_down or link.port_state_in(ports) == FORWARDING:
                return link.mac_in(its[0]) if its else bridge.mac
        raise KernelError(
            f"wait for port of {self.attachment.interface} on bridge {self.keys.bridge} to forward",
            errno.ETIMEDOUT,
        )

    def check(self, previous: Result) -> None:
        """Bridge, pair, addresses and routes are as the result says."""
        host = self.attachment.namespaces.host
        bridge = link.find(host, self.keys.bridge)
        if bridge is None or bridge.kind != "bridge":
            raise CheckFailed(f"check bridge {self.keys.bridge}: there is no such bridge")
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        if found.kind != "veth":
            raise CheckFailed(f"check {found.name}: it is {found.kind or 'a device'}: expected veth")
        veth = link.find_index(host, found.parent)
        if veth is None or veth.master != bridge.index:
            raise CheckFailed(f"check {found.name}: its host end is not a port of bridge {self.keys.bridge}")
        self._check_vlans(veth)
        self._check_packet_filters(veth, found, previous)
        self.attachment.addresses.check(previous)

    def _check_packet_filters(self, port: Link, pod_end: Link, previous: Result) -> None:
        """Every address is masqueraded, and every frame looked at, where that was asked for."""
        told = enumerate(previous.interfaces)
        indexes = [number for number, each in told if each.name == pod_end.name and each.sandbox]
        own = [each.address for each in previous.ips if each.interface in (None, *indexes)]
        if self.keys.masquerade is not None:
            masquerade.check(self.owner, own)
        if self.keys.is_spoof_checked and not spoof.is_set_up(self.guarded, port.name, pod_end.mac):
            raise CheckFailed(f"check {pod_end.name}: its port {port.name} takes frames from other addresses")

    def _check_vlans(self, port: Link) -> None:
        """The port is in every VLAN that was asked for, and it is native where it is to be."""
        if not self.keys.vlans.native:
            return
        present = vlan.dump(self.attachment.namespaces.host).get(port.index, set())
        native = vlan.Membership(self.keys.vlans.native, is_native=True)
        missing = {native, *(vlan.Membership(vid) for vid in self.keys.vlans.tagged)} - present
        if missing:
            first = min(missing)
            how = "untagged" if first.is_native else "tagged"
            raise CheckFailed(
                f"check {self.attachment.interface}: its port {port.name} is not in VLAN {first.vid} {how}"
            )

    def delete(self) -> None:
        """Delete the pair, give the addresses back, and remove what was for them; the bridge stays."""
        undo(self._unmask, lambda: detach(self.attachment), self._unguard)

    def _unmask(self) -> None:
        if self.keys.masquerade is not None:
            masquerade.teardown(self.owner)

    def _unguard(self) -> None:
        if self.keys.is_spoof_checked:
            spoof.teardown(self.guarded)

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """A bridge is made when it is missing; the packet filters' programs must be there."""
        try:
            if config.section.boolean("macspoofchk"):
                spoof.require()
            backend = masquerade.wanted(config)
            if backend is not None:
                masquerade.choose(backend)
        except ProgramFailed as error:
            raise NotAvailable(f"{config.where}: {error.message}") from None

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pods' namespaces; what the packet filters had for them did not."""
        if masquerade.wanted(config) is not None:
            masquerade.collect(config.network, valid)
        if config.section.boolean("macspoofchk"):
            spoof.collect(config.network, valid)

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _refuse_advertisements(port: str) -> None:
    """When the runtime has its answer, so nobody but the log can be told that it failed."""
    try:
        sysctl.refuse_advertisements(port)
    except KernelError as error:
        LOG.warning("port %s still listens to routers: %s", port, error.message)


def _default_vlan(bridge: Link) -> int:
    """The VLAN that a bridge puts every new port into; 0 for none."""
    return int(bridge.info.get("IFLA_BR_VLAN_DEFAULT_PVID") or 0)


def _may_change(bridge: Link) -> bool:
    """May one more port, or one less, give the bridge another MAC? It has none, or that of a pod's port."""
    return bridge.mac.startswith(PORTS) or bridge.mac == NO_MAC or bridge.operstate != "UP"
