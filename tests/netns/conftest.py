"""A private node for every test on the kernel: nothing outside is touched, nothing may be left."""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meta_cni import compose
from meta_cni.cni.result import address_of, interface_address_of
from meta_cni.linux import address, device, link, netns, route, sysctl
from meta_cni.linux.netlink import Socket
from tests.guest.boots import FUNCTIONS
from tests.guest.emulator import PORTS, mac
from tests.netns import features, private

REFERENCE = ("/opt/cni/bin", "/usr/lib/cni")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A card with virtual functions is only where the guest has one; what this machine has is not touched."""
    for marker in FUNCTIONS.markers:
        if item.get_closest_marker(marker) and not FUNCTIONS.is_running:
            pytest.skip(f"kernel has no {marker}")


@pytest.fixture(scope="session", autouse=True)
def private_node(tmp_path_factory: pytest.TempPathFactory) -> netns.Private:
    """
    The whole test process moves into its own namespaces.

    pytest's directory is made before, under the user's own name: inside an ordinary user is root.
    """
    tmp_path_factory.getbasetemp()
    return private.enter()


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """A request says where to log to, for the whole process; the next test hears again what is logged."""
    yield
    logger = logging.getLogger("meta_cni")
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    for each in list(logger.handlers):
        logger.removeHandler(each)
        each.close()


@pytest.fixture
def host() -> Iterator[Socket]:
    """A socket on the node; links that a test leaves there are removed, but those of a card."""
    with Socket.open_host() as socket:
        before = {each.name for each in link.dump(socket)}
        yield socket
        for each in link.dump(socket):
            if each.name not in before and not device.is_pci_address(each.device):
                socket.request([link.delete(each.name)])


@pytest.fixture
def needs_kind(host: Socket) -> Callable[[str], None]:
    """The test skips by a kind's name where the kernel makes no such links."""

    def need(kind: str) -> None:
        features.need(host, kind)

    return need


PACKET_FILTERS = ("nft", "iptables", "ip6tables")


@pytest.fixture
def packet_filters() -> Iterator[Callable[[], list[str]]]:
    """
    Every rule on the node, a line each; the test skips by a program's name where it is missing.

    What a test leaves there is removed.
    """
    for program in PACKET_FILTERS:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")

    def rules() -> list[str]:
        printed = [_printed("nft", "list", "table", *table) for table in NFT_TABLES if table in _tables()]
        printed += [_printed(each, "-t", "nat", "-S") for each in ("iptables", "ip6tables")]
        lines = (line.strip() for text in printed for line in text.splitlines())
        return [line for line in lines if line not in ("", "}") and not line.startswith(("-P", "table", "#"))]

    _printed("nft", "flush", "ruleset")
    yield rules
    _printed("nft", "flush", "ruleset")


NFT_TABLES = (("inet", "cni_plugins_masquerade"), ("bridge", "nat"))


def _tables() -> list[tuple[str, str]]:
    listed = json.loads(_printed("nft", "-j", "list", "tables"))["nftables"]
    return [(each["table"]["family"], each["table"]["name"]) for each in listed if "table" in each]


def _printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def card_names(private_node: netns.Private) -> Iterator[list[str]]:
    """The links of the physical functions, in the order of the ports; functions are taken away in the end."""
    with Socket.open_host() as socket:
        names = {each.mac: each.name for each in link.dump(socket)}
    found = [names[mac(port)] for port in PORTS]
    yield found
    _take_away_functions(found)


@pytest.fixture
def cards(card_names: list[str], host: Socket) -> Iterator[list[str]]:
    """The same; functions are taken away after each test."""
    yield card_names
    _take_away_functions(card_names)


def _take_away_functions(cards: list[str]) -> None:
    for name in cards:
        file = Path(f"/sys/class/net/{name}/device/sriov_numvfs")
        if file.read_text() != "0\n":
            file.write_text("0")


