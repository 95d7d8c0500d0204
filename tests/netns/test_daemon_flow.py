"""The whole of it, as a node lives it: install, daemon, primary, a pod, uninstall."""

import json
import os
import signal
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from meta_cni import cli, standalone
from meta_cni.cli import command_line
from meta_cni.daemon import server
from meta_cni.linux import sysctl
from tests.netns.conftest import REFERENCE, Node

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WAIT_S = 180
ETH_P_ARP = 0x0806  # <linux/if_ether.h>


def until(condition: Callable[[], object]) -> None:
    """Wait for what is to happen soon."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Machine:
    """A node with a runtime's directories, and everything of ours below its own."""

    def __init__(self, node: Node, stack: ExitStack) -> None:
        self.node = node
        self.root = node.root
        self._stack = stack
        for name in ("net.d", "plugins"):
            (self.root / name).mkdir()
        self.generated = self.root / "net.d" / "00-meta-cni.conflist"
        self.primary = self.root / "net.d" / "10-primary.conflist"
        self.places = [f"--bin-dir={self.root}/plugins", f"--state={self.root}/meta-cni/installed"]
        self.places.append(f"--spool={self.root}/meta-cni/spool")
        keys = ("cniDir", "confDir", "binDir", "store")
        settings = {key: value for key, value in node.configuration().items() if key in keys}
        settings |= {"cniConfigDir": str(self.root / "net.d"), "logFile": str(self.root / "log")}
        (self.root / "daemon.json").write_text(json.dumps(settings))

    def network(self) -> dict[str, Any]:
        """The primary's plugin."""
        return self.node.bridge("primary", 244, isDefaultGateway=True)

    def put_primary(self) -> None:
        plugin = {key: value for key, value in self.network().items() if key not in ("cniVersion", "name")}
        plugins = {"cniVersion": "1.1.0", "name": "primary", "plugins": [plugin]}
        self.primary.write_text(json.dumps(plugins, indent=2))

    def daemon(self) -> Callable[[], None]:
        """Start it; returns what ends it, as kubelet does."""
        command = [sys.executable, "-m", "meta_cni", "daemon", f"--socket={self.root}/r/s"]
        command += [f"--spool={self.root}/meta-cni/spool", f"--config={self.root}/daemon.json"]
        process = subprocess.Popen(command, cwd=ROOT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        until(lambda: server.is_served(self.root / "r" / "s"))  # it is there before anybody listens

        def stop() -> None:
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(WAIT_S)

        return stop

    def call(self, verb: str, stdin: bytes) -> tuple[dict[str, Any], int]:
        """The runtime executes what is in its plugin directory."""
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "sandbox",
            "CNI_NETNS": self.node.pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p",
            "CNI_PATH": ":".join((str(self.root / "plugins"), *REFERENCE)),
            "PATH": os.environ["PATH"],
            "META_CNI_SOCKET": str(self.root / "r" / "s"),
            "META_CNI_SPOOL": str(self.root / "meta-cni" / "spool"),
        }
        plugin = self.root / "plugins" / json.loads(stdin)["type"]
        done = subprocess.run([plugin], input=stdin, env=environment, capture_output=True, timeout=WAIT_S)
        return (json.loads(done.stdout) if done.stdout else {}), done.returncode

    def stdin(self) -> bytes:
        """What libcni gives to the plugin of the generated list."""
        return cli._stdin_of(str(self.generated))

    def uninstall(self) -> int:
        arguments = [*self.places, f"--config={self.root}/daemon.json", f"--socket={self.root}/r/s"]
        return command_line(["uninstall", *arguments])

    def files(self) -> dict[str, bytes]:
        """What is in the runtime's directories."""
        folders = (self.root / "net.d", self.root / "plugins")
        return {each.name: each.read_bytes() for folder in folders for each in folder.iterdir()}

    def reserved(self, network: str) -> set[str]:
        """Addresses that host-local holds."""
        held = (self.root / "ipam" / network).glob("*")
        return {each.name for each in held if each.name[0].isdigit() or each.name.startswith("fd")}


@pytest.fixture
def machine(node: Node) -> Iterator[Machine]:
    """A node where something else was installed before."""
    with ExitStack() as stack:
        made = Machine(node, stack)
        (node.root / "plugins" / "multus").write_bytes(b"\x7fELF of Multus")
        (node.root / "net.d" / "99-readme.txt").write_text("theirs")
        yield made


