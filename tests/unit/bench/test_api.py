"""The small API server answers as far as its clients look."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPSConnection
from typing import Any

import pytest
import trustme

from tests.bench.api import Server

POD = {"kind": "Pod", "metadata": {"name": "p", "namespace": "ours", "annotations": {"a": "1"}}}
PATH = "/api/v1/namespaces/ours/pods/p"


@pytest.fixture
def connection() -> Iterator[HTTPSConnection]:
    """To a server with one pod."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = Server([json.loads(json.dumps(POD))], context)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    client = HTTPSConnection("127.0.0.1", server.server_address[1], context=trusting)
    yield client
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def asked(connection: HTTPSConnection, verb: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    """Status and document."""
    merge = {"Content-Type": "application/merge-patch+json"}
    connection.request(verb, path, json.dumps(body) if body else None, merge if body else {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_a_status_that_is_patched_is_there(connection: HTTPSConnection):
    """Ours reads it again before the next ADD."""
    patch = {"metadata": {"annotations": {"b": "2"}}}

    asked(connection, "PATCH", f"{PATH}/status", patch)

    assert {"a": "1", "b": "2"} == asked(connection, "GET", PATH)[1]["metadata"]["annotations"]


def test_lists_and_what_is_not_there(connection: HTTPSConnection):
    """Informers begin with a list; a pod that is missing is 404."""
    status, found = asked(connection, "GET", "/api/v1/pods")

    assert (200, "PodList", ["p"]) == (
        status,
        found["kind"],
        [each["metadata"]["name"] for each in found["items"]],
    )
    assert 404 == asked(connection, "GET", "/api/v1/namespaces/ours/pods/q")[0]


def test_an_event_is_taken(connection: HTTPSConnection):
    """Multus sends several for each pod."""
    assert 201 == asked(connection, "POST", "/api/v1/namespaces/ours/events", {"x": 1})[0]