class PodNetns:
    """A pod's namespace."""

    def __init__(self, name: str, directory: str = "/run/netns") -> None:
        self.path = f"{directory}/{name}"
        netns.create(self.path)
        self.fd = netns.open_netns(self.path)
        self.socket = Socket.open_in(self.fd)

    def links(self) -> list[str]:
        """The names of its links, `lo` aside."""
        return sorted(each.name for each in link.dump(self.socket) if each.name != "lo")

    def addresses(self, name: str) -> set[str]:
        """The global addresses of a link."""
        index = link.require(self.socket, name, "link").index
        found = address.dump(self.socket, index)
        return {str(each.address) for each in found if not each.address.ip.is_link_local}

    def defaults(self) -> set[tuple[str, str]]:
        """(gateway, interface) of every default route."""
        names = {each.index: each.name for each in link.dump(self.socket)}
        found = [each for each in route.dump(self.socket) if each.destination.prefixlen == 0]
        return {(str(each.gateway), names[each.interface_index]) for each in found}

    def close(self) -> None:
        """Let the namespace go; a second time is no error."""
        if self.fd < 0:
            return
        self.socket.close()
        os.close(self.fd)
        netns.remove(self.path)
        self.fd = -1


@pytest.fixture
def pod() -> Iterator[PodNetns]:
    """One pod's namespace."""
    made = PodNetns("pod")
    yield made
    made.close()


@pytest.fixture
def pods() -> Iterator[Callable[[str], PodNetns]]:
    """More pods' namespaces, by their names."""
    with ExitStack() as stack:

        def make(name: str) -> PodNetns:
            made = PodNetns(name)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def outside(host: Socket) -> Iterator[PodNetns]:
    """A host behind the node: 192.0.2.2, 2001:db8::2, by way of the node's 192.0.2.1 and 2001:db8::1."""
    made = PodNetns("outside")
    host.request([link.create_veth("up0", "eth0", made.fd)])
    sysctl.write("net/ipv6/conf/up0/accept_dad", "0")  # usable at once
    netns.run_in(made.fd, lambda: sysctl.write("net/ipv6/conf/eth0/accept_dad", "0"))
    for socket, name, last in ((host, "up0", 1), (made.socket, "eth0", 2)):
        index = link.require(socket, name, "link").index
        addresses = (f"192.0.2.{last}/24", f"2001:db8::{last}/64")
        socket.request(
            [
                link.set_link(index, is_up=True),
                *(address.add(index, interface_address_of(each)) for each in addresses),
            ]
        )
    for gateway, destination in (("192.0.2.1", route.ANYWHERE[4]), ("2001:db8::1", route.ANYWHERE[6])):
        made.socket.request([route.add(route.Route(destination, address_of(gateway)))])
    yield made
    made.close()


@pytest.fixture
def node_fd(host: Socket) -> Iterator[int]:
    """The node's own namespace."""
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def ranges(subnet: int) -> list[list[dict[str, str]]]:
    """Dual-stack ranges of a test network."""
    return [[{"subnet": f"10.{subnet}.0.0/24"}], [{"subnet": f"fd00:{subnet}::/64"}]]


