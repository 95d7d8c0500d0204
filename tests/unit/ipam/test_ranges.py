"""host-local's arithmetic: the reference's fixtures, its texts, and properties for everything else."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni.config import Section
from meta_cni.cni.errors import BadConfig
from meta_cni.ipam import ranges
from meta_cni.ipam.ranges import Range, RangeSet


def parse(*sets: Sequence[dict[str, object]], **legacy: object) -> tuple[RangeSet, ...]:
    values: dict[str, object] = {**legacy}
    if sets:
        values["ranges"] = [list(each) for each in sets]
    parsed = ranges.parse_sets(Section("ipam", values))
    ranges.check_sets(parsed, "ipam")
    return parsed


def one(**keys: object) -> Range:
    ((found,),) = parse([keys])
    return found


def test_a_range_is_the_subnet_without_its_ends():
    """Network, gateway and broadcast address are nobody's."""
    found = one(subnet="10.1.2.0/24")

    assert "10.1.2.1-10.1.2.254" == str(found)
    assert ip_address("10.1.2.1") == found.gateway
    assert found.is_whole


def test_ipv6_has_no_broadcast_address():
    """The last address can be handed out."""
    assert "2001:db8::1-2001:db8::ffff:ffff:ffff:ffff" == str(one(subnet="2001:db8::/64"))


def test_ends_and_gateway_can_be_given():
    """The network's own address as well, where somebody asks for it, as in the reference."""
    found = one(subnet="10.0.0.0/29", rangeStart="10.0.0.0", rangeEnd="10.0.0.7", gateway="10.0.0.7")

    assert "10.0.0.0-10.0.0.7" == str(found)
    assert not found.is_whole


def test_the_older_keys_are_the_first_set():
    """Configurations of 2017 are still around, some with both."""
    found = parse([{"subnet": "10.2.0.0/24"}], subnet="10.1.0.0/24", rangeStart="10.1.0.9")

    assert ["10.1.0.9-10.1.0.254", "10.2.0.1-10.2.0.254"] == [ranges.name_of(each) for each in found]


