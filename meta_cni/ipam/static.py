"""
static: the addresses that configuration or pod name, and nothing kept anywhere.

Sources in the reference's order: `addresses`; CNI_ARGS `IP` adds to them; `args.cni.ips`
replaces all; `runtimeConfig.ips` replaces all again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import BadConfig, CheckFailed
from meta_cni.cni.result import Address, InterfaceAddress, IPConfig, Result, address_of
from meta_cni.ipam import keys

KEYS = ("type", "addresses", "routes", "dns")


@dataclass(frozen=True, slots=True)
class Static:
    """The addresses of one attachment."""

    answer: Result

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
        """Every configured address is in the previous result, with the gateway it was given."""
        gateways = {each.address: each.gateway for each in previous.ips}
        for each in self.answer.ips:
            if each.address not in gateways:
                raise CheckFailed(f"check static address {each.address}: it is not in prevResult")
            gateway = gateways[each.address]
            if None not in (gateway, each.gateway) and gateway != each.gateway:
                raise CheckFailed(
                    f"check static address {each.address}: expected gateway {each.gateway}, got {gateway}"
                )


def parse(config: PluginConfig, cni_args: Mapping[str, str]) -> Result:
    """Check an ipam section of type static; raises BadConfig."""
    section = config.ipam
    assert section is not None
    asked = keys.asked(config, cni_args)
    ips = _configured(section) + _from_cni_args(section, asked.cni_args, cni_args.get("GATEWAY", ""))
    for where, texts in (("args: cni", asked.args), ("runtimeConfig", asked.runtime)):
        if texts:
            ips = tuple(IPConfig(_listed(f"{config.where}: {where}", text)) for text in texts)
    keys.require_one_per_family(config, (each.address.version for each in ips))
    return Result(ips=ips, routes=section.routes("routes"), dns=keys.dns(section))


def _configured(section: Section) -> tuple[IPConfig, ...]:
    what = "the 'address' field is expected to be in CIDR notation"
    return tuple(
        IPConfig(_in_cidr(each.where, what, each.string("address")), each.address("gateway"))
        for each in section.sections("addresses")
    )


def _from_cni_args(section: Section, texts: tuple[str, ...], gateways: str) -> tuple[IPConfig, ...]:
    """`IP` with the last of `GATEWAY` that lies in its network, as in the reference."""
    known = [_gateway(section, text) for text in keys.split(gateways)]
    what = "the 'ip' field is expected to be in CIDR notation"
    addresses = [_in_cidr(f"{section.where}: CNI_ARGS IP", what, text) for text in texts]
    return tuple(
        IPConfig(address, next((each for each in reversed(known) if each in address.network), None))
        for address in addresses
    )


def _gateway(section: Section, text: str) -> Address:
    try:
        return address_of(text)
    except ValueError:
        raise BadConfig(f"{section.where}: CNI_ARGS GATEWAY {text!r}: expected an IP address") from None


def _listed(where: str, text: str) -> InterfaceAddress:
    return _in_cidr(where, "an entry in the 'ips' field is NOT in CIDR notation", text)


def _in_cidr(where: str, what: str, text: str) -> InterfaceAddress:
    """An address that must have a prefix; `what` is the reference's text."""
    try:
        if "/" not in text:
            raise ValueError
        return keys.interface_address(text)
    except ValueError:
        raise BadConfig(f"{where}: {what}, got: '{text}'") from None


def describe(answer: Result) -> str:
    """One line for a plan."""
    return f"static {', '.join(str(each.address) for each in answer.ips) or 'without addresses'}"