@dataclass
class Node:
    """Our plugin on a node with its directories under one temporary one, called as a runtime does."""

    root: Path
    host: Socket
    pod: PodNetns
    settings: dict[str, Any] = field(default_factory=dict)
    path: tuple[str, ...] = REFERENCE

    def ipam(self, subnet: int, **more: Any) -> dict[str, Any]:
        """A host-local section in the test's own directory."""
        return {"type": "host-local", "dataDir": str(self.root / "ipam"), "ranges": ranges(subnet), **more}

    def bridge(self, name: str, subnet: int, **more: Any) -> dict[str, Any]:
        """A bridge network."""
        return {
            "cniVersion": "1.1.0",
            "name": name,
            "type": "bridge",
            "bridge": f"br{subnet}",
            "ipam": self.ipam(subnet),
            **more,
        }

    def nad(self, name: str, config: dict[str, Any] | str, **annotations: str) -> None:
        """Put a network into the store."""
        text = config if isinstance(config, str) else json.dumps(config)
        self.write(
            {
                "apiVersion": "k8s.cni.cncf.io/v1",
                "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": name, "namespace": "telco", "annotations": annotations},
                "spec": {"config": text},
            }
        )

    def write(self, document: dict[str, Any]) -> None:
        """Put any object into the store."""
        path = self.root / "objects" / f"{document['kind']}-{document['metadata']['name']}.json"
        path.write_text(json.dumps(document))

    def annotate(self, networks: Any = None, **more: str) -> None:
        """The pod, with its networks annotation."""
        annotations = dict(more)
        if networks is not None:
            text = networks if isinstance(networks, str) else json.dumps(networks)
            annotations["k8s.v1.cni.cncf.io/networks"] = text
        metadata = {"name": "p", "namespace": "telco", "annotations": annotations}
        self.write({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})

    def configuration(self) -> dict[str, Any]:
        """Our standard input."""
        return {
            "cniVersion": "1.1.0",
            "name": "node",
            "type": "meta-cni",
            "cniDir": str(self.root / "state"),
            "confDir": str(self.root / "conf"),
            "binDir": str(self.root / "bin"),
            "store": {"directory": str(self.root / "objects")},
            "kubeletDir": str(self.root / "kubelet"),
            "deviceInfoDir": str(self.root / "devinfo"),
            "logToStderr": False,
            "delegates": [self.bridge("default", 244, isDefaultGateway=True)],
            **self.settings,
        }

    def call(
        self, command: str, *, stdin: bytes | None = None, **variables: str
    ) -> tuple[dict[str, Any], int]:
        """One call of a runtime: the decoded answer and the exit code."""
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "sandbox",
            "CNI_NETNS": self.pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p",
            "CNI_PATH": ":".join(self.path),
            **variables,
        }
        given = json.dumps(self.configuration()).encode() if stdin is None else stdin
        answer, code = compose.serve(environment, given)
        return (json.loads(answer) if answer else {}), code

    def add(self, **variables: str) -> dict[str, Any]:
        """ADD that must succeed."""
        answer, code = self.call("ADD", **variables)
        assert code == 0, answer
        return answer

    def fail(self, command: str = "ADD", **variables: Any) -> dict[str, Any]:
        """A call that must fail; the error."""
        answer, code = self.call(command, **variables)
        assert code == 1, answer
        return answer

    def delete(self, **variables: str) -> None:
        """DEL that must succeed."""
        answer, code = self.call("DEL", **variables)
        assert code == 0, answer

    def status(self) -> list[dict[str, Any]]:
        """The pod's network-status."""
        from meta_cni.k8s.file_store import FileStore
        from meta_cni.k8s.store import Kind

        found = FileStore(self.root / "objects", self.root / "state" / "objects").get(Kind.POD, "telco", "p")
        status: list[dict[str, Any]] = json.loads(
            found["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
        )
        return status

    def script(self, name: str, text: str) -> Path:
        """A plugin of the test's own."""
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def traces(self) -> dict[str, Any]:
        """Everything an attachment may leave: links, addresses and routes of both sides, files."""
        kept = ("lock", "version", "pods_", "network-attachment-definitions_", "last_reserved_ip")
        files = {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.startswith(kept) and "objects" not in path.parts
        }
        bridges = {each.index for each in link.dump(self.host) if each.kind == "bridge"}
        return {
            "pod links": self.pod.links(),
            "pod routes": {str(each) for each in route.dump(self.pod.socket)},
            "host links": {each.name for each in link.dump(self.host) if each.index not in bridges},
            "files": files,
        }


@pytest.fixture
def node(tmp_path: Path, host: Socket, pod: PodNetns) -> Node:
    """A node without pods."""
    for name in ("objects", "conf", "bin"):
        (tmp_path / name).mkdir()
    made = Node(tmp_path, host, pod)
    made.annotate()
    return made


@pytest.fixture
def reference() -> Callable[[str], str]:
    """The path of a reference plugin; the test skips by its name where it is missing."""

    def find(name: str) -> str:
        found = shutil.which(name, path=":".join(REFERENCE))
        if found is None:
            pytest.skip(f"no reference plugin {name}")
        return found

    return find
