"""A batch of messages and what the kernel answers."""

import errno
from ipaddress import ip_interface

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, link
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns
from tests.open_files import open_files

pytestmark = pytest.mark.guest


def names(socket: Socket) -> set[str]:
    """Every link's name."""
    return {each.name for each in link.dump(socket)}


def test_the_kernel_s_own_explanation_reaches_the_error(host: Socket):
    """The mere "Numerical result out of range" helps nobody."""
    with pytest.raises(KernelError) as raised:
        host.request([link.create_bridge("x" * 16)])

    expected = "Attribute failed policy validation: Numerical result out of range"
    assert f"create bridge {'x' * 16}: {expected}" == raised.value.message
    assert errno.ERANGE == raised.value.errno


def test_a_failing_message_names_itself_and_leaves_the_socket_usable(host: Socket):
    """The kernel goes on after a failure; an answer left unread would be taken for the next one's."""
    host.request([link.create_pair("taken", "other")])
    batch = [
        link.create_bridge("first"),
        link.create_pair("taken", "third"),
        link.create_bridge("last"),
        link.delete_group(0),
    ]

    with pytest.raises(KernelError, match=r"^create veth taken with peer third: File exists$"):
        host.request(batch)

    assert names(host) >= {"first", "last", "taken", "other"}
    assert "third" not in names(host)


def test_an_error_that_is_no_failure_is_in_the_reply(host: Socket):
    """Whoever deletes may want to know whether there was anything."""
    replies = host.request([link.delete("nothing"), link.create_bridge("br0"), link.delete("br0")])

    assert [errno.ENODEV, 0, 0] == [each.errno for each in replies]


def test_an_empty_batch_has_no_answers(host: Socket):
    """A result without addresses gives one."""
    assert [] == host.request([])


def test_a_socket_stays_in_the_namespace_it_was_opened_in(host: Socket, pod: PodNetns):
    """It outlives the thread that opened it there."""
    pod.socket.request([link.create_bridge("inside")])

    with Socket.open_in(pod.fd) as another:
        assert "inside" in names(another)
    assert "inside" not in names(host)


def test_opening_a_socket_leaves_no_descriptor(pod: PodNetns):
    """A daemon opens two for every request."""
    before = open_files()

    with Socket.open_in(pod.fd), Socket.open_host():
        pass

    assert set() == open_files() - before


def test_a_dump_of_many_datagrams_is_complete(pod: PodNetns):
    """The kernel puts some twenty links into one."""
    pod.socket.request([link.create_pair(f"a{n}", f"b{n}") for n in range(40)])

    assert {f"{end}{n}" for end in "ab" for n in range(40)} <= names(pod.socket)


def test_a_list_is_the_last_of_a_batch(pod: PodNetns):
    """What is asked before it is answered, too, and nothing is left for the next call."""
    pod.socket.request([link.create_pair(f"a{n}", f"b{n}") for n in range(40)])
    made = link.require(pod.socket, "a7", "link")
    wanted = [ip_interface(f"10.0.{n}.1/24") for n in range(200)]
    pod.socket.request([address.add(made.index, each) for each in wanted])

    replies = pod.socket.request(
        [link.look_up_index(made.index), link.delete("nothing"), address.list_of(made.index)]
    )

    found, nothing, listed = replies
    assert made.mac == link.mac_in(found)
    assert errno.ENODEV == nothing.errno
    assert address.are_in(listed, made.index, [(each.ip, 24) for each in wanted])
    assert not address.are_in(listed, made.index, [(wanted[0].ip, 25)])
    assert not address.are_in(listed, made.index + 1, [(wanted[0].ip, 24)])
    assert "b39" in names(pod.socket)


def test_a_dump_that_the_kernel_refuses_is_told(host: Socket):
    """And the socket is usable after it."""
    with pytest.raises(KernelError, match=r"^list addresses: .*No such device$"):
        address.dump(host, 12345)

    assert "lo" in names(host)
