"""
The contract between the engine and everything that makes an interface.

Constructing is validating: the engine constructs every delegate of a pod before the first
one touches anything. A delegate never learns who hands out addresses, who asked for it, or
which other delegates there are.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import BadConfig, CNIError, NetnsGone, join
from meta_cni.cni.hardware import ETHERNET, hardware_address, is_of_one_station
from meta_cni.cni.result import Interface, Result
from meta_cni.linux import configure, link
from meta_cni.linux.link import Link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.quick import quick

Valid = frozenset[tuple[str, str]]
"""(container id, interface) of every attachment that a GC must leave alone."""


class Addresses(Protocol):
    """An IPAM for one attachment: (network, container, interface) is fixed when it is made."""

    @property
    def is_none(self) -> bool:
        """No IPAM is configured: the attachment is layer 2 only."""
        ...

    def acquire(self) -> Result:
        """Addresses, routes and DNS, without interfaces; nothing is kept when it raises."""
        ...

    def release(self) -> None:
        """Give everything back; what was never acquired is no error."""
        ...

    def check(self, previous: Result) -> None:
        """Raise CheckFailed unless the addresses are still ours."""
        ...


@quick
@dataclass(frozen=True, slots=True)
class Attachment:
    """Everything a delegate may know about the interface it makes."""

    container_id: str
    interface: str
    netns: str
    """The path of the pod's namespace; empty on a DEL after it went away."""
    namespaces: Namespaces
    addresses: Addresses
    runtime_config: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    cni_args: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    group: int = 0
    """IFLA_GROUP for links in the pod, so that the engine deletes them together; 0 for none."""
    device: str = ""
    """A PCI or auxiliary-bus address, where one was handed to this attachment."""
    deadline_s: float = 60.0


def attach(
    config: PluginConfig, attachment: Attachment, made: Link, addresses: Result, *, mac: str = ""
) -> Result:
    """
    Give the pod's link what an IPAM gave, and tell the neighbours: how most delegates' add() ends.

    Its MAC is asked for unless it was made with this one.
    """
    result = configure.of_the_pod(config, addresses)
    mac = configure.configure(attachment.namespaces, made.index, made.name, result, mac=mac)
    configure.announce(attachment.namespaces, made.name, result.ips)
    return result.of(Interface(made.name, mac, attachment.netns))


def detach(attachment: Attachment, unfinished: str = "") -> None:
    """
    Delete the pod's link, gone or not, then give its addresses back: most delegates' whole delete().

    `unfinished` is what an ADD calls the link before it has its name; of a group it goes with the others.
    """
    with suppress(NetnsGone):
        pod = attachment.namespaces.pod
        if unfinished and not attachment.group:
            link.remove(pod, unfinished)
        link.remove(pod, attachment.interface)
    attachment.addresses.release()


def undo(*steps: Callable[[], None]) -> None:
    """Take every step, whatever the others raise; their errors are raised together."""
    errors: list[CNIError] = []
    for step in steps:
        try:
            step()
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)


class Delegate(Protocol):
    """One attachment by one plugin configuration; constructing it validated everything."""

    def add(self, previous: Result | None) -> Result:
        """Make the interface; what a failing ADD made is removed by delete()."""
        ...

    def check(self, previous: Result) -> None:
        """Raise CheckFailed unless everything is as ADD left it; other things are not looked at."""
        ...

    def delete(self) -> None:
        """Remove everything; gone is success, and the netns may be gone too."""
        ...


class BuiltIn(Delegate, Protocol):
    """A delegate that runs in this process."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        """Validate; raises BadConfig. Nothing is touched."""
        ...

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """Raise NotAvailable when an ADD could not be served now."""
        ...

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """GC: remove what attachments of this network that are not listed left on the node."""
        ...

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Why the binary must run instead: a key that is not implemented here; empty when none."""
        ...


OFF: tuple[object, ...] = (None, False, 0, "", [], {})
"""Values that switch a key off; such a key needs no implementation."""


def unimplemented(config: PluginConfig, keys: Iterable[str]) -> str:
    """
    The first key of a configuration that is not among `keys` and is not off, as a reason.

    The reason is logged and nobody knows what the key means, so no text of its value is in it: it
    may be a password.
    """
    for key in config.keys_outside(keys):
        value = config.section.value(key)
        if value not in OFF:
            shown = f"{key} {value!r}" if isinstance(value, bool | int | float) else key
            return f"{shown} is not built in"
    return ""


def requested_mac(config: PluginConfig, attachment: Attachment, *, is_args_first: bool = False) -> str:
    """
    The MAC address asked for, as lower-case text; empty when none is.

    `runtimeConfig.mac` wins, then CNI_ARGS `MAC`, then the key `mac`; with `is_args_first` the
    bridge's order, in which `args.cni.mac` comes before CNI_ARGS.
    """
    runtime, args, own = config.once(_macs_and_args if is_args_first else _macs)
    return ethernet_address(config, runtime or args or attachment.cni_args.get("MAC", "") or own)


def _macs(config: PluginConfig) -> tuple[str, str, str]:
    """What a configuration has in runtimeConfig, nothing, and of its own."""
    runtime, _ = _places_of_macs(config)
    return _mac_in(runtime), "", _mac_in(config.section)


def _macs_and_args(config: PluginConfig) -> tuple[str, str, str]:
    """What a configuration has in runtimeConfig, in args.cni, and of its own."""
    runtime, cni = _places_of_macs(config)
    return _mac_in(runtime), _mac_in(cni), _mac_in(config.section)


def _places_of_macs(config: PluginConfig) -> tuple[Section | None, Section | None]:
    """runtimeConfig and args.cni."""
    runtime, args = config.section.section("runtimeConfig"), config.section.section("args")
    return runtime, args.section("cni") if args else None


def _mac_in(section: Section | None) -> str:
    return section.string("mac") if section is not None else ""


def ethernet_address(config: PluginConfig, text: str) -> str:
    """A MAC address that a link can be given, in any notation, as the kernel writes it; empty for none."""
    if not text:
        return ""
    address = hardware_address(text, ETHERNET)
    if address is None:
        raise BadConfig(f"{config.where}: mac {text!r}: expected an Ethernet address like 02:00:5e:00:53:01")
    if not is_of_one_station(address):
        raise BadConfig(f"{config.where}: mac {text!r}: expected the address of one station, not of a group")
    return address
