"""
Protocol Buffers on the wire, as far as a message of texts and messages needs it.

Pure. Of the kubelet's answer four fields count; the library that would know all of it takes more
memory than everything else in `k8s/` (https://protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
WIDTHS = {FIXED64: 8, FIXED32: 4}


class Malformed(ValueError):
    """The bytes are no message."""


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, value) of every field with a length: texts, bytes, messages; others are skipped."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            _, at = _varint(message, at)
            continue
        if wire == LENGTH:
            length, at = _varint(message, at)
        elif wire in WIDTHS:
            length = WIDTHS[wire]
        else:
            raise Malformed(f"field {number} has wire type {wire}")
        if length > len(message) - at:
            raise Malformed(f"field {number} ends behind its message")
        if wire == LENGTH:
            yield number, message[at : at + length]
        at += length


def text(value: bytes) -> str:
    """The text of a string field."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None


def of_texts(*texts: str) -> bytes:
    """A message whose fields 1, 2 ... are these texts; empty ones are left out, as they are the default."""
    message = b""
    for number, each in enumerate(texts, 1):
        value = each.encode()
        if value:
            message += _of_varint(number << 3 | LENGTH) + _of_varint(len(value)) + value
    return message


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends): seven bits a byte, the lowest first, 64 bits at most."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise Malformed("a number ends behind its message")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise Malformed("a number has more than ten bytes")


def _of_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
