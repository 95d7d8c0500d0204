"""
Random lives of pods on one node, and what they leave behind: nothing.

A sequence is made of its seed alone, so that one that failed can be lived again. It has a few
networks over random valid configurations of every built-in plugin, a few pods, and calls in any
order: ADD, CHECK, DEL, DEL once more, ADDs that must fail, a namespace that goes away under a
pod, GC. In the end every pod is deleted, or collected, and the node is compared with what it was.
"""

import json
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import delegates
from meta_cni import compose, standalone
from meta_cni.linux import address, link, route
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns

PODS = ("p1", "p2", "p3")
DEVICES = ("dev0", "dev1")
MASTER = "up0"
KEPT = ("lock", "version", "last_reserved_ip", "pods_", "network-attachment-definitions_")
"""Files that stay: marks and locks of host-local, versions of the file store."""
PACKET_FILTERED = ("ipMasq", "macspoofchk")
FAILING_PLUGIN = '#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\necho \'{"code": 99, "msg": "no"}\'\nexit 1\n'

Config = dict[str, Any]


@dataclass(frozen=True)
class Dice:
    """Random choices of one sequence, in words."""

    random: random.Random

    def maybe(self, chance: float = 0.5) -> bool:
        """True so often."""
        return self.random.random() < chance

    def some(self, **keys: Any) -> Config:
        """Each of the keys, or not."""
        return {key: value for key, value in keys.items() if self.maybe()}

    def one(self, *choices: Any) -> Any:
        """One of them."""
        return self.random.choice(choices)


def bridge(dice: Dice, n: int) -> Config:
    """Every key but VLANs, which need another kernel."""
    keys = dice.some(
        mtu=dice.one(1400, 1500),
        isGateway=True,
        isDefaultGateway=True,
        portIsolation=True,
        enabledad=True,
        forceAddress=True,
    )
    keys |= dice.one({}, {"hairpinMode": True}, {"promiscMode": True})
    if dice.maybe(0.05):
        keys |= dice.one(
            {"ipMasq": True}, {"ipMasq": True, "ipMasqBackend": "nftables"}, {"macspoofchk": True}
        )
    return {"type": "bridge", "bridge": f"br{n}", **keys}


def macvlan(dice: Dice, n: int) -> Config:
    """All modes that share a master."""
    keys = dice.some(mtu=dice.one(1400, 1500), bcqueuelen=500)
    return {"type": "macvlan", "master": MASTER, "mode": dice.one("bridge", "private", "vepa"), **keys}


def ptp(dice: Dice, n: int) -> Config:
    """Masquerade seldom: it runs programs."""
    keys = dice.some(mtu=1400)
    return {"type": "ptp", **keys, **({"ipMasq": True} if dice.maybe(0.05) else {})}


def tap(dice: Dice, n: int) -> Config:
    """With and without who may open it."""
    return {"type": "tap", **dice.some(multiQueue=True, mtu=1400, owner=0, group=0)}


def host_device(dice: Dice, n: int) -> Config:
    """One pod at a time can have it."""
    return {"type": "host-device", "device": DEVICES[n % len(DEVICES)]}


def loopback(dice: Dice, n: int) -> Config:
    """No key."""
    return {"type": "loopback"}


def tuning(dice: Dice, n: int) -> Config:
    """Attributes that a DEL puts back, and parameters."""
    keys = dice.some(mtu=1300, promisc=True, allmulti=True, txQLen=500)
    return {
        "type": "tuning",
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
        "dataDir": "@tuning",
        **keys,
    }


def sbr(dice: Dice, n: int) -> Config:
    """Tables of its own choice."""
    return {"type": "sbr"}


def route_override(dice: Dice, n: int) -> Config:
    """Away with routes, and another one instead."""
    keys = dice.some(flushgateway=True, flushroutes=True, delroutes=[{"dst": "10.99.0.0/16"}])
    return {"type": "route-override", **keys, **dice.some(addroutes=[{"dst": f"10.{200 + n}.0.0/16"}])}


Make = Callable[[Dice, int], Config]
INTERFACES: Mapping[str, Make] = {
    "bridge": bridge,
    "macvlan": macvlan,
    "ptp": ptp,
    "tap": tap,
    "host-device": host_device,
}
CHAINED: Mapping[str, Make] = {"tuning": tuning, "sbr": sbr, "route-override": route_override}
ALONE: Mapping[str, Make] = {"loopback": loopback}
"""What makes no interface of its own, and is called as a plugin of its own only."""


