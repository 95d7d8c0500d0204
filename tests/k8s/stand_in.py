"""
An API server of our own, small and honest: what Kubernetes' does with the objects we read and write.

It has what clients stumble over: resource versions, UIDs, conflicts, selectors, lists in pages, watches
with bookmarks that end with 410 when they ask for too old a version, the status subresource, merge
patches, graceful deletion, TLS, bearer tokens. And it can be told to be slow, to fail, to refuse, and to
go away. The tests beside this run on the real one too, so that it stays honest.

    with StandIn(latency_s=0.005) as server:
        server.put(Kind.POD, {"metadata": {"name": "p", "namespace": "ns"}})
        kubeconfig = server.write_kubeconfig(directory / "kubeconfig")
        ... server.requests tells what was asked
"""

import base64
import copy
import http.client
import itertools
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from meta_cni.k8s.store import Kind, Resource, Selector, merge_patch
from tests.k8s import protobuf
from tests.k8s.certificates import Authority

Object = dict[str, Any]
RESOURCES = {(each.value.group, each.value.version, each.value.plural): each.value for each in Kind}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")  # DNS-1123 subdomain
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
OWN = ("uid", "creationTimestamp", "name", "namespace", "resourceVersion")
"""What nobody but the server writes."""
GRACE_S = 30
BOOKMARK_S = 0.5
"""The real one sends them about once a minute."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that came."""

    verb: str
    resource: str
    """With its subresource, as a role names it."""
    name: str
    """namespace/name, as far as the request names them."""
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is answered instead; `status` 0 is a connection that is closed without an answer."""

    status: int
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One write: what was, and what is; None where there was or is nothing."""

    version: int
    resource: Resource
    before: Object | None
    after: Object | None


class Refusal(Exception):
    """An answer that is a Status; `details` is what it is about, by details_of()."""

    def __init__(self, code: int, message: str, reason: str = "", details: Object | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason or REASONS.get(code, "")
        self.details = details

    def status(self) -> Object:
        """As the API server tells it."""
        details = {} if self.details is None else {"details": self.details}
        about = {"message": self.message, "reason": self.reason, "code": self.code}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", **about, **details}


def details_of(resource: Resource, name: str = "", kind: str = "") -> Object:
    """A Status's details of an object, or of all of a kind; the empty ones are left out."""
    told = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: text for key, text in told.items() if text}


def invalid(resource: Resource, name: str, field: str, text: str, kind: str = "") -> Refusal:
    """One field is wrong; nearly all that refuse say the kind, one says the plural."""
    kind = kind or resource.kind
    whole = f"{kind}.{resource.group}" if resource.group else kind
    cause = {"reason": "FieldValueInvalid", "message": text, "field": field}
    details = {**details_of(resource, name, kind), "causes": [cause]}
    return Refusal(422, f'{whole} "{name}" is invalid: {field}: {text}', details=details)


