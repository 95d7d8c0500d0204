"""
The shim in the runtime's plugin directory, and the node as it was before.

A program is never written in place: one that is being executed would be "Text file busy", and its
callers would keep it so for as long as there is no daemon. What had one of our names before is kept
in a directory of ours, and what is to be done is recorded there, durably, before it is done.
So each of the two commands may be killed anywhere and run again. What is ours is known by its
content; what somebody else put over it in the meantime is his, and stays.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from meta_cni import shim as shim_package
from meta_cni.cni.errors import BadConfig, CNIError, DamagedEntry, IOFailure
from meta_cni.daemon import configuration, durable
from meta_cni.daemon.spool import Spool
from meta_cni.engine.ledger import LOCKS, Ledger
from meta_cni.k8s.untold import DIRECTORY as UNTOLD
from meta_cni.shim import is_shim

DIRECTORY = "/opt/cni/bin"
STATE = "/var/lib/meta-cni/installed"
OURS = "meta-cni"
"""A directory of this name above our state is ours, too."""
RECORD = "record"
FORMAT = 1
MODE = 0o755
SOURCES = Path(shim_package.__file__).parent
COMPILERS = ("musl-gcc", "cc")
FLAGS = ("-Os", "-s", "-static")  # hosts have other C libraries, or none
COMPILER_S = 120.0
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Shim:
    """The program to install."""

    content: bytes
    origin: str
    """Where it comes from, in words."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where what an uninstallation looks at lies."""

    directory: Path
    """The runtime's plugins."""
    configurations: Path
    state: Path
    spool: Path
    cni_dir: Path
    socket: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, what somebody should know, what could not be done; a line each."""

    done: tuple[str, ...]
    told: tuple[str, ...] = ()
    errors: tuple[CNIError, ...] = ()


def find_shim(given: Path | None) -> Shim:
    """
    The program: the one given, one compiled before, one compiled now, or shim.py.

    Raises IOFailure when the one given is no shim, or nothing could be executed on this node.
    """
    if given is not None:
        return _read_shim(given, str(given))
    compiled = SOURCES / "shim"
    if compiled.exists():
        return _read_shim(compiled, str(compiled))
    reasons: list[str] = []
    for name in COMPILERS:
        made = _compile(name, reasons)
        if made is not None:
            return made
    text = (SOURCES / "shim.py").read_bytes()
    interpreter = text.partition(b"\n")[0].removeprefix(b"#!").decode()
    why = "; ".join(reasons)
    if not os.access(interpreter, os.X_OK):
        raise IOFailure(
            f"install shim.py: no {interpreter}; {why}: expected one of them, or --shim with shim.c compiled"
        )
    return Shim(
        text, f"shim.py, which is slow ({why}: expected a C compiler, or --shim with shim.c compiled)"
    )


def _read_shim(path: Path, origin: str) -> Shim:
    if not is_shim(path):
        raise IOFailure(f"read {path}: it is no shim of meta-cni: expected a compiled shim.c")
    return Shim(path.read_bytes(), origin)


def _compile(name: str, reasons: list[str]) -> Shim | None:
    """shim.c by a compiler of this node; None and a reason when that is not possible."""
    compiler = shutil.which(name)
    if compiler is None:
        reasons.append(f"no {name}")
        return None
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "shim"
        command = [compiler, *FLAGS, "-o", str(made), str(SOURCES / "shim.c")]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILER_S)
        except subprocess.CalledProcessError as error:
            lines = str(error.stderr).strip().splitlines() or [f"exit status {error.returncode}"]
            reasons.append(f"{compiler}: {lines[-1]}")
            return None
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"{compiler}: {error}")
            return None
        return Shim(made.read_bytes(), f"compiled here by {compiler}")


class Installation:
    """The programs that we put on a node."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def install(self, shim: Shim, directory: Path, names: Sequence[str]) -> list[str]:
        """Put the shim there under every name; tells what was done. Raises CNIError."""
        for name in names:
            if not name or "/" in name or "\0" in name or name.startswith("."):
                raise BadConfig(f"name {name!r}: expected a file name that does not begin with '.'")
        if not directory.is_dir():
            raise IOFailure(f"install into {directory}: expected the runtime's plugin directory")
        with self._locked():
            return [self._install(shim, directory.resolve() / name) for name in names]

    def _install(self, shim: Shim, path: Path) -> str:
        if path.is_dir():
            raise IOFailure(f"install {path}: it is a directory: expected a file, or nothing")
        record = self._read()
        is_theirs = os.path.lexists(path) and not _is_ours(path)
        saved = self._save(path) if is_theirs else record.get(str(path), "")
        before = record.get(str(path))
        if saved != before:
            self._write({**record, str(path): saved})
        if before and saved != before:
            durable.remove(self.state / before)
        if _has(path, shim.content):
            return f"{path} is up to date"
        durable.replace(path, shim.content, MODE)
        return f"{path} installed: {shim.origin}" + (
            f"; what was there is in {self.state}" if is_theirs else ""
        )

    def uninstall(self, directory: Path) -> Outcome:
        """Put back what was there, and remove what is ours there; whatever fails stays recorded."""
        done: list[str] = []
        errors: list[CNIError] = []
        if self.state.is_dir():
            with self._locked():
                for path, saved in self._read().items():
                    try:
                        done += self._restore(Path(path), saved)
                    except CNIError as error:
                        errors.append(error)
                if not errors:
                    self._remove_state()
        recorded = () if not errors else tuple(self._read())
        for left in _shims_in(directory.resolve()):
            if str(left) not in recorded and durable.remove(left):
                done.append(f"{left} removed")
        return Outcome(tuple(done), errors=tuple(errors))

    def _restore(self, path: Path, saved: str) -> list[str]:
        """One program; gone from the record when it is as it was."""
        done: list[str] = []
        durable.remove(durable.beside(path))
        if saved and (_is_ours(path) or not os.path.lexists(path)):
            self._put_back(path, saved)
            done.append(f"{path} is what it was before")
        elif _is_ours(path) and durable.remove(path):
            done.append(f"{path} removed")
        elif os.path.lexists(path) and saved != f"{path.name}.{_digest(path, path)}":
            done.append(f"{path} is not ours any more: it stays")
        self._write({key: value for key, value in self._read().items() if key != str(path)})
        if saved:
            durable.remove(self.state / saved)
        return done

    def _save(self, path: Path) -> str:
        """Keep what somebody else has under our name; the name of the copy."""
        name = f"{path.name}.{_digest(path, path)}"
        _copy(path, self.state / name)
        return name

    def _put_back(self, path: Path, saved: str) -> None:
        copy = self.state / saved
        if not os.path.lexists(copy) or saved != f"{path.name}.{_digest(copy, path)}":
            raise DamagedEntry(f"restore {path}: {copy} is not what was saved: expected it restored by hand")
        _copy(copy, path)

    def _read(self) -> dict[str, str]:
        """Path -> name of the copy of what was there, empty when there was nothing."""
        path = self.state / RECORD
        text = durable.read(path)
        if text is None:
            return {}
        head, _, body = text.partition(b"\n")
        if head != _head(body):
            raise DamagedEntry(
                f"read {path}: the checksum does not match: expected the copies in {self.state} put back "
                "by hand, and the directory removed"
            )
        record: dict[str, str] = json.loads(body)
        return record

    def _write(self, record: dict[str, str]) -> None:
        body = json.dumps(record, indent=4).encode()
        durable.replace(self.state / RECORD, _head(body) + b"\n" + body, 0o600)

    def _remove_state(self) -> None:
        """Nothing is recorded any more: what is left are copies that no program needs."""
        try:
            for each in self.state.iterdir():
                each.unlink()
        except OSError as error:
            raise IOFailure(f"remove {self.state}: {error.strerror}") from None
        _remove_empty(self.state)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One of us at a time; the lock is on the directory itself, so that none is left."""
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise IOFailure(f"make {self.state}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _head(body: bytes) -> bytes:
    return f"meta-cni {FORMAT} {hashlib.sha256(body).hexdigest()}".encode()


def _is_ours(path: Path) -> bool:
    """A link is none of ours, wherever it leads: what it leads to may have been another program before."""
    return not path.is_symlink() and is_shim(path)


def _has(path: Path, content: bytes) -> bool:
    """Is it this program already?"""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    is_program = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == MODE
    return is_program and durable.read(path) == content


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return b"->" + os.fsencode(os.readlink(path))
    return durable.read(path) or b""


def _digest(path: Path, place: Path) -> str:
    """Of a program and of the place where it belongs."""
    return hashlib.sha256(os.fsencode(place) + b"\0" + _content(path)).hexdigest()[:32]


def _copy(source: Path, target: Path) -> None:
    """With owner, mode and times; a symbolic link as one."""
    if source.is_symlink():
        durable.replace_by_link(target, os.readlink(source))
    else:
        found = source.stat()
        durable.replace(target, _content(source), stat.S_IMODE(found.st_mode), found)


def _shims_in(directory: Path) -> list[Path]:
    """Every shim in a directory of plugins, recorded or not."""
    try:
        return sorted(each for each in directory.iterdir() if _is_ours(each))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def install(places: Places, shim: Shim, names: Sequence[str]) -> list[str]:
    """
    Put the shim in place, and make the directory where it keeps DELs while there is no daemon.

    Tells what was done. Raises CNIError.
    """
    try:
        places.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IOFailure(f"make {places.spool}: {error.strerror}") from None
    return Installation(places.state).install(shim, places.directory, names)


def uninstall(places: Places) -> Outcome:
    """
    Leave the node as it was before: the configuration first, so that no new call comes.

    What waits in the spool and what is attached stays, and is told. Raises IOFailure while a
    daemon runs, for it would write the configuration again.
    """
    _refuse_daemon(places.socket)
    done = [f"{each} removed" for each in configuration.remove(places.configurations)]
    programs = Installation(places.state).uninstall(places.directory)
    told: list[str] = []
    errors = list(programs.errors)
    for look, directory in ((_spooled, places.spool), (_attached, places.cni_dir)):
        try:
            told += look(directory)
        except CNIError as error:
            errors.append(error)
        except OSError as error:
            errors.append(IOFailure(f"read {directory}: {error.strerror}"))
    if not errors and places.state.parent.name == OURS:
        _remove_empty(places.state.parent)
    return Outcome((*done, *programs.done), tuple(told), tuple(errors))


def _refuse_daemon(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise IOFailure(f"uninstall: a daemon serves {path}: expected it to be stopped first")


def _spooled(directory: Path) -> list[str]:
    waiting = len(Spool(directory).entries())
    if waiting:
        return [f"{waiting} DELs wait in {directory}: they are done when a daemon is started"]
    _remove_empty(directory)
    return []


def _attached(cni_dir: Path) -> list[str]:
    """Sandboxes that a DEL is still to come for."""
    directory = cni_dir / "ledger"
    ledger = Ledger(directory)
    live, damaged = ledger.container_ids(), ledger.damaged()
    told = []
    if live:
        shown = ", ".join(live[:SHOWN]) + (", ..." if len(live) > SHOWN else "")
        told.append(
            f"{len(live)} sandboxes are attached ({shown}): {directory} stays: "
            "expected the node to be drained before"
        )
    if damaged:
        told.append(f"{len(damaged)} damaged entries are in {directory / 'damaged'}: they stay")
    ledger.forget_locks()
    for each in (directory / LOCKS, directory / "damaged", directory, cni_dir / UNTOLD, cni_dir):
        _remove_empty(each)
    return told


def _remove_empty(directory: Path) -> None:
    """A directory that somebody else put something into is not empty, and stays."""
    with suppress(OSError):
        directory.rmdir()
