"""
NetworkAttachmentDefinitions, good and bad, and who is to notice.

One table for the API server, for a directory of files, and for `meta-cni validate`. What stands in
spec.config is a text to the first two: they see that it begins and ends as an object, and no more.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meta_cni.k8s.store import Object

BRIDGE = {"cniVersion": "1.0.0", "type": "bridge", "bridge": "br1", "ipam": {}}
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
SUBNET = "10.0.0.0/24"
LONGEST = '{"cniVersion": "1.0.0", "type": "bridge", "x": "é'.ljust(262142, "é") + '"}'
GONE = object()
"""In place of a key that is not there."""


@dataclass(frozen=True, slots=True)
class Case:
    """One NetworkAttachmentDefinition, and what is right."""

    spec: Any = field(default_factory=lambda: {"config": json.dumps(BRIDGE)})
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Keys beside name and namespace, or in their place."""
    top: Mapping[str, Any] = field(default_factory=dict)
    """As metadata, at the top."""
    refused: str = ""
    """Empty when every server and store is to take it, else the key that is wrong."""
    problem: str = ""
    """What `meta-cni validate` alone can say of one that is taken."""

    def document(self, namespace: str, name: str = "n") -> Object:
        """It as somebody applies it."""
        metadata = {"name": name, "namespace": namespace, **self.metadata}
        about = {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition"}
        found = {**about, "metadata": metadata, "spec": self.spec, **self.top}
        return {key: _without_gone(value) for key, value in found.items() if value is not GONE}


def _without_gone(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in value.items() if each is not GONE}


def _config(text: Any, **more: Any) -> Case:
    return Case(spec={"config": text if isinstance(text, str) else json.dumps(text)}, **more)


CASES: dict[str, Case] = {
    # What all take.
    "a plugin": _config(BRIDGE),
    "a list": _config({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}),
    "on several lines": _config("\n\t {\n" + json.dumps(BRIDGE)[1:-1] + "\r\n}\n\n"),
    "with letters of all alphabets": _config(json.dumps({**BRIDGE, "note": "réseau 网络 \U0001f310"})),
    "with letters as they are": _config(json.dumps({**BRIDGE, "note": "réseau 网络"}, ensure_ascii=False)),
    "of the node, by name": Case(spec={}),
    "of the node, without a spec": Case(spec=GONE),
    "of the node, empty": _config(""),
    "of the node, blanks": _config(" \n\t"),
    "keys that nobody knows": Case(spec={"config": json.dumps(BRIDGE), "other": 1}),
    "of 262144 letters": _config(LONGEST),
    "of the node, null": Case(spec={"config": None}),
    "of the node, a spec that is null": Case(spec=None),
    "a resource": Case(metadata={"annotations": {RESOURCE: "intel.com/sriov"}}),
    "without annotations": Case(metadata={"annotations": None, "labels": None}),
    "labels": Case(metadata={"labels": {"example.com/tier": "media"}}),
    "a name with dots": Case(metadata={"name": "net.1"}),
    "a long name": Case(metadata={"name": "n" * 253}),
    # What all refuse.
    "a list without an object": _config([BRIDGE], refused="spec.config"),
    "a text": _config("bridge", refused="spec.config"),
    "cut off": _config(json.dumps(BRIDGE)[:-2], refused="spec.config"),
    "something behind": _config(json.dumps(BRIDGE) + ",", refused="spec.config"),
    "a byte order mark": _config("\ufeff" + json.dumps(BRIDGE), refused="spec.config"),
    "a blank of another kind": _config("\u00a0" + json.dumps(BRIDGE), refused="spec.config"),
    "a vertical tab": _config("\v" + json.dumps(BRIDGE), refused="spec.config"),
    "an object": Case(spec={"config": BRIDGE}, refused="spec.config"),
    "a number": Case(spec={"config": 1}, refused="spec.config"),
    "a boolean": Case(spec={"config": True}, refused="spec.config"),
    "too long": _config('{"type": "' + "x" * 262144 + '"}', refused="spec.config"),
    "a spec that is a text": Case(spec="{}", refused="spec"),
    "a spec that is a list": Case(spec=[], refused="spec"),
    "a name in capitals": Case(metadata={"name": "Net"}, refused="metadata.name"),
    "a name with an underscore": Case(metadata={"name": "net_1"}, refused="metadata.name"),
    "a name with a slash": Case(metadata={"name": "a/b"}, refused="metadata.name"),
    "a name that ends with a dash": Case(metadata={"name": "net-"}, refused="metadata.name"),
    "a name that is too long": Case(metadata={"name": "n" * 254}, refused="metadata.name"),
    "no name": Case(metadata={"name": GONE}, refused="metadata"),
    "a name that is a number": Case(metadata={"name": 1}, refused="metadata.name"),
    "an annotation that is a number": Case(
        metadata={"annotations": {RESOURCE: 1}}, refused="metadata.annotations"
    ),
    "annotations that are a list": Case(metadata={"annotations": []}, refused="metadata.annotations"),
    "an annotation without a key": Case(metadata={"annotations": {"": "x"}}, refused="metadata.annotations"),
    "an annotation of a wrong key": Case(
        metadata={"annotations": {"a b": "x"}}, refused="metadata.annotations"
    ),
    "a label that is an object": Case(metadata={"labels": {"a": {}}}, refused="metadata.labels"),
    "a label of a wrong value": Case(metadata={"labels": {"a": "b c"}}, refused="metadata.labels"),
    "another version": Case(top={"apiVersion": "k8s.cni.cncf.io/v2"}, refused="apiVersion"),
    "another group": Case(top={"apiVersion": "v1"}, refused="apiVersion"),
    "another kind": Case(top={"kind": "networkattachmentdefinition"}, refused="kind"),
    "no version": Case(top={"apiVersion": GONE}, refused="apiVersion"),
    # What only who reads the text sees.
    "a gateway that an ADD refuses": _config(
        {**BRIDGE, "ipam": {"type": "host-local", "ranges": [[{"subnet": SUBNET, "gateway": "10.9.0.1"}]]}},
        problem="gateway 10.9.0.1 not in network 10.0.0.0/24",
    ),
    "a name server that an ADD refuses": _config(
        {**BRIDGE, "dns": {"nameservers": [7]}}, problem="dns: nameservers [7]: expected a list of strings"
    ),
    "no type": _config({"cniVersion": "1.0.0", "bridge": "br1"}, problem="type"),
    "an empty object": _config("{}", problem="type"),
    "no JSON": _config("{type: bridge}", problem="spec.config"),
    "two objects": _config("{}{}", problem="spec.config"),
    "a version that nobody speaks": _config({**BRIDGE, "cniVersion": "9.0.0"}, problem="9.0.0"),
    "a value of another type": _config({**BRIDGE, "mtu": "big"}, problem="mtu"),
    "a value that cannot be": _config({**BRIDGE, "vlan": 5000}, problem="vlan"),
    "an object that is cut off in the middle": _config(json.dumps(BRIDGE)[:-1], problem="spec.config"),
    "plugins that are an object": _config({"cniVersion": "1.0.0", "plugins": {}}, problem="plugins"),
    "no plugins": _config({"cniVersion": "1.0.0", "name": "n", "plugins": []}, problem="plugins"),
}
