"""
Runtimes at work while their daemon is killed again and again; afterwards everything must be right.

Clients call as containerd does: a DEL after every ADD that failed or was not answered, until it
succeeds, and once more without namespace; a container may come back under its id, as by podman.
The seed tells what is drawn; when the daemon dies is told by the machine as well.

Run as a program: `python -m tests.netns.soak SEED SECONDS`; it prints what is wrong.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from random import Random
from typing import Any

from meta_cni.linux import netns, sysctl
from tests.netns import daemons, leftovers, sequences, traffic
from tests.netns.conftest import REFERENCE, PodNetns
from tests.netns.daemons import Daemon, until

ROOT = Path("/run/soak")
CLIENTS = 5
KEPT = 2
"""How many attachments a client leaves up to the end."""
TRY_AGAIN, NOT_AVAILABLE = 11, 50
AWAY_S = 0.4
"""At most, after a call that the daemon was not there for."""
DELETE_TRIES = 200
PROBLEM_LINES = 60
BRIDGES = ("a", "b", "slow", "tuned", "node")
"""Networks whose gateway is on the node."""


class SoakFailed(AssertionError):
    """An answer that must not be, or something that is wrong in the end."""


def bridge(number: int, **more: Any) -> dict[str, Any]:
    """A bridge with the gateways of both families on it."""
    ranges = [[{"subnet": f"10.{number}.0.0/16"}], [{"subnet": f"fd00:{number}::/64"}]]
    ipam = {"type": "host-local", "dataDir": str(ROOT / "ipam"), "ranges": ranges}
    return {"type": "bridge", "bridge": f"br{number}", "isGateway": True, "ipam": ipam, **more}


def networks() -> dict[str, list[dict[str, Any]]]:
    """The plugins of each network; `slow` is executed, and takes its time before and after."""
    addresses = {number: bridge(number)["ipam"] for number in (3, 4, 5)}
    masquerade = {"ipMasq": True, "ipMasqBackend": "nftables"} if shutil.which("nft") else {}
    sysctls = {"net.ipv4.conf.IFNAME.arp_filter": "1"}
    return {
        "a": [bridge(1)],
        "b": [bridge(2, mtu=1400), {"type": "sbr"}],
        "macvlan": [{"type": "macvlan", "master": "up0", "ipam": addresses[3]}],
        "ptp": [{"type": "ptp", "ipam": addresses[4], **masquerade}],
        "slow": [bridge(6, type="slow-bridge")],
        "tuned": [bridge(7), {"type": "tuning", "dataDir": str(ROOT / "tuning"), "sysctl": sysctls}],
    }


def write_slow_bridge(directory: Path) -> None:
    """
    The reference bridge plugin where there is one, else ours, with a pause before and after.

    Longer than the next daemon takes to come: left alone, it would attach what has been deleted.
    """
    found = shutil.which("bridge", path=":".join(REFERENCE))
    ours = f"{sys.executable} -c 'from meta_cni.__main__ import plugin; exit(plugin(\"bridge\"))'"
    pause = '[ "$CNI_COMMAND" != ADD ] || sleep $(( $$ / 7 % 3 ))'
    text = f"#!/bin/sh\n{pause}\nPYTHONPATH={daemons.TOP} {found or ours}\ncode=$?\n{pause}\nexit $code\n"
    (directory / "slow-bridge").write_text(text)
    (directory / "slow-bridge").chmod(0o755)


@dataclass
class Container:
    """A container that is, or may be, attached."""

    name: str
    namespace: PodNetns
    networks: list[str]
    result: dict[str, Any] = field(default_factory=dict)


class Soak:
    """The node, its daemon, its clients."""

    def __init__(self, seed: str, seconds: float) -> None:
        self.seed = seed
        self.random = Random(f"{seed} daemon")
        self.seconds = seconds
        for name in ("objects", "conf", "bin", "ipam", "tuning"):
            (ROOT / name).mkdir(parents=True)
        write_slow_bridge(ROOT / "bin")
        for name, plugins in networks().items():
            text = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins})
            self.write("NetworkAttachmentDefinition", name, {"spec": {"config": text}})
        self.worker = sequences.Worker()
        self.daemon = Daemon(ROOT)
        self.is_over = threading.Event()
        self.problems: list[str] = []
        self.diary: list[str] = []
        self.counts: dict[str, int] = {}
        self.idle = 0, 0
        """Threads and descriptors of a daemon that has done nothing."""

    def write(self, kind: str, name: str, document: dict[str, Any]) -> None:
        """Put an object into the store, at once."""
        version = "v1" if kind == "Pod" else "k8s.cni.cncf.io/v1"
        metadata = {"name": name, "namespace": "telco", **document.pop("metadata", {})}
        whole = {"apiVersion": version, "kind": kind, "metadata": metadata, **document}
        path = ROOT / "objects" / f"{kind}-{name}"
        path.with_suffix(".written").write_text(json.dumps(whole))
        path.with_suffix(".written").replace(f"{path}.json")

    def configuration(self, **more: Any) -> dict[str, Any]:
        """Our standard input."""
        default = {"cniVersion": "1.1.0", "name": "node", **bridge(9, isDefaultGateway=True)}
        return {
            "cniVersion": "1.1.0",
            "name": "node",
            "type": "meta-cni",
            "cniDir": str(ROOT / "state"),
            "confDir": str(ROOT / "conf"),
            "binDir": str(ROOT / "bin"),
            "store": {"directory": str(ROOT / "objects")},
            "delegates": [default],
            **more,
        }

    def told(self, text: str) -> None:
        """Write down what happened."""
        self.diary.append(f"{time.monotonic():.3f} {text}")

    def count(self, what: str) -> None:
        """How often something happened."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def run(self) -> None:
        """Everything; raises SoakFailed."""
        clients = [Client(self, number) for number in range(CLIENTS)]
        try:
            self.daemon.start()
            self.idle = self.daemon.threads, self.daemon.descriptors
            self._work(clients)
            self._require(not self.problems, "")
            self._settle()
            for client in clients:
                for container in client.kept:
                    self._require_attached(container)
            for client in clients:
                for container in client.kept:
                    client.delete(container)
            self._require_nothing_left()
            self._require(self.daemon.stop() == 0, "the daemon's exit code is not 0")
            left = [str(each) for each in self.daemon.socket.parent.iterdir()]
            self._require(not left, f"left: {left}")
        except SoakFailed:
            raise
        except Exception as error:  # noqa: BLE001 - told with the seed and the calls
            self._require(False, f"{error!r}")
        finally:
            self.daemon.close()

    def _work(self, clients: list["Client"]) -> None:
        for each in clients:
            each.start()
        until_ = time.monotonic() + self.seconds
        try:
            while time.monotonic() < until_ and not self.problems:
                time.sleep(self.random.uniform(0.1, 2.0))
                self.random.choice((self._kill,) * 5 + (self._replace, self._second))()
        finally:
            self.is_over.set()
            for each in clients:
                each.join()

    def _kill(self) -> None:
        """It dies, and is away for a while."""
        self.daemon.kill()
        self.told("the daemon is killed")
        self.count("kills")
        time.sleep(self.random.choice((0.0, 0.1, 0.5)))
        self.daemon.start()
        self.told("the daemon serves again")

    def _replace(self) -> None:
        """An upgrade: the next one starts while the last one still finishes."""
        last = self.daemon.running
        self.told("the daemon is told to stop, and the next one is started")
        last.send_signal(signal.SIGTERM)
        until(lambda: not self.daemon.socket.exists())
        self.daemon.start()
        self.count("replacements")
        if last.wait(daemons.WAIT_S) != 0:
            self.problems.append("a daemon that was told to stop did not finish")

    def _second(self) -> None:
        """A second one is refused, and does not disturb."""
        self.told("a second daemon is started")
        if self.daemon.launched().wait(daemons.WAIT_S) == 0:
            self.problems.append("a second daemon was not refused")
        self.count("second daemons")

    def _settle(self) -> None:
        """All that waits in the spool is done."""
        until(lambda: not list(self.daemon.spool.glob("*.request")))

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            problems = "\n".join([*self.problems, problem])
            diary = "\n".join(f"  {each}" for each in self.diary[-PROBLEM_LINES:])
            log = "\n".join(self.daemon.log.read_text().splitlines()[-PROBLEM_LINES:])
            raise SoakFailed(f"SOAK_SEED={self.seed}: {problems}\nwhat was called last:\n{diary}\n{log}")

    # In the end.

    def _require_attached(self, container: Container) -> None:
        """As ADD told it: links, addresses, routes, and a gateway that hears it."""
        client = Client(self, -1)
        answer, code = client.call("CHECK", container, prevResult=container.result)
        self._require(code == 0, f"CHECK {container.name}: {answer}")
        pod, result = container.namespace, container.result
        names = [each["name"] for each in result["interfaces"]]
        inside = sorted(each["name"] for each in result["interfaces"] if each.get("sandbox"))
        self._require(inside == pod.links(), f"{container.name}: links {pod.links()}: expected {inside}")
        routes = netns.run_in(pod.fd, lambda: _printed("ip", "route") + _printed("ip", "-6", "route"))
        for each in result["ips"]:
            name = names[each["interface"]]
            self._require(
                each["address"] in pod.addresses(name), f"{container.name}: {name} lost {each['address']}"
            )
        for each in result.get("routes", []):
            told = "default" if each["dst"] in ("0.0.0.0/0", "::/0") else each["dst"]
            self._require(told in routes, f"{container.name}: lost route {told}")
        self._require_heard(container)

    def _require_heard(self, container: Container) -> None:
        addresses = {network: f"10.{number}." for network, number in _numbers().items()}
        for each in container.result["ips"]:
            owner = next((key for key, start in addresses.items() if each["address"].startswith(start)), "")
            if owner in BRIDGES:
                source = str(ip_interface(each["address"]).ip)
                node = traffic.own_namespace()
                heard = traffic.source_seen(container.namespace.fd, node, each["gateway"], bind=source)
                os.close(node)
                self._require(
                    heard == source, f"{container.name}: {each['gateway']} heard {heard!r}: expected {source}"
                )

    def _require_nothing_left(self) -> None:
        self._settle()
        threads, descriptors = self.idle
        most = descriptors + daemons.KEPT_DESCRIPTORS * threads
        until(lambda: self.daemon.threads <= threads and self.daemon.descriptors <= most)
        self.worker.drop()
        left = leftovers.wait_for(lambda: self.worker.left(self._files))
        left += [f"process {each}" for each in self.daemon.executed()]
        self._require(not left, "left:\n" + "\n".join(left))

    def _files(self) -> set[str]:
        places = [ROOT / each for each in ("state", "ipam", "tuning", "spool")]
        return leftovers.of_files(*places)


