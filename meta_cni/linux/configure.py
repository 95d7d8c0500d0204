"""
What every delegate does to a link in the pod: addresses, routes, up, announced, checked.

One batch of messages sets it all. The addresses come from an IPAM, which vouches that they are
nobody else's; so there is no duplicate address detection to wait for, and the neighbours are
told at once instead (RFC 5227, gratuitous ARP; RFC 4861 7.2.6, unsolicited advertisement).
"""

import errno
import fcntl
import socket as sockets
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import CheckFailed, KernelError
from meta_cni.cni.result import DNS, Address, IPConfig, Result
from meta_cni.cni.result import Route as ResultRoute
from meta_cni.linux import address, link, route, rule, sysctl, vrf
from meta_cni.linux.layer3 import NOTHING, Layer3
from meta_cni.linux.link import Link
from meta_cni.linux.namespaces import Left, Namespaces
from meta_cni.linux.netlink import Request
from meta_cni.linux.route import RT_SCOPE_LINK, RT_TABLE_MAIN, Route

SIOCGIFFLAGS, SIOCGIFHWADDR = 0x8913, 0x8927  # <linux/sockios.h>
IFF_RUNNING = 0x40  # <linux/if.h>
CARRIER_POLL_S = 0.002
DETECTION_S, DETECTION_POLL_S = 10.0, 0.02
"""The kernel takes one to two seconds (RFC 4862 section 5.4), one more for each address that has to wait."""
ETH_P_ARP = 0x0806  # <linux/if_ether.h>
ALL_NODES = "ff02::1"
NEIGHBOUR_ADVERTISEMENT = 136  # RFC 4861 4.4
OVERRIDE = 0x20000000
TARGET_LINK_LAYER_ADDRESS = 2
IPV6_MULTICAST_HOPS = 18  # <linux/in6.h>
LEAST_IPV6_MTU = 1280  # RFC 8200 section 5


RTPROT_TAKEN = 110
"""The protocol of rules that came along with a link; none of iproute2's rt_protos, and no kernel's."""


def configure(
    namespaces: Namespaces,
    index: int,
    name: str,
    result: Result,
    *,
    is_nodad: bool = True,
    is_up: bool = True,
    mac: str = "",
    taken: Layer3 = NOTHING,
    more: Sequence[Request] = (),
) -> str:
    """
    Set the result's addresses and routes on a link of the pod, in one batch; raises KernelError.

    `taken` is what the link brings along: its addresses come before the result's, whose routes may
    need them, and its routes after the result's, which are asked first then. `more` comes behind all.

    Answers the MAC that the link has then; it is asked for unless the link was made with `mac`.
    """
    if taken.has_ipv6 or any(each.address.version == 6 for each in result.ips):
        namespaces.run(lambda: _enable_ipv6(name))
    batch = [link.set_link(index, is_up=True)] if is_up else []
    batch += taken.addresses_on(index)
    batch += [address.add(index, each.address, is_nodad=is_nodad) for each in result.ips]
    batch += [route.add(each, append=True) for each in routes_of(index, result)]
    batch += [*taken.routes_by(index), *taken.rules_of(RTPROT_TAKEN), *more]
    if not mac:
        batch.append(link.look_up_index(index))
    replies = namespaces.pod.request(batch)
    return mac or link.mac_in(replies[-1])


def _enable_ipv6(interface: str) -> None:
    try:
        for name in ("lo", interface):
            sysctl.write(f"net/ipv6/conf/{name}/disable_ipv6", "0")
        sysctl.write(f"net/ipv6/conf/{interface}/keep_addr_on_down", "1")
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        needed = f"expected a node with IPv6, and an MTU of at least {LEAST_IPV6_MTU}"
        raise KernelError(f"enable IPv6 on {interface}: {needed}", errno.ENOENT) from None


def await_detection(namespaces: Namespaces, index: int, name: str, addresses: Sequence[IPConfig]) -> None:
    """
    Wait until duplicate address detection has come to an end; raises KernelError for an address in use.

    Without a carrier it never comes to one, and there is nobody to be asked: that is no failure.
    """
    wanted = {each.address for each in addresses if each.address.version == 6}
    deadline = time.monotonic() + DETECTION_S
    while wanted:
        present = [each for each in address.dump(namespaces.pod, index) if each.address in wanted]
        for each in present:
            if each.is_duplicate:
                action = f"add address {each.address} to {name}: somebody else on its link has it"
                raise KernelError(action, errno.EADDRINUSE)
        if not any(each.is_tentative for each in present):
            return
        if time.monotonic() >= deadline:
            if link.require(namespaces.pod, name, "link").operstate == "UP":
                raise KernelError(f"detect duplicate addresses on {name}", errno.ETIMEDOUT)
            return
        time.sleep(DETECTION_POLL_S)


