"""
What the guest is made of: Debian's own kernel and a busybox, as packages that are not installed.

Nothing else is needed, for the guest's file system is the machine's. The full kernel it is: the
cloud one has neither 9p nor igb.
"""

import platform
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.guest import packages
from tests.guest.cache import Missing, cached, program, run
from tests.guest.packages import Packages

PURPOSE = "guest kernel"
KERNEL = "linux-image-amd64"
"""Depends on the newest kernel of the release."""
BUSYBOX = "busybox-static"
PROGRAMS = {**packages.PROGRAMS, "depmod": "kmod"}
"""What has to be installed, and the package it is in."""
INIT = Path(__file__).parent / "init"
ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""Whatever else is needed, the guest's kernel loads from the unpacked package by itself."""
BZIMAGE_SETUP_SECTORS, BZIMAGE_PAYLOAD = 0x1F1, 0x248  # Documentation/arch/x86/boot.rst
SECTOR = 512
XZ = b"\xfd7zXZ\0"
REGULAR, EXECUTABLE, DIRECTORY = 0o100644, 0o100755, 0o040755


@dataclass(frozen=True, slots=True)
class Artefacts:
    """A directory with all that was fetched and unpacked."""

    directory: Path

    @property
    def kernel(self) -> Path:
        """What QEMU starts."""
        return self.directory / "kernel"

    @property
    def busybox(self) -> Path:
        """Needs no library."""
        return self.directory / "busybox"

    @property
    def modules(self) -> Path:
        """Has a directory named after the kernel's release."""
        return self.directory / "lib" / "modules"

    @property
    def release(self) -> str:
        """As `uname -r` tells it in the guest."""
        return next(self.modules.iterdir()).name


def ready(cache: Path | None = None) -> Artefacts:
    """Those in the cache, fetched if it has none; raises Missing."""
    if platform.machine() != "x86_64":
        raise Missing(f"no guest kernel for {platform.machine()}")
    for each in PROGRAMS:
        program(each, PROGRAMS)
    return Artefacts(cached(KERNEL, _make, cache))


def _make(scratch: Path) -> Path:
    """Fetch and unpack into a new directory."""
    fetched = Packages(PURPOSE, scratch)
    fetched.fetch(fetched.dependency(KERNEL, "linux-image"), BUSYBOX)
    unpacked = fetched.unpack()
    made = Artefacts(scratch / "made")
    made.modules.parent.mkdir(parents=True)
    (unpacked / "lib" / "modules").rename(made.modules)
    (unpacked / "bin" / "busybox").rename(made.busybox)
    image = (unpacked / "boot" / f"vmlinuz-{made.release}").read_bytes()
    made.kernel.write_bytes(uncompressed(image))
    run(PURPOSE, program("depmod", PROGRAMS), "--basedir", str(made.directory), made.release)
    return made.directory


def uncompressed(image: bytes) -> bytes:
    """The ELF kernel in a bzImage, which boots in half the time; what is packed otherwise stays as it is."""
    sectors = image[BZIMAGE_SETUP_SECTORS]
    offset, length = struct.unpack_from("<II", image, BZIMAGE_PAYLOAD)
    start = (sectors + 1) * SECTOR + offset
    payload = image[start : start + length]
    if not payload.startswith(XZ):
        return image
    import lzma  # a Python may have been built without it

    return lzma.LZMADecompressor().decompress(payload)  # what follows the stream is its length


def insertion_order(dependencies: str, names: Iterable[str]) -> list[str]:
    """
    The paths of modules and of all that they need, in the order in which they can be loaded.

    `dependencies` is modules.dep: one line for each, with everything it needs, what is needed last first.
    """
    needed = {path: needs.split() for path, needs in _lines(dependencies)}
    paths = {re.sub(r"\.ko.*", "", Path(path).name): path for path in needed}
    ordered: dict[str, None] = {}
    for name in names:
        if name in paths:  # else it is built in
            path = paths[name]
            ordered.update(dict.fromkeys([*reversed(needed[path]), path]))
    return list(ordered)


def _lines(dependencies: str) -> Iterator[tuple[str, str]]:
    for line in dependencies.splitlines():
        path, _, needs = line.partition(":")
        yield path, needs


def initramfs(artefacts: Artefacts) -> bytes:
    """What mounts the machine's files; see `init` beside this module."""
    directory = artefacts.modules / artefacts.release
    order = insertion_order((directory / "modules.dep").read_text(), ROOT_MODULES)
    names = {f"modules/{number:02}-{Path(path).name}": path for number, path in enumerate(order)}
    directories = ("bin", "modules", "proc", "sys", "dev", "host", "layer", "root")
    return cpio(
        {
            **{name: (DIRECTORY, b"") for name in directories},
            **{name: (REGULAR, (directory / path).read_bytes()) for name, path in names.items()},
            "bin/busybox": (EXECUTABLE, artefacts.busybox.read_bytes()),
            "modules-directory": (REGULAR, str(artefacts.modules.resolve()).encode()),
            "init": (EXECUTABLE, INIT.read_bytes()),
        }
    )


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An archive of name -> (mode, content) as the kernel unpacks it (early-userspace/buffer-format.rst)."""
    archive = b""
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        owner = modified = device = checksum = 0
        links = 1
        path = name.encode() + b"\0"
        fields = (
            *(number, mode, owner, owner, links, modified, len(content)),
            *(device, device, device, device, len(path), checksum),
        )
        header = b"070701" + b"".join(b"%08X" % each for each in fields)
        archive += _padded(header + path) + _padded(content)
    return archive


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
