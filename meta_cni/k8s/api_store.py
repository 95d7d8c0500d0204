"""
Objects in a Kubernetes API server, on the transport of the official client.

Of that client only the transport is loaded, and what is sent and received stays JSON: its package
loads generated models as a whole, which costs 35 MB where the transport costs 14 MB, most of that ssl.
So we load the modules below without what stands in the packages' `__init__`.

Every call has an allowance of time, and retries within it what passes: 429 and 5xx as long as the
server asks for, time-outs and resets, each pause with jitter so that a hundred nodes do not come back
at once. What does not pass is told with what would be right.
"""

import functools
import importlib
import json
import logging
import os
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from meta_cni import __version__
from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s import certificate, lists
from meta_cni.k8s.access import Access, Credentials
from meta_cni.k8s.store import (
    EVERY,
    AlreadyExists,
    Conflict,
    Event,
    Expired,
    Forbidden,
    Invalid,
    Kind,
    NotFound,
    NotServed,
    Object,
    Replaced,
    Selector,
)

ALLOWANCE_S = 10.0
"""For all tries of one call."""
TRY_S = 7.0
"""For an answer to come, the first time; a connection whose peer is gone must leave time for another try."""
CONNECT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 3.0
WATCH_MARGIN_S = 10.0
"""How much later than asked for a server may end a watch."""
PAGE = 500
CONNECTIONS = 16
"""Kept open; more are made when more callers are there."""
PASSING = (429, 500, 502, 503, 504)
UNDONE = (429, 503)
"""Status codes that say that nothing was done; a create may be sent again only then."""
MERGE_PATCH, JSON = "application/merge-patch+json", "application/json"
USER_AGENT = f"meta-cni/{__version__}"
NO_ANSWER = "none"
"""In place of a status code."""
READ_BYTES = 1 << 16
UNSURE_REFUSALS = 4
"""How often what is forbidden is asked again while the server's readiness is forbidden, too."""
UNSENT = ("NewConnectionError", "ConnectTimeoutError", "ProxyError", "NameResolutionError")
"""urllib3's errors from before a request went out."""
LATE = {"ReadTimeoutError": "no answer in time", "ConnectTimeoutError": "no connection in time"}
"""urllib3's errors of what did not come, and what we say."""
UNVERIFIED = "%s: insecure-skip-tls-verify: the API server's certificate is not verified"
LOG = logging.getLogger("meta_cni")


@contextmanager
def _without_init(*packages: str) -> Iterator[None]:
    """Packages as mere folders; afterwards whoever imports them finds them whole."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == packages[0]}
    for name in kept:
        del sys.modules[name]
    found = find_spec(packages[0])
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"no module named {packages[0]}")
    folder = found.submodule_search_locations[0]
    for name in packages:
        bare = ModuleType(name)
        bare.__path__ = [os.path.join(folder, *name.split(".")[1:])]
        sys.modules[name] = bare
    try:
        yield
    finally:
        for name in [each for each in sys.modules if each.split(".")[0] == packages[0]]:
            del sys.modules[name]
        sys.modules.update(kept)


_IMPORTING = threading.Lock()
"""Of what is imported below the bare packages: two threads would take away each other's."""


def _transport() -> ModuleType:
    """The official client's transport, and beside it its configuration and urllib3."""
    with _IMPORTING:
        return _imported()


@functools.cache
def _imported() -> ModuleType:
    with _without_init("kubernetes", "kubernetes.client", "kubernetes.utils"):
        rest = importlib.import_module("kubernetes.client.rest")
        made = ModuleType("transport")
        made.Client = rest.RESTClientObject  # type: ignore[attr-defined]
        made.Untrusted = rest.urllib3.exceptions.SSLError  # type: ignore[attr-defined]
        made.Timeout = rest.urllib3.Timeout  # type: ignore[attr-defined]
        made.HTTPError = rest.urllib3.exceptions.HTTPError  # type: ignore[attr-defined]
        made.Unverified = rest.urllib3.exceptions.InsecureRequestWarning  # type: ignore[attr-defined]
        made.Configuration = importlib.import_module(  # type: ignore[attr-defined]
            "kubernetes.client.configuration"
        ).Configuration
    return made


