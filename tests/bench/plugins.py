"""
Our built-in delegates, called in this process, beside the reference plugins and the kernel's floor.

Every round does ADD, CHECK and DEL with each contestant in turn, so that noise meets all of them
alike. IPAM is host-local for ours and the reference; the floor has none, the chores have its files.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meta_cni import standalone
from meta_cni.cni import result as results
from meta_cni.linux import configure, link, netns
from meta_cni.linux.link import Link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import Socket
from tests.bench.chores import Chores
from tests.bench.floor import Floor

VERBS = ("ADD", "CHECK", "DEL")
TYPES: dict[str, dict[str, object]] = {
    "bridge": {"bridge": "own0", "isDefaultGateway": True},
    "macvlan": {"master": "up0"},
    "ptp": {},
    "tap": {},
    "host-device": {"device": "dev0"},
}
CHAINED: dict[str, dict[str, object]] = {
    "loopback": {},
    "tuning": {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400},
    "sbr": {},
    "route-override": {"flushgateway": True, "addroutes": [{"dst": "10.50.0.0/16", "gw": "10.97.0.9"}]},
}
"""Measured on an interface that is there."""
Call = Callable[[dict[str, str], bytes], bytes]


def ours(plugin_type: str) -> Call:
    """In this process, as the daemon will."""

    def call(environment: dict[str, str], stdin: bytes) -> bytes:
        printed, code = standalone.serve(plugin_type, environment, stdin)
        if code:
            raise SystemExit(printed.decode())
        return printed

    return call


def theirs(binary: str) -> Call:
    """The reference binary, executed as a runtime does."""

    def call(environment: dict[str, str], stdin: bytes) -> bytes:
        return subprocess.run([binary], input=stdin, env=environment, stdout=-1, stderr=-1, check=True).stdout

    return call


def measure(call: Call, config: dict[str, object], container_id: str, path: str) -> list[float]:
    """Milliseconds of ADD, CHECK and DEL of one attachment."""
    times: list[float] = []
    given = dict(config)
    place = "chained" if config["type"] in CHAINED else "bench"
    environment = {"CNI_CONTAINERID": container_id, "CNI_NETNS": f"/run/netns/{place}", "CNI_IFNAME": "eth0"}
    environment |= {"CNI_PATH": path, "PATH": os.environ["PATH"]}
    for verb in VERBS:
        stdin = json.dumps(given).encode()
        started = time.perf_counter()
        printed = call({**environment, "CNI_COMMAND": verb}, stdin)
        times.append((time.perf_counter() - started) * 1000)
        if verb == "ADD":
            given["prevResult"] = json.loads(printed)
    return times


def configuration(plugin_type: str, directory: Path) -> dict[str, object]:
    """One address of a range of its own; behind another plugin its result."""
    own: dict[str, object] = {"cniVersion": "1.0.0", "name": plugin_type, "type": plugin_type}
    if plugin_type in CHAINED:
        kept = {"dataDir": str(directory)} if plugin_type == "tuning" else {}
        return {**own, **kept, "prevResult": RESULT, **CHAINED[plugin_type]}
    ipam = {"type": "host-local", "dataDir": str(directory), "subnet": "10.98.0.0/16"}
    return {**own, "ipam": ipam, **TYPES[plugin_type]}


RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/chained"}],
    "ips": [{"address": "10.97.0.2/16", "gateway": "10.97.0.1", "interface": 0}],
}


def chained() -> None:
    """A new interface, with an address, for a plugin that stands behind another one."""
    with Namespaces("/run/netns/chained") as namespaces:
        link.remove(namespaces.host, "chained0")
        (reply,) = namespaces.host.request([link.create_veth("chained0", "eth0", namespaces.pod_fd)])
        result = results.parse(RESULT, "1.0.0")
        configure.configure(namespaces, Link(link.veth_indexes(reply)[1], "eth0"), result)


def links() -> int:
    """A master and a bridge for the floor on the node; the bridge's index."""
    with Socket.open_host() as host:
        pairs = [link.create_pair("up0", "sw0"), link.create_pair("dev0", "dev1")]
        host.request([*pairs, link.create_bridge("br9")])
        for name in ("up0", "sw0", "dev1", "br9"):
            host.request([link.set_link(link.require(host, name, "link").index, is_up=True)])
        return link.require(host, "br9", "bridge").index


def run(rounds: int, path: str) -> dict[str, list[float]]:
    """
    Samples in milliseconds by "contestant/type/verb"; the first round warms up and is not kept.

    The reference plugins are looked for in `path`.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    netns.create("/run/netns/bench")
    floor = Floor(netns.open_netns("/run/netns/bench"), links())
    netns.create("/run/netns/chained")
    with tempfile.TemporaryDirectory() as scratch:
        chores = Chores("/run/netns/bench", Path(scratch) / "chores")
        for n in range(rounds + 1):
            found = {"chores//ADD": chores.add(), "chores//DEL": chores.delete()}
            found["floor//ADD"] = floor.add()
            found["floor//DEL"], found["floor acknowledged//DEL"] = floor.delete()
            for plugin_type in (*TYPES, *CHAINED):
                calls = {"ours": ours(plugin_type)}
                binary = shutil.which(plugin_type, path=path)
                if binary is not None:
                    calls["reference"] = theirs(binary)
                for who, call in calls.items():
                    chained()
                    given = configuration(plugin_type, Path(scratch) / who)
                    try:
                        times = measure(call, given, f"c{n}", path)
                    except subprocess.CalledProcessError:  # an older one does not know every key
                        continue
                    found |= {f"{who}/{plugin_type}/{v}": t for v, t in zip(VERBS, times, strict=True)}
            for key, value in found.items():
                samples[key].extend([value] if n else [])
    return samples


def run_aside(rounds: int, path: str) -> dict[str, list[float]]:
    """As run(), on a thread like a daemon's: the main one waits for announcements as well."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run, rounds, path).result()
