"""Packets between namespaces of a test: did they arrive, and as what."""

import os
import select
import socket as sockets
import struct
import time

from meta_cni.linux import netns

WAIT_S = 20.0
"""For what is to arrive; it takes much less."""
SILENCE_S = 0.3
"""For what is not to arrive."""
PORT = 9999
ETH_P_ALL = 3  # <linux/if_ether.h>
ETH_P_8021Q = 0x8100
TEST_PROTOCOL = 0x88B5  # for local experiments, IEEE 802
PACKET_AUXDATA = 8  # <linux/if_packet.h>
TP_STATUS_VLAN_VALID = 0x10
SOL_PACKET = 263


def own_namespace() -> int:
    """A descriptor of the node's namespace, that of the calling thread; it lives as long as the process."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def source_seen(
    sender: int, receiver: int, address: str, *, wait_s: float = WAIT_S, bind: str = "", device: str = ""
) -> str:
    """
    Send UDP from one namespace to an address in another: who the receiver says sent it.

    Empty when nothing arrives. `bind` is the sender's own address, where it has several; `device` the
    link or VRF that it sends by.
    """
    family = sockets.AF_INET6 if ":" in address else sockets.AF_INET

    def opened() -> sockets.socket:
        return sockets.socket(family, sockets.SOCK_DGRAM)

    with netns.run_in(receiver, opened) as inbound, netns.run_in(sender, opened) as outbound:
        inbound.bind(("", PORT))
        if bind:
            outbound.bind((bind, 0))
        if device:
            outbound.setsockopt(sockets.SOL_SOCKET, sockets.SO_BINDTODEVICE, device.encode())
        deadline = time.monotonic() + wait_s
        while (
            time.monotonic() < deadline
        ):  # the first one may be lost while neighbours get to know each other
            try:
                outbound.sendto(b"?", (address, PORT))
            except OSError:
                return ""
            if select.select([inbound], [], [], min(0.2, wait_s / 10))[0]:
                return str(inbound.recvfrom(16)[1][0])
    return ""


def is_reached(sender: int, receiver: int, address: str, *, device: str = "") -> bool:
    """Does UDP arrive?"""
    return bool(source_seen(sender, receiver, address, device=device))


def is_refused(sender: int, receiver: int, address: str, *, device: str = "") -> bool:
    """Does UDP not arrive, though it is tried several times?"""
    return not source_seen(sender, receiver, address, wait_s=SILENCE_S, device=device)


class Wire:
    """Raw frames on one link of a namespace."""

    def __init__(self, descriptor: int, interface: str) -> None:
        def opened() -> sockets.socket:
            raw = sockets.socket(sockets.AF_PACKET, sockets.SOCK_RAW, sockets.htons(ETH_P_ALL))
            raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            raw.bind((interface, ETH_P_ALL))
            return raw

        self.raw = netns.run_in(descriptor, opened)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def send(
        self,
        payload: bytes,
        vlan: int = 0,
        *,
        source: str = "02:00:00:00:00:99",
        destination: str = "ff:ff:ff:ff:ff:ff",
    ) -> None:
        """Send one frame, to all unless it is said to whom, tagged where a VLAN is given."""
        addresses = bytes.fromhex((destination + source).replace(":", ""))
        tag = struct.pack("!HH", ETH_P_8021Q, vlan) if vlan else b""
        self.raw.send(addresses + tag + struct.pack("!H", TEST_PROTOCOL) + payload.ljust(46, b"\0"))

    def receive(self, payload: bytes, *, wait_s: float = WAIT_S) -> int | None:
        """The VLAN that a frame with this payload came with, 0 for untagged; None when none comes."""
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.raw], [], [], left)[0]:
                break
            data, control, _, _ = self.raw.recvmsg(2048, 256)
            if payload in data:
                return _vlan_of(data, control)
        return None


def _vlan_of(data: bytes, control: list[tuple[int, int, bytes]]) -> int:
    """The kernel takes the tag out of the frame and tells it aside (struct tpacket_auxdata)."""
    for level, kind, value in control:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tag, _ = struct.unpack_from("=IIIHHHH", value)
            if status & TP_STATUS_VLAN_VALID:
                return int(tag) & 0xFFF
    kind, tag = struct.unpack_from("!HH", data, 12)
    return int(tag) & 0xFFF if kind == ETH_P_8021Q else 0
