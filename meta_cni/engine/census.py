"""
What a ledger holds, counted for whoever watches a node.

It is asked every few seconds and must cost nobody anything: no lock of a sandbox is taken, and an
entry is read again only when its file is another one (every write is a rename).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from meta_cni.cni.errors import CNIError
from meta_cni.engine.ledger import Entry, Ledger


@dataclass(frozen=True, slots=True)
class Count:
    """The entries of one ledger."""

    entries: int
    incomplete: int
    """Those with an attachment that is not complete: it is being made, or could not be undone."""
    damaged: int
    """Those that cannot be trusted, set aside or not."""


@dataclass(frozen=True, slots=True)
class Known:
    """An entry that was read; None for one that cannot be."""

    mark: tuple[int, ...]
    is_complete: bool | None


class Census:
    """Counts one ledger, again and again."""

    def __init__(self, ledger: Ledger, learn: Callable[[Entry], None]) -> None:
        """`learn` is given every entry that is new or has changed."""
        self._ledger = ledger
        self._learn = learn
        self._known: dict[str, Known] = {}
        self._lock = threading.Lock()

    def count(self) -> Count:
        """As it is now. Raises IOFailure."""
        with self._lock:
            marks = self._ledger.marks()
            for name in self._known.keys() - marks.keys():
                del self._known[name]
            for name, mark in marks.items():
                if name not in self._known or self._known[name].mark != mark:
                    self._known[name] = Known(mark, self._read(name))
            states = [each.is_complete for each in self._known.values()]
            aside = len(self._ledger.damaged())
        return Count(len(states), states.count(False), states.count(None) + aside)

    def _read(self, container_id: str) -> bool | None:
        try:
            entry = self._ledger.read(container_id)
        except CNIError:
            return None
        if entry is None:  # undone since it was listed; the next count does not find it
            return True
        self._learn(entry)
        return all(each.result is not None for each in entry.records)