def available(makes: Mapping[str, Make]) -> list[str]:
    """Those that are built in."""
    return [each for each in makes if each in delegates.BUILTIN]


def ipam(dice: Dice, n: int, root: Path, *, must_have: bool) -> Config:
    """host-local out of one directory, static, or none."""
    subnets = [f"10.{n}.0.0/24"] + ([f"fd00:{n}::/64"] if dice.maybe() else [])
    kind = dice.one("host-local", "host-local", "static", "none")
    routes = [{"dst": "10.99.0.0/16"}] if dice.maybe(0.3) else []
    if kind == "none" and not must_have:
        return {}
    if kind == "static" and not must_have:  # the same for all pods, which no router likes
        addresses = [{"address": f"10.{n}.0.77/24", "gateway": f"10.{n}.0.1"}]
        return {"ipam": {"type": "static", "addresses": addresses, "routes": routes}}
    ranges = [[{"subnet": each}] for each in subnets]
    return {"ipam": {"type": "host-local", "dataDir": str(root / "ipam"), "ranges": ranges, "routes": routes}}


def network(dice: Dice, n: int, root: Path) -> list[Config]:
    """The plugins of one network: one that makes the interface, and perhaps some behind it."""
    kind = dice.one(*available(INTERFACES))
    first = {**INTERFACES[kind](dice, n), **ipam(dice, n, root, must_have=kind == "ptp")}
    behind = [each for each in available(CHAINED) if dice.maybe(0.25)]
    if "ipam" not in first:
        behind = [each for each in behind if each == "tuning"]
    made = [first, *(CHAINED[each](dice, n) for each in behind)]
    return json.loads(json.dumps(made).replace("@tuning", str(root / "tuning")))  # type: ignore[no-any-return]


@dataclass
class Place:
    """The node: its namespaces, its devices, its directories; the same for every sequence."""

    root: Path
    host: Socket
    pods: dict[str, PodNetns] = field(default_factory=dict)

    def prepare(self) -> None:
        """Devices, directories and namespaces."""
        for name in ("objects", "conf", "bin"):
            (self.root / name).mkdir()
        plugin = self.root / "bin" / "failing"
        plugin.write_text(FAILING_PLUGIN)
        plugin.chmod(0o755)
        self.host.request([link.create_pair(MASTER, "sw0")])
        self.host.request([link.create_pair(each, f"{each}x") for each in DEVICES])
        self.restore()
        for name in PODS:
            self.pods[name] = PodNetns(name)

    def restore(self) -> None:
        """What a sequence may leave otherwise: bridges, and devices that are down."""
        for each in link.dump(self.host):
            if each.kind == "bridge":
                link.remove(self.host, each.name)
        for name in (MASTER, "sw0", *DEVICES):
            self.host.request([link.set_link(link.require(self.host, name, "device").index, is_up=True)])

    def renew(self, name: str) -> None:
        """Another namespace in the place of a pod's."""
        self.pods[name].close()
        self.pods[name] = PodNetns(name)

    def close(self) -> None:
        """Let the pods go."""
        for each in self.pods.values():
            each.close()

    def state(self, *, with_filters: bool) -> dict[str, Any]:
        """Everything that must be as it was."""
        links = [each for each in link.dump(self.host) if each.kind != "bridge"]
        indexes = {each.index for each in links}
        files = (path for path in self.root.rglob("*") if path.is_file() and "objects" not in path.parts)
        found: dict[str, Any] = {
            "links": sorted((each.name, each.kind, each.mtu, each.alias, each.master) for each in links),
            "addresses": sorted(
                str(each.address)
                for each in address.dump(self.host)
                if each.interface_index in indexes and not each.ip.is_link_local
            ),
            "routes": sorted(
                str(each)
                for each in route.dump(self.host)
                if each.interface_index in indexes and not each.destination.is_link_local
            ),
            "files": sorted(
                str(path.relative_to(self.root)) for path in files if not path.name.startswith(KEPT)
            ),
            "pods": {name: pod_state(pod) for name, pod in self.pods.items()},
        }
        if with_filters:
            found["filters"] = packet_filters()
        return found


