"""What is measured must be what was started."""

from pathlib import Path

import pytest

from tests.bench.launcher import Job, Launcher

PATH = {"PATH": "/bin:/usr/bin"}


@pytest.fixture(params=["compiled", "here"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    """Both ways of starting processes."""
    made = Launcher(tmp_path)
    if request.param == "here":
        made.program = None
    elif not made.is_exact:
        pytest.skip("no C compiler")
    return made


def test_a_process_gets_its_variables_and_its_input(launcher: Launcher):
    """A plugin that gets another call measures something else."""
    script = '/bin/cat; printf %s "$GREETING"; exit 3'

    outcome = launcher.run([Job(("/bin/sh", "-c", script), {"GREETING": "hello"}, b"given ")])

    assert [(3, b"given hello")] == [(each.code, each.printed) for each in outcome.ended]


def test_several_are_started_before_the_first_is_awaited(launcher: Launcher):
    """Ten pods at once are ten processes at once: the first waits for what the second writes."""
    path = launcher.directory / "written"
    reader = Job(("/bin/sh", "-c", f"until [ -s {path} ]; do sleep 0.01; done; cat {path}"), PATH)
    writer = Job(("/bin/sh", "-c", f"echo there >{path}"), PATH)

    outcome = launcher.run([reader, writer])

    assert [b"there\n", b""] == [each.printed for each in outcome.ended]
