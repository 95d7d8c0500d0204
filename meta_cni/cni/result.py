"""
A CNI Result, in one form inside and in every version's form outside.

Inside there is one set of frozen dataclasses with everything version 1.1.0 knows. parse()
reads any version from 0.1.0 on, to_json() writes any; what a version cannot say is dropped
on the way out, as the specification's conversion does (CNI 1.1.0, "Success" and "Appendix").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from meta_cni.cni.errors import DecodeFailure
from meta_cni.cni.version import WHEN_ABSENT, at_least, require_supported
from meta_cni.quick import quick

Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

KEYS = frozenset(
    (
        *("cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"),
        *("name", "mac", "sandbox", "mtu", "socketPath", "pciID"),
        *("version", "interface", "address", "gateway", "ip"),
        *("dst", "gw", "advmss", "priority", "table", "scope"),
        *("nameservers", "domain", "search", "options"),
    )
)
"""Of a result and what is in it; an object that has no others has none in another case."""
LARGEST_INT = 2**31 - 1
LARGEST_U32 = 2**32 - 1  # RTA_PRIORITY, RTA_TABLE and RTAX_ADVMSS are u32, <linux/rtnetlink.h>
LARGEST_SCOPE = 255  # rtm_scope is a byte, <linux/rtnetlink.h>


@quick
@dataclass(frozen=True, slots=True)
class Interface:
    """One link; an empty `sandbox` (netns path) means that it is on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@quick
@dataclass(frozen=True, slots=True)
class IPConfig:
    """One address with its prefix, its gateway, and the index of its interface in the result."""

    address: InterfaceAddress
    gateway: Address | None = None
    interface: int | None = None


@quick
@dataclass(frozen=True, slots=True)
class Route:
    """A route in the sandbox; without `gateway` the first one of its family in `ips` is used."""

    destination: Network
    gateway: Address | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None

    @property
    def is_default(self) -> bool:
        """0.0.0.0/0 or ::/0 in the main table."""
        return self.destination.prefixlen == 0 and self.is_in_main

    @property
    def is_in_main(self) -> bool:
        """In the main table, said or unsaid (RT_TABLE_UNSPEC, RT_TABLE_MAIN, <linux/rtnetlink.h>)."""
        return self.table in (None, 0, 254)


