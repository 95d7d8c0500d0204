"""
What a node and its pods have that they had not before, by iproute2, nft and iptables: none of our code.

A state is a set of lines, so that two of them are compared and told line by line.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from meta_cni.linux import netns

DEADLINE_S = 60.0
"""The kernel takes links and namespaces away in its own time."""
PAUSE_S = 0.005
ALL = "link show\naddr show\nroute show table all\nrule show\n"
L3MDEV = re.compile(r"1000:\s+from all lookup \[l3mdev-table\]")
"""The kernel's own, which the first VRF of a namespace brings and the last one leaves (vrf_add_fib_rules)."""
ALL_6 = "route show table all\nrule show\n"
TRANSIENT = re.compile(r" (state \w+|tentative|dadfailed|dynamic|valid_lft \w+|preferred_lft \w+|counter .*)")
KEPT = ("lock", "last_reserved_ip.")
"""What host-local keeps of a network, as the reference does."""
OBJECTS = "objects"
"""The file store's directories: what it says of a pod is the API's to remove."""
NAT = ("iptables-save", "ip6tables-save")


def _lines(*command: str, given: str = "") -> set[str]:
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
    lines = {TRANSIENT.sub("", each).strip() for each in done.stdout.splitlines()}
    return {each for each in lines if not L3MDEV.fullmatch(each)}


def of_namespace() -> set[str]:
    """Links, addresses, routes and rules in the namespace of the calling thread."""
    return _lines("ip", "-o", "-batch", "-", given=ALL) | _lines("ip", "-6", "-o", "-batch", "-", given=ALL_6)


def of_packet_filters() -> set[str]:
    """Every rule and chain; of iptables, those that are not nft's under another name."""
    found = _lines("nft", "list", "ruleset") if shutil.which("nft") else set()
    for each in _nat_programs():
        lines = _lines(each, "-t", "nat")
        found |= {f"{each} {line.split(' [')[0]}" for line in lines if not line.startswith("#")}
    return found


@cache
def _nat_programs() -> tuple[str, ...]:
    """What lists rules that nft does not know."""
    present = [each for each in NAT if shutil.which(each)]
    versions = [(each, " ".join(_lines(each, "--version"))) for each in present]
    return tuple(each for each, version in versions if not (shutil.which("nft") and "nf_tables" in version))


def of_node() -> set[str]:
    """Everything on the node, which the calling thread is in, but files."""
    return of_namespace() | of_packet_filters()


def of_pod(descriptor: int) -> set[str]:
    """What is in a pod's namespace; its `lo` may be up or down."""
    return {
        each for each in netns.run_in(descriptor, of_namespace) if not re.search(r"^1: lo\b|dev lo\b", each)
    }


def of_files(*directories: Path) -> set[str]:
    """The files that are not there for good."""
    return {
        str(each)
        for directory in directories
        for each in directory.rglob("*")
        if each.is_file() and not each.name.startswith(KEPT) and OBJECTS not in each.parts
    }


def difference(before: set[str], now: set[str]) -> list[str]:
    """What came and what went, a line each."""
    return [*(f"+ {each}" for each in sorted(now - before)), *(f"- {each}" for each in sorted(before - now))]


def wait_for(look: Callable[[], list[str]]) -> list[str]:
    """What is still left when nothing goes away any more: empty as soon as it is."""
    deadline = time.monotonic() + DEADLINE_S
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    return left
