"""Random calls over random networks, by workers of their own; afterwards nothing may be left."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import delegates
from tests.guest.boots import KERNEL
from tests.netns import drawing

SEQUENCES = int(os.environ.get("SEQUENCES", "100"))
"""How many there are; `make sequences` runs 10 000."""
SEED = os.environ.get("SEQUENCE_SEED", "")
"""The only one to run, as a failure names it."""
WORKERS = 1 if KERNEL.is_running else 3 * (os.cpu_count() or 1)
"""Most of the time a sequence waits for the kernel; an emulated processor is slow to start Python."""
A_FEW = 15 if KERNEL.is_running else 6
"""The guest has links of more kinds to draw from."""
PROGRAM = (sys.executable, "-m", "tests.netns.sequences")
TOP = Path(__file__).parents[2]
SABOTAGED = """
from delegates import host_device, tuning
from meta_cni.ipam import reservations
from meta_cni.linux import link, netns
from tests.netns import leftovers, sequences
leftovers.DEADLINE_S = 0.5
netns.enter_private()
worker = sequences.Worker()
{sabotage}
for seed in range({first}, {first} + {count}):
    worker.run(seed)
"""
"""Sequences by code that forgets something."""


def failures(first: int, count: int) -> Sequence[str]:
    """What the workers tell; each runs every so many-th of the sequences on a node of its own."""
    step = min(WORKERS, count)
    started = [
        subprocess.Popen(
            [*PROGRAM, str(first + number), str(step), str(len(range(number, count, step)))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=TOP,
        )
        for number in range(step)
    ]
    told = [(each.communicate()[0], each.returncode) for each in started]
    return [f"{text} (exit code {code})" for text, code in told if code != 0]


def test_every_builtin_has_a_generator():
    """None is forgotten, the newest one neither; sriov has its own sequences, on a card (test_sriov.py)."""
    assert set(delegates.BUILTIN) <= {*drawing.FIRST, *drawing.CHAINED, "sriov"}


@pytest.mark.guest
@pytest.mark.skipif(bool(SEED), reason="one sequence was asked for")
def test_nothing_is_left_after_a_few_sequences():
    """What `make check` has time for; none of them is among those of the long run."""
    assert [] == failures(1_000_000, A_FEW)


@pytest.mark.slow
def test_nothing_is_left_after_any_sequence_of_calls():
    """ADD, DEL, repeated DEL, CHECK, failing ADD and GC, by the engine and by plugins of their own."""
    told = failures(int(SEED), 1) if SEED else failures(0, SEQUENCES)

    assert [] == told, "\n\n".join(told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "told"),
    [
        ("tuning._remove = lambda path: None", r"\+ /run/sequences/\d+/tuning/p"),
        ("reservations.remove = lambda found: None", r"\+ /run/sequences/\d+/ipam/"),
        (
            "link.remove_group = link.remove = lambda *given: None",
            r"/run/netns/pod\d+: \+ \d+: eth|: eth.* already",
        ),
        ("host_device.layer3.remove_rules = lambda *given: None", r"\+ \d+:\s+from 198\.18\.\d+\.2 "),
        (
            "import subprocess\n"
            "sequences.Sequence._finish = lambda self: subprocess.run(['ip', 'rule', 'add', 'pref', '7'])",
            r"\+ 7:",
        ),
    ],
)
def test_what_is_forgotten_is_told_with_the_seed_that_shows_it_again(sabotage: str, told: str):
    """A test that could not fail would be none."""

    def run(first: int, count: int) -> str:
        text = SABOTAGED.format(sabotage=sabotage, first=first, count=count)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=TOP)
        assert done.returncode == 1, done.stdout
        return done.stderr

    first = run(0, 100)
    seeds = re.findall(r"SEQUENCE_SEED=(\d+)", first)
    again = run(int(seeds[0]), 1) if seeds else ""

    assert re.search(told, first)
    assert re.search(told, again)
