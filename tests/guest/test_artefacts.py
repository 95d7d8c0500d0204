"""What the guest is made of, without booting it."""

import lzma
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import artefacts
from tests.guest.artefacts import DIRECTORY, EXECUTABLE, Missing, cpio, depends, insertion_order, uncompressed

ELF = b"\x7fELF" + bytes(range(256)) * 20


def bzimage(payload: bytes, *, setup_sectors: int = 3) -> bytes:
    """Boot sector, setup, a decompressor, the payload, and more."""
    decompressor = b"\x90" * 100
    image = bytearray((setup_sectors + 1) * artefacts.SECTOR) + decompressor + payload + b"more"
    image[0x1F1] = setup_sectors
    struct.pack_into("<II", image, 0x248, len(decompressor), len(payload))
    return bytes(image)


def test_the_kernel_in_a_bzimage_is_found():
    """It boots in half the time; the length of the kernel follows the packed stream."""
    assert ELF == uncompressed(bzimage(lzma.compress(ELF) + struct.pack("<I", len(ELF))))


def test_a_kernel_that_is_packed_in_another_way_is_left_as_it_is():
    """It boots, too."""
    image = bzimage(b"\x28\xb5\x2f\xfd" + ELF)

    assert image == uncompressed(image)


DEPENDENCIES = """\
kernel/lib/crc.ko:
kernel/net/ring.ko: kernel/lib/crc.ko
kernel/net/far_away.ko: kernel/net/ring.ko kernel/lib/crc.ko
kernel/fs/near_by.ko.xz: kernel/net/ring.ko kernel/lib/crc.ko
"""


def test_modules_are_loaded_after_what_they_need():
    """insmod looks for nothing itself."""
    expected = [
        "kernel/lib/crc.ko",
        "kernel/net/ring.ko",
        "kernel/fs/near_by.ko.xz",
        "kernel/net/far_away.ko",
    ]

    assert expected == insertion_order(DEPENDENCIES, ["near_by", "far_away"])


def test_a_module_that_is_built_in_is_not_loaded():
    """Each kernel has its own choice."""
    assert ["kernel/lib/crc.ko"] == insertion_order(DEPENDENCIES, ["overlay", "crc"])


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """(name, mode, content), read as the kernel reads them (init/initramfs.c)."""
    place = 0
    while place < len(archive):
        assert b"070701" == archive[place : place + 6]
        fields = [int(archive[place + 6 + 8 * n : place + 14 + 8 * n], 16) for n in range(13)]
        start = place + 110
        name = archive[start : start + fields[11] - 1].decode()
        content = -(-(start + fields[11]) // 4) * 4
        yield name, fields[1], archive[content : content + fields[6]]
        place = -(-(content + fields[6]) // 4) * 4


def test_an_archive_has_what_was_put_into_it():
    """Names and contents of any length are aligned to four bytes."""
    files = {"bin": (DIRECTORY, b""), "bin/sh": (EXECUTABLE, b"12345"), "a": (EXECUTABLE, b"1234")}

    found = list(entries(cpio(files)))

    assert [(name, *entry) for name, entry in files.items()] == found[:-1]
    assert "TRAILER!!!" == found[-1][0]


def test_the_newest_kernel_is_what_the_package_depends_on():
    """The name of the kernel's package changes with every update."""
    assert "linux-image-6.1.0-56-amd64" == depends(
        "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n"
    )


def test_no_kernel_is_missing_by_its_package():
    """So it is on a distribution that names it otherwise."""
    with pytest.raises(Missing, match=r"^no Debian package linux-image-amd64$"):
        depends("")


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without programs; what is put into this directory is all it has."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(artefacts, "SYSTEM_PATH", str(directory))
    monkeypatch.setattr(artefacts.platform, "machine", lambda: "x86_64")
    return directory


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("program", "package"), artefacts.PROGRAMS.items())
def test_a_program_is_missing_by_its_package(program: str, package: str, only: Path, tmp_path: Path):
    """Whoever reads the reason of a skip can install it."""
    for name in artefacts.PROGRAMS.keys() - {program}:
        script(only / name, "")

    with pytest.raises(Missing, match=f"^no {package}$"):
        artefacts.ready(tmp_path / "cache")


def test_another_processor_has_no_guest(only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The programs of such a machine would not run there."""
    monkeypatch.setattr(artefacts.platform, "machine", lambda: "aarch64")

    with pytest.raises(Missing, match=r"^no guest kernel for aarch64$"):
        artefacts.ready(tmp_path / "cache")


def test_a_fetch_that_fails_leaves_nothing_behind(only: Path, tmp_path: Path):
    """Else the next run would take half a kernel for a whole one."""
    for name in artefacts.PROGRAMS:
        script(only / name, "echo 'no network' >&2; exit 100")

    with pytest.raises(Missing, match=r"^no guest kernel: apt-get: no network$"):
        artefacts.ready(tmp_path / "cache")

    assert ["lock"] == os.listdir(tmp_path / "cache")


def test_what_is_in_the_cache_is_not_fetched_again(only: Path, tmp_path: Path):
    """No network is needed a second time."""
    for name in artefacts.PROGRAMS:
        script(only / name, "exit 100")
    (tmp_path / "cache" / artefacts.KERNEL / "lib" / "modules" / "6.1.0-56-amd64").mkdir(parents=True)

    assert "6.1.0-56-amd64" == artefacts.ready(tmp_path / "cache").release
