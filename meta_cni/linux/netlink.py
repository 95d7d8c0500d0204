"""
A netlink socket of our own: one datagram for a batch of messages, one answer for each.

The codecs are pyroute2's message classes; its `IPRoute` costs 0.6 to 1.1 ms a call where these
messages cost little over the kernel's time. Sequence numbers, acknowledgements, extended
acknowledgements and interrupted dumps (<linux/netlink.h>) are handled here.
"""

import _thread
import errno
import os
import socket as sockets
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from meta_cni.cni.errors import KernelError
from meta_cni.linux import netns, threads
from meta_cni.linux.pack import PADDING

NETLINK_ROUTE = 0
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP, RTNLGRP_LINK = 1, 2, 1
RTM_DELLINK, AF_UNSPEC = 17, 0  # <linux/rtnetlink.h>, <linux/socket.h>
NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 11, 12  # <linux/netlink.h>
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR = 0x1, 0x4, 0x8, 0x10
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
ENDS = frozenset((NLMSG_ERROR, NLMSG_DONE))
NLMSGERR_ATTR_MSG = 1
HEADER = struct.Struct("=IHHII")
HEADER_BYTES = HEADER.size
CODE = struct.Struct("=i")  # what NLMSG_ERROR and NLMSG_DONE begin with
RECEIVE_BUFFER_BYTES = 1 << 20
DATAGRAM_BYTES = 1 << 16
"""Twice of what the kernel puts into one datagram; much more costs 0.1 ms a call."""
BATCH = 32
"""Messages in a datagram: the answers to 80 questions fill a socket's buffer (net.core.rmem_default)."""
LAST_SEQUENCE = 1 << 31
"""Numbers have 32 bits, and a thread of the daemon keeps its socket: behind this one they begin anew."""
DUMP_TRIES = 5  # as the reference plugins

Header = tuple[int, int, int, int, int]
"""Length, type, flags, sequence and port of a message."""
Message = Any
"""A pyroute2 message (the library has no types), or bytes: a body that was packed by hand."""


@dataclass(slots=True)
class Request:
    """
    One message and how its failure is told; nobody changes one.

    It is not frozen: an ADD has a dozen of them, and to make a frozen one takes three times as long.
    """

    action: str
    """What it does, for error texts: verb and object, or the verb alone where `about` is the object."""
    message: Message
    type: int
    flags: int = 0
    tolerate: frozenset[int] = frozenset()
    """Error numbers that count as success."""
    lookup: "Callable[[], Request] | None" = None
    """Asked when nothing was echoed: before Linux 6.2 the kernel echoes no RTM_NEWLINK."""
    is_question: bool = False
    """Its answer is one message, or an error."""
    is_dump: bool = False
    """A question whose answer is any number of messages; the last one of its batch."""
    about: object = None
    """What takes long to write down, and is written only when something went wrong."""

    def __str__(self) -> str:
        return self.action if self.about is None else f"{self.action} {self.about}"


