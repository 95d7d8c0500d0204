"""
Our host-local and the reference's, side by side: the same answers, the same files, one directory.

A node is taken over while its pods live, and may be given back: each program must release what
the other handed out, and both may hand out at once.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meta_cni import ipam
from meta_cni.cni.config import PluginConfig, parse_plugin
from meta_cni.cni.errors import CNIError
from meta_cni.cni.request import parse_args
from meta_cni.cni.result import Result, parse, to_json

REFERENCE = next(
    (each for each in ("/opt/cni/bin/host-local", "/usr/lib/cni/host-local") if Path(each).exists()), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE, reason="the reference host-local is not installed"),
]

ROOT = Path(__file__).parent.parent.parent
PROCESSES = 8
ALLOCATIONS = 40

Answer = tuple[dict[str, Any] | None, str]
"""The Result, or None; and the error's text."""

DIFFERENCES = {
    # Our errors say what was done, not that it failed.
    "failed to ": "",
    # It is in the network, but behind the end.
    "RangeStart 10.0.0.5 not in network 10.0.0.0/29": "RangeStart 10.0.0.5 is after RangeEnd 10.0.0.3",
    # We name the range by its keys, ranges[0][0], before the text.
    "invalid range set 0: Network": "Network",
    "invalid range set 0: Range": "Range",
    # We say what would be right.
    "invalid CIDR address: bogus": 'subnet "bogus": expected a network in CIDR notation',
    "invalid range set 0: empty range set": "expected a list of range sets, each a list of ranges",
    'ARGS: error parsing value of pair "IP=bogus": invalid IP address bogus': "requested IP 'bogus'",
}
"""The reference's texts -> ours, where they are meant to differ; what follows ours explains more."""


@dataclass(frozen=True)
class Case:
    """The ipam section (without dataDir), and whatever else is asked."""

    ranges: object = None
    arguments: str = ""
    container: str = "c1"
    command: str = "ADD"
    ipam: tuple[tuple[str, object], ...] = ()
    config: tuple[tuple[str, object], ...] = ()

    def document(self, directory: Path) -> dict[str, object]:
        """The standard input."""
        section = {"type": "host-local", "dataDir": str(directory), **dict(self.ipam)}
        if self.ranges is not None:
            section["ranges"] = self.ranges
        return {"cniVersion": "1.0.0", "name": "blue", "type": "bridge", **dict(self.config), "ipam": section}


def by_reference(case: Case, directory: Path) -> Answer:
    """Execute the reference plugin."""
    environment = {
        "CNI_COMMAND": case.command,
        "CNI_CONTAINERID": case.container,
        "CNI_NETNS": "/run/netns/any",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": case.arguments,
        "CNI_PATH": "/nowhere",
    }
    text = json.dumps(case.document(directory))
    done = subprocess.run(
        [REFERENCE], input=text, env=environment, capture_output=True, text=True, timeout=30
    )
    document = json.loads(done.stdout) if done.stdout else {}
    if done.returncode:
        return None, document["msg"]
    return to_json(parse(document, "1.0.0"), "1.0.0"), ""


