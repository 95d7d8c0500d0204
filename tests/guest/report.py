"""
A pytest plugin of the run inside: what was collected and every test's reports, as lines of JSON.

Each line is written at once, so what is known stays known when the guest ends in the middle.
`python -m pytest -p tests.guest.report` writes them to the file that FILE names in the environment;
`Report.read` is the other end.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FILE = "META_CNI_GUEST_REPORT"
SECONDS = pytest.StashKey[float]()
"""What a test took there, kept with its twin here."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell what is going to be run, and by which markers."""
    _write(
        {"collected": {item.nodeid: [each.name for each in item.iter_markers()] for item in session.items}}
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell one of the three parts of a test."""
    is_expected = report.skipped and hasattr(report, "wasxfail")
    told = {"result": "passed" if is_expected else report.outcome, "text": _text(report)}
    took = {"is_last": report.when == "teardown", "seconds": report.duration}
    _write({"test": report.nodeid, **took, **told})


def _text(report: pytest.TestReport) -> str:
    """The reason of a skip, the traceback of a failure with what was printed."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    printed = "".join(f"\n--- {name}\n{content}" for name, content in report.sections)
    return f"{report.longreprtext}{printed}"


def _write(line: dict[str, Any]) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps(line) + "\n")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test."""

    result: str
    """passed, skipped or failed."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was told; a test that did not get to its end has no outcome."""

    collected: dict[str, list[str]]
    """The markers of every test."""
    outcomes: dict[str, Outcome]
    seconds: dict[str, float]
    """Of all parts of a test."""

    @classmethod
    def read(cls, lines: Iterable[str]) -> "Report":
        """The worst part of a test is its outcome."""
        collected: dict[str, list[str]] = {}
        parts: dict[str, list[Outcome]] = {}
        seconds: dict[str, float] = {}
        ended = set()
        for line in lines:
            told = json.loads(line)
            collected |= told.get("collected", {})
            if "test" in told:
                parts.setdefault(told["test"], []).append(Outcome(told["result"], told["text"]))
                seconds[told["test"]] = seconds.get(told["test"], 0.0) + told["seconds"]
            if told.get("is_last"):
                ended.add(told["test"])
        worst = {test: max(parts[test], key=_badness) for test in ended}
        return cls(collected, worst, seconds)

    def repeat(self, test: str) -> None:
        """Come out here as it came out there; a feature that its kernel has not is a failure."""
        outcome = self.outcomes.get(test, Outcome("failed", "it did not get to its end"))
        if outcome.result == "skipped" and not outcome.text.startswith("kernel has no "):
            pytest.skip(outcome.text)
        if outcome.result != "passed":
            pytest.fail(outcome.text, pytrace=False)


def _badness(outcome: Outcome) -> int:
    return ("passed", "skipped", "failed").index(outcome.result)
