"""
An API server's objects, those of this node's pods and all networks from what is kept here.

A look-up that finds nothing asks the server, once: a network may have been made the instant before
the pod that names it, and a pod may be here before its event is.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.informer import Informer
from meta_cni.k8s.store import EVERY, Event, Kind, Object, Selector, Store

NODE = "spec.nodeName"
END_POLL_S = 0.02


class Following:
    """The informers of one API server, each on a thread of its own."""

    def __init__(self, server: Server, node: str) -> None:
        """`node` is its name in the cluster; with none, pods are asked for one by one."""
        self.server = server
        self.informers: dict[Kind, Informer] = {}
        source = ApiStore(server)
        if node:
            self.informers[Kind.POD] = Informer(source, Kind.POD, Selector({NODE: node}))
        networks = Kind.NETWORK_ATTACHMENT_DEFINITION
        self.informers[networks] = Informer(source, networks)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(
                target=each.run, args=(self._over,), name=f"watch {kind.value.plural}", daemon=True
            )
            for kind, each in self.informers.items()
        ]

    def start(self) -> None:
        """Begin; nobody waits."""
        for each in self._threads:
            each.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End, within so many seconds; a call that hangs is not waited for."""
        self._over.set()
        deadline = time.monotonic() + timeout_s
        for each in self._threads:
            while each.is_alive() and time.monotonic() < deadline:
                self.server.end_watches()  # one that is just being opened as well
                each.join(END_POLL_S)

    def problems(self) -> list[str]:
        """Why what is kept may be old, a line each."""
        return [problem for each in self.informers.values() if (problem := each.problem())]


class CachedStore:
    """The objects of a cluster, for somebody who has so many seconds for all of his calls."""

    def __init__(
        self, behind: Store, informers: Mapping[Kind, Informer], writing: Store | None = None
    ) -> None:
        """`writing` is the same server, for calls that change something."""
        self.behind = behind
        self.informers = informers
        self.writing = writing or behind

    def get(self, kind: Kind, namespace: str, name: str, *, is_newest: bool = False) -> Object:
        """One object, kept here or the server's; `is_newest`: the server's. Raises NotFound."""
        informer = self.informers.get(kind)
        known = informer.find(namespace, name) if informer is not None and not is_newest else None
        return known if known is not None else self.behind.get(kind, namespace, name)

    def list(
        self, kind: Kind, namespace: str | None = None, selector: Selector = EVERY
    ) -> tuple[Sequence[Object], str]:
        """As the server has them."""
        return self.behind.list(kind, namespace, selector)

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        timeout_s: float,
        selector: Selector = EVERY,
    ) -> Iterator[Event]:
        """From the server."""
        return self.behind.watch(kind, namespace, resource_version, timeout_s, selector)

    def create(self, kind: Kind, document: Object) -> Object:
        """On the server."""
        return self.writing.create(kind, document)

    def replace(self, kind: Kind, document: Object) -> Object:
        """On the server."""
        return self._learned(kind, self.writing.replace(kind, document))

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """On the server; what it answers is known here before its event comes."""
        return self._learned(kind, self.writing.patch(kind, namespace, name, patch, subresource=subresource))

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """On the server."""
        self.writing.delete(kind, namespace, name)

    def _learned(self, kind: Kind, document: Object) -> Object:
        informer = self.informers.get(kind)
        if informer is not None:
            informer.learn(document)
        return document
