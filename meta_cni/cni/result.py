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
)

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
    raise NotImplementedError


def to_json(result: Result, version: str) -> dict[str, object]:
    """Write a Result in a version's form; raises DecodeFailure where that version cannot hold it."""
    raise NotImplementedError


def merge(results: tuple[Result, ...]) -> Result:
    """
    Put results behind each other: indexes are shifted, every list is appended.

    DNS is the first one's that says anything, so the default network's where it has one.
    """
    raise NotImplementedError


__all__ = ["replace"]
