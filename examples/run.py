"""
Two telco pods on this machine's kernel, from a directory of YAML to traffic and back to nothing.

Plays the node and its container runtime: enters a private network and mount namespace, makes a
namespace for every pod, and executes the plugin with CNI_* variables and standard input. Nothing
outside is touched. `--keep` leaves everything up until Enter or Ctrl-C.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_interface
from pathlib import Path
from typing import Any

from meta_cni.cni.result import Address
from meta_cni.k8s.file_store import FileStore
from meta_cni.k8s.store import Kind
from meta_cni.linux import address, link, netns, route
from meta_cni.linux.netlink import Socket

HERE = Path(__file__).resolve().parent
POD_FILES = HERE / "telco-pod"
OBJECTS = Path("/run/meta-cni/objects")
CONFIGURATION = "10-meta-cni.conflist"
OWN_PLUGINS = Path("/run/meta-cni/bin")
BIN = Path(sys.executable).parent
REFERENCE = ("/opt/cni/bin", "/usr/lib/cni")
PING_TRIES, PING_TIMEOUT_S = 5, 1.0
STATUS = "k8s.v1.cni.cncf.io/network-status"


def main() -> int:
    """Run the example; the exit code is 0 when everything, traffic included, went right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything up to look around")
    parser.add_argument("--picture", default="topology.svg", help="where the picture is written")
    parsed = parser.parse_args()
    picture = Path(parsed.picture).resolve()
    started = time.monotonic()
    entered = netns.enter_private()
    netns.mount_empty("/var/lib")
    who = "root" if entered.is_root else "an ordinary user, in a user namespace"
    say(f"running as {who}; this process now plays the node, in namespaces of its own")
    set_up_node()
    before = inventory()
    pods = [Runtime(pod) for pod in pod_objects()]
    try:
        failures = bring_up(pods, picture)
        if parsed.keep:
            wait_here()
    finally:
        failures_down = tear_down(pods, before)
    say(f"done in {time.monotonic() - started:.1f} s")
    return 1 if failures + failures_down else 0


def say(text: str) -> None:
    """A line of progress, at once."""
    print(f"==> {text}", flush=True)


def set_up_node() -> None:
    """Objects, our plugins, and an uplink: a veth pair whose other end plays the switch."""
    OBJECTS.mkdir(parents=True)
    for path in sorted(POD_FILES.glob("*.yaml")):
        shutil.copy(path, OBJECTS)
    shutil.copy(POD_FILES / CONFIGURATION, OBJECTS.parent)
    OWN_PLUGINS.mkdir()
    (OWN_PLUGINS / "meta-cni").symlink_to(BIN / "meta-cni")
    if not any((Path(directory) / "bridge").exists() for directory in REFERENCE):
        (OWN_PLUGINS / "bridge").symlink_to(BIN / "meta-bridge")
    with Socket.open_host() as host:
        host.request([link.create_pair("uplink0", "switch0")])
        for name in ("uplink0", "switch0"):
            host.request([link.set_link(link.require(host, name, "link").index, is_up=True)])


def pod_objects() -> list[dict[str, Any]]:
    """The pods as the file store has them, with the UIDs it gave them."""
    return sorted(store().list(Kind.POD)[0], key=lambda pod: str(pod["metadata"]["name"]))


def store() -> FileStore:
    """The store the plugin uses."""
    return FileStore(OBJECTS, Path("/var/lib/cni/multus/objects"))


class Runtime:
    """A container runtime's part for one pod."""

    def __init__(self, pod: dict[str, Any]) -> None:
        self.pod = pod
        self.name = str(pod["metadata"]["name"])
        self.netns = f"/run/netns/{self.name}"
        network = json.loads((OBJECTS.parent / CONFIGURATION).read_text())
        head = {"cniVersion": network["cniVersion"], "name": network["name"]}
        self.configuration = {**network["plugins"][0], **head}
        self.result: dict[str, Any] = {}
        netns.create(self.netns)

    def call(self, command: str) -> bytes:
        """Execute the plugin; raises RuntimeError with what it said when it fails."""
        metadata = self.pod["metadata"]
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": metadata["namespace"],
            "K8S_POD_NAME": metadata["name"],
            "K8S_POD_UID": metadata["uid"],
            "K8S_POD_INFRA_CONTAINER_ID": f"sandbox-{self.name}",
        }
        variables = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"sandbox-{self.name}",
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
            "CNI_PATH": ":".join((*REFERENCE, str(OWN_PLUGINS))),
        }
        configuration = dict(self.configuration)
        if self.result and command != "ADD":
            configuration["prevResult"] = self.result
        done = subprocess.run(
            [str(OWN_PLUGINS / "meta-cni")],
            input=json.dumps(configuration).encode(),
            env=variables,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command} {self.name}: {done.stdout.decode()}{done.stderr.decode()}")
        return done.stdout

    def inside(self, function: Callable[[], bool]) -> bool:
        """Call a function in the pod's namespace."""
        descriptor = netns.open_netns(self.netns)
        try:
            return netns.run_in(descriptor, function)
        finally:
            os.close(descriptor)

    def addresses(self, interface: str) -> list[Address]:
        """The addresses the result gives an interface."""
        names = [each["name"] if each.get("sandbox") else "" for each in self.result["interfaces"]]
        ips = [each for each in self.result["ips"] if names[each["interface"]] == interface]
        return [ip_interface(each["address"]).ip for each in ips]