def test_a_node_s_life_with_the_daemon(machine: Machine, capsys: pytest.CaptureFixture[str]):
    """Install, a primary that comes late, a pod, a daemon that goes and comes, uninstall: as before."""
    node, before = machine.node, machine.files()
    node.nad("second", node.bridge("second", 9))
    node.annotate("second")
    assert 0 == command_line(["install", *machine.places, "--name", "meta-cni", "--name", "multus"])
    stop = machine.daemon()
    assert not machine.generated.exists()

    machine.put_primary()
    until(machine.generated.exists)
    stdin = machine.stdin()
    answer, code = machine.call("ADD", stdin)
    assert (0, ["eth0", "net1"]) == (code, node.pod.links()), answer
    assert {("10.244.0.1", "eth0"), ("fd00:244::1", "eth0")} == node.pod.defaults()
    assert [0, 0] == [machine.call(verb, stdin)[1] for verb in ("CHECK", "STATUS")]

    stop()
    assert machine.generated.exists()
    assert 11 == machine.call("CHECK", stdin)[0]["code"]
    assert ({}, 0) == machine.call("DEL", stdin)
    assert ["eth0", "net1"] == node.pod.links()

    stop = machine.daemon()
    until(lambda: not (machine.root / "state" / "ledger" / "sandbox").exists())
    assert ([], {"lo"}) == (node.pod.links(), node.traces()["host links"])
    assert (set(), set()) == (machine.reserved("primary"), machine.reserved("second"))

    machine.primary.unlink()
    until(lambda: not machine.generated.exists())
    stop()
    assert 0 == machine.uninstall()

    assert before == machine.files()
    assert "" == capsys.readouterr().err
    assert not (machine.root / "meta-cni").exists()
    assert not (machine.root / "state" / "ledger").exists()
    assert f"generated {machine.generated} from {machine.primary}" in (machine.root / "log").read_text()


def test_what_no_caller_waits_for_is_done_when_he_has_his_answer(machine: Machine):
    """The neighbours are told of the address, and the pod's port takes no router's word."""
    assert 0 == command_line(["install", *machine.places, "--name", "meta-cni"])
    machine.put_primary()
    machine.daemon()
    until(machine.generated.exists)
    with sockets.socket(sockets.AF_PACKET, sockets.SOCK_DGRAM, sockets.htons(ETH_P_ARP)) as wire:
        wire.settimeout(WAIT_S)
        answer, code = machine.call("ADD", machine.stdin())
        assert 0 == code
        own = next(each["address"] for each in answer["ips"] if "." in each["address"]).partition("/")[0]
        heard = b""
        while heard[14:18] != sockets.inet_aton(own):
            heard = wire.recv(2048)

    port = next(each["name"] for each in answer["interfaces"] if each["name"].startswith("veth"))
    until(lambda: sysctl.read(f"net/ipv6/conf/{port}/accept_ra") == "0")
    assert answer["interfaces"][-1]["mac"] == heard[8:14].hex(":")
    assert ({}, 0) == machine.call("DEL", machine.stdin())


def test_a_pod_of_a_node_that_was_not_drained_can_be_deleted_by_the_primary(
    machine: Machine, capsys: pytest.CaptureFixture[str]
):
    """P-09: the runtime has the primary's configuration again; what is left of ours is told and kept."""
    machine.put_primary()
    before = machine.files()
    assert 0 == command_line(["install", *machine.places])
    stop = machine.daemon()
    until(machine.generated.exists)
    assert 0 == machine.call("ADD", machine.stdin())[1]

    assert 1 == machine.uninstall()  # while it serves
    stop()
    assert 0 == machine.uninstall()

    told = capsys.readouterr().err
    assert "expected it to be stopped first" in told
    assert "1 sandboxes are attached (sandbox)" in told
    assert before == machine.files()
    environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "sandbox", "CNI_NETNS": machine.node.pod.path}
    environment |= {"CNI_IFNAME": "eth0", "CNI_PATH": ":".join(REFERENCE)}
    assert (b"", 0) == standalone.serve("bridge", environment, json.dumps(machine.network()).encode())
    assert ([], set()) == (machine.node.pod.links(), machine.reserved("primary"))
