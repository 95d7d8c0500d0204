"""/metrics, /healthz and /readyz, and clients that mean no good."""

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import BadConfig
from meta_cni.daemon import http
from meta_cni.daemon.http import Pages

WAIT_S = 60


class Told:
    """What is told, and may be changed."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.is_alive = True
        self.error: Exception | None = None

    def metrics(self) -> bytes:
        if self.error is not None:
            raise self.error
        return b"a 1.0\n"

    @property
    def pages(self) -> Pages:
        return Pages(self.metrics, lambda: self.is_alive, lambda: self.problems)


def free_port(family: int = socket.AF_INET, address: str = "127.0.0.1") -> int:
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


Serve = Callable[..., int]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def port(told: Told) -> Iterator[int]:
    """Of a server that runs."""
    number = free_port()
    with http.serving(f"127.0.0.1:{number}", told.pages):
        until_served(number)
        yield number


def until_served(number: int, address: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection((address, number)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def asked(number: int, path: str, method: str = "GET", address: str = "127.0.0.1") -> tuple[int, str]:
    connection = HTTPConnection(address, number, timeout=WAIT_S)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_each_page_tells_its_part(port: int, told: Told):
    """The kubelet looks at the status, people at the text."""
    assert (200, "a 1.0\n") == asked(port, "/metrics?x=1")
    assert (200, "ok\n") == asked(port, "/healthz")
    assert (200, "ok\n") == asked(port, "/readyz")
    assert 404 == asked(port, "/")[0]
    told.problems = ["starting", "the queue is full"]
    told.is_alive = False
    assert (503, "starting\nthe queue is full\n") == asked(port, "/readyz")
    assert (503, "not serving\n") == asked(port, "/healthz")


def test_head_has_no_content_and_nothing_else_is_served(port: int):
    """Nobody can post anything."""
    assert (200, "") == asked(port, "/metrics", "HEAD")
    assert 501 == asked(port, "/metrics", "POST")[0]


def test_a_scrape_that_fails_is_an_answer_and_the_next_is_served(port: int, told: Told):
    """A bug here must not touch anything else."""
    told.error = ZeroDivisionError("oops")
    assert 500 == asked(port, "/metrics")[0]
    told.error = None

    assert 200 == asked(port, "/metrics")[0]


@pytest.mark.slow
def test_slow_clients_hold_nobody_up(port: int, mocker: MockerFixture):
    """All places taken by clients that say nothing are free again after a time-out."""
    mocker.patch.object(http._Handler, "timeout", 0.3)
    with ExitStack() as stack:
        for _ in range(3 * http.AT_ONCE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                assert 200 == asked(port, "/healthz")[0]
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_connection_that_no_thread_is_to_be_had_for_costs_no_place(
    port: int, caplog: pytest.LogCaptureFixture, mocker: MockerFixture
):
    """More often than there are places; then there are threads again."""
    start = mocker.patch("socketserver.threading.Thread.start", side_effect=RuntimeError("no more threads"))
    for _ in range(2 * http.AT_ONCE):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(WAIT_S)
            assert b"" == client.recv(1)
    mocker.stop(start)

    assert (200, "ok\n") == asked(port, "/healthz")


def test_clients_that_send_a_byte_now_and_then_are_given_up(port: int, mocker: MockerFixture):
    """Each byte is in time; all places taken like that would look to the kubelet as if nobody were alive."""
    mocker.patch.object(http, "CONNECTION_S", 0.5)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(http.AT_ONCE)
        ]
        deadline = time.monotonic() + WAIT_S
        while True:
            for each in clients:
                with suppress(OSError):
                    each.send(b"G")
            try:
                assert 200 == asked(port, "/healthz")[0]
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_without_descriptors_nothing_is_polled_for_all_the_time(port: int, mocker: MockerFixture):
    """The connection that cannot be accepted stays, and would be seen again at once, for ever."""
    refuse = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    accept = mocker.patch.object(http.ThreadingHTTPServer, "get_request", side_effect=refuse)

    with socket.create_connection(("127.0.0.1", port)):
        deadline = time.monotonic() + WAIT_S
        while not accept.call_count:
            assert time.monotonic() < deadline
        began_s = time.monotonic()
        time.sleep(3 * http.DEAF_S)
        tries = accept.call_count
        most = 7 + (time.monotonic() - began_s) / http.DEAF_S
        mocker.stop(accept)

    assert tries < most
    assert 200 == asked(port, "/healthz")[0]


def test_a_port_that_is_taken_is_told_and_waited_for(
    told: Told, caplog: pytest.LogCaptureFixture, mocker: MockerFixture
):
    """The daemon before this one drains; a node must not be without one for the sake of metrics."""
    mocker.patch.object(http, "RETRY_S", 0.02)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = int(taken.getsockname()[1])
        with caplog.at_level(logging.ERROR), http.serving(f"127.0.0.1:{number}", told.pages):
            deadline = time.monotonic() + WAIT_S
            while not caplog.records:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            taken.close()
            until_served(number)

            assert 200 == asked(number, "/healthz")[0]

    expected = (
        f"serve metrics on 127.0.0.1 port {number}: Address already in use: it is tried again; "
        "--http takes another address"
    )
    assert [expected] == [each.message for each in caplog.records]


def test_ipv6_is_served(told: Told):
    """In brackets, as in every URL."""
    number = free_port(socket.AF_INET6, "::1")
    with http.serving(f"[::1]:{number}", told.pages):
        until_served(number, "::1")

        assert 200 == asked(number, "/healthz", address="::1")[0]


@pytest.mark.parametrize(
    "text", ["9464", ":9464", "localhost:1", "::1:9464", "[::1]", "127.0.0.1:x", "1.2.3.4:70000"]
)
def test_what_is_no_address_and_port_is_refused(text: str):
    """Before anything is served."""
    with pytest.raises(BadConfig, match=r"expected ADDRESS:PORT, as in 127\.0\.0\.1:9464"):
        http.parse(text)
