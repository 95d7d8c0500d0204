"""The official client's transport: imported when the first pods come, and where its requests go."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from meta_cni.k8s import access
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import Kind

AT_ONCE = """
import sys, threading
from meta_cni.k8s import api_store
sys.setswitchinterval(1e-6)
ready, failures = threading.Barrier(8), []
def ask():
    ready.wait()
    try:
        api_store._transport()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=ask) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
print(failures)
"""


def test_many_pods_may_be_the_first():
    """A daemon that has just started met a KeyError for all of them but one."""
    printed = subprocess.run([sys.executable, "-c", AT_ONCE], check=True, capture_output=True, text=True)

    assert "[]\n" == printed.stdout


class Hearing(BaseHTTPRequestHandler):
    """Answers everything with a pod, and keeps what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        document = json.dumps({"kind": "Pod", "metadata": {"name": "p"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)

    def log_message(self, *_: object) -> None:
        """Not to the terminal."""


@contextmanager
def hearing() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Where it serves, and what it was asked."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hearing) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", server.asked
        server.shutdown()


def store_of(tmp_path: Path, **cluster: str) -> ApiStore:
    """The store behind a kubeconfig."""
    kubeconfig = tmp_path / "kubeconfig"
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    kubeconfig.write_text(json.dumps(document))
    return ApiStore(Server(access.of_kubeconfig(kubeconfig)))


def test_a_server_may_stand_below_a_path(tmp_path: Path):
    """Rancher and other gateways have many clusters at one address."""
    with hearing() as (place, asked):
        pod = store_of(tmp_path, server=f"http://{place}/k8s/clusters/c1").get(Kind.POD, "ns", "p")

    ((path, headers),) = asked
    assert "p" == pod["metadata"]["name"]
    assert ("/k8s/clusters/c1/api/v1/namespaces/ns/pods/p", place) == (path, headers["Host"])


def test_a_proxy_that_makes_no_tunnel_is_told_the_whole_address(tmp_path: Path):
    """RFC 9112, section 3.2.2; the server's name stands in it, and who we are to the proxy beside it."""
    with hearing() as (proxy, asked):
        store = store_of(
            tmp_path, server="http://server.example:8080/c1", **{"proxy-url": f"http://me:word@{proxy}"}
        )
        store.get(Kind.POD, "ns", "p")

    ((path, headers),) = asked
    assert "http://server.example:8080/c1/api/v1/namespaces/ns/pods/p" == path
    assert ("server.example:8080", "Basic bWU6d29yZA==") == (headers["Host"], headers["Proxy-Authorization"])
