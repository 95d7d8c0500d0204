"""What tests/conftest.py promises, shown on runs of made-up tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
CONFTEST = Path(__file__).parent.parent / "conftest.py"

Runner = Callable[..., subprocess.CompletedProcess[str]]

SKIPPING = """
import pytest

@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_ipvlan(mode):
    pytest.skip({reason!r})

def test_bridge():
    pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Run pytest with our conftest over one made-up test module."""

    def run_pytest(source: str, *options: str, ci: str = "") -> subprocess.CompletedProcess[str]:
        shutil.copy(CONFTEST, tmp_path)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        (tmp_path / "test_made_up.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_cov", *options]
        ours = {key: text for key, text in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
        environment = {**ours, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run_pytest


def test_skipped_tests_are_listed_by_reason(run: Runner):
    """Whoever reads the summary knows what this machine did not prove."""
    finished = run(SKIPPING.format(reason="kernel has no ipvlan"))

    line = (
        "skipped because kernel has no ipvlan: 2 tests: "
        "test_made_up.py::test_ipvlan[l2], test_made_up.py::test_ipvlan[l3]"
    )
    assert line in finished.stdout.splitlines()
    assert 0 == finished.returncode


def test_a_module_that_skips_as_a_whole_is_listed(run: Runner):
    """importorskip hides more than one test."""
    finished = run("import pytest\npytest.skip('no reference plugins', allow_module_level=True)")

    assert "skipped because no reference plugins: 1 test: test_made_up.py" in finished.stdout.splitlines()


def test_an_expected_failure_is_no_skip(run: Runner):
    """It ran, and failed as it should."""
    finished = run("import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False")

    assert "skipped" not in finished.stdout
    assert 0 == finished.returncode


def test_a_skip_without_an_excuse_fails_in_ci(run: Runner):
    """A forgotten package would switch tests off for ever, and stay green."""
    finished = run(SKIPPING.format(reason="no reference plugins"), ci="true")

    assert "no reason to skip where CI=true: no reference plugins" in finished.stdout
    assert 1 == finished.returncode


def test_a_skip_with_an_excuse_passes_in_ci(run: Runner):
    """The CI kernel is what it is."""
    finished = run(SKIPPING.format(reason="kernel has no ipvlan"), ci="true")

    assert "no reason to skip" not in finished.stdout
    assert 0 == finished.returncode


GOLDEN = """
from pathlib import Path

def test_plan(golden):
    golden(Path("golden/plan.txt"), "eth0 bridge\\n")
"""


def test_a_golden_file_is_compared(run: Runner, tmp_path: Path):
    """A change of what users read is seen before they read it."""
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "plan.txt").write_text("eth0 macvlan\n")

    finished = run(GOLDEN)

    assert "eth0 macvlan" in finished.stdout
    assert 1 == finished.returncode


def test_a_missing_golden_file_says_how_it_is_made(run: Runner):
    """A new case has nothing to be compared with."""
    finished = run(GOLDEN)

    assert "golden/plan.txt is not there: make golden writes it" in finished.stdout
    assert 1 == finished.returncode


def test_golden_files_are_written_on_request(run: Runner, tmp_path: Path):
    """The diff is read in review."""
    finished = run(GOLDEN, "--golden")

    assert "eth0 bridge\n" == (tmp_path / "golden" / "plan.txt").read_text()
    assert 0 == finished.returncode


MEASURED = "def sign(number):\n    if number < 0:\n        return -1\n    return 1\n"
COVERAGE = ("--cov=measured", "--cov-branch", "--cov-report=json:coverage.json")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A package with one `if` and many lines that every import covers."""
    package = tmp_path / "measured"
    package.mkdir()
    (package / "__init__.py").write_text(MEASURED + "one = two = three = 1\n" * 20)
    return package


@pytest.mark.parametrize(("at_least", "status"), [(50, 0), (51, 1)])
def test_too_few_covered_branches_fail_the_run(run: Runner, measured: Path, at_least: int, status: int):
    """One of two branches is taken here; the lines around it do not pay for the other."""
    source = f"from {measured.name} import sign\ndef test_sign():\n    assert 1 == sign(1)"

    finished = run(source, *COVERAGE, f"--branches-at-least={at_least}")

    assert f"measured: 50.0 % of branches covered, at least {at_least} % wanted" in finished.stdout
    assert status == finished.returncode


def test_a_package_no_test_imports_fails_the_run(run: Runner, measured: Path):
    """Nothing measured is nothing covered, not everything."""
    finished = run("def test_it():\n    pass", *COVERAGE, "--branches-at-least=1")

    assert f"{measured.name}: 0.0 % of branches covered, at least 1 % wanted" in finished.stdout
    assert 1 == finished.returncode


def test_the_report_of_another_run_is_not_read(run: Runner, measured: Path):
    """A run that breaks while it collects must not pass, or crash, on old numbers."""
    (measured.parent / "coverage.json").write_text('{"files": {}}')

    finished = run("import nowhere", *COVERAGE, "--branches-at-least=1")

    assert not (measured.parent / "coverage.json").exists()
    assert "INTERNALERROR" not in finished.stdout + finished.stderr
    assert 2 == finished.returncode


def test_branches_are_not_measured_without_a_report(run: Runner):
    """A bar nobody measures against would always be met."""
    finished = run("def test_it():\n    pass", "--branches-at-least=95")

    assert "--branches-at-least without --cov-report=json:FILE" in finished.stderr
    assert 4 == finished.returncode
