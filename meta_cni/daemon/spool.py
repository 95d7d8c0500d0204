"""
DELs that came while there was no daemon: a directory of requests, written by the shim.

They are done in the order they came. One that fails stays, and is tried again; the runtime was
told that it is done, so nobody else will.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meta_cni.cni.errors import DecodeFailure, IOFailure
from meta_cni.daemon import wire
from meta_cni.daemon.wire import Call

ENDING = ".request"
DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Spool:
    """The spool of a node."""

    directory: Path

    def entries(self) -> list[Path]:
        """The requests that wait, oldest first; what is still being written is not there yet."""
        try:
            return sorted(each for each in self.directory.iterdir() if each.name.endswith(ENDING))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise IOFailure(f"read spool {self.directory}: {error.strerror}") from None

    def replay(self, handle: Callable[[Call], tuple[bytes, int]]) -> Iterator[tuple[Path, str]]:
        """
        Do what waits; yields (entry, what was wrong) of those that are left.

        A request that was damaged is set aside: it says nothing that could be done.
        """
        for path in self.entries():
            try:
                call = wire.parse_request(path.read_bytes())
            except DecodeFailure as error:
                os.replace(path, path.with_suffix(DAMAGED))
                yield path, error.message
                continue
            except FileNotFoundError:
                continue
            except OSError as error:
                yield path, f"read {path}: {error.strerror}"
                continue
            printed, code = handle(call)
            if code:
                yield path, printed.decode(errors="replace").strip()
            else:
                path.unlink(missing_ok=True)