class Objects:
    """What the server knows, and every change to it."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.known: dict[tuple[str, str, str], Object] = {}
        """(plural, namespace, name) -> object."""
        self.history: list[Change] = []
        self.version = 1
        self.oldest = 1
        """The changes since this version are known."""

    def compact(self) -> None:
        """Forget every change so far, as etcd does after five minutes."""
        with self.changed:
            self.history.clear()
            self.oldest = self.version

    def find(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object."""
        found = self.known.get((resource.plural, namespace, name))
        if found is None:
            raise Refusal(404, f'{_of(resource)} "{name}" not found', details=details_of(resource, name))
        return found

    def every(self, resource: Resource, namespace: str, selector: Selector) -> list[Object]:
        """Those of a namespace, or of all, by name."""
        keys = sorted(key for key in self.known if key[0] == resource.plural and namespace in ("", key[1]))
        return [self.known[key] for key in keys if selector.matches(self.known[key])]

    def create(self, resource: Resource, namespace: str, document: Object) -> Object:
        """Add an object, with what the server gives it."""
        with self.changed:
            made = copy.deepcopy(document)
            metadata = made.setdefault("metadata", {})
            if not metadata.get("name") and metadata.get("generateName"):
                metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
            name = str(metadata.get("name") or "")
            if not NAME.fullmatch(name):
                text = f'Invalid value: "{name}": a lowercase RFC 1123 subdomain'
                raise invalid(resource, name, "metadata.name", text)
            if (resource.plural, namespace, name) in self.known:
                text = f'{_of(resource)} "{name}" already exists'
                raise Refusal(409, text, "AlreadyExists", details_of(resource, name))
            if resource.is_namespaced:
                metadata["namespace"] = namespace
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            made.update(apiVersion=resource.api_version, kind=resource.kind)
            if resource is Kind.POD.value:
                made.setdefault("status", {}).setdefault("phase", "Pending")
            return self._write(resource, None, made)

    def write(
        self, resource: Resource, namespace: str, name: str, change: Callable[[Object], Object], part: str
    ) -> Object:
        """Replace or patch an object, or its status alone; unchanged, it keeps its version."""
        with self.changed:
            before = self.find(resource, namespace, name)
            wanted = change(copy.deepcopy(before))
            given = wanted.get("metadata") or {}
            _require_current(resource, name, given, before["metadata"])
            kept = ("uid", "creationTimestamp", "name", "namespace", "resourceVersion")
            metadata = {
                **given,
                **{key: before["metadata"][key] for key in kept if key in before["metadata"]},
            }
            after = {
                **wanted,
                "metadata": metadata,
                "kind": before["kind"],
                "apiVersion": before["apiVersion"],
            }
            if resource is Kind.POD.value:  # podStatusStrategy and podStrategy of Kubernetes' registry
                kept_part = "spec" if part == "status" else "status"
                after = {key: value for key, value in after.items() if key != kept_part}
                after.update({kept_part: before[kept_part]} if kept_part in before else {})
            if "annotations" in metadata and not metadata["annotations"]:
                del metadata["annotations"]
            return before if after == before else self._write(resource, before, after)

    def delete(self, resource: Resource, namespace: str, name: str, grace_s: int | None) -> Object:
        """Remove an object; a pod on a node is only marked, until its kubelet has stopped it."""
        with self.changed:
            before = self.find(resource, namespace, name)
            is_running = resource is Kind.POD.value and (before.get("spec") or {}).get("nodeName")
            if is_running and grace_s != 0:
                grace_s = GRACE_S if grace_s is None else grace_s
                times = {
                    "deletionTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "deletionGracePeriodSeconds": grace_s,
                }
                if "deletionTimestamp" in before["metadata"]:
                    return before
                return self._write(resource, before, {**before, "metadata": {**before["metadata"], **times}})
            self._write(resource, before, None)
            return before

    def _write(self, resource: Resource, before: Object | None, after: Object | None) -> Object:
        self.version += 1
        told = after or before
        assert told is not None
        metadata = {**told["metadata"], "resourceVersion": str(self.version)}
        told = {**told, "metadata": metadata}
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        if after is None:
            del self.known[key]
            self.history.append(Change(self.version, resource, told, None))
        else:
            self.known[key] = told
            self.history.append(Change(self.version, resource, before, told))
        self.changed.notify_all()
        return told


