"""
ptp: a veth pair to a pod whose traffic the node routes (containernetworking/plugins, main/ptp).

The pod has its address with the network's prefix, but its neighbours only by the gateway: the
node's end of the pair, which has the gateway's address as a host address, once for every pod.

Unlike the reference: addresses are given back when forwarding cannot be set, masquerade rules go
when the link went first, two addresses may share a gateway or have no network beside them, and
an address that is routed elsewhere is refused instead of being unreachable.
"""

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, KernelError, NotAvailable, ProgramFailed
from meta_cni.cni.result import Address, Interface, InterfaceAddress, IPConfig, Network, Result
from meta_cni.delegate import Attachment, Valid, detach, undo, unimplemented
from meta_cni.linux import address, configure, forwarding, link, masquerade, route, sysctl
from meta_cni.linux.address import interface_address
from meta_cni.linux.netlink import Request
from meta_cni.linux.route import (
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RTPROT_UNSPEC,
    Route,
)

KEYS = ("ipMasq", "ipMasqBackend", "mtu")
POD = 1
"""Index of the pod's end in the result's interfaces."""


class Ptp:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        self.mtu, self.masquerade = config.once(_keys)
        if config.ipam is None:
            raise BadConfig(f"{config.where}: ipam is missing: expected one that hands out addresses")

    @property
    def owner(self) -> masquerade.Owner:
        """Whose rules the masquerade's are."""
        return masquerade.Owner(self.config.network, self.attachment.container_id, self.attachment.interface)

    def add(self, previous: Result | None) -> Result:
        """Create the pair, addresses and routes at both ends; what failed is removed by delete()."""
        backend = masquerade.choose(self.masquerade) if self.masquerade is not None else ""
        acquired = self.attachment.addresses.acquire()
        self._require_gateways(acquired)
        addresses = [each.address for each in acquired.ips]
        masquerade.require(backend, addresses)
        result = configure.of_the_pod(self.config, acquired, interface=POD)
        namespaces = self.attachment.namespaces
        host_name, name = link.random_veth_name(), self.attachment.interface
        host_mac, mac = link.random_mac(), link.random_mac()
        index, pod_index = self._pair(host_name, host_mac, mac, addresses)
        routes = by_gateway(pod_index, result.ips)
        configure.configure(namespaces, pod_index, name, result, mac=mac, more=routes)
        namespaces.host.request(to_pod(index, result.ips))
        if backend:
            masquerade.setup(backend, self.owner, addresses)
        return result.of(Interface(host_name, host_mac), Interface(name, mac, self.attachment.netns))

    def _require_gateways(self, acquired: Result) -> None:
        if not acquired.ips:
            raise BadConfig(
                f"{self.config.where}: ipam: IPAM plugin returned missing IP config: expected an address"
            )
        for each in acquired.ips:
            if each.gateway is None:
                raise BadConfig(
                    f"{self.config.where}: ipam: address {each.address} has no gateway: expected one"
                )

    def _pair(
        self, host_name: str, host_mac: str, mac: str, addresses: Sequence[InterfaceAddress]
    ) -> tuple[int, int]:
        """
        The indexes of the node's end and the pod's of a new pair, between which the node forwards.

        The node's is alone on its link. With duplicate address detection its link-local address, by which
        the node asks for its neighbours, would be of no use for one or two seconds after the
        pod's end is up.
        """
        namespaces = self.attachment.namespaces
        request = link.create_veth(
            host_name,
            self.attachment.interface,
            namespaces.pod_fd,
            mac=mac,
            host_mac=host_mac,
            mtu=self.mtu,
            group=self.attachment.group,
        )
        *forwards, reply = namespaces.host.request([*forwarding.questions(addresses), request])
        forwarding.turn_on(forwards)
        with suppress(KernelError):  # a node without IPv6
            sysctl.set_new(f"net/ipv6/conf/{host_name}/accept_ra", "0")
            if any(each.version == 6 for each in addresses):
                sysctl.set_new(f"net/ipv6/conf/{host_name}/accept_dad", "0")
        return link.veth_indexes(reply)

    def check(self, previous: Result) -> None:
        """Link, addresses and routes are as the result says, at both ends, and the masquerade is there."""
        namespaces = self.attachment.namespaces
        found = configure.check(namespaces, self.attachment.interface, previous)
        if found.kind != "veth":
            raise CheckFailed(f"check {found.name}: it is {found.kind or 'a device'}: expected veth")
        pod_ends = [
            n for n, each in enumerate(previous.interfaces) if each.name == found.name and each.sandbox
        ]
        own = [each.address for each in previous.ips if each.interface in (None, *pod_ends)]
        routes = {
            each.destination for each in route.dump(namespaces.host) if each.interface_index == found.parent
        }
        for each in own:
            if _alone(each.ip) not in routes:
                raise CheckFailed(f"check {found.name}: the node has no route to {each.ip} through it")
        if self.masquerade is not None:
            masquerade.check(self.owner, own)
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Remove the masquerade, delete the pair, with it its routes, and give the addresses back."""
        undo(self._unmask, lambda: detach(self.attachment))

    def _unmask(self) -> None:
        if self.masquerade is not None:
            masquerade.teardown(self.owner)

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """What masquerades must be there."""
        backend = masquerade.wanted(config)
        try:
            if backend is not None:
                masquerade.choose(backend)
        except ProgramFailed as error:
            raise NotAvailable(f"{config.where}: {error.message}") from None

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pods' namespaces, and their routes with them; masquerade rules stay."""
        if masquerade.wanted(config) is not None:
            masquerade.collect(config.network, valid)

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _alone(ip: Address) -> Network:
    """The network that has this address and no other."""
    return IPv4Network((int(ip), 32)) if ip.version == 4 else IPv6Network((int(ip), 128))


def by_gateway(index: int, ips: tuple[IPConfig, ...]) -> list[Request]:
    """The network through the gateway instead of the link: the kernel's own route goes, two come."""
    batch: list[Request] = []
    done: set[Network] = set()
    for each, gateway in _with_gateways(ips):
        network, only = each.address.network, _alone(gateway)
        kernels = Route(network, interface_index=index, scope=RT_SCOPE_NOWHERE, protocol=RTPROT_UNSPEC)
        to_gateway = Route(only, interface_index=index, scope=RT_SCOPE_LINK, source=each.address.ip)
        to_network = Route(
            network, gateway, interface_index=index, scope=RT_SCOPE_UNIVERSE, source=each.address.ip
        )
        if network not in done:
            batch.append(route.delete(kernels))
        if only not in done:
            batch.append(route.add(to_gateway))
        if network not in done and network != _alone(each.address.ip):
            batch.append(route.add(to_network))
        done.update((network, only))
    return batch


def to_pod(index: int, ips: tuple[IPConfig, ...]) -> list[Request]:
    """The gateways' addresses on the node's end, and the way to the pod's through it."""
    gateways = dict.fromkeys(gateway for _, gateway in _with_gateways(ips))
    return [
        *(address.add(index, interface_address(each, each.max_prefixlen)) for each in gateways),
        *(
            route.add(Route(_alone(each.address.ip), interface_index=index, scope=RT_SCOPE_HOST))
            for each in ips
        ),
    ]


def _with_gateways(ips: tuple[IPConfig, ...]) -> list[tuple[IPConfig, Address]]:
    return [(each, each.gateway) for each in ips if each.gateway is not None]


def _keys(config: PluginConfig) -> tuple[int, str | None]:
    """MTU and the backend of a masquerade, for every pod of a network."""
    return config.section.integer("mtu", maximum=65535), masquerade.wanted(config)
