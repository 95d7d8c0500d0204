"""
What a process that stays keeps by names that others choose: the most recently used, and no more.

A network's name, range and directory stand in objects that come and go for as long as a node lives,
so whatever is kept by them grows unless it is forgotten.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A mapping with a bound, for several threads."""

    def __init__(self, most: int, forget: Callable[[Key], object] = lambda _: None) -> None:
        """`forget` is told of each key that has to go, by the thread that puts another one."""
        self._most = most
        self._forget = forget
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def put(self, key: Key, value: Value) -> None:
        """Keep it; what was not used for longest goes."""
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            gone = [self._kept.popitem(last=False)[0] for _ in range(len(self._kept) - self._most)]
        for each in gone:
            self._forget(each)

    def find(self, key: Key) -> Value | None:
        """What is kept of it, which is used by that; None when there is nothing."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def pop(self, key: Key) -> Value | None:
        """Forget it; returns what was kept."""
        with self._lock:
            return self._kept.pop(key, None)

    def items(self) -> list[tuple[Key, Value]]:
        """All of it as it is now."""
        with self._lock:
            return list(self._kept.items())
