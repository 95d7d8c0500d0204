"""
The same node, pod and networks, once by Multus' own thin plugin and once by ours.

Both are called as a runtime does, with one configuration of `type: multus`. Every plugin in `binDir` writes
down what it was given before it does anything (recording_plugin.py); the rest is seen by iproute2 and by the
API server. What comes of it is lines like `2.DEL.calls.DEL net1 macvlan.stdin.name: 'a' -> 'b'`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meta_cni import compose
from meta_cni.cni.errors import KernelError
from meta_cni.k8s.store import Kind
from meta_cni.linux import link, netns
from meta_cni.linux.netlink import Socket
from tests.conformance import state
from tests.k8s.stand_in import StandIn
from tests.kubelet import FakeKubelet
from tests.netns import recording_plugin
from tests.netns.conftest import REFERENCE, PodNetns
from tests.netns.daemons import until

BUILT = Path(__file__).parents[2] / ".reference" / "bin"
VERSION = "v4.3.0"
CACHE = Path.home() / ".cache" / "meta-cni-multus" / VERSION
"""Where `make multus` puts it."""
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
STATUS = "k8s.v1.cni.cncf.io/network-status"
DEVICES = Path("/run/k8s.cni.cncf.io/devinfo")
CONTAINER = "sandbox"
ABSENT = "(absent)"
TOO_SLOW, TRIES = b"error waiting for pod", 10
"""Multus waits a quarter of a second for an answer of the API server, before it does anything."""
REAL = ("bridge", "macvlan", "ptp", "tuning", "host-device", "loopback")
RECORDING = ("record", "other", "passthru")
"""Plugins that do what their configuration says."""

Outcome = dict[str, Any]
Program = Callable[[dict[str, str], bytes], tuple[bytes, int]]
"""(environment, standard input) -> what it printed, exit code."""


@dataclass(frozen=True)
class Row:
    """One input: keys of the node's configuration, networks, annotations, and what the runtime asks."""

    source: str
    """Where Multus documents or tests it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Put over the usual one; None takes a key away."""
    networks: Mapping[str, Any] = field(default_factory=dict)
    """`namespace/name` -> configuration, as a text or an object; None is a network without one."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """`namespace/name` -> the network's resourceName."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """Path below the test's directory -> content."""
    selected: Any = None
    """The networks annotation."""
    default: str = ""
    """The default-network annotation."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """More of the pod: namespace, annotations; {"absent": True} is none."""
    devices: Mapping[str, list[str]] = field(default_factory=dict)
    """Resource -> what the kubelet handed to the pod."""
    arguments: str = ""
    """More CNI_ARGS."""
    variables: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ("ADD", "CHECK", "DEL")
    """Verbs, and what happens between them: a key of CHANGES."""

    @property
    def namespace(self) -> str:
        """The pod's."""
        return str(self.pod.get("namespace", "telco"))


def find_multus() -> str | None:
    """A thin Multus of version 4: in META_CNI_MULTUS, what `make multus` built, or one on PATH."""
    places = (os.environ.get("META_CNI_MULTUS", ""), str(CACHE), os.environ["PATH"])
    for each in filter(None, places):
        found = shutil.which("multus", path=each)
        if found and _is_thin(found):
            return found
    return None


def _is_thin(program: str) -> bool:
    """Is it Multus' own? Ours may have the name, too."""
    done = subprocess.run([program, "--version"], capture_output=True, stdin=subprocess.DEVNULL, text=True)
    return "multus: version:" in done.stdout


