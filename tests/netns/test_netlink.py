"""Our own netlink: batches, acknowledgements, the kernel's words, namespaces of threads."""

import errno
import os
import struct
import threading
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from meta_cni.cni.errors import BadNetns, KernelError, NetnsGone
from meta_cni.linux import address, configure, device, link, netns, route, sysctl
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import HEADER, NLMSG_DONE, Socket
from tests.netns.conftest import PodNetns


def test_veth_is_made_in_one_message_with_both_ends_in_place(host: Socket, pod: PodNetns):
    """Creating and then moving costs 16 ms more; the echo tells both indexes."""
    host.request([link.create_bridge("brn")])
    bridge = link.require(host, "brn", "bridge")
    request = link.create_veth(
        "vethn", "eth0", pod.fd, mac="02:00:00:00:00:05", mtu=1400, group=0x6D000001, master=bridge.index
    )

    (reply,) = host.request([request])

    host_index, pod_index = link.veth_indexes(reply)
    inside, outside = link.find_index(pod.socket, pod_index), link.find_index(host, host_index)
    assert inside is not None
    assert outside is not None
    assert ("eth0", "02:00:00:00:00:05", 1400, 0x6D000001) == (
        inside.name,
        inside.mac,
        inside.mtu,
        inside.group,
    )
    assert ("vethn", bridge.index, True) == (outside.name, outside.master, outside.is_up)


def test_links_of_a_group_go_in_one_message(host: Socket, pod: PodNetns):
    """One grace period of the kernel for all; an empty group is no error."""
    for n in range(4):
        host.request([link.create_veth(f"vg{n}", f"net{n}", pod.fd, group=77)])
    host.request([link.create_veth("vg9", "other", pod.fd)])

    pod.socket.request([link.delete_group(77)])
    pod.socket.request([link.delete_group(77)])

    assert ["other"] == pod.links()


def test_first_failure_of_a_batch_is_raised_when_all_is_read(pod: PodNetns):
    """The kernel goes on behind a failure; the socket must stay usable."""
    loopback = link.require(pod.socket, "lo", "link").index
    good, bad = ip_interface("10.1.0.1/32"), ip_interface("127.0.0.1/8")
    batch = [address.add(loopback, bad), address.add(loopback, good), address.add(999, good)]

    with pytest.raises(KernelError, match=r"add address 127.0.0.1/8: .*File exists") as caught:
        pod.socket.request(batch)

    assert errno.EEXIST == caught.value.errno
    assert good in {each.address for each in address.dump(pod.socket, loopback)}


def test_kernels_own_words_reach_the_error(host: Socket):
    """NLMSGERR_ATTR_MSG says more than EINVAL."""
    host.request([link.create_pair("va", "vb")])

    with pytest.raises(KernelError, match="mtu less than device minimum: Invalid argument"):
        host.request([link.set_link(link.require(host, "va", "link").index, mtu=1)])


def test_address_of_an_ipam_works_at_once(host: Socket, pod: PodNetns):
    """IFA_F_NODAD: without it IPv6 waits one to two seconds."""
    host.request([link.create_veth("vd", "eth0", pod.fd)])
    index = link.require(pod.socket, "eth0", "link").index
    pod.socket.request([link.set_link(index, is_up=True), address.add(index, ip_interface("fd00::1/64"))])

    (found,) = [each for each in address.dump(pod.socket, index) if not each.ip.is_link_local]

    assert (False, False) == (found.is_tentative, found.is_duplicate)


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "10.7.0.0/16", "fd07::/48"])
def test_routes_are_read_as_they_were_written(pod: PodNetns, host: Socket, text: str):
    """The default route has no RTA_DST; D-01 came from not knowing that."""
    host.request([link.create_veth("vr", "eth0", pod.fd)])
    index = link.require(pod.socket, "eth0", "link").index
    own = ip_interface("10.1.0.2/24") if ":" not in text else ip_interface("fd00::2/64")
    pod.socket.request([link.set_link(index, is_up=True), address.add(index, own)])
    wanted = route.Route(ip_network(text), own.network[1], index, mtu=1300, advmss=1200)

    pod.socket.request([route.add(wanted)])

    (found,) = [each for each in route.dump(pod.socket) if each.destination == wanted.destination]
    assert (wanted.gateway, index, 1300, 1200) == (
        found.gateway,
        found.interface_index,
        found.mtu,
        found.advmss,
    )
    pod.socket.request([route.delete(found), route.delete(found)])
    assert wanted.destination not in {each.destination for each in route.dump(pod.socket)}


