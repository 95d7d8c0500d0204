"""
Tap devices that stay when their maker closes them, in the namespace of the calling thread.

There is no netlink message to make one: the device is a file's until TUNSETPERSIST gives it to
the namespace (Documentation/networking/tuntap.rst). Its security label is that of the process
which makes it, so for another one a program is started: `ip`, as the reference does.
"""

import errno
import fcntl
import os
import struct
from contextlib import suppress

from meta_cni.cni.errors import BadConfig, KernelError
from meta_cni.linux import program

DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP = 0x400454CA, 0x400454CB, 0x400454CC, 0x400454CE
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x2, 0x100, 0x1000, 0x4000, 0x8000
EXEC_LABEL = "/proc/thread-self/attr/exec"  # SELinux: the label of what this thread executes next


def create(
    name: str, *, is_multi_queue: bool = False, owner: int | None = None, group: int | None = None
) -> None:
    """
    Make a tap device; raises KernelError.

    `owner` and `group` are the user and the group that may open it, besides those who may anyway.
    """
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL | (IFF_MULTI_QUEUE if is_multi_queue else 0)
    descriptor = _open(name)
    try:
        made = _control(descriptor, name, TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
        if isinstance(made, bytes) and made[:16].rstrip(b"\0") != name.encode():  # a pattern: tap%d
            raise KernelError(f"create tap {name}", errno.EINVAL)
        for request, value in ((TUNSETOWNER, owner), (TUNSETGROUP, group)):
            if value is not None:
                _control(descriptor, name, request, value)
        _control(descriptor, name, TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def unavailable() -> str:
    """Why no tap device can be made here; empty when one can."""
    if os.access(DEVICE, os.R_OK | os.W_OK):
        return ""
    return f"open {DEVICE}: expected that device on the node: modprobe tun"


def _open(name: str) -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"create tap {name}", error.errno or errno.EIO, unavailable()) from None


def _control(descriptor: int, name: str, request: int, argument: bytes | int) -> bytes | int:
    """One ioctl; unsigned 32 bits are passed as C's int."""
    if isinstance(argument, int) and argument > 2**31 - 1:
        argument -= 2**32
    try:
        return fcntl.ioctl(descriptor, request, argument)
    except OSError as error:
        is_taken = request == TUNSETIFF and error.errno == errno.EBUSY
        raise KernelError(f"create tap {name}", errno.EEXIST if is_taken else error.errno or 0) from None


def create_labelled(
    name: str, label: str, *, is_multi_queue: bool = False, owner: int | None = None, group: int | None = None
) -> None:
    """
    As create(), with a SELinux label; raises BadConfig when the node does not know it.

    Only the calling thread's next program gets the label, and the thread none.
    """
    command = ["ip", "tuntap", "add", "mode", "tap", "name", name, "vnet_hdr"]
    command += ["multi_queue"] if is_multi_queue else []
    command += ["user", str(owner)] if owner is not None else []
    command += ["group", str(group)] if group is not None else []
    try:
        _write_label(label)
    except OSError as error:
        raise BadConfig(
            f"selinuxContext {label!r}: {error.strerror}: "
            "expected a context of this node's policy, and SELinux to be on"
        ) from None
    try:
        program.run(command)
    finally:
        with suppress(OSError):
            _write_label("")


def _write_label(label: str) -> None:
    descriptor = os.open(EXEC_LABEL, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, label.encode() + b"\0")
    finally:
        os.close(descriptor)
