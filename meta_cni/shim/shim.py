#!/usr/bin/python3
"""
shim.c in Python, for a node whose daemon was installed without a compiler at hand.

It does the same and prints the same; tests run both. The standard library alone: it is copied to
the runtime's plugin directory as it is. Starting Python makes it fifteen times as slow.
"""

import errno
import os
import re
import socket
import sys
import time
from contextlib import suppress

SOCKET = "/run/meta-cni/meta-cni.sock"
SPOOL = "/var/lib/meta-cni/spool"
WAIT_S = 300
"""The daemon itself answers within 240: Limits.answer_s of daemon/server.py."""
PROTOCOL = "meta-cni 1"
ANSWER = re.compile(rb"meta-cni 1 answer ([0-9]{1,3}) ([0-9]{1,8})\n")
LONGEST_STDIN = 16 << 20
LONGEST_ANSWER = 64 << 20
TRY_AGAIN_LATER, NOT_AVAILABLE, IO_FAILURE = 11, 50, 5
SENT = (b"CNI_", b"META_CNI_", b"PATH=", b"TRACEPARENT=", b"TRACESTATE=", b"BAGGAGE=")
VERSIONS = (
    '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
)


class OtherProtocol(Exception):
    """The daemon is of another version."""


def main() -> int:
    """Serve one call; returns the exit code."""
    command = os.environ.get("CNI_COMMAND", "")
    path = os.environ.get("META_CNI_SOCKET") or SOCKET
    if command == "VERSION":
        return _print(VERSIONS.encode())
    try:
        request = _frame(sys.stdin.buffer.read(LONGEST_STDIN + 1))
    except OSError as error:
        return _fail(IO_FAILURE, "read standard input", error)
    try:
        printed, code = _ask(path, request)
    except OtherProtocol:
        told = "install shim and daemon of one version"
        what = f'talk to a daemon that does not speak \\"{PROTOCOL}\\", {told}: {path}'
        return _fail(IO_FAILURE, what, OSError(errno.EPROTO, os.strerror(errno.EPROTO)))
    except OSError as error:
        if command == "DEL":
            return _spool(request)
        wanted = NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN_LATER
        is_silent = isinstance(error, TimeoutError)
        told = "does not answer" if is_silent else "is not there"
        reason = OSError(errno.EAGAIN, "") if is_silent else error
        return _fail(wanted, f"the meta-cni daemon {told}, try again later: {path}", reason)
    return _print(printed) or code


def _print(data: bytes) -> int:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def _fail(code: int, what: str, error: OSError) -> int:
    """One CNI error object; what is in it needs no escaping."""
    text = f'{{"cniVersion":"1.1.0","code":{code},"msg":"{what}: {os.strerror(error.errno or 0)}"}}\n'
    _print(text.encode())
    return 1


def _frame(stdin: bytes) -> bytes:
    if len(stdin) > LONGEST_STDIN:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    entries = (key + b"=" + value + b"\0" for key, value in os.environb.items())
    variables = b"".join(each for each in entries if each.startswith(SENT))
    return f"{PROTOCOL} request {len(variables)} {len(stdin)}\n".encode() + variables + stdin


def _ask(path: str, request: bytes) -> tuple[bytes, int]:
    """What the daemon answers; raises OSError when there is none, or it goes away or is stopped."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.setblocking(False)
        daemon.connect(path)
        daemon.settimeout(int(os.environ.get("META_CNI_TIMEOUT") or WAIT_S))
        with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may be there all the same
            daemon.sendall(request)
            daemon.shutdown(socket.SHUT_WR)
        data = _answer(daemon)
    head, newline, printed = bytes(data).partition(b"\n")
    found = ANSWER.fullmatch(head + newline)
    if found is None and newline:
        raise OtherProtocol
    if found is None or len(printed) != int(found[2]):
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return printed, int(found[1])


def _answer(daemon: socket.socket) -> bytearray:
    """All that comes; one that hangs up before it has read all of the request may have answered."""
    data = bytearray()
    try:
        while got := daemon.recv(1 << 16):
            data += got
            if len(data) > LONGEST_ANSWER:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    except ConnectionResetError:
        if not data:
            raise
    return data


def _spool(request: bytes) -> int:
    """Keep a DEL for the daemon: written beside, synced, renamed, so that it is whole or not there."""
    directory = os.environ.get("META_CNI_SPOOL") or SPOOL
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    path = f"{directory}/{seconds:020d}{nanoseconds:09d}-{os.getpid()}.request"
    try:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        _write(path + ".new", request)
        os.rename(path + ".new", path)
        _sync(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path + ".new")
        return _fail(IO_FAILURE, f"spool DEL in {directory}", error)
    return 0


def _write(path: str, data: bytes) -> None:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
