"""
A CNI Result, in one form inside and in every version's form outside.

Inside there is one set of frozen dataclasses with everything version 1.1.0 knows. parse()
reads any version from 0.1.0 on, to_json() writes any; what a version cannot say is dropped
on the way out, as the specification's conversion does (CNI 1.1.0, "Success" and "Appendix").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from meta_cni.cni.version import at_least, require_supported

Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Interface:
    """One link; an empty `sandbox` (netns path) means that it is on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class IPConfig:
    """One address with its prefix, its gateway, and the index of its interface in the result."""

    address: InterfaceAddress
    gateway: Address | None = None
    interface: int | None = None


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
        return self.destination.prefixlen == 0 and self.table in (None, 0, 254)


@dataclass(frozen=True, slots=True)
class DNS:
    """What the pod's resolver shall be told."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD did: interfaces, addresses, routes and DNS."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = field(default_factory=DNS)


def parse(document: Mapping[str, object], default_version: str) -> Result:
    """Read a Result of any version; raises DecodeFailure naming the key that is wrong."""
    version = _text(document, "cniVersion", "result") or default_version
    require_supported(version)
    dns = _dns(_object(document, "dns", "result"))
    if not at_least(version, "0.3.0"):
        return replace(_from_families(document), dns=dns)
    interfaces = tuple(
        _interface(each, f"result: interfaces[{index}]")
        for index, each in enumerate(_objects(document, "interfaces", "result"))
    )
    ips = tuple(
        _ip(each, f"result: ips[{index}]", len(interfaces))
        for index, each in enumerate(_objects(document, "ips", "result"))
    )
    return Result(interfaces, ips, _routes(document, "result"), dns)


def _from_families(document: Mapping[str, object]) -> Result:
    """The form of 0.1.0 and 0.2.0: at most one address a family, each with its routes."""
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for key, version in (("ip4", 4), ("ip6", 6)):
        family = _object(document, key, "result")
        if not family:
            continue
        where = f"result: {key}"
        address = _address_with_prefix(family, "ip", where)
        if address.version != version:
            raise DecodeFailure(f"{where}.ip {str(address)!r}: expected an IPv{version} address")
        ips.append(IPConfig(address, _address(family, "gateway", where)))
        routes.extend(_routes(family, where))
    return Result(ips=tuple(ips), routes=tuple(routes))


def _interface(document: Mapping[str, object], where: str) -> Interface:
    return Interface(
        name=_text(document, "name", where),
        mac=_text(document, "mac", where),
        sandbox=_text(document, "sandbox", where),
        mtu=_number(document, "mtu", where) or 0,
        socket_path=_text(document, "socketPath", where),
        pci_id=_text(document, "pciID", where),
    )


def _ip(document: Mapping[str, object], where: str, interfaces: int) -> IPConfig:
    address = _address_with_prefix(document, "address", where)
    version = _text(document, "version", where)
    if version and version != str(address.version):
        raise DecodeFailure(f"{where}: version {version!r}: expected '{address.version}' for {address}")
    index = _number(document, "interface", where)
    if index is not None and index < 0:
        index = None
    if index is not None and index >= interfaces:
        raise DecodeFailure(f"{where}: interface {index}: expected an index of the {interfaces} interfaces")
    return IPConfig(address, _address(document, "gateway", where), index)


def _routes(document: Mapping[str, object], where: str) -> tuple[Route, ...]:
    return tuple(
        _route(each, f"{where}: routes[{index}]")
        for index, each in enumerate(_objects(document, "routes", where))
    )


def _route(document: Mapping[str, object], where: str) -> Route:
    text = _text(document, "dst", where)
    try:
        destination = ip_network(text, strict=False)
    except ValueError:
        raise DecodeFailure(f"{where}: dst {text!r}: expected a network in CIDR notation") from None
    return Route(
        destination=destination,
        gateway=_address(document, "gw", where),
        mtu=_number(document, "mtu", where) or 0,
        advmss=_number(document, "advmss", where) or 0,
        priority=_number(document, "priority", where) or 0,
        table=_number(document, "table", where),
        scope=_number(document, "scope", where),
    )


def _dns(document: Mapping[str, object]) -> DNS:
    return DNS(
        nameservers=_texts(document, "nameservers", "result: dns"),
        domain=_text(document, "domain", "result: dns"),
        search=_texts(document, "search", "result: dns"),
        options=_texts(document, "options", "result: dns"),
    )


def _value(document: Mapping[str, object], key: str, kind: type, where: str, expected: str) -> object:
    value = document.get(key)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise DecodeFailure(f"{where}: {key} {value!r}: expected {expected}")
    return value


def _text(document: Mapping[str, object], key: str, where: str) -> str:
    value = _value(document, key, str, where, "a string")
    return value if isinstance(value, str) else ""


def _number(document: Mapping[str, object], key: str, where: str) -> int | None:
    value = _value(document, key, int, where, "a whole number")
    return value if isinstance(value, int) else None


def _object(document: Mapping[str, object], key: str, where: str) -> Mapping[str, object]:
    value = _value(document, key, dict, where, "an object")
    return value if isinstance(value, dict) else {}


def _objects(document: Mapping[str, object], key: str, where: str) -> list[Mapping[str, object]]:
    value = _value(document, key, list, where, "a list")
    items = value if isinstance(value, list) else []
    if not all(isinstance(item, dict) for item in items):
        raise DecodeFailure(f"{where}: {key}: expected a list of objects")
    return items


def _texts(document: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    value = _value(document, key, list, where, "a list")
    items = value if isinstance(value, list) else []
    if not all(isinstance(item, str) for item in items):
        raise DecodeFailure(f"{where}: {key}: expected a list of strings")
    return tuple(items)


def _address(document: Mapping[str, object], key: str, where: str) -> Address | None:
    text = _text(document, key, where)
    try:
        return ip_address(text) if text else None
    except ValueError:
        raise DecodeFailure(f"{where}: {key} {text!r}: expected an IP address") from None


def _address_with_prefix(document: Mapping[str, object], key: str, where: str) -> InterfaceAddress:
    text = _text(document, key, where)
    try:
        if "/" not in text:
            raise ValueError
        return ip_interface(text)
    except ValueError:
        raise DecodeFailure(f"{where}: {key} {text!r}: expected an IP address with prefix length") from None


def to_json(result: Result, version: str) -> dict[str, object]:
    """Write a Result in a version's form; raises DecodeFailure where that version cannot hold it."""
    require_supported(version)
    document: dict[str, object] = {"cniVersion": version}
    if not at_least(version, "0.3.0"):
        document.update(_families_json(result))
    else:
        is_one = at_least(version, "1.0.0")
        lists = {
            "interfaces": [_interface_json(each, is_one) for each in result.interfaces],
            "ips": [_ip_json(each, is_one) for each in result.ips],
            "routes": [_route_json(each) for each in result.routes],
        }
        document.update({key: value for key, value in lists.items() if value})
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


