"""Messages about policy rules, byte for byte as <linux/fib_rules.h> has them."""

import struct
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from meta_cni.linux import rule
from meta_cni.linux.netlink import HEADER, NLM_F_CREATE, NLM_F_EXCL, Request
from meta_cni.linux.rule import Rule

Attribute = Callable[[int, bytes], bytes]
Body = Callable[[Request], bytes]

FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN = 1, 2, 6, 10, 14
FRA_TABLE, FRA_PROTOCOL = 15, 21
AF_INET, AF_INET6 = 2, 10
LOOK_UP, BLACKHOLE = 1, 6  # FR_ACT_TO_TBL, FR_ACT_BLACKHOLE


def header(family: int, length: int, table: int, *, other: int = 0, tos: int = 0, action: int = 1) -> bytes:
    """struct fib_rule_hdr."""
    return struct.pack("=BBBBBBBBI", family, other, length, tos, table, 0, 0, action, 0)


def number(value: int) -> bytes:
    """A 32-bit number."""
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("source", "family", "table", "small_table"),
    [("10.1.0.2/32", AF_INET, 100, 100), ("fd00::2/128", AF_INET6, 100000, 252)],
)
def test_a_rule_by_source(
    attribute: Attribute, body: Body, source: str, family: int, table: int, small_table: int
):
    """The header has 8 bits for a table; a larger one is RT_TABLE_COMPAT there."""
    wanted = Rule(ip_network(source), table, priority=7, protocol=109)

    expected = header(family, wanted.source.prefixlen, small_table)
    expected += attribute(FRA_TABLE, number(table))
    expected += attribute(FRA_SRC, wanted.source.network_address.packed)
    expected += attribute(FRA_PRIORITY, number(7)) + attribute(FRA_PROTOCOL, b"\x6d")
    assert expected == body(rule.add(wanted)) == body(rule.delete(wanted))


def test_a_rule_that_is_there_is_an_error_and_one_that_is_gone_is_none():
    """The kernel adds one of the same priority without NLM_F_EXCL."""
    wanted = Rule(ip_network("10.1.0.2/32"), 100)

    assert (rule.RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL) == (rule.add(wanted).type, rule.add(wanted).flags)
    assert (rule.RTM_DELRULE, 0) == (rule.delete(wanted).type, rule.delete(wanted).flags)
    assert "add rule from 10.1.0.2/32 lookup 100" == rule.add(wanted).action


class Dumped:
    """A socket that answers with these messages."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = [bytes(HEADER.size) + each for each in bodies]

    def dump_undecoded(self, *_: object) -> list[bytes]:
        return self.bodies


def test_what_asks_for_more_than_the_source_is_told(attribute: Attribute):
    """Such a rule is not deleted, nor taken for one that sends an address somewhere."""
    source = attribute(FRA_SRC, bytes((10, 1, 0, 2)))
    unsuppressed = attribute(FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4)
    plain = header(AF_INET, 32, 100) + source + unsuppressed
    more = [
        header(AF_INET, 32, 100, other=24) + source + attribute(FRA_DST, bytes((10, 2, 0, 0))),
        header(AF_INET, 32, 100, tos=16) + source,
        header(AF_INET, 32, 0, action=BLACKHOLE) + source,
        header(AF_INET, 32, 100) + source + attribute(FRA_FWMARK, number(7)),
        header(AF_INET, 32, 100) + source + attribute(FRA_SUPPRESS_PREFIXLEN, number(0)),
        header(AF_INET, 0, 254),
    ]

    told = rule.dump(Dumped(plain, *more))  # type: ignore[arg-type]

    assert [True] + [False] * len(more) == [each.is_by_source for each in told]
    assert [100, 100, 100, 0, 100, 100, 254] == [each.table for each in told]
    assert told[0].is_from(ip_network("10.1.0.2/32").network_address)
    assert not any(each.is_from(ip_network("10.1.0.2/32").network_address) for each in told[1:])


def test_a_rule_for_a_network_is_not_from_an_address(attribute: Attribute):
    """What is from all of 10.1.0.0/24 was not made for one of it."""
    (told,) = rule.dump(Dumped(header(AF_INET, 24, 100) + attribute(FRA_SRC, bytes((10, 1, 0, 0)))))  # type: ignore[arg-type]

    assert ip_network("10.1.0.0/24") == told.source
    assert not told.is_from(told.source.network_address)


def test_rules_of_multicast_routing_are_passed_over():
    """An unspecified family dumps RTNL_FAMILY_IPMR (128) and IP6MR (129), too."""
    assert [] == rule.dump(Dumped(header(128, 0, 253), header(129, 0, 253)))  # type: ignore[arg-type]
