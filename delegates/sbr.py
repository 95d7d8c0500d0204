"""
sbr: what comes from an interface's address leaves by that interface (containernetworking/plugins, meta/sbr).

Each address gets a rule and a table of its own: the first free one from 100 on. Into it go a
default route by the address' gateway and the routes of the interface, which leave the main
table; with `table` there is a rule alone, to a table that others fill. Two of a pod never get
the same table: the namespace is locked by the reference's own lock.

A rule of ours is known by its protocol and its source, so it goes when link or address went
before it, and nobody else's ever does.

Unlike the reference: a static gateway is not replaced by the default route that was there
before; a table of another's routes is not free; a route by a gateway outside of the address'
network is not lost; link-local routes stay in the main table as well; a failing ADD leaves main
table and rules as they were; CHECK looks; a missing gateway is said in the log.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from meta_cni.cni import result as results
from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, CNIError, NetnsGone, join
from meta_cni.cni.result import LARGEST_U32, Address, IPConfig, Network, Result, address_of
from meta_cni.delegate import Attachment, Valid, undo, unimplemented
from meta_cni.linux import address, link, netns, route, rule
from meta_cni.linux.netlink import Socket
from meta_cni.linux.route import ANYWHERE, RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, Route
from meta_cni.linux.rule import Rule

LOG = logging.getLogger("meta_cni")
KEYS = ("table", "gateways", "addSourceHints")
FIRST_TABLE = 100
RTPROT_SBR = 109
"""The protocol of our rules; none of iproute2's rt_protos, and no kernel's (<linux/rtnetlink.h>)."""
IP6_RT_PRIO_USER = 1024  # <linux/ipv6_route.h>
PRIORITIES = {4: 0, 6: IP6_RT_PRIO_USER}
"""What a route has that was added without a priority."""


@dataclass(frozen=True, slots=True)
class Present:
    """What steers packets in the pod now."""

    rules: Sequence[Rule]
    routes: Sequence[Route]
    """The unicast ones of every table."""

    @classmethod
    def read(cls, socket: Socket) -> "Present":
        """As the kernel has it."""
        return cls(rule.dump(socket), route.dump(socket, 0))

    def main(self, index: int) -> list[Route]:
        """The main table's routes by a link; one of several hops is nobody's alone."""
        return [
            each
            for each in self.routes
            if each.table == RT_TABLE_MAIN and each.interface_index == index and each.hops == 1
        ]

    def leads(self, table: int) -> frozenset[int]:
        """The links that a table's routes leave by."""
        return frozenset(each.interface_index for each in self.routes if each.table == table)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ADD does to the pod."""

    rules: Sequence[Rule] = ()
    copied: Sequence[Route] = ()
    """Into the tables of the rules."""
    taken: Sequence[Route] = ()
    """From the main table."""
    hinted: Sequence[Route] = ()
    """Into the main table."""

    def carry_out(self, socket: Socket) -> None:
        """At no moment is there a rule to a table that is not complete."""
        socket.request([route.add(each) for each in _in_order(self.copied)])
        socket.request([rule.add(each) for each in self.rules])
        socket.request([*map(route.delete, self.taken), *map(route.add, self.hinted)])


class Sbr:
    """One interface."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        section = config.section
        self.table = section.integer("table", minimum=1, maximum=LARGEST_U32)
        self.gateways = _gateways(config)
        self.has_source_hints = section.boolean("addSourceHints")
        for key in ("gateways", "addSourceHints"):
            if self.table and section.value(key):
                raise section.wrong(key, "none beside table, which others fill")

    def add(self, previous: Result | None) -> Result:
        """Set it all up; what a failure leaves is undone here, the main table too."""
        if previous is None:
            raise BadConfig(
                f"{self.config.where}: prevResult is missing: "
                "This plugin must be called as chained plugin behind one that makes the interface"
            )
        ips = _own(previous, self.attachment.interface)
        if not ips:
            raise BadConfig(
                f"{self.config.where}: prevResult: No IP addresses supplied on interface "
                f"{self.attachment.interface}: expected a plugin before it with ipam"
            )
        pod = self.attachment.namespaces.pod
        with self._locked():
            index = link.require(pod, self.attachment.interface, "link").index
            before = Present.read(pod)
            plan = self._plan(ips, before, index, route.tables(pod))
            try:
                plan.carry_out(pod)
            except CNIError as error:
                _put_back(pod, plan, before, index, error)
        return previous

    def _locked(self) -> AbstractContextManager[None]:
        return netns.locked(self.attachment.namespaces.pod_fd, self.attachment.deadline_s)

    def _plan(self, ips: Sequence[IPConfig], before: Present, index: int, used: Collection[int]) -> Plan:
        if self.table:
            return Plan([_rule(each, self.table) for each in ips])
        free = _free_tables({*used, *(each.table for each in before.rules)}, len(ips))
        routes = before.main(index)
        kept, hinted = _in_main(ips, routes, index) if self.has_source_hints else ([], [])
        kept = [*kept, *(each for each in routes if _is_link_local(each.destination))]
        copied: list[Route] = []
        for each, table in zip(ips, free, strict=True):
            copied += self._of_table(each, ips, routes, index, table)
        return Plan(
            rules=[_rule(each, table) for each, table in zip(ips, free, strict=True)],
            copied=copied,
            taken=[each for each in routes if each not in kept],
            hinted=hinted,
        )

    def _of_table(
        self, own: IPConfig, ips: Sequence[IPConfig], routes: Sequence[Route], index: int, table: int
    ) -> Iterable[Route]:
        """The table of an address: a route that was there before comes before the gateway of the result."""
        found: dict[tuple[Network, int], Route] = {}
        version = own.address.version
        gateway = self._gateway(own)
        if gateway is None:
            LOG.warning("%s: address %s has no gateway: no default route is set", self._where(), own.address)
        else:
            default = Route(
                ANYWHERE[version],
                gateway,
                index,
                priority=PRIORITIES[version],
                scope=RT_SCOPE_UNIVERSE,
            )
            found[default.destination, default.priority] = default
        for each in routes:
            is_default = each.destination == ANYWHERE[version]
            if _belongs(each, own, ips) and not (is_default and version in self.gateways):
                found[each.destination, each.priority] = each
        return [replace(each, table=table) for each in found.values()]

    def _where(self) -> str:
        return f"{self.config.where}: {self.attachment.container_id} {self.attachment.interface}"

    def _gateway(self, own: IPConfig) -> Address | None:
        """The static one of the family comes before the result's."""
        return self.gateways.get(own.address.version, own.gateway)

    def check(self, previous: Result) -> None:
        """Every address has its rule, to a table by which it leaves; raises CheckFailed."""
        name = self.attachment.interface
        namespaces = self.attachment.namespaces
        found = link.find(namespaces.pod, name)
        if found is None:
            raise CheckFailed(f"check {name}: there is no such interface in {namespaces.path}")
        present = Present.read(namespaces.pod)
        ips = _own(previous, name)
        for each in ips:
            self._check_address(each, present, found.index)
        if not self.table:
            self._check_routes(previous, ips, present, found.index)

    def _check_address(self, own: IPConfig, present: Present, index: int) -> None:
        name, ip = self.attachment.interface, own.address.ip
        tables = _tables_of(ip, present)
        if self.table:
            if self.table not in tables:
                raise CheckFailed(f"check {name}: there is no rule from {ip} to table {self.table}")
            return
        if not tables:
            raise CheckFailed(f"check {name}: there is no rule from {ip}")
        gateway = self._gateway(own)
        own_routes = [
            each for each in present.routes if each.table in tables and each.interface_index == index
        ]
        hops = {each.gateway for each in own_routes if each.destination == ANYWHERE[ip.version]}
        if gateway is not None and not hops:
            raise CheckFailed(f"check {name}: there is no default route from {ip} via {gateway}")
        if ip.version in self.gateways and gateway not in hops:
            raise CheckFailed(f"check {name}: the default route from {ip} is not via {gateway}")
        if not own_routes and own.address.network != rule.alone(ip):
            raise CheckFailed(f"check {name}: there is no route from {ip} by it")

    def _check_routes(self, previous: Result, ips: Sequence[IPConfig], present: Present, index: int) -> None:
        """What the result has for the main table is in an address' table; or in main, if it came later."""
        tables = {RT_TABLE_MAIN}.union(*(_tables_of(each.address.ip, present) for each in ips))
        reached = {
            each.destination
            for each in present.routes
            if each.table in tables and each.interface_index == index
        }
        for each in previous.routes:
            if each.is_in_main and each.destination not in reached:
                name = self.attachment.interface
                raise CheckFailed(f"check {name}: route {each.destination} is not in the table of an address")

    def delete(self) -> None:
        """Remove our rules; the routes go with the link, and all of it with the namespace."""
        with suppress(NetnsGone), self._locked():
            pod = self.attachment.namespaces.pod
            pod.request([rule.delete(each) for each in self._rules(pod)])

    def _rules(self, pod: Socket) -> list[Rule]:
        """
        Our rules of this interface: their source is its address, or prevResult says that it was.

        Without prevResult it may also be one that nobody in the pod has any more.
        """
        present = Present.read(pod)
        found = link.find(pod, self.attachment.interface)
        index = found.index if found is not None else 0
        owners: dict[Address, set[int]] = defaultdict(set)
        for each in address.dump(pod):
            owners[each.ip].add(each.interface_index)
        previous = self._previous()
        told = _own(previous, self.attachment.interface) if previous is not None else []
        for one in told:
            owners[one.address.ip].add(index)

        def is_own(each: Rule) -> bool:
            ip, leads = each.source.network_address, present.leads(each.table)
            if index in owners[ip]:  # another link may have the same address, and another table
                return index in leads or not leads & owners[ip]
            is_orphan = previous is None and not owners[ip]
            return is_orphan and (leads <= {index} or each.table == self.table)

        return [each for each in present.rules if _is_ours(each) and is_own(each)]

    def _previous(self) -> Result | None:
        """prevResult of a DEL, where there is one that can be read."""
        with suppress(CNIError):
            section = self.config.section.section("prevResult")
            if section is not None:
                return results.parse(section.values, self.config.cni_version)
        return None

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """It needs nothing but the kernel."""

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Nothing is on the node: rules and routes died with the pod's namespace."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _gateways(config: PluginConfig) -> Mapping[int, Address]:
    """Family -> static gateway."""
    found: dict[int, Address] = {}
    for text in config.section.strings("gateways"):
        try:
            gateway = address_of(text)
        except ValueError:
            raise config.section.wrong("gateways", "a list of IP addresses") from None
        if gateway.version in found:
            raise config.section.wrong("gateways", "at most one IPv4 and one IPv6 address")
        found[gateway.version] = gateway
    return found


