"""
The default route of a pod: one owner a family, whatever the delegates installed.

Who owns it is decided in the plan. While the attachments are made, every default route that a
delegate leaves is taken out of the kernel and remembered with its interface, so that no plugin
meets another one's (a second one is EEXIST for some, a silent second hop for others). At the
end the owner's is installed, and the kernel is asked whether that is what is there. Where all
plugins are built in, which append theirs, nothing is taken out that is to stay.

With one network and nothing asked for, nothing is touched. This is what Multus' users report
as broken there (D-01 to D-06 of the compatibility notes).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from meta_cni.cni.errors import BadConfig, CheckFailed, KernelError
from meta_cni.cni.result import Address, Result
from meta_cni.cni.result import Route as ResultRoute
from meta_cni.engine.plan import DefaultRoute
from meta_cni.linux import link, route
from meta_cni.linux.netlink import Socket
from meta_cni.linux.route import ANYWHERE, Route
from meta_cni.quick import quick

IPV6_METRIC = 1024  # IP6_RT_PRIO_USER, <net/ip6_route.h>: what the kernel gives a route without a metric


@quick
@dataclass(frozen=True, slots=True)
class Brought:
    """The default routes that came with one attachment."""

    interface: str
    routes: tuple[Route, ...]


def is_needed(decisions: Sequence[DefaultRoute], count: int) -> bool:
    """Is there anything to decide: more than one network, or a request?"""
    return count > 1 or any(decision.is_requested or decision.owner is None for decision in decisions)


def take_away(pod: Socket, interface: str) -> Brought:
    """Remove every default route from the pod, and tell which they were."""
    found = present(pod)
    if found:
        pod.request([route.delete(each) for each in found])
    return Brought(interface, found)


def put_back(pod: Socket, before: Brought) -> None:
    """Install what the pod had, as far as the kernel takes it: an ADD that failed leaves it as it was."""
    for each in before.routes:
        with suppress(KernelError):
            pod.request([route.add(each, append=True)])


def by_interface(pod: Socket, routes: Sequence[Route]) -> dict[str, tuple[Route, ...]]:
    """Routes by the names of the links that they go through."""
    indexes = sorted({each.interface_index for each in routes})
    return {
        name: tuple(each for each in routes if each.interface_index == index)
        for index, name in (link.names(pod, indexes) if indexes else {}).items()
    }


def present(pod: Socket) -> tuple[Route, ...]:
    """Every default route of the pod."""
    return tuple(route.defaults(pod))


def settle(
    pod: Socket,
    decisions: Sequence[DefaultRoute],
    before: Brought,
    brought: Sequence[Brought],
    there: Sequence[Route] = (),
) -> tuple[Route, ...]:
    """
    Install each family's default route, and verify that exactly those are there.

    `before` is what the pod had before the first attachment; `brought` is in the order of the
    steps; `there` is what the kernel has just now of it. Returns what is in the kernel then.
    """
    wanted = [each for decision in decisions for each in _chosen(pod, decision, before, brought)]
    batch = [route.delete(each) for each in there if each not in wanted]
    batch += [route.add(each, append=True) for each in wanted if each not in there]
    found = there
    if batch:
        pod.request(batch)
        found = present(pod)
    if {_hop(each) for each in found} != {_hop(each) for each in wanted}:
        shown = ", ".join(f"via {each.gateway}" for each in found) or "none"
        raise CheckFailed(f"verify the default routes of the pod: the kernel has {shown}")
    return tuple(found)


def rewrite(result: Result, own: Sequence[Route]) -> Result:
    """The result with exactly those default routes that are in the kernel on its interface."""
    kept = tuple(each for each in result.routes if not each.is_default)
    if not own and len(kept) == len(result.routes):
        return result
    return replace(result, routes=(*kept, *(_to_result(each) for each in own)))


def _to_result(found: Route) -> ResultRoute:
    usual = IPV6_METRIC if found.destination.version == 6 else 0
    priority = 0 if found.priority == usual else found.priority
    return ResultRoute(found.destination, found.gateway, found.mtu, found.advmss, priority)


def _hop(each: Route) -> tuple[int, Address | None, int]:
    return each.destination.version, each.gateway, each.interface_index


def _chosen(pod: Socket, decision: DefaultRoute, before: Brought, brought: Sequence[Brought]) -> list[Route]:
    """
    The routes of one family that are to be: requested ones, else the owner's, else the default's.

    What the pod had before, by another request of its runtime, stays where none of these brings any.
    """
    if decision.owner is not None and decision.gateways:
        return _requested(pod, decision, brought[decision.owner].interface)
    candidates = [brought[decision.owner]] if decision.owner is not None else []
    candidates += [*brought[:1], before] if decision.is_requested else [before]
    for candidate in candidates:
        of_family = [each for each in candidate.routes if each.destination.version == decision.family]
        if of_family:
            return of_family
    return []


def _requested(pod: Socket, decision: DefaultRoute, interface: str) -> list[Route]:
    """One route a gateway; their order becomes their metric (S-19)."""
    found = link.find(pod, interface)
    if found is None:
        raise BadConfig(f"default-route: there is no interface {interface} in the pod to have it")
    base = IPV6_METRIC if decision.family == 6 else 0
    return [
        Route(
            destination=ANYWHERE[decision.family],
            gateway=gateway,
            interface_index=found.index,
            priority=base + rank,
        )
        for rank, gateway in enumerate(decision.gateways)
    ]
