"""
DELs that came while there was no daemon: a directory of requests, written by the shim.

The runtime was told that each is done, so nobody else will do it: what fails stays, and is tried
again, less and less often. Those of one container are done in the order they came, and before
anything else of it: a container may come back under its name (podman restart), and an old DEL must
not take away what a new ADD made. No clock is compared for that. The shim has written a DEL before
it answers, so an ADD that comes later finds it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meta_cni.cni import version as versions
from meta_cni.cni.config import encode
from meta_cni.cni.errors import DecodeFailure, IOFailure, TryAgainLater
from meta_cni.daemon import wire
from meta_cni.daemon.server import own_directory
from meta_cni.daemon.wire import Call

ENDING = ".request"
DAMAGED = ".damaged"
UNFINISHED = ".request.new"
UNFINISHED_S = 600.0
"""What has not been renamed by then never will be: its shim was killed."""
PAUSES_S = (5.0, 300.0)
"""After the first failure, and at most."""
LOG = logging.getLogger("meta_cni")
Handle = Callable[[Call], tuple[bytes, int]]


@dataclass(slots=True)
class Waiting:
    """A request in the spool."""

    path: Path
    call: Call
    pause_s: float = 0.0
    """Since it failed last."""
    due: float = 0.0
    """Not tried before, by the monotonic clock, unless its container is asked for."""

    @property
    def container_id(self) -> str:
        """CNI_CONTAINERID."""
        return self.call.variables.get("CNI_CONTAINERID", "")

    @property
    def interface(self) -> str:
        """CNI_IFNAME."""
        return self.call.variables.get("CNI_IFNAME", "")


class Spool:
    """The spool of a node; a container is one thread's at a time, others may be done beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._known: dict[str, Waiting] = {}
        """By file name: a request never changes."""
        self.failures = 0
        """Tries that failed."""

    def entries(self) -> list[Path]:
        """The requests that wait, oldest first; what is still being written is not there yet."""
        return [self.directory / name for name in sorted(self._names()) if name.endswith(ENDING)]

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise IOFailure(f"read spool {self.directory}: {error.strerror}") from None

    def waiting(self) -> list[Waiting]:
        """The requests, oldest first; a damaged one says nothing that could be done, and is set aside."""
        paths = self.entries()
        with self._lock:
            for name in self._known.keys() - {each.name for each in paths}:
                del self._known[name]
            found = [self._known.get(each.name) or self._read(each) for each in paths]
        return [each for each in found if each is not None]

    def _read(self, path: Path) -> Waiting | None:
        try:
            read = Waiting(path, wire.parse_request(path.read_bytes()))
        except FileNotFoundError:
            return None
        except DecodeFailure as error:
            LOG.error("spooled DEL %s: %s: it is set aside as %s", path.name, error.message, DAMAGED)
            with suppress(OSError):
                os.replace(path, path.with_suffix(DAMAGED))
            return None
        except OSError as error:
            LOG.error("spooled DEL %s: read it: %s", path.name, error.strerror)
            return None
        self._known[path.name] = read
        return read

    def due(self) -> dict[str, list[Waiting]]:
        """By container what waits of it, where any of that is to be tried now; in the order they came."""
        now = time.monotonic()
        found: dict[str, list[Waiting]] = {}
        for each in self.waiting():
            found.setdefault(each.container_id, []).append(each)
        return {key: mine for key, mine in found.items() if any(each.due <= now for each in mine)}

    def serve(self, call: Call, handle: Handle) -> tuple[bytes, int]:
        """
        Answer a call after what waits of its container; an ADD is refused while any of it fails.

        What fails is dropped when the runtime's own DEL of the attachment succeeds.
        """
        container_id, verb = (call.variables.get(each, "") for each in ("CNI_CONTAINERID", "CNI_COMMAND"))
        left = self._left(container_id, handle)
        if left and verb == "ADD":
            told = TryAgainLater(f"container {container_id}: its last DEL is not done yet: {left[0]}")
            return encode(told.to_json(versions.NEWEST)), 1
        printed, code = handle(call)
        if left and verb == "DEL" and code == 0:
            self._forget(container_id, call.variables.get("CNI_IFNAME", ""))
        return printed, code

    def _left(self, container_id: str, handle: Handle) -> list[str]:
        """As settle(); a spool that cannot be read, told by due(), keeps nobody."""
        try:
            waiting = self.waiting() if container_id else []
        except IOFailure:
            return []
        return self.settle([each for each in waiting if each.container_id == container_id], handle)

    def settle(self, mine: Sequence[Waiting], handle: Handle) -> list[str]:
        """Do what waits of a container, but for what was done meanwhile; says of each that is left why."""
        reasons = [self._do(each, handle) for each in mine if each.path.exists()]
        return [each for each in reasons if each]

    def _do(self, waiting: Waiting, handle: Handle) -> str:
        """Why it is left; empty when it is done and gone."""
        printed, code = handle(waiting.call)
        reason = printed.decode(errors="replace").strip() if code else self._remove(waiting)
        if reason:
            with self._lock:
                self.failures += 1
            shortest, longest = PAUSES_S
            waiting.pause_s = min(max(shortest, 2 * waiting.pause_s), longest)
            waiting.due = time.monotonic() + waiting.pause_s
            reason = f"spooled DEL {waiting.path.name}: {reason}"
            LOG.error("%s: it is tried again in %g s", reason, waiting.pause_s)
        return reason

    def _forget(self, container_id: str, interface: str) -> None:
        for each in self.waiting():
            if (each.container_id, each.interface) == (container_id, interface):
                LOG.warning("spooled DEL %s: the runtime's own is done: it is dropped", each.path.name)
                self._remove(each)

    def _remove(self, waiting: Waiting) -> str:
        """Why it is still there; empty when it is gone."""
        try:
            waiting.path.unlink(missing_ok=True)
        except OSError as error:
            return f"remove {waiting.path}: {error.strerror}"
        return ""

    def clear_unfinished(self) -> None:
        """
        Remove what shims that were killed had begun to write: their callers were not answered.

        Raises IOFailure when the directory is not only ours: what lies there is done as root. Made
        where it is not there: shims make no parents.
        """
        own_directory(self.directory)
        with suppress(OSError):
            for path in self.directory.glob(f"*{UNFINISHED}"):
                if time.time() - path.stat().st_mtime > UNFINISHED_S:
                    path.unlink()
