"""Random calls over random networks, by workers of their own; afterwards nothing may be left."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

import delegates
from tests.netns import drawing

SEQUENCES = int(os.environ.get("SEQUENCES", "100"))
"""How many there are; `make sequences` runs 10 000."""
SEED = os.environ.get("SEQUENCE_SEED", "")
"""The only one to run, as a failure names it."""
WORKERS = 3 * (os.cpu_count() or 1)
"""Most of the time a sequence waits for the kernel."""
PROGRAM = (sys.executable, "-m", "tests.netns.sequences")


def failures(first: int, count: int) -> Sequence[str]:
    """What the workers tell; each runs every so many-th of the sequences on a node of its own."""
    step = min(WORKERS, count)
    started = [
        subprocess.Popen(
            [*PROGRAM, str(first + number), str(step), str(len(range(number, count, step)))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(step)
    ]
    told = [(each.communicate()[0], each.returncode) for each in started]
    return [f"{text} (exit code {code})" for text, code in told if code != 0]


def test_every_builtin_has_a_generator():
    """None is forgotten, the newest one neither."""
    assert set(delegates.BUILTIN) <= {*drawing.FIRST, *drawing.CHAINED}


@pytest.mark.skipif(bool(SEED), reason="one sequence was asked for")
def test_nothing_is_left_after_a_few_sequences():
    """What `make check` has time for; none of them is among those of the long run."""
    assert [] == failures(1_000_000, 6)


@pytest.mark.slow
def test_nothing_is_left_after_any_sequence_of_calls():
    """ADD, DEL, repeated DEL, CHECK, failing ADD and GC, by the engine and by plugins of their own."""
    told = failures(int(SEED), 1) if SEED else failures(0, SEQUENCES)

    assert [] == told, "\n\n".join(told)
