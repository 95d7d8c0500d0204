"""A function's link takes an address, or says why not; what cards do in between is in test_sriov.py."""

import errno

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import link, vf_release
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns

MAC = "02:00:5e:00:53:01"
OF_A_GROUP = "01:00:5e:00:53:01"


@pytest.fixture
def found(host: Socket, pod: PodNetns) -> Link:
    """A link that refuses what is no station's address, as every one does."""
    host.request([link.create_veth("vf0", "eth0", pod.fd)])
    return link.require(host, "vf0", "VF")


def test_an_address_is_taken(host: Socket, found: Link):
    """At once."""
    vf_release.take_address(host, found, MAC, "vf0")

    assert MAC == link.require(host, "vf0", "VF").mac


@pytest.mark.slow
def test_an_address_that_is_still_refused_after_a_reset_is_an_error(host: Socket, found: Link):
    """Two seconds later; the link is down."""
    with pytest.raises(KernelError, match=f"set mac {OF_A_GROUP} of vf0: ") as caught:
        vf_release.take_address(host, found, OF_A_GROUP, "vf0")

    after = link.require(host, "vf0", "VF")
    assert (errno.EADDRNOTAVAIL, found.mac, False) == (caught.value.errno, after.mac, after.is_up)


def test_a_link_that_is_gone_is_an_error(host: Socket, found: Link):
    """Nothing is tried again."""
    link.remove(host, "vf0")

    with pytest.raises(KernelError, match=f"set mac {MAC} of vf0: No such device"):
        vf_release.take_address(host, found, MAC, "vf0")