def _without_absent(document: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in document.items() if value not in ("", None)}


def _interface_json(interface: Interface, is_one: bool) -> dict[str, object]:
    document: dict[str, object] = {"name": interface.name, "mac": interface.mac, "sandbox": interface.sandbox}
    if is_one:
        document.update(mtu=interface.mtu or None, socketPath=interface.socket_path, pciID=interface.pci_id)
    return {"name": interface.name, **_without_absent(document)}


def _ip_json(ip: IPConfig, is_one: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "version": None if is_one else str(ip.address.version),
        "interface": ip.interface,
        "address": str(ip.address),
        "gateway": str(ip.gateway) if ip.gateway is not None else None,
    }
    return _without_absent(document)


def _route_json(route: Route) -> dict[str, object]:
    document: dict[str, object] = {
        "dst": str(route.destination),
        "gw": str(route.gateway) if route.gateway is not None else None,
        "mtu": route.mtu or None,
        "advmss": route.advmss or None,
        "priority": route.priority or None,
        "table": route.table,
        "scope": route.scope,
    }
    return _without_absent(document)


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
    merged = Result()
    for each in results:
        shift = len(merged.interfaces)
        shifted = (
            replace(ip, interface=None if ip.interface is None else ip.interface + shift) for ip in each.ips
        )
        merged = Result(
            interfaces=(*merged.interfaces, *each.interfaces),
            ips=(*merged.ips, *shifted),
            routes=(*merged.routes, *each.routes),
            dns=merged.dns or each.dns,
        )
    return merged
