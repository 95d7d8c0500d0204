"""
The kernel's floor: the bare netlink messages of a pod's attachments, packed before the clock starts.

For each a fused veth and one address, and one default route; every batch is one datagram. Deletion
is of all at once, until it is announced, and until it is acknowledged. What a delegate costs above
this is ours.
"""

import os
import socket
import struct
import time
from ipaddress import ip_address, ip_interface, ip_network
from threading import Thread

from delegates import ptp
from meta_cni.cni.result import IPConfig
from meta_cni.linux import address, forwarding, link, netns, route, sysctl
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import (
    AF_UNSPEC,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_REQUEST,
    SOL_NETLINK,
    Request,
    encode,
)
from meta_cni.linux.route import Route

INDEX = 0x7FFFFF00
"""Stands for the first link's index until the kernel has given one; the next stand for the others'."""
GROUP = 0x7F100000
LONGEST_S = 10
"""What the kernel says nothing to within it is a mistake of ours."""
RTNLGRP_LINK = 1  # <linux/rtnetlink.h>
IFLA_LINK = 5  # <linux/if_link.h>
NLMSG_ERROR, NLMSG_DONE = 2, 3  # <linux/netlink.h>
HEADER = struct.Struct("=IHHII")


def _open(groups: int = 0) -> socket.socket:
    raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", LONGEST_S, 0))
    raw.bind((0, groups))
    return raw


def _packed(request: Request) -> bytes:
    return encode(request.message, request.type, request.flags | NLM_F_REQUEST | NLM_F_ACK, 1)


def _unacknowledged(request: Request) -> bytes:
    return encode(request.message, request.type, request.flags | NLM_F_REQUEST, 1)


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    while offset + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, offset)
        found.append((kind, data[offset : offset + length]))
        offset += (length + 3) & ~3
    return found


def _acknowledged(raw: socket.socket, count: int) -> list[tuple[int, int]]:
    """Wait for so many acknowledgements; index and peer's index of the links that echoes brought."""
    links: list[tuple[int, int]] = []
    while count:
        for kind, message in _messages(raw.recv(1 << 16)):
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", message, HEADER.size)
                if code:
                    raise OSError(-code, os.strerror(-code))
                count -= 1
            elif kind == link.RTM_NEWLINK:
                links.append((_index(message), _peer(message)))
    return links


def _index(message: bytes) -> int:
    """ifi_index of a link's message."""
    return int(struct.unpack_from("=i", message, HEADER.size + 4)[0])


def _peer(message: bytes) -> int:
    """IFLA_LINK of a link's message."""
    offset = HEADER.size + 16  # struct ifinfomsg
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if kind == IFLA_LINK:
            return int(struct.unpack_from("=I", message, offset + 4)[0])
        offset += (length + 3) & ~3
    return 0


class Floor:
    """Attachments of one pod's namespace to one bridge, by bare messages."""

    def __init__(self, pod_fd: int, bridge: int, count: int = 1) -> None:
        """`bridge` is the index of a bridge in this namespace; 0 for none."""
        self.host, self.pod = _open(), netns.run_in(pod_fd, _open)
        self.pod_fd = pod_fd
        self.count = count
        self.links: list[tuple[int, int]] = []
        group = GROUP + count
        self.names = [f"floor{pod_fd}-{n}" for n in range(count)]
        creations = (
            link.create_veth(name, f"eth{n}", pod_fd, master=bridge, group=group)
            for n, name in enumerate(self.names)
        )
        self.create = b"".join(map(_packed, creations))
        batch: list[Request] = []
        for n in range(count):
            batch.append(link.set_link(INDEX + n, is_up=True))
            batch.append(address.add(INDEX + n, ip_interface(f"10.{100 + n}.0.2/24")))
        batch.append(route.add(Route(ip_network("0.0.0.0/0"), ip_address("10.100.0.1"), INDEX)))
        self.settings = len(batch)
        self.configure = b"".join(map(_packed, batch))
        self.remove = _packed(link.delete_group(group))

    def add(self) -> float:
        """Milliseconds of creating and configuring the links."""
        started = time.perf_counter()
        self.host.send(self.create)
        self.links = _acknowledged(self.host, self.count)
        datagram = self.configure
        for n, (_, peer) in enumerate(self.links):
            datagram = datagram.replace(struct.pack("=I", INDEX + n), struct.pack("=I", peer))
        self.pod.send(datagram)
        _acknowledged(self.pod, self.settings)
        return (time.perf_counter() - started) * 1000

    def delete(self) -> tuple[float, float]:
        """Milliseconds until all deletions are announced, and until they are acknowledged."""
        with netns.run_in(self.pod_fd, lambda: _open(1 << (RTNLGRP_LINK - 1))) as news:
            started = time.perf_counter()
            sender = Thread(target=self.pod.send, args=(self.remove,))  # it blocks until the acknowledgement
            sender.start()
            self._await_announced(news)
            announced = (time.perf_counter() - started) * 1000
            sender.join()
            _acknowledged(self.pod, 1)
        return announced, (time.perf_counter() - started) * 1000

    def _await_announced(self, news: socket.socket) -> None:
        there = {peer for _, peer in self.links}
        while there:
            for kind, message in _messages(news.recv(1 << 16)):
                if kind == link.RTM_DELLINK and message[HEADER.size] == AF_UNSPEC:
                    there.discard(_index(message))