class Reply:
    """The answer to one message: what the kernel echoed, undecoded, and the error it was tolerated with."""

    errno = 0
    extack = ""
    """What the kernel says of the error."""
    is_complete = False
    """Nothing more will come: it is the answer to a question, or an acknowledgement or error."""
    is_interrupted = False
    """What was listed changed meanwhile: something may be missing, or be there twice."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.echoed: list[bytes] = []

    def take(self, kind: int, flags: int, body: bytes) -> None:
        """Note one received message."""
        if kind in ENDS:
            self.errno, self.extack = _error_of(flags, body)
            self.is_complete = True
        else:
            self.echoed.append(body)
            self.is_complete = self.request.is_question and not self.request.is_dump
        if flags & NLM_F_DUMP_INTR and self.request.is_dump:
            self.is_interrupted = True


class Socket:
    """One NETLINK_ROUTE socket; it is not shared between threads."""

    def __init__(self, raw: sockets.socket, timeout_s: float = 10.0) -> None:
        """The kernel keeps the time: Python's own time-outs are a poll(2) before every call."""
        self._raw = raw
        self._sequence = self._answered = 0
        self._is_strict = False
        self.gone: set[str] = set()
        """Links that were deleted with others by this socket: nobody needs to look for them again."""
        seconds = int(timeout_s)
        pause = struct.pack("@ll", seconds, int((timeout_s - seconds) * 1_000_000))
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVTIMEO, pause)

    @classmethod
    def open_host(cls, timeout_s: float = 10.0) -> "Socket":
        """A socket in the namespace of the calling thread."""
        return cls(_raw_socket(), timeout_s)

    @classmethod
    def of_thread(cls) -> "Socket":
        """One in the namespace of the calling thread, for one request after another; it closes itself."""
        kept = netns.kept()
        if kept is None:
            return cls.open_host()
        found = kept.get("socket")
        if not isinstance(found, Socket) or not found.is_answered:
            if found is not None:
                found.close()
            found = kept["socket"] = cls.open_host()
        return found

    @property
    def is_answered(self) -> bool:
        """Nothing is still to be told: no call was cut off, and no deletion is to be acknowledged."""
        return self._answered == self._sequence

    @classmethod
    def open_in(cls, descriptor: int, timeout_s: float = 10.0) -> "Socket":
        """A socket in the namespace of a descriptor."""
        return cls(netns.visit(descriptor, _raw_socket), timeout_s)

    def __enter__(self) -> "Socket":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._raw.close()

    def request(self, batch: Sequence[Request]) -> list[Reply]:
        """
        Send all messages, BATCH of them in a datagram, and read every answer.

        The kernel goes on after a message that fails; the first failure is raised as KernelError
        when all answers have been read, so the socket stays usable.
        """
        if not batch:
            return []
        replies = self._exchange(batch[:BATCH])
        for start in range(BATCH, len(batch), BATCH):
            replies += self._exchange(batch[start : start + BATCH])
        for reply in replies:
            if reply.errno:
                if reply.errno not in reply.request.tolerate:
                    raise KernelError(str(reply.request), reply.errno, reply.extack)
            elif reply.request.lookup is not None and not reply.echoed:
                reply.echoed = self.request([reply.request.lookup()])[0].echoed
        return replies

    def _exchange(self, batch: Sequence[Request]) -> list[Reply]:
        """
        Send messages as one datagram, and read their answers.

        The kernel takes them in their order and always tells of errors, so only the last one needs
        an acknowledgement, and a question not even then.
        """
        if self._sequence > LAST_SEQUENCE:
            self._sequence = 0
        before = self._sequence
        self._sequence = last = before + len(batch)
        if batch[-1].is_dump:
            self._be_strict()
        self._send(_datagram(batch, before), batch[0])
        replies = {number: Reply(each) for number, each in enumerate(batch, before + 1)}
        final = replies[last]
        while not final.is_complete:
            for header, body in self._receive(batch[0]):
                reply = replies.get(header[3])
                if reply is not None:
                    reply.take(header[1], header[2], body)
        self._answered = last
        return list(replies.values())

    def delete_links(
        self, request: Request, indexes: Iterable[int], meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """
        Send a deletion, and wait until the kernel has announced that each of these links is gone.

        The acknowledgement comes 15 to 25 ms later, after a grace period that nobody needs
        (netdev_run_todo(), net/core/dev.c): the names are free and both ends are out of sight
        when RTM_DELLINK is announced. Sending blocks as long, hence the thread; `meanwhile` is
        called, and `indexes` are gone through, while that is at it.
        """
        self._sequence += 1
        datagram = encode(
            request.message, request.type, request.flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence
        )
        self._raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._set(NETLINK_ADD_MEMBERSHIP)
        try:
            self._send_aside(datagram, request)
            meanwhile()
            self._await_gone(request, set(indexes), self._sequence)
        finally:
            self._set(NETLINK_DROP_MEMBERSHIP)

    def _set(self, membership: int) -> None:
        """Begin or end to hear of the namespace's links."""
        self._raw.setsockopt(SOL_NETLINK, membership, RTNLGRP_LINK)

    def _send_aside(self, datagram: bytes, action: Request) -> None:
        """
        On another thread; here, where there is none to be had.

        Python runs one thread at a time, and the other one would not be let in before its starter waits
        for something: so that waits until it is about to send.
        """
        has_begun = _thread.allocate_lock()
        has_begun.acquire()

        def send() -> None:
            has_begun.release()
            with suppress(KernelError):  # the socket is closed, so nobody waits any more
                self._send(datagram, action)

        try:
            threads.do(send)
        except KernelError:
            self._send(datagram, action)
        else:
            has_begun.acquire()

    def _await_gone(self, request: Request, indexes: set[int], sequence: int) -> None:
        """Until all are announced or the kernel has answered, whichever is first."""
        while indexes:
            for header, body in self._receive(request):
                _, kind, flags, answered, _ = header
                if kind == RTM_DELLINK and body[HEADER_BYTES] == AF_UNSPEC:
                    indexes.discard(_index_of(body))
                elif kind == NLMSG_ERROR and answered == sequence:
                    number, extack = _error_of(flags, body)
                    if number and number not in request.tolerate:
                        raise KernelError(str(request), number, extack)
                    return

    def dump_undecoded(self, message: Message, type_: int, action: str) -> list[bytes]:
        """Every object of a kind, as it came; repeated while the kernel says that it changed meanwhile."""
        found: list[bytes] = []
        for _ in range(DUMP_TRIES):
            (reply,) = self.request([dump_of(message, type_, action)])
            found = reply.echoed
            if not reply.is_interrupted:
                break
        return found

    def _be_strict(self) -> None:
        """Have the kernel filter what it lists."""
        if not self._is_strict:
            self._is_strict = True
            with suppress(OSError):  # an old kernel has less to filter by
                self._raw.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    def _send(self, datagram: bytes | bytearray, action: Request | str) -> None:
        try:
            self._raw.send(datagram)
        except OSError as error:
            raise KernelError(str(action), error.errno or errno.EIO) from None

    def _receive(self, action: Request | str) -> list[tuple[Header, bytes]]:
        try:
            data = self._raw.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            raise KernelError(str(action), errno.ETIMEDOUT) from None
        except OSError as error:
            raise KernelError(str(action), error.errno or errno.EIO) from None
        return split(data)


def dump_of(message: Message, type_: int, action: str) -> Request:
    """Ask for every object of a kind."""
    return Request(action, message, type_, NLM_F_DUMP, is_question=True, is_dump=True)


def _raw_socket() -> sockets.socket:
    kind = sockets.SOCK_RAW | sockets.SOCK_CLOEXEC
    try:
        raw = sockets.socket(sockets.AF_NETLINK, kind, NETLINK_ROUTE)
    except OSError as error:
        raise KernelError("open a netlink socket", error.errno or errno.EIO) from None
    with suppress(OSError):  # an old kernel has shorter texts
        raw.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    return raw


def _datagram(batch: Sequence[Request], sequence: int) -> bytes:
    """Messages one behind the other, with the numbers behind this one; of their flags, see _exchange()."""
    final = batch[-1]
    messages: list[bytes] = []
    for each in batch:
        sequence += 1
        flags = each.flags | NLM_F_REQUEST
        if each is final and not each.is_question:
            flags |= NLM_F_ACK
        messages.append(encode(each.message, each.type, flags, sequence))
    return b"".join(messages)


def encode(message: Message, type_: int, flags: int, sequence: int) -> bytes:
    """
    A message with its netlink header, padded for the next one; bytes are the body, packed already.

    Raises ValueError for an attribute that the codec does not know: it would be left out.
    """
    if isinstance(message, bytes):
        length = HEADER_BYTES + len(message)
        return HEADER.pack(length, type_, flags, sequence, 0) + message + PADDING[length & 3]
    message.reset()
    message["header"]["type"] = type_
    message["header"]["flags"] = flags
    message["header"]["sequence_number"] = sequence
    message.encode()
    lost = next(_lost(message), None)
    if lost is not None:
        raise ValueError(f"encode {type(message).__name__}: unknown attribute {lost}")
    data = bytes(message.data)
    return data + bytes(-len(data) % 4)


def _lost(message: Message) -> Iterator[str]:
    """The attributes that encode() passed over: the others have become slots of encoded ones."""
    from meta_cni.linux.codec import nla_slot  # noqa: PLC0415 - 50 ms to import

    for each in message.get("attrs") or ():
        if not isinstance(each, nla_slot):
            yield each[0]
        elif isinstance(each.cell[1], dict):
            yield from _lost(each.cell[1])


def decode(kind: type[Message], body: bytes) -> Message:
    """One received message, header included."""
    message = kind(body)
    message.decode()
    return message


def split(data: bytes) -> list[tuple[Header, bytes]]:
    """The messages of a datagram, each whole, with its header."""
    size = len(data)
    if size >= HEADER_BYTES:
        header = HEADER.unpack_from(data)
        if header[0] == size:  # it is alone, as a rule
            return [(header, data)]
    messages: list[tuple[Header, bytes]] = []
    offset, end = 0, size - HEADER_BYTES
    while offset <= end:
        header = HEADER.unpack_from(data, offset)
        length = header[0]
        if length < HEADER_BYTES:
            break
        messages.append((header, data[offset : offset + length]))
        offset += length + 3 & ~3
    return messages


def _index_of(body: bytes) -> int:
    """Of the link that a message is about (struct ifinfomsg)."""
    return int(struct.unpack_from("=i", body, HEADER_BYTES + 4)[0])


def _error_of(flags: int, body: bytes) -> tuple[int, str]:
    """The error number (0 for an acknowledgement) and the kernel's own words (NLMSGERR_ATTR_MSG)."""
    (code,) = CODE.unpack_from(body, HEADER_BYTES)
    if not flags & NLM_F_ACK_TLVS:
        return -code, ""
    offset = HEADER_BYTES + 4
    if struct.unpack_from("=H", body, 4)[0] == NLMSG_ERROR:
        (inner,) = struct.unpack_from("=I", body, offset)
        offset += HEADER_BYTES if flags & NLM_F_CAPPED else (inner + 3) & ~3
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            break
        if kind & 0x3FFF == NLMSGERR_ATTR_MSG:
            return -code, body[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return -code, ""


def random_suffix() -> str:
    """Eight hex digits, for names that must not collide."""
    return os.urandom(4).hex()
