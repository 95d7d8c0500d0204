"""
The node that everybody is measured on: eight bridges, pods without anything in them, objects.

Every contestant gets the same pods and the same networks: a default network and seven that pods
select, each a bridge with host-local. Only the directories of their addresses are their own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meta_cni.linux import link, netns
from meta_cni.linux.netlink import Socket

SIZES = (1, 2, 4, 8)
"""Interfaces of a pod."""
USUAL = 4
MOST_PODS = 50
FEW = 10
OURS, THEIRS = "ours", "theirs"
"""Namespaces: everybody has the same pods and networks, and addresses of his own."""
NETWORKS = "k8s.v1.cni.cncf.io/networks"
BRIDGES = tuple(f"br{n}" for n in range(max(SIZES)))


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with so many interfaces; its namespace is there all the time."""

    size: int
    number: int

    @property
    def name(self) -> str:
        """Its name in the API."""
        return f"p{self.size}-{self.number}"

    @property
    def netns(self) -> str:
        """The path of its namespace; pods of another size use it at other times."""
        return f"/run/netns/pod{self.number}"

    def object(self, namespace: str) -> dict[str, Any]:
        """As the API server has it."""
        selected = ",".join(f"net{n}" for n in range(1, self.size))
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "uid": self.uid,
                "annotations": {NETWORKS: selected} if selected else {},
            },
            "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "i"}]},
            "status": {},
        }

    @property
    def uid(self) -> str:
        """Its UID."""
        return f"00000000-0000-4000-8000-{self.size:04x}{self.number:08x}"


PODS = tuple(Pod(size, number) for size in SIZES for number in range(MOST_PODS if size == USUAL else FEW))


def build() -> None:
    """Bridges and namespaces; the process is in a private namespace already."""
    with Socket.open_host() as host:
        host.request([link.create_bridge(each) for each in BRIDGES])
        ups = [link.set_link(link.require(host, each, "bridge").index, is_up=True) for each in BRIDGES]
        host.request(ups)
    for path in sorted({each.netns for each in PODS}):
        netns.create(path)


def network(n: int, directory: Path, plugin_type: str = "bridge") -> dict[str, Any]:
    """The configuration of the n-th network; that of the default one is the first."""
    ipam = {"type": "host-local", "subnet": f"10.{100 + n}.0.0/16", "dataDir": str(directory)}
    own: dict[str, Any] = {"cniVersion": "1.0.0", "name": f"net{n}", "type": plugin_type, "bridge": f"br{n}"}
    return {**own, "ipam": ipam, **({} if n else {"isDefaultGateway": True})}


def definition(name: str, namespace: str, config: dict[str, Any]) -> dict[str, Any]:
    """A NetworkAttachmentDefinition."""
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}"},
        "spec": {"config": json.dumps(config)},
    }


def objects(directory: Path) -> list[dict[str, Any]]:
    """All pods and networks; addresses are kept in <directory>/<namespace>."""
    made = []
    for namespace in (OURS, THEIRS):
        made += [each.object(namespace) for each in PODS]
        for n in range(1, max(SIZES)):
            made.append(definition(f"net{n}", namespace, network(n, directory / namespace)))
    return made


def variables(verb: str, pod: Pod, container: str, path: str, namespace: str) -> dict[str, str]:
    """What a runtime sets."""
    arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod.name}"
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": pod.netns,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"{arguments};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={pod.uid}",
        "CNI_PATH": path,
    }
