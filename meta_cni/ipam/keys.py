"""
What host-local and static read in the same way: routes, DNS, and addresses that were asked for.

A pod asks for addresses in three places: `IP` of CNI_ARGS, `args.cni.ips`, and the capability
`ips` of runtimeConfig. Which of them counts is for the IPAM to say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Interface, ip_interface

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import BadConfig
from meta_cni.cni.result import DNS, InterfaceAddress, address_of, interface_address_of
from meta_cni.cni.version import at_least


@dataclass(frozen=True, slots=True)
class Asked:
    """The addresses a pod asks for, as written, by where they were written."""

    cni_args: tuple[str, ...]
    args: tuple[str, ...]
    runtime: tuple[str, ...]


def asked(config: PluginConfig, cni_args: Mapping[str, str]) -> Asked:
    """What CNI_ARGS, args.cni and runtimeConfig ask for; raises BadConfig."""
    configured = config.once(_configured)
    text = cni_args.get("IP")
    return replace(configured, cni_args=split(text)) if text else configured


def _configured(config: PluginConfig) -> Asked:
    """What args.cni and runtimeConfig ask for."""
    args = config.section.section("args")
    cni = args.section("cni") if args else None
    runtime = config.section.section("runtimeConfig")
    return Asked((), cni.strings("ips") if cni else (), runtime.strings("ips") if runtime else ())


def split(text: str) -> tuple[str, ...]:
    """The parts of a value with commas; empty ones are passed over."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def interface_address(text: str) -> InterfaceAddress:
    """
    An address with or without prefix; raises ValueError.

    As in Go there are no zones and no netmasks, and an IPv4 address mapped into IPv6 is an IPv4 address.
    """
    address = interface_address_of(text) if "/" in text else ip_interface(address_of(text))
    if isinstance(address, IPv6Interface) and address.ip.ipv4_mapped is not None:
        return ip_interface(f"{address.ip.ipv4_mapped}/{max(0, address.network.prefixlen - 96)}")
    return address


def dns(section: Section) -> DNS:
    """`dns` of an ipam section."""
    found = section.section("dns")
    if found is None:
        return DNS()
    return DNS(
        found.strings("nameservers"),
        found.string("domain"),
        found.strings("search"),
        found.strings("options"),
    )


def require_one_per_family(config: PluginConfig, families: Iterable[int]) -> None:
    """Before 0.3.0 a Result has one address of a family; raises BadConfig."""
    versions = list(families)
    if not at_least(config.cni_version, "0.3.0") and len(versions) != len(set(versions)):
        raise BadConfig(
            f"{config.where}: ipam: CNI version {config.cni_version} "
            "does not support more than 1 address per family"
        )