def bring_up(pods: list[Runtime], picture: Path) -> int:
    """ADD every pod, show what came of it, and send traffic; returns how many pings failed."""
    for runtime in pods:
        began = time.monotonic()
        runtime.result = json.loads(runtime.call("ADD"))
        say(f"ADD {runtime.name}: {(time.monotonic() - began) * 1000:.0f} ms")
    show(pods[0])
    run_cli("attachments")
    picture.write_bytes(run_cli("attachments", "-o", "svg", is_quiet=True))
    say(f"the picture is {picture}")
    failures = ping_all(pods)
    for runtime in pods:
        runtime.call("CHECK")
        say(f"CHECK {runtime.name}: as ADD left it")
    return failures


def show(runtime: Runtime) -> None:
    """The CNI result and the pod's network-status."""
    say(f"CNI result of {runtime.name}")
    print(json.dumps(runtime.result, indent=2))
    pod = store().get(Kind.POD, runtime.pod["metadata"]["namespace"], runtime.name)
    say(f"{STATUS} of {runtime.name}")
    print(pod["metadata"]["annotations"][STATUS])


def run_cli(*arguments: str, is_quiet: bool = False) -> bytes:
    """A command of the command line; what it prints is shown unless quiet."""
    command = [str(BIN / "meta-cni"), *arguments, "--config", str(OBJECTS.parent / CONFIGURATION)]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    if not is_quiet:
        say(f"meta-cni {' '.join(arguments)}")
        print(printed.decode(), end="", flush=True)
    return printed


def ping_all(pods: list[Runtime]) -> int:
    """Ping from the first pod to every address of the others."""
    failures: int = 0
    for other in pods[1:]:
        for interface in [each["name"] for each in other.result["interfaces"] if each.get("sandbox")]:
            for target in other.addresses(interface):
                is_there = pods[0].inside(lambda target=target, name=interface: ping(target, name))  # type: ignore[misc]
                failures += 0 if is_there else 1
                verdict = "answers" if is_there else "DOES NOT ANSWER"
                say(f"ping {pods[0].name} -> {other.name} over {interface}: {target} {verdict}")
    return failures


def ping(target: Address, interface: str) -> bool:
    """One ICMP echo over one interface, tried a few times; needs CAP_NET_RAW in the namespace."""
    is_v6 = isinstance(target, IPv6Address)
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP
    request, reply = (128, 129) if is_v6 else (8, 0)
    packet = struct.pack("!BBHHH", request, 0, 0, os.getpid() & 0xFFFF, 1)
    packet = struct.pack("!BBHHH", request, 0, checksum(packet), os.getpid() & 0xFFFF, 1)
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        for _ in range(PING_TRIES):
            raw.sendto(packet, (str(target), 0))
            if answered(raw, target, reply, 0 if is_v6 else 20):
                return True
    return False


def answered(raw: socket.socket, target: Address, reply: int, offset: int) -> bool:
    """Wait for the echo reply of one host; other packets are passed over."""
    deadline = time.monotonic() + PING_TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            data, sender = raw.recvfrom(2048)
        except TimeoutError:
            return False
        if data[offset] == reply and sender[0].split("%")[0] == str(target):
            return True
    return False


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def wait_here() -> None:
    """Leave everything up until Enter or Ctrl-C."""
    user = "" if os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1" else " --user"
    say(f"look around: nsenter --target {os.getpid()}{user} --net --mount; Enter or Ctrl-C ends it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.stdin.readline()
    except KeyboardInterrupt:
        print()


def tear_down(pods: list[Runtime], before: dict[str, list[str]]) -> int:
    """DEL every pod, twice as runtimes do, and show what is left; returns the number of leaks."""
    for runtime in pods:
        began = time.monotonic()
        runtime.call("DEL")
        say(f"DEL {runtime.name}: {(time.monotonic() - began) * 1000:.0f} ms")
        netns.remove(runtime.netns)
        runtime.netns = ""
        runtime.call("DEL")
    after = inventory()
    leaks = 0
    for what, found in after.items():
        new = sorted(set(found) - set(before[what]))
        leaks += len(new)
        say(f"left over {what}: {', '.join(new) or 'none'}")
    return leaks


def inventory() -> dict[str, list[str]]:
    """
    What an attachment could leave: links (bridges stay, as with every plugin), rules, files.

    The kernel gives the uplink its link-local address and route when it likes, also meanwhile.
    """
    with Socket.open_host() as host:
        bridges = {each.index for each in link.dump(host) if each.kind == "bridge"}
        links = [each.name for each in link.dump(host) if each.index not in bridges]
        addresses = [
            str(each.address)
            for each in address.dump(host)
            if each.interface_index not in bridges and not each.address.ip.is_link_local
        ]
        routes = [
            str(each.destination)
            for each in route.dump(host)
            if each.interface_index not in bridges and not each.destination.is_link_local
        ]
    files = [path for path in Path("/var/lib/cni").rglob("*") if path.is_file()]
    kept = ("lock", "version", "last_reserved_ip", "pods_", "network-attachment-definitions_")
    return {
        "links": links,
        "addresses": addresses,
        "routes": routes,
        "rules": rules(),
        "files": [str(path) for path in files if not path.name.startswith(kept)],
    }


def rules() -> list[str]:
    """The tables of nftables, where its program is installed."""
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        return []
    done = subprocess.run([program, "list", "tables"], capture_output=True, check=False)
    return done.stdout.decode().splitlines()


if __name__ == "__main__":
    sys.exit(main())
