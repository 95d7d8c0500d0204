"""
What host-local's directories hold, remembered as long as nobody else has changed them.

Every ADD and DEL needs to know which addresses are taken, and which are its container's; the
owner stands in the files, so that reading is a matter of milliseconds where there are hundreds
of them. A daemon remembers. That a directory is as we left it is seen by its modification time:
whoever adds or removes a file has the kernel set it, and we, holding the directory's lock, set
it to a nanosecond of our own when we have done.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meta_cni.cni.result import Address
from meta_cni.ipam import reservations
from meta_cni.ipam.reservations import Reservation
from meta_cni.recent import Recent

MOST = 256
"""Directories at a time; one of which nothing is remembered is read."""


@dataclass(slots=True)
class _Known:
    """One directory."""

    stamp: tuple[int, int]
    names: set[str]
    by_container: dict[str, list[Reservation]]
    marks: dict[int, Address]
    """The last address of each range set, as far as it is known."""


class Directories:
    """Looks into directories, and changes them; their locks are held by the caller."""

    def __init__(self, *, is_remembering: bool = False) -> None:
        """A single call has nothing to remember."""
        self._is_remembering = is_remembering
        self._known: Recent[Path, _Known] = Recent(MOST)

    def held(self, directory: Path, container_id: str) -> list[Reservation]:
        """A container's reservations; the lock is not needed for it."""
        known = self._still_known(directory)
        if known is None:
            return reservations.listing(directory, container_id)
        return list(known.by_container.get(container_id, ()))

    def look(self, directory: Path, container_id: str) -> tuple[list[Reservation], Collection[str]]:
        """A container's reservations, and the names of all files."""
        if not self._is_remembering:
            names = reservations.names(directory)
            return reservations.listing(directory, container_id, among=names), frozenset(names)
        known = self._still_known(directory) or self._read(directory)
        return list(known.by_container.get(container_id, ())), known.names

    def last_reserved(self, directory: Path, index: int) -> Address | None:
        """As reservations.last_reserved(); whoever marks an address also makes a file, which is seen."""
        known = self._still_known(directory)
        if known is None:
            return reservations.last_reserved(directory, index)
        if index not in known.marks:
            found = reservations.last_reserved(directory, index)
            if found is None:
                return None
            known.marks[index] = found
        return known.marks[index]

    def write(
        self,
        directory: Path,
        addresses: Sequence[Address],
        owner: tuple[str, str],
        marks: Mapping[int, Address],
    ) -> None:
        """As reservations.write()."""
        known = self._known.pop(directory)
        reservations.write(directory, addresses, owner, marks)
        if known is None:
            return
        known.names.update(str(each) for each in addresses)
        known.names.update(f"{reservations.LAST_RESERVED}{index}" for index in marks)
        own = known.by_container.setdefault(owner[0], [])
        own += (Reservation(each, f"{directory}/{each}", *owner) for each in addresses)
        known.marks.update(marks)
        self._remember(directory, known)

    def remove(self, directory: Path, gone: Iterable[Reservation]) -> None:
        """As reservations.remove()."""
        known = self._known.pop(directory)
        gone = list(gone)
        reservations.remove(gone)
        if known is None:
            return
        for each in gone:
            known.names.discard(os.path.basename(each.path))
            left = [other for other in known.by_container.get(each.container_id, ()) if other != each]
            known.by_container[each.container_id] = left
            if not left:
                del known.by_container[each.container_id]
        self._remember(directory, known)

    def _still_known(self, directory: Path) -> _Known | None:
        """What is remembered of a directory that nobody else has changed."""
        known = self._known.find(directory)
        return known if known is not None and known.stamp == _stamp(directory) else None

    def _read(self, directory: Path) -> _Known:
        self._known.pop(directory)
        by_container: dict[str, list[Reservation]] = {}
        names = reservations.names(directory)
        for each in reservations.listing(directory, among=names):
            by_container.setdefault(each.container_id, []).append(each)
        known = _Known((0, 0), set(names), by_container, {})
        self._remember(directory, known)
        return known

    def _remember(self, directory: Path, known: _Known) -> None:
        """Nothing is remembered where the time of a directory cannot be set, or only coarsely."""
        now = time.time_ns()
        with suppress(OSError):
            os.utime(directory, ns=(now, now))
            stamp = _stamp(directory)
            if stamp is not None and stamp[1] == now:
                known.stamp = stamp
                self._known.put(directory, known)


def _stamp(directory: Path) -> tuple[int, int] | None:
    """Inode and modification time in nanoseconds; None for a directory that is not there."""
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
