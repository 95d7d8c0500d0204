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
from collections.abc import Sequence
from dataclasses import dataclass, field

from meta_cni.cni.result import Address
from meta_cni.ipam import reservations
from meta_cni.ipam.reservations import LAST_RESERVED, Reservation
from meta_cni.recent import Recent

MOST = 256
"""Directories at a time; one of which nothing is remembered is read."""


@dataclass(slots=True)
class Contents:
    """What one directory holds."""

    directory: str
    names: set[str]
    """Of all files."""
    by_container: dict[str, list[Reservation]]
    """Of the container that asked, or of all where that is remembered."""
    inode: int = 0
    left_ns: int | None = None
    """The modification time that we have given it; None while it has none of ours."""
    _marks: dict[int, Address] = field(default_factory=dict)
    """The last address of each range set, as far as it is known."""

    def of(self, container_id: str) -> list[Reservation]:
        """A container's reservations."""
        return list(self.by_container.get(container_id, ()))

    def last_reserved(self, index: int) -> Address | None:
        """As reservations.last_reserved(); whoever marks an address also makes a file, which is seen."""
        known = self._marks.get(index)
        if known is None:
            known = reservations.last_reserved(self.directory, index)
            if known is not None:
                self._marks[index] = known
        return known

    def learn(self, made: Sequence[Reservation]) -> None:
        """What was written, one of each range set."""
        for index, each in enumerate(made):
            self.names.update((each.name, f"{LAST_RESERVED}{index}"))
            self.by_container.setdefault(each.container_id, []).append(each)
            self._marks[index] = each.address

    def forget(self, gone: Sequence[Reservation]) -> None:
        """What was removed."""
        for each in gone:
            self.names.discard(each.name)
            left = [other for other in self.of(each.container_id) if other != each]
            if left:
                self.by_container[each.container_id] = left
            else:
                self.by_container.pop(each.container_id, None)


class Directories:
    """Looks into directories, and changes them; their locks are held by the caller."""

    def __init__(self, *, is_remembering: bool = False) -> None:
        """A single call has nothing to remember."""
        self._known: Recent[str, Contents] | None = Recent(MOST) if is_remembering else None

    def held(self, directory: str, container_id: str) -> list[Reservation]:
        """A container's reservations; the lock is not needed for it."""
        known = self._still_known(directory)
        return reservations.listing(directory, container_id) if known is None else known.of(container_id)

    def look(self, directory: str, container_id: str) -> Contents:
        """What is there now, the container's reservations among it."""
        if self._known is None:
            names = reservations.names(directory)
            mine = reservations.listing(directory, container_id, among=names)
            return Contents(directory, set(names), {container_id: mine})
        return self._still_known(directory) or self._read(directory, self._known)

    def write(self, contents: Contents, wanted: Sequence[Reservation]) -> None:
        """As reservations.write(), into a directory that was looked into."""
        contents.left_ns = None
        reservations.write(contents.directory, wanted)
        if self._known is not None:
            contents.learn(wanted)
            _leave(contents)

    def remove(self, contents: Contents, gone: Sequence[Reservation]) -> None:
        """As reservations.remove(), from a directory that was looked into."""
        if not gone:
            return
        contents.left_ns = None
        reservations.remove(gone)
        if self._known is not None:
            contents.forget(gone)
            _leave(contents)

    def _still_known(self, directory: str) -> Contents | None:
        """What is remembered of a directory that nobody else has changed."""
        known = self._known.find(directory) if self._known is not None else None
        return known if known is not None and (known.inode, known.left_ns) == _stamp(directory) else None

    def _read(self, directory: str, known: Recent[str, Contents]) -> Contents:
        """Nothing is remembered where the time of a directory cannot be set, or only coarsely."""
        known.pop(directory)
        by_container: dict[str, list[Reservation]] = {}
        names = reservations.names(directory)
        for each in reservations.listing(directory, among=names):
            by_container.setdefault(each.container_id, []).append(each)
        contents = Contents(directory, set(names), by_container)
        _leave(contents)
        stamp = _stamp(directory)
        if stamp is not None and stamp[1] == contents.left_ns:
            contents.inode = stamp[0]
            known.put(directory, contents)
        return contents


def _leave(contents: Contents) -> None:
    """Give a directory a time of our own, by which it is known again; where that cannot be, it is not."""
    now = time.time_ns()
    try:
        os.utime(contents.directory, ns=(now, now))
    except OSError:
        return
    contents.left_ns = now


def _stamp(directory: str) -> tuple[int, int] | None:
    """Inode and modification time in nanoseconds; None for a directory that is not there."""
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
