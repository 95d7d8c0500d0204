"""
The kernel's floor: the bare netlink messages of one attachment, packed before the clock starts.

A fused veth, one address, one default route; deletion until it is announced, and until it is
acknowledged. What a delegate costs above this is ours.
"""

import os
import socket
import struct
import time
from ipaddress import ip_address, ip_interface, ip_network
from threading import Thread

from meta_cni.linux import address, link, netns, route
from meta_cni.linux.netlink import NLM_F_ACK, NLM_F_REQUEST, Request, encode
from meta_cni.linux.route import Route

INDEX = 0x7FFFFFF1
"""Stands for the link's index until the kernel has given one."""
RTNLGRP_LINK = 1  # <linux/rtnetlink.h>
IFLA_LINK = 5  # <linux/if_link.h>
NLMSG_ERROR = 2  # <linux/netlink.h>
HEADER = struct.Struct("=IHHII")


def _open(groups: int = 0) -> socket.socket:
    raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
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


def _acknowledged(raw: socket.socket, count: int) -> int:
    """Wait for so many acknowledgements; the index of the peer that an echo brought, else 0."""
    peer = 0
    while count:
        for kind, message in _messages(raw.recv(1 << 16)):
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", message, HEADER.size)
                if code:
                    raise OSError(-code, os.strerror(-code))
                count -= 1
            elif kind == link.RTM_NEWLINK:
                peer = _peer(message)
    return peer


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
    """The attachment of one pod's namespace to one bridge, by bare messages."""

    def __init__(self, pod_fd: int, bridge: int) -> None:
        """`bridge` is the index of a bridge in this namespace."""
        self.host, self.news = _open(), _open(1 << (RTNLGRP_LINK - 1))
        self.pod = netns.run_in(pod_fd, _open)
        self.create = _packed(link.create_veth("floor0", "eth0", pod_fd, master=bridge))
        destination = Route(ip_network("0.0.0.0/0"), ip_address("10.99.0.1"), INDEX)
        batch = [
            link.set_link(INDEX, is_up=True),
            address.add(INDEX, ip_interface("10.99.0.2/24")),
            route.add(destination),
        ]
        self.configure = b"".join(_packed(each) for each in batch)
        self.remove = _packed(link.delete("floor0"))

    def add(self) -> float:
        """Milliseconds of creating and configuring the link."""
        started = time.perf_counter()
        self.host.send(self.create)
        peer = _acknowledged(self.host, 1)
        self.pod.send(self.configure.replace(struct.pack("=I", INDEX), struct.pack("=I", peer)))
        _acknowledged(self.pod, 3)
        return (time.perf_counter() - started) * 1000

    def delete(self) -> tuple[float, float]:
        """Milliseconds until the deletion is announced, and until it is acknowledged."""
        self.news.close()  # with everything that was announced before
        self.news = _open(1 << (RTNLGRP_LINK - 1))
        started = time.perf_counter()
        sender = Thread(target=self.host.send, args=(self.remove,))  # it blocks until the acknowledgement
        sender.start()
        announced = self._announced(started)
        sender.join()
        _acknowledged(self.host, 1)
        return announced, (time.perf_counter() - started) * 1000

    def _announced(self, started: float) -> float:
        while True:
            for kind, _ in _messages(self.news.recv(1 << 16)):
                if kind == link.RTM_DELLINK:
                    return (time.perf_counter() - started) * 1000
