"""
The way to an API server, which can be closed: whoever takes it finds nobody then.

A server that is killed takes ten seconds to come back, and forgets what it had in memory; behind a gate
it goes on, and others may change what it has.
"""

import socket
import threading
from contextlib import suppress

ADDRESS = "127.0.0.1"
BYTES = 1 << 16


class Gate:
    """A port of loopback that leads to another one, while it is open."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server((ADDRESS, 0))
        self.port: int = self._listener.getsockname()[1]
        self._listen()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://{ADDRESS}:{self.port}"

    def close(self) -> None:
        """Nobody comes through, and who has is cut off."""
        with self._lock, suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection; new ones come through."""
        with self._lock:
            for each in self._connections:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._connections.clear()

    def open(self) -> None:
        """As before."""
        self._listener = socket.create_server((ADDRESS, self.port))
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:  # it was closed
                return
            try:
                behind = socket.create_connection((ADDRESS, self._behind))
            except OSError:
                caller.close()
                continue
            with self._lock:
                if listener is not self._listener or listener.fileno() < 0:
                    caller.close()
                    behind.close()
                    return
                self._connections |= {caller, behind}
            for pair in ((caller, behind), (behind, caller)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """Until one of them ends; the other one's pump sees that, too."""
        with suppress(OSError):
            while data := source.recv(BYTES):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connections.discard(source)
        source.close()
