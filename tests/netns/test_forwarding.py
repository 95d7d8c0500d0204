"""Whether the node forwards, and that it does from now on."""

import errno
from ipaddress import ip_interface

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import forwarding, link, netns, sysctl
from meta_cni.linux.netlink import Reply
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

BOTH = [ip_interface("10.0.0.2/24"), ip_interface("fd00::2/64")]


def parameters(node: PodNetns) -> list[str]:
    """Of IPv4 and IPv6."""
    return netns.run_in(node.fd, lambda: [sysctl.read(each) for each in forwarding.PATHS.values()])


def asked(node: PodNetns) -> list[Reply]:
    """What a namespace answers that is a node here; a link is asked for in the same batch."""
    *replies, other = node.socket.request([*forwarding.questions(BOTH), link.look_up_index(1)])
    assert link.mac_in(other) == "00:00:00:00:00:00"
    return replies


def test_what_is_off_is_turned_on_and_what_is_on_is_not_touched(pod: PodNetns, mocker):
    """Each family by its own parameter."""
    netns.run_in(pod.fd, lambda: [sysctl.write(each, "0") for each in forwarding.PATHS.values()])
    before = asked(pod)

    netns.run_in(pod.fd, lambda: forwarding.turn_on(before[:1]))
    assert ["1", "0"] == parameters(pod)
    netns.run_in(pod.fd, lambda: forwarding.turn_on(before[1:]))
    assert ["1", "1"] == parameters(pod)

    written = mocker.patch.object(sysctl, "write")
    forwarding.turn_on(asked(pod))
    written.assert_not_called()


@pytest.mark.parametrize("off", [0, 1])
def test_a_parameter_of_the_other_family_says_nothing(pod: PodNetns, off: int):
    """A node may forward one alone."""
    values = ["1", "1"]
    values[off] = "0"
    pairs = list(zip(forwarding.PATHS.values(), values, strict=True))
    netns.run_in(pod.fd, lambda: [sysctl.write(*each) for each in pairs])

    netns.run_in(pod.fd, lambda: forwarding.turn_on(asked(pod)[1 - off : 2 - off]))

    assert values == parameters(pod)


def test_only_the_families_of_the_addresses_are_asked_for():
    """An IPv4 pod's node need not route IPv6."""
    assert [] == forwarding.questions([])
    assert ["look up IPv4 forwarding"] == [str(each) for each in forwarding.questions(BOTH[:1] * 2)]
    assert ["look up IPv6 forwarding"] == [str(each) for each in forwarding.questions(BOTH[1:])]


def test_a_kernel_that_does_not_tell_has_the_parameter_looked_at(mocker):
    """Without IPv6 it says so, and the path tells which one it was."""
    (question,) = forwarding.questions(BOTH[1:])
    reply = Reply(question)
    reply.errno = errno.EOPNOTSUPP
    error = KernelError("read sysctl net/ipv6/conf/all/forwarding", errno.ENOENT)
    mocker.patch.object(sysctl, "read", side_effect=error)

    with pytest.raises(KernelError, match=r"net/ipv6/conf/all/forwarding: No such file"):
        forwarding.turn_on([reply])
