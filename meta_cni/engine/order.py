"""
Which attachment comes after which: a bond of the pod's links, or a VLAN on one, stands on others.

Pure. Else the order is that of the annotation, and so it is for those that need nobody.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig


def turns(interfaces: Sequence[str], needs: Sequence[Collection[str]]) -> tuple[int, ...]:
    """
    Everyone's turn, the first is 0; needs are names of interfaces, of which others may be the pod's own.

    Raises BadConfig when some need each other.
    """
    if not any(needs):
        return tuple(range(len(interfaces)))
    wanted = [set(each).intersection(interfaces) - {own} for own, each in zip(interfaces, needs, strict=True)]
    order: list[int] = []
    while len(order) < len(interfaces):
        there = {interfaces[number] for number in order}
        left = [number for number in range(len(interfaces)) if number not in order]
        found = next((number for number in left if wanted[number] <= there), None)
        if found is None:
            names = ", ".join(interfaces[number] for number in left)
            raise BadConfig(f"interfaces {names} stand on each other: expected one that stands on none")
        order.append(found)
    return tuple(order.index(number) for number in range(len(interfaces)))


def links_of(plugin: PluginConfig) -> Iterator[str]:
    """The links of the pod that a plugin stands on: a master, or the members of a bond."""
    values = plugin.section
    if values.value("linkInContainer") is True:
        yield from _names([{"name": values.value("master")}])
    if values.value("linksInContainer") is True:
        yield from _names(values.value("links"))


def _names(links: object) -> Iterator[str]:
    """What is wrong in it, the plugin will tell."""
    for each in links if isinstance(links, list) else ():
        name = each.get("name") if isinstance(each, Mapping) else None
        if isinstance(name, str):
            yield name
