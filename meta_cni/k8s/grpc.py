"""
One unary gRPC call to a server on a unix socket (gRPC over HTTP/2, PROTOCOL-HTTP2.md).

By h2, which knows HTTP/2 and does no I/O: 3 MB and no thread, where grpcio takes 18 MB with its
import alone and starts threads of its own. A call has a connection to itself: on a unix socket
that costs less than keeping one alive over restarts of the server. No compression is offered, so
none comes. Everything is bounded: the time of the whole call, and the size of the answer.
"""

import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from meta_cni.cni.errors import TryAgainLater

if TYPE_CHECKING:
    from h2.events import Event

OK, UNKNOWN, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 2, 8, 12  # google.golang.org/grpc/codes
CHUNK = 65536
HEAD = struct.Struct(">?I")
"""Before a message: is it compressed, and how long is it?"""


class NobodyListens(TryAgainLater):
    """The socket is not there, or no server has it open."""


class CallFailed(TryAgainLater):
    """The server answered with a status, or not as it should; `status` is None when there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Answer:
    """What has come so far."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False


def call(path: Path, method: str, request: bytes, timeout_s: float, limit: int) -> bytes:
    """
    The server's answer to one message; `method` is like "/v1.PodResourcesLister/List".

    Raises NobodyListens; CallFailed for everything else, an answer of more than `limit` bytes included.
    """
    deadline = time.monotonic() + timeout_s
    what = f"call {method.rpartition('/')[2]} of {path}"
    with _connected(path, what, timeout_s) as server:
        try:
            answer = _Conversation(server, what, deadline, limit).ask(method, request)
        except TimeoutError:
            raise CallFailed(f"{what}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise CallFailed(f"{what}: {error.strerror}") from None
    return _message(answer, what)


def _connected(path: Path, what: str, timeout_s: float) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    server.settimeout(timeout_s)
    try:
        server.connect(str(path))
    except OSError as error:
        server.close()
        if isinstance(error, BlockingIOError):  # connect(2): EAGAIN
            raise CallFailed(f"{what}: too many callers wait already") from None
        raise NobodyListens(f"{what}: {error.strerror or error}") from None
    return server


class _Conversation:
    """One stream on one connection."""

    def __init__(self, server: socket.socket, what: str, deadline: float, limit: int) -> None:
        from h2.config import H2Configuration  # noqa: PLC0415 - 30 ms and 3 MB, for nodes with devices alone
        from h2.connection import H2Connection  # noqa: PLC0415

        self.server = server
        self.what = what
        self.deadline = deadline
        self.limit = limit
        self.http = H2Connection(H2Configuration(header_encoding="utf-8"))

    def ask(self, method: str, request: bytes) -> _Answer:
        """Send the request, and read until the server has ended the stream."""
        from h2.exceptions import ProtocolError  # noqa: PLC0415

        answer = _Answer()
        try:
            self._send(method, request)
            while not answer.is_complete:
                self.server.settimeout(self._left_s())
                received = self.server.recv(CHUNK)
                if not received:
                    raise CallFailed(f"{self.what}: the server went away before its answer was complete")
                for event in self.http.receive_data(received):
                    self._take(event, answer)
                self.server.sendall(self.http.data_to_send())
        except ProtocolError as error:
            raise CallFailed(f"{self.what}: no HTTP/2: {error}") from None
        self._take_leave()
        return answer

    def _send(self, method: str, request: bytes) -> None:
        self.http.initiate_connection()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "meta-cni"),
            ("grpc-timeout", f"{max(1, int(self._left_s() * 1000))}m"),
        ]
        self.http.send_headers(1, headers)
        self.http.send_data(1, HEAD.pack(False, len(request)) + request, end_stream=True)
        self.server.sendall(self.http.data_to_send())

    def _left_s(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _take(self, event: "Event", answer: _Answer) -> None:
        """What one event adds to the answer."""
        from h2 import events  # noqa: PLC0415

        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            answer.headers.update((str(name), str(value)) for name, value in event.headers or ())
        elif isinstance(event, events.DataReceived):
            answer.body += event.data or b""
            if len(answer.body) > self.limit:
                raise CallFailed(f"{self.what}: an answer of more than {self.limit} bytes")
            self.http.acknowledge_received_data(event.flow_controlled_length or 0, 1)
        elif isinstance(event, events.StreamEnded):
            answer.is_complete = True
        elif isinstance(event, events.StreamReset | events.ConnectionTerminated) and not answer.is_complete:
            raise CallFailed(f"{self.what}: the server broke off (HTTP/2 error {event.error_code})")

    def _take_leave(self) -> None:
        self.http.close_connection()
        with suppress(OSError):
            self.server.sendall(self.http.data_to_send())


def _message(answer: _Answer, what: str) -> bytes:
    """The one message of an answer; raises CallFailed with the server's status when it is not OK."""
    _require_ok(answer.headers, what)
    if len(answer.body) < HEAD.size:
        raise CallFailed(f"{what}: an answer without a message")
    is_compressed, length = HEAD.unpack_from(answer.body)
    if is_compressed or length != len(answer.body) - HEAD.size:
        raise CallFailed(f"{what}: expected one message of {length} bytes, not compressed")
    return bytes(answer.body[HEAD.size :])


def _require_ok(headers: Mapping[str, str], what: str) -> None:
    if headers.get(":status") != "200" or not headers.get("grpc-status", "").isdecimal():
        raise CallFailed(f"{what}: no gRPC: HTTP status {headers.get(':status')}, no grpc-status")
    status = int(headers["grpc-status"])
    if status != OK:
        said = unquote(headers.get("grpc-message", "")) or "without a word"
        raise CallFailed(f"{what}: gRPC status {status}: {said}", status)
