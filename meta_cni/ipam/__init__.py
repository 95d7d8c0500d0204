"""Who hands out addresses: host-local, static, or any executed IPAM plugin."""

from collections.abc import Mapping, Sequence

from meta_cni import invoke
from meta_cni.cni.config import PluginConfig
from meta_cni.cni.result import Result
from meta_cni.ipam import host_local, static
from meta_cni.ipam.external import External
from meta_cni.ipam.host_local import HostLocal
from meta_cni.ipam.static import Static

KEYS = {"host-local": host_local.KEYS, "static": static.KEYS}
"""The IPAM types that are built in, and the keys they implement."""


class Nothing:
    """No IPAM: the attachment is layer 2 only."""

    @property
    def is_none(self) -> bool:
        """There are no addresses."""
        return True

    def acquire(self) -> Result:
        """Nothing."""
        return Result()

    def release(self) -> None:
        """Nothing is held."""

    def check(self, previous: Result) -> None:
        """Nothing to check."""


Addresses = HostLocal | Static | External | Nothing


def open_addresses(
    config: PluginConfig,
    *,
    container_id: str,
    interface: str,
    cni_args: Mapping[str, str],
    environment: Mapping[str, str],
    path: Sequence[str],
    deadline_s: float,
) -> Addresses:
    """
    The addresses of one attachment; `config` is the whole standard input of its plugin.

    Raises BadConfig when the ipam section is wrong, DelegateFailed when its plugin is not there.
    """
    section = config.ipam
    plugin_type = section.string("type") if section is not None else ""
    if not plugin_type:
        return Nothing()
    if is_builtin(config):
        if plugin_type == "static":
            return Static(static.parse(config, cni_args))
        return HostLocal(host_local.parse(config, cni_args), container_id, interface, deadline_s)
    return External(config, invoke.find(plugin_type, path), environment, deadline_s)


def is_builtin(config: PluginConfig) -> bool:
    """Is every key of the ipam section one that a built-in IPAM implements?"""
    section = config.ipam
    if section is None:
        return False
    known = {key.casefold() for key in KEYS.get(section.string("type"), ())}
    return bool(known) and all(key.casefold() in known for key in section.values)


def describe(config: PluginConfig) -> str:
    """One line for a plan."""
    section = config.ipam
    plugin_type = section.string("type") if section is not None else ""
    if not plugin_type:
        return "no addresses (layer 2)"
    if plugin_type == "host-local" and is_builtin(config):
        return host_local.describe(host_local.parse(config, {}))
    return plugin_type if is_builtin(config) else f"{plugin_type} (executed)"
