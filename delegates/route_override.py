"""
route-override: the pod's routes as its network wants them, whatever the plugins before set up
(openshift/route-override-cni).

Chained: routes are taken from the pod and from the Result, and put into both. Unlike the
reference: what cannot be done is an error and undone instead of a line on standard error, a
default route is deleted like any other, routes are found in the kernel even where the Result
does not tell them, mtu, advmss, priority, table and scope of a route are set, and CHECK looks
for exactly these routes instead of asking how an address is reached.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import BadConfig, CheckFailed, CNIError, KernelError
from meta_cni.cni.result import Result
from meta_cni.cni.result import Route as ResultRoute
from meta_cni.delegate import Attachment, Valid, unimplemented
from meta_cni.linux import configure, link, route
from meta_cni.linux.route import ANYWHERE, RT_SCOPE_LINK, Route

KEYS = ("flushroutes", "flushgateway", "delroutes", "addroutes", "skipcheck")


class RouteOverride:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        source = {key: _source(config, key) for key in KEYS}
        self.is_flushed = source["flushroutes"].boolean("flushroutes")
        self.is_gateway_flushed = source["flushgateway"].boolean("flushgateway")
        self.added = tuple(_on_link(each) for each in source["addroutes"].routes("addroutes"))
        self.is_unchecked = source["skipcheck"].boolean("skipcheck")
        deleted = {each.destination for each in source["delroutes"].routes("delroutes")}
        self.deleted = deleted | (set(ANYWHERE.values()) if self.is_gateway_flushed else set())

    def add(self, previous: Result | None) -> Result:
        """Delete, then add; a change that fails undoes those before it."""
        if previous is None:
            raise BadConfig(
                f"{self.config.where}: prevResult is missing: expected another plugin before it in the list"
            )
        pod = self.attachment.namespaces.pod
        result = self._told(previous)
        indexes = self._indexes(previous)
        gone = [each for each in route.dump(pod) if each.interface_index in indexes and self._goes(each)]
        wanted = self._added(indexes[0], previous)
        pod.request([route.delete(each) for each in gone])
        made: list[Route] = []
        try:
            for each in wanted:
                pod.request([route.add(each)])
                made.append(each)
        except CNIError:
            self._put_back(made, gone)
            raise
        return result

    def _put_back(self, made: list[Route], gone: list[Route]) -> None:
        pod = self.attachment.namespaces.pod
        for request in (*map(route.delete, made), *(route.add(each, append=True) for each in gone)):
            with suppress(KernelError):
                pod.request([request])

    def _added(self, index: int, previous: Result) -> list[Route]:
        """The routes to add, on the pod's first interface; only gateways that are named are used."""
        return configure.routes_of(index, replace(previous, routes=self.added, ips=()))

    def _goes(self, present: Route) -> bool:
        """
        Is a route of the kernel to be deleted?

        Flushing takes those through a gateway, and default routes; what is on the link itself
        stays, and what is link-local.
        """
        if present.destination in self.deleted:
            return True
        is_through = present.gateway is not None and not present.destination.network_address.is_link_local
        return self.is_flushed and (
            present.destination.prefixlen == 0 or (is_through and present.scope != RT_SCOPE_LINK)
        )

    def _indexes(self, previous: Result) -> tuple[int, ...]:
        """The pod's interfaces in the result, in their order; ours where it tells none."""
        pod = self.attachment.namespaces.pod
        names = [each.name for each in previous.interfaces if each.sandbox] or [self.attachment.interface]
        return tuple(link.require(pod, name, "interface").index for name in names)

    def _told(self, previous: Result) -> Result:
        """The result without what is deleted, and with what is added."""
        kept: tuple[ResultRoute, ...] = ()
        if not self.is_flushed:
            kept = tuple(each for each in previous.routes if each.destination not in self.deleted)
        ips = previous.ips
        if self.is_gateway_flushed:
            ips = tuple(replace(each, gateway=None) for each in ips)
        return replace(previous, ips=ips, routes=(*kept, *self.added))

    def check(self, previous: Result) -> None:
        """What was deleted is not there, what the result tells is; `skipcheck` skips it."""
        if self.is_unchecked:
            return
        pod = self.attachment.namespaces.pod
        indexes = self._indexes(previous)
        present = [each for each in route.dump(pod) if each.interface_index in indexes]
        told = {each.destination for each in previous.routes}
        for each in present:
            if each.destination not in told and each.destination in self.deleted:
                raise CheckFailed(
                    f"check {self.attachment.interface}: route {each.destination} is there again"
                )
        for wanted in self.added:
            if not self._is_there(wanted, indexes, previous):
                raise CheckFailed(
                    f"check {self.attachment.interface}: route {wanted.destination} "
                    f"via {wanted.gateway} is not there"
                )

    def _is_there(self, wanted: ResultRoute, indexes: Collection[int], previous: Result) -> bool:
        """In its table, or where a plugin behind us has moved it to."""
        namespaces = self.attachment.namespaces
        return any(
            (each.destination, each.gateway) == (wanted.destination, wanted.gateway)
            and each.interface_index in indexes
            for table in configure.tables_of(namespaces, wanted, previous.ips)
            for each in route.dump(namespaces.pod, table)
        )

    def delete(self) -> None:
        """The routes go with their interface; there is nothing else."""

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """It needs nothing."""

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Nothing is left on the node."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _source(config: PluginConfig, key: str) -> Section:
    """Where a key is read: `args.cni` where it is there, else the configuration."""
    args = config.section.section("args")
    cni = args.section("cni") if args is not None else None
    return cni if cni is not None and cni.value(key) is not None else config.section


def _on_link(wanted: ResultRoute) -> ResultRoute:
    """
    A route without a gateway says that it has none.

    In a Result it would else mean the gateway of an address, as every other plugin takes it.
    """
    if wanted.gateway is not None or wanted.scope is not None:
        return wanted
    return replace(wanted, scope=RT_SCOPE_LINK)
