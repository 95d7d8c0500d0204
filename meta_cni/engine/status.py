"""
What is told afterwards: one result for the runtime, the network-status for the pod.

Pure. The status follows the NPWG standard v1.3 (section 5.2; S-22 to S-25); the format
"multus" keeps the deviations that Multus' users rely on: addresses without prefix length,
`default` left out when false, the gateways as `gateway`, one entry for every interface.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from meta_cni.cni.result import DNS, IPConfig, Result, merge
from meta_cni.cni.result import Interface as ResultInterface
from meta_cni.linux.device import is_pci_address
from meta_cni.quick import quick

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"


@quick
@dataclass(frozen=True, slots=True)
class Attached:
    """One finished attachment, as far as others are told of it."""

    network: str
    interface: str
    is_default: bool
    result: Result
    device: str = ""
    asked_default_route: bool = False
    device_info: Mapping[str, object] | None = None
    """What is known of the device, from its device-info file."""


def merged(previous: Result | None, attached: Sequence[Attached], form: str) -> Result:
    """
    The result for the runtime: every attachment's behind the previous one's.

    `form` "default" gives the default network's alone, as Multus does.
    """
    chosen = (
        [each for each in attached if each.is_default] if form == "default" and not previous else attached
    )
    return merge(tuple(each.result for each in chosen) if previous is None else (previous, *_results(chosen)))


def _results(attached: Sequence[Attached]) -> tuple[Result, ...]:
    return tuple(each.result for each in attached)


def network_status(
    previous: Result | None, previous_network: str, attached: Sequence[Attached], form: str
) -> list[dict[str, object]]:
    """The list of the annotation, the default network first; exactly one entry is the default."""
    everything = list(attached)
    if previous is not None:
        name = next((each.name for each in previous.interfaces if each.sandbox), "")
        everything.insert(0, Attached(previous_network, name, True, previous))
    entries = []
    for each in everything:
        entries.extend(_multus(each) if form == "multus" else [_standard(each)])
    return entries


def _standard(attached: Attached) -> dict[str, object]:
    """One entry from the first sandbox interface (S-22, S-24, S-25)."""
    result = attached.result
    index = next((n for n, each in enumerate(result.interfaces) if each.sandbox), None)
    interface = result.interfaces[index] if index is not None else None
    own = [each for each in result.ips if each.interface == index]
    if index is None:
        own = [each for each in result.ips if each.interface is None][:1]
    entry: dict[str, object] = {"name": attached.network}
    entry.update(_link(interface, attached.interface))
    if own:
        entry["ips"] = [str(each.address) for each in own]
    entry["default"] = attached.is_default
    entry["dns"] = _dns(result.dns)
    if attached.asked_default_route:
        entry["default-route"] = _gateways(result)
    return {**entry, **_device(attached)}


def _multus(attached: Attached) -> list[dict[str, object]]:
    """Multus' entries: one for each sandbox interface when the result has several."""
    result = attached.result
    inside = [(n, each) for n, each in enumerate(result.interfaces) if each.sandbox]
    if len(result.interfaces) <= 1 or len(inside) <= 1:
        interface = inside[-1][1] if inside else None
        return [_multus_entry(attached, interface, list(result.ips), attached.is_default)]
    default = _multus_default(result, [n for n, _ in inside])
    entries = []
    for n, interface in inside:
        is_last = n == inside[-1][0]
        ips = [each for each in result.ips if each.interface == n or (each.interface is None and is_last)]
        entries.append(_multus_entry(attached, interface, ips, attached.is_default and n == default))
    return entries


def _multus_default(result: Result, inside: list[int]) -> int:
    """The interface of the first address with a gateway, else the first one in the sandbox."""
    with_gateway = [each.interface for each in result.ips if each.gateway is not None]
    return next((index for index in with_gateway if index in inside), inside[0])


def _multus_entry(
    attached: Attached, interface: ResultInterface | None, ips: list[IPConfig], is_default: bool
) -> dict[str, object]:
    entry: dict[str, object] = {"name": attached.network, **_link(interface, "")}
    if ips:
        entry["ips"] = [str(each.address.ip) for each in ips]
    if is_default:
        entry["default"] = True
    entry["dns"] = _dns(attached.result.dns)
    if gateways := _gateways(attached.result):
        entry["gateway"] = gateways
    return {**entry, **_device(attached)}


def _link(interface: ResultInterface | None, name: str) -> dict[str, object]:
    """Interface, MAC and MTU; a minimal entry still names the interface it was asked for (S-22)."""
    if interface is None:
        return {"interface": name} if name else {}
    entry: dict[str, object] = {"interface": interface.name}
    if interface.mac:
        entry["mac"] = interface.mac
    if interface.mtu:
        entry["mtu"] = interface.mtu
    return entry


def _gateways(result: Result) -> list[str]:
    return [str(each.gateway) for each in result.routes if each.is_default and each.gateway is not None]


def _dns(dns: DNS) -> dict[str, object]:
    if not dns:
        return {}
    keys = ("nameservers", "domain", "search", "options")
    values = {key: getattr(dns, key) for key in keys}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value}


def _device(attached: Attached) -> Mapping[str, object]:
    if attached.device_info is not None:
        return {"device-info": attached.device_info}
    if not is_pci_address(attached.device):
        return {}
    return {"device-info": {"type": "pci", "version": "1.1.0", "pci": {"pci-address": attached.device}}}


def complete(
    result: Result, interface: str, sandbox: str, found: ResultInterface | None, addresses: Sequence[IPConfig]
) -> Result:
    """
    A result that lacks the interface, its sandbox or its addresses, completed from the namespace.

    `found` is the link of that name in the pod, None when there is none (a userspace device);
    `addresses` are the link's global addresses. What the delegate said is kept.
    """
    if found is None:
        return result
    interfaces = list(result.interfaces)
    named = [n for n, each in enumerate(interfaces) if each.name == interface and each.sandbox]
    if not named:
        named = [n for n, each in enumerate(interfaces) if each.name == interface]
        if named:
            interfaces[named[0]] = replace(
                interfaces[named[0]], sandbox=sandbox, mac=interfaces[named[0]].mac or found.mac
            )
        else:
            named = [len(interfaces)]
            interfaces.append(replace(found, sandbox=sandbox))
    ips = result.ips or tuple(addresses)
    ips = tuple(replace(each, interface=named[0]) if each.interface is None else each for each in ips)
    return replace(result, interfaces=tuple(interfaces), ips=ips)
