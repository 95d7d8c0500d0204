"""
Whatever happens to pods, and in whichever order: in the end nothing is left.

    make sequences                   10 000 sequences
    SEQUENCES=500 pytest ...         so many
    SEQUENCE_SEED=4711 pytest ...    the one that failed, once more
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import delegates
from meta_cni.linux.netlink import Socket
from tests.netns.sequences import ALONE, CHAINED, INTERFACES, Life, Place, PluginLife, Sequence

KINDS: tuple[type[Sequence], ...] = (Life, PluginLife)
SETTLE_S = 10.0
BATCH = 25
"""Sequences a test, so that a failure is told before all are through."""


def seeds() -> list[int]:
    """The one that is asked for, or as many others as are asked for: each run lives other lives."""
    if "SEQUENCE_SEED" in os.environ:
        return [int(os.environ["SEQUENCE_SEED"])]
    first = random.SystemRandom().randrange(1 << 32)
    return list(range(first, first + int(os.environ.get("SEQUENCES", "100"))))


@pytest.fixture
def place(tmp_path: Path, host: Socket) -> Iterator[Place]:
    """A node."""
    made = Place(tmp_path, host)
    made.prepare()
    yield made
    made.close()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is there that was not, and the other way round."""
    return [f"{key}: {before[key]} -> {value}" for key, value in after.items() if value != before[key]]


def settled(sequence: Sequence, before: dict[str, Any]) -> list[str]:
    """What is left when the kernel has cleaned up behind a namespace that went away; it takes its time."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        left = differences(before, sequence.place.state(with_filters=sequence.uses_filters))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def live(seed: int, kind: type[Sequence], place: Place) -> None:
    """One sequence; a failure says how to live it again."""
    sequence = kind(seed, place)
    before = place.state(with_filters=True)
    try:
        sequence.run()  # type: ignore[attr-defined]
        assert [] == settled(sequence, before)
    except BaseException:
        print(f"SEQUENCE_SEED={seed} {kind.__name__}:", *sequence.calls, sep="\n  ")
        raise
    finally:
        place.restore()


def test_every_built_in_plugin_has_a_part():
    """One that nobody plays is one that nobody tests."""
    assert set(delegates.BUILTIN) <= {*INTERFACES, *CHAINED, *ALONE}


def test_a_few_sequences_leave_nothing(place: Place):
    """In every run of the tests."""
    for seed in seeds()[:4]:
        for kind in KINDS:
            live(seed, kind, place)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(0, int(os.environ.get("SEQUENCES", "100")), BATCH))
@pytest.mark.parametrize("kind", KINDS)
def test_sequences_leave_nothing(place: Place, kind: type[Sequence], batch: int):
    """Half of them by the engine, half by single plugins."""
    for seed in seeds()[batch : batch + BATCH]:
        live(seed, kind, place)