def _of(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _require_current(resource: Resource, name: str, given: Mapping[str, Any], known: Object) -> None:
    start = f'Operation cannot be fulfilled on {_of(resource)} "{name}": '
    if given.get("uid") not in (None, "", known["uid"]):
        raise invalid(resource, name, "metadata.uid", f'Invalid value: "{given["uid"]}": field is immutable')
    if given.get("resourceVersion") not in (None, "", known["resourceVersion"]):
        text = "the object has been modified; please apply your changes to the latest version and try again"
        raise Refusal(409, start + text, details=details_of(resource, name))


class StandIn:
    """The server; it serves on loopback, on threads, while the block runs or until stop()."""

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        is_tls: bool = False,
        address: str = "127.0.0.1",
        name: str = "",
        token: str = "secret",
    ) -> None:
        """`name` is what its certificate is for, its address by default."""
        self.latency_s = latency_s
        self.objects = Objects()
        self.tokens = {token: "system:serviceaccount:kube-system:meta-cni"}
        """Who each token stands for."""
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, resource) that a role does not allow."""
        self.has_read_roles = True
        """Until then everything is forbidden, as while the real one starts."""
        self.readiness = 200
        """What /readyz answers, when it may."""
        self.requests: list[Asked] = []
        self.address = address
        self.name = name or address
        self.authority = Authority() if is_tls else None
        self._faults: list[tuple[Fault, str]] = []
        self._lock = threading.Lock()
        self._port = 0
        self._http: _Http | None = None

    def __enter__(self) -> "StandIn":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.authority else 'http'}://{host}:{self._port}"

    def start(self) -> None:
        """Serve, on the port of the last time if there was one, and with the same objects."""
        self._http = _Http(self, self._port)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away, with every connection."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.hang_up()
            self._http = None

    @property
    def watches(self) -> int:
        """How many are going on."""
        assert self._http is not None
        with self._http.lock:
            return sum(self._http.connections.values())

    def cut_watches(self) -> None:
        """Close every connection with a watch."""
        assert self._http is not None
        self._http.hang_up(is_watch=True)

    def fail(self, status: int, times: int = 1, *, verb: str = "", retry_after_s: int | None = None) -> None:
        """Answer the next requests so; status 0 closes their connections."""
        with self._lock:
            self._faults += [(Fault(status, retry_after_s), verb)] * times

    def fault(self, verb: str) -> Fault | None:
        """What this request is to be answered with instead."""
        with self._lock:
            for index, (fault, wanted) in enumerate(self._faults):
                if wanted in ("", verb):
                    del self._faults[index]
                    return fault
        return None

    def asked(self, verb: str = "") -> list[Asked]:
        """The requests of a verb so far, or all of them."""
        return [each for each in list(self.requests) if verb in ("", each.verb)]

    def put(self, kind: Kind, document: Object) -> Object:
        """An object, as if somebody else had created it, or replaced it."""
        metadata = document["metadata"]
        namespace = metadata.get("namespace") or ("default" if kind.value.is_namespaced else "")
        key = (kind.value.plural, namespace, metadata["name"])
        with self.objects.changed:
            if key not in self.objects.known:
                return self.objects.create(kind.value, namespace, document)
            return self.objects.write(kind.value, *key[1:], lambda _: copy.deepcopy(document), "")

    def ask(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> tuple[int, Object]:
        """One request, without TLS: the status code and the answer."""
        connection = http.client.HTTPConnection(self.address, self._port, timeout=30)
        try:
            headers = {"Content-Type": content_type, "Authorization": f"Bearer {next(iter(self.tokens))}"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def write_kubeconfig(self, path: Path, **user: Any) -> Path:
        """A kubeconfig for it; the first token, unless a user is given in kubectl's words."""
        cluster: dict[str, Any] = {"server": self.url}
        if self.authority is not None:
            text = base64.b64encode(self.authority.certificate.encode()).decode()
            cluster["certificate-authority-data"] = text
        return write_kubeconfig(path, cluster, user or {"token": next(iter(self.tokens))})


