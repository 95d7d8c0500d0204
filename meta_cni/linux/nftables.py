"""
nftables by its program: rules are found by their comments, and changed in one transaction.

Either all commands of a transaction take effect or none. What was listed before may have been
changed by somebody else meanwhile: then the transaction fails, and it is made anew.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha512
from typing import Any

from meta_cni.cni.errors import ProgramFailed
from meta_cni.linux import netfilter, program

NAME = "nft"
COMMENT_BYTES = 128  # NFT_USERDATA comment, NFTNL_UDATA_COMMENT_MAXLEN (<libnftnl/udata.h>)
TRIES = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as far as it tells whose it is."""

    chain: str
    handle: int
    comment: str
    expression: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table: one that is not there has neither chains nor rules."""

    family: str
    name: str
    chains: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()


def works() -> bool:
    """Is the program there, and does it reach the kernel?"""
    try:
        program.run([NAME, "-j", "list", "tables"])
    except ProgramFailed:
        return False
    return True


def read(family: str, name: str) -> Table:
    """
    A table as it is now.

    A listing of a table that is not there fails like any other, with a text alone; so the
    tables are listed then.
    """
    try:
        printed = program.run([NAME, "-j", "list", "table", family, name])
    except ProgramFailed:
        tables = _objects(program.run([NAME, "-j", "list", "tables"]), "table")
        if any((each["family"], each["name"]) == (family, name) for each in tables):
            raise
        return Table(family, name)
    return Table(
        family,
        name,
        frozenset(each["name"] for each in _objects(printed, "chain")),
        tuple(
            Rule(each["chain"], each["handle"], each.get("comment", ""), tuple(each.get("expr", ())))
            for each in _objects(printed, "rule")
        ),
    )


def _objects(printed: str, kind: str) -> Iterator[dict[str, Any]]:
    try:
        listed = json.loads(printed)["nftables"]
    except (ValueError, KeyError, TypeError):
        raise ProgramFailed(f"run {NAME} -j: expected its rules as JSON, got {printed[:60]!r}") from None
    return (each[kind] for each in listed if kind in each)


def change(family: str, name: str, transaction: Callable[[Table], str], found: Table | None = None) -> None:
    """Apply what `transaction` makes of the table as it is, or was found; an empty text changes nothing."""
    for attempt in range(1, TRIES + 1):
        commands = transaction(found if found is not None else read(family, name))
        form = ["-j"] if commands.startswith("{") else []
        try:
            if commands:
                program.run([NAME, *form, "-f", "-"], commands)
            return
        except ProgramFailed as error:
            if attempt == TRIES or error.status is None:
                raise
            found = None


def change_if_there(
    family: str, name: str, transaction: Callable[[Table], str], is_ours: Callable[[str], bool]
) -> None:
    """
    As change(), but where nft is missing or does not reach the kernel there is nothing to change.

    That it fails for want of something else is seen by a chain of ours in the kernel.
    """
    if not program.find(NAME):
        return
    try:
        found = read(family, name)
    except ProgramFailed as error:
        if error.status is None or works() or any(map(is_ours, netfilter.chains(family, name))):
            raise
        return
    change(family, name, transaction, found)


def as_json(commands: Sequence[Mapping[str, Any]]) -> str:
    """Commands in the form that takes any name (libnftables-json(5)); none is an empty text."""
    return json.dumps({"nftables": list(commands)}) if commands else ""


def digest(text: str) -> str:
    """16 hexadecimal digits that stand for a text, as in the reference's comments."""
    return sha512(text.encode()).hexdigest()[:16]


def comment(text: str) -> str:
    """A text as a comment: without what would end it, and no longer than one may be."""
    return text.replace('"', "").encode()[:COMMENT_BYTES].decode(errors="ignore")
