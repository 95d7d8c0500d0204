"""
Frames between shim and daemon; pure.

A request is a line with the lengths of what follows, the variables each with its NUL (CNI_*, our
own, PATH and the trace context), and the standard input as it was. An answer is a line with exit
code and length, and what is to be printed. Lengths, so that what was cut off is never taken for
whole. The spool holds requests as they are. meta_cni/shim/shim.c and shim.py write and read the
same; tests/golden/wire holds all three to it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from meta_cni.cni.errors import DecodeFailure

PROTOCOL = "meta-cni 1"
LONGEST_HEAD = 80
LONGEST_VARIABLES = 1 << 20
LONGEST_STDIN = 16 << 20
REQUEST = re.compile(rb"meta-cni 1 request ([0-9]{1,8}) ([0-9]{1,8})\n")
ANSWER = re.compile(rb"meta-cni 1 answer ([0-9]{1,3}) ([0-9]{1,8})\n")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the runtime."""

    variables: Mapping[str, str]
    stdin: bytes


def request(call: Call) -> bytes:
    """A call as it is sent."""
    variables = b"".join(
        f"{key}={value}\0".encode(errors="surrogateescape") for key, value in call.variables.items()
    )
    head = f"{PROTOCOL} request {len(variables)} {len(call.stdin)}\n".encode()
    return head + variables + call.stdin


def length_of(data: bytes | bytearray) -> int | None:
    """
    How long a request is, by its beginning; None while that cannot be told yet.

    Raises DecodeFailure when it is none of this protocol, or longer than anybody needs.
    """
    lengths = _lengths(data)
    return sum(lengths) if lengths is not None else None


def _lengths(data: bytes | bytearray) -> tuple[int, int, int] | None:
    """As length_of(), of the line, the variables and the standard input."""
    end = data.find(b"\n", 0, LONGEST_HEAD)
    if end < 0:
        if len(data) >= LONGEST_HEAD:
            raise DecodeFailure(f"read request: no line within {LONGEST_HEAD} bytes: expected a CNI shim")
        return None
    head = bytes(data[: end + 1])
    found = REQUEST.fullmatch(head)
    if found is None:
        shown = head.decode(errors="replace").strip()
        raise DecodeFailure(
            f"read request {shown!r}: expected protocol {PROTOCOL!r}: install shim and daemon of one version"
        )
    variables, stdin = (int(each) for each in found.groups())
    if variables > LONGEST_VARIABLES or stdin > LONGEST_STDIN:
        raise DecodeFailure(
            f"read request of {variables} and {stdin} bytes: "
            f"expected at most {LONGEST_VARIABLES} of variables and {LONGEST_STDIN} of standard input"
        )
    return len(head), variables, stdin


def parse_request(data: bytes | bytearray) -> Call:
    """A whole request; raises DecodeFailure."""
    lengths = _lengths(data)
    if lengths is None or len(data) != sum(lengths):
        expected = "more" if lengths is None else sum(lengths)
        raise DecodeFailure(f"read request: {len(data)} bytes: expected {expected}")
    end = lengths[0]
    stdin_at = end + lengths[1]
    variables: dict[str, str] = {}
    *entries, rest = bytes(data[end:stdin_at]).split(b"\0")
    for entry in [*entries, rest] if rest else entries:
        key, separator, value = entry.decode(errors="surrogateescape").partition("=")
        if not separator or entry is rest:
            raise DecodeFailure(f"read request: variable {key!r}: expected NAME=VALUE and NUL")
        variables[key] = value
    return Call(variables, bytes(data[stdin_at:]))


def answer(printed: bytes, code: int) -> bytes:
    """What is to be printed, and the exit code, as it is sent."""
    return f"{PROTOCOL} answer {code} {len(printed)}\n".encode() + printed


def parse_answer(data: bytes) -> tuple[bytes, int]:
    """What was sent by answer(); raises DecodeFailure when it is cut off or something else."""
    head, _, printed = data.partition(b"\n")
    found = ANSWER.fullmatch(head + b"\n")
    if found is None or len(printed) != int(found[2]):
        raise DecodeFailure(f"read answer {head.decode(errors='replace')!r}: expected protocol {PROTOCOL!r}")
    return printed, int(found[1])