@dataclass
class World:
    """A node with one pod, made for one run of one row."""

    root: Path
    row: Row
    stand_in: StandIn
    pod: PodNetns
    kubelet: FakeKubelet
    uid: str = ""

    def make(self) -> None:
        """Everything that is there before the runtime asks."""
        for name in ("bin", "records", "conf", "ipam", "kubelet"):
            (self.root / name).mkdir(parents=True)
        for name in (*REAL, *RECORDING):
            _write_plugin(self.root, name)
        for path, content in self.row.files.items():
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._text(content))
        for reference, config in self.row.networks.items():
            self._put_network(reference, config)
        self._put_pod()
        told = [{"resource_name": name, "device_ids": ids} for name, ids in self.row.devices.items()]
        about = {"name": "p", "namespace": self.row.namespace}
        self.kubelet.answer({**about, "containers": [{"name": "c", "devices": told}]})
        shutil.rmtree(DEVICES, ignore_errors=True)

    def _text(self, content: Any) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        return text.replace("@", str(self.root))

    def _put_network(self, reference: str, config: Any) -> None:
        namespace, _, name = reference.partition("/")
        resource = self.row.resources.get(reference)
        marks = {"k8s.v1.cni.cncf.io/resourceName": resource} if resource else {}
        spec = {} if config is None else {"spec": {"config": self._text(config)}}
        metadata = {"name": name, "namespace": namespace, "annotations": marks}
        self.stand_in.put(NAD, {"metadata": metadata, **spec})

    def _put_pod(self) -> None:
        if self.row.pod.get("absent"):
            return
        told = dict(self.row.pod.get("annotations", {}))
        if self.row.selected is not None:
            is_text = isinstance(self.row.selected, str)
            told["k8s.v1.cni.cncf.io/networks"] = (
                self.row.selected if is_text else json.dumps(self.row.selected)
            )
        if self.row.default:
            told["v1.multus-cni.io/default-network"] = self.row.default
        metadata = {"name": "p", "namespace": self.row.namespace, "annotations": told}
        self.uid = str(self.stand_in.put(Kind.POD, {"metadata": metadata})["metadata"]["uid"])

    def configuration(self) -> bytes:
        """The runtime's standard input."""
        usual = {
            "cniVersion": "1.0.0",
            "name": "multus-cni-network",
            "type": "multus",
            "kubeconfig": str(self.root / "kubeconfig"),
            "cniDir": "@/state",
            "confDir": "@/conf",
            "binDir": "@/bin",
            "logToStderr": False,
            "delegates": [DEFAULT],
        }
        told = {key: value for key, value in {**usual, **self.row.config}.items() if value is not None}
        return self._text(told).encode()

    def variables(self, verb: str) -> dict[str, str]:
        """The runtime's."""
        about = (
            f"K8S_POD_NAMESPACE={self.row.namespace};K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID={CONTAINER}"
        )
        return {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": self.pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;{about};K8S_POD_UID={self.uid}{self.row.arguments}",
            "CNI_PATH": ":".join(REFERENCE),
            **self.row.variables,
        }

    def calls(self) -> Outcome:
        """What plugins were given since the last time, and in which order."""
        found, order = {}, []
        for file in sorted((self.root / "records").iterdir()):
            record = json.loads(file.read_text())
            variables = {name: text for name, text in record["variables"].items() if text}
            place = f"{variables['CNI_COMMAND']} {variables.get('CNI_IFNAME') or ''} {record['type']}"
            variables["CNI_ARGS"] = _arguments(variables.get("CNI_ARGS", ""))
            again = sum(each == place for each in order)
            order.append(place)
            stdin = json.loads(record["stdin"] or "{}")
            found[f"{place}{f' ({again})' if again else ''}"] = {"variables": variables, "stdin": stdin}
            file.unlink()
        return {
            "order": ", ".join(each for each in order if not each.startswith("VERSION")),
            **_visible(found),
        }

    def status(self) -> Any:
        """The pod's network-status."""
        found = self.stand_in.objects.known.get(("pods", self.row.namespace, "p"), {"metadata": {}})
        text = found["metadata"].get("annotations", {}).get(STATUS)
        return ABSENT if text is None else json.loads(text)

    def seen(self) -> Outcome:
        """The kernel and the files."""
        pod = {} if self.pod.fd < 0 else netns.run_in(self.pod.fd, state.of_namespace)
        with Socket.open_host() as socket:
            node = link.dump(socket)
        devices = [each for each in DEVICES.rglob("*") if each.is_file()] if DEVICES.exists() else []
        addresses = (each for each in (self.root / "ipam").rglob("*") if each.is_file())
        return {
            "pod": _pod_seen(pod) if pod else {},
            "node": {each.name: each.kind for each in node if each.kind == "bridge"},
            "veths": sum(each.kind == "veth" for each in node),
            "addresses": sorted(
                each.name for each in addresses if each.name[:1].isdigit() or ":" in each.name
            ),
            "devices": {str(each.relative_to(DEVICES)): json.loads(each.read_text()) for each in devices},
        }