def routes_of(index: int, result: Result) -> list[Route]:
    """A result's routes as they are set on a link of the pod."""
    return [
        Route(
            destination=each.destination,
            gateway=_next_hop(each, result),
            interface_index=index,
            table=each.table if each.table is not None else RT_TABLE_MAIN,
            priority=each.priority,
            scope=each.scope,
            mtu=each.mtu,
            advmss=each.advmss,
        )
        for each in result.routes
    ]


def _next_hop(wanted: ResultRoute, result: Result) -> Address | None:
    """
    The route's gateway, else the first one of its family; a route on the link has none.

    Some plugins tell of no gateway as 0.0.0.0 or ::, which the kernel takes for none.
    """
    if wanted.gateway is not None or wanted.scope == RT_SCOPE_LINK:
        hop = wanted.gateway
    else:
        version = wanted.destination.version
        gateways = (each.gateway for each in result.ips if each.address.version == version)
        hop = next((each for each in gateways if each is not None), None)
    return None if hop is None or hop.is_unspecified else hop


def of_the_pod(config: PluginConfig, addresses: Result, *, interface: int = 0) -> Result:
    """What an IPAM gave as a plugin answers it: of its interface of this number, `dns` over the IPAM's."""
    ips = tuple(IPConfig(each.address, each.gateway, interface) for each in addresses.ips)
    return with_gateways(Result(ips=ips, routes=addresses.routes, dns=dns_over(config, addresses.dns)))


def with_gateways(result: Result) -> Result:
    """The result with the next hop filled in that its routes get."""
    routes = tuple(_with_next_hop(each, result) for each in result.routes)
    return Result(result.interfaces, result.ips, routes, result.dns)


def _with_next_hop(route: ResultRoute, result: Result) -> ResultRoute:
    hop = _next_hop(route, result)
    return route if route.gateway is hop else replace(route, gateway=hop)


def check(namespaces: Namespaces, interface: str, previous: Result) -> Link:
    """
    The link, with every address and route that the result gives it; raises CheckFailed.

    Addresses are those of this interface's index in the result; a route to a destination that
    the result names must be there in its table, or in one that a rule sends an address to,
    through this interface.
    """
    found = link.find(namespaces.pod, interface)
    if found is None:
        raise CheckFailed(f"check {interface}: there is no such interface in {namespaces.path}")
    indexes = [n for n, each in enumerate(previous.interfaces) if each.name == interface and each.sandbox]
    told = [previous.interfaces[n] for n in indexes]
    if told and told[0].mac and told[0].mac.lower() not in (found.mac, link.own_mac(found)):
        raise CheckFailed(f"check {interface}: its MAC is {found.mac}: expected {told[0].mac}")
    own = [each for each in previous.ips if each.interface in (None, *indexes)]
    _check_addresses(namespaces, found, own)
    _check_routes(namespaces, found, own, previous)
    return found


def _check_addresses(namespaces: Namespaces, found: Link, expected: Sequence[IPConfig]) -> None:
    present = {each.address for each in address.dump(namespaces.pod, found.index)}
    for each in expected:
        if each.address not in present:
            raise CheckFailed(f"check {found.name}: address {each.address} is not there")


def _check_routes(namespaces: Namespaces, found: Link, own: Sequence[IPConfig], previous: Result) -> None:
    """A route without a gateway may be on the link itself, put there by another plugin of the list."""
    for wanted in previous.routes:
        hop = _next_hop(wanted, previous)
        hops = (hop,) if wanted.gateway is not None else (hop, None)
        is_there = any(
            each.destination == wanted.destination
            and each.interface_index == found.index
            and (hop is None or each.gateway in hops)
            for table in (*tables_of(namespaces, wanted, own), *_vrf_table(namespaces, found))
            for each in route.dump(namespaces.pod, table)
        )
        if not is_there:
            raise CheckFailed(f"check {found.name}: route {wanted.destination} via {hop} is not there")


def tables_of(namespaces: Namespaces, wanted: ResultRoute, own: Sequence[IPConfig]) -> Iterator[int]:
    """Where a route may be: what is not in main any more, another plugin steers by the addresses."""
    if wanted.table is not None and not wanted.is_in_main:
        yield wanted.table
        return
    yield RT_TABLE_MAIN
    for each in rule.dump(namespaces.pod):
        if any(each.is_from(one.address.ip) for one in own):
            yield each.table


