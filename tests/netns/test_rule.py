"""Policy rules on a real kernel: what was added is what is found, and nothing else is deleted."""

import subprocess
from dataclasses import replace
from ipaddress import ip_network

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import netns, rule
from meta_cni.linux.rule import Rule
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest


def by(pod: PodNetns, protocol: int) -> list[Rule]:
    """The rules that somebody made."""
    return [each for each in rule.dump(pod.socket) if each.protocol == protocol]


def ip(pod: PodNetns, *command: str) -> None:
    netns.run_in(pod.fd, lambda: subprocess.run(["ip", *command], check=True))


@pytest.mark.parametrize("source", ["10.1.0.2/32", "10.1.0.0/24", "fd00::2/128", "fd00::/64"])
@pytest.mark.parametrize("table", [100, 100000, 2**32 - 1])
def test_a_rule_is_found_as_it_was_added_and_deleted_as_it_was_found(pod: PodNetns, source: str, table: int):
    """The kernel chooses the priority: before all but the first one."""
    wanted = Rule(ip_network(source), table, protocol=109)

    pod.socket.request([rule.add(wanted)])
    (found,) = by(pod, 109)
    pod.socket.request([rule.delete(found), rule.delete(found)])

    assert replace(wanted, priority=32765) == found
    assert [] == by(pod, 109)


def test_of_two_equal_rules_by_two_each_deletes_its_own(pod: PodNetns):
    """Without the protocol in the message the first of them would go."""
    wanted = Rule(ip_network("10.1.0.2/32"), 100, priority=7)
    pod.socket.request([rule.add(replace(wanted, protocol=each)) for each in (4, 109)])

    pod.socket.request([rule.delete(replace(wanted, protocol=109))])

    assert [replace(wanted, protocol=4)] == by(pod, 4)
    assert [] == by(pod, 109)


def test_an_equal_rule_of_the_same_priority_is_an_error(pod: PodNetns):
    """Who chooses a priority is told that it is taken."""
    wanted = Rule(ip_network("10.1.0.2/32"), 100, priority=7)
    pod.socket.request([rule.add(wanted)])

    with pytest.raises(KernelError, match=r"add rule from 10.1.0.2/32 lookup 100: File exists"):
        pod.socket.request([rule.add(wanted)])


@pytest.mark.parametrize(
    "more",
    [
        ("to", "10.2.0.0/24"),
        ("fwmark", "7"),
        ("iif", "lo"),
        ("oif", "lo"),
        ("tos", "0x10"),
        ("uidrange", "0-7"),
        ("ipproto", "udp"),
        ("dport", "53"),
        ("suppress_prefixlength", "0"),
        ("suppress_ifgroup", "7"),
        ("not",),
    ],
)
def test_a_rule_that_asks_for_more_is_none_by_source(pod: PodNetns, more: tuple[str, ...]):
    """It is somebody's with a purpose of its own."""
    first, rest = (more, ()) if more == ("not",) else ((), more)
    ip(pod, "rule", "add", *first, "from", "10.1.0.2", *rest, "lookup", "100", "protocol", "109")

    (found,) = by(pod, 109)

    assert ip_network("10.1.0.2/32") == found.source
    assert not found.is_by_source
    assert not found.is_from(found.source.network_address)


def test_a_rule_that_looks_nothing_up_has_no_table(pod: PodNetns):
    """It must not look like one to table 0, which the kernel takes for any."""
    ip(pod, "rule", "add", "from", "10.1.0.2", "blackhole", "protocol", "109")

    assert [(0, False)] == [(each.table, each.is_by_source) for each in by(pod, 109)]


def test_the_kernel_s_own_rules_are_told(pod: PodNetns):
    """local, main and default; IPv6 has no default."""
    told = [(each.source.version, each.priority, each.table) for each in rule.dump(pod.socket)]

    assert [(4, 0, 255), (4, 32766, 254), (4, 32767, 253)] == [each for each in told if each[0] == 4]
    assert [(6, 0, 255), (6, 32766, 254)] == [each for each in told if each[0] == 6]
