"""Runtimes at work while their daemon is killed again and again."""

import os
import subprocess
import sys

import pytest

from tests.netns import daemons

SECONDS = os.environ.get("SOAK_S", "30")
"""How long they work; `make soak` says 600."""
SEED = os.environ.get("SOAK_SEED", "1")
"""As a failure names it."""


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_left_though_the_daemon_is_killed_at_any_moment():
    """What was answered is there, with its traffic; what was not answered or was deleted is not."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.netns.soak", SEED, SECONDS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=daemons.TOP,
    )

    print(done.stdout)
    assert 0 == done.returncode, done.stdout
