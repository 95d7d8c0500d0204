"""
The three programs that a scenario is run by: the reference, ours in process, ours executed.

The reference is the newest that is here: `make newest-reference` builds the newest release where
there is Go; else the distribution's.
"""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meta_cni import standalone

ROOT = Path(__file__).parent.parent.parent
BUILT = ROOT / ".reference"
INSTALLED = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
TIMEOUT_S = 300
"""What takes longer hangs; on a busy machine Python starts in a minute on the guest's processor."""

Program = Callable[[str, Mapping[str, str], bytes], tuple[bytes, int]]
"""(plugin type, environment, standard input) -> what it printed, exit code."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A directory of reference plugins; none has an empty version."""

    directory: Path
    version: str

    def has(self, plugin: str) -> bool:
        """Is there a binary of this type?"""
        return os.access(self.directory / plugin, os.X_OK)

    def call(self, plugin: str, environment: Mapping[str, str], stdin: bytes) -> tuple[bytes, int]:
        """Execute it."""
        return _execute([str(self.directory / plugin)], environment, stdin)


def find_reference() -> Reference:
    """The one that was built, else the one that is installed."""
    if (BUILT / "VERSION").exists():
        return Reference(BUILT / "bin", (BUILT / "VERSION").read_text().strip())
    found = next((each for each in INSTALLED if os.access(each / "bridge", os.X_OK)), None)
    return Reference(found, _installed_version(found)) if found else Reference(INSTALLED[0], "")


def _installed_version(directory: Path) -> str:
    """What the binary says of itself, else what Debian says of it; 0 when neither does."""
    told = subprocess.run([directory / "bridge"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    command = ["dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"]
    try:
        packaged = subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        packaged = ""
    found = re.search(r"\bv?(\d+\.\d+\.\d+)", told.stderr.split("\n")[0]) or re.match(
        r"(\d+\.\d+\.\d+)", packaged
    )
    return f"v{found[1]}" if found else "v0"


def _execute(command: list[str], environment: Mapping[str, str], stdin: bytes) -> tuple[bytes, int]:
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, timeout=TIMEOUT_S)
    return done.stdout, done.returncode


def in_process(plugin: str, environment: Mapping[str, str], stdin: bytes) -> tuple[bytes, int]:
    """Ours, called as a function."""
    return standalone.serve(plugin, environment, stdin)


@dataclass(frozen=True, slots=True)
class Executables:
    """
    Ours, as `meta-cni install --plugins` puts them for any runtime.

    They are written before any thread starts a program: a file that is being written while another
    thread forks is "busy".
    """

    directory: Path

    @classmethod
    def install(cls, directory: Path) -> "Executables":
        """One for each type."""
        standalone.install(directory)
        return cls(directory)

    def call(self, plugin: str, environment: Mapping[str, str], stdin: bytes) -> tuple[bytes, int]:
        """Execute it."""
        return _execute([str(self.directory / f"meta-{plugin}")], environment, stdin)
