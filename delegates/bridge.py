"""
bridge: a veth pair with its host end in a bridge (containernetworking/plugins, main/bridge).

The pair is made by one message, its pod end in place with name, MAC and MTU. Unlike the
reference: nothing is left behind by a failing ADD, a DEL needs no link to release addresses,
and CHECK works without IPAM and whoever made the bridge promiscuous.
"""

import errno
import time
from contextlib import suppress
from dataclasses import replace

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, KernelError, NetnsGone
from meta_cni.cni.result import Interface, InterfaceAddress, IPConfig, Result, Route
from meta_cni.delegate import Attachment, Valid, requested_mac, unimplemented
from meta_cni.linux import address, configure, link, sysctl
from meta_cni.linux.address import interface_address
from meta_cni.linux.link import Link
from meta_cni.linux.route import ANYWHERE

KEYS = (
    *("bridge", "isGateway", "isDefaultGateway", "forceAddress", "mtu", "hairpinMode", "promiscMode"),
    *("enabledad", "disableContainerInterface", "portIsolation", "mac"),
)
DEFAULT_BRIDGE = "cni0"
FORWARDING = 3  # BR_STATE_FORWARDING, <linux/if_bridge.h>
PORT_UP_DELAYS_S = (0.0, 0.002, 0.01, 0.05, 0.5, 1.0, 1.0)  # the reference waits up to 2.55 s
POD = 2
"""Index of the pod's end in the result's interfaces."""