def pod_state(pod: PodNetns) -> dict[str, Any]:
    """A pod's namespace, without what its loopback has."""
    from meta_cni.linux import netns

    rules = netns.run_in(
        pod.fd, lambda: _printed("ip", "rule", "show") + _printed("ip", "-6", "rule", "show")
    )
    return {"links": pod.links(), "routes": [str(each) for each in route.dump(pod.socket)], "rules": rules}


def packet_filters() -> list[str]:
    """Rules and chains of pods; tables and base chains may stay."""
    lines = _printed("nft", "list", "ruleset") + _printed("iptables", "-t", "nat", "-S")
    return [line for line in lines if any(each in line for each in ("CNI-", " masquerade", "cni-br-iface"))]


def _printed(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    return [line.strip() for line in done.stdout.splitlines() if not line.startswith("#")]


class Sequence:
    """One random life, by the whole engine or by single plugins."""

    def __init__(self, seed: int, place: Place) -> None:
        self.seed = seed
        self.place = place
        self.dice = Dice(random.Random(seed))
        self.calls: list[str] = []
        self.attached: set[str] = set()
        """Pods whose last ADD succeeded, and that were not deleted since."""
        self.uses_filters = False

    def note(self, text: str) -> None:
        """For who reads a failure."""
        self.calls.append(text)

    def expect(self, answer: tuple[bytes, int], code: int | None, what: str) -> None:
        """The exit code; None when either is right."""
        printed, actual = answer
        self.note(f"{what} -> {actual} {printed.decode()[:300] if actual else ''}")
        assert code is None or code == actual, what


class Life(Sequence):
    """Pods with several networks each, by the engine."""

    def run(self) -> None:
        """Live, and go."""
        names = [f"n{n}" for n in range(1, 2 + self.dice.one(2, 3, 4))]
        self.networks = {name: network(self.dice, int(name[1:]), self.place.root) for name in names}
        text = json.dumps(self.networks)
        self.note(text)
        self.uses_filters = any(f'"{key}": true' in text for key in PACKET_FILTERED)
        for name, plugins in self.networks.items():
            self.write_network(name, plugins)
        for _ in range(self.dice.one(5, 8, 12)):
            self.dice.one(
                *[self.add] * 4, *[self.check] * 2, *[self.delete] * 3, self.fail, self.vanish, self.collect
            )()
        self.end()

    def write_network(self, name: str, plugins: list[Config]) -> None:
        config = {"cniVersion": "1.1.0", "name": name, "plugins": plugins}
        self.write(
            "NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1", name, {}, {"config": json.dumps(config)}
        )

    def write(
        self, kind: str, version: str, name: str, annotations: Config, spec: Config | None = None
    ) -> None:
        metadata = {"name": name, "namespace": "telco", "annotations": annotations}
        document = {
            "apiVersion": version,
            "kind": kind,
            "metadata": metadata,
            **({"spec": spec} if spec else {}),
        }
        (self.place.root / "objects" / f"{kind}-{name}.json").write_text(json.dumps(document))

    def annotate(self, pod: str, networks: list[str]) -> None:
        self.write("Pod", "v1", pod, {"k8s.v1.cni.cncf.io/networks": ",".join(networks)})

    def call(self, verb: str, pod: str = "", *, netns: str | None = None, **keys: Any) -> tuple[bytes, int]:
        """One call of the runtime."""
        root = self.place.root
        config = {
            "cniVersion": "1.1.0",
            "name": "node",
            "type": "meta-cni",
            "cniDir": str(root / "state"),
            "confDir": str(root / "conf"),
            "binDir": str(root / "bin"),
            "store": {"directory": str(root / "objects")},
            "delegates": [{"cniVersion": "1.1.0", "name": "default", **bridge_by_default(root)}],
            **keys,
        }
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": self.place.pods[pod].path if pod and netns is None else netns or "",
            "CNI_IFNAME": "eth0" if pod else "",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME={pod}",
            "CNI_PATH": str(root / "bin"),
        }
        return compose.serve(environment, json.dumps(config).encode(), is_daemon=True)

    def add(self) -> None:
        """An ADD succeeds, unless another pod has the device it needs, or it is there already."""
        pod = self.dice.one(*PODS)
        if pod in self.attached:
            return
        chosen = [each for each in self.networks if self.dice.maybe(0.6)]
        self.annotate(pod, chosen)
        needs = [self.networks[each][0].get("device") for each in chosen]
        wanted = [each for each in needs if each]
        free = {each.name for each in link.dump(self.place.host)}
        is_possible = len(set(wanted)) == len(wanted) and set(wanted) <= free
        answer = self.call("ADD", pod)
        self.expect(answer, 0 if is_possible else 1, f"ADD {pod} {chosen}")
        if answer[1] == 0:
            self.attached.add(pod)

    def check(self) -> None:
        """What was attached is as it was left."""
        for pod in sorted(self.attached):
            self.expect(self.call("CHECK", pod), 0, f"CHECK {pod}")

    def delete(self) -> None:
        """Once, twice, with a namespace or without."""
        pod = self.dice.one(*PODS)
        for _ in range(self.dice.one(1, 1, 2)):
            self.expect(self.call("DEL", pod), 0, f"DEL {pod}")
        if self.dice.maybe(0.2):
            self.expect(self.call("DEL", pod, netns=""), 0, f"DEL {pod} without namespace")
        self.attached.discard(pod)

    def fail(self) -> None:
        """An ADD that must fail, after some of its networks were attached; nothing of it stays."""
        pod = self.dice.one(*PODS)
        if pod in self.attached:
            return
        how, broken = self.dice.one(*self.broken().items())
        self.write_network("bad", broken)
        chosen = [
            each for each in self.networks if self.dice.maybe() and "device" not in self.networks[each][0]
        ]
        self.annotate(pod, [*chosen, "bad"])
        taken = "eth0" if how == "taken" else ""
        inside = self.place.pods[pod].socket
        if taken:
            inside.request([link.create_pair(taken, "taken0")])
        with self.without_ledger() if how == "ledger" else nullcontext():
            self.expect(self.call("ADD", pod), 1, f"ADD {pod} {chosen} that fails: {how}")
        if taken:
            link.remove(inside, taken)
        if self.dice.maybe():
            self.expect(self.call("DEL", pod), 0, f"DEL {pod}")

    @contextmanager
    def without_ledger(self) -> Iterator[None]:
        """A file is in the place of its directory."""
        state, aside = (self.place.root / name for name in ("state", "state.aside"))
        if state.exists():
            state.rename(aside)
        state.touch()
        yield
        state.unlink()
        if aside.exists():
            aside.rename(state)

    def broken(self) -> dict[str, list[Config]]:
        """Networks that cannot be attached, by why."""
        local = {"type": "host-local", "dataDir": str(self.place.root / "ipam")}
        whole: Config = {"type": "bridge", "bridge": "brbad"}
        good = {**whole, "ipam": {**local, "ranges": [[{"subnet": "10.250.0.0/24"}]]}}
        full = {"subnet": "10.251.0.0/24", "rangeStart": "10.251.0.1", "rangeEnd": "10.251.0.1"}
        return {
            "exhausted": [{**whole, "ipam": {**local, "ranges": [[full]]}}],
            "unreachable": [
                {**good, "ipam": {**good["ipam"], "routes": [{"dst": "10.98.0.0/16", "gw": "192.0.2.1"}]}}
            ],
            "plugin": [good, {"type": "failing"}],
            "missing master": [{"type": "macvlan", "master": "nope"}],
            "missing plugin": [{"type": "nobody"}],
            "bad tuning": [good, {"type": "tuning", "sysctl": {"net.core.nothing": "1"}}],
            "taken": [good],
            "ledger": [good],
        }

    def vanish(self) -> None:
        """A pod's namespace goes away, and DEL comes after."""
        pod = self.dice.one(*PODS)
        path = self.place.pods[pod].path
        devices = pod in self.attached and "host-device" in json.dumps(self.networks)
        if devices:  # a veth that plays a device dies with the namespace
            return
        self.place.renew(pod)
        self.note(f"namespace of {pod} is another one")
        self.expect(self.call("DEL", pod, netns=self.dice.one(path, "", "/run/netns/none")), 0, f"DEL {pod}")
        self.attached.discard(pod)

    def collect(self) -> None:
        """GC with what is attached, or with less: what is not listed is detached."""
        kept = [each for each in sorted(self.attached) if self.dice.maybe(0.8)]
        listed = [{"containerID": each, "ifname": "eth0"} for each in kept]
        answer = self.call("GC", **{"cni.dev/valid-attachments": listed})
        self.expect(answer, 0, f"GC of all but {kept}")
        self.attached &= set(kept)

    def end(self) -> None:
        """Everybody goes."""
        if self.dice.maybe(0.3):
            self.expect(self.call("GC", **{"cni.dev/valid-attachments": []}), 0, "GC of all")
            self.attached.clear()
        for pod in self.dice.random.sample(PODS, len(PODS)):
            self.expect(self.call("DEL", pod), 0, f"DEL {pod}")


