"""
One boot of the guest: a task goes in, what it wrote comes out.

The processor is always emulated. Where /dev/kvm is there it may still be of no use: on a virtual
machine it can start and then hang, so nothing is tried.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.guest.artefacts import Artefacts, initramfs
from tests.guest.emulator import Emulator

SHARE = "/mnt"
"""Where the guest has the directory that it shares with the machine."""
MEMORY_MIB = 2048
PROCESSOR = "Nehalem"
"""One, for a second had little to do and cost a seventh of the time; without wide vectors, slow ones here."""
KERNEL_COMMAND = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr random.trust_cpu=on intel_iommu=on"
    " no_timer_check"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """What is known of a boot that is over."""

    status: int | None
    """The task's exit status; None when it did not get to its end."""
    printed: str
    console: str

    def told(self) -> str:
        """For whoever has to find out why."""
        tail = "\n".join(self.printed.splitlines()[-40:])
        return f"the guest's task ended with {self.status}\n{tail}\nconsole:\n{self.console}"


def start(artefacts: Artefacts, emulator: Emulator, directory: Path) -> list[str]:
    """Everything QEMU is told."""
    machine = "local,path=/,mount_tag=machine,security_model=none,readonly=on,multidevs=remap"
    share = f"local,path={directory}/share,mount_tag=share,security_model=none"
    return [
        emulator.path,
        *("-accel", "tcg", "-M", "q35,kernel-irqchip=split", "-cpu", PROCESSOR),
        *("-smp", "1", "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(artefacts.kernel), "-initrd", str(directory / "initramfs")),
        *("-append", KERNEL_COMMAND, "-virtfs", machine, "-virtfs", share, *emulator.options),
    ]


def boot(artefacts: Artefacts, emulator: Emulator, directory: Path, task: str, *, timeout_s: float) -> Ended:
    """Run a shell script as root in the guest; its files in SHARE are in `directory`/share afterwards."""
    share = directory / "share"
    share.mkdir()
    (share / "task").write_text(task)
    (directory / "initramfs").write_bytes(initramfs(artefacts))
    command = start(artefacts, emulator, directory)
    environment = {**os.environ, **dict(emulator.environment)}
    with (directory / "console").open("wb") as console:
        output = {"stdin": subprocess.DEVNULL, "stdout": console, "stderr": console}
        try:
            subprocess.run(command, env=environment, timeout=timeout_s, **output)
        except subprocess.TimeoutExpired:
            console.write(f"the guest was stopped: it was not done after {timeout_s} s\n".encode())
    status = _text(share / "status").strip()
    return Ended(int(status) if status else None, _text(share / "printed"), _text(directory / "console"))


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if os.path.exists(path) else ""