def by_us(case: Case, directory: Path) -> Answer:
    """Ask our own."""
    try:
        plugin: PluginConfig = parse_plugin(json.dumps(case.document(directory)), "network blue")
        addresses = ipam.open_addresses(
            plugin,
            container_id=case.container,
            interface="eth0",
            cni_args=parse_args(case.arguments),
            environment={},
            deadline_s=30,
            policy="builtin",
        )
        if case.command == "DEL":
            addresses.release()
            return to_json(Result(), "1.0.0"), ""
        return to_json(addresses.acquire(), "1.0.0"), ""
    except CNIError as error:
        return None, error.message


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything."""
    return {
        str(each.relative_to(directory)): (each.stat().st_mode, each.read_bytes() if each.is_file() else b"")
        for each in sorted(directory.rglob("*"))
    }


TINY = [[{"subnet": "10.0.0.0/29"}]]
DUAL = [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "10.5.0.0/16", "gw": "10.0.0.3"}]


def several(ranges: object, count: int, **more: Any) -> list[Case]:
    """ADDs of several containers."""
    return [Case(ranges, container=f"c{number}", **more) for number in range(count)]


SEQUENCES = {
    "dual stack with routes": [Case(DUAL, ipam=(("routes", ROUTES),))],
    "older keys": [
        Case(ipam=(("subnet", "10.0.0.0/24"), ("rangeStart", "10.0.0.9"), ("gateway", "10.0.0.254")))
    ],
    "older keys and ranges": [Case([[{"subnet": "fd00::/64"}]], ipam=(("subnet", "10.0.0.0/24"),))],
    "until it is full": several(TINY, 7),
    "with the ends": several(
        [
            [
                {
                    "subnet": "10.0.0.0/29",
                    "rangeStart": "10.0.0.0",
                    "rangeEnd": "10.0.0.7",
                    "gateway": "10.0.0.7",
                }
            ]
        ],
        9,
    ),
    "several ranges of a set": several(
        [[{"subnet": "fd00::/126"}, {"subnet": "fd00:0:0:1::/126", "rangeStart": "fd00:0:0:1::2"}]], 5
    ),
    "odd IPv6": several([[{"subnet": "2001:db8:0:0:1::/80"}], [{"subnet": "2001:0:0:1::/64"}]], 2),
    "in turn": [
        *several(TINY, 4),
        *several(TINY, 2, command="DEL"),
        *(Case(TINY, container=f"d{number}") for number in range(4)),
    ],
    "twice": [Case(DUAL), Case(DUAL)],
    "deleted twice": [Case(DUAL), Case(DUAL, command="DEL"), Case(DUAL, command="DEL")],
    "ranges of the runtime": [
        Case([[{"subnet": "fd00::/64"}]], config=(("runtimeConfig", {"ipRanges": TINY}),)),
    ],
    "asked for": [
        Case(TINY, arguments="IgnoreUnknown=1;IP=10.0.0.5"),
        Case(TINY, container="c2", arguments="IgnoreUnknown=1;IP=10.0.0.5"),
        Case(TINY, container="c3", arguments="IP=10.0.0.1"),
        Case(DUAL, container="c4", config=(("args", {"cni": {"ips": ["10.0.0.6/24", "fd00::6"]}}),)),
        Case(
            TINY,
            container="c5",
            arguments="IP=10.0.0.4",
            config=(("args", {"cni": {"ips": ["10.0.0.4/29"]}}), ("runtimeConfig", {"ips": ["10.0.0.4"]})),
        ),
    ],
    "host bits": [Case([[{"subnet": "10.0.0.1/29"}]])],
    "too small": [Case([[{"subnet": "10.0.0.0/31"}]])],
    "start outside": [Case([[{"subnet": "10.0.0.0/29", "rangeStart": "10.1.1.1"}]])],
    "end outside": [Case([[{"subnet": "10.0.0.0/29", "rangeEnd": "10.1.1.1"}]])],
    "wrong order": [Case([[{"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.5", "rangeEnd": "10.0.0.3"}]])],
    "overlapping sets": [Case([[{"subnet": "10.0.0.0/29"}], [{"subnet": "10.0.0.0/24"}]])],
    "overlap in a set": [Case([[{"subnet": "10.0.0.0/29"}, {"subnet": "10.0.0.0/24"}]])],
    "mixed families": [Case([[{"subnet": "10.0.0.0/29"}, {"subnet": "fd00::/64"}]])],
    "an empty set": [Case([[]])],
    "no ranges": [Case()],
    "no network": [Case([[{"subnet": "bogus"}]])],
    "no address": [Case(TINY, arguments="IP=bogus")],
    "two of a family in 0.2.0": [
        Case([[{"subnet": "10.0.0.0/29"}], [{"subnet": "10.5.0.0/24"}]], config=(("cniVersion", "0.2.0"),))
    ],
}


@pytest.mark.parametrize("cases", SEQUENCES.values(), ids=SEQUENCES)
def test_both_give_the_same_answers_and_leave_the_same_files(cases: list[Case], tmp_path: Path):
    """Modes included; errors say the same, with the listed differences."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"

    for case in cases:
        (expected, words), (actual, message) = by_reference(case, theirs), by_us(case, ours)

        assert expected == actual, message
        assert in_our_words(words) in message
    assert files_apart_from_a_failed_first_add(theirs) == files(ours)


