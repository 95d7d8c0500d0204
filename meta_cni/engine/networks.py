"""
Where a network's configuration comes from.

A NetworkAttachmentDefinition (NAD) names it in this order (NPWG standard v1.3, section 3.4):
its own `spec.config`, a `.conflist` in the configuration directory with the NAD's name, a
`.conf` or `.json` there; else it fails. A file that cannot be read is no reason to fail for a
network that is found elsewhere, but it is named when nothing is found.

`clusterNetwork` and `defaultNetworks` name a network by a NAD, by a network name in the
configuration directory, or by the path of a file or a directory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from meta_cni.cni.config import NetworkConfig, PluginConfig, parse_network, parse_plugin
from meta_cni.cni.errors import BadConfig, CNIError, DecodeFailure, NetworkNotFound, join
from meta_cni.k8s.store import Kind, NotFound, Store
from meta_cni.settings import Settings

RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"
LIST_SUFFIX = ".conflist"
SINGLE_SUFFIXES = (".conf", ".json")


@dataclass(frozen=True, slots=True)
class Network:
    """A network ready to be attached to."""

    reference: str
    """namespace/name of its NAD, else the name in its configuration."""
    config: NetworkConfig
    where: str
    """Where the configuration was found, for error texts."""
    resource_name: str = ""
    """The device plugin resource that brings its devices."""
    is_continued: bool = False
    """Its first plugin comes behind one that answered nothing, and gets that as prevResult."""


class Networks:
    """Looks networks up in the store and in the configuration directory."""

    def __init__(self, settings: Settings, store: Store | None) -> None:
        self.settings = settings
        self.store = store

    def of_nad(self, namespace: str, name: str, where: str) -> Network:
        """The network of a NAD; raises BadConfig when there is none, or its configuration is wrong."""
        if self.store is None:
            raise BadConfig(
                f"{where}: network {namespace}/{name}: no store is configured: expected store or kubeconfig"
            )
        try:
            nad = self.store.get(Kind.NETWORK_ATTACHMENT_DEFINITION, namespace, name)
        except NotFound:
            raise NetworkNotFound(
                f"{where}: network {namespace}/{name}: "
                f"no NetworkAttachmentDefinition {name} in namespace {namespace}"
            ) from None
        return self.from_nad(nad)

    def from_nad(self, nad: dict[str, object]) -> Network:
        """The network that a NAD describes."""
        metadata = nad.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        namespace, name = metadata.get("namespace", "default"), metadata.get("name", "")
        annotations = metadata.get("annotations") or {}
        spec = nad.get("spec")
        text = (spec.get("config") or "") if isinstance(spec, dict) else ""
        where = f"NetworkAttachmentDefinition {namespace}/{name}"
        if text.strip():
            config = parse_network(text, f"{where}: spec.config", default_name=name)
            config = _with_some_plugins(config, f"{where}: spec.config")
        else:
            config = self.of_name(name, where).config
        return Network(f"{namespace}/{name}", config, where, str(annotations.get(RESOURCE_NAME, "")))

    def of_name(self, name: str, where: str) -> Network:
        """The network with this name in the configuration directory: lists first, then single ones."""
        unreadable: list[str] = []
        for suffixes in ((LIST_SUFFIX,), SINGLE_SUFFIXES):
            for path in _files(Path(self.settings.conf_dir), suffixes):
                try:
                    network = self.of_file(path)
                except CNIError as error:
                    unreadable.append(error.message)
                    continue
                if network.config.name == name:
                    return network
        raise BadConfig(
            f"{where}: no spec.config, and no network named {name!r} in {self.settings.conf_dir}",
            "\n".join(unreadable),
        )

    def of_file(self, path: Path) -> Network:
        """The network in a file; a list also takes the plugin objects in the directory named like it."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BadConfig(f"read network configuration {path}: {error.strerror}") from None
        config = parse_network(text, str(path))
        if path.suffix == LIST_SUFFIX and not config.is_only_inlined:
            config = config.with_plugins(_plugins_in(path.parent / config.name, config))
        return Network(config.name, _with_some_plugins(config, str(path)), str(path))

    def of_reference(self, reference: str, where: str) -> Network:
        """The network that `clusterNetwork` or an element of `defaultNetworks` means."""
        if "/" in reference:
            return self._of_path(Path(reference), where)
        if self.store is not None:
            try:
                nad = self.store.get(
                    Kind.NETWORK_ATTACHMENT_DEFINITION, self.settings.multus_namespace, reference
                )
            except NotFound:
                return self.of_name(reference, where)
            return self.from_nad(nad)
        return self.of_name(reference, where)

    def _of_path(self, path: Path, where: str) -> Network:
        if path.is_dir():
            files = _files(path, (LIST_SUFFIX, *SINGLE_SUFFIXES))
            if not files:
                raise BadConfig(
                    f"{where}: no network configuration in {path}: expected a .conflist, .conf or .json"
                )
            return self.of_file(files[0])
        if not path.exists():
            raise BadConfig(f"{where}: {path} does not exist: expected the path of a file or directory")
        return self.of_file(path)

    def defaults(self, is_system_pod: bool) -> tuple[Network, ...]:
        """
        The default network and what else every pod gets, in order.

        `clusterNetwork` (then `defaultNetworks`, but not for system pods) wins over `delegates`.
        Every mistake is told at once.
        """
        networks: list[Network] = []
        errors: list[CNIError] = []
        for find in self._default_finders(is_system_pod):
            try:
                networks.append(find())
            except CNIError as error:
                errors.append(error)
        if errors:
            raise join(errors)
        return tuple(networks)

    def _default_finders(self, is_system_pod: bool) -> Iterable["_Finder"]:
        if not self.settings.cluster_network:
            return [_Finder(self, text=text, index=n) for n, text in enumerate(self.settings.delegates)]
        finders = [_Finder(self, reference=self.settings.cluster_network, where="clusterNetwork")]
        if not is_system_pod:
            for index, reference in enumerate(self.settings.default_networks):
                finders.append(_Finder(self, reference=reference, where=f"defaultNetworks[{index}]"))
        return finders

    def auxiliary(self) -> Network | None:
        """
        The chain of `auxiliaryCNIChainName`: the `*.conf` files of the directory of that name
        beside the `clusterNetwork` file; None when there is none of them.

        Multus puts a plugin before them that does nothing, so that plugins of chains can be alone here.
        """
        chain = self.settings.auxiliary_chain
        if not chain:
            return None
        if "/" not in self.settings.cluster_network:
            raise BadConfig(f"auxiliaryCNIChainName {chain!r}: expected clusterNetwork to be a path")
        beside = Path(self.settings.cluster_network)
        directory = (beside if beside.is_dir() else beside.parent) / chain
        version = self.settings.cni_version or "1.0.0"
        config = NetworkConfig(name=chain, cni_version=version, plugins=())
        config = config.with_plugins(_plugins_in(directory, config))
        return Network(chain, config, str(directory), is_continued=True) if config.plugins else None


