"""
The arithmetic of host-local's ranges: which addresses there are, and which comes next.

Pure, and never a list: a /64 has no end. The checks and their texts are the reference's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from meta_cni.cni.config import Section
from meta_cni.cni.errors import BadConfig
from meta_cni.cni.result import Address, Network


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from `start` to `end` inside `subnet`."""

    subnet: Network
    start: Address
    end: Address
    gateway: Address
    first: int = field(init=False, repr=False, compare=False)
    final: int = field(init=False, repr=False, compare=False)
    """`start` and `end` as numbers, which every request compares with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", int(self.start))
        object.__setattr__(self, "final", int(self.end))

    def __contains__(self, address: Address) -> bool:
        return isinstance(address, type(self.start)) and self.first <= int(address) <= self.final

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    @property
    def is_whole(self) -> bool:
        """Does it begin and end where a range of its subnet does unless told otherwise?"""
        return (self.start, self.end) == _ends(self.subnet)


Item = TypeVar("Item")
RangeSet = tuple[Range, ...]


def parse_sets(section: Section) -> tuple[RangeSet, ...]:
    """`ranges` of an ipam section, and the older `subnet` beside it as the first set."""
    value = section.value("ranges")
    sets: list[RangeSet] = []
    if section.string("subnet"):
        sets.append((parse_range(section),))
    sets.extend(parse_list(section, "ranges") if value is not None else ())
    return tuple(sets)


def parse_list(section: Section, key: str) -> list[RangeSet]:
    """A list of lists of ranges."""
    value = section.value(key)
    if not isinstance(value, list) or not all(isinstance(each, list) and each for each in value):
        raise section.wrong(key, "a list of range sets, each a list of ranges")
    sets: list[RangeSet] = []
    for index, items in enumerate(value):
        where = f"{section.where}: {key}[{index}]"
        if not all(isinstance(each, dict) for each in items):
            raise section.wrong(key, "a list of range sets, each a list of ranges")
        sets.append(tuple(parse_range(Section(f"{where}[{n}]", each)) for n, each in enumerate(items)))
    return sets


def parse_range(section: Section) -> Range:
    """One range; start, end and gateway have the reference's defaults."""
    subnet = section.network("subnet")
    host = ip_address(section.string("subnet").split("/")[0])
    if host != subnet.network_address:
        raise BadConfig(
            f"{section.where}: subnet: Network has host bits set. For a subnet mask of length "
            f"{subnet.prefixlen} the network address is {subnet.network_address}"
        )
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        raise BadConfig(f"{section.where}: subnet: Network {subnet} too small to allocate from")
    first, last = _ends(subnet)
    start = section.address("rangeStart") or first
    end = section.address("rangeEnd") or last
    for name, address in (("RangeStart", start), ("RangeEnd", end)):
        if address not in subnet:
            raise BadConfig(f"{section.where}: {name} {address} not in network {subnet}")
    if int(start) > int(end):
        raise BadConfig(f"{section.where}: RangeStart {start} is after RangeEnd {end}")
    return Range(subnet, start, end, section.address("gateway") or subnet.network_address + 1)


def _ends(subnet: Network) -> tuple[Address, Address]:
    """The first and last address to hand out: IPv6 has no broadcast address to leave out."""
    last = subnet.broadcast_address
    return subnet.network_address + 1, last - 1 if subnet.version == 4 else last


def check_sets(sets: Sequence[RangeSet], where: str) -> None:
    """Ranges of a set are of one family and apart, and so are the sets."""
    for index, each in enumerate(sets):
        if len({range_.subnet.version for range_ in each}) > 1:
            raise BadConfig(f"{where}: invalid range set {index}: mixed address families")
        for one, other in _pairs(each):
            if _overlap(one, other):
                raise BadConfig(f"{where}: invalid range set {index}: subnets {one} and {other} overlap")
    for (n, one_set), (m, other_set) in _pairs(tuple(enumerate(sets))):
        if any(_overlap(one, other) for one in one_set for other in other_set):
            raise BadConfig(f"{where}: range set {n} overlaps with {m}")


def check_gateways(sets: Sequence[RangeSet], where: str) -> None:
    """A gateway is in its range's network."""
    for each in (range_ for set_ in sets for range_ in set_):
        if each.gateway not in each.subnet:
            raise BadConfig(f"{where}: gateway {each.gateway} not in network {each.subnet}")


def _pairs(items: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    return ((one, other) for n, one in enumerate(items) for other in items[n + 1 :])


def _overlap(one: Range, other: Range) -> bool:
    return one.start in other or other.start in one


def name_of(set_: RangeSet) -> str:
    """A set for error texts, as the reference writes it."""
    return ",".join(str(each) for each in set_)


def find(set_: RangeSet, address: Address) -> Range | None:
    """The range of a set that has the address."""
    for each in set_:
        if address in each:
            return each
    return None


def candidates(set_: RangeSet, last: Address | None) -> Iterator[Address]:
    """
    Every address of a set once, from the one behind `last` around to it; gateways are left out.

    A `last` outside the set, or none, starts at the first address.
    """
    current = find(set_, last) if last is not None else None
    if current is None or last is None:
        for each in set_:
            yield from _between(each, each.first, each.final)
        return
    number, start = int(last), set_.index(current)
    yield from _between(current, number + 1, current.final)
    for each in (*set_[start + 1 :], *set_[:start]):
        yield from _between(each, each.first, each.final)
    yield from _between(current, current.first, number)


def _between(range_: Range, first: int, final: int) -> Iterator[Address]:
    """The addresses of a range from one number to another, without the gateway."""
    kind = type(range_.start)
    gateway = int(range_.gateway)
    for number in range(first, final + 1):
        if number != gateway:
            yield kind(number)
