"""
/metrics, /healthz and /readyz, for Prometheus and for the kubelet.

A small server beside the one that serves: at most a few connections at once, each for a few seconds
however busy it looks, and nothing but GET and HEAD: a client that holds a place for ever would let
the kubelet believe that nobody is alive. What it asks for is looked up in memory or in a directory;
when that fails, only the answer here does.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from typing import Any

from meta_cni.cni.errors import BadConfig

AT_ONCE = 8
TIMEOUT_S = 5.0
"""For a client to say or to take something."""
CONNECTION_S = 10.0
"""For all that a connection is there for."""
POLL_S = 0.2
DEAF_S = 0.1
"""After a connection for which there was no descriptor."""
RETRY_S = 1.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of the text format of Prometheus
TEXT_TYPE = "text/plain; charset=utf-8"
LOG = logging.getLogger("meta_cni")


@dataclass(frozen=True, slots=True)
class Pages:
    """What is told."""

    metrics: Callable[[], bytes]
    is_alive: Callable[[], bool]
    problems: Callable[[], Sequence[str]]
    """Why no pod should be sent here, a line each; empty when all is well."""

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """(status, content type, content) of one path."""
        if path == "/metrics":
            return 200, METRICS_TYPE, self.metrics()
        if path == "/healthz":
            return (200, TEXT_TYPE, b"ok\n") if self.is_alive() else (503, TEXT_TYPE, b"not serving\n")
        if path == "/readyz":
            problems = self.problems()
            text = "".join(f"{each}\n" for each in problems) or "ok\n"
            return 503 if problems else 200, TEXT_TYPE, text.encode(errors="replace")
        return 404, TEXT_TYPE, b"there are /metrics, /healthz and /readyz\n"


def parse(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets; raises BadConfig."""
    address, _, port = text.rpartition(":")
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        if (ip_address(bare).version == 6) != (bare != address) or not 0 <= int(port) <= 65535:
            raise ValueError
    except ValueError:
        raise BadConfig(
            f"--http {text!r}: expected ADDRESS:PORT, as in 127.0.0.1:9464 or [::1]:9464, or nothing"
        ) from None
    return bare, int(port)


@contextmanager
def serving(listen: str, pages: Pages) -> Iterator[None]:
    """
    Serve while the block runs; raises BadConfig.

    A port that is not free, because the daemon before this one still drains, is waited for: what
    is told here must not keep a node from its pods.
    """
    address, port = parse(listen)
    over = threading.Event()
    thread = threading.Thread(target=_serve, args=(address, port, pages, over), name="http")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _serve(address: str, port: int, pages: Pages, over: threading.Event) -> None:
    is_told = False
    while not over.is_set():
        try:
            server = _Server(address, port, pages)
        except OSError as error:
            if not is_told:
                LOG.error(
                    "serve metrics on %s port %d: %s: it is tried again; --http takes another address",
                    *(address, port, error.strerror),
                )
            is_told = True
            over.wait(RETRY_S)
            continue
        with server:
            while not over.is_set():
                server.handle_request()
                server.expire()


class _Server(ThreadingHTTPServer):
    """Threads for a few connections; more are closed at once."""

    daemon_threads = True
    timeout = POLL_S

    def __init__(self, address: str, port: int, pages: Pages) -> None:
        self.address_family = AF_INET6 if ":" in address else AF_INET
        self.pages = pages
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._open: dict[socket, float] = {}
        """Connections that are served, and when each is given up, by the monotonic clock."""
        super().__init__((address, port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """A connection; without a descriptor for it, it still waits, and is not to be polled for at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(DEAF_S)
            raise

    def expire(self) -> None:
        """Hang up where it takes too long, whatever is sent a byte at a time; the thread sees the end."""
        now = time.monotonic()
        with self._lock:
            for connection, deadline in self._open.items():
                if deadline < now:
                    with suppress(OSError):
                        connection.shutdown(SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """On a thread, when there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread is to be had
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection."""
        with self._lock:
            self._open[request] = time.monotonic() + CONNECTION_S
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request: Any) -> None:
        """Close it, when nobody else would shut down what has its descriptor next."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that went away is nothing to tell of."""
        LOG.debug("a client of /metrics went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    timeout = TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        """A page."""
        try:
            status, kind, content = self.server.pages.answer(self.path.partition("?")[0])
        except Exception as error:
            LOG.exception("a bug in meta-cni")
            status, kind, content = 500, TEXT_TYPE, f"a bug in meta-cni: {error!r}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: somebody asks every few seconds."""
