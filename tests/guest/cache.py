"""
What the guest is made of is made once and kept outside of the tree, for the machines of every work tree.

Remove the directory to have all of it newer.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Missing(Exception):
    """What this machine has not; the message is a reason to skip."""


def cache_directory() -> Path:
    """Where it is all kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meta-cni-guest"


def cached(name: str, make: Callable[[Path], Path], cache: Path | None = None) -> Path:
    """
    A directory in the cache; else the one that `make` answers, given a scratch directory.

    Several ask at once: one makes it, the others wait.
    """
    cache = cache_directory() if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    found = cache / name
    with _locked(cache / f"{name}.lock"):
        if not found.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                make(Path(scratch)).rename(found)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def program(name: str, packages: Mapping[str, str]) -> str:
    """The path of a program, /usr/sbin included; raises Missing with its package."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{SYSTEM_PATH}")
    if found is None:
        raise Missing(f"no {packages[name]}")
    return found


def run(purpose: str, *command: str, directory: Path | None = None) -> str:
    """What a command prints; one that fails raises Missing with its purpose and its reason."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Missing(f"no {purpose}: {Path(command[0]).name}: {done.stderr.strip()}")
    return done.stdout
