"""
The contract between the engine and everything that makes an interface.

Constructing is validating: the engine constructs every delegate of a pod before the first
one touches anything. A delegate never learns who hands out addresses, who asked for it, or
which other delegates there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.result import Result
from meta_cni.linux.netlink import Socket


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


class Namespaces(Protocol):
    """Netlink sockets of one request, opened when first asked for and closed by the engine."""

    @property
    def host(self) -> Socket:
        """A socket in the namespace of the node."""
        ...

    @property
    def pod(self) -> Socket:
        """A socket in the pod's namespace; raises NetnsGone when that is gone."""
        ...

    @property
    def pod_fd(self) -> int:
        """The open descriptor of the pod's namespace; raises NetnsGone when that is gone."""
        ...


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


class Delegate(Protocol):
    """One attachment by one plugin configuration."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        """Validate; raises BadConfig. Nothing is touched."""
        ...

    def add(self, previous: Result | None) -> Result:
        """Make the interface; what a failing ADD made is removed by delete()."""
        ...

    def check(self, previous: Result) -> None:
        """Raise CheckFailed unless everything is as ADD left it; other things are not looked at."""
        ...

    def delete(self) -> None:
        """Remove everything; gone is success, and the netns may be gone too."""
        ...

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """Raise NotAvailable when an ADD could not be served now."""
        ...

    @classmethod
    def implemented_keys(cls) -> frozenset[str]:
        """The configuration keys this delegate implements, beside those every plugin has."""
        ...
