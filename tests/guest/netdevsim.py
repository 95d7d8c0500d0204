"""
netdevsim: a device of the kernel's own that takes every SR-IOV setting there is, and does nothing.

No Debian kernel has it, so it is built of the kernel's own source against the kernel's own headers.
"""

from functools import partial
from pathlib import Path

from tests.guest import packages
from tests.guest.cache import cached, program, run
from tests.guest.packages import Packages

PROGRAMS = {**packages.PROGRAMS, "make": "make", "gcc": "gcc", "xz": "xz-utils", "tar": "tar"}
"""What has to be installed, and the package it is in."""
PURPOSE = "netdevsim"
SOURCE = "drivers/net/netdevsim"
FLAGS = ("CONFIG_NETDEVSIM=m", "KCFLAGS=-DCONFIG_NETDEVSIM_MODULE=1", "CC=gcc")
"""As where the kernel is configured with it; the headers name a compiler of one version."""


def module(release: str, cache: Path | None = None) -> Path:
    """The module for a kernel's release, built if the cache has none; raises Missing."""
    for each in PROGRAMS:
        program(each, PROGRAMS)
    return cached(f"{PURPOSE}-{release}", partial(_build, release), cache) / "netdevsim.ko"


def _build(release: str, scratch: Path) -> Path:
    """The module alone, in a directory."""
    fetched = Packages(PURPOSE, scratch)
    headers = f"linux-headers-{release}"
    base = ".".join(release.split(".")[:2])
    version = fetched.version(headers)
    source = _source(fetched, f"linux-source-{base}", version)
    common = fetched.dependency(headers, "linux-headers")
    fetched.fetch(headers, common, f"linux-kbuild-{base}")
    tree = fetched.unpack() / "usr" / "src"
    makefile = tree / headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{tree}/"))
    run(PURPOSE, "make", "-j2", "-C", str(tree / headers), f"M={source}", *FLAGS, "modules")
    made = scratch / "made"
    made.mkdir()
    run(PURPOSE, "strip", "-g", "-o", str(made / "netdevsim.ko"), str(source / "netdevsim.ko"))
    return made


def _source(fetched: Packages, package: str, version: str) -> Path:
    """The module's directory of the kernel's source, whose archive is in a package."""
    fetched.fetch(f"{package}={version}")
    (archive,) = fetched.directory.glob("*.deb")
    pipe = f"set -e -o pipefail; dpkg --fsys-tarfile '{archive}' | tar -xO ./usr/src/{package}.tar.xz"
    pipe += f" | xz -dc -T0 | tar -x {package}/{SOURCE}"
    run(PURPOSE, "bash", "-c", pipe, directory=fetched.directory)
    archive.unlink()
    return fetched.directory / package / SOURCE