def write_kubeconfig(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Path:
    """A kubeconfig with one context."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": dict(cluster)}],
        "users": [{"name": "us", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "here", "user": "us"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    return path


class _Http(ThreadingHTTPServer):
    """Threads that answer, and the connections they have."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, stand_in: StandIn, port: int) -> None:
        self.stand_in = stand_in
        self.address_family = socket.AF_INET6 if ":" in stand_in.address else socket.AF_INET
        self.context = stand_in.authority.server_context(stand_in.name) if stand_in.authority else None
        self.connections: dict[socket.socket, bool] = {}
        """Whether there is a watch on it."""
        self.lock = threading.Lock()
        super().__init__((stand_in.address, port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake is on the connection's own thread."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        with self.lock:
            self.connections[request] = False
        try:
            super().finish_request(request, client_address)
        finally:
            with self.lock:
                self.connections.pop(request, None)
            if self.context is not None:
                request.close()

    def hang_up(self, *, is_watch: bool = False) -> None:
        """Close the connections, or those with a watch."""
        with self.lock:
            chosen = [each for each, watches in self.connections.items() if watches or not is_watch]
        for each in chosen:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to tell of."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def role(self) -> str:
        """As a role names it."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


def target_of(path: str) -> Target:
    """Read a path; raises Refusal without a name where there is no such resource."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    group, rest = ("", parts[1:]) if parts[0] == "api" else ("/".join(parts[1:2]), parts[2:])
    namespace = ""
    version, rest = (rest[0], rest[1:]) if rest else ("", [])
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource = RESOURCES.get((group, version, rest[0])) if rest else None
    if resource is None or len(rest) > 3:
        raise Refusal(404, "the server could not find the requested resource")
    name, subresource = (*rest[1:], "", "")[:2]
    if subresource not in ("", "status"):
        raise Refusal(404, "the server could not find the requested resource")
    return Target(resource, namespace, name, subresource)


def _selector(query: Mapping[str, str]) -> Selector:
    def read(text: str) -> dict[str, str]:
        pairs = (part.split("=", 1) for part in text.split(",") if part)
        return {key.rstrip("="): value.lstrip("=") for key, value in pairs}

    return Selector(read(query.get("fieldSelector", "")), read(query.get("labelSelector", "")))


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    server: _Http

    def do_GET(self) -> None:
        """Every method."""
        stand_in = self.server.stand_in
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if stand_in.latency_s:
            time.sleep(stand_in.latency_s)
        try:
            self._serve(stand_in, self._body(content))
        except Refusal as refusal:
            self._answer(refusal.code, refusal.status())

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _body(self, content: bytes) -> Any:
        """Protobuf is what Go's client writes pods and events in; it has been read as far as we need."""
        if self.headers.get("Content-Type") != protobuf.CONTENT_TYPE:
            return json.loads(content) if content else None
        return protobuf.decode("Event" if self.command == "POST" else "Pod", content)

    def _serve(self, stand_in: StandIn, body: Any) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        user = stand_in.tokens.get(token)
        if user is None:
            raise Refusal(401, "Unauthorized")
        if parts.path == "/readyz":
            self._readyz(stand_in, user)
            return
        target = target_of(parts.path)
        verb = VERBS.get(self.command) or ("get" if target.name else "list")
        verb = "watch" if verb == "list" and query.get("watch") in ("true", "1") else verb
        name = "/".join(part for part in (target.namespace, target.name) if part)
        stand_in.requests.append(Asked(verb, target.role, name, body, query))
        fault = stand_in.fault(verb)
        if fault is not None and not fault.status:
            self.close_connection = True
            return
        if fault is not None:
            self._answer(fault.status, Refusal(fault.status, "a fault").status(), fault.retry_after_s)
            return
        if not stand_in.has_read_roles or (verb, target.role) in stand_in.forbidden:
            raise _forbidden(verb, target, user)
        getattr(self, f"_{verb}")(stand_in.objects, target, query, body)

    def _readyz(self, stand_in: StandIn, user: str) -> None:
        if not stand_in.has_read_roles or ("get", "/readyz") in stand_in.forbidden:
            text = f'forbidden: User "{user}" cannot get path "/readyz"'
            raise Refusal(403, text, details={})
        self._answer(stand_in.readiness, "ok" if stand_in.readiness == 200 else "not ready")

    def _get(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        with objects.changed:
            self._answer(200, objects.find(target.resource, target.namespace, target.name))

    def _list(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        """`continue` has the version of the whole, and how many there were; what is at hand is whole."""
        start = 0
        with objects.changed:
            version = objects.version
            if "continue" in query:
                version, start = (int(each) for each in query["continue"].split("."))
                if version < objects.oldest:
                    raise Refusal(410, "The provided continue parameter is too old", "Expired")
            found = objects.every(target.resource, target.namespace, _selector(query))
        is_at_hand = query.get("resourceVersion") == "0"
        limit = len(found) if is_at_hand else int(query.get("limit") or 0) or len(found)
        metadata: Object = {"resourceVersion": str(version)}
        if start + limit < len(found):
            metadata["continue"] = f"{version}.{start + limit}"
        page = [
            {key: value for key, value in each.items() if key not in ("kind", "apiVersion")}
            for each in found[start : start + limit]
        ]
        resource = target.resource
        about = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        self._answer(200, {**about, "metadata": metadata, "items": page})

    def _create(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        self._answer(201, objects.create(target.resource, target.namespace, body))

    def _update(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        if target.resource.group and not (body.get("metadata") or {}).get("resourceVersion"):
            text = "Invalid value: 0: must be specified for an update"
            resource = target.resource
            raise invalid(resource, target.name, "metadata.resourceVersion", text, resource.plural)
        is_whole = self.headers.get("Content-Type") != protobuf.CONTENT_TYPE
        change = (lambda _: body) if is_whole else (lambda known: merge_patch(known, body))
        self._answer(200, self._written(objects, target, change))

    def _patch(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        if self.headers.get("Content-Type") != "application/merge-patch+json":
            raise Refusal(415, "415: Unsupported Media Type", details={})
        self._answer(200, self._written(objects, target, lambda known: merge_patch(known, body)))

    def _written(self, objects: Objects, target: Target, change: Callable[[Object], Object]) -> Object:
        return objects.write(target.resource, target.namespace, target.name, change, target.subresource)

    def _delete(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        grace = query.get("gracePeriodSeconds", (body or {}).get("gracePeriodSeconds"))
        grace_s = None if grace is None else int(grace)
        self._answer(200, objects.delete(target.resource, target.namespace, target.name, grace_s))

    def _watch(self, objects: Objects, target: Target, query: Mapping[str, str], body: Any) -> None:
        with self.server.lock:
            self.server.connections[self.connection] = True
        asked = int(query.get("resourceVersion") or 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 60)
        selector = _selector(query)
        wants_bookmarks = query.get("allowWatchBookmarks") == "true"
        for event in events(objects, target, selector, asked, deadline):
            if event["type"] != "BOOKMARK" or wants_bookmarks:
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        with self.server.lock:
            self.server.connections[self.connection] = False

    def _answer(self, status: int, document: Object | str, retry_after_s: int | None = None) -> None:
        is_text = isinstance(document, str)
        content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


def _forbidden(verb: str, target: Target, user: str) -> Refusal:
    resource, name = target.resource, target.name
    start = f'{_of(resource)} "{name}" is forbidden' if name else f"{_of(resource)} is forbidden"
    scope = f' in the namespace "{target.namespace}"' if target.namespace else " at the cluster scope"
    text = f'cannot {verb} resource "{target.role}" in API group "{resource.group}"{scope}'
    return Refusal(403, f'{start}: User "{user}" {text}', details=details_of(resource, name))


def events(
    objects: Objects, target: Target, selector: Selector, since: int, deadline: float
) -> Iterator[Object]:
    """
    What a watch tells, until its time is over.

    From version 0, which is any, it begins with what is there.
    """
    if not since:
        with objects.changed:
            known, since = objects.every(target.resource, target.namespace, selector), objects.version
        yield from ({"type": "ADDED", "object": each} for each in known)
    if since < objects.oldest:
        text = f"too old resource version: {since} ({objects.oldest})"
        yield {"type": "ERROR", "object": Refusal(410, text, "Expired").status()}
        return
    marked = time.monotonic()
    while time.monotonic() < deadline:
        with objects.changed:
            objects.changed.wait_for(lambda: objects.version > since, min(BOOKMARK_S, deadline - marked))  # noqa: B023
            changes = [each for each in _after(objects.history, since)]
            since = objects.version
        for change in changes:
            yield from _told(change, target, selector)
        if time.monotonic() - marked >= BOOKMARK_S:
            marked = time.monotonic()
            about = {"kind": target.resource.kind, "apiVersion": target.resource.api_version}
            yield {"type": "BOOKMARK", "object": {**about, "metadata": {"resourceVersion": str(since)}}}


def _after(history: list[Change], version: int) -> Iterator[Change]:
    newest = itertools.takewhile(lambda each: each.version > version, reversed(history))
    return reversed(list(newest))


def _told(change: Change, target: Target, selector: Selector) -> Iterator[Object]:
    """One change as this watch sees it: what leaves the selection is told as deleted."""
    found = change.after or change.before
    assert found is not None
    if change.resource is not target.resource:
        return
    if target.namespace not in ("", found["metadata"].get("namespace")):
        return
    was = change.before is not None and selector.matches(change.before)
    if change.after is not None and selector.matches(change.after):
        yield {"type": "MODIFIED" if was else "ADDED", "object": change.after}
    elif was:
        version = {"resourceVersion": str(change.version)}
        yield {"type": "DELETED", "object": {**found, "metadata": {**found["metadata"], **version}}}
