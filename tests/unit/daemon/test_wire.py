"""Frames: what is whole, what is cut off, what is another protocol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni.errors import DecodeFailure
from meta_cni.daemon import wire
from meta_cni.daemon.wire import Call

names = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=20)
values = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=30)


@given(st.dictionaries(names, values, max_size=8), st.binary(max_size=200))
def test_a_call_comes_back_as_it_was_sent(variables: dict[str, str], stdin: bytes):
    """Nothing is parsed, nothing is changed: newlines, '=' and whatever is in standard input."""
    sent = wire.request(Call(variables, stdin))

    assert Call(variables, stdin) == wire.parse_request(sent)
    assert len(sent) == wire.length_of(sent)


def test_a_value_that_is_no_utf_8_comes_back():
    """Paths are bytes."""
    call = Call({"CNI_NETNS": b"/run/\xff".decode(errors="surrogateescape")}, b"")

    assert call == wire.parse_request(wire.request(call))


@given(st.integers(0, 60))
def test_what_is_cut_off_is_never_taken_for_whole(kept: int):
    """Half a DEL would be a DEL of something else."""
    whole = wire.request(Call({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "abc"}, b'{"cniVersion": "1.1.0"}'))
    part = whole[:kept]

    assert wire.length_of(part) in (None, len(whole))
    with pytest.raises(DecodeFailure):
        wire.parse_request(part)


WRONG = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n", "'GET / HTTP/1.1': expected protocol 'meta-cni 1'"),
    (b"meta-cni 2 request 0 0\n", "'meta-cni 2 request 0 0': expected protocol 'meta-cni 1'"),
    (b"meta-cni 1 request -1 0\n", "expected protocol"),
    (b"meta-cni 1 request 2000000 0\n", "expected at most 1048576 of variables"),
    (b"meta-cni 1 request 0 99999999\n", "16777216 of standard input"),
    (b"x" * 80, "no line within 80 bytes"),
]


@pytest.mark.parametrize(("data", "text"), WRONG)
def test_what_no_shim_of_this_version_sends_is_refused_at_its_first_line(data: bytes, text: str):
    """Before anything is read that somebody else wrote, or that would fill the memory."""
    with pytest.raises(DecodeFailure) as caught:
        wire.length_of(data)

    assert text in caught.value.message


def test_a_variable_without_value_is_refused():
    """Environments have none."""
    with pytest.raises(DecodeFailure, match="variable 'CNI_COMMAND': expected NAME=VALUE"):
        wire.parse_request(b"meta-cni 1 request 12 0\nCNI_COMMAND\0")


@given(st.binary(max_size=100), st.integers(0, 255))
def test_an_answer_comes_back(printed: bytes, code: int):
    """As it is to be printed."""
    assert (printed, code) == wire.parse_answer(wire.answer(printed, code))


@pytest.mark.parametrize("data", [b"", b"meta-cni 1 answer 0 5\nabc", b"meta-cni 2 answer 0 0\n", b"hello\n"])
def test_an_answer_that_is_cut_off_or_none_is_refused(data: bytes):
    """A result without its end is no result."""
    with pytest.raises(DecodeFailure, match="expected protocol"):
        wire.parse_answer(data)