def test_route_of_two_hops_is_told_as_two_routes(pod: PodNetns, host: Socket):
    """So that one of them can be taken away."""
    host.request([link.create_veth("vm", "eth0", pod.fd)])
    index = link.require(pod.socket, "eth0", "link").index
    own = ip_interface("fd00::2/64")
    pod.socket.request([link.set_link(index, is_up=True), address.add(index, own)])
    hops = [route.Route(route.ANYWHERE[6], own.network[n], index) for n in (3, 4)]

    pod.socket.request([route.add(each, append=True) for each in hops])

    found = [each for each in route.dump(pod.socket) if each.destination.prefixlen == 0]
    assert {str(each.gateway) for each in hops} == {str(each.gateway) for each in found}
    pod.socket.request([route.delete(found[0])])
    assert 1 == len([each for each in route.dump(pod.socket) if each.destination.prefixlen == 0])


def test_macvlan_and_port_flags_are_what_was_asked(host: Socket, pod: PodNetns):
    """Attributes of the kind and of the port, read back."""
    host.request([link.create_bridge("brp"), link.create_pair("mp", "mq")])
    parent = link.require(host, "mp", "link").index
    host.request([link.set_link(parent, master=link.require(host, "brp", "bridge").index)])
    host.request([link.set_port(parent, is_hairpin=True, is_isolated=True)])
    port = link.require(host, "mp", "link").port
    assert (1, 1) == (port["IFLA_BRPORT_MODE"], port["IFLA_BRPORT_ISOLATED"])
    other = link.require(host, "mq", "link").index

    host.request(
        [link.create_macvlan("eth0", other, "vepa", pod_fd=pod.fd, group=5, broadcast_queue_length=500)]
    )

    found = link.require(pod.socket, "eth0", "link")
    assert ("macvlan", "vepa", 5) == (found.kind, found.info["IFLA_MACVLAN_MODE"], found.group)


def test_thread_that_enters_a_namespace_dies_there(pod: PodNetns):
    """A namespace belongs to a thread: ours must never change."""
    before = os.stat("/proc/thread-self/ns/net").st_ino

    inside = netns.run_in(pod.fd, lambda: (os.stat("/proc/thread-self/ns/net").st_ino, threading.get_ident()))

    assert netns.identity(pod.fd)[1] == inside[0]
    assert before == os.stat("/proc/thread-self/ns/net").st_ino
    assert inside[1] not in {each.ident for each in threading.enumerate()} - {threading.get_ident()}


