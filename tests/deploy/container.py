"""
A container without an engine: a mount namespace, an overlay over this machine's /, a few mounts.

Run as a program it makes one and executes a command there: `container.py SPECIFICATION`, JSON of
a Container. What is written into its root is gone with it.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HIDDEN = ("/run", "/opt/cni", "/etc/cni", "/var/lib/cni", "/var/lib/meta-cni", "/etc/meta-cni")
"""What an image does not have, whatever this machine has there."""
KERNEL = ("/dev", "/proc", "/sys")


@dataclass(slots=True)
class Container:
    """What is mounted where, and what runs there."""

    scratch: str
    """An empty directory of its own."""
    command: list[str]
    environment: dict[str, str]
    mounts: list[dict[str, Any]] = field(default_factory=list)
    """source, target, is_read_only, is_propagated: as in manifests.Mount."""
    copied: dict[str, str] = field(default_factory=dict)
    """Path in the container -> what is copied there before it starts."""
    kept: list[str] = field(default_factory=list)
    """Directories of this machine that are needed, and may lie on another file system than /."""
    is_read_only: bool = False
    directory: str = "/"

    def launched(self, **more: Any) -> "subprocess.Popen[Any]":
        """A process with all that; its signals are the command's."""
        unshare = ["unshare", "--mount", "--propagation", "unchanged"]
        if os.geteuid() != 0:
            unshare.append("--map-root-user")
        program = [sys.executable, "-I", "-S", __file__, json.dumps(asdict(self))]
        return subprocess.Popen([*unshare, *program], **more)

    def run(self) -> str:
        """What it printed; it must succeed."""
        started = self.launched(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        printed, _ = started.communicate(timeout=600)
        assert 0 == started.returncode, printed
        return str(printed)


def overlay(scratch: Path) -> Path:
    """A root directory that begins as this machine's; its mounts belong to the caller's namespace."""
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", scratch)
    root = scratch / "root"
    root.mkdir()
    _lay("/", root, scratch / "layer")
    for name in HIDDEN:
        below(root, name).mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", below(root, name))
    for name in KERNEL:
        mount("--rbind", name, below(root, name))
        mount("--make-rslave", below(root, name))
    return root


def below(root: Path, path: str) -> Path:
    """A path of the container from outside."""
    return root / path.lstrip("/")


def mount(*arguments: object) -> None:
    """mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _lay(source: str, target: Path, layer: Path) -> None:
    """A directory of this machine; what is written there goes into the layer."""
    for each in ("upper", "work"):
        (layer / each).mkdir(parents=True)
    layers = f"lowerdir={source},upperdir={layer / 'upper'},workdir={layer / 'work'}"
    mount("-t", "overlay", "-o", layers, "overlay", target)


def _bind(root: Path, source: str, target: str, is_read_only: bool, is_propagated: bool) -> None:
    place = below(root, target)
    place.mkdir(parents=True, exist_ok=True)
    mount("--rbind", source, place)
    mount("--make-rslave" if is_propagated else "--make-rprivate", place)
    if is_read_only:
        mount("-o", "remount,bind,ro", place)


def main() -> None:
    """Never returns."""
    wanted = Container(**json.loads(sys.argv[1]))
    mount("--make-rslave", "/")
    root = overlay(Path(wanted.scratch))
    for number, name in enumerate(wanted.kept):
        below(root, name).mkdir(parents=True, exist_ok=True)
        _lay(name, below(root, name), Path(wanted.scratch) / f"layer-{number}")
    for target, source in wanted.copied.items():
        below(root, target).parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, below(root, target), dirs_exist_ok=True)
        else:
            shutil.copy(source, below(root, target))
    for each in wanted.mounts:
        _bind(root, **each)
    for name in ("", *wanted.kept) if wanted.is_read_only else ():
        mount("-o", "remount,ro", below(root, name))
    os.chroot(root)
    os.chdir(wanted.directory)
    os.execvpe(wanted.command[0], wanted.command, wanted.environment)


if __name__ == "__main__":
    main()