def bridge_by_default(root: Path) -> Config:
    """The default network of every pod."""
    local = {"type": "host-local", "dataDir": str(root / "ipam"), "ranges": [[{"subnet": "10.244.0.0/16"}]]}
    return {"type": "bridge", "bridge": "br244", "isDefaultGateway": True, "ipam": local}


class PluginLife(Sequence):
    """Single interfaces, by plugins of their own, called as a runtime calls them."""

    def run(self) -> None:
        """Live, and go."""
        self.lists = [network(self.dice, n, self.place.root) for n in (1, 2, 3)]
        self.lists += [[ALONE[each](self.dice, 4)] for each in available(ALONE) if self.dice.maybe(0.2)]
        text = json.dumps(self.lists)
        self.note(text)
        self.uses_filters = any(f'"{key}": true' in text for key in PACKET_FILTERED)
        self.results: dict[tuple[str, int], Any] = {}
        for _ in range(self.dice.one(6, 10, 14)):
            self.dice.one(self.add, self.add, self.check, self.delete, self.delete, self.collect)()
        for pod, n in [(pod, n) for pod in PODS for n in range(len(self.lists))]:
            self.detach(pod, n)

    def call(
        self, verb: str, pod: str, n: int, plugin: Config, previous: Any = None, **keys: Any
    ) -> tuple[bytes, int]:
        """One call of one plugin."""
        config = {"cniVersion": "1.1.0", "name": f"net{n}", **plugin, **keys}
        if previous is not None:
            config["prevResult"] = previous
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": self.place.pods[pod].path if verb != "GC" else "",
            "CNI_IFNAME": f"net{n}" if verb != "GC" else "",
            "CNI_PATH": "/nowhere",
        }
        return standalone.serve(plugin["type"], environment, json.dumps(config).encode())

    def one_of_all(self) -> tuple[str, int]:
        return self.dice.one(*PODS), self.dice.random.randrange(len(self.lists))

    def add(self) -> None:
        """Through the list; when one fails, what was before it is deleted, as a runtime does."""
        pod, n = self.one_of_all()
        if (pod, n) in self.results:
            return
        previous = None
        for plugin in self.lists[n]:
            printed, code = self.call("ADD", pod, n, plugin, previous)
            self.note(f"ADD {pod} net{n} {plugin['type']} -> {code} {printed.decode()[:300] if code else ''}")
            if code:
                assert self.may_fail(plugin), printed
                self.detach(pod, n)
                return
            previous = json.loads(printed)
        self.results[pod, n] = previous

    def may_fail(self, plugin: Config) -> bool:
        """A device that another pod has."""
        device = plugin.get("device")
        return device is not None and link.find(self.place.host, device) is None

    def check(self) -> None:
        """Every plugin of every list, as a runtime does."""
        for (pod, n), result in self.results.items():
            for plugin in self.lists[n]:
                self.expect(
                    self.call("CHECK", pod, n, plugin, result), 0, f"CHECK {pod} net{n} {plugin['type']}"
                )

    def delete(self) -> None:
        pod, n = self.one_of_all()
        for _ in range(self.dice.one(1, 1, 2)):
            self.detach(pod, n)

    def detach(self, pod: str, n: int) -> None:
        """In reverse order, with the result or without."""
        result = self.results.pop((pod, n), None)
        for plugin in reversed(self.lists[n]):
            previous = result if self.dice.maybe(0.8) else None
            self.expect(self.call("DEL", pod, n, plugin, previous), 0, f"DEL {pod} net{n} {plugin['type']}")

    def collect(self) -> None:
        """GC of one network, with everything that is attached to it."""
        n = self.dice.random.randrange(len(self.lists))
        valid = [{"containerID": pod, "ifname": f"net{n}"} for pod, m in self.results if m == n]
        for plugin in self.lists[n]:
            answer = self.call("GC", PODS[0], n, plugin, **{"cni.dev/valid-attachments": valid})
            self.expect(answer, 0, f"GC net{n} {plugin['type']}")