@dataclass(slots=True)
class Tally:
    """How many answers there were of what kind; several threads count."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(verb, plural of the kind, HTTP status code or NO_ANSWER)."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    answered_s: float = 0.0
    """When the server answered last, by the monotonic clock."""

    def count(self, verb: str, plural: str, code: str) -> None:
        """One try."""
        with self.lock:
            self.counts[verb, plural, code] += 1
            if code != NO_ANSWER:
                self.answered_s = time.monotonic()

    def read(self) -> dict[tuple[str, str, str], int]:
        """All of them."""
        with self.lock:
            return dict(self.counts)


class Allowance:
    """Seconds that may be spent waiting for the server, by all calls together."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_s = self.left_s = seconds
        self._clock = clock

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Whatever time the block takes is spent."""
        started = self._clock()
        try:
            yield
        finally:
            self.left_s -= self._clock() - started


@dataclass(frozen=True, slots=True)
class _Request:
    """One call, and how it is told of."""

    verb: str
    """Kubernetes' own name of it, as in a role."""
    kind: Kind
    path: str
    what: str
    method: str = "GET"
    subresource: str = ""
    body: Any = None
    content_type: str = JSON
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def resource(self) -> str:
        """As a role names it."""
        plural = self.kind.value.plural
        return f"{plural}/{self.subresource}" if self.subresource else plural


class _Connections:
    """The transport to one server with one identity; its private files go when nobody uses it any more."""

    def __init__(self, access: Access) -> None:
        parts = _transport()
        if access.is_insecure:
            warnings.simplefilter("ignore", parts.Unverified)  # it is no line of our log
            LOG.warning(UNVERIFIED, access.where)
        configuration = parts.Configuration(host=access.server)
        configuration.verify_ssl = not access.is_insecure
        configuration.ca_cert_data = access.authority or None
        configuration.tls_server_name = access.server_name or None
        configuration.assert_hostname = False if access.is_insecure else None
        configuration.keep_alive = True
        configuration.retries = False
        configuration.connection_pool_maxsize = CONNECTIONS
        configuration.proxy = access.proxy.url if access.proxy else None
        configuration.proxy_headers = access.proxy.headers if access.proxy else None
        configuration.no_proxy = ""  # what a proxy is taken for is decided by now
        self._files = [certificate.unnamed(each) for each in (access.certificate, access.key) if each]
        if self._files:
            configuration.cert_file, configuration.key_file = map(certificate.path_of, self._files)
        connections = parts.Client(configuration).pool_manager
        is_told_all = connections.proxy is not None and access.server.startswith("http:")
        self._prefix = access.server if is_told_all else urlsplit(access.server).path
        """A proxy that makes no tunnel needs the whole URL."""
        self._pool = connections.connection_from_url(access.server)

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: Any, timeout: tuple[float, float]
    ) -> Any:
        """As the official client's own, which looks for the server's connections each time: 0.2 ms."""
        connect_s, read_s = timeout
        return self._pool.urlopen(
            method,
            self._prefix + path,
            body=None if body is None else json.dumps(body),
            headers=headers,
            timeout=_transport().Timeout(connect=connect_s, read=read_s),
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )


