"""
What a whole run promises: no skip goes unseen, golden files are compared or written anew,
and every measured package has enough of its branches covered.

A run that skips what it should have tested is green and proves nothing. So every skip is
listed by its reason, and where CI=true a reason that is not in MISSING_IN_CI fails the run.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.kubelet import FakeKubelet

# Two busy cores make any single example slow, and slow to draw; no time is asserted.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("tests", UNHURRIED)
settings.register_profile("fast", UNHURRIED, max_examples=20)  # make check
settings.load_profile("tests")

# As the kernel of the CI machines is configured.
KERNEL_FEATURES_MISSING_IN_CI = (
    *("ipvlan", "8021q", "vlan", "vrf", "dummy", "bond"),
    "bridge VLAN filtering",
    *("igb", "netdevsim"),
)

PROGRAMS_MISSING_IN_CI = ("kubectl", "multus", "podman with a CNI backend")  # no newer podman has one

REFERENCES_MISSING_IN_CI = ("route-override", "bond", "sriov")  # in no distribution, and in no Go proxy

REFERENCES_NEWER_THAN_IN_CI = ("1.6.0", "1.7.0", "1.10.0")  # where no Go is

MISSING_IN_CI = {
    *(f"kernel has no {feature}" for feature in KERNEL_FEATURES_MISSING_IN_CI),
    *(f"no {program}" for program in PROGRAMS_MISSING_IN_CI),
    *(f"no reference plugin {plugin}" for plugin in REFERENCES_MISSING_IN_CI),
    *(f"reference plugins older than v{version}" for version in REFERENCES_NEWER_THAN_IN_CI),
}
"""The only reasons for which a test may be skipped where CI=true."""


@dataclass(slots=True, eq=False)  # pluggy keeps plugins in sets
class Skips:
    """A plugin that collects every skipped test by its reason, whole modules included."""

    strict: bool
    tests: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a skipped test; an expected failure is none."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that skips as a whole."""
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Keep the test under its reason, the third of (path, line, "Skipped: reason")."""
        place = report.longrepr
        reason = str(place[2] if isinstance(place, tuple) else place)
        self.tests[reason.removeprefix("Skipped: ")].append(report.nodeid)

    @property
    def refused(self) -> list[str]:
        """The reasons that are no excuse here."""
        return sorted(reason for reason in self.tests if self.strict and reason not in MISSING_IN_CI)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run, without hiding a worse outcome, when a reason is no excuse."""
        if self.refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List every skipped test under its reason."""
        if self.tests:
            terminalreporter.section("skipped tests")
        for reason, tests in sorted(self.tests.items()):
            count = f"{len(tests)} test{'s' if len(tests) > 1 else ''}"
            terminalreporter.write_line(f"skipped because {reason}: {count}: {', '.join(tests)}")
        for reason in self.refused:
            terminalreporter.write_line(f"no reason to skip where CI=true: {reason}", red=True)
        if self.refused:
            terminalreporter.write_line(
                "MISSING_IN_CI in tests/conftest.py lists the reasons that are", red=True
            )


@dataclass(slots=True, eq=False)  # pluggy keeps plugins in sets
class Branches:
    """
    A plugin that fails the run when a package has too few of its branches covered.

    `--cov-fail-under` counts lines and branches of all packages together, so that easy
    lines pay for a branch nobody takes. Here every package stands for itself.
    """

    at_least: float
    packages: list[str]
    report: Path
    shares: dict[str, float] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Read the report pytest-cov wrote when the last test ended; it writes none for a broken run."""
        files = json.loads(self.report.read_text())["files"] if self.report.exists() else {}
        self.shares = {package: covered_percent(files, package) for package in self.packages}
        if session.exitstatus == pytest.ExitCode.OK and any(s < self.at_least for s in self.shares.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one line a package."""
        terminalreporter.section("covered branches")
        for package, share in self.shares.items():
            line = f"{package}: {share:.1f} % of branches covered, at least {self.at_least:g} % wanted"
            terminalreporter.write_line(line, red=share < self.at_least)


def covered_percent(files: Mapping[str, Mapping[str, Mapping[str, int]]], package: str) -> float:
    """The covered share of all branches below package; 0 when nothing of it was measured."""
    summaries = [entry["summary"] for path, entry in files.items() if path.startswith(f"{package}/")]
    branches = sum(summary.get("num_branches", 0) for summary in summaries)  # left out when nothing ran
    covered = sum(summary.get("covered_branches", 0) for summary in summaries)
    return 100 * covered / branches if branches else 0.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make golden` and `make test` pass."""
    group = parser.getgroup("meta-cni")
    group.addoption("--golden", action="store_true", help="write the golden files anew")
    group.addoption(
        "--branches-at-least",
        type=float,
        metavar="PERCENT",
        help="fail when a --cov package has less covered; needs --cov-report=json:FILE",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugins this run asks for."""
    config.pluginmanager.register(Skips(strict=os.environ.get("CI") == "true"), "skips")
    at_least = config.getoption("--branches-at-least")
    if at_least is not None:
        report = config.getoption("cov_report").get("json")
        if not report:
            raise pytest.UsageError("--branches-at-least without --cov-report=json:FILE")
        Path(report).unlink(missing_ok=True)  # that of another run proves nothing about this one
        packages = config.getoption("cov_source")
        config.pluginmanager.register(Branches(at_least, packages, Path(report)), "branches")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare a text with the golden file at a path; with --golden, write it there instead."""

    def compare(path: Path, actual: str) -> None:
        if request.config.getoption("--golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual)
        assert path.exists(), f"{path} is not there: make golden writes it"
        assert path.read_text() == actual

    return compare


@pytest.fixture(scope="session")
def kubelet_process(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[FakeKubelet]":
    """A kubelet that serves PodResources; the directory's name is short, as a socket's must be."""
    from tests import kubelet  # conftest is tried out by itself, too

    with kubelet.serving(tmp_path_factory.mktemp("kubelet")) as made:
        yield made


@pytest.fixture
def fake_kubelet(kubelet_process: "FakeKubelet") -> "Iterator[FakeKubelet]":
    """It, knowing no pod yet; what a test says counts for this test."""
    kubelet_process.answer()
    yield kubelet_process
    kubelet_process.checkpoint.unlink(missing_ok=True)
