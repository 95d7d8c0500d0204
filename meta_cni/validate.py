"""
Every mistake in a file, before any pod meets it: CNI configurations, and Kubernetes objects.

Built-in delegates are constructed, which is validating; binaries are not asked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import delegates
from meta_cni.cni.config import NetworkConfig, PluginConfig, parse_network
from meta_cni.cni.errors import CNIError
from meta_cni.cni.request import Request
from meta_cni.compose import Memory, construct
from meta_cni.configuration import read_configuration
from meta_cni.engine.engine import pod_of
from meta_cni.engine.ledger import Executed, Record
from meta_cni.engine.selection import DEFAULT_NETWORK, NETWORKS, unknown_keys
from meta_cni.engine.selection import parse as parse_selections
from meta_cni.k8s import schema
from meta_cni.k8s.file_store import KINDS, documents
from meta_cni.k8s.store import Kind
from meta_cni.linux import device
from meta_cni.linux.namespaces import Namespaces
from meta_cni.metrics import Timeline
from meta_cni.settings import MULTUS_TYPES


def problems_of_file(path: Path, plugin_path: tuple[str, ...]) -> list[str]:
    """Every mistake in a file: a CNI configuration (by its ending), or Kubernetes objects."""
    try:
        if path.suffix in (".conf", ".conflist"):
            return [f"{path}: {each}" for each in _problems_of_configuration(path, plugin_path)]
        return [
            f"{path}: {document['kind']} {document['metadata']['name']}: {each}"
            for document in documents(path)
            for each in problems_of_object(document, plugin_path)
        ]
    except CNIError as error:
        return [f"{path}: {each.message}" for each in getattr(error, "errors", (error,))]


def _problems_of_configuration(path: Path, plugin_path: tuple[str, ...]) -> list[str]:
    try:
        network = parse_network(path.read_bytes(), "configuration")
    except OSError as error:
        return [f"read: {error.strerror}"]
    found: list[str] = list(network.warnings)
    for plugin in network.plugins:
        if plugin.type in ("meta-cni", *MULTUS_TYPES):
            configuration = read_configuration(plugin.execution({}).raw.text())
            found.extend(configuration.problems)
            for index, text in enumerate(configuration.settings.delegates):
                found.extend(_problems_of_text(text, f"delegates[{index}]", network.name, plugin_path))
    return found + problems_of_network(network, plugin_path)


def problems_of_object(document: dict[str, Any], plugin_path: tuple[str, ...]) -> list[str]:
    """Every mistake in a network, or in what a pod's annotations say; none in objects of other kinds."""
    kind = KINDS.get(document["kind"])
    if kind is None:
        return list(_mistyped(document))
    found = schema.problems(kind, document)
    if found:
        return found
    name = document["metadata"]["name"]
    if kind is Kind.NETWORK_ATTACHMENT_DEFINITION:
        text = (document.get("spec") or {}).get("config") or ""
        return _problems_of_text(text, "spec.config", name, plugin_path) if text.strip() else []
    pod = pod_of(document)
    for annotation, namespace in ((NETWORKS, pod.namespace), (DEFAULT_NETWORK, "kube-system")):
        text = pod.annotations.get(annotation, "")
        try:
            parse_selections(text, namespace, f"annotation {annotation}")
        except CNIError as error:
            found.extend(each.message for each in getattr(error, "errors", (error,)))
        found.extend(f"annotation {annotation}: unknown key {key!r}" for key in unknown_keys(text))
    return found


def _mistyped(document: dict[str, Any]) -> Iterator[str]:
    """Of a group that has one kind, another one is a typing error."""
    network = Kind.NETWORK_ATTACHMENT_DEFINITION.value
    if str(document.get("apiVersion")).partition("/")[0] == network.group:
        yield f"kind: {document['kind']!r}: expected {network.kind!r}"


def _problems_of_text(text: str, where: str, name: str, plugin_path: tuple[str, ...]) -> list[str]:
    try:
        network = parse_network(text, where, default_name=name)
    except CNIError as error:
        return [": ".join(filter(None, (error.message, error.details)))]
    if not network.plugins:  # a list in a directory may take its own from there
        return [*network.warnings, f"{where}: expected plugins, or type for a single plugin"]
    return [*network.warnings, *problems_of_network(network, plugin_path)]


def problems_of_network(config: NetworkConfig, path: tuple[str, ...]) -> list[str]:
    """What is wrong with a network's plugins, as far as can be told without attaching anything."""
    found: list[str] = []
    for plugin in config.plugins:
        if plugin.type not in delegates.BUILTIN or delegates.load(plugin.type).refuses(plugin):
            continue
        executed = Executed(plugin.type, True, plugin.raw.text())
        record = Record(
            container_id="validate",
            request="eth0",
            request_network="validate",
            network=config.name,
            interface="net1",
            config_name=config.name,
            cni_version=config.cni_version,
            netns="",
            netns_identity="",
            executed=(executed,),
            cni_args={},
            path=path,
            deadline_s=1.0,
        )
        request = Request("ADD", "validate", "", "eth0", {}, path, {"CNI_COMMAND": "ADD"}, b"")
        try:
            given, beside = plugin.execution({"deviceID": _device_of(plugin)}), Memory()
            construct(
                record, executed, given, Namespaces(""), request=request, memory=beside, timeline=Timeline()
            )
        except CNIError as error:
            found.append(error.message)
    return found


def _device_of(plugin: PluginConfig) -> object:
    """The device that a network names; of most the pod brings one, so any is right."""
    named = [plugin.section.value(key) for key in ("deviceID", "pciBusID")]
    return next((each for each in named if each), device.ANY)
