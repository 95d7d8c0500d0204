"""
Files that are whole or as they were, after a power cut too.

Written beside, synced, renamed: nobody reads half a file, and a program that is being executed is
replaced without "Text file busy", which opening it for writing would answer. What is beside has a
fixed name that no runtime takes for a configuration, so what a killed process left is replaced by
the next one.
"""

import os
from contextlib import suppress
from pathlib import Path

from meta_cni.cni.errors import IOFailure


def beside(path: Path) -> Path:
    """Where a file is written before it has its name."""
    return path.with_name(f".{path.name}.new")


def replace(path: Path, content: bytes, mode: int, like: os.stat_result | None = None) -> None:
    """
    Put a file into its place; raises IOFailure, and then what was there is there still.

    It gets the owner and the times of `like`.
    """
    new = beside(path)
    try:
        new.unlink(missing_ok=True)
        with open(new, "xb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if like is not None:
                os.utime(file.fileno(), ns=(like.st_atime_ns, like.st_mtime_ns))
                os.fchown(file.fileno(), like.st_uid, like.st_gid)  # last: what is another's stays as it is
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise IOFailure(f"write {path}: {error.strerror}") from None


def replace_by_link(path: Path, target: str) -> None:
    """Put a symbolic link into its place, as replace() does."""
    new = beside(path)
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        os.replace(new, path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise IOFailure(f"write {path}: {error.strerror}") from None


def remove(path: Path) -> bool:
    """Remove a file; was it there? Raises IOFailure."""
    try:
        path.unlink()
        sync_directory(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IOFailure(f"remove {path}: {error.strerror}") from None
    return True


def read(path: Path) -> bytes | None:
    """What is in a file; None when there is none. Raises IOFailure."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IOFailure(f"read {path}: {error.strerror}") from None


def sync_directory(directory: Path) -> None:
    """Names in a directory survive a power cut from now on; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
