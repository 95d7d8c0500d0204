"""
What pods are still to be told of their networks, because their API server was away.

A pod that is known is attached all the same: it needs its networks more than its annotation. So its
status waits here, for as long as the server takes, and a later one of the same pod takes its place.
It waits in a directory too, for the next daemon: this one may be killed before the server is back.
The UID in the patch keeps it from another pod of that name.
"""

import logging
import random
import threading
from collections import OrderedDict
from dataclasses import replace

from meta_cni.cni.errors import CNIError, TryAgainLater
from meta_cni.k8s.store import Kind, NotFound, Replaced, Store
from meta_cni.k8s.untold import Status, Untold

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""After rounds that failed, each with jitter; the last one again and again."""
PACE_S = 0.02
"""Between two pods: every node has something to tell to a server that is back."""
MOST = 4096
"""Pods that wait; of more, the oldest is forgotten, and counted."""
LOG = logging.getLogger("meta_cni")


class LateStatuses:
    """The statuses that one cluster has not taken yet, and the thread that goes on trying."""

    def __init__(
        self,
        store: Store,
        untold: Untold,
        cluster: str = "",
        *,
        pauses_s: tuple[float, ...] = PAUSES_S,
        most: int = MOST,
    ) -> None:
        """
        `cluster` says which statuses of the directory are for this server.

        A store that tries again by itself would tell what has been undone meanwhile.
        """
        self.store = store
        self.forgotten = 0
        """Statuses that nobody will be told of."""
        self._untold = untold
        self._cluster = cluster
        self._pauses_s = pauses_s
        self._most = most
        self._waiting: OrderedDict[tuple[str, str], Status] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_over = False

    @property
    def waiting(self) -> int:
        """How many pods are still to be told."""
        return len(self._waiting)

    def start(self) -> None:
        """Go on with what another daemon has left."""
        with self._changed:
            try:
                for each in self._untold.read():
                    if each.cluster == self._cluster:
                        self._keep(each)
            except CNIError as error:
                LOG.error("%s", error.message)

    def put(self, status: Status) -> None:
        """Keep a status until the server takes it; never waits for the server. Raises IOFailure."""
        with self._changed:
            kept = replace(status, cluster=self._cluster)
            self._untold.put(kept)
            self._keep(kept)

    def _keep(self, status: Status) -> None:
        older = self._waiting.pop(status.pod, None)
        if older is not None and older.file != status.file:
            self._untold.drop(older.container_id, older.request)
        self._waiting[status.pod] = status
        while len(self._waiting) > self._most:
            _, oldest = self._waiting.popitem(last=False)
            self._untold.drop(oldest.container_id, oldest.request)
            self.forgotten += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="late statuses", daemon=True)
            self._thread.start()
        self._changed.notify()

    def is_waiting(self, namespace: str, name: str) -> bool:
        """Whether something is still to be told: what is newer must come behind it."""
        status = self._waiting.get((namespace, name))
        return status is not None and self._untold.has(status)

    def stop(self, timeout_s: float) -> None:
        """Try all once more, and end; a call that hangs is not waited for."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._waiting:
            text = "network-status of %d pods was not told, the API server was away: the next daemon tells it"
            LOG.warning(text, len(self._waiting))

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
                self._pause(pause_s * random.uniform(0.5, 1.0))

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, seconds)

    def _told_all(self) -> bool:
        """One round, which the first failure ends."""
        for each in list(self._waiting.values()):
            if not self._untold.has(each):
                self._forget(each)
        for each in list(self._waiting.values()):
            if not self._told(each):
                return False
            self._pause(PACE_S)
        return True

    def _told(self, status: Status) -> bool:
        """Whether nothing is left to tell of this one."""
        try:
            if self._untold.has(status):
                self.store.patch(Kind.POD, *status.pod, status.patch, subresource="status")
        except (NotFound, Replaced):
            pass  # it is gone; another pod may have its name
        except TryAgainLater:
            return False
        except CNIError as error:
            LOG.warning("pod %s/%s: network-status is not told any more: %s", *status.pod, error.message)
        except Exception:  # a thread that dies is never replaced
            LOG.exception("a bug in meta-cni: pod %s/%s: network-status is not told any more", *status.pod)
        self._forget(status)
        return True

    def _forget(self, status: Status) -> None:
        """Unless a newer one has taken its place."""
        with self._changed:
            if self._waiting.get(status.pod) is not status:
                return
            try:
                self._untold.drop(status.container_id, status.request)
            except CNIError as error:
                LOG.warning("pod %s/%s: the next daemon tells it again: %s", *status.pod, error.message)
            del self._waiting[status.pod]