class BridgeFloor(Floor):
    """
    The floor of the delegate bridge: one attachment, and what a bridge that is a gateway needs besides.

    Is the name free, where is the bridge, its MAC kept; does it forward for the port, has it the
    gateway's address, does the node forward? Nobody reads the answers.
    """

    def __init__(self, pod_fd: int, bridge: Link) -> None:
        super().__init__(pod_fd, bridge.index)
        self.host.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self.is_free = _unacknowledged(link.look_up_index(INDEX))
        self.is_there = _unacknowledged(link.look_up_index(bridge.index))
        self.create = _unacknowledged(link.set_link(bridge.index, mac=bridge.mac)) + self.create
        own = ip_interface("10.100.0.2/24")
        looks = [link.look_up_index(INDEX), *forwarding.questions([own]), address.list_of(bridge.index)]
        self.looks = b"".join(map(_unacknowledged, looks))

    def add(self) -> float:
        """Milliseconds of all of it."""
        started = time.perf_counter()
        for raw, question in ((self.pod, self.is_free), (self.host, self.is_there)):
            raw.send(question)
            raw.recv(1 << 16)
        super().add()
        ((port, _),) = self.links
        self.host.send(self.looks.replace(struct.pack("=I", INDEX), struct.pack("=I", port)))
        while not any(kind == NLMSG_DONE for kind, _ in _messages(self.host.recv(1 << 16))):
            pass
        return (time.perf_counter() - started) * 1000


class PtpFloor(Floor):
    """
    The floor of the delegate ptp: one attachment, whose neighbours are reached by its gateway.

    Is the name free, does the node forward; routes at both ends, no router's word for the node's.
    """

    def __init__(self, pod_fd: int, number: int) -> None:
        """`number` is the pod's among all there are at a time, from 0 on."""
        super().__init__(pod_fd, 0)
        ips = (IPConfig(ip_interface(f"10.100.0.{2 + number}/24"), ip_address("10.100.0.1")),)
        own = [link.set_link(INDEX, is_up=True), address.add(INDEX, ips[0].address)]
        own += [route.add(Route(ip_network("0.0.0.0/0"), ip_address("10.100.0.1"), INDEX))]
        own += ptp.by_gateway(INDEX, ips)
        self.settings = len(own)
        self.configure = b"".join(map(_packed, own))
        self.is_free = _unacknowledged(link.look_up_index(INDEX))
        (is_forwarding,) = forwarding.questions([each.address for each in ips])
        self.create = _unacknowledged(is_forwarding) + self.create
        node = ptp.to_pod(INDEX, ips)
        self.node, self.node_settings = b"".join(map(_packed, node)), len(node)

    def add(self) -> float:
        """Milliseconds of all of it."""
        started = time.perf_counter()
        self.pod.send(self.is_free)
        self.pod.recv(1 << 16)
        super().add()
        sysctl.set_new(f"net/ipv6/conf/{self.names[0]}/accept_ra", "0")
        ((port, _),) = self.links
        self.host.send(self.node.replace(struct.pack("=I", INDEX), struct.pack("=I", port)))
        _acknowledged(self.host, self.node_settings)
        return (time.perf_counter() - started) * 1000
