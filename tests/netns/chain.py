"""Chained plugins beside their references: an interface that is there, and calls with what made it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_cni import standalone
from meta_cni.cni.result import interface_address_of
from meta_cni.linux import address, link, netns, sysctl
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import REFERENCE, PodNetns

Call = Callable[..., tuple[dict[str, Any], int]]
MAC = "02:00:5e:00:53:01"
DIRECTORIES = (*filter(None, os.environ.get("REFERENCE_PLUGINS", "").split(":")), *REFERENCE)
"""Newer reference plugins than the distribution's are found by REFERENCE_PLUGINS."""


def binaries(name: str) -> list[str]:
    """Every reference plugin of a name on this machine."""
    found = [Path(directory, name) for directory in DIRECTORIES]
    return [str(path) for path in found if os.access(path, os.X_OK)]


def masquerading(name: str, backend: str) -> list[str]:
    """As binaries(), but only those that know the backend: Debian's 1.1 has iptables alone."""
    return [each for each in binaries(name) if backend == "iptables" or not each.startswith("/usr/lib/cni/")]


def references(name: str) -> list[str]:
    """As binaries(), but the test skips by the plugin's name where there is none."""
    found = binaries(name)
    if not found:
        pytest.skip(f"no reference plugin {name}")
    return found


def environment(command: str, pod: PodNetns, variables: dict[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": pod.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": ":".join(DIRECTORIES),
        **variables,
    }


def ours(plugin_type: str, pod: PodNetns, **fixed: str) -> Call:
    """A built-in delegate as a plugin of its own."""

    def call(command: str, config: Any, **variables: str) -> tuple[dict[str, Any], int]:
        given = config if isinstance(config, str) else json.dumps(config)
        variables = {**fixed, **variables}
        printed, code = standalone.serve(plugin_type, environment(command, pod, variables), given.encode())
        return (json.loads(printed) if printed else {}), code

    return call


def theirs(binary: str, pod: PodNetns, **fixed: str) -> Call:
    """A reference plugin; one that crashes prints nothing."""

    def call(command: str, config: Any, **variables: str) -> tuple[dict[str, Any], int]:
        given = config if isinstance(config, str) else json.dumps(config)
        variables = environment(command, pod, {**fixed, **variables})
        done = subprocess.run([binary], input=given.encode(), env=variables, capture_output=True)
        return (json.loads(done.stdout) if done.stdout.strip() else {}), done.returncode

    return call


def wire(pod: PodNetns, host: Socket, name: str = "eth0", *addresses: str, peer: str = "") -> dict[str, Any]:
    """A veth into the pod, up at both ends, with these addresses; the result that tells it."""
    peer = peer or f"up-{name}"
    host.request([link.create_veth(peer, name, pod.fd, mac=MAC, mtu=1500)])
    found = link.require(pod.socket, name, "link")
    netns.run_in(pod.fd, lambda: sysctl.write(f"net/ipv6/conf/{name}/accept_dad", "0"))
    pod.socket.request([link.set_link(found.index, is_up=True)])
    pod.socket.request([address.add(found.index, interface_address_of(each)) for each in addresses])
    ips = [
        {"address": each, "interface": 0, "gateway": str(interface_address_of(each).network[1])}
        for each in addresses
    ]
    return {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": name, "mac": found.mac, "sandbox": pod.path}],
        "ips": ips,
    }


def unwire(host: Socket, name: str = "eth0") -> None:
    """Take the veth away."""
    host.request([link.delete(f"up-{name}")])
