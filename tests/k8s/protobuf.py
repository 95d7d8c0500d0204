"""Bodies in Kubernetes' protobuf, as far as clients of the stand-in write any: pods' annotations, events."""

from functools import cache
from typing import Any

from tests import messages

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\0"  # k8s.io/apimachinery/pkg/runtime/serializer/protobuf
MESSAGES = {
    "Unknown": [("raw", 2, "bytes")],
    "Pod": [("metadata", 1, "ObjectMeta")],
    "Event": [
        ("metadata", 1, "ObjectMeta"),
        ("involvedObject", 2, "ObjectReference"),
        ("reason", 3, "text"),
        ("message", 4, "text"),
        ("type", 9, "text"),
    ],
    "ObjectMeta": [
        ("name", 1, "text"),
        ("namespace", 3, "text"),
        ("uid", 5, "text"),
        ("resourceVersion", 6, "text"),
        ("annotations", 12, "Pair*"),
    ],
    "ObjectReference": [
        ("kind", 1, "text"),
        ("namespace", 2, "text"),
        ("name", 3, "text"),
        ("uid", 4, "text"),
    ],
    "Pair": [("key", 1, "text"), ("value", 2, "text")],
}
"""Message -> its fields, as in k8s.io/api/core/v1/generated.proto; those not named here are left out."""


@cache
def _classes() -> dict[str, Any]:
    return messages.classes("kubernetes", MESSAGES)


def decode(kind: str, body: bytes) -> dict[str, Any]:
    """What a body says of an object."""
    from google.protobuf import json_format

    assert body.startswith(MAGIC)
    envelope = _classes()["Unknown"].FromString(body[len(MAGIC) :])
    document: dict[str, Any] = json_format.MessageToDict(_classes()[kind].FromString(envelope.raw))
    metadata = document.setdefault("metadata", {})
    metadata["annotations"] = {each["key"]: each.get("value", "") for each in metadata.get("annotations", [])}
    return document
