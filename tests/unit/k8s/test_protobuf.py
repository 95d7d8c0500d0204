"""The wire format, beside Google's library."""

from contextlib import suppress

import pytest
from google.protobuf.internal import encoder
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.k8s import protobuf


def test_fields_without_a_length_are_skipped():
    """Numbers of every wire type stand between the texts."""
    message = b"\x08\x96\x01" + b"\x0a\x01a" + b"\x11" + b"8" * 8 + b"\x15" + b"4" * 4 + b"\x12\x02\xc3\xa9"

    found = [(number, protobuf.text(value)) for number, value in protobuf.fields(message)]

    assert [(1, "a"), (2, "é")] == found


@given(st.lists(st.text(), max_size=20))
def test_what_is_written_is_what_the_library_writes(texts: list[str]):
    """Long texts have long lengths, high numbers long tags; an empty text is left out."""
    expected = bytearray()
    for number, each in enumerate(texts, 1):
        if each:
            encoder.StringEncoder(number, is_repeated=False, is_packed=False)(expected.extend, each, True)

    written = protobuf.of_texts(*texts)

    assert bytes(expected) == written
    assert [each for each in texts if each] == [protobuf.text(value) for _, value in protobuf.fields(written)]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"\x0a\x05abc", "field 1 ends behind"),
        (b"\x0a", "a number ends behind"),
        (b"\x8a", "a number ends behind"),
        (b"\x15abc", "field 2 ends behind"),
        (b"\x0b", "wire type 3"),
        (b"\x0a" + b"\xff" * 10, "more than ten bytes"),
    ],
)
def test_bytes_that_are_no_message_are_told(message: bytes, expected: str):
    """An answer that was cut off is never taken for a shorter one."""
    with pytest.raises(protobuf.Malformed, match=expected):
        list(protobuf.fields(message))


def test_a_text_that_is_no_text_is_told():
    """A string field is UTF-8."""
    with pytest.raises(protobuf.Malformed, match="UTF-8"):
        protobuf.text(b"\xff")


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(message: bytes):
    """Nothing else is raised."""
    with suppress(protobuf.Malformed):
        list(protobuf.fields(message))
