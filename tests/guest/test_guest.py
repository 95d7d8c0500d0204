"""
The tests that need a kernel, once more on Debian's own, which is older and has what others lack.

Each boot runs the tests that are marked for it, in one process: Python takes twenty times its time
on an emulated processor. The outcome of a test in there is the outcome of its test here. To skip
for want of a feature is not allowed there: that kernel has them all.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import boots, report
from tests.guest.artefacts import ready
from tests.guest.boots import BOOTS, Boot, boot_of
from tests.guest.cache import SYSTEM_PATH, Missing
from tests.guest.machine import SHARE, Ended, boot
from tests.guest.report import Report

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
DIRECTORIES = ("tests/netns", "tests/conformance")
PYTEST = ("-m", "pytest", "-p", "tests.guest.report", "-p", "no:cacheprovider")
TIMEOUT_S = 2400
PASSED_ON = ("FAULTS",)
"""Of this environment to the guest's."""
HANGS_S = 300
"""A test that takes longer has its stacks printed."""
RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


@dataclass(frozen=True, slots=True)
class Guest:
    """What one boot told."""

    ended: Ended
    report: Report


def collect() -> dict[str, Boot]:
    """
    What is marked for a boot, as pytest finds it; the guest has the same files.

    And what is compiled here need not be compiled there, where that takes a minute.
    """
    with tempfile.NamedTemporaryFile("r") as told:
        environment = {**os.environ, report.FILE: told.name}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        marked = f"({' or '.join(boots.MARKERS)}) and not native"
        command = [sys.executable, *PYTEST, "--collect-only", "-q", "-m", marked]
        done = subprocess.run(
            [*command, *DIRECTORIES], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
        return {test: boot_of(markers) for test, markers in Report.read(told).collected.items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test here for each there."""
    if "inner" in metafunc.fixturenames:
        found = collect().items()
        names = [f"{boot.name}-{test.removeprefix('tests/')}" for test, boot in found]
        metafunc.parametrize(("inner", "of"), found, ids=names)


class Guests:
    """The boots, each started when all that it is to run is known, side by side."""

    def __init__(self, selected: dict[str, Boot], directory: Path, pool: ThreadPoolExecutor) -> None:
        wanted = {each: [test for test, boot in selected.items() if boot is each] for each in BOOTS}
        self._running: dict[str, Future[Guest]] = {
            each.name: pool.submit(_run, each, tests, directory / each.name)
            for each, tests in wanted.items()
            if tests
        }

    def ended(self, name: str) -> Guest:
        """A boot that is over; the test skips by what this machine lacks for it."""
        try:
            return self._running[name].result()
        except Missing as missing:
            pytest.skip(str(missing))


def _run(of: Boot, tests: list[str], directory: Path) -> Guest:
    directory.mkdir()
    artefacts = ready()
    emulator, lines = of.emulator(), of.preparation(artefacts)
    ended = boot(artefacts, emulator, directory, task(of, lines, tests), timeout_s=TIMEOUT_S)
    file = directory / "share" / "report"
    return Guest(ended, Report.read(file.read_text().splitlines() if file.exists() else []))


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """Boot, with those tests that were selected here."""
    specifications = [getattr(item, "callspec", None) for item in request.session.items]
    selected = {
        each.params["inner"]: each.params["of"] for each in specifications if each and "inner" in each.params
    }
    with ThreadPoolExecutor(len(BOOTS)) as pool:
        yield Guests(selected or collect(), tmp_path_factory.mktemp("guest"), pool)


def task(of: Boot, lines: Iterable[str], tests: Iterable[str]) -> str:
    """The shell script that runs tests in the guest; they are too many for a command line."""
    environment = {
        "HOME": os.environ.get("HOME", "/root"),
        "PATH": SYSTEM_PATH,
        report.FILE: f"{SHARE}/report",
        boots.VARIABLE: of.name,
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }
    options = ("--basetemp=/dev/shm/pytest", f"-ofaulthandler_timeout={HANGS_S}", f"@{SHARE}/tests")
    return "\n".join(
        [
            "set -e",
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            f"cat >{SHARE}/tests <<'END'",
            *tests,
            "END",
            f"cd {shlex.quote(str(ROOT))}",
            *lines,
            f"exec {shlex.join([sys.executable, *PYTEST, *options])}",
        ]
    )


@pytest.mark.parametrize("of", BOOTS, ids=lambda each: each.name)
def test_the_run_in_the_guest_got_to_its_end(of: Boot, guests: Guests):
    """What hangs or breaks there says why here."""
    ended = guests.ended(of.name).ended

    assert ended.status in RAN, ended.told()


def test_in_the_guest(inner: str, of: Boot, guests: Guests, request: pytest.FixtureRequest):
    """As it came out there."""
    told = guests.ended(of.name).report
    request.node.stash[report.SECONDS] = told.seconds.get(inner, 0.0)

    told.repeat(inner)
