"""
What the guest is made of: Debian's own kernel and a busybox, as packages that are not installed.

They are fetched once and kept outside of the tree; remove the directory to have a newer kernel.
Nothing else is needed, for the guest's file system is the machine's. The full kernel it is: the
cloud one has neither 9p nor igb.
"""

import fcntl
import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux-image-amd64"
"""Depends on the newest kernel of the release."""
BUSYBOX = "busybox-static"
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "depmod": "kmod", "apt-get": "apt", "dpkg": "dpkg"}
"""What has to be installed, and the package it is in."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT = Path(__file__).parent / "init"
ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""Whatever else is needed, the guest's kernel loads from the unpacked package by itself."""
BZIMAGE_SETUP_SECTORS, BZIMAGE_PAYLOAD = 0x1F1, 0x248  # Documentation/arch/x86/boot.rst
SECTOR = 512
XZ = b"\xfd7zXZ\0"
REGULAR, EXECUTABLE, DIRECTORY = 0o100644, 0o100755, 0o040755


class Missing(Exception):
    """What this machine has not; the message is a reason to skip."""


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


def cache_directory() -> Path:
    """Where the artefacts of every work tree are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meta-cni-guest"


def program(name: str) -> str:
    """The path of one of PROGRAMS, /usr/sbin included; raises Missing."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{SYSTEM_PATH}")
    if found is None:
        raise Missing(f"no {PROGRAMS[name]}")
    return found


def ready(cache: Path | None = None) -> Artefacts:
    """Those in the cache, fetched if it has none; raises Missing."""
    if platform.machine() != "x86_64":
        raise Missing(f"no guest kernel for {platform.machine()}")
    for each in PROGRAMS:
        program(each)
    cache = cache_directory() if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    found = Artefacts(cache / KERNEL)
    with _locked(cache / "lock"):
        if not found.directory.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                _make(Path(scratch)).rename(found.directory)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two work trees may ask at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(scratch: Path) -> Path:
    """Fetch and unpack into a new directory."""
    unpacked = fetch(scratch)
    made = Artefacts(scratch / "made")
    made.modules.parent.mkdir(parents=True)
    (unpacked / "lib" / "modules").rename(made.modules)
    (unpacked / "bin" / "busybox").rename(made.busybox)
    image = (unpacked / "boot" / f"vmlinuz-{made.release}").read_bytes()
    made.kernel.write_bytes(uncompressed(image))
    _run(program("depmod"), "--basedir", str(made.directory), made.release)
    return made.directory


def fetch(scratch: Path) -> Path:
    """
    The packages, unpacked one over the other.

    apt keeps its lists here, too: no root is needed, and a fresh image has no lists of its own.
    """
    for name in ("lists/partial", "archives/partial", "unpacked"):
        (scratch / name).mkdir(parents=True)
    options = (
        *("-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}"),
        *("-o", f"Dir::Cache::Archives={scratch}/archives", "-o", "APT::Sandbox::User=root"),
    )
    _run("apt-get", *options, "-qq", "update")
    image = depends(_run("apt-cache", *options, "depends", KERNEL))
    _run("apt-get", *options, "-qq", "download", image, BUSYBOX, directory=scratch)
    for package in scratch.glob("*.deb"):
        _run("dpkg", "-x", str(package), str(scratch / "unpacked"))
    return scratch / "unpacked"


def depends(told: str) -> str:
    """The kernel's package that the package of its newest version depends on."""
    found = re.search(r"^ *Depends: (linux-image-\d\S+)$", told, re.MULTILINE)
    if found is None:
        raise Missing(f"no Debian package {KERNEL}")
    return found[1]


def _run(*command: str, directory: Path | None = None) -> str:
    """What a command prints; one that fails misses the network, or a Debian."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Missing(f"no guest kernel: {command[0]}: {done.stderr.strip()}")
    return done.stdout


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