@dataclass(frozen=True, slots=True)
class _Finder:
    """One default network still to be looked up."""

    networks: Networks
    reference: str = ""
    where: str = ""
    text: str = ""
    index: int = 0

    def __call__(self) -> Network:
        if self.reference:
            return self.networks.of_reference(self.reference, self.where)
        where = f"delegates[{self.index}]"
        config = parse_network(self.text, where, default_name=self.networks.settings.name)
        return Network(config.name, _with_some_plugins(config, where), where)


def _files(directory: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The configuration files of a directory by name; none when it cannot be read."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in suffixes and path.is_file())
    except OSError:
        return []


def _plugins_in(directory: Path, config: NetworkConfig) -> list[PluginConfig]:
    """The plugin objects of a list's own directory (CNI specification, `loadOnlyInlinedPlugins`)."""
    plugins = []
    for path in _files(directory, (".conf",)):
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BadConfig(f"read plugin configuration {path}: {error.strerror}") from None
        plugins.append(parse_plugin(text, str(path), network=config.name, cni_version=config.cni_version))
    return plugins


def _with_some_plugins(config: NetworkConfig, where: str) -> NetworkConfig:
    if not config.plugins:
        raise DecodeFailure(
            f"{where}: no plugin configurations: expected plugins, or type for a single plugin"
        )
    return config