class Bridge:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        section = config.section
        self.config = config
        self.attachment = attachment
        self.bridge = section.string("bridge") or DEFAULT_BRIDGE
        self.is_default_gateway = section.boolean("isDefaultGateway")
        self.is_gateway = section.boolean("isGateway") or self.is_default_gateway
        self.is_address_forced = section.boolean("forceAddress")
        self.mtu = section.integer("mtu", maximum=65535)
        self.is_hairpin = section.boolean("hairpinMode")
        self.is_promiscuous = section.boolean("promiscMode")
        self.is_dad = section.boolean("enabledad")
        self.is_pod_down = section.boolean("disableContainerInterface")
        self.is_isolated = section.boolean("portIsolation")
        self.mac = requested_mac(config, attachment, is_args_first=True)
        if self.is_hairpin and self.is_promiscuous:
            raise BadConfig(f"{config.where}: hairpinMode and promiscMode: expected only one of them")
        if self.is_pod_down and not attachment.addresses.is_none:
            raise BadConfig(f"{config.where}: disableContainerInterface: expected no ipam with it")

    def add(self, previous: Result | None) -> Result:
        """Create the pair and configure its pod end; what failed is removed by delete()."""
        host = self.attachment.namespaces.host
        bridge = self._bridge()
        addresses = self._with_gateways(self.attachment.addresses.acquire())
        host_name = link.random_veth_name()
        request = link.create_veth(
            host_name,
            self.attachment.interface,
            self.attachment.namespaces.pod_fd,
            mac=self.mac,
            mtu=self.mtu,
            group=self.attachment.group,
            master=bridge.index,
        )
        (reply,) = host.request([request])
        host_index, _ = link.veth_indexes(reply)
        if self.is_hairpin or self.is_isolated:
            host.request(
                [link.set_port(host_index, is_hairpin=self.is_hairpin, is_isolated=self.is_isolated)]
            )
        sysctl.write(f"net/ipv6/conf/{host_name}/accept_ra", "0")
        pod_end = link.require(self.attachment.namespaces.pod, self.attachment.interface, "veth")
        ips = tuple(replace(each, interface=POD) for each in addresses.ips)
        addresses = replace(addresses, ips=ips)
        configure.configure(
            self.attachment.namespaces,
            pod_end,
            addresses,
            is_nodad=not self.is_dad,
            is_up=not self.is_pod_down,
        )
        if self.is_gateway:
            self._be_gateway(bridge, ips)
        if not self.is_pod_down:
            self._wait_for_port(host_index)
            configure.announce(self.attachment.namespaces, pod_end.name, pod_end.mac, ips)
        return self._told(host_index, pod_end, addresses)

    def _told(self, host_index: int, pod_end: Link, addresses: Result) -> Result:
        host = self.attachment.namespaces.host
        bridge = link.require(host, self.bridge, "bridge")
        veth = link.find_index(host, host_index)
        if veth is None:
            raise KernelError(f"look up the host end of {pod_end.name}", errno.ENODEV)
        interfaces = (
            Interface(bridge.name, bridge.mac),
            Interface(veth.name, veth.mac),
            Interface(pod_end.name, pod_end.mac, self.attachment.netns),
        )
        dns = configure.dns_of(self.config) or addresses.dns
        return replace(addresses, interfaces=interfaces, dns=dns)

    def _bridge(self) -> Link:
        """The bridge, made when it is missing, and up."""
        host = self.attachment.namespaces.host
        found = link.find(host, self.bridge)
        if found is None:
            host.request([link.create_bridge(self.bridge, mtu=self.mtu)])
            found = link.require(host, self.bridge, "bridge")
            sysctl.write(f"net/ipv6/conf/{self.bridge}/accept_ra", "0")
        if found.kind != "bridge":
            kind = found.kind or "a device"
            raise BadConfig(
                f"{self.config.where}: bridge {self.bridge!r}: it is {kind}: "
                "expected a bridge, or a free name"
            )
        wants_promiscuous = self.is_promiscuous and not found.is_promiscuous
        if not found.is_up or wants_promiscuous:
            promiscuous = True if wants_promiscuous else None
            host.request([link.set_link(found.index, is_up=True, is_promiscuous=promiscuous)])
        return found

    def _with_gateways(self, addresses: Result) -> Result:
        """Missing gateways and default routes, as isGateway and isDefaultGateway want them."""
        if not self.is_gateway:
            return configure.with_gateways(addresses)
        ips = tuple(
            replace(each, gateway=each.gateway or each.address.network.network_address + 1)
            for each in addresses.ips
        )
        addresses = replace(addresses, ips=ips)
        return configure.with_gateways(self._with_default_routes(addresses))

    def _with_default_routes(self, addresses: Result) -> Result:
        if not self.is_default_gateway:
            return addresses
        routes = list(addresses.routes)
        for family, destination in ANYWHERE.items():
            gateways = [each.gateway for each in addresses.ips if each.address.version == family]
            has_one = any(each.is_default and each.destination.version == family for each in routes)
            if gateways and not has_one:
                routes.append(Route(destination, gateways[0]))
        return replace(addresses, routes=tuple(routes))

    def _be_gateway(self, bridge: Link, ips: tuple[IPConfig, ...]) -> None:
        """The gateway addresses on the bridge, its MAC pinned, and forwarding."""
        for each in ips:
            if each.gateway is not None:
                prefix = each.address.network.prefixlen
                self._ensure_address(bridge, interface_address(each.gateway, prefix))
        if any(each.address.version == 4 for each in ips):
            sysctl.write("net/ipv4/ip_forward", "1")
        if any(each.address.version == 6 for each in ips):
            sysctl.write("net/ipv6/conf/all/forwarding", "1")

    def _ensure_address(self, bridge: Link, wanted: InterfaceAddress) -> None:
        """
        One address on the bridge; another IPv4 one, or an overlapping IPv6 one, is in the way.

        The bridge's MAC is set to what it is now: else it is the lowest one of its ports, and
        changes with them (net/bridge/br_stp_if.c).
        """
        host = self.attachment.namespaces.host
        batch = []
        for each in address.dump(host, bridge.index):
            if each.address == wanted:
                return
            is_other_family = each.address.version != wanted.version or each.address.ip.is_link_local
            if is_other_family or (wanted.version == 6 and not each.address.network.overlaps(wanted.network)):
                continue
            if not self.is_address_forced:
                raise BadConfig(
                    f'{self.config.where}: "{self.bridge}" already has an IP address different from '
                    f"{wanted}: expected forceAddress true, or the same gateway"
                )
            batch.append(address.delete(bridge.index, each.address))
        batch.append(address.add(bridge.index, wanted, is_nodad=not self.is_dad))
        current = link.require(host, self.bridge, "bridge")
        host.request([*batch, link.set_link(bridge.index, mac=current.mac)])

    def _wait_for_port(self, index: int) -> None:
        """Until the bridge forwards for the port; normally it does at once."""
        for delay_s in PORT_UP_DELAYS_S:
            time.sleep(delay_s)
            found = link.find_index(self.attachment.namespaces.host, index)
            if found is not None and found.port.get("IFLA_BRPORT_STATE") == FORWARDING:
                return
        raise KernelError(
            f"wait for port of {self.attachment.interface} on bridge {self.bridge} to forward",
            errno.ETIMEDOUT,
        )

    def check(self, previous: Result) -> None:
        """Bridge, pair, addresses and routes are as the result says."""
        host = self.attachment.namespaces.host
        bridge = link.find(host, self.bridge)
        if bridge is None or bridge.kind != "bridge":
            raise CheckFailed(f"check bridge {self.bridge}: there is no such bridge")
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        if found.kind != "veth":
            raise CheckFailed(f"check {found.name}: it is {found.kind or 'a device'}: expected veth")
        veth = link.find_index(host, found.parent)
        if veth is None or veth.master != bridge.index:
            raise CheckFailed(f"check {found.name}: its host end is not a port of bridge {self.bridge}")
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the pair, then give the addresses back; the bridge stays."""
        with suppress(NetnsGone):
            self.attachment.namespaces.pod.request([link.delete(self.attachment.interface)])
        self.attachment.addresses.release()

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """A bridge is made when it is missing: nothing can be said before an ADD."""

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pod's namespace; there is nothing else."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)
