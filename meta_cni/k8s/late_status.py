"""
What pods are still to be told of their networks, because their API server was away.

A pod that is known is attached all the same: it needs its networks more than its annotation. So its
status waits here, for as long as the server takes, and a later one of the same pod takes its place.
The UID in the patch keeps it from another pod of that name.
"""

import logging
import random
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from meta_cni.cni.errors import CNIError, TryAgainLater
from meta_cni.k8s.store import Kind, NotFound, Replaced, Store

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""After rounds that failed, each with jitter; the last one again and again."""
MOST = 4096
"""Pods that wait; of more, the oldest is forgotten, and counted."""
LOG = logging.getLogger("meta_cni")


class LateStatuses:
    """The statuses that one cluster has not taken yet, and the thread that goes on trying."""

    def __init__(self, store: Store, pauses_s: tuple[float, ...] = PAUSES_S, most: int = MOST) -> None:
        self.store = store
        self.forgotten = 0
        """Statuses that nobody will be told of."""
        self._pauses_s = pauses_s
        self._most = most
        self._waiting: OrderedDict[tuple[str, str], Mapping[str, Any]] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_over = False

    @property
    def waiting(self) -> int:
        """How many pods are still to be told."""
        return len(self._waiting)

    def put(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Keep a patch of a pod's status until the server takes it; never waits."""
        with self._changed:
            self._waiting[namespace, name] = patch
            self._waiting.move_to_end((namespace, name))
            while len(self._waiting) > self._most:
                self._waiting.popitem(last=False)
                self.forgotten += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="late statuses", daemon=True)
                self._thread.start()
            self._changed.notify()

    def is_waiting(self, namespace: str, name: str) -> bool:
        """Whether something is still to be told: what is newer must come behind it."""
        return (namespace, name) in self._waiting

    def stop(self, timeout_s: float) -> None:
        """Try all once more, and end; a call that hangs is not waited for."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._waiting:
            LOG.warning("network-status of %d pods was not told: the API server was away", len(self._waiting))

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._waiting)
                is_last = self._is_over
            failures = 0 if self._told_all() else failures + 1
            if is_last:
                return
            if failures:
                pause_s = self._pauses_s[min(failures, len(self._pauses_s)) - 1]
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, pause_s * random.uniform(0.5, 1.0))

    def _told_all(self) -> bool:
        """One round, which the first failure ends."""
        for key, patch in list(self._waiting.items()):
            try:
                self.store.patch(Kind.POD, *key, patch, subresource="status")
            except (NotFound, Replaced):
                pass  # it is gone; another pod may have its name
            except TryAgainLater:
                return False
            except CNIError as error:
                LOG.warning("pod %s/%s: network-status is not told any more: %s", *key, error.message)
            with self._changed:
                if self._waiting.get(key) is patch:
                    del self._waiting[key]
        return True