def in_our_words(text: str) -> str:
    """An error of the reference as we say it."""
    for theirs, ours in DIFFERENCES.items():
        text = text.replace(theirs, ours)
    return text


def files_apart_from_a_failed_first_add(directory: Path) -> dict[str, tuple[int, bytes]]:
    """The reference leaves an empty network behind a failed first ADD; we leave nothing."""
    found = files(directory)
    return {} if set(found) <= {"blue", "blue/lock"} else found


def test_what_was_asked_for_in_vain_moves_only_the_reference_s_mark(tmp_path: Path):
    """A difference that is meant: a failed ADD of ours leaves everything as it was."""
    in_vain = Case(TINY, container="c2", config=(("args", {"cni": {"ips": ["10.0.0.6", "10.0.0.4"]}}),))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"

    for program, directory in ((by_reference, theirs), (by_us, ours)):
        program(Case(TINY), directory)
        assert "allocate all requested IPs: 10.0.0." in program(in_vain, directory)[1]

    assert b"10.0.0.2" == (ours / "blue" / "last_reserved_ip.0").read_bytes()
    assert {name for name in files(theirs)} == {name for name in files(ours)}


def test_each_releases_what_the_other_handed_out(tmp_path: Path):
    """A node is taken over with its pods, and given back."""
    for number, (one, other) in enumerate(((by_us, by_reference), (by_reference, by_us))):
        given, _ = one(Case(DUAL, container=f"c{number}"), tmp_path)
        assert given is not None
        assert "duplicate allocation is not allowed" in other(Case(DUAL, container=f"c{number}"), tmp_path)[1]

        other(Case(DUAL, container=f"c{number}", command="DEL"), tmp_path)

        assert {"last_reserved_ip.0", "last_reserved_ip.1", "lock"} == set(os.listdir(tmp_path / "blue"))


def test_each_continues_where_the_other_stopped(tmp_path: Path):
    """One round robin for both."""
    programs = (by_us, by_reference) * 3

    found = [program(Case(DUAL, container=f"c{n}"), tmp_path)[0] for n, program in enumerate(programs)]

    assert [f"10.0.0.{2 + n}/24" for n in range(6)] == [each and each["ips"][0]["address"] for each in found]


OURS = """
import json, sys
from pathlib import Path
from tests.netns.test_host_local_beside_reference import DUAL, Case, by_us
for number in range(int(sys.argv[3])):
    answer, message = by_us(Case(DUAL, container=f"o{sys.argv[2]}-{number}"), Path(sys.argv[1]))
    print(answer["ips"][0]["address"] if answer else message)
"""


def allocate_by_us(directory: Path, number: int) -> list[str]:
    """A process of ours that allocates again and again."""
    command = [sys.executable, "-c", OURS, str(directory), str(number), str(ALLOCATIONS // PROCESSES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()


def allocate_by_reference(directory: Path, number: int) -> list[str]:
    """The reference's processes, one an allocation."""
    found = []
    for each in range(ALLOCATIONS // PROCESSES):
        answer, message = by_reference(Case(DUAL, container=f"r{number}-{each}"), directory)
        found.append(answer["ips"][0]["address"] if answer else message)
    return found


def test_both_at_once_never_hand_out_an_address_twice(tmp_path: Path):
    """Eight processes of each, forty allocations of each, one directory."""
    with ThreadPoolExecutor(2 * PROCESSES) as pool:
        running = [
            pool.submit(program, tmp_path, number)
            for number in range(PROCESSES)
            for program in (allocate_by_us, allocate_by_reference)
        ]
        found = [address for each in running for address in each.result()]

    expected = {f"10.0.0.{2 + number}/24" for number in range(2 * ALLOCATIONS)}
    assert (2 * ALLOCATIONS, expected) == (len(found), set(found))
