"""
What an API server has of one kind, kept here: a list once, and then its changes.

An ADD must not wait for a server that is slow, and must not depend on one that is away. So what is
looked up most is watched. What is here is what the server had a moment ago: what is not here may be
there by now, and whoever needs the newest asks the server itself. While the server is away, what it
had last stays.

Objects are kept without what nobody here reads; a node of a large cluster knows thousands.
"""

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from meta_cni.cni.errors import CNIError, TryAgainLater
from meta_cni.k8s.store import EVERY, Event, Expired, Kind, NotServed, Object, Selector

WATCH_S = (120.0, 180.0)
"""How long one watch goes on; a connection that died without a word is noticed then."""
SHORTEST_WATCH_S = 1.0
"""One that ends sooner and told nothing is a failure: whoever is in between lets none through."""
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""After tries that failed, each with jitter; the last one again and again."""
AT_HAND = "0"
"""The resource version of a list that costs a server least: what it remembers."""
OURS = ("k8s.v1.cni.cncf.io/", "v1.multus-cni.io/", "kubernetes.io/config.")
"""Annotations of a pod that somebody here reads begin like one of them."""
CLAIMS = ("resourceClaimStatuses", "extendedResourceClaimStatus")
"""Of a pod's status, for devices by dynamic resource allocation."""
CLAIMING = ("nodeName", "resourceClaims")
"""Of its spec then: claims that it names itself, and whose devices they are."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
LOG = logging.getLogger("meta_cni")


class Source(Protocol):
    """What an informer asks of a server."""

    def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        selector: Selector = EVERY,
        resource_version: str = "",
        keep: Callable[[Object], Object] = dict,
    ) -> Iterator[tuple[Sequence[Object], str]]:
        """A list in pieces, what is kept of it, with the resource version of the whole; raises Expired."""
        ...

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        timeout_s: float,
        selector: Selector = EVERY,
    ) -> Iterator[Event]:
        """What changed after a resource version, until the time is over; raises Expired."""
        ...


class Informer:
    """The objects of one kind; run() keeps them on a thread of its own, any thread may look them up."""

    def __init__(
        self,
        source: Source,
        kind: Kind,
        selector: Selector = EVERY,
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = kind
        self.lists = 0
        """How often everything was asked for."""
        self._source = source
        self._selector = selector
        self._pauses_s = pauses_s
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], Object] = {}
        self._synced = threading.Event()
        self._version = ""
        self._failure = ""
        self._failures = 0
        """In a row."""
        self._failed_s: float | None = None

    @property
    def is_synced(self) -> bool:
        """Everything was here once, so what is here is worth something."""
        return self._synced.is_set()

    def wait_until_synced(self, timeout_s: float) -> bool:
        """Whether it is in time."""
        return self._synced.wait(timeout_s)

    def __len__(self) -> int:
        return len(self._objects)

    def find(self, namespace: str, name: str) -> Object | None:
        """The object as it was heard of last; not to be changed. None tells nothing."""
        return self._objects.get((namespace, name))

    def learn(self, document: Object) -> None:
        """An object that somebody else had from the server, newer than what is here or not."""
        with self._lock:
            if _key(document) in self._objects:
                self._keep(document)

    def problem(self) -> str:
        """Why what is here may be old, or not all; empty when nothing is wrong."""
        failure, failed_s = self._failure, self._failed_s
        if failed_s is None:
            waiting = f"list {self.kind.value.plural}: the API server has not answered yet"
            return "" if self.is_synced else waiting
        return f"{failure} (for {self._clock() - failed_s:.0f} s)"

    def run(self, over: threading.Event) -> None:
        """List and watch until it is over; whatever fails is tried again."""
        while not over.is_set():
            try:
                self._follow(over)
                continue
            except Expired:
                self._version = ""
                self._failures += 1
            except CNIError as error:
                if over.is_set():  # whoever ends us ends the watch
                    return
                self._note(error.message)
            except Exception as error:  # a thread that dies is never replaced
                LOG.exception("a bug in meta-cni")
                self._note(f"a bug in meta-cni: {error!r}")
            pause_s = self._pauses_s[min(self._failures, len(self._pauses_s)) - 1]
            over.wait(pause_s * random.uniform(0.5, 1.0))

    def _follow(self, over: threading.Event) -> None:
        """A watch, from where the last one ended; a list before it when there was none, or too long ago."""
        if not self._version:
            self._list()
        timeout_s, began_s, is_silent = random.uniform(*WATCH_S), self._clock(), True
        for event in self._source.watch(self.kind, None, self._version, timeout_s, self._selector):
            is_silent = False
            self._is_well()
            self._take(event)
            if over.is_set():
                return
        if is_silent and self._clock() - began_s < SHORTEST_WATCH_S:
            raise TryAgainLater(f"watch {self.kind.value.plural}: it ended at once")
        self._is_well()

    def _list(self) -> None:
        """Everything; what is not in it is gone."""
        self.lists += 1
        found: dict[tuple[str, str], Object] = {}
        version = ""
        at_hand = "" if self.is_synced else AT_HAND  # never back to what is older than what we have
        try:
            asked = self.kind, None, self._selector, at_hand, partial(trimmed, self.kind)
            for page, version in self._source.pages(*asked):  # noqa: B007 - the last one counts
                found.update((_key(each), each) for each in page)
        except NotServed:  # the kind's definition was taken away, and its objects with it
            with self._lock:
                self._objects = {}
            raise
        with self._lock:
            self._objects = found
        self._version = version
        self._is_well()
        self._synced.set()

    def _take(self, event: Event) -> None:
        document = event.object
        if event.type in ("ADDED", "MODIFIED"):
            with self._lock:
                self._keep(document)
        elif event.type == "DELETED":
            with self._lock:
                self._objects.pop(_key(document), None)
        self._version = _version(document) or self._version

    def _keep(self, document: Object) -> None:
        """Unless what is here is newer."""
        key = _key(document)
        known = self._objects.get(key)
        if known is None or not _is_older(document, known):
            self._objects[key] = trimmed(self.kind, document)

    def _note(self, failure: str) -> None:
        self._failures += 1
        if self._failed_s is None:
            self._failed_s = self._clock()
            LOG.warning("%s; what was known before stays", failure)
        self._failure = failure

    def _is_well(self) -> None:
        if self._failed_s is not None:
            LOG.warning("watch %s: the API server answers again", self.kind.value.plural)
        self._failed_s = None
        self._failures = 0


def trimmed(kind: Kind, document: Mapping[str, Any]) -> Object:
    """An object without what nobody here reads."""
    metadata = document.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    if kind is Kind.POD:
        annotations = {key: text for key, text in annotations.items() if key.startswith(OURS)}
    elif LAST_APPLIED in annotations:
        annotations = {key: text for key, text in annotations.items() if key != LAST_APPLIED}
    kept = {
        sys.intern(key): metadata[key]
        for key in ("name", "namespace", "uid", "resourceVersion")
        if key in metadata
    }
    if "namespace" in kept:
        kept["namespace"] = sys.intern(kept["namespace"])
    found: Object = {"kind": kind.value.kind, "metadata": {**kept, "annotations": annotations}}
    if kind is Kind.POD:
        status = document.get("status") or {}
        found["status"] = {key: status[key] for key in CLAIMS if key in status}
        spec = document.get("spec") or {}
        if found["status"] or spec.get("resourceClaims"):
            found["spec"] = {key: spec[key] for key in CLAIMING if key in spec}
    else:
        found["spec"] = document.get("spec") or {}
    return found


def _key(document: Mapping[str, Any]) -> tuple[str, str]:
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _version(document: Mapping[str, Any]) -> str:
    return str((document.get("metadata") or {}).get("resourceVersion") or "")


def _is_older(document: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Resource versions of one kind are numbers that grow (KEP-5504); of others we know nothing."""
    ours, theirs = _version(known), _version(document)
    return ours.isdecimal() and theirs.isdecimal() and int(theirs) < int(ours)