def _vrf_table(namespaces: Namespaces, found: Link) -> tuple[int, ...]:
    """Where the routes of a link went that another plugin put into a VRF."""
    its = link.find_index(namespaces.pod, found.master) if found.master else None
    return (vrf.table_of(its),) if vrf.table_of(its) else ()


def announce(
    namespaces: Namespaces, interface: str, addresses: Sequence[IPConfig], *, carrier_wait_s: float = 0.0
) -> None:
    """
    Tell the neighbours where the addresses are now, when all else is done.

    `carrier_wait_s` is for a card, which takes a moment until it can send.

    Nothing depends on it: a neighbour that hears nothing asks when it needs to know. A process
    that ends waits for it. What is told is the MAC at that moment: the next plugin of the list
    may have changed it.
    """

    def work(left: Left) -> None:
        if carrier_wait_s:
            _await_carrier(interface, carrier_wait_s)
        tell(interface, addresses, left)

    if addresses and carrier_wait_s:
        namespaces.later_aside(work)
    elif addresses:
        namespaces.later(work)


def _await_carrier(interface: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as any_socket:
        request = struct.pack("=16sH14x", interface.encode(), 0)
        while time.monotonic() < deadline:
            (flags,) = struct.unpack_from("=H", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)
            if flags & IFF_RUNNING:
                return
            time.sleep(CARRIER_POLL_S)


def tell(interface: str, addresses: Sequence[IPConfig], left: Left) -> list[KernelError]:
    """
    As announce(), from the namespace of the calling thread; what could not be sent is returned.

    `left` has what was left open there before, and gets the packet socket, which is one for all: to
    close one takes the kernel 10 ms (packet_release() waits for RCU).
    """
    errors: list[KernelError] = []
    for each in addresses:
        try:
            if isinstance(each.address.ip, IPv6Address):
                _advertise(each.address.ip, interface)
            else:
                _arp(_packet_socket(left), each.address.packed, interface)
        except OSError as error:
            errors.append(KernelError(f"announce {each.address.ip} on {interface}", error.errno or 0))
    return errors


def _mac_of(socket: sockets.socket, interface: str) -> bytes:
    """SIOCGIFHWADDR (netdevice(7)); the address stands behind name and family."""
    request = struct.pack("=16sH14x", interface.encode(), 0)
    return fcntl.ioctl(socket.fileno(), SIOCGIFHWADDR, request)[18:24]


def _packet_socket(left: Left) -> sockets.socket:
    """The one that is open, or a new one."""
    for each in left:
        if isinstance(each, sockets.socket):
            return each
    raw = sockets.socket(sockets.AF_PACKET, sockets.SOCK_DGRAM, 0)
    left.append(raw)
    return raw


def _arp(raw: sockets.socket, address_bytes: bytes, interface: str) -> None:
    """An ARP request for one's own address (RFC 5227 section 3)."""
    broadcast = b"\xff" * 6
    sender = _mac_of(raw, interface) + address_bytes
    packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + broadcast + address_bytes
    raw.sendto(packet, (interface, ETH_P_ARP, 0, 0, broadcast))


def _advertise(ip: IPv6Address, interface: str) -> None:
    """An unsolicited neighbour advertisement; the kernel fills in the checksum."""
    with sockets.socket(sockets.AF_INET6, sockets.SOCK_RAW, sockets.IPPROTO_ICMPV6) as raw:
        target = struct.pack("!BB", TARGET_LINK_LAYER_ADDRESS, 1) + _mac_of(raw, interface)
        packet = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, OVERRIDE) + ip.packed + target
        raw.setsockopt(sockets.IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_BINDTODEVICE, interface.encode())
        raw.bind((str(ip), 0))
        raw.sendto(packet, (ALL_NODES, 0, 0, sockets.if_nametoindex(interface)))


def dns_over(config: PluginConfig, offered: DNS) -> DNS:
    """`dns` of the configuration where it says anything, if only an empty list; else what was offered."""
    own = config.once(_dns_said)
    return offered if own is None else own


def _dns_said(config: PluginConfig) -> DNS | None:
    section = config.section.section("dns")
    lists = ("nameservers", "search", "options")
    is_said = section is not None and any(section.value(key) is not None for key in lists)
    own = dns_of(config)
    return own if is_said or own.domain else None


def dns_of(config: PluginConfig) -> DNS:
    """`dns` of the configuration."""
    section = config.section.section("dns")
    if section is None:
        return DNS()
    return DNS(
        section.strings("nameservers"),
        section.string("domain"),
        section.strings("search"),
        section.strings("options"),
    )