@quick
@dataclass(frozen=True, slots=True)
class DNS:
    """What the pod's resolver shall be told."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)


NO_DNS = DNS()


@quick
@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD did: interfaces, addresses, routes and DNS."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = NO_DNS

    def of(self, *interfaces: Interface) -> "Result":
        """The same, of these interfaces."""
        return Result(interfaces, self.ips, self.routes, self.dns)


@lru_cache(maxsize=256)
def address_of(text: str) -> Address:
    """
    An IP address without prefix, as Go's net.ParseIP takes it; raises ValueError.

    Python alone would take a zone (fe80::1%eth0) as well, which no CNI plugin understands. Every pod
    of a network brings the same gateways and routes: the newest are remembered.
    """
    if "%" in text:
        raise ValueError(text)
    return ip_address(text)


def interface_address_of(text: str) -> InterfaceAddress:
    """
    An IP address with its prefix length, as Go's net.ParseCIDR takes it; raises ValueError.

    Python alone would take a zone, no prefix at all, or a netmask in its place.
    """
    _require_prefix_length(text)
    return ip_interface(text)


@lru_cache(maxsize=256)
def network_of(text: str) -> Network:
    """As interface_address_of(), with the host bits cut."""
    _require_prefix_length(text)
    return ip_network(text, strict=False)


def _require_prefix_length(text: str) -> None:
    address, _, prefix_length = text.partition("/")
    if "%" in address or not prefix_length.isdigit():
        raise ValueError(text)


def parse(document: Mapping[str, object], default_version: str, *, is_of_addresses: bool = False) -> Result:
    """
    Read a Result of any version; raises DecodeFailure naming the key that is wrong.

    Without `cniVersion` it is of `default_version`, the configuration's; null and a key that
    nobody knows are as good as absent, and known keys are found in any case, as in Go. With
    `is_of_addresses` it is an IPAM's, which has no interfaces: whoever asked for it makes them.
    """
    version = _text(document, "cniVersion", "") or default_version or WHEN_ABSENT
    require_supported(version, what="result")
    dns = _dns(_object(document, "dns", ""))
    if not at_least(version, "0.3.0"):
        return replace(_from_families(document), dns=dns)
    is_one = at_least(version, "1.0.0")
    told = [] if is_of_addresses else _objects(document, "interfaces", "")
    interfaces = tuple(_interface(each, f"interfaces[{index}].", is_one) for index, each in enumerate(told))
    last = LARGEST_INT if is_of_addresses else len(interfaces)
    ips = tuple(_ip(each, f"ips[{index}].", last) for index, each in enumerate(_objects(document, "ips", "")))
    if is_of_addresses:
        ips = tuple(replace(each, interface=None) for each in ips)
    return Result(interfaces, ips, _routes(document, ""), dns)


def _from_families(document: Mapping[str, object]) -> Result:
    """The form of 0.1.0 and 0.2.0: at most one address a family, each with its routes."""
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for key, version in (("ip4", 4), ("ip6", 6)):
        family = _object(document, key, "")
        if not family:
            continue
        path = f"{key}."
        address = _address_with_prefix(family, "ip", path)
        if address.version != version:
            raise _wrong(family, "ip", path, f"an IPv{version} address")
        ips.append(IPConfig(address, _address(family, "gateway", path)))
        routes += (Route(route.destination, route.gateway) for route in _routes(family, path))
    return Result(ips=tuple(ips), routes=tuple(routes))


def _interface(document: Mapping[str, object], path: str, is_one: bool) -> Interface:
    """An interface; the attributes that 1.x added are unknown keys before."""
    name, mac, sandbox = (_text(document, key, path) for key in ("name", "mac", "sandbox"))
    if not is_one:
        return Interface(name, mac, sandbox)
    return Interface(
        name,
        mac,
        sandbox,
        mtu=_number(document, "mtu", path, LARGEST_INT) or 0,
        socket_path=_text(document, "socketPath", path),
        pci_id=_text(document, "pciID", path),
    )


def _ip(document: Mapping[str, object], path: str, interfaces: int) -> IPConfig:
    address = _address_with_prefix(document, "address", path)
    version = _text(document, "version", path)
    if version and version != str(address.version):
        raise _wrong(document, "version", path, f'"{address.version}" for {address}')
    index = _number(document, "interface", path, LARGEST_INT, minimum=-LARGEST_INT)
    if index is not None and index < 0:
        index = None
    if index is not None and index >= interfaces:
        raise _wrong(document, "interface", path, f"an index of the {interfaces} interfaces")
    return IPConfig(address, _address(document, "gateway", path), index)


def _routes(document: Mapping[str, object], path: str) -> tuple[Route, ...]:
    return tuple(
        _route(each, f"{path}routes[{index}].")
        for index, each in enumerate(_objects(document, "routes", path))
    )


def _route(document: Mapping[str, object], path: str) -> Route:
    """
    A route with the attributes of 1.1.0 in every version.

    Older versions do not define them, but the reference library reads and writes them there.
    """
    text = _text(document, "dst", path)
    try:
        destination = network_of(text)
    except ValueError:
        expected = "a network in CIDR notation, for example 10.1.2.0/24"
        raise _wrong(document, "dst", path, expected) from None
    return Route(
        destination=destination,
        gateway=_address(document, "gw", path),
        mtu=_number(document, "mtu", path, LARGEST_INT) or 0,
        advmss=_number(document, "advmss", path, LARGEST_U32) or 0,
        priority=_number(document, "priority", path, LARGEST_U32) or 0,
        table=_number(document, "table", path, LARGEST_U32),
        scope=_number(document, "scope", path, LARGEST_SCOPE),
    )


def _dns(document: Mapping[str, object]) -> DNS:
    return DNS(
        nameservers=_texts(document, "nameservers", "dns."),
        domain=_text(document, "domain", "dns."),
        search=_texts(document, "search", "dns."),
        options=_texts(document, "options", "dns."),
    )


def _value(document: Mapping[str, object], key: str) -> object:
    """A member by its key as written, else in any case; None when absent."""
    if key in document:
        return document[key]
    if KEYS.issuperset(document):
        return None
    folded = [value for name, value in document.items() if name.casefold() == key.casefold()]
    return folded[-1] if folded else None


def _wrong(document: Mapping[str, object], key: str, path: str, expected: str) -> DecodeFailure:
    """The error for a key: where it is, what it is, and what would be right."""
    shown = json.dumps(_value(document, key), ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return DecodeFailure(f"result: {path}{key} {shown}: expected {expected}")


def _text(document: Mapping[str, object], key: str, path: str) -> str:
    value = _value(document, key)
    if value is not None and not isinstance(value, str):
        raise _wrong(document, key, path, "a string")
    return value or ""


def _number(
    document: Mapping[str, object], key: str, path: str, maximum: int, *, minimum: int = 0
) -> int | None:
    value = _value(document, key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise _wrong(document, key, path, f"a whole number from {minimum} to {maximum}")
    return value


def _object(document: Mapping[str, object], key: str, path: str) -> Mapping[str, object]:
    value = _value(document, key)
    if value is not None and not isinstance(value, dict):
        raise _wrong(document, key, path, "an object")
    return value or {}


def _objects(document: Mapping[str, object], key: str, path: str) -> list[Mapping[str, object]]:
    value = _value(document, key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(document, key, path, "a list of objects")
    return value


def _texts(document: Mapping[str, object], key: str, path: str) -> tuple[str, ...]:
    value = _value(document, key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(document, key, path, "a list of strings")
    return tuple(value)


def _address(document: Mapping[str, object], key: str, path: str) -> Address | None:
    text = _text(document, key, path)
    try:
        return address_of(text) if text else None
    except ValueError:
        raise _wrong(document, key, path, "an IP address") from None


def _address_with_prefix(document: Mapping[str, object], key: str, path: str) -> InterfaceAddress:
    text = _text(document, key, path)
    try:
        return interface_address_of(text)
    except ValueError:
        expected = "an IP address in CIDR notation, for example 10.1.2.3/24"
        raise _wrong(document, key, path, expected) from None


def to_json(result: Result, version: str) -> dict[str, object]:
    """Write a Result in a version's form; raises DecodeFailure where that version cannot hold it."""
    require_supported(version, what="result")
    document: dict[str, object] = {"cniVersion": version}
    if not at_least(version, "0.3.0"):
        document.update(_families_json(result))
    else:
        is_one = at_least(version, "1.0.0")
        if result.interfaces:
            document["interfaces"] = [_interface_json(each, is_one) for each in result.interfaces]
        if result.ips:
            document["ips"] = [_ip_json(each, is_one) for each in result.ips]
        if result.routes:
            document["routes"] = [_route_json(each) for each in result.routes]
    if result.dns:
        document["dns"] = _dns_json(result.dns)
    return document


