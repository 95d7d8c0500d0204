"""What goes over the socket, against a kernel played byte by byte at the other end of a pair."""

import errno
import socket as sockets
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, link, netlink
from meta_cni.linux.codec import ifinfmsg
from meta_cni.linux.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Socket,
)

NLM_F_MULTI = 2  # <linux/netlink.h>
Header = tuple[int, int, int, int, int]
Answer = Callable[[Header, bytes], list[bytes]]
Play = Callable[..., Socket]
"""The datagrams that answer one message."""


def message(kind: int, flags: int, sequence: int, body: bytes = b"") -> bytes:
    """One message."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, body: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def acknowledgement(request: bytes, number: int = 0, text: str = "", *, is_capped: bool = True) -> bytes:
    """What the kernel answers to a message, with or without the message in it."""
    flags = (NLM_F_CAPPED if is_capped else 0) | (NLM_F_ACK_TLVS if text else 0)
    original = request[: HEADER.size] if is_capped else request
    words = attribute(3, b"cookie") + attribute(1, text.encode() + b"\0") if text else b""
    (sequence,) = struct.unpack_from("=I", request, 8)
    return message(NLMSG_ERROR, flags, sequence, struct.pack("=i", -number) + original + words)


def told(name: str, index: int, peer: int, sequence: int, flags: int = 0) -> bytes:
    """An RTM_NEWLINK."""
    body = struct.pack("=BxHiII", 0, 1, index, 1, 0)
    body += attribute(3, name.encode() + b"\0") + attribute(5, struct.pack("=I", peer))
    return message(link.RTM_NEWLINK, flags, sequence, body)


def received(kernel: sockets.socket) -> bytes:
    """The next datagram; none any more when the other end was closed with answers unread."""
    try:
        return kernel.recv(1 << 16)
    except ConnectionResetError:
        return b""


@pytest.fixture
def played() -> Iterator[Play]:
    """A socket whose kernel is a function."""
    ends: list[sockets.socket] = []
    threads: list[threading.Thread] = []

    def play(answer: Answer, timeout_s: float = 10.0) -> Socket:
        ours, kernel = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        ends.append(ours)

        def serve() -> None:
            with kernel:
                while data := received(kernel):
                    for header, body in netlink.split(data):
                        for datagram in answer(header, body):
                            with suppress(BrokenPipeError):  # who asked has gone
                                kernel.send(datagram)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return Socket(ours, timeout_s)

    yield play
    for each in ends:
        each.close()
    for thread in threads:
        thread.join()


def test_a_batch_is_one_datagram_of_aligned_messages_with_numbers():
    """One system call for all; what is not aligned makes the kernel lose the messages behind it."""
    ours, kernel = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    with ours, kernel:
        with pytest.raises(KernelError, match="delete link abc: Connection timed out"):
            Socket(ours, timeout_s=0.01).request([link.delete("abc"), link.delete("b")])
        data = kernel.recv(1 << 16)

    found = netlink.split(data)
    assert 0 == len(data) % 4
    assert [(link.RTM_DELLINK, 1), (link.RTM_DELLINK, 2)] == [(each[1], each[3]) for each, _ in found]
    assert [0, NLM_F_ACK] == [each[2] & NLM_F_ACK for each, _ in found]


def test_a_long_batch_is_sent_in_parts_and_a_failure_told_behind_all_of_them(played: Play):
    """As in one datagram, the kernel goes on behind a message that fails."""
    asked: list[bytes] = []

    def answer(header: Header, body: bytes) -> list[bytes]:
        asked.append(body)
        number = errno.EPERM if b"net3\0" in body else 0
        return [acknowledgement(body, number)] if number or header[2] & NLM_F_ACK else []

    with pytest.raises(KernelError, match="delete link net3: Operation not permitted"):
        played(answer).request([link.delete(f"net{each}") for each in range(netlink.BATCH + 8)])

    assert netlink.BATCH + 8 == len(asked)


def test_answers_may_come_in_any_number_of_datagrams_and_others_in_between(
    played: Play,
):
    """A late answer to a request that was given up must not be taken for this one's."""

    def answer(header: Header, body: bytes) -> list[bytes]:
        late = message(NLMSG_ERROR, 0, 0, struct.pack("=i", -errno.EPERM) + body[: HEADER.size])
        return [late, told("multicast", 9, 0, 4711) + acknowledgement(body)]

    replies = played(answer).request([link.delete("a"), link.delete("b")])

    assert [(0, []), (0, [])] == [(each.errno, each.echoed) for each in replies]


def test_numbers_begin_anew_before_they_end(played: Play):
    """A daemon asks with one socket for as long as it lives, and a message has room for 32 bits."""
    socket = played(lambda _, body: [acknowledgement(body)])
    socket._sequence = 2**32 - 1

    socket.request([link.delete("a"), link.delete("b")])

    assert 2 == socket._sequence


