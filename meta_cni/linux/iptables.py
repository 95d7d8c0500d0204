"""
The nat table of iptables, by its programs: listed by one, changed by one in one transaction.

`iptables-restore --noflush` changes what it is told and nothing else, for both of iptables'
kernel backends; where one line fails, none has an effect.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meta_cni.cni.errors import ProgramFailed
from meta_cni.linux import netfilter, program

PROGRAMS = {4: "iptables", 6: "ip6tables"}
FAMILIES = {4: "ip", 6: "ip6"}
TRIES = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the nat table; `text` is what follows -A or -D."""

    text: str
    chain: str
    source: str = ""
    destination: str = ""
    target: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Nat:
    """The chains of a name's beginning, their rules, and the rules that lead to them."""

    chains: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()


def works(version: int) -> bool:
    """Is the program there, and does it reach the kernel's nat table?"""
    try:
        _list(version)
    except ProgramFailed:
        return False
    return True


def read(version: int, prefix: str) -> Nat:
    """What there is of the chains whose names begin so, for one version of IP."""
    lines = [line for line in _list(version).splitlines() if f" {prefix}" in line]
    return Nat(
        frozenset(line.split()[1] for line in lines if line.startswith("-N ")),
        tuple(_rule(line) for line in lines if line.startswith("-A ")),
    )


def _list(version: int) -> str:
    return program.run([PROGRAMS[version], "-w", "-t", "nat", "-S"])


def _rule(line: str) -> Rule:
    words = shlex.split(line)
    options = {word: words[n + 1] for n, word in enumerate(words[:-1]) if word.startswith("-")}
    return Rule(
        text=line.removeprefix("-A "),
        chain=options["-A"],
        source=options.get("-s", ""),
        destination=options.get("-d", ""),
        target=options.get("-j", ""),
        comment=options.get("--comment", ""),
    )


def change(
    version: int, prefix: str, transaction: Callable[[Nat], Sequence[str]], found: Nat | None = None
) -> None:
    """Apply the lines that `transaction` makes of what there is, or was found; none change nothing."""
    for attempt in range(1, TRIES + 1):
        lines = transaction(found if found is not None else read(version, prefix))
        text = "".join(f"{line}\n" for line in ("*nat", *lines, "COMMIT"))
        try:
            if lines:
                program.run([f"{PROGRAMS[version]}-restore", "-w", "--noflush"], text)
            return
        except ProgramFailed as error:
            if attempt == TRIES or error.status is None:
                raise
            found = None


def change_if_there(
    version: int,
    prefix: str,
    transaction: Callable[[Nat], Sequence[str]],
    is_ours: Callable[[str], bool],
) -> None:
    """
    As change(), but where iptables is missing or does not reach the kernel there is nothing to change.

    That it fails for want of something else is seen by a chain of ours in the kernel. Of x_tables
    nobody tells the chains but the program.
    """
    if not program.find(PROGRAMS[version]):
        return
    try:
        found = read(version, prefix)
    except ProgramFailed as error:
        if error.status is None or any(map(is_ours, netfilter.chains(FAMILIES[version], "nat"))):
            raise
        return
    change(version, prefix, transaction, found)