def _families_json(result: Result) -> dict[str, object]:
    families: dict[str, object] = {}
    for key, version in (("ip4", 4), ("ip6", 6)):
        first = next((each for each in result.ips if each.address.version == version), None)
        if first is None:
            continue
        routes = [each for each in result.routes if each.destination.version == version]
        family: dict[str, object] = {"ip": str(first.address)}
        if first.gateway is not None:
            family["gateway"] = str(first.gateway)
        if routes:
            family["routes"] = [
                {key: value for key, value in _route_json(each).items() if key in ("dst", "gw")}
                for each in routes
            ]
        families[key] = family
    if not families:
        raise DecodeFailure("cannot convert: no valid IP addresses")
    return families


def _interface_json(interface: Interface, is_one: bool) -> dict[str, object]:
    document: dict[str, object] = {"name": interface.name}
    if interface.mac:
        document["mac"] = interface.mac
    if interface.sandbox:
        document["sandbox"] = interface.sandbox
    if is_one and interface.mtu:
        document["mtu"] = interface.mtu
    if is_one and interface.socket_path:
        document["socketPath"] = interface.socket_path
    if is_one and interface.pci_id:
        document["pciID"] = interface.pci_id
    return document


def _ip_json(ip: IPConfig, is_one: bool) -> dict[str, object]:
    document: dict[str, object] = {} if is_one else {"version": str(ip.address.version)}
    if ip.interface is not None:
        document["interface"] = ip.interface
    document["address"] = str(ip.address)
    if ip.gateway is not None:
        document["gateway"] = str(ip.gateway)
    return document


def _route_json(route: Route) -> dict[str, object]:
    document: dict[str, object] = {"dst": str(route.destination)}
    if route.gateway is not None:
        document["gw"] = str(route.gateway)
    for key, number in (("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority)):
        if number:
            document[key] = number
    for key, told in (("table", route.table), ("scope", route.scope)):
        if told is not None:
            document[key] = told
    return document


def _dns_json(dns: DNS) -> dict[str, object]:
    lists = {"nameservers": dns.nameservers, "search": dns.search, "options": dns.options}
    document: dict[str, object] = {key: list(value) for key, value in lists.items() if value}
    if dns.domain:
        document["domain"] = dns.domain
    return document


def merge(results: tuple[Result, ...]) -> Result:
    """
    Put results behind each other: indexes are shifted, every list is appended.

    DNS is the first one's that says anything, so the default network's where it has one.
    """
    interfaces: list[Interface] = []
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for each in results:
        shift = len(interfaces)
        interfaces += each.interfaces
        for ip in each.ips:
            index = None if ip.interface is None else ip.interface + shift
            ips.append(IPConfig(ip.address, ip.gateway, index))
        routes += each.routes
    dns = next((each.dns for each in results if each.dns), DNS())
    return Result(tuple(interfaces), tuple(ips), tuple(routes), dns)
