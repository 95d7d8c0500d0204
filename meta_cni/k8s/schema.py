"""
What an object must look like: the openAPIV3Schema inside the CRDs, and a few words on pods.

The schema an API server enforces is the one we validate files with; there is no second copy.
"""

import functools
import textwrap
from importlib.resources import files
from typing import Any

from meta_cni.k8s.store import Kind, Object

_POD = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata"],
    "properties": {
        "apiVersion": {"const": "v1"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 253},
                "namespace": {
                    "type": "string",
                    "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                    "maxLength": 63,
                },
                "annotations": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
                "labels": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
            },
        },
    },
}
"""The parts of a pod that we read; the whole schema is Kubernetes' own."""

_RESOURCE = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "resource.k8s.io/v1"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {"type": "object"},
    },
}
"""Of claims and slices; the API server knows them whole."""
SHOWN = 80
"""Characters of a value in an error text."""
WRITTEN: dict[Kind, Object] = {
    Kind.POD: _POD,
    Kind.EVENT: {},
    Kind.RESOURCE_CLAIM: _RESOURCE,
    Kind.RESOURCE_SLICE: _RESOURCE,
}
"""The schemas that are not in a CRD; of events we read nothing."""


def problems(kind: Kind, document: Object) -> list[str]:
    """What is wrong with an object, a line each: the path of the key, and what would be right."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - 0.1 s to import

    found = Draft202012Validator(_schema(kind)).iter_errors(document)
    return [
        f"{_path(each.absolute_path)}: {_text(each)}"
        for each in sorted(found, key=lambda each: each.json_path)
    ]


def _path(parts: Any) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "object"


def _text(error: Any) -> str:
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"expected the key {missing[0]}"
    if error.validator == "type":
        return f"{error.instance!r}: expected {error.validator_value}"
    if error.validator == "const":
        return f"{error.instance!r}: expected {error.validator_value!r}"
    if error.validator == "pattern":
        described = error.schema.get("description", "").partition(". ")[0].rstrip(".")
        wanted = described[:1].lower() + described[1:] or f"it to match {error.validator_value}"
        return f"{textwrap.shorten(repr(error.instance), SHOWN, placeholder=' ...')}: expected {wanted}"
    return str(error.message)


@functools.cache
def _schema(kind: Kind) -> dict[str, Any]:
    if kind in WRITTEN:
        return WRITTEN[kind]
    import yaml  # noqa: PLC0415 - only for those who validate

    text = (files("meta_cni.crds") / "net-attach-def.yaml").read_text()
    document = yaml.safe_load(text)
    schema: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema
