"""The two namespaces of a request."""

import os

import pytest

from meta_cni.cni.errors import NetnsGone
from meta_cni.linux import link, netns
from meta_cni.linux.namespaces import Namespaces
from tests.netns.conftest import PodNetns


def test_nothing_is_opened_before_it_is_asked_for_and_all_is_closed(pod: PodNetns):
    """A daemon that leaks one descriptor a request serves for a day."""
    before = len(os.listdir("/proc/self/fd"))

    with Namespaces(pod.path) as namespaces:
        unopened = len(os.listdir("/proc/self/fd"))
        assert link.find(namespaces.pod, "lo") is not None
        assert link.find(namespaces.host, "lo") is not None
        opened = len(os.listdir("/proc/self/fd"))

    assert (before, before + 3) == (unopened, opened)
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_namespace_that_is_gone_is_gone_each_time():
    """Every step of a DEL may ask, and must get the same answer."""
    with Namespaces("/run/netns/gone") as namespaces:
        for _ in range(2):
            with pytest.raises(NetnsGone, match="/run/netns/gone: it does not exist"):
                _ = namespaces.pod
        assert namespaces.is_gone


def test_an_empty_path_is_a_namespace_that_is_gone():
    """CNI_NETNS may be empty on a DEL (CNI 1.1.0, section DEL)."""
    with Namespaces("") as namespaces, pytest.raises(NetnsGone, match="CNI_NETNS is empty"):
        _ = namespaces.pod_fd


def test_another_namespace_at_the_same_path_is_not_the_pod_s(pod: PodNetns):
    """A path is used again after a reboot; a DEL of the old pod must not touch the new one."""
    with Namespaces(pod.path) as namespaces:
        remembered = namespaces.identity
    netns.create("/run/netns/another")

    try:
        with Namespaces("/run/netns/another", remembered) as namespaces:
            assert namespaces.is_gone
            with pytest.raises(NetnsGone, match="another network namespace has its place"):
                _ = namespaces.pod
    finally:
        netns.remove("/run/netns/another")
    with Namespaces(pod.path, remembered) as namespaces:
        assert not namespaces.is_gone
