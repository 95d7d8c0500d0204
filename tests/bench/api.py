"""
A small API server for everybody who is measured: pods and networks are read, statuses are written.

    python -m tests.bench.api DIRECTORY

It is a process of its own, so that it takes nobody's time but that of the machine. In the directory
it finds `objects.json`, and puts there what its clients need: `ca.crt`, `kubeconfig`, and `port`
when it serves. It speaks TLS, waits as long as `/latency?ms=` was told, and looks into no body but
a merge patch: Multus sends its statuses as protobuf, and they change nothing that is measured.
"""

import json
import queue
import ssl
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = {"pods": ("v1", "Pod"), "network-attachment-definitions": ("k8s.cni.cncf.io/v1", None)}
NETWORK = "NetworkAttachmentDefinition"
TOKEN = "bench"
WATCH_S = 3600.0


class Server(ThreadingHTTPServer):
    """Objects, watches, and how slow it is."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, objects: list[dict[str, Any]], context: ssl.SSLContext) -> None:
        self.context = context
        self.latency_s = 0.0
        self.asked: Counter[str] = Counter()
        self.version = 1
        self.lock = threading.Lock()
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.watches: list[tuple[str, queue.SimpleQueue[dict[str, Any]]]] = []
        for each in objects:
            metadata = each["metadata"]
            metadata["resourceVersion"] = "1"
            plural = "pods" if each["kind"] == "Pod" else "network-attachment-definitions"
            self.objects[plural, metadata["namespace"], metadata["name"]] = each
        super().__init__(("127.0.0.1", 0), Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread, which closes it: else it is open until garbage is collected."""
        with self.context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has ended says nothing."""

    def patched(self, place: tuple[str, str, str], patch: dict[str, Any]) -> dict[str, Any]:
        """An object with other annotations; who watches is told."""
        with self.lock:
            self.version += 1
            found = self.objects[place]
            metadata = {**found["metadata"], "resourceVersion": str(self.version)}
            metadata["annotations"] = {
                **metadata.get("annotations", {}),
                **patch.get("metadata", {}).get("annotations", {}),
            }
            self.objects[place] = {**found, "metadata": metadata}
            for plural, news in self.watches:
                if plural == place[0]:
                    news.put({"type": "MODIFIED", "object": self.objects[place]})
            return self.objects[place]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    server: Server

    def do_GET(self) -> None:
        """Every method."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        words = parts.path.strip("/").split("/")
        if words == ["latency"]:
            self.server.latency_s = float(query["ms"]) / 1000
            self._answer(200, {"asked": dict(self.server.asked)})
            return
        words = words[2:] if words[0] == "api" else words[3:]
        namespace = words.pop(1) if words[:1] == ["namespaces"] and len(words) > 2 else ""
        plural, name = (*(words[1:] if namespace else words), "", "")[:2]
        self.server.asked[f"{self.command} {plural}"] += 1
        if query.get("watch") in ("true", "1"):
            self._watch(plural, query)
            return
        if self.server.latency_s:
            time.sleep(self.server.latency_s)
        if plural not in KINDS:
            self._answer(201, {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}})
        elif not name:
            self._list(plural)
        else:
            self._one((plural, namespace, name), content)

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    def _one(self, place: tuple[str, str, str], content: bytes) -> None:
        found = self.server.objects.get(place)
        if found is None:
            self._refuse(404, "NotFound", f"{place[0]} {place[2]} not found")
            return
        is_merge = self.command == "PATCH" and "merge-patch" in self.headers.get("Content-Type", "")
        self._answer(200, self.server.patched(place, json.loads(content)) if is_merge else found)

    def _list(self, plural: str) -> None:
        version, kind = KINDS[plural]
        items = [each for key, each in self.server.objects.items() if key[0] == plural]
        metadata = {"resourceVersion": str(self.server.version)}
        about = {"apiVersion": version, "kind": f"{kind or NETWORK}List", "metadata": metadata}
        self._answer(200, {**about, "items": items})

    def _watch(self, plural: str, query: dict[str, str]) -> None:
        if "sendInitialEvents" in query:  # those who ask for it can do without
            self._refuse(422, "Invalid", "sendInitialEvents")
            return
        news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self.server.lock:
            self.server.watches.append((plural, news))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while True:
            line = json.dumps(news.get(timeout=WATCH_S)).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()

    def _refuse(self, code: int, reason: str, message: str) -> None:
        about = {"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure"}
        self._answer(code, {**about, "reason": reason, "message": message, "code": code})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


def main() -> None:
    """Serve until killed."""
    import trustme

    directory = Path(sys.argv[1])
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = Server(json.loads((directory / "objects.json").read_text()), context)
    url = f"https://127.0.0.1:{server.server_address[1]}"
    cluster = {"server": url, "certificate-authority": str(directory / "ca.crt")}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": {"token": TOKEN}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    (directory / "kubeconfig").write_text(json.dumps(kubeconfig))  # which is YAML, too
    (directory / "port").write_text(str(server.server_address[1]))
    server.serve_forever()


if __name__ == "__main__":
    main()
