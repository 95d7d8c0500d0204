"""
What a link has on layer 3, taken along to another namespace: addresses, routes, rules to the routes.

A link that leaves its namespace loses its addresses and routes (dev_change_net_namespace(),
net/core/dev.c). Taken along is what somebody set up, as it is: not what the kernel makes of an
address by itself, and not what a router advertised, which is learned anew where the link is then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meta_cni.cni.result import IPConfig, Result
from meta_cni.cni.result import Route as ResultRoute
from meta_cni.linux import address, route, rule
from meta_cni.linux.address import Address
from meta_cni.linux.netlink import Request, Socket
from meta_cni.linux.route import RT_SCOPE_UNIVERSE, RT_TABLE_LOCAL, RTPROT_KERNEL, RTPROT_RA, Route
from meta_cni.linux.rule import Rule


@dataclass(frozen=True, slots=True)
class Layer3:
    """As one link had it in one namespace."""

    addresses: Sequence[Address] = ()
    routes: Sequence[Route] = ()
    rules: Sequence[Rule] = ()

    @classmethod
    def read(cls, socket: Socket, index: int) -> "Layer3":
        """Of the link of an index; a route of several next hops is not its alone, and stays away."""
        addresses = [each for each in address.dump(socket, index) if _is_lasting(each)]
        routes = [each for each in route.dump(socket, 0) if each.interface_index == index and _is_made(each)]
        tables = {each.table for each in routes}
        rules = [
            each
            for each in rule.dump(socket)
            if each.table in tables
            and each.source.prefixlen
            and any(one.ip in each.source for one in addresses)
        ]
        return cls(addresses, routes, rules)

    @property
    def has_ipv6(self) -> bool:
        """Does the link need IPv6?"""
        return any(each.address.version == 6 for each in self.addresses)

    def addresses_on(self, index: int) -> list[Request]:
        """Put its addresses on a link."""
        return [address.copy(each, index) for each in self.addresses]

    def routes_by(self, index: int) -> list[Request]:
        """Set its routes by a link that has its addresses; the way to a gateway comes before those by it."""
        ordered = sorted(self.routes, key=lambda each: each.gateway is not None)
        return [route.copy(each, index) for each in ordered]

    def rules_of(self, protocol: int) -> list[Request]:
        """Add the rules; remove_rules() knows them by the protocol."""
        return [rule.copy(each, protocol) for each in self.rules]

    def told_in(self, result: Result) -> Result:
        """The result with all this behind its own, of the first interface."""
        ips = tuple(IPConfig(each.address, interface=0) for each in self.addresses)
        routes = tuple(
            ResultRoute(
                each.destination,
                each.gateway,
                priority=each.priority,
                table=each.table,
                scope=each.scope or None,
            )
            for each in self.routes
        )
        return replace(result, ips=result.ips + ips, routes=result.routes + routes)


NOTHING = Layer3()


def remove_rules(socket: Socket, protocol: int) -> None:
    """Remove the rules of a protocol whose source nobody in the namespace has any more."""
    held = [each.ip for each in address.dump(socket)]
    orphans = [
        each
        for each in rule.dump(socket)
        if each.protocol == protocol and not any(ip in each.source for ip in held)
    ]
    socket.request([rule.delete_found(each) for each in orphans])


def _is_lasting(found: Address) -> bool:
    """
    Known everywhere, and its own.

    Nobody prolongs a lease of DHCP in the pod, but the routes need its address; an IPv6 address of
    limited life comes of advertisements.
    """
    is_kept = found.address.version == 4 or found.is_permanent
    return found.scope == RT_SCOPE_UNIVERSE and is_kept and not found.is_duplicate


def _is_made(found: Route) -> bool:
    """Did somebody set it?"""
    is_link_local = found.destination.version == 6 and found.destination.is_link_local
    is_automatic = found.protocol in (RTPROT_KERNEL, RTPROT_RA)
    return found.table != RT_TABLE_LOCAL and found.hops == 1 and not is_link_local and not is_automatic