BAD = {
    "host bits": (
        [[{"subnet": "192.0.2.5/24"}]],
        r"ranges\[0\]\[0\]: .*Network has host bits set. For a subnet mask of length 24 "
        r"the network address is 192.0.2.0$",
    ),
    "too small": ([[{"subnet": "192.0.2.0/31"}]], "Network 192.0.2.0/31 too small to allocate from$"),
    "too small, IPv6": ([[{"subnet": "fd00::/127"}]], "Network fd00::/127 too small to allocate from$"),
    "start outside": (
        [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.3.0"}]],
        "RangeStart 192.0.3.0 not in network 192.0.2.0/24$",
    ),
    "end outside": (
        [[{"subnet": "192.0.2.0/24", "rangeEnd": "fd00::1"}]],
        "RangeEnd fd00::1 not in network 192.0.2.0/24$",
    ),
    "wrong order": (
        [[{"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.5", "rangeEnd": "10.0.0.3"}]],
        "RangeStart 10.0.0.5 is after RangeEnd 10.0.0.3$",
    ),
    "overlap in a set": (
        [[{"subnet": "10.0.0.0/29"}, {"subnet": "10.0.0.0/24"}]],
        "invalid range set 0: subnets 10.0.0.1-10.0.0.6 and 10.0.0.1-10.0.0.254 overlap$",
    ),
    "overlapping sets": (
        [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/29"}]],
        "range set 0 overlaps with 1$",
    ),
    "mixed": (
        [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]],
        "invalid range set 0: mixed address families$",
    ),
    "an empty set": ([[]], "expected a list of range sets, each a list of ranges$"),
    "no list": ([[{"subnet": "10.0.0.0/24"}], ["10.0.0.0/24"]], "expected a list of range sets"),
    "no subnet": ([[{"rangeStart": "10.0.0.5"}]], r"ranges\[0\]\[0\]: subnet .*expected a network in CIDR"),
    "no network": (
        [[{"subnet": "10.0.0.0/24"}], [{"subnet": "x"}]],
        r"ranges\[1\]\[0\]: subnet \"x\": expected",
    ),
    "no gateway": ([[{"subnet": "10.0.0.0/24", "gateway": "x"}]], 'gateway "x": expected an IP address'),
}


@pytest.mark.parametrize(("sets", "message"), BAD.values(), ids=BAD)
def test_bad_ranges_are_refused_with_the_reference_s_words(sets: list[list[dict[str, object]]], message: str):
    """People search for them; where it stands is ours."""
    with pytest.raises(BadConfig, match=message):
        parse(*sets)


def test_parts_of_one_subnet_in_one_set_are_fine():
    """A range with a hole in it, the reference's own example."""
    parts = [
        {"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.9"},
        {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.20"},
    ]

    assert "10.0.0.1-10.0.0.9,10.0.0.20-10.0.0.254" == ranges.name_of(parse(parts)[0])


V6 = "2001:db8:1::/64"
TURNS = {
    "from the start": (["10.0.0.0/29"], None, [], "10.0.0.2"),
    "past a taken one": (["10.0.0.0/29"], None, ["10.0.0.2"], "10.0.0.3"),
    "after the last": (["10.0.0.0/29"], "10.0.0.5", [], "10.0.0.6"),
    "after the last, past taken ones": (["10.0.0.0/29"], "10.0.0.3", ["10.0.0.4", "10.0.0.5"], "10.0.0.6"),
    "around": (["10.0.0.0/29"], "10.0.0.5", ["10.0.0.6"], "10.0.0.2"),
    "last is elsewhere": (["10.0.0.0/29"], "10.0.0.128", ["10.0.0.2"], "10.0.0.3"),
    "only the last is free": (
        ["10.0.0.0/29"],
        "10.0.0.3",
        ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
        "10.0.0.3",
    ),
    "the next range": (["10.0.0.0/30", "10.0.1.0/30"], "10.0.0.2", [], "10.0.1.2"),
    "around ranges": (["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"], "10.0.2.2", [], "10.0.0.2"),
    "IPv6": ([V6], None, [], "2001:db8:1::2"),
    "IPv6, the very last": ([V6], "2001:db8:1::ffff:ffff:ffff:ffff", [], "2001:db8:1::2"),
    "full": (["10.0.0.0/30"], None, ["10.0.0.2"], None),
}


@pytest.mark.parametrize(("subnets", "last", "taken", "expected"), TURNS.values(), ids=TURNS)
def test_addresses_are_handed_out_in_turn(
    subnets: list[str], last: str | None, taken: list[str], expected: str | None
):
    """The reference's fixtures: who shares a directory must agree on what comes next."""
    (set_,) = parse([{"subnet": each} for each in subnets])

    found = ranges.candidates(set_, ip_address(last) if last else None)

    assert expected == next((str(each) for each in found if str(each) not in taken), None)


@st.composite
def sets(draw: st.DrawFn) -> RangeSet:
    """One to three small ranges of one family, apart from each other, with gateways anywhere."""
    base, bits = draw(st.sampled_from([("10.0.0.0", 32), ("fd00::", 128)]))
    found = []
    for index in range(draw(st.integers(1, 3))):
        size = draw(st.integers(2, 5))
        network = ip_network((int(ip_address(base)) + index * 256, bits - size))
        ends = sorted(draw(st.tuples(*[st.integers(0, network.num_addresses - 1)] * 2)))
        gateway = network[draw(st.integers(0, network.num_addresses - 1))]
        found.append(Range(network, network[ends[0]], network[ends[1]], gateway))
    return tuple(found)


@given(sets(), st.data())
def test_every_address_comes_once_and_no_gateway(set_: RangeSet, data: st.DataObject):
    """From wherever it starts: nothing is lost, nothing given twice."""
    everything = {
        each.subnet.network_address + offset
        for each in set_
        for offset in range(each.subnet.num_addresses)
        if each.subnet.network_address + offset in each
        and each.subnet.network_address + offset != each.gateway
    }
    last = data.draw(st.one_of(st.none(), st.sampled_from(sorted(everything)) if everything else st.none()))

    found = list(ranges.candidates(set_, last))

    assert (len(everything), everything) == (len(found), set(found))
    assert last is None or found[-1] == last
    assert all(ranges.find(set_, address) is not None for address in found)


@given(st.integers(0, 2**64 - 1))
def test_the_size_of_a_subnet_does_not_matter(offset: int):
    """A /64 that was made into a list would never end."""
    (set_,) = parse([{"subnet": V6}])
    last = ip_address("2001:db8:1::") + offset

    assert 3 == len(list(islice(ranges.candidates(set_, last), 3)))


@given(st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_every_subnet_has_a_canonical_form(prefix_length: int, number: int):
    """What was parsed is inside its subnet, and what is written is read the same."""
    network = ip_network((number, prefix_length), strict=False)
    found = one(subnet=str(network))

    assert found.start in network
    assert found.end in network
    assert found == one(subnet=str(found.subnet), rangeStart=str(found.start), rangeEnd=str(found.end))
