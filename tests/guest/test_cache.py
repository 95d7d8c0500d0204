"""What is fetched or built for the guest: from where, once, and by what name it is missing."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest import artefacts, cache, emulator, netdevsim, packages
from tests.guest.cache import Missing, cached
from tests.guest.emulator import Emulator

RELEASE = "6.1.0-56-amd64"

APT = """\
case "$*" in
*"depends linux-image-amd64"*) echo "  Depends: linux-image-6.1.0-56-amd64" ;;
*"depends linux-headers-6.1.0-56-amd64"*) echo "  Depends: linux-headers-6.1.0-56-common" ;;
*"show --no-all-versions"*) echo "Version: 6.1.192-2" ;;
*"update --print-uris"*) echo "'http://mirror/debian/dists/bookworm/InRelease' InRelease 0" ;;
*update*) ;;
*download*) echo "no network" >&2; exit 100 ;;
esac
"""
"""An apt whose lists are there, and no more."""
SOURCES = """\
for each; do
    case "$each" in
    *SourceParts*) read -r line <"${{each#*=}}/backports.list"; echo "$line" >{} ;;
    esac
done
"""
"""What comes before it, to keep the suite that it was asked for."""


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without programs; what is put into this directory is all it has."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}")
    monkeypatch.setattr(cache, "SYSTEM_PATH", str(directory))
    monkeypatch.setattr(artefacts.platform, "machine", lambda: "x86_64")
    return directory


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


MAKERS: dict[str, tuple[dict[str, str], Callable[[Path], object]]] = {
    "kernel": (artefacts.PROGRAMS, artefacts.ready),
    "netdevsim": (netdevsim.PROGRAMS, lambda directory: netdevsim.module(RELEASE, directory)),
    "igb": (emulator.PROGRAMS, Emulator.with_igb),
}
WANTED = [(name, program) for name, (programs, _) in MAKERS.items() for program in programs]


@pytest.mark.parametrize(("name", "program"), WANTED)
def test_a_program_is_missing_by_its_package(name: str, program: str, only: Path, tmp_path: Path):
    """Whoever reads the reason of a skip can install it."""
    programs, make = MAKERS[name]
    for each in programs.keys() - {program}:
        script(only / each, APT)

    with pytest.raises(Missing, match=f"^no {programs[program]}$"):
        make(tmp_path / "cache")


@pytest.mark.parametrize(("name", "purpose"), [("kernel", "guest kernel"), ("netdevsim", "netdevsim")])
def test_a_fetch_that_fails_leaves_nothing_behind(name: str, purpose: str, only: Path, tmp_path: Path):
    """Else the next run would take half of it for the whole."""
    programs, make = MAKERS[name]
    for each in (*programs, "apt-cache"):
        script(only / each, APT)

    with pytest.raises(Missing, match=f"^no {purpose}: apt-get: no network$"):
        make(tmp_path / "cache")

    (left,) = os.listdir(tmp_path / "cache")
    assert left.endswith(".lock")


def test_an_old_qemu_is_replaced_by_that_of_the_backports(
    only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The suite is added beside the machine's own, at the place of its own."""
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    monkeypatch.setattr(packages, "OS_RELEASE", release)
    for each in emulator.PROGRAMS:
        script(only / each, APT)
    asked = tmp_path / "asked"
    script(only / "apt-get", f"{SOURCES.format(asked)}{APT}")

    with pytest.raises(Missing, match=r"^no QEMU with igb: apt-get: no network$"):
        Emulator.with_igb(tmp_path / "cache")

    assert "deb http://mirror/debian bookworm-backports main\n" == asked.read_text()


def test_a_release_without_a_name_has_no_backports(
    only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """There is nothing to ask."""
    monkeypatch.setattr(packages, "OS_RELEASE", only / "os-release")
    (only / "os-release").write_text("ID=other\n")
    for each in emulator.PROGRAMS:
        script(only / each, APT)

    with pytest.raises(Missing, match=r"^no QEMU with igb: this is no Debian release"):
        Emulator.with_igb(tmp_path / "cache")
    assert str(only / emulator.QEMU) == Emulator.fastest(tmp_path / "cache").path


def test_a_qemu_that_has_igb_is_used(only: Path, tmp_path: Path):
    """A newer distribution needs nothing more."""
    for each in emulator.PROGRAMS:
        script(only / each, "echo 'igb options:'")

    found = Emulator.with_igb(tmp_path / "cache")

    assert str(only / emulator.QEMU) == found.path
    assert sum("igb," in each for each in found.options) == len(emulator.PORTS)
    assert not (tmp_path / "cache").exists()


def test_no_kernel_is_missing_by_its_package(only: Path, tmp_path: Path):
    """So it is on a distribution that names it otherwise."""
    for each in (*artefacts.PROGRAMS, *netdevsim.PROGRAMS, "apt-cache"):
        script(only / each, "")

    with pytest.raises(Missing, match=r"^no Debian package linux-image-amd64$"):
        artefacts.ready(tmp_path / "cache")
    with pytest.raises(Missing, match=r"^no Debian package linux-headers-6.9.0-1-amd64$"):
        netdevsim.module("6.9.0-1-amd64", tmp_path / "cache")


def test_another_processor_has_no_guest(only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The programs of such a machine would not run there."""
    monkeypatch.setattr(artefacts.platform, "machine", lambda: "aarch64")

    with pytest.raises(Missing, match=r"^no guest kernel for aarch64$"):
        artefacts.ready(tmp_path / "cache")


def test_what_is_in_the_cache_is_not_fetched_again(only: Path, tmp_path: Path):
    """No network is needed a second time."""
    for each in artefacts.PROGRAMS:
        script(only / each, "exit 100")
    (tmp_path / "cache" / artefacts.KERNEL / "lib" / "modules" / RELEASE).mkdir(parents=True)

    assert RELEASE == artefacts.ready(tmp_path / "cache").release


def test_several_machines_make_one_thing_once(tmp_path: Path):
    """Work trees side by side share the cache."""
    made = []

    def make(scratch: Path) -> Path:
        made.append(scratch)
        (scratch / "thing").mkdir()
        return scratch / "thing"

    threads = [threading.Thread(target=cached, args=("thing", make, tmp_path)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert 1 == len(made)
    assert (tmp_path / "thing").is_dir()
