"""
static: the addresses that configuration or pod name, and nothing kept anywhere.

Sources in the reference's order: `addresses`; CNI_ARGS `IP` adds to them; `args.cni.ips`
replaces all; `runtimeConfig.ips` replaces all again.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import BadConfig, CheckFailed
from meta_cni.cni.result import DNS, Address, IPConfig, Result
from meta_cni.cni.version import at_least
from meta_cni.ipam.host_local import parse_routes

KEYS = ("type", "addresses", "routes", "dns")


class Static:
    """The addresses of one attachment."""

    def __init__(self, answer: Result) -> None:
        self.answer = answer

    @property
    def is_none(self) -> bool:
        """static always hands out addresses."""
        return False

    def acquire(self) -> Result:
        """The configured addresses."""
        return self.answer

    def release(self) -> None:
        """Nothing is kept."""

    def check(self, previous: Result) -> None:
        """Every configured address is in the previous result."""
        present = {each.address for each in previous.ips}
        missing = [str(each.address) for each in self.answer.ips if each.address not in present]
        if missing:
            raise CheckFailed(f"check static addresses: {', '.join(missing)} not in prevResult")


def parse(config: PluginConfig, cni_args: Mapping[str, str]) -> Result:
    """Check an ipam section of type static; raises BadConfig."""
    section = config.ipam
    assert section is not None
    ips = _configured(section) + _from_cni_args(section, cni_args)
    args = config.section.section("args")
    cni = args.section("cni") if args else None
    for source in (cni, config.section.section("runtimeConfig")):
        texts = source.strings("ips") if source else ()
        if source is not None and texts:
            ips = tuple(_in_cidr(source, "ips", "an entry in the 'ips' field", text) for text in texts)
    versions = [each.address.version for each in ips]
    if not at_least(config.cni_version, "0.3.0") and len(versions) != len(set(versions)):
        raise BadConfig(
            f"{section.where}: CNI version {config.cni_version} "
            "does not support more than 1 address per family"
        )
    return Result(ips=ips, routes=parse_routes(section), dns=_dns(section))


def _configured(section: Section) -> tuple[IPConfig, ...]:
    return tuple(
        IPConfig(
            _in_cidr(each, "address", "the 'address' field", each.string("address")).address,
            each.address("gateway"),
        )
        for each in section.sections("addresses")
    )


def _from_cni_args(section: Section, cni_args: Mapping[str, str]) -> tuple[IPConfig, ...]:
    gateways: list[Address] = []
    for text in cni_args.get("GATEWAY", "").split(","):
        try:
            gateways.extend([ip_address(text)] if text else [])
        except ValueError:
            raise BadConfig(f"{section.where}: CNI_ARGS GATEWAY {text!r}: expected an IP address") from None
    found = []
    for text in cni_args.get("IP", "").split(","):
        if not text:
            continue
        ip = _in_cidr(section, "IP", "the 'ip' field", text)
        gateway = next((each for each in gateways if each in ip.address.network), None)
        found.append(IPConfig(ip.address, gateway))
    return tuple(found)


def _in_cidr(section: Section, key: str, what: str, text: str) -> IPConfig:
    try:
        if "/" not in text:
            raise ValueError
        return IPConfig(ip_interface(text))
    except ValueError:
        raise BadConfig(
            f"{section.where}: {key}: {what} is expected to be in CIDR notation, got: {text!r}"
        ) from None


def _dns(section: Section) -> DNS:
    dns = section.section("dns")
    if dns is None:
        return DNS()
    return DNS(
        dns.strings("nameservers"), dns.string("domain"), dns.strings("search"), dns.strings("options")
    )
