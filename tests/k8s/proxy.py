"""
A proxy of our own: it does what CONNECT asks for (RFC 9110, section 9.3.6), and keeps what it was asked.

    with ConnectProxy() as proxy:
        ... proxy.url leads there; proxy.asked has the target of each connection
"""

import base64
import select
import socket
import ssl
import threading
from contextlib import ExitStack, suppress

from tests.k8s.certificates import Authority

READ_BYTES = 1 << 16
WAIT_S = 30.0


class ConnectProxy:
    """It serves while the block runs or until stop(), on threads; start() again keeps its port."""

    def __init__(
        self, address: str = "127.0.0.1", *, user: str = "", authority: Authority | None = None
    ) -> None:
        """`user` is USER:PASSWORD, which it wants to hear then; with an authority it speaks TLS."""
        self.address = address
        self.asked: list[str] = []
        """The target of each connection that was let through."""
        self.heads: list[str] = []
        """Everything that it was told, as it came."""
        self.answer = ""
        """In place of a connection, as 503 Service Unavailable."""
        self._expected = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""
        self._context = authority.server_context(address) if authority else None
        self._port = 0
        self._listening: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> "ConnectProxy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self._context else 'http'}://{host}:{self._port}"

    def start(self) -> None:
        """Serve, on the port of the last time if there was one."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listening = socket.create_server((self.address, self._port), family=family, backlog=64)
        self._port = listening.getsockname()[1]
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def stop(self) -> None:
        """Go away, with every connection."""
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            client = self._kept(
                stack, self._context.wrap_socket(accepted, True) if self._context else accepted
            )
            head = _head(client)
            self.heads.append(head)
            target, refusal = self._read(head)
            if refusal:
                client.sendall(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            host, _, port = target.rpartition(":")
            server = self._kept(stack, socket.create_connection((host.strip("[]"), int(port)), WAIT_S))
            self.asked.append(target)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _relay(client, server)

    def _read(self, head: str) -> tuple[str, str]:
        """The target, and why it is not let through."""
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if method != "CONNECT":
            return target, "405 Method Not Allowed"
        if self._expected and told.get("proxy-authorization") != self._expected:
            return target, "407 Proxy Authentication Required"
        return target, self.answer

    def _kept(self, stack: ExitStack, opened: socket.socket) -> socket.socket:
        stack.callback(opened.close)
        with self._lock:
            self._open.add(opened)
        stack.callback(self._forget, opened)
        return opened

    def _forget(self, opened: socket.socket) -> None:
        with self._lock:
            self._open.discard(opened)


def _head(client: socket.socket) -> str:
    """What comes before the empty line; a client sends nothing more before it has an answer."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = client.recv(READ_BYTES)
        if not piece:
            raise ConnectionResetError
        read += piece
    return read.partition(b"\r\n\r\n")[0].decode()


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Until one of them has nothing more to say."""
    other = {client: server, server: client}
    while True:
        is_pending = isinstance(client, ssl.SSLSocket) and client.pending()
        for each in [client] if is_pending else select.select([client, server], [], [])[0]:
            piece = each.recv(READ_BYTES)
            if not piece:
                return
            other[each].sendall(piece)
