"""
The Dockerfile's own commands, run here: what it compiles and installs is what a node gets.

A stage is a container of this machine's programs. Those of its commands that install Debian's
packages are left out, for what they install is here or is named as missing.
"""

import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.deploy.container import Container
from tests.deploy.manifests import DEPLOY, TOP

INTERPRETER = 3  # PT_INTERP, <elf.h>
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PACKAGES = "apt-get"
LONGEST_SHIM = 100_000


@dataclass(slots=True)
class Stage:
    """One FROM and what follows."""

    image: str
    name: str
    copied: list[tuple[str, list[str], str]] = field(default_factory=list)
    """(stage or nothing, sources, target)."""
    commands: list[str] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)

    def read(self, keyword: str, rest: str) -> None:
        """One instruction."""
        if keyword == "COPY":
            origin, words = "", rest.split()
            if words[0].startswith("--from="):
                origin = words.pop(0).removeprefix("--from=")
            self.copied.append((origin, words[:-1], words[-1]))
        elif keyword == "RUN":
            self.commands.append(rest)
        else:
            self.other[keyword] = rest


def stages() -> dict[str, Stage]:
    """As the builder reads them; the last one has no name."""
    found: list[Stage] = []
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            image, _, name = rest.partition(" AS ")
            found.append(Stage(image, name))
        elif keyword not in ("", "#"):
            found[-1].read(keyword, rest)
    return {each.name: each for each in found}


def built(stage: Stage, scratch: Path, made: dict[str, Path], command: str) -> str:
    """What a command prints at the end of a stage; every one before it must have succeeded."""
    copied: dict[str, str] = {}
    for origin, sources, target in stage.copied:
        for each in sources:
            path = made[origin] if origin else TOP / each
            is_directory = target.endswith("/")
            copied[f"{target}{path.name}" if is_directory else target] = str(path)
    commands = [each for each in stage.commands if PACKAGES not in each]
    scratch.mkdir()
    container = Container(
        scratch=str(scratch),
        command=["/bin/sh", "-c", "\n".join(["set -eu", *commands, command])],
        environment=dict(os.environ),
        mounts=[
            {"source": str(each), "target": str(each), "is_read_only": False, "is_propagated": False}
            for each in made.values()
            if each.is_dir()
        ],
        copied=copied,
    )
    return container.run()


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """The program that the first stage compiles."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("no musl-gcc")
    out = tmp_path / "out"
    out.mkdir()
    built(stages()["shim"], tmp_path / "shim-stage", {"out": out}, f"cp /source/shim {out}/shim")
    return out / "shim"


def program_headers(content: bytes) -> list[int]:
    """The types of an ELF file's program headers, elf(5)."""
    fields = ELF_HEADER.unpack_from(content)
    offset, size, count = fields[5], fields[9], fields[10]
    return [struct.unpack_from("<I", content, offset + n * size)[0] for n in range(count)]


def test_the_shim_needs_nothing_of_the_node(shim: Path):
    """No loader, no C library: immutable hosts have others, or none; and it is small."""
    content = shim.read_bytes()

    assert content.startswith(b"\x7fELF")
    assert INTERPRETER not in program_headers(content)
    assert len(content) < LONGEST_SHIM


@pytest.mark.slow
def test_the_image_s_program_installs_that_shim(shim: Path, tmp_path: Path):
    """With every module, CRD and library that the daemon needs, and the compiler gone."""
    out = tmp_path / "node"
    out.mkdir()
    last = stages()[""]
    (program,) = yaml.safe_load(last.other["ENTRYPOINT"])

    told = built(
        stages()["python"],
        tmp_path / "python-stage",
        {"shim": shim, "out": out},
        f"cd / && {program} install --bin-dir {out} --state {out}/state --spool {out}/spool"
        f" && {program} daemon --help && {os.path.dirname(program)}/python -c 'import kubernetes'",
    )

    assert f"{out}/meta-cni installed: /opt/meta-cni/lib" in told
    assert "--conf-dir" in told
    assert shim.read_bytes() == (out / "meta-cni").read_bytes()


def test_the_last_stage_runs_what_the_one_before_has_made():
    """A virtual environment knows its own path: it is copied to it."""
    last = stages()[""]

    assert [("python", ["/opt/meta-cni"], "/opt/meta-cni")] == last.copied
    assert ["/opt/meta-cni/bin/meta-cni"] == yaml.safe_load(last.other["ENTRYPOINT"])
    assert stages()["python"].image == last.image


def test_what_is_copied_is_in_the_context():
    """And the virtual environment, a gigabyte, is not."""
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    taken = {each.removeprefix("!") for each in ignored if each.startswith("!")}
    sources = [
        each
        for stage in stages().values()
        for origin, each_of, _ in stage.copied
        if not origin
        for each in each_of
    ]

    assert "*" == ignored[0]
    assert {each.split("/")[0] for each in sources} == taken
    assert all((TOP / each).exists() for each in sources)