def _own(previous: Result, interface: str) -> list[IPConfig]:
    """The addresses of an interface, each once; an address that names no interface is its own, too."""
    named = [n for n, each in enumerate(previous.interfaces) if each.name == interface]
    in_pod = [n for n in named if previous.interfaces[n].sandbox]
    indexes = (None, *(in_pod or named))
    found: dict[Address, IPConfig] = {}
    for each in previous.ips:
        if each.interface in indexes:
            found.setdefault(each.address.ip, each)
    return list(found.values())


def _rule(own: IPConfig, table: int) -> Rule:
    return Rule(rule.alone(own.address.ip), table, protocol=RTPROT_SBR)


def _is_ours(found: Rule) -> bool:
    """Did an ADD here make it, of whatever interface?"""
    return found.protocol == RTPROT_SBR and found.is_from(found.source.network_address)


def _free_tables(used: Collection[int], count: int) -> list[int]:
    free = (each for each in itertools.count(FIRST_TABLE) if each not in used)
    return list(itertools.islice(free, count))


def _belongs(found: Route, own: IPConfig, ips: Sequence[IPConfig]) -> bool:
    """
    Is a route of the interface for this address?

    It is when its source or gateway is in the address' network; a route that is so with no
    address, or has neither, is for every address of its family.
    """
    if found.destination.version != own.address.version:
        return False
    ends = [each for each in (found.source, found.gateway) if each is not None]
    fitting = [other for other in ips if any(each in other.address.network for each in ends)]
    return own in fitting or not fitting


