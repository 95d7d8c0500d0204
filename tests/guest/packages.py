"""
Debian packages that are fetched and unpacked, never installed.

apt keeps its lists in a directory of ours: no root is needed, a fresh image has no lists of its
own, and a suite that the machine does not use changes nothing of it.
"""

import re
from pathlib import Path

from tests.guest.cache import Missing, program, run

PROGRAMS = {"apt-get": "apt", "dpkg": "dpkg"}
"""What has to be installed, and the package it is in."""
OS_RELEASE = Path("/etc/os-release")


class Packages:
    """One apt, with the machine's suites, or with the backports of its release."""

    def __init__(self, purpose: str, scratch: Path, *, is_backports: bool = False) -> None:
        """Read the lists; `purpose` is what is missing where anything fails; raises Missing."""
        for each in PROGRAMS:
            program(each, PROGRAMS)
        self.purpose = purpose
        self.directory = scratch
        for name in ("lists/partial", "archives/partial", "sources", "unpacked"):
            (scratch / name).mkdir(parents=True)
        self._options = [
            *("-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}"),
            *("-o", f"Dir::Cache::Archives={scratch}/archives", "-o", "APT::Sandbox::User=root"),
        ]
        if is_backports:
            (scratch / "sources" / "backports.list").write_text(self._backports())
            self._options += [
                *("-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={scratch}/sources"),
            ]
        self._run("apt-get", "-qq", "update")

    def _run(self, program: str, *arguments: str) -> str:
        return run(self.purpose, program, *self._options, *arguments, directory=self.directory)

    def _backports(self) -> str:
        """The suite beside the machine's own, at the same place."""
        codename = re.search(r"^VERSION_CODENAME=(\w+)$", OS_RELEASE.read_text(), re.MULTILINE)
        addresses = self._run("apt-get", "update", "--print-uris")
        place = codename and re.search(rf"^'(\S+)/dists/{codename[1]}/InRelease'", addresses, re.MULTILINE)
        if not codename or not place:
            raise Missing(f"no {self.purpose}: this is no Debian release whose backports could be asked")
        return f"deb {place[1]} {codename[1]}-backports main\n"

    def dependency(self, package: str, prefix: str) -> str:
        """The package named prefix-NUMBER... that another one depends on."""
        told = self._run("apt-cache", "depends", package)
        found = re.search(rf"^ *Depends: ({prefix}-\d\S+)$", told, re.MULTILINE)
        if found is None:
            raise Missing(f"no Debian package {package}")
        return found[1]

    def version(self, package: str) -> str:
        """The newest one."""
        told = self._run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Version: (\S+)$", told, re.MULTILINE)
        if found is None:
            raise Missing(f"no Debian package {package}")
        return found[1]

    def fetch(self, *packages: str) -> None:
        """Download, here."""
        self._run("apt-get", "-qq", "download", *packages)

    def unpack(self) -> Path:
        """Everything that was fetched, one over the other."""
        unpacked = self.directory / "unpacked"
        for package in self.directory.glob("*.deb"):
            run(self.purpose, "dpkg", "-x", str(package), str(unpacked))
            package.unlink()
        return unpacked
