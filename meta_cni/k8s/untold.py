"""
Statuses that an API server has not taken yet, in a directory: a daemon that is killed forgets none.

A file for each request of a sandbox, and the file alone counts. Whoever undoes the request removes it,
in whatever process, so nobody is told of what is gone, and nothing is left of it. Nothing is synced to
the disk: what a power cut takes away ends the sandbox as well, and its pod's next one is told of.
"""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import IOFailure

DIRECTORY = "untold"
"""Below the state directory, beside the ledger."""
LOG = logging.getLogger("meta_cni")


@dataclass(frozen=True, slots=True)
class Status:
    """What a pod is to be told of one request of its sandbox."""

    container_id: str
    request: str
    """CNI_IFNAME."""
    namespace: str
    name: str
    patch: Mapping[str, Any]
    """A merge patch; the UID in it is a condition."""
    cluster: str = ""
    """The kubeconfig that leads to its API server."""

    @property
    def pod(self) -> tuple[str, str]:
        """Whom it is for."""
        return self.namespace, self.name

    @property
    def file(self) -> str:
        """Neither a container's id nor a link's name has a colon."""
        return f"{self.container_id}:{self.request}"


class Untold:
    """The statuses of a node, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, status: Status) -> None:
        """Keep it, in place of an older one of this request. Raises IOFailure."""
        path = self.directory / status.file
        temporary = path.with_name(f".{path.name}")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(temporary, "w", opener=_private) as file:
                json.dump(asdict(status), file)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise IOFailure(f"write untold status {path}: {error.strerror}") from None

    def has(self, status: Status) -> bool:
        """Its request has not been undone."""
        return os.path.exists(f"{self.directory}/{status.file}")

    def drop(self, container_id: str, request: str) -> None:
        """Tell nobody of this request any more; none is success. Raises IOFailure."""
        path = f"{self.directory}/{container_id}:{request}"
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise IOFailure(f"remove untold status {path}: {error.strerror}") from None

    def read(self) -> list[Status]:
        """All of them, oldest first; what was not written to its end goes. Raises IOFailure."""
        try:
            paths = sorted(self.directory.iterdir(), key=_age)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise IOFailure(f"read {self.directory}: {error.strerror}") from None
        return [status for path in paths if (status := _read(path)) is not None]


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _read(path: Path) -> Status | None:
    """What a file tells; one that was cut off is removed."""
    try:
        status = Status(**json.loads(path.read_bytes()))
        if path.name != status.file or not isinstance(status.patch, dict):
            raise ValueError("it was not written to the end, or not by us")
        return status
    except FileNotFoundError:
        return None
    except OSError as error:  # it says nothing of what is in it
        LOG.error("read untold status %s: %s: the next daemon reads it", path, error.strerror)
        return None
    except (ValueError, TypeError) as error:
        LOG.warning("untold status %s: it is removed: %s", path, error)
    with suppress(OSError):
        path.unlink()
    return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
