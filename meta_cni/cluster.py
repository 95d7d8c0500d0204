"""
A cluster as somebody at a command line sees it: what its pods have, and what their objects say.

Everything is read from the API, with that person's own rights; nothing is written. What the API does
not have (the default network's configuration, the node's plugins and devices) is on the nodes.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import BadConfig, CNIError
from meta_cni.engine.engine import pod_of
from meta_cni.engine.selection import DEFAULT_NETWORK, NETWORKS, Selection, parse
from meta_cni.engine.status import NETWORK_STATUS
from meta_cni.k8s import access, api_store
from meta_cni.k8s.store import Kind, NotFound, Object, Store

SYSTEM = "kube-system"  # multusNamespace, by default
HOME_KUBECONFIG = ".kube/config"
Row = dict[str, Any]


def kubeconfigs_of(given: str | None, environment: Mapping[str, str]) -> list[Path]:
    """The kubeconfigs that are one, by kubectl's rules; none where we are a pod. Raises BadConfig."""
    if given:
        return [Path(given)]
    named = [Path(each) for each in environment.get("KUBECONFIG", "").split(os.pathsep) if each]
    if found := [each for each in named if each.exists()]:
        return found
    if access.is_in_cluster(environment):
        return []
    home = Path(environment.get("HOME") or "/root") / HOME_KUBECONFIG
    if home.exists():
        return [home]
    raise BadConfig("no cluster: expected --kubeconfig FILE, KUBECONFIG, or ~/.kube/config")


def open_store(kubeconfigs: Sequence[Path], environment: Mapping[str, str]) -> tuple[Store, str]:
    """The cluster's objects, and the namespace that counts where none is named."""
    credentials = access.of_kubeconfig(*kubeconfigs) if kubeconfigs else access.in_cluster(environment)
    return api_store.ApiStore(api_store.Server(credentials)), credentials.current().namespace or "default"


def pod(store: Store, namespace: str, name: str) -> Object:
    """One pod; raises NotFound."""
    found = store.get(Kind.POD, namespace, name)
    return {"apiVersion": "v1", "kind": "Pod", **found}


def attachments(store: Store, namespace: str | None) -> tuple[list[Row], list[str]]:
    """
    Every attachment of the pods that tell of theirs, by node and pod; and which ones cannot be read.

    A pod that has ended has no attachments any more, whatever its annotation says.
    """
    found: list[Row] = []
    unreadable: list[str] = []
    for document in store.list(Kind.POD, namespace)[0]:
        pod = pod_of(document)
        text = pod.annotations.get(NETWORK_STATUS, "")
        is_over = (document.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if not text or is_over:
            continue
        try:
            entries = _entries(text)
        except ValueError as error:
            unreadable.append(f"pod {pod.reference}: annotation {NETWORK_STATUS}: {error}")
            continue
        node = (document.get("spec") or {}).get("nodeName") or ""
        found.extend({"node": node, "pod": pod.reference, **each} for each in entries)
    found.sort(key=lambda each: (each["node"], each["pod"]))  # a pod's own order stays
    return found, unreadable


def _entries(text: str) -> Iterator[Row]:
    """Of ours as of Multus' own; raises ValueError."""
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ValueError("expected a list of objects")
    return iter([_entry(each) for each in entries])


def _entry(entry: Mapping[str, Any]) -> Row:
    device = entry.get("device-info")
    told = device.get(device.get("type"), {}) if isinstance(device, dict) else {}
    return {
        "interface": str(entry.get("interface") or ""),
        "network": str(entry.get("name") or ""),
        "mac": str(entry.get("mac") or ""),
        "addresses": [str(each) for each in entry.get("ips") or ()],
        "isDefault": entry.get("default") is True,
        "device": str(told.get("pci-address") or told.get("path") or "") if isinstance(told, dict) else "",
    }


def objects(store: Store, namespace: str | None) -> Iterator[Object]:
    """Every network, and every pod that names networks."""
    yield from store.list(Kind.NETWORK_ATTACHMENT_DEFINITION, namespace)[0]
    for document in store.list(Kind.POD, namespace)[0]:
        annotations = pod_of(document).annotations
        if annotations.get(NETWORKS) or annotations.get(DEFAULT_NETWORK):
            yield document


def reference(document: Object) -> str:
    """An object as it is told of."""
    metadata = document["metadata"]
    return f"{document['kind']} {metadata.get('namespace', 'default')}/{metadata['name']}"


class Names:
    """Which networks there are; each is asked for once."""

    def __init__(self, store: Store, known: Iterable[Object] = ()) -> None:
        self._store = store
        self._is_there = {
            (each["metadata"].get("namespace", "default"), each["metadata"]["name"]): True
            for each in known
            if each["kind"] == Kind.NETWORK_ATTACHMENT_DEFINITION.value.kind
        }

    def missing(self, document: Object) -> Iterator[str]:
        """What a pod names and is not there."""
        for selection in _selections(document):
            key = selection.namespace, selection.name
            if key not in self._is_there:
                self._is_there[key] = self._has(*key)
            if not self._is_there[key]:
                yield (
                    f"{selection.where}: network {selection.reference}: "
                    f"no NetworkAttachmentDefinition {selection.name} in namespace {selection.namespace}"
                )

    def _has(self, namespace: str, name: str) -> bool:
        try:
            self._store.get(Kind.NETWORK_ATTACHMENT_DEFINITION, namespace, name)
        except NotFound:
            return False
        return True


def _selections(document: Object) -> Iterator[Selection]:
    """Those that can be read; what cannot is told by whoever validates the pod itself."""
    if document["kind"] != Kind.POD.value.kind:
        return
    pod = pod_of(document)
    for annotation, namespace in ((NETWORKS, pod.namespace), (DEFAULT_NETWORK, SYSTEM)):
        with suppress(CNIError):
            yield from parse(pod.annotations.get(annotation, ""), namespace, f"annotation {annotation}")
