"""What the neighbours see when an address has come to a new place."""

import errno
import socket as sockets
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address, ip_interface

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import KernelError
from meta_cni.cni.result import IPConfig
from meta_cni.linux import address, configure, link, netns
from meta_cni.linux.namespaces import Left, Namespaces
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

MAC = "02:00:5e:00:53:01"
MAC_BYTES = bytes.fromhex("02005e005301")
ETH_P_ALL, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0806, 0x86DD  # <linux/if_ether.h>
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464 section 7


@pytest.fixture
def namespaces(host: Socket, pod: PodNetns) -> Iterator[Namespaces]:
    """A pod whose net1 is up, with an IPv4, an IPv6 and a link-local address."""
    (reply,) = host.request([link.create_veth("veth0", "net1", pod.fd, mac=MAC)])
    _, index = link.veth_indexes(reply)
    texts = ("10.0.0.2/24", "fd00::2/64", "fe80::2/64")
    addresses = [address.add(index, ip_interface(text)) for text in texts]
    pod.socket.request([link.set_link(index, is_up=True), *addresses])
    with Namespaces(pod.path) as opened:
        yield opened


@pytest.fixture
def wire(namespaces: Namespaces) -> Iterator[sockets.socket]:
    """The other end of the pod's veth."""
    with sockets.socket(sockets.AF_PACKET, sockets.SOCK_RAW, sockets.htons(ETH_P_ALL)) as raw:
        raw.bind(("veth0", ETH_P_ALL))
        raw.settimeout(60)
        yield raw


def frame(wire: sockets.socket, protocol: int, marker: bytes) -> bytes:
    """The next frame of a protocol that has some bytes in it."""
    while True:
        data = wire.recv(2048)
        if struct.unpack_from("!H", data, 12)[0] == protocol and marker in data:
            return data


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071); 0 for data that has its own in it."""
    padded = data + bytes(len(data) % 2)
    total = sum(word for (word,) in struct.iter_unpack("!H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def told(namespaces: Namespaces, interface: str, addresses: list[IPConfig]) -> list[KernelError]:
    """What could not be announced."""
    left: Left = []
    errors = netns.run_in(namespaces.pod_fd, lambda: configure.tell(interface, addresses, left))
    for each in left:
        each.close()
    return errors


def test_ipv4_is_announced_by_a_request_for_the_own_address(namespaces: Namespaces, wire: sockets.socket):
    """As RFC 5227 section 3 wants it: sender and target are the address, for everyone to hear."""
    own = ip_address("10.0.0.2").packed

    errors = told(namespaces, "net1", [IPConfig(ip_interface("10.0.0.2/24"))])

    seen = frame(wire, ETH_P_ARP, own)
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    assert [] == errors
    assert b"\xff" * 6 + MAC_BYTES == seen[:12]
    assert header + MAC_BYTES + own == seen[14:32]
    assert own == seen[38:42]


@pytest.mark.parametrize("text", ["fd00::2/64", "fe80::2/64"])
def test_ipv6_is_announced_by_an_unsolicited_advertisement(
    namespaces: Namespaces, wire: sockets.socket, text: str
):
    """As RFC 4861 7.2.6 wants it: to all nodes, with the override flag; other hop limits are dropped."""
    own = ip_interface(text)

    errors = told(namespaces, "net1", [IPConfig(own)])

    option = bytes((2, 1)) + MAC_BYTES
    seen = frame(wire, ETH_P_IPV6, struct.pack("!I", 0x20000000) + own.ip.packed + option)
    packet, body = seen[14:54], seen[54:]
    pseudo = packet[8:40] + struct.pack("!II", len(body), sockets.IPPROTO_ICMPV6)
    assert [] == errors
    assert ALL_NODES_MAC + MAC_BYTES == seen[:12]
    assert (255, own.ip.packed, ALL_NODES.packed) == (packet[7], packet[8:24], packet[24:40])
    assert (136, 0) == (body[0], body[1])
    assert 0 == checksum(pseudo + body)


def test_a_failing_announcement_is_told_and_the_others_go_out(namespaces: Namespaces, wire: sockets.socket):
    """Nothing depends on one: the neighbours ask anyway."""
    wanted = [IPConfig(ip_interface(text)) for text in ("fd00::9/64", "10.0.0.2/24")]

    errors = told(namespaces, "net1", wanted)

    assert ["announce fd00::9 on net1: Cannot assign requested address"] == [each.message for each in errors]
    assert frame(wire, ETH_P_ARP, ip_address("10.0.0.2").packed)


def test_one_packet_socket_is_for_all_that_a_request_announces(namespaces: Namespaces, wire: sockets.socket):
    """To close each of them takes the kernel 10 ms."""
    left: Left = []
    wanted = [IPConfig(ip_interface("10.0.0.2/24"))]

    for _ in range(2):
        assert [] == netns.run_in(namespaces.pod_fd, lambda: configure.tell("net1", wanted, left))

    assert 1 == len(left)
    left[0].close()


def test_no_packet_socket_to_be_had_is_told_and_leaves_nothing(namespaces: Namespaces, mocker: MockerFixture):
    """A node may be out of descriptors."""
    left: Left = []
    wanted = [IPConfig(ip_interface("10.0.0.2/24"))]
    mocker.patch.object(sockets.socket, "__init__", side_effect=OSError(errno.EMFILE, "no"))

    errors = netns.run_in(namespaces.pod_fd, lambda: configure.tell("net1", wanted, left))

    assert ["announce 10.0.0.2 on net1: Too many open files"] == [each.message for each in errors]
    assert [] == left


def test_an_interface_that_is_gone_is_no_reason_to_fail(namespaces: Namespaces):
    """A pod may be deleted while its announcement waits."""
    wanted = [IPConfig(ip_interface("10.0.0.2/24")), IPConfig(ip_interface("fd00::2/64"))]

    errors = told(namespaces, "net9", wanted)

    assert [errno.ENODEV, errno.ENODEV] == [each.errno for each in errors]


def test_the_answer_does_not_wait_for_the_announcement(namespaces: Namespaces, wire: sockets.socket):
    """Closing a packet socket alone takes 10 to 20 ms (packet_release() waits for RCU)."""
    configure.announce(namespaces, "net1", [IPConfig(ip_interface("10.0.0.2/24"))])

    namespaces.close()

    assert frame(wire, ETH_P_ARP, ip_address("10.0.0.2").packed)
