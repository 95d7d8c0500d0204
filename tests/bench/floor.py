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

from meta_cni.linux import address, link, netns, route
from meta_cni.linux.netlink import AF_UNSPEC, NLM_F_ACK, NLM_F_REQUEST, Request, encode
from meta_cni.linux.route import Route

INDEX = 0x7FFFFF00
"""Stands for the first link's index until the kernel has given one; the next stand for the others'."""
GROUP = 0x7F100000
LONGEST_S = 10
"""What the kernel says nothing to within it is a mistake of ours."""
RTNLGRP_LINK = 1  # <linux/rtnetlink.h>
IFLA_LINK = 5  # <linux/if_link.h>
NLMSG_ERROR = 2  # <linux/netlink.h>
HEADER = struct.Struct("=IHHII")


def _open(groups: int = 0) -> socket.socket:
    raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", LONGEST_S, 0))
    raw.bind((0, groups))
    return raw


def _packed(request: Request) -> bytes:
    return encode(request.message, request.type, request.flags | NLM_F_REQUEST | NLM_F_ACK, 1)


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
        """`bridge` is the index of a bridge in this namespace."""
        self.host, self.pod = _open(), netns.run_in(pod_fd, _open)
        self.pod_fd = pod_fd
        self.count = count
        self.links: list[tuple[int, int]] = []
        group = GROUP + count
        creations = (
            link.create_veth(f"floor{count}-{n}", f"eth{n}", pod_fd, master=bridge, group=group)
            for n in range(count)
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