class Server:
    """One API server and its connections, shared by all who call it; may be used by several threads."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.tally = Tally()
        self._lock = threading.Lock()
        self._made: tuple[tuple[object, ...], _Connections] | None = None
        self._watches: set[Any] = set()

    def connections(self, access: Access) -> _Connections:
        """Those for an access; made anew when it is another one."""
        with self._lock:
            if self._made is None or self._made[0] != access.connection:
                self._made = access.connection, _Connections(access)
            return self._made[1]

    def forget_connections(self) -> None:
        """Make them anew with the next request."""
        with self._lock:
            self._made = None

    def send(self, request: _Request, access: Access, timeout: tuple[float, float]) -> Any:
        """One try; returns the response with its content still to be read. Raises _NoAnswer."""
        path = request.path
        if request.query:
            path += f"?{urlencode(request.query)}"
        headers = {} if request.body is None else {"Content-Type": request.content_type}
        return self._exchange(access, timeout, request.method, path, headers, request.body)

    def readiness(self, access: Access, timeout: tuple[float, float]) -> str:
        """The status code of its /readyz, or NO_ANSWER."""
        try:
            response = self._exchange(access, timeout, "GET", "/readyz", {})
            response.drain_conn()
            code = str(response.status)
        except (_NoAnswer, _transport().HTTPError, OSError):
            code = NO_ANSWER
        self.tally.count("get", "readyz", code)
        return code

    def _exchange(
        self,
        access: Access,
        timeout: tuple[float, float],
        method: str,
        path: str,
        more: Mapping[str, str],
        body: Any = None,
    ) -> Any:
        parts = _transport()
        headers = {"Accept": JSON, "User-Agent": USER_AGENT, **more}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        try:
            return self.connections(access).request(method, path, headers, body, timeout)
        except parts.Untrusted as error:
            raise _NoAnswer(str(error).rpartition("\n")[2], is_untrusted=True) from None
        except (parts.HTTPError, OSError, ValueError) as error:
            is_untrusted = type(getattr(error, "original_error", None)).__name__ == "SSLError"  # a proxy's
            flags = {"is_sent": not _is_unsent(error), "is_late": _is_late(error)}
            raise _NoAnswer(_reason_of(error), is_untrusted=is_untrusted, **flags) from None

    @contextmanager
    def watching(self, response: Any) -> Iterator[None]:
        """A response that end_watches() may end."""
        with self._lock:
            self._watches.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._watches.discard(response)
            response.close()

    def end_watches(self) -> None:
        """End every watch that is going on; each raises TryAgainLater where it waits."""
        with self._lock:
            watches = list(self._watches)
        for each in watches:
            sock = getattr(each.connection, "sock", None)  # looked at once: its own thread may take it away
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(2)


class _NoAnswer(Exception):
    """The server could not be asked, or did not answer."""

    def __init__(
        self, reason: str, *, is_sent: bool = True, is_untrusted: bool = False, is_late: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_sent = is_sent
        """The server may have done it all the same."""
        self.is_untrusted = is_untrusted
        """One of us does not trust the other's certificate."""
        self.is_late = is_late
        """It may have come a moment later."""


def _is_unsent(error: BaseException) -> bool:
    return type(error).__name__ in UNSENT


def _is_late(error: BaseException) -> bool:
    return type(error).__name__ in LATE


def _reason_of(error: BaseException) -> str:
    """The innermost word: what the kernel or the peer said."""
    if _is_late(error):
        return LATE[type(error).__name__]
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return getattr(seen, "strerror", None) or str(seen) or type(seen).__name__


