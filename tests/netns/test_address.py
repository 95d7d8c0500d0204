"""Addresses on a real kernel."""

from ipaddress import ip_interface

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, link
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest


@pytest.fixture
def index(host: Socket, pod: PodNetns) -> int:
    """A link of the pod with a carrier."""
    (reply,) = host.request([link.create_veth("veth0", "net1", pod.fd)])
    _, found = link.veth_indexes(reply)
    pod.socket.request([link.set_link(found, is_up=True)])
    return found


@pytest.mark.parametrize(
    "text", ["10.0.0.2/24", "10.0.0.2/31", "10.0.0.2/32", "fd00::2/64", "fd00::2/128", "fe80::2/64"]
)
def test_an_address_is_there_with_its_prefix_until_it_is_deleted(pod: PodNetns, index: int, text: str):
    """The result must say what the kernel has."""
    wanted = ip_interface(text)

    pod.socket.request([address.add(index, wanted)])
    added = [each.address for each in address.dump(pod.socket, index)]
    pod.socket.request([address.delete(index, wanted)])

    assert wanted in added
    assert wanted not in [each.address for each in address.dump(pod.socket, index)]


def test_an_address_of_an_ipam_works_at_once(pod: PodNetns, index: int):
    """Duplicate address detection would hold IPv6 back for one to two seconds."""
    pod.socket.request([address.add(index, ip_interface("fd00::2/64"))])
    pod.socket.request([address.add(index, ip_interface("fd00::3/64"), is_nodad=False)])

    found = {str(each.ip): each.is_tentative for each in address.dump(pod.socket, index)}
    assert {"fd00::2": False, "fd00::3": True} == {key: found[key] for key in ("fd00::2", "fd00::3")}


def test_an_address_is_not_added_twice(pod: PodNetns, index: int):
    """Two delegates that give a pod the same address are a mistake."""
    pod.socket.request([address.add(index, ip_interface("10.0.0.2/24"))])

    with pytest.raises(KernelError, match=r"add address 10.0.0.2/24: .*File exists"):
        pod.socket.request([address.add(index, ip_interface("10.0.0.2/24"))])


def test_the_addresses_of_one_link_are_its_own(pod: PodNetns, index: int):
    """The loopback has some too."""
    pod.socket.request([address.add(index, ip_interface("10.0.0.2/24"))])

    own, everyone = address.dump(pod.socket, index), address.dump(pod.socket)

    assert {index} == {each.interface_index for each in own}
    assert {"127.0.0.1", "10.0.0.2"} <= {str(each.ip) for each in everyone}
