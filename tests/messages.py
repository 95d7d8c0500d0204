"""Protobuf messages as classes of Google's own library, out of a table; nothing is generated."""

from collections.abc import Mapping, Sequence
from typing import Any

Fields = Sequence[tuple[str, int, str]]
"""(name, number, type): text, bytes, integer or a message of the table; repeated with `*` at its end."""
REPEATED = "*"


def classes(package: str, messages: Mapping[str, Fields]) -> dict[str, Any]:
    """Message -> its class."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package=package, syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    simple = {"text": kinds.TYPE_STRING, "bytes": kinds.TYPE_BYTES, "integer": kinds.TYPE_INT64}
    for message, fields in messages.items():
        made = file.message_type.add(name=message)
        for name, number, told in fields:
            kind = told.removesuffix(REPEATED)
            field = made.field.add(name=name, number=number, type=simple.get(kind, kinds.TYPE_MESSAGE))
            field.label = kinds.LABEL_REPEATED if told.endswith(REPEATED) else kinds.LABEL_OPTIONAL
            if kind not in simple:
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {each: pool.FindMessageTypeByName(f"{package}.{each}") for each in messages}
    return {name: message_factory.GetMessageClass(each) for name, each in found.items()}