def _numbers() -> dict[str, int]:
    return {"a": 1, "b": 2, "macvlan": 3, "ptp": 4, "slow": 6, "tuned": 7, "node": 9}


def _printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Client(threading.Thread):
    """A runtime."""

    def __init__(self, soak: Soak, number: int) -> None:
        super().__init__(name=f"client {number}")
        self.soak = soak
        self.number = number
        self.random = Random(f"{soak.seed} {number}")
        self.made = 0
        self.kept: list[Container] = []

    def run(self) -> None:
        """Containers, one after the other."""
        try:
            last: Container | None = None
            while not self.soak.is_over.is_set() and not self.soak.problems:
                last = self._round(last)
            if last is not None:
                last.namespace.close()
        except Exception as error:  # noqa: BLE001 - it is told in the end
            self.soak.problems.append(f"{self.name}: {error!r}")

    def _round(self, last: Container | None) -> Container | None:
        """One container's life; the container, where it may come back in its namespace."""
        if self.random.random() < 0.1:
            self._ask_status()
        container = self._next(last)
        is_attached = self._add(container)
        if is_attached and self.random.random() < 0.5:
            self._check(container)
        if is_attached and len(self.kept) < KEPT and self.random.random() < 0.2:
            self.kept.append(container)
            return None
        is_back = self.random.random() < 0.3
        self.delete(container, is_back=is_back)
        return container if is_back else None

    def _ask_status(self) -> None:
        answer, code = self.soak.daemon.call("STATUS", "", "", "", self.soak.configuration())
        self.soak.count(f"STATUS {'success' if code == 0 else answer['code']}")
        if code and answer["code"] != NOT_AVAILABLE:
            raise SoakFailed(f"STATUS: {answer}")

    def _next(self, last: Container | None) -> Container:
        chosen = self.random.sample(sorted(networks()), self.random.randrange(4))
        if last is not None:
            last.networks = chosen
            return last
        self.made += 1
        name = f"c{self.number}-{self.made}"
        return Container(name, PodNetns(name), chosen)

    def call(self, verb: str, container: Container, path: str | None = None, **more: Any) -> daemons.Answer:
        """One call through the shim."""
        at = container.namespace.path if path is None else path
        given = self.soak.configuration(**more)
        answer, code = self.soak.daemon.call(verb, container.name, at, container.name, given)
        told = f"{answer['code']} {answer['msg']}" if code else "success"
        self.soak.told(f"{verb} {container.name} {container.networks} in {at!r}: {told}")
        self.soak.count(f"{verb} {'success' if code == 0 else answer['code']}")
        return answer, code

    def _add(self, container: Container) -> bool:
        """Is it attached? One that was not answered may be."""
        selected = ",".join(container.networks)
        annotations = {"k8s.v1.cni.cncf.io/networks": selected}
        self.soak.write("Pod", container.name, {"metadata": {"annotations": annotations}})
        if self.random.random() < 0.05:
            self._give_up(container)
            return False
        answer, code = self.call("ADD", container)
        if code == 0:
            container.result = answer
        elif answer["code"] != TRY_AGAIN:
            raise SoakFailed(f"ADD {container.name}: {answer}")
        else:
            time.sleep(self.random.uniform(0, AWAY_S))
        return code == 0

    def _give_up(self, container: Container) -> None:
        """A runtime that does not wait any longer kills the shim."""
        at = container.namespace.path
        started = self.soak.daemon.asked("ADD", container.name, at, container.name, self.soak.configuration())
        time.sleep(self.random.uniform(0, 0.3))
        started.kill()
        started.communicate()
        self.soak.told(f"ADD {container.name} {container.networks}: given up")
        self.soak.count("ADD given up")

    def _check(self, container: Container) -> None:
        answer, code = self.call("CHECK", container, prevResult=container.result)
        if code and answer["code"] != TRY_AGAIN:
            raise SoakFailed(f"CHECK {container.name}: {answer}")

    def delete(self, container: Container, *, is_back: bool = False) -> None:
        """DEL until it succeeds, and again; the namespace may go before, and goes after."""
        is_early = not is_back and self.random.random() < 0.2
        if is_early:
            container.namespace.close()
        for _ in range(DELETE_TRIES):
            answer, code = self.call("DEL", container)
            if code == 0:
                break
            time.sleep(0.1)
        else:
            raise SoakFailed(f"DEL {container.name}: {answer}")
        again, code = self.call("DEL", container, "")
        if code:
            raise SoakFailed(f"second DEL {container.name}: {again}")
        if not is_early and not is_back:
            container.namespace.close()


def main(arguments: list[str]) -> int:
    """One soak; 1 when something was wrong."""
    seed, seconds = arguments
    netns.enter_private()
    sysctl.write("net/ipv6/conf/default/accept_dad", "0")
    soak = Soak(seed, float(seconds))
    try:
        soak.run()
    except SoakFailed as failure:
        print(failure)
        return 1
    print(", ".join(f"{what}: {number}" for what, number in sorted(soak.counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