def _visible(found: Mapping[str, Any]) -> dict[str, Any]:
    return {place: told for place, told in found.items() if not place.startswith("VERSION")}


def _arguments(text: str) -> dict[str, str]:
    """Multus says most of them twice."""
    return dict(each.partition("=")[::2] for each in text.split(";") if each)  # type: ignore[misc]


def _pod_seen(found: state.State) -> Outcome:
    """Of the pod, what its user sees; how a link is built is compared beside the reference plugins."""
    links = {name: each for name, each in found["links"].items() if name != "lo" and each["kind"]}
    return {
        "links": {
            name: {key: each[key] for key in ("kind", "mtu", "flags", "address")}
            for name, each in links.items()
        },
        "addresses": {each.partition(" {")[0]: True for each in found["addresses"]},
        "routes": {_route(each): True for each in found["routes"] if " dev None " not in each},
    }


def _route(line: str) -> str:
    start, _, more = line.partition(" {")
    return f"{start} via {json.loads('{' + more).get('gateway')}"


def _write_plugin(root: Path, name: str) -> None:
    real = shutil.which(name, path=":".join((str(BUILT), *REFERENCE))) if name in REAL else None
    text = Path(recording_plugin.__file__).read_text()
    text = text.replace('RECORDS = ""', f"RECORDS = {str(root / 'records')!r}", 1)
    text = text.replace('REAL: "str | None" = None', f'REAL: "str | None" = {real!r}', 1)
    file = root / "bin" / name
    file.write_text(f"#!{sys.executable} -IS\n{text}")
    file.chmod(0o755)


DEFAULT: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cbr0",
    "type": "bridge",
    "bridge": "cbr0",
    "isDefaultGateway": True,
    "ipam": {"type": "host-local", "dataDir": "@/ipam", "ranges": [[{"subnet": "10.244.1.0/24"}]]},
}


def _remove(world: World, key: tuple[str, str, str]) -> None:
    resource = {each.value.plural: each.value for each in Kind}[key[0]]
    world.stand_in.objects.delete(resource, key[1], key[2], 0)


def _remove_namespace(world: World) -> None:
    """And what the kernel takes apart with it, in its own time: the host ends of its links."""
    world.pod.close()
    with Socket.open_host() as socket:
        until(lambda: not any(each.name.startswith("veth") for each in link.dump(socket)))


def _replace_pod(world: World) -> None:
    _remove(world, ("pods", world.row.namespace, "p"))
    metadata = {"name": "p", "namespace": world.row.namespace}
    world.stand_in.put(Kind.POD, {"metadata": metadata})


def _remove_networks(world: World) -> None:
    for key in [each for each in world.stand_in.objects.known if each[0] == NAD.value.plural]:
        _remove(world, key)


def _write_information() -> None:
    """As a device plugin does."""
    (DEVICES / "dp").mkdir(parents=True)
    information = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": "vf-1"}}
    (DEVICES / "dp" / "intel.com-sriov-vf-1-device.json").write_text(json.dumps(information))


CHANGES: dict[str, Callable[[World], None]] = {
    "the pod goes": lambda world: _remove(world, ("pods", world.row.namespace, "p")),
    "another pod of its name comes": _replace_pod,
    "its namespace goes": _remove_namespace,
    "its networks go": _remove_networks,
    "the API server goes": lambda world: world.stand_in.stop(),
    "device information": lambda world: _write_information(),
    "net1 goes": lambda world: world.pod.socket.request([link.delete("net1")]),
}


