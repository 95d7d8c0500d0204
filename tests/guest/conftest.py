"""A test of the guest took what it took there: `make guest-test ARGS=--durations=20`."""

from collections.abc import Generator

import pytest

from tests.guest.report import SECONDS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of the wait for its boot, which the first one has, it knows nothing."""
    report = yield
    if report.when == "call":
        report.duration = item.stash.get(SECONDS, report.duration)
    return report
