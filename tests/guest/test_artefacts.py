"""What the guest is made of, without booting it."""

import lzma
import struct
from collections.abc import Iterator

from tests.guest import artefacts
from tests.guest.artefacts import DIRECTORY, EXECUTABLE, cpio, insertion_order, uncompressed

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
