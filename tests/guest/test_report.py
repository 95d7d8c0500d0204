"""How the outcome of a test crosses from the guest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import report
from tests.guest.report import Outcome, Report

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent

SOURCE = """
import os
import time
import pytest

@pytest.fixture
def torn():
    yield
    assert False, "torn"

def test_passes(): time.sleep(0.3)
def test_fails(): print("printed"); assert 1 == 2
def test_skips(): pytest.skip("kernel has no warp")
@pytest.mark.xfail
def test_fails_as_expected(): assert False
def test_fails_at_its_end(torn): pass
def test_ends_all(): os._exit(7)
def test_is_never_run(): pass
"""


@pytest.fixture
def told(tmp_path: Path) -> Report:
    """The report of a run that breaks off."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_made_up.py").write_text(SOURCE)
    file = tmp_path / "report"
    environment = {**os.environ, report.FILE: str(file), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.guest.report", "-p", "no:cacheprovider"]

    assert 7 == subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode

    return Report.read(file.read_text().splitlines())


def test_every_outcome_is_told(told: Report):
    """A failure comes with its reason, and with what the test printed."""
    outcomes = {test.partition("::")[2]: outcome for test, outcome in told.outcomes.items()}
    failed = outcomes.pop("test_fails")
    torn = outcomes.pop("test_fails_at_its_end")

    assert {
        "test_passes": Outcome("passed"),
        "test_skips": Outcome("skipped", "kernel has no warp"),
        "test_fails_as_expected": Outcome("passed"),
    } == outcomes
    assert ("failed", "failed") == (failed.result, torn.result)
    assert "assert 1 == 2" in failed.text
    assert "printed" in failed.text
    assert "torn" in torn.text


def test_a_test_that_did_not_end_is_known_and_has_no_outcome(told: Report):
    """A guest that breaks down passes nothing."""
    unfinished = set(told.collected) - set(told.outcomes)

    assert {"test_ends_all", "test_is_never_run"} == {test.partition("::")[2] for test in unfinished}


def test_a_test_comes_out_as_it_did_there(told: Report):
    """The reason is the one of the guest."""
    tests = {test.partition("::")[2]: test for test in told.collected}

    told.repeat(tests["test_passes"])
    told.repeat(tests["test_fails_as_expected"])
    with pytest.raises(pytest.fail.Exception, match="assert 1 == 2"):
        told.repeat(tests["test_fails"])
    with pytest.raises(pytest.fail.Exception, match=r"^it did not get to its end$"):
        told.repeat(tests["test_is_never_run"])


def test_what_a_test_took_there_is_known(told: Report):
    """All of its parts together."""
    (slow,) = (test for test in told.collected if test.endswith("::test_passes"))

    assert 0.3 <= told.seconds[slow]


def test_to_skip_for_want_of_a_feature_is_a_failure_there(told: Report):
    """The guest is there to have what other kernels lack."""
    tests = {test.partition("::")[2]: test for test in told.collected}

    with pytest.raises(pytest.fail.Exception, match=r"^kernel has no warp$"):
        told.repeat(tests["test_skips"])


def test_any_other_reason_to_skip_is_one_here():
    """The guest's programs are those of the machine."""
    with pytest.raises(pytest.skip.Exception, match=r"^no podman$"):
        Report({}, {"test_it": Outcome("skipped", "no podman")}, {}).repeat("test_it")
