"""Who hands out addresses: host-local, static, or any executed IPAM plugin."""

from collections.abc import Mapping, Sequence

from meta_cni import invoke
from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CNIError, NotAvailable
from meta_cni.cni.result import DNS, Result
from meta_cni.ipam import host_local, keys, static
from meta_cni.ipam.directories import Directories
from meta_cni.ipam.external import External
from meta_cni.ipam.host_local import HostLocal
from meta_cni.ipam.static import Static

UNDOING = ("DEL", "GC")
KEYS = {"host-local": host_local.KEYS, "static": static.KEYS}
"""The IPAM types that are built in, and the keys they implement."""
FOLDED = {name: frozenset(key.casefold() for key in keys) for name, keys in KEYS.items()}


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
    deadline_s: float,
    policy: str = "auto",
    directories: Directories | None = None,
    root: str = "",
) -> Addresses:
    """
    The addresses of one attachment; `config` is the whole standard input of its plugin.

    `policy` is a delegatePolicy: auto, builtin or exec; `directories` is what a daemon remembers
    of host-local's; an executed plugin is looked for in the environment's CNI_PATH, and `root` is /
    for it. But for the ADD of CNI_COMMAND, what an older version's ADD may have been allowed is not
    refused; a DEL or GC does not read what a pod had asked for. Raises BadConfig when the ipam section
    is wrong, DelegateFailed when its plugin is not there. Nothing is touched.
    """
    plugin_type = config.ipam_type
    command = environment.get("CNI_COMMAND")
    if command == "ADD":
        config.once(_dns)
    if not plugin_type:
        return Nothing()
    if not is_executed(config, policy):
        is_released = command in UNDOING
        if plugin_type == "static":
            return Static(Result() if is_released else static.parse(config, cni_args))
        options = host_local.parse(config, cni_args, is_new=command == "ADD", is_released=is_released)
        return HostLocal(options, container_id, interface, deadline_s, directories or Directories())
    return External(config, invoke.find(plugin_type, _path(environment)), environment, deadline_s, root)


def _dns(config: PluginConfig) -> DNS:
    """`dns` of the configuration itself, which a delegate reads when it has the IPAM's."""
    return keys.dns(config.section)


def _path(environment: Mapping[str, str]) -> Sequence[str]:
    """CNI_PATH, where an IPAM plugin is looked for, too."""
    return environment.get("CNI_PATH", "").split(":")


def is_executed(config: PluginConfig, policy: str) -> bool:
    """Does the policy have a plugin executed? Raises BadConfig when it forbids what is needed."""
    refusal = refuses(config)
    if policy == "builtin" and refusal:
        raise BadConfig(f"{config.where}: ipam: delegatePolicy builtin: {refusal}")
    return bool(refusal) or (policy == "exec" and bool(config.ipam_type))


def refuses(config: PluginConfig) -> str:
    """Why no built-in IPAM takes the ipam section; empty when one does, or when there is none."""
    return config.once(_refuses)


def _refuses(config: PluginConfig) -> str:
    section = config.ipam
    plugin_type = config.ipam_type
    if section is None or not plugin_type:
        return ""
    if plugin_type not in KEYS:
        return f"type {plugin_type} is not built in"
    unknown = sorted(key for key in section.values if key.casefold() not in FOLDED[plugin_type])
    return f"{', '.join(unknown)} of {plugin_type} is not built in" if unknown else ""


def status(
    config: PluginConfig,
    *,
    environment: Mapping[str, str],
    deadline_s: float,
    policy: str = "auto",
    root: str = "",
) -> None:
    """STATUS: raise NotAvailable, or what an executed plugin says, when no address could be had."""
    try:
        addresses = _unattached(config, environment, deadline_s, policy, root)
    except CNIError as error:
        raise NotAvailable(error.message, error.details) from None
    if isinstance(addresses, HostLocal | External):
        addresses.status()


def reclaim(
    config: PluginConfig,
    valid: frozenset[tuple[str, str]],
    *,
    environment: Mapping[str, str],
    deadline_s: float,
    policy: str = "auto",
    root: str = "",
) -> None:
    """GC: release what belongs to no valid (container id, interface) of this network."""
    addresses = _unattached(config, environment, deadline_s, policy, root)
    if isinstance(addresses, HostLocal):
        host_local.reclaim(addresses.options.directory, valid, deadline_s)
    elif isinstance(addresses, External):
        addresses.reclaim(valid)


def _unattached(
    config: PluginConfig,
    environment: Mapping[str, str],
    deadline_s: float,
    policy: str,
    root: str,
) -> Addresses:
    """The addresses of a network, for verbs that concern no container."""
    return open_addresses(
        config,
        container_id="",
        interface="",
        cni_args={},
        environment=environment,
        deadline_s=deadline_s,
        policy=policy,
        root=root,
    )


def describe(config: PluginConfig, policy: str = "auto") -> str:
    """One line for a plan; raises BadConfig."""
    plugin_type = config.ipam_type
    if not plugin_type:
        return "no addresses (layer 2)"
    if is_executed(config, policy):
        return f"{plugin_type} (executed)"
    if plugin_type == "static":
        return static.describe(static.parse(config, {}))
    return host_local.describe(host_local.parse(config, {}))