class ApiStore:
    """The objects of a cluster."""

    def __init__(
        self,
        server: Server,
        allowance_s: float = ALLOWANCE_S,
        *,
        is_shared: bool = False,
        is_trying_again: bool = True,
    ) -> None:
        """
        `allowance_s` is for each call, or for all calls together when it is shared.

        Not `is_trying_again`: what passes is raised as well, for who looks first whether it is still wanted.
        """
        self.server = server
        self._is_trying_again = is_trying_again
        self._allowance_s = allowance_s
        self._shared = Allowance(allowance_s) if is_shared else None

    def within(self, seconds: float) -> "ApiStore":
        """The same objects for somebody who has so many seconds for all of his calls."""
        return ApiStore(self.server, seconds, is_shared=True)

    def get(self, kind: Kind, namespace: str, name: str, *, is_newest: bool = True) -> Object:
        """One object, always the newest; raises NotFound."""
        what = f"get {kind.value.kind} {_reference(namespace, name)}"
        return self._call(_Request("get", kind, _path(kind, namespace, name), what))

    def list(
        self, kind: Kind, namespace: str | None = None, selector: Selector = EVERY
    ) -> tuple[Sequence[Object], str]:
        """The objects of a namespace, or of all, and the resource version to watch from."""
        found: list[Object] = []
        version = ""
        for page, version in self.pages(kind, namespace, selector):  # noqa: B007 - the last one counts
            found.extend(page)
        return found, version

    def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        selector: Selector = EVERY,
        resource_version: str = "",
        keep: Callable[[Object], Object] = dict,
    ) -> Iterator[tuple[Sequence[Object], str]]:
        """
        A list in pieces, each with the resource version of the whole; raises Expired.

        `resource_version` "0" takes what the server has at hand, which may not be the newest, and may be
        one piece of any size. Of each object is here what `keep` answers, before the next one is read.
        """
        query = {"limit": str(PAGE), **_selecting(selector)}
        if resource_version:
            query["resourceVersion"] = resource_version
        while True:
            what = f"list {kind.value.plural}"
            request = _Request("list", kind, _path(kind, namespace), what, query=query)
            page = self._read(request, lambda content: lists.parse(content, lambda o: keep(_whole(kind, o))))
            yield page.items, page.metadata.get("resourceVersion", "")
            if not page.metadata.get("continue"):
                return
            query = {"limit": str(PAGE), **_selecting(selector), "continue": page.metadata["continue"]}

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        timeout_s: float,
        selector: Selector = EVERY,
    ) -> Iterator[Event]:
        """What changed after a resource version, until the time is over; raises Expired."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(timeout_s))),
            **_selecting(selector),
        }
        what = f"watch {kind.value.plural}"
        request = _Request("watch", kind, _path(kind, namespace), what, query=query)
        response = self._answered(request)
        _let_wait(response, timeout_s + WATCH_MARGIN_S)
        with self.server.watching(response):
            try:
                for line in _lines(response):
                    yield _event(request, json.loads(line))
            except (_transport().HTTPError, OSError, ValueError, AttributeError) as error:
                # An AttributeError is what http.client answers when its socket was closed beside it.
                raise TryAgainLater(f"{what}: it was cut off: {_reason_of(error)}") from None

    def create(self, kind: Kind, document: Object) -> Object:
        """Add an object; raises AlreadyExists or Invalid."""
        metadata = document["metadata"]
        namespace, name = str(metadata.get("namespace") or "default"), metadata.get("name", "")
        what = f"create {kind.value.kind} {_reference(namespace, name or metadata.get('generateName', ''))}"
        path = _path(kind, namespace)
        return self._call(_Request("create", kind, path, what, "POST", body=document))

    def replace(self, kind: Kind, document: Object) -> Object:
        """Replace an object; raises Conflict when its resourceVersion is given and old."""
        metadata = document["metadata"]
        namespace, name = str(metadata.get("namespace") or "default"), metadata["name"]
        what = f"replace {kind.value.kind} {_reference(namespace, name)}"
        path = _path(kind, namespace, name)
        return self._call(_Request("update", kind, path, what, "PUT", body=document))

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Apply a JSON merge patch (RFC 7396); a resourceVersion or a UID in it is a condition."""
        part = f" {subresource}" if subresource else ""
        what = f"patch {kind.value.kind} {_reference(namespace, name)}{part}"
        path = _path(kind, namespace, name, subresource)
        request = _Request("patch", kind, path, what, "PATCH", subresource, dict(patch), MERGE_PATCH)
        return self._call(request)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Remove an object; raises NotFound."""
        what = f"delete {kind.value.kind} {_reference(namespace, name)}"
        self._call(_Request("delete", kind, _path(kind, namespace, name), what, "DELETE"))

    def _call(self, request: _Request) -> Object:
        """Ask, and ask again what passes, within the allowance."""
        answer: Object = self._read(request, json.loads)
        return answer

    def _read(self, request: _Request, read: Callable[[bytes], Any]) -> Any:
        """What is read of the answer to a request."""
        response = self._answered(request)
        try:
            return read(response.data)
        except (_transport().HTTPError, OSError, ValueError) as error:
            raise TryAgainLater(f"{request.what}: {self._place()}: {_reason_of(error)}") from None

    def _place(self) -> str:
        return self.server.credentials.current().place

    def _answered(self, request: _Request) -> Any:
        """The response of a try that succeeded; raises what the last one met."""
        allowance = self._shared or Allowance(self._allowance_s)
        tries = unsure = 0
        reason = "no time is left for it"
        while allowance.left_s > 0:
            tries += 1
            with allowance.spending():
                left_s = allowance.left_s
                waits = min(CONNECT_S, left_s), min(TRY_S, left_s)
                outcome = self._try(request, waits, unsure < UNSURE_REFUSALS)
            if not isinstance(outcome, _Passing):
                return outcome
            unsure += outcome.is_unsure
            if tries == 1 or not outcome.is_late or left_s >= CONNECT_S:  # else it is our time that was short
                reason = outcome.reason
            pause_s = _pause(tries, outcome.after_s)
            if pause_s >= allowance.left_s or not self._is_trying_again:
                allowance.left_s = 0.0  # nor would what is asked next be answered
                break
            with allowance.spending():
                time.sleep(pause_s)
        told = f"{tries} {'try' if tries == 1 else 'tries'} in {allowance.total_s:g} s"
        raise TryAgainLater(f"{request.what}: {self._place()}: {reason}: given up after {told}")

    def _try(self, request: _Request, timeout: tuple[float, float], is_patient: bool) -> Any:
        """A response, or why it should be tried again; raises what will not pass."""
        access = self.server.credentials.current()
        plural = request.kind.value.plural
        try:
            response = self.server.send(request, access, timeout)
        except _NoAnswer as error:
            self.server.tally.count(request.verb, plural, NO_ANSWER)
            return self._unanswered(request, access, error)
        self.server.tally.count(request.verb, plural, str(response.status))
        if response.status < 300:
            return response
        status = _status_of(response)
        if response.status == 401:
            return self._unknown(request, access, status)
        if response.status in (UNDONE if request.verb == "create" else PASSING):
            return _Passing(f"{response.status} {_said(status)}", _after(response))
        if response.status == 409 and request.verb == "patch" and not _is_conditional(request.body):
            return _Passing(_said(status))
        if response.status == 403 and (passing := self._starting(access, status, timeout[0], is_patient)):
            return passing
        raise _error(request, response.status, status)

    def _starting(
        self, access: Access, status: Mapping[str, Any], wait_s: float, is_patient: bool
    ) -> "_Passing | None":
        """
        What is forbidden by a server that is not ready, and may be allowed when it has read its roles.

        Until then everything is, /readyz for a moment as well. But that may be forbidden for good, too,
        where somebody has taken away the role system:public-info-viewer.
        """
        code = self.server.readiness(access, (wait_s, wait_s))
        is_unsure = code == "403"
        if not (is_patient if is_unsure else code in (NO_ANSWER, "429") or code.startswith("5")):
            return None
        told = f"403 {_said(status)}, by a server that may not have read its roles yet (/readyz: {code})"
        return _Passing(told, is_unsure=is_unsure)

    def _unanswered(self, request: _Request, access: Access, error: _NoAnswer) -> "_Passing":
        if error.is_untrusted:
            self.server.forget_connections()
            if self.server.credentials.renew(access).connection != access.connection:
                return _Passing(error.reason)
            raise Forbidden(
                f"{request.what}: {access.place}: {error.reason}: "
                f"expected a certificate as {access.where} has them"
            )
        if error.is_sent and request.verb == "create":
            raise TryAgainLater(f"{request.what}: {access.place}: {error.reason}: it may have been done")
        return _Passing(error.reason, is_late=error.is_late)

    def _unknown(self, request: _Request, access: Access, status: Mapping[str, Any]) -> "_Passing":
        """The token or certificate has expired: there may be a new one."""
        newest = self.server.credentials.renew(access)
        if (newest.token, newest.connection) != (access.token, access.connection):
            return _Passing("401", 0.0)
        raise Forbidden(
            f"{request.what}: {access.place}: {_said(status)} (401): "
            f"expected a token or certificate that is valid in {access.identity or access.where}"
        )


@dataclass(frozen=True, slots=True)
class _Passing:
    """Why a try failed that may succeed later, and how long the server wants to be left alone."""

    reason: str
    after_s: float | None = None
    is_unsure: bool = False
    """It may as well not pass."""
    is_late: bool = False
    """There was no answer yet."""


def _pause(tries: int, after_s: float | None) -> float:
    """Longer each time, at least what the server asks for, and never the same for everybody."""
    if after_s == 0.0:
        return 0.0
    doubled: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
    return doubled if after_s is None else after_s + doubled


def _after(response: Any) -> float | None:
    text = response.headers.get("Retry-After") or ""
    return float(text) if text.isdecimal() and int(text) else None


def _is_conditional(patch: Mapping[str, Any]) -> bool:
    """Whether it is for one version alone; a UID that is another one is no conflict (422)."""
    return bool((patch.get("metadata") or {}).get("resourceVersion"))


def _reference(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _path(kind: Kind, namespace: str | None, name: str = "", subresource: str = "") -> str:
    resource = kind.value
    path = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    if resource.is_namespaced and namespace:
        path += f"/namespaces/{quote(namespace, safe='')}"
    path += f"/{resource.plural}"
    if name:
        path += f"/{quote(name, safe='')}"
    return f"{path}/{subresource}" if subresource else path


def _selecting(selector: Selector) -> dict[str, str]:
    query = {
        "fieldSelector": ",".join(f"{path}={value}" for path, value in selector.fields.items()),
        "labelSelector": ",".join(f"{name}={value}" for name, value in selector.labels.items()),
    }
    return {key: text for key, text in query.items() if text}


def _whole(kind: Kind, document: Object) -> Object:
    """In a list the server leaves out what is the same for all."""
    return {"apiVersion": kind.value.api_version, "kind": kind.value.kind, **document}


def _let_wait(response: Any, seconds: float) -> None:
    """What comes after the first line of an answer may take so long."""
    connection = response.connection
    if connection is not None and connection.sock is not None:
        connection.sock.settimeout(seconds)


def _lines(response: Any) -> Iterator[bytes]:
    """The events of a watch as they come, one JSON document a line."""
    left = bytearray()
    for chunk in response.stream(READ_BYTES):
        left += chunk
        *lines, last = left.split(b"\n")
        yield from (bytes(line) for line in lines if line)
        left = bytearray(last)


def _event(request: _Request, document: Mapping[str, Any]) -> Event:
    told, found = str(document.get("type")), document.get("object") or {}
    if told == "ERROR":
        raise _error(request, int(found.get("code") or 0), found)
    return Event(told, found)


def _status_of(response: Any) -> Mapping[str, Any]:
    """The Status that explains a refusal; empty when the answer is something else, as a proxy's is."""
    with suppress(_transport().HTTPError, OSError, ValueError):
        document = json.loads(response.data)
        if isinstance(document, dict) and document.get("kind") == "Status":
            return document
    return {}