@pytest.mark.parametrize("is_capped", [True, False])
def test_the_words_of_the_kernel_are_found_behind_the_message(played: Play, is_capped: bool):
    """NETLINK_CAP_ACK leaves the message out; kernels that do not know it put it in."""
    socket = played(
        lambda _, body: [acknowledgement(body, errno.EINVAL, "mtu too small", is_capped=is_capped)]
    )

    with pytest.raises(KernelError, match=r"^change link 3: mtu too small: Invalid argument$"):
        socket.request([link.set_link(3, mtu=10)])


def test_the_first_failure_is_raised_when_all_answers_are_read(played: Play):
    """Whatever order they come in: an unread answer would belong to nobody."""
    numbers = {1: 0, 2: errno.EPERM, 3: errno.EBUSY, 4: 0}
    socket = played(lambda header, body: [acknowledgement(body, numbers.get(header[3], 0))])

    with pytest.raises(KernelError, match="delete link b: Operation not permitted"):
        socket.request([link.delete(name) for name in "abcd"])

    assert 0 == socket.request([link.delete("a")])[0].errno


def test_a_tolerated_error_is_no_failure(played: Play):
    """Gone is what a DEL wants."""
    socket = played(lambda _, body: [acknowledgement(body, errno.ENODEV)])

    assert [errno.ENODEV] == [each.errno for each in socket.request([link.delete("a")])]


def test_the_echo_tells_both_indexes_of_a_veth(played: Play):
    """No look-up is needed where the kernel echoes."""

    def answer(header: Header, body: bytes) -> list[bytes]:
        assert header[1] == link.RTM_NEWLINK
        return [told("veth0", 7, 2, header[3]) + acknowledgement(body)]

    (reply,) = played(answer).request([link.create_veth("veth0", "net1", 3)])

    assert (7, 2) == link.veth_indexes(reply)


def test_a_kernel_without_echo_is_asked_for_the_link(played: Play):
    """Linux before 6.2, as Debian 12 has it, acknowledges a new link and says no more."""

    def answer(header: Header, body: bytes) -> list[bytes]:
        if header[1] == link.RTM_GETLINK:
            return [told("veth0", 7, 2, header[3]), acknowledgement(body)]
        return [acknowledgement(body)]

    (reply,) = played(answer).request([link.create_veth("veth0", "net1", 3)])

    assert (7, 2) == link.veth_indexes(reply)


def dumper(interruptions: int, rounds: list[int]) -> Answer:
    """A kernel whose first so many dumps are interrupted; each has its own number as the link's index."""

    def answer(header: Header, body: bytes) -> list[bytes]:
        rounds.append(header[3])
        flags = NLM_F_MULTI | (NLM_F_DUMP_INTR if len(rounds) <= interruptions else 0)
        done = message(NLMSG_DONE, flags, header[3], struct.pack("=i", 0))
        return [told("a", len(rounds), 0, header[3], flags), told("b", 99, 0, header[3], NLM_F_MULTI), done]

    return answer


def test_an_interrupted_dump_is_repeated_and_only_the_last_one_counts(played: Play):
    """Links came and went meanwhile: some may be missing, some be there twice."""
    rounds: list[int] = []

    found = link.dump(played(dumper(2, rounds)))

    assert [1, 2, 3] == rounds
    assert [(3, "a"), (99, "b")] == [(each.index, each.name) for each in found]


def test_a_dump_that_is_always_interrupted_ends(played: Play):
    """On a busy node the last one is better than none, as the reference plugins hold it."""
    rounds: list[int] = []

    found = link.dump(played(dumper(99, rounds)))

    assert netlink.DUMP_TRIES == len(rounds)
    assert ["a", "b"] == [each.name for each in found]


@pytest.mark.parametrize("interruptions", [0, 1])
def test_of_an_interrupted_list_in_a_batch_nothing_is_believed(played: Play, interruptions: int):
    """An address may be missing there, or one that is gone be in it."""
    own = address.IFADDRMSG.pack(2, 24, 0, 0, 7) + attribute(address.IFA_LOCAL, bytes((10, 0, 0, 1)))

    def answer(header: Header, body: bytes) -> list[bytes]:
        flags = NLM_F_MULTI | (NLM_F_DUMP_INTR if interruptions else 0)
        listed = message(address.RTM_NEWADDR, flags, header[3], own)
        return [listed, message(NLMSG_DONE, NLM_F_MULTI, header[3], struct.pack("=i", 0))]

    (reply,) = played(answer).request([address.list_of(7)])

    is_there = address.are_in(reply, 7, [(ip_address("10.0.0.1"), 24)])
    assert (bool(interruptions), not interruptions) == (reply.is_interrupted, is_there)


def test_a_dump_that_fails_at_its_end_is_told(played: Play):
    """NLMSG_DONE has the error of a dump that broke off."""
    socket = played(
        lambda header, _: [message(NLMSG_DONE, NLM_F_MULTI, header[3], struct.pack("=i", -errno.ENOMEM))]
    )

    with pytest.raises(KernelError, match=r"^list links: Cannot allocate memory$"):
        link.dump(socket)


def test_a_silent_kernel_is_given_up_on(played: Play):
    """A request has a time limit."""
    socket = played(lambda header, _: [], timeout_s=0.2)

    with pytest.raises(KernelError, match="look up link lo: Connection timed out"):
        link.find(socket, "lo")