def multus(program: str, kubelet: Path) -> Program:
    """Multus, which knows one directory of a kubelet alone: the fake one's is mounted there for the call."""
    mounts = "mount -t tmpfs none /var/lib && mkdir /var/lib/kubelet && mount --rbind"
    script = f'{mounts} "{kubelet}" /var/lib/kubelet && exec "{program}"'

    def call(variables: dict[str, str], given: bytes) -> tuple[bytes, int]:
        command = ["unshare", "--mount", "sh", "-c", script]
        for _ in range(TRIES):
            done = subprocess.run(command, input=given, env=variables, stdout=subprocess.PIPE, timeout=120)
            if TOO_SLOW not in done.stdout:
                break
        return done.stdout, done.returncode

    return call


def ours(kubelet: Path, policy: str) -> Program:
    """Ours, with the same configuration; which plugins are executed is its own key."""

    def call(variables: dict[str, str], given: bytes) -> tuple[bytes, int]:
        told = {**json.loads(given), "kubeletDir": str(kubelet), "delegatePolicy": policy}
        return compose.serve(variables, json.dumps(told).encode())

    return call


def run(world: World, program: Program) -> Outcome:
    """All that can be seen of every step, by its place."""
    world.make()
    world.stand_in.write_kubeconfig(world.root / "kubeconfig")
    found: Outcome = {}
    for number, step in enumerate(world.row.steps):
        if step in CHANGES:
            CHANGES[step](world)
            continue
        printed, code = program(world.variables(step), world.configuration())
        answer = json.loads(printed) if printed.strip() else {}
        if code:
            answer = {"code": answer.get("code"), "msg": answer.get("msg")}
        seen = {
            "exit": code,
            "answer": answer,
            "calls": world.calls(),
            "status": world.status(),
            **world.seen(),
        }
        found[f"{number}.{step}"] = seen
    return dict(flat("", _normal(found, world)))


MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")


def _normal(found: Outcome, world: World) -> Outcome:
    """Without what is another one every time: directories, UIDs, MACs by chance, names of veths."""
    text = json.dumps(found).replace(str(world.root), "@").replace(world.uid or "no UID", "UID")
    text = text.replace("no UID", "")
    chance = sorted(
        {each for each in MAC.findall(text) if each not in json.dumps(world.row.__dict__, default=str)}
    )
    kept = {"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}
    for each in chance:
        text = text if each in kept else text.replace(each, "MAC")
    text = re.sub(r"\bveth[0-9a-zA-Z]+", "veth", text)
    return dict(json.loads(text))


def flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf by its path; an empty list or object is one where it was said."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from flat(f"{path}.{key}" if path else key, each)
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from flat(f"{path}[{number}]", each)
    elif value not in ({}, []) or re.search(r"\.(answer|stdin|status)\b", path):
        yield path, value


def differences(theirs: Outcome, ours: Outcome) -> list[str]:
    """
    A line for every path with another value.

    Of a step that only one succeeds in, and of what comes behind it, the exit codes say enough; of a call
    that only one has made, the order.
    """
    lines = []
    for path in dict.fromkeys((*theirs, *ours)):
        one, other = theirs.get(path, ABSENT), ours.get(path, ABSENT)
        if one != other and not path.endswith(".answer.msg") and not _is_of_one(path, theirs, ours):
            lines.append(f"{path}: {one!r} -> {other!r}")
        if path.endswith(".exit") and one != other:
            step = path.removesuffix(".exit")
            return [f"{line} {_said(step, theirs if one else ours)}" for line in lines[-1:]] + lines[:-1]
    return lines


def _said(step: str, failed: Outcome) -> str:
    return f"({failed.get(f'{step}.answer.msg')})"


def _is_of_one(path: str, theirs: Outcome, ours: Outcome) -> bool:
    """Does it belong to a call that only one of them has made?"""
    found = re.match(r"\d+\.\w+\.calls\.(?!order)[^.]+\.", path)
    mark = f"{found[0]}variables.CNI_COMMAND" if found else ""
    return (mark in theirs) != (mark in ours)


def clear(host: Socket, before: set[str]) -> None:
    """The next one finds the node as this one did."""
    for each in link.dump(host):
        if each.name not in before:
            with suppress(KernelError):
                host.request([link.delete(each.name)])