def test_what_is_raised_in_a_namespace_is_raised_outside(pod: PodNetns):
    """Errors must not die with the thread."""
    with pytest.raises(ZeroDivisionError):
        netns.run_in(pod.fd, lambda: 1 // 0)


def test_no_descriptor_is_left_open(pod: PodNetns):
    """A daemon opens two sockets and a descriptor for each of a million requests."""
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        with Namespaces(pod.path) as namespaces:
            assert link.find(namespaces.pod, "lo")
            assert link.find(namespaces.host, "lo")
    with pytest.raises(BadNetns):
        netns.open_netns("/proc/self/ns/uts")

    assert before == len(os.listdir("/proc/self/fd"))


def test_namespace_in_anothers_place_counts_as_gone(pod: PodNetns):
    """A path like /proc/PID/ns/net is soon another container's."""
    with Namespaces(pod.path, "1:1") as namespaces:
        assert namespaces.is_gone
        with pytest.raises(NetnsGone, match="another network namespace has its place"):
            _ = namespaces.pod


def test_removing_a_namespace_twice_is_success(pod: PodNetns):
    """Runtimes do."""
    netns.remove(pod.path)
    netns.remove(pod.path)


def test_namespace_that_cannot_be_made_leaves_no_file(mocker):
    """A failed create() leaves nothing to be removed."""
    mocker.patch("meta_cni.linux.netns._bring_loopback_up", side_effect=ZeroDivisionError)

    with pytest.raises(ZeroDivisionError):
        netns.create("/run/netns/failing")

    assert not Path("/run/netns/failing").exists()


def test_missing_link_is_none_and_a_required_one_an_error(host: Socket):
    """find() for those who can do without, require() for those who cannot."""
    assert (None, None) == (link.find(host, "nope"), link.find_index(host, 99999))
    with pytest.raises(KernelError, match="look up bridge nope: No such device") as caught:
        link.require(host, "nope", "bridge")
    assert caught.value.is_gone


def test_sysctls_are_written_only_when_they_differ(pod: PodNetns):
    """And errors name the path."""
    path = "net/ipv6/conf/lo/disable_ipv6"

    def change() -> str:
        sysctl.write(path, "1")
        sysctl.write(path, "1")
        return sysctl.read(path)

    assert "1" == netns.run_in(pod.fd, change)
    with pytest.raises(KernelError, match="read sysctl net/nope: No such file"):
        sysctl.read("net/nope")
    with pytest.raises(KernelError, match="write sysctl net/ipv6/conf/lo/disable_ipv6 x: Invalid argument"):
        netns.run_in(pod.fd, lambda: sysctl.write(path, "x"))


def test_silent_kernel_is_given_up_on(pod: PodNetns, mocker):
    """A request has a time limit."""
    socket = Socket.open_in(pod.fd, timeout_s=0.05)
    mocker.patch.object(Socket, "_send")

    with pytest.raises(KernelError, match="look up link lo: Connection timed out"):
        link.find(socket, "lo")
    socket.close()


def test_interrupted_dump_is_repeated(pod: PodNetns, mocker):
    """NLM_F_DUMP_INTR: the list changed while it was read."""
    rounds: list[int] = []
    real = Socket._receive

    def receive(self: Socket, action: str):
        messages = real(self, action)
        flag = 0x10 if len(rounds) < 2 else 0
        rounds.extend(1 for (_, kind, *_), _ in messages if kind == NLMSG_DONE)
        return [((size, kind, flags | flag, *rest), body) for (size, kind, flags, *rest), body in messages]

    mocker.patch.object(Socket, "_receive", receive)

    assert ["lo"] == [each.name for each in link.dump(pod.socket)]
    assert 3 == len(rounds)


def test_neighbours_are_told_of_new_addresses(host: Socket, pod: PodNetns):
    """Addresses are used again by pods with other MACs: caches must learn it."""
    import socket

    host.request([link.create_veth("va0", "eth0", pod.fd, mac="02:00:00:00:00:09")])
    found = link.require(pod.socket, "eth0", "link")
    ips = [configure.IPConfig(ip_interface(text)) for text in ("10.1.0.9/24", "fd00::9/64")]
    with Namespaces(pod.path) as namespaces:
        result = configure.Result(ips=tuple(ips))
        configure.configure(namespaces, found, result)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as listener:
            listener.bind(("va0", 0))
            listener.settimeout(2)
            errors = configure.announce(namespaces, "eth0", found.mac, ips)
            frames = [listener.recv(2048) for _ in range(2)]
            while not (_has_arp(frames) and _has_advertisement(frames)):
                frames.append(listener.recv(2048))

        assert [] == errors
        assert 1 == len(configure.announce(namespaces, "nope", found.mac, ips[:1]))


def _has_arp(frames: list[bytes]) -> bool:
    sender = bytes.fromhex("020000000009")
    target = ip_interface("10.1.0.9/24").ip.packed
    return any(
        frame[12:14] == b"\x08\x06" and sender + target in frame and frame.endswith(target)
        for frame in frames
    )


def _has_advertisement(frames: list[bytes]) -> bool:
    target = ip_interface("fd00::9/64").ip.packed
    return any(
        frame[12:14] == b"\x86\xdd" and frame[54] == 136 and target in frame[58:] and frame[21] == 255
        for frame in frames
        if len(frame) > 78
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("0000:01:00.0", True), ("x.sf.2", True), ("nope", False), ("", False)]
)
def test_devices_are_looked_for_on_both_buses(tmp_path: Path, name: str, expected: bool):
    """PCI functions and subfunctions."""
    (tmp_path / "bus" / "pci" / "devices" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "bus" / "auxiliary" / "devices" / "x.sf.2").mkdir(parents=True)

    assert expected == device.exists(name, tmp_path)


def test_headers_of_netlink_are_as_the_kernel_has_them():
    """struct nlmsghdr, 16 bytes."""
    assert (16, b"\x10\0\0\0\x03\0\x02\0\x04\0\0\0\x05\0\0\0") == (HEADER.size, HEADER.pack(16, 3, 2, 4, 5))
    assert struct.calcsize("=IHHII") == HEADER.size