def _is_link_local(destination: Network) -> bool:
    """No rule asks for a link-local source, which several interfaces have: what it needs stays in main."""
    return destination.version == 6 and destination.is_link_local


def _in_main(ips: Sequence[IPConfig], routes: Sequence[Route], index: int) -> tuple[list[Route], list[Route]]:
    """
    With `addSourceHints` the routes that stay in the main table, and those that come into it.

    A program that chose no address then gets that of the interface it sends by. It is a way to
    the neighbours, not to everywhere: the networks of the addresses, and what has no gateway.
    """
    hints: dict[Network, Address] = {}
    for each in ips:
        if each.address.network != rule.alone(each.address.ip):
            hints.setdefault(each.address.network, each.address.ip)
    kept: list[Route] = []
    hinted: list[Route] = []
    for found in routes:
        source = hints.get(found.destination)
        if source is not None and found.source != source:
            hinted.append(replace(found, source=source))
        elif source is not None or (found.gateway is None and found.destination.prefixlen):
            kept.append(found)
    present = {each.destination for each in routes}
    hinted += [
        Route(network, interface_index=index, source=source)
        for network, source in hints.items()
        if network not in present
    ]
    return kept, hinted


def _in_order(routes: Iterable[Route]) -> list[Route]:
    """The way to a gateway comes before the routes by it."""
    return sorted(routes, key=lambda each: each.gateway is not None)


def _tables_of(ip: Address, present: Present) -> frozenset[int]:
    return frozenset(each.table for each in present.rules if each.is_from(ip))


def _put_back(pod: Socket, plan: Plan, before: Present, index: int, error: CNIError) -> NoReturn:
    """Rules, new tables and the main table as they were; raises the error, and what this could not do."""

    def remove_rules() -> None:
        ours = [each for each in rule.dump(pod) if _is_ours(each)]
        pod.request([rule.delete(each) for each in ours if each not in before.rules])

    def remove_tables() -> None:
        tables = {each.table for each in plan.copied}
        made = [each for each in route.dump(pod, 0) if each.table in tables]
        pod.request([route.delete(each) for each in made])

    def restore_main() -> None:
        are, were = Present.read(pod).main(index), before.main(index)
        missing = sorted(
            (each for each in were if each not in are), key=lambda each: each.gateway is not None
        )
        pod.request([route.delete(each) for each in are if each not in were])
        pod.request([route.add(each) for each in missing])

    try:
        undo(remove_rules, restore_main, remove_tables)
    except CNIError as left:
        raise join([error, left]) from None
    raise error
