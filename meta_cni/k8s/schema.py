"""
What an object must look like: the openAPIV3Schema inside the CRDs, and what Kubernetes says of all objects.

The schema an API server enforces is the one we validate files with; there is no second copy. What a
server knows by itself (names, labels, annotations) is in no CRD, so it stands here.
"""

import functools
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from meta_cni.k8s.store import Kind, Object

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = {
    "type": "string",
    "description": "[prefix/]name, as example.com/color: at most 63 letters, digits, '-', '_' and '.'",
    "pattern": rf"^(?i:{_SUBDOMAIN}/)?{_WORD}\Z",
}
_METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {
            "type": "string",
            "description": "A DNS-1123 subdomain: lower-case letters, digits, '-' and '.'",
            "pattern": rf"^{_SUBDOMAIN}\Z",
            "maxLength": 253,
        },
        "namespace": {
            "type": "string",
            "description": "A DNS-1123 label: lower-case letters, digits and '-'",
            "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z",
            "maxLength": 63,
        },
        "annotations": {
            "type": "object",
            "propertyNames": _KEY,
            "additionalProperties": {"type": "string"},
        },
        "labels": {
            "type": "object",
            "propertyNames": _KEY,
            "additionalProperties": {
                "type": "string",
                "description": "At most 63 letters, digits, '-', '_' and '.'",
                "pattern": rf"^({_WORD})?\Z",
            },
        },
    },
}
"""As k8s.io/apimachinery validates it; what it holds beside this is the server's own."""
SHOWN = 80
"""Characters of a value in an error text."""
MORE: dict[Kind, Object] = {
    Kind.POD: {},
    Kind.RESOURCE_CLAIM: {"required": ["spec"], "properties": {"spec": {"type": "object"}}},
    Kind.RESOURCE_SLICE: {"required": ["spec"], "properties": {"spec": {"type": "object"}}},
}
"""Of kinds that are in no CRD, the parts that we read; the server knows them whole."""


def problems(kind: Kind, document: Object) -> list[str]:
    """What is wrong with an object, a line each: the path of the key, and what would be right."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - 0.1 s to import

    found = Draft202012Validator(_schema(kind)).iter_errors(_without_nulls(document))
    return [
        f"{_path(each.absolute_path)}: {_text(each)}"
        for each in sorted(found, key=lambda each: each.json_path)
    ]


def _without_nulls(value: Any) -> Any:
    """As a server takes it: a key that is null is not there."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(each) for key, each in value.items() if each is not None}


def _path(parts: Any) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "object"


def _text(error: Any) -> str:
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"expected the key {missing[0]}"
    shown = textwrap.shorten(repr(error.instance), SHOWN, placeholder=" ...")
    if error.validator == "type":
        return f"{shown}: expected {error.validator_value}"
    if error.validator == "const":
        return f"{shown}: expected {error.validator_value!r}"
    if error.validator == "maxLength":
        return f"{shown}: expected at most {error.validator_value} characters, not {len(error.instance)}"
    if error.validator == "pattern":
        described = error.schema.get("description", "").partition(". ")[0].rstrip(".")
        wanted = described[:1].lower() + described[1:] or f"it to match {error.validator_value}"
        return f"{shown}: expected {wanted}"
    return str(error.message)


@functools.cache
def _schema(kind: Kind) -> Object:
    """What every object of the kind has, and what its CRD says; of events we read nothing."""
    if kind is Kind.EVENT:
        return {}
    about = {"apiVersion": {"const": kind.value.api_version}, "kind": {"const": kind.value.kind}}
    every = {
        "type": "object",
        "required": [*about, "metadata"],
        "properties": {**about, "metadata": _METADATA},
    }
    return {"allOf": [every, MORE[kind] if kind in MORE else _of_definition()]}


def _of_definition() -> Object:
    import yaml  # noqa: PLC0415 - only for those who validate

    text = (files("meta_cni.crds") / "net-attach-def.yaml").read_text()
    schema: Object = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema
