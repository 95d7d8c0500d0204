"""
What an attachment needs besides the kernel's messages, whoever makes it: bare system calls.

Its namespace is opened and visited, it has a socket on the node and one in the pod, and host-local's
lock, listing and files are what the reference plugin keeps on the disk. Together with the messages
that is the least that an ADD or a DEL with an address can cost; what is above it is ours.
"""

import ctypes
import fcntl
import os
import time
from pathlib import Path

from meta_cni.linux.netlink import Socket
from meta_cni.linux.netns import CLONE_NEWNET, OWN

LIBC = ctypes.CDLL(None, use_errno=True)


class Chores:
    """Of a pod with one address after another, in a directory of their own."""

    def __init__(self, netns: str, directory: Path) -> None:
        self.netns = netns
        self.directory = str(directory)
        directory.mkdir()

    def add(self) -> float:
        """Milliseconds: both sockets; the lock, a look at what is taken, the address and the mark."""
        started = time.perf_counter()
        pod = os.open(self.netns, os.O_RDONLY | os.O_CLOEXEC)
        host = Socket.open_host()
        home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        LIBC.setns(pod, CLONE_NEWNET)
        inside = Socket.open_host()
        LIBC.setns(home, CLONE_NEWNET)
        os.close(home)
        lock = self._locked()
        os.listdir(self.directory)
        file = os.open(self.directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o644)
        os.write(file, b"container\r\neth0")
        os.link(f"/proc/self/fd/{file}", self._address, src_dir_fd=file)
        os.close(file)
        mark = os.open(f"{self.directory}/last_reserved_ip.0", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        os.pread(mark, 4096, 0)
        os.write(mark, b"10.98.0.2")
        for each in (mark, lock, pod):
            os.close(each)
        host.close()
        inside.close()
        return (time.perf_counter() - started) * 1000

    def delete(self) -> float:
        """Milliseconds: the socket in the pod; the lock, whose the address is, and its end."""
        started = time.perf_counter()
        pod = os.open(self.netns, os.O_RDONLY | os.O_CLOEXEC)
        Socket.open_in(pod).close()
        lock = self._locked()
        os.listdir(self.directory)
        file = os.open(self._address, os.O_RDONLY | os.O_CLOEXEC)
        os.read(file, 4096)
        os.unlink(self._address)
        for each in (file, lock, pod):
            os.close(each)
        return (time.perf_counter() - started) * 1000

    @property
    def _address(self) -> str:
        return f"{self.directory}/10.98.0.2"

    def _locked(self) -> int:
        lock = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o750)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
