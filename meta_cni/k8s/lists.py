"""
A list of an API server, read object by object; pure.

As a whole, five thousand objects with all that nobody here reads are ten times what is kept of them,
and the memory that they had is no longer free for others: what is kept lies in between. So each is cut
before the next one is read. What is beside them may come first (core kinds) or last (custom resources).
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meta_cni.k8s.store import Object

BLANKS = re.compile(r"[ \t\n\r]*")  # RFC 8259, section 2
ITEMS, METADATA = "items", "metadata"
_read = json.JSONDecoder().raw_decode


@dataclass(slots=True)
class Page:
    """One answer to a list."""

    items: list[Object] = field(default_factory=list)
    metadata: Object = field(default_factory=dict)


def parse(content: bytes, keep: Callable[[Object], Object]) -> Page:
    """What is kept of each object, and what is told of all; raises ValueError where it is no list."""
    page = Page()
    text = _Text(content.decode())
    text.require("{")
    while not text.takes("}"):
        name = text.value()
        text.require(":")
        if name == ITEMS and text.takes("["):
            while not text.takes("]"):
                page.items.append(keep(text.value()))
                text.takes(",")
        elif (value := text.value()) and name == METADATA:
            page.metadata = value
        text.takes(",")
    return page


class _Text:
    """JSON, and how far it is read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def takes(self, mark: str) -> bool:
        """Whether this character is the next one; if so, it is read."""
        self._pass_blanks()
        is_next = self.text.startswith(mark, self.at)
        self.at += is_next
        return is_next

    def require(self, mark: str) -> None:
        """Raises ValueError when another character is the next one."""
        if not self.takes(mark):
            raise json.JSONDecodeError(f"Expecting {mark!r}", self.text, self.at)

    def value(self) -> Any:
        """The next value, whole; raises ValueError."""
        self._pass_blanks()
        value, self.at = _read(self.text, self.at)
        return value

    def _pass_blanks(self) -> None:
        found = BLANKS.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