def gone(index: int, family: int = 0) -> bytes:
    """The announcement that a link is deleted."""
    return message(link.RTM_DELLINK, 0, 0, struct.pack("=BxHiII", family, 1, index, 0, 0))


@pytest.fixture
def hears(mocker) -> list[int]:
    """Memberships that were begun (1) and ended (2); only a netlink socket has them."""
    found: list[int] = []
    mocker.patch.object(Socket, "_set", lambda _, membership: found.append(membership))
    return found


def test_a_deletion_is_over_when_all_links_are_announced_gone(played: Play, hears: list[int]):
    """The acknowledgement comes 20 ms later, and finds nobody waiting."""
    acknowledged = threading.Event()

    def answer(header: Header, body: bytes) -> list[bytes]:
        if header[1] == link.RTM_GETLINK:
            acknowledged.set()
            return [acknowledgement(datagram[0]), told("lo", 1, 0, header[3]), acknowledgement(body)]
        datagram.append(body)
        return [gone(9), gone(7, family=7), gone(8), gone(7)]

    datagram: list[bytes] = []
    socket = played(answer)

    socket.delete_links(link.delete_group(5), (7, 8))

    assert [1, 2] == hears
    assert not acknowledged.is_set()
    found = link.find(socket, "lo")
    assert found is not None
    assert "lo" == found.name


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_deletion_that_is_refused_is_told(played: Play, hears: list[int], number: int):
    """No announcement will come."""
    socket = played(lambda _, body: [acknowledgement(body, number, "no way")])

    with pytest.raises(KernelError, match=r"delete link net1: .*no way"):
        socket.delete_links(link.delete("net1"), (7,))

    assert [1, 2] == hears


@pytest.mark.parametrize("number", [0, errno.ENODEV])
def test_an_acknowledgement_ends_the_waiting(played: Play, hears: list[int], number: int):
    """Somebody else deleted it, or a link of another namespace has moved: it is gone in any case."""
    socket = played(lambda _, body: [acknowledgement(body, number)])

    socket.delete_links(link.delete("net1"), (7,))

    assert [1, 2] == hears


def test_a_deletion_without_announcement_or_answer_is_given_up(played: Play, hears: list[int]):
    """A DEL must not hang; it is tried again."""
    socket = played(lambda *_: [], timeout_s=0.2)

    with pytest.raises(KernelError, match="delete link net1: Connection timed out"):
        socket.delete_links(link.delete("net1"), (7,))

    assert [1, 2] == hears


def test_a_deletion_needs_no_thread_where_there_is_none(played: Play, hears: list[int], mocker):
    """It takes the grace period then."""
    socket = played(lambda _, body: [gone(7), acknowledgement(body)])
    none = RuntimeError("can't start new thread")
    mocker.patch("meta_cni.linux.netlink._thread.start_new_thread", side_effect=none)

    socket.delete_links(link.delete("net1"), (7,))

    assert [1, 2] == hears


def test_what_is_to_be_done_meanwhile_does_not_hold_the_deletion_up(played: Play, hears: list[int], mocker):
    """One thread of Python runs at a time: who computes on does not let a new one in."""
    diary: list[str] = []
    socket = played(lambda *_: [gone(7)])
    send = Socket._send
    mocker.patch.object(Socket, "_send", lambda *given: (diary.append("send"), send(*given))[1])
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(60)

    try:
        socket.delete_links(link.delete("net1"), (7,), lambda: diary.append("meanwhile"))
    finally:
        sys.setswitchinterval(usual_s)

    assert ["send", "meanwhile"] == diary


def test_an_attribute_that_the_codec_does_not_know_is_refused():
    """It would be left out without a word: a key that is accepted and does nothing."""
    unknown = ifinfmsg()
    unknown["attrs"] = [("IFLA_IFNAME", "br0"), ("IFLA_NONSENSE", 1)]

    with pytest.raises(ValueError, match="encode ifinfmsg: unknown attribute IFLA_NONSENSE"):
        netlink.encode(unknown, link.RTM_NEWLINK, 0, 1)


def test_a_nested_attribute_that_the_codec_does_not_know_is_refused():
    """Most of what a kind of link can do is nested twice."""
    unknown = ifinfmsg()
    data = {"attrs": [("IFLA_MACVLAN_MODE", "bridge"), ("IFLA_MACVLAN_NONSENSE", 1)]}
    info = {"attrs": [("IFLA_INFO_KIND", "macvlan"), ("IFLA_INFO_DATA", data)]}
    unknown["attrs"] = [("IFLA_LINKINFO", info)]

    with pytest.raises(ValueError, match="IFLA_MACVLAN_NONSENSE"):
        netlink.encode(unknown, link.RTM_NEWLINK, 0, 1)


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(16), HEADER.pack(4, 2, 0, 1, 0) + bytes(20)])
def test_a_datagram_cut_short_has_no_messages(data: bytes):
    """A length below the header's would never end."""
    assert [] == netlink.split(data)
