"""
Starts what a runtime starts, and takes the time without that of Python.

A small C program (programs/launch.c) reads everything, starts the clock, spawns, waits and tells;
where there is no compiler, this process does the same, and its figures hold some of Python's time.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
COMPILERS = ("musl-gcc", "cc")
FLAGS = ("-Os", "-s", "-static")
"""Both as `meta-cni install` compiles the shim."""


@dataclass(frozen=True, slots=True)
class Job:
    """One process to be."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Ended:
    """One process that was."""

    ms: float
    cpu_ms: float
    code: int
    printed: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that were started at once."""

    ms: float
    """From the first start to the last end."""
    ended: tuple[Ended, ...]


class Launcher:
    """Starts jobs at once; what it compiles and writes lies in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = self.compiled("launch")

    @property
    def is_exact(self) -> bool:
        """The times hold nothing of Python's."""
        return self.program is not None

    def compiled(self, name: str, source: Path = PROGRAMS) -> str | None:
        """The path of <source>/<name>.c, compiled; None where no compiler can."""
        made = self.directory / name
        for each in filter(None, map(shutil.which, COMPILERS)):
            command = [each, *FLAGS, "-o", str(made), str(source / f"{name}.c")]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return str(made)
        return None

    def require(self, name: str, source: Path = PROGRAMS) -> str:
        """As compiled(); raises SystemExit where no compiler can."""
        made = self.compiled(name, source)
        if made is None:
            raise SystemExit(f"compile {name}.c: expected cc or musl-gcc")
        return made

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Start all, wait for all."""
        with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
            directories = [Path(scratch) / str(n) for n in range(len(jobs))]
            for directory, job in zip(directories, jobs, strict=True):
                _write(directory, job)
            return self._by_program(directories) if self.program else _here(directories, jobs)

    def _by_program(self, directories: Sequence[Path]) -> Outcome:
        assert self.program
        command = [self.program, *map(str, directories)]
        first, *lines = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout.splitlines()
        return Outcome(int(first) / 1e6, tuple(map(_ended, lines, directories)))


def _ended(line: bytes, directory: Path) -> Ended:
    ns, cpu_us, code = map(int, line.split())
    return Ended(ns / 1e6, cpu_us / 1e3, code, (directory / "stdout").read_bytes())


def _write(directory: Path, job: Job) -> None:
    directory.mkdir()
    (directory / "argv").write_bytes(b"".join(os.fsencode(each) + b"\0" for each in job.argv))
    variables = (os.fsencode(f"{key}={value}") + b"\0" for key, value in job.variables.items())
    (directory / "environ").write_bytes(b"".join(variables))
    (directory / "stdin").write_bytes(job.stdin)


def _here(directories: Sequence[Path], jobs: Sequence[Job]) -> Outcome:
    """What launch.c does; of several, the end of one may be seen late."""
    starts: list[tuple[float, int]] = []
    for directory, job in zip(directories, jobs, strict=True):
        starts.append((time.perf_counter(), _spawn(directory, job)))
    ended: list[Ended] = []
    for (started, pid), directory in zip(starts, directories, strict=True):
        _, status, usage = os.wait4(pid, 0)
        ms = (time.perf_counter() - started) * 1000
        cpu_ms = (usage.ru_utime + usage.ru_stime) * 1000
        ended.append(
            Ended(ms, cpu_ms, os.waitstatus_to_exitcode(status), (directory / "stdout").read_bytes())
        )
    return Outcome((time.perf_counter() - starts[0][0]) * 1000, tuple(ended))


def _spawn(directory: Path, job: Job) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(directory / "stdin"), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(directory / "stdout"), os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    return os.posix_spawn(job.argv[0], job.argv, dict(job.variables), file_actions=actions)
