"""
What is in the kernel and in the IPAM's directory, seen by iproute2, nft and iptables: none of our code.

Left out is what the kernel does in its own time or at random: link-local addresses, counters,
timers, learned neighbours, operational states. What has no order is a table of lines.
"""

import json
import re
import socket as sockets
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meta_cni.linux import netns

LINK = (
    "mtu",
    "master",
    "link_type",
    "promiscuity",
    "group",
    "num_tx_queues",
    "num_rx_queues",
    "ifalias",
    "txqlen",
)
FLAGS = {"UP", "PROMISC", "ALLMULTI", "NOARP", "DYNAMIC"}
DATA = (
    *("vlan_filtering", "vlan_default_pvid", "vlan_protocol", "stp_state", "mcast_snooping"),
    *("ageing_time", "forward_delay", "group_fwd_mask", "mode", "bcqueuelen", "flags", "multi_queue"),
    *("type", "user", "group", "persist", "pi", "vnet_hdr"),
    *("id", "protocol", "table", "miimon", "fail_over_mac", "xmit_hash_policy", "all_slaves_active"),
    *("tlb_dynamic_lb",),
)
PORT = (
    *("state", "hairpin", "guard", "root_block", "fastleave", "learning", "flood", "mcast_flood"),
    *("bcast_flood", "mcast_to_unicast", "proxy_arp", "isolated", "neigh_suppress", "vlan_tunnel", "locked"),
)
ADDRESS = ("scope", "label", "nodad", "noprefixroute", "temporary", "peer", "metric")
ROUTE = ("type", "gateway", "via", "protocol", "scope", "metric", "metrics", "prefsrc", "pref", "nexthops")
SYSCTLS_OF_A_LINK = (
    *("ipv4/conf/{}/arp_notify", "ipv4/conf/{}/proxy_arp", "ipv4/conf/{}/forwarding"),
    *("ipv6/conf/{}/accept_ra", "ipv6/conf/{}/accept_dad", "ipv6/conf/{}/enhanced_dad"),
    *("ipv6/conf/{}/disable_ipv6", "ipv6/conf/{}/keep_addr_on_down", "ipv6/conf/{}/ndisc_notify"),
)
SYSCTLS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
LINKWATCH_S = 2.0
"""The kernel looks after carriers once a second (net/core/link_watch.c)."""
COUNTED = re.compile(r"counter packets \d+ bytes \d+")
FOUR = "link show\naddr show\nroute show table all\nrule show\nneigh show nud permanent\n"
SIX = "route show table all\nrule show\nneigh show nud permanent\n"

NETLINK_NETFILTER = 12  # <linux/netlink.h>
NLMSGHDR = struct.Struct("=IHHII")  # struct nlmsghdr
NFGENMSG = struct.Struct("=BBH")  # struct nfgenmsg, <linux/netfilter/nfnetlink.h>
NLM_F_REQUEST_DUMP = 0x301
NFT_NEWTABLE, NFT_GETTABLE = 10 << 8, 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, <linux/netfilter/nf_tables.h>

State = dict[str, Any]