def _said(status: Mapping[str, Any]) -> str:
    return str(status.get("message") or status.get("reason") or "no reason given")


def _wrong_fields(status: Mapping[str, Any]) -> set[str]:
    """The fields that an object was refused for."""
    causes = (status.get("details") or {}).get("causes") or ()
    return {str(each.get("field")) for each in causes if isinstance(each, Mapping)}


def _error(request: _Request, code: int, status: Mapping[str, Any]) -> Exception:
    """What a refusal means to our callers."""
    text = f"{request.what}: {_said(status)}"
    resource = request.kind.value
    if code == 403:
        return Forbidden(
            f"{text}: expected a role with apiGroups [{resource.group!r}], "
            f"resources [{request.resource!r}], verbs [{request.verb!r}]"
        )
    if code == 404 and (status.get("details") or {}).get("name") is None:
        return NotServed(
            f"{request.what}: the API server does not know {resource.plural}: "
            f"expected the CustomResourceDefinition {resource.plural}.{resource.group}"
        )
    if code == 409:
        is_there = status.get("reason") == "AlreadyExists"
        return AlreadyExists(text) if is_there else Conflict(text)
    if code == 422 and request.verb in ("patch", "update") and "metadata.uid" in _wrong_fields(status):
        return Replaced(f"{text}: it is another one")
    meanings = {404: NotFound, 410: Expired, 422: Invalid, 400: Invalid}
    return meanings.get(code, TryAgainLater)(text)
