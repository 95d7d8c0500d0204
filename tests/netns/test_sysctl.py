"""Kernel parameters of a namespace."""

import errno

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import link, netns, sysctl
from tests.netns.conftest import PodNetns


def test_a_parameter_belongs_to_the_namespace_it_was_set_in(pod: PodNetns):
    """Forwarding switched on in a pod must not switch it on for the node."""
    netns.run_in(pod.fd, lambda: sysctl.write("net/ipv4/ip_forward", "0"))
    before = sysctl.read("net/ipv4/ip_forward")

    netns.run_in(pod.fd, lambda: sysctl.write("net/ipv4/ip_forward", "1"))

    assert "1" == netns.run_in(pod.fd, lambda: sysctl.read("net/ipv4/ip_forward"))
    assert before == sysctl.read("net/ipv4/ip_forward")


def test_the_name_of_a_link_may_have_dots(pod: PodNetns):
    """VLANs are named so: eth0.100."""
    pod.socket.request([link.create_bridge("eth0.100")])
    path = "net/ipv6/conf/eth0.100/accept_ra"

    netns.run_in(pod.fd, lambda: sysctl.write(path, "0"))

    assert "0" == netns.run_in(pod.fd, lambda: sysctl.read(path))


def test_a_value_that_is_there_already_is_not_written(mocker):
    """In a container /proc/sys is often read-only, and right as it is."""
    value = sysctl.read("net/ipv4/ip_forward")
    mocker.patch("meta_cni.linux.sysctl.os.write", side_effect=OSError(errno.EROFS, ""))

    sysctl.write("net/ipv4/ip_forward", value)

    with pytest.raises(KernelError, match="Read-only file system"):
        sysctl.write("net/ipv4/ip_forward", "1" if value == "0" else "0")


@pytest.mark.parametrize(
    ("call", "text", "number"),
    [
        (lambda: sysctl.read("net/ipv4/nothing"), "read sysctl net/ipv4/nothing", errno.ENOENT),
        (lambda: sysctl.write("net/ipv4/nothing", "1"), "read sysctl net/ipv4/nothing", errno.ENOENT),
        (
            lambda: sysctl.write("net/ipv4/ip_forward", "x"),
            "write sysctl net/ipv4/ip_forward x",
            errno.EINVAL,
        ),
    ],
)
def test_an_error_names_the_parameter(pod: PodNetns, call, text: str, number: int):
    """And the value, where that is what the kernel refused."""
    with pytest.raises(KernelError, match=f"^{text}: ") as raised:
        netns.run_in(pod.fd, call)

    assert number == raised.value.errno