def _run(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def _batch(commands: str, *options: str) -> list[list[dict[str, Any]]]:
    """The answers of several commands of iproute2; it runs on the thread's own namespace."""
    text = _run("ip", *options, "-json", "-details", "-batch", "-", given=commands)
    return [json.loads(line) for line in text.splitlines()]


def of_namespace() -> State:
    """Everything in the namespace of the calling thread."""
    links, addresses, routes, rules, neighbours = _settled()
    routes_6, rules_6, neighbours_6 = _batch(SIX, "-6")
    named = sorted(links, key=lambda each: int(each["ifindex"]))
    return {
        "links": {each["ifname"]: _link(each) for each in named},
        "addresses": {line: True for each in addresses for line in _addresses(each)},
        "routes": {line: True for each in routes + routes_6 for line in _route(each)},
        "rules": dict(_rule(each) for each in rules + rules_6),
        "neighbours": {json.dumps(each): True for each in neighbours + neighbours_6},
        "sysctls": dict(_sysctls([each["ifname"] for each in named])),
    }


def _settled() -> list[list[dict[str, Any]]]:
    """As soon as every port of a bridge forwards that has a carrier: the kernel sees to it a while later."""
    deadline = time.monotonic() + LINKWATCH_S
    while True:
        found = _batch(FOUR)
        if all(map(_is_settled, found[0])) or time.monotonic() > deadline:
            return found
        time.sleep(LINKWATCH_S / 20)


def _is_settled(found: dict[str, Any]) -> bool:
    info = found.get("linkinfo", {})
    if info.get("info_slave_kind") != "bridge":
        return True
    return (info["info_slave_data"]["state"] == "forwarding") == ({"UP", "LOWER_UP"} <= set(found["flags"]))


def _picked(source: dict[str, Any], keys: tuple[str, ...]) -> State:
    return {key: source[key] for key in keys if key in source}


def _link(found: dict[str, Any]) -> State:
    info = found.get("linkinfo", {})
    return {
        "is": "there",
        **_picked(found, LINK),
        "flags": " ".join(sorted(FLAGS.intersection(found["flags"]))),
        "address": found.get("address"),
        "kind": info.get("info_kind"),
        "data": _picked(info.get("info_data", {}), DATA),
        "port": _picked(info.get("info_slave_data", {}), PORT),
    }


def _is_link_local(text: str) -> bool:
    return text.startswith(("fe80:", "ff00:", "multicast ff00:", "anycast fe80:"))


def _addresses(found: dict[str, Any]) -> Iterator[str]:
    for each in found["addr_info"]:
        if each and not _is_link_local(each.get("local", "")):
            more = json.dumps(_picked(each, (*ADDRESS, "broadcast")), sort_keys=True)
            yield f"{found['ifname']} {each['local']}/{each['prefixlen']} {more}"


def _route(found: dict[str, Any]) -> Iterator[str]:
    if found.get("table") != "local" and not _is_link_local(found["dst"]):
        more = json.dumps(_picked(found, ROUTE), sort_keys=True)
        yield f"{found['dst']} dev {found.get('dev')} table {found.get('table', 'main')} {more}"


def _rule(found: dict[str, Any]) -> tuple[str, str]:
    """What it does; and who made it, which iproute2 leaves out where it was the kernel."""
    more = {key: value for key, value in found.items() if key != "protocol"}
    return json.dumps(more), found.get("protocol", "kernel")


def _sysctls(links: list[str]) -> Iterator[tuple[str, str]]:
    paths = [each.format(link) for link in links for each in SYSCTLS_OF_A_LINK]
    for path in (*SYSCTLS, *paths):
        file = Path("/proc/sys/net") / path
        if file.exists():
            yield path, file.read_text().strip()


def _host_only() -> State:
    ports = json.loads(_run("bridge", "-json", "vlan", "show") or "[]")
    is_filtering = _has_nftables()
    commands = (*(("iptables-save", "ip6tables-save") if is_filtering else ()), *_legacy())
    return {
        "vlans": {line: flags for each in ports for line, flags in _vlans(each)},
        "nftables": dict(_nftables(_run("nft", "list", "ruleset"))) if is_filtering else {},
        "iptables": {key: rule for command in commands for key, rule in _iptables(command, _run(command))},
    }


def _has_nftables() -> bool:
    """
    Is there any table, of nft or of the newer iptables, which has them there?

    Three programs would say the same, for more than all else takes on an emulated processor.
    """
    header = NLMSGHDR.pack(NLMSGHDR.size + NFGENMSG.size, NFT_GETTABLE, NLM_F_REQUEST_DUMP, 1, 0)
    with sockets.socket(sockets.AF_NETLINK, sockets.SOCK_RAW, NETLINK_NETFILTER) as socket:
        socket.sendto(header + NFGENMSG.pack(0, 0, 0), (0, 0))
        _, kind, _, _, _ = NLMSGHDR.unpack_from(socket.recv(65536))
    return bool(kind == NFT_NEWTABLE)


def _vlans(port: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """One VLAN of one port, which may be the bridge itself; a range is told by its ends."""
    for each in port["vlans"]:
        last = f"-{each['vlanEnd']}" if "vlanEnd" in each else ""
        yield f"{port['ifname']} {each['vlan']}{last}", " ".join(["in it", *each.get("flags", ())])


def _nftables(text: str) -> Iterator[tuple[str, str]]:
    """Every line of a table or chain by its place; handles are not listed, what was counted is left out."""
    place: list[str] = []
    counts: Counter[str] = Counter()
    for line in (each.strip() for each in text.splitlines()):
        if line.endswith("{"):
            place.append(line.removesuffix("{").strip())
            yield f"{' / '.join(place)} is", "there"
        elif line == "}":
            place.pop()
        elif line:
            key = " / ".join(place)
            yield f"{key} [{counts[key]}]", COUNTED.sub("counter", line)
            counts[key] += 1


def _iptables(command: str, text: str) -> Iterator[tuple[str, str]]:
    """Every rule by its place in its chain."""
    counts: Counter[tuple[str, str]] = Counter()
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = f"{command.removesuffix('-save')} {line[1:]}"
        elif line.startswith("-A "):
            _, chain, rule = f"{line} ".split(" ", 2)
            yield f"{table} / {chain} [{counts[table, chain]}]", rule.strip()
            counts[table, chain] += 1


def _legacy() -> Iterator[str]:
    """The older backend's programs, where anybody has made a table of it; to list it would make one."""
    for family, command in (("ip", "iptables-legacy-save"), ("ip6", "ip6tables-legacy-save")):
        names = Path(f"/proc/net/{family}_tables_names")
        if names.exists() and names.read_text().strip():
            yield command


def files(directory: Path) -> State:
    """Mode and content of everything."""
    return {
        str(each.relative_to(directory)): f"{each.stat().st_mode:o} {_content(each)}"
        for each in sorted(directory.rglob("*"))
    }


def _content(path: Path) -> str:
    return repr(path.read_bytes()) if path.is_file() else ""


def everything(pod_fd: int, directory: Path) -> State:
    """Both namespaces and the files; the calling thread is in the node's."""
    return {
        "node": {**of_namespace(), **_host_only()},
        "pod": netns.run_in(pod_fd, of_namespace),
        "files": files(directory),
    }
