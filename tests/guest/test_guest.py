"""
The tests that need a kernel, once more on Debian's own, which is older and has what others lack.

One boot runs what is chosen here, in one process: Python takes twenty times its time on an emulated
processor. The outcome of a test in there is the outcome of its test here. To skip for want of a
feature is not allowed there: that kernel has them all.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import report
from tests.guest.artefacts import SYSTEM_PATH, Missing, ready
from tests.guest.machine import SHARE, Emulator, Ended, boot
from tests.guest.report import Report

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = (
    *("bad_input", "examples", "host_local_beside_reference", "install", "podman"),
    *("bridge_filters", "masquerade"),
    *("daemon_load", "daemon_soak"),
)
"""Of tests/netns: they ask little of a kernel, or much of a processor that starts many programs."""
CHOSEN = {
    "tests/netns": [f"--ignore=tests/netns/test_{name}.py" for name in LEFT_OUT],
    "tests/conformance": ["-m", "guest"],
}
"""Directories, and which of their tests."""
PYTEST = ("-m", "pytest", "-p", "tests.guest.report", "-p", "no:cacheprovider")
TIMEOUT_S = 1200
HANGS_S = 300
"""A test that takes longer has its stacks printed."""
RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


@dataclass(frozen=True, slots=True)
class Guest:
    """What the one boot told."""

    ended: Ended
    report: Report


def collect() -> tuple[str, ...]:
    """What is chosen, as pytest finds it; the guest has the same files."""
    with tempfile.NamedTemporaryFile("r") as told:
        environment = {**os.environ, report.FILE: told.name}
        for directory, options in CHOSEN.items():
            command = [sys.executable, *PYTEST, "--collect-only", "-q", *options, directory]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
        return Report.read(told).collected


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test here for each there."""
    if "inner" in metafunc.fixturenames:
        tests = collect()
        metafunc.parametrize("inner", tests, ids=[each.removeprefix("tests/") for each in tests])


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """Boot, with those tests that were selected here."""
    specifications = [getattr(item, "callspec", None) for item in request.session.items]
    selected = [each.params["inner"] for each in specifications if each and "inner" in each.params]
    try:
        artefacts, emulator = ready(), Emulator.installed()
    except Missing as missing:
        pytest.skip(str(missing))
    directory = tmp_path_factory.mktemp("guest")
    ended = boot(artefacts, emulator, directory, task(selected or collect()), timeout_s=TIMEOUT_S)
    file = directory / "share" / "report"
    lines = file.read_text().splitlines() if file.exists() else []
    return Guest(ended, Report.read(lines))


def task(tests: Iterable[str]) -> str:
    """The shell script that runs tests in the guest; they are too many for a command line."""
    environment = {
        "HOME": os.environ.get("HOME", "/root"),
        "PATH": SYSTEM_PATH,
        report.FILE: f"{SHARE}/report",
    }
    options = ("--basetemp=/dev/shm/pytest", f"-ofaulthandler_timeout={HANGS_S}", f"@{SHARE}/tests")
    return "\n".join(
        [
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            f"cat >{SHARE}/tests <<'END'",
            *tests,
            "END",
            f"cd {shlex.quote(str(ROOT))}",
            f"exec {shlex.join([sys.executable, *PYTEST, *options])}",
        ]
    )


def test_the_run_in_the_guest_got_to_its_end(guest: Guest):
    """What hangs or breaks there says why here."""
    assert guest.ended.status in RAN, guest.ended.told()


def test_in_the_guest(inner: str, guest: Guest):
    """As it came out there."""
    guest.report.repeat(inner)
