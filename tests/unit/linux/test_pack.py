"""Messages packed by hand, held to the codec byte for byte."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.linux import pack, vlan
from meta_cni.linux.codec import ifinfmsg
from meta_cni.linux.netlink import Request, encode


def by_codec(kind: Any, header: dict[str, int], attributes: list[tuple[str, Any]], request: Request) -> bytes:
    """The same message by pyroute2."""
    message = kind()
    for key, value in header.items():
        message[key] = value
    message["attrs"] = attributes
    return encode(message, request.type, request.flags, 7)


def packed(request: Request) -> bytes:
    assert isinstance(request.message, bytes)
    return encode(request.message, request.type, request.flags, 7)


def vlan_info(vid: int, flags: int) -> tuple[str, dict[str, int]]:
    return "IFLA_BRIDGE_VLAN_INFO", {"vid": vid, "flags": flags}


JOINED = [
    ((), 5, [(5, 6)]),
    ((7,), 0, [(7, 0)]),
    ((7, 8, 9), 0, [(7, 8), (9, 16)]),
    ((1, 3, 4, 6), 3, [(1, 0), (4, 0), (6, 0), (3, 6)]),
    (range(1, 4095), 0, [(1, 8), (4094, 16)]),
]


@pytest.mark.parametrize(("tagged", "native", "infos"), JOINED)
def test_vlans_of_a_port(tagged: Any, native: int, infos: list[tuple[int, int]]):
    """Without gaps they are ranges."""
    request = vlan.join(3, tagged, native)
    attributes = [("IFLA_BRIDGE_FLAGS", 1), *(vlan_info(vid, flags) for vid, flags in infos)]
    specification = [("IFLA_AF_SPEC", {"attrs": attributes})]

    expected = by_codec(ifinfmsg, {"family": 7, "index": 3}, specification, request)
    assert expected == packed(request)


def test_a_message_goes_on_without_some_of_its_attributes():
    """What is left is as it was, nested attributes and padding included."""
    nested = pack.nested(8, pack.u32(2, 1400))
    message = b"head" + pack.text(3, "eth0") + nested + pack.u8(20, 1) + pack.u32(8, 7)

    assert nested + pack.u8(20, 1) + pack.u32(8, 7) == pack.without(message, 4, 3)
    assert pack.text(3, "eth0") == pack.without(message, 4, 8, 20)


def test_attributes_are_found_by_their_numbers():
    """A link has forty, of which few are wanted; flags that stand beside a number are not looked at."""
    head, name, nested = b"head", pack.text(3, "eth0"), pack.nested(0x8000 | 18, pack.u8(1, 3))
    message = head + name + nested + pack.u32(4, 1500)
    cut_off = message[:-5]

    assert {18: pack.u8(1, 3), 4: b"\xdc\x05\0\0"} == pack.attributes(message, 4, {4, 18})
    assert pack.u8(1, 3) == pack.find(message, 18, 4)
    assert None is pack.find(message, 5, 4)
    assert None is pack.find(cut_off, 5, 4)
    assert None is pack.find(head + bytes(4), 5, 4)


def of_one_length(attributes: list[tuple[int, bytes]], length: int = 200) -> bytes:
    """A message with these, and with one more that fills it up."""
    message = bytes(16) + b"".join(pack.attribute(kind, value) for kind, value in attributes)
    return message + pack.attribute(0x3FFF, bytes(length - len(message) - 4))


VALUES = st.lists(
    st.tuples(st.integers(0, 0x3FFE), st.binary(max_size=9)), max_size=8, unique_by=lambda each: each[0]
)


@given(st.lists(VALUES, min_size=1, max_size=3), st.integers(0, 0x3FFF), st.data())
def test_a_message_is_not_taken_for_another_one_of_its_length(
    layouts: list[list[tuple[int, bytes]]], wanted: int, data: st.DataObject
):
    """Where the attributes of the one before were is asked first, and here it may be another one."""
    for _ in range(8):
        attributes = data.draw(st.sampled_from(layouts))
        message = of_one_length(attributes)

        expected = dict(pack.split(message, 16))
        assert expected == pack.attributes(message, 16)
        assert expected.get(wanted) == pack.find(message, wanted, 16)


def test_a_message_that_is_cut_off_is_not_taken_for_a_whole_one():
    """It ends in the middle of a header, of a value, or with an attribute that has no length."""
    whole = of_one_length([(3, b"eth0"), (4, bytes(4))])
    for message in (whole[:-3], whole[:90], whole[:32] + bytes(len(whole) - 32)):
        for _ in range(3):
            assert dict(pack.split(message, 16)) == pack.attributes(message, 16)


def test_messages_of_one_length_in_turn_are_gone_along_twice_at_most(mocker):
    """The ports of two bridges may be as long, and be laid out otherwise."""
    pack._LAYOUTS.clear()
    layouts = [[(n, bytes(8))] * n for n in range(1, 1 + pack.AS_LONG)]
    messages = [of_one_length(each) for each in layouts]
    went = mocker.spy(pack, "_walk")

    for _ in range(5):
        for each, layout in zip(messages, layouts, strict=True):
            assert {layout[0][0], 0x3FFF} == set(pack.attributes(each, 16))

    assert went.call_count <= 2 * len(messages)


def test_a_new_layout_takes_the_place_of_the_oldest_of_its_length(mocker):
    """A node's bridges come and go."""
    pack._LAYOUTS.clear()
    for n in range(1, 4 * pack.AS_LONG):
        for _ in range(2):
            pack.attributes(of_one_length([(n, bytes(8))]), 16)
    went = mocker.spy(pack, "_walk")

    assert {n, 0x3FFF} == set(pack.attributes(of_one_length([(n, bytes(8))]), 16))

    assert 0 == went.call_count
    assert pack.AS_LONG == max(map(len, pack._LAYOUTS.values()))


def test_few_layouts_are_remembered():
    """A node may have links with names of any length."""
    for length in range(100, 100 + 8 * pack.MOST_LAYOUTS, 4):
        assert {0x3FFF} == set(pack.attributes(of_one_length([], length), 16))

    assert len(pack._LAYOUTS) <= pack.MOST_LAYOUTS
