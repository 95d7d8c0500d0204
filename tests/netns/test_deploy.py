"""
The DaemonSet on a node: its containers as the manifest says, the runtime's shim outside of them.

There is no kubelet here: tests/deploy/container.py mounts what the manifest mounts, and nothing
else. The node is a directory that looks like this machine's /, without anything of CNI.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from meta_cni.k8s.store import Kind
from meta_cni.linux.netlink import Socket
from tests.deploy import manifests
from tests.deploy.container import Container, below, mount, overlay
from tests.deploy.manifests import DEPLOY, TOP, Object, Pod
from tests.deploy.test_manifests import MULTUS_DAEMON_CONFIG
from tests.k8s.stand_in import StandIn
from tests.netns.conftest import PodNetns
from tests.netns.daemons import until

pytestmark = pytest.mark.slow
NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NODE_NAME = "node-1"
ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"  # /var/run leads to /run
PRIMARY = {
    "cniVersion": "1.0.0",
    "name": "cbr0",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cbr0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.3.0/24"}]]},
        },
        {"type": "tells", "capabilities": {"portMappings": True}},
    ],
}
TELLS = """#!/bin/sh
echo "$CNI_COMMAND $CNI_IFNAME $(readlink /proc/self/ns/pid) $(cat /etc/cni/node-name)" >> /run/diary
[ "$CNI_COMMAND" = ADD ] || exit 0
sed 's/.*"prevResult"://; s/}$//'
"""
"""An executed plugin in the middle of a list; it needs the node's files, and sees its own process."""


class DeployedNode:
    """A node, and the containers of the DaemonSet's pod on it."""

    def __init__(self, scratch: Path, pod: Pod) -> None:
        self.scratch = scratch
        self.pod = pod
        (scratch / "node").mkdir()
        self.root = overlay(scratch / "node")
        mount("--make-rshared", scratch / "node")
        self.containers = 0
        """How many there were."""
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = scratch / "daemon.log"
        self.environment: dict[str, str] = {}
        """What the kubelet sets beside the manifest's."""
        self.beside: dict[str, str] = {}
        """What it mounts beside the manifest's: target -> source."""

    def path(self, name: str) -> Path:
        """A path of the node."""
        return below(self.root, name)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """A file of the node."""
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)
        self.path(name).chmod(mode)

    def container(self, described: Object) -> Container:
        """As the kubelet would have it made."""
        self.containers += 1
        scratch = self.scratch / f"{described['name']}-{self.containers}"
        config = scratch / "config"
        config.mkdir(parents=True)
        for name, text in self.pod.data.items():
            (config / name).write_text(text)
        mounts = []
        for each in self.pod.mounts(described):
            source = self.path(each.source) if each.source else config
            source.mkdir(parents=True, exist_ok=True)  # DirectoryOrCreate
            mounts.append({**asdict(each), "source": str(source)})
        for target, source in self.beside.items():
            mounts.append({"source": source, "target": target, "is_read_only": True, "is_propagated": False})
        root = scratch / "root"
        root.mkdir()
        program = str(Path(sys.executable).parent / "meta-cni")
        return Container(
            scratch=str(root),
            command=[*capabilities(described["securityContext"]), program, *described["args"]],
            environment={"PATH": os.environ["PATH"], **fields(described), **self.environment},
            mounts=mounts,
            copied={str(TOP / "meta_cni/shim/shim"): str(self.scratch / "shim")},
            kept=[str(TOP), sys.base_prefix],
            is_read_only=described["securityContext"]["readOnlyRootFilesystem"],
        )

    def install(self) -> str:
        """The init container, to its end."""
        return self.container(self.pod.install).run()

    def start(self) -> None:
        """The daemon's container, until it is ready."""
        with self.log.open("ab") as log:
            made = self.container(self.pod.daemon)
            self.daemon = made.launched(stdout=log, stderr=log)
        until(lambda: self.is_probed("readiness") or self.running.poll() is not None)
        assert self.running.poll() is None, self.log.read_text()

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        """The daemon, which was started."""
        assert self.daemon is not None
        return self.daemon

    def is_probed(self, name: str) -> bool:
        """What the kubelet makes of a probe, from the node's network namespace."""
        asked = self.pod.daemon[f"{name}Probe"]["httpGet"]
        url = f"http://{asked['host']}:{asked['port']}{asked['path']}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(200 <= answer.status < 400)
        return False

    def stop(self) -> int:
        """SIGTERM, as the kubelet sends it; the exit code."""
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(self.pod.spec["terminationGracePeriodSeconds"])

    def configuration(self) -> tuple[str, dict[str, Any]]:
        """What the runtime takes: the first by name; and its plugin."""
        path = min(self.path("/etc/cni/net.d").glob("*.conf*"))
        found = json.loads(path.read_text())
        plugin = found["plugins"][0] if "plugins" in found else found
        return path.name, {"cniVersion": found["cniVersion"], "name": found["name"], **plugin}

    def join(self, stand_in: StandIn) -> None:
        """Be a node of a cluster, as the kubelet tells a container: its API server and its account."""
        assert stand_in.authority is not None
        account = self.scratch / "account"
        account.mkdir()
        (account / "token").write_text(next(iter(stand_in.tokens)))
        (account / "ca.crt").write_text(stand_in.authority.certificate)
        self.beside[ACCOUNT] = str(account)
        address = urlsplit(stand_in.url)
        self.environment["KUBERNETES_SERVICE_HOST"] = str(address.hostname)
        self.environment["KUBERNETES_SERVICE_PORT"] = str(address.port)

    def call(
        self,
        verb: str,
        pod: PodNetns,
        container_id: str = "c1",
        given: dict[str, Any] | None = None,
        args: str = "",
    ) -> dict[str, Any]:
        """As the runtime does, on the node: the plugin of its configuration, under that name."""
        given = given or self.configuration()[1]
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": f"/var/run/netns/{Path(pod.path).name}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
            "PATH": "/usr/bin:/bin",
        }
        done = subprocess.run(
            ["/usr/sbin/chroot", self.root, f"/opt/cni/bin/{given['type']}"],
            input=json.dumps(given).encode(),
            env=environment,
            capture_output=True,
        )
        assert 0 == done.returncode, (done.stdout, self.log.read_text())
        return dict(json.loads(done.stdout)) if done.stdout else {}

    def sandbox(self, name: str) -> PodNetns:
        """A pod's namespace, in the node's /run/netns."""
        return PodNetns(name, directory=str(self.path("/run/netns")))

    def close(self) -> None:
        """Whatever happened."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        subprocess.run(["umount", "-l", self.scratch / "node"], check=True)


def fields(described: Object) -> dict[str, str]:
    """The environment that the manifest takes from the pod itself."""
    known = {"spec.nodeName": NODE_NAME}
    return {
        each["name"]: known[each["valueFrom"]["fieldRef"]["fieldPath"]] for each in described.get("env", ())
    }


def capabilities(context: Object) -> list[str]:
    """What starts a program with no more of them than the manifest says."""
    if context.get("privileged"):
        return []
    assert ["ALL"] == context["capabilities"]["drop"]
    kept = "".join(f",+{each.lower()}" for each in context["capabilities"].get("add", ()))
    return ["setpriv", f"--bounding-set=-all{kept}", f"--inh-caps=-all{kept}"]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, static, as the image has it."""
    if shutil.which("cc") is None:
        pytest.skip("no cc")
    made = tmp_path_factory.mktemp("shim") / "shim"
    source = TOP / "meta_cni" / "shim" / "shim.c"
    subprocess.run(["cc", "-Os", "-s", "-static", "-o", made, source], check=True)
    return made


@pytest.fixture
def deployed(tmp_path: Path, compiled: Path) -> Iterator[Callable[[Pod], DeployedNode]]:
    """A node with a primary network, on which nothing of ours is yet."""
    with ExitStack() as stack:

        def make(pod: Pod) -> DeployedNode:
            node = DeployedNode(tmp_path, pod)
            stack.callback(node.close)
            shutil.copy(compiled, tmp_path / "shim")
            node.write("/etc/cni/net.d/10-cbr0.conflist", json.dumps(PRIMARY))
            node.write("/etc/cni/node-name", "node-1")
            node.write("/opt/cni/bin/tells", TELLS, 0o755)
            return node

        yield make


def files(node: DeployedNode) -> set[str]:
    """What is kept of pods: ledger, addresses, spool."""
    return {
        str(path.relative_to(node.root))
        for place in ("/var/lib/cni", "/var/lib/meta-cni/spool")
        for path in node.path(place).rglob("*")
        if path.is_file() and not path.name.startswith(("lock", "last_reserved_ip"))
    }


def test_the_daemonset_serves_a_node(deployed: Callable[[Pod], DeployedNode], host: Socket):
    """From a node that has a primary network to a pod's ADD and DEL, by the manifest's mounts alone."""
    node = deployed(manifests.pod_of(manifests.rendered(DEPLOY)))

    assert "/opt/cni/bin/meta-cni installed" in node.install()
    node.start()
    until(lambda: node.configuration()[0] == "00-meta-cni.conflist")
    pod = node.sandbox("after-the-daemon")
    added = node.call("ADD", pod)
    links = pod.links()
    node.call("CHECK", pod)
    node.call("DEL", pod)
    left = pod.links()
    assert 0 == node.stop()

    assert ["eth0"] == links
    assert [] == left
    assert ["10.244.3.2/24"] == [each["address"] for each in added["ips"]]
    assert set() == files(node)
    own = os.readlink("/proc/self/ns/pid")
    told = node.path("/run/diary").read_text().splitlines()
    assert [f"{verb} eth0 {own} node-1" for verb in ("ADD", "CHECK", "DEL")] == told
    pod.close()


NETWORK = {
    "cniVersion": "1.0.0",
    "type": "bridge",
    "bridge": "br1",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]},
}


def test_a_pod_of_the_cluster_gets_its_networks(deployed: Callable[[Pod], DeployedNode], host: Socket):
    """By the manifest alone: the container's account, the API server's certificate, status and events."""
    with StandIn(is_tls=True) as stand_in:
        node = deployed(manifests.pod_of(manifests.rendered(DEPLOY)))
        node.join(stand_in)
        network = {"metadata": {"name": "media", "namespace": "telco"}}
        stand_in.put(NAD, {**network, "spec": {"config": json.dumps(NETWORK)}})
        annotations = {"k8s.v1.cni.cncf.io/networks": "media"}
        metadata = {"name": "p", "namespace": "telco", "annotations": annotations}
        made = stand_in.put(Kind.POD, {"metadata": metadata, "spec": {"nodeName": NODE_NAME}})
        args = f"K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID={made['metadata']['uid']}"

        node.install()
        node.start()
        until(lambda: node.configuration()[0] == "00-meta-cni.conflist")
        pod = node.sandbox("p")
        node.call("ADD", pod, args=args)
        links = pod.links()
        known = stand_in.objects.known
        until(lambda: sum(key[0] == "events" for key in list(known)) == 2)
        node.call("DEL", pod, args=args)
        assert 0 == node.stop()

    assert ["eth0", "net1"] == links
    status = json.loads(
        known["pods", "telco", "p"]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
    )
    assert [("cbr0", "eth0"), ("telco/media", "net1")] == [
        (each["name"], each["interface"]) for each in status
    ]
    events = [known[key] for key in sorted(known) if key[0] == "events"]
    assert [
        "Add eth0 [10.244.3.2/24] from cbr0",
        "Add net1 [10.1.0.2/24] from telco/media",
    ] == [each["message"] for each in events]
    assert {NODE_NAME} == {each["source"]["host"] for each in events}
    assert set() == files(node)
    pod.close()


def test_an_update_finishes_what_was_begun_and_loses_no_del(
    deployed: Callable[[Pod], DeployedNode], host: Socket
):
    """The next daemon serves the pods of the one before; a DEL in between waits in the spool."""
    node = deployed(manifests.pod_of(manifests.rendered(DEPLOY)))
    node.install()
    node.start()
    until(lambda: node.configuration()[0] == "00-meta-cni.conflist")
    first, second = node.sandbox("first"), node.sandbox("second")
    for pod in (first, second):
        node.call("ADD", pod, Path(pod.path).name)

    assert 0 == node.stop()
    node.call("DEL", first, "first")
    waiting = first.links()
    assert "up to date" in node.install()
    node.start()
    until(lambda: not first.links())
    node.call("DEL", second, "second")

    assert ["eth0"] == waiting
    assert [] == second.links()
    assert set() == files(node)
    assert 0 == node.stop()
    for pod in (first, second):
        pod.close()


def test_a_node_of_multus_is_taken_over_with_its_own_files(
    deployed: Callable[[Pod], DeployedNode], host: Socket
):
    """Its ConfigMap, its shim's name in the runtime's directory, its form of the result."""
    file = {"daemon-config.json": json.dumps(MULTUS_DAEMON_CONFIG)}
    pod = manifests.pod_of(manifests.rendered(DEPLOY / "multus"), **{"multus-daemon-config": file})
    node = deployed(pod)
    primary = {**PRIMARY, "cniVersion": "0.3.1"}
    node.write("/etc/cni/net.d/10-cbr0.conflist", json.dumps(primary))
    theirs = {"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim"}
    theirs["clusterNetwork"] = "/host/etc/cni/net.d/10-cbr0.conflist"
    node.write("/etc/cni/net.d/00-multus.conf", json.dumps(theirs))
    node.write("/opt/cni/bin/multus-shim", "#!/bin/sh\nexit 1\n", 0o755)

    node.install()
    node.start()
    sandbox = node.sandbox("pod")
    by_theirs = node.call("ADD", sandbox, given=theirs)
    node.call("DEL", sandbox, given=theirs)
    until(lambda: node.configuration()[0] == "00-meta-cni.conf")
    by_ours = node.call("ADD", sandbox)
    node.call("DEL", sandbox)
    assert 0 == node.stop()

    assert "multus" == node.configuration()[1]["type"]
    assert ["0.3.1", "0.3.1"] == [each["cniVersion"] for each in (by_theirs, by_ours)]
    assert ["10.244.3.2/24", "10.244.3.3/24"] == [each["ips"][0]["address"] for each in (by_theirs, by_ours)]
    assert set() == files(node)
    sandbox.close()


def test_a_node_is_left_as_it_was_before(deployed: Callable[[Pod], DeployedNode], host: Socket):
    """deploy/uninstall/: programs and configurations, those of somebody else by the shim's name too."""
    node = deployed(manifests.pod_of(manifests.rendered(DEPLOY)))
    node.write("/opt/cni/bin/meta-cni", "#!/bin/sh\nexit 3\n", 0o700)
    for name in ("opt/cni/bin", "opt/cni/bin/meta-cni", "etc/cni/net.d"):  # as kubespray has them
        os.chown(node.path(f"/{name}"), 65534, 65534)
    before = traces(node)
    node.install()
    node.start()
    until(lambda: node.configuration()[0] == "00-meta-cni.conflist")
    installed = traces(node)
    assert 0 == node.stop()

    node.pod = manifests.pod_of(manifests.rendered(DEPLOY / "uninstall"))
    told = node.install()

    assert before != installed
    assert before == traces(node)
    assert "/opt/cni/bin/meta-cni is what it was before" in told
    assert "" == node.install()  # the next time there is nothing to do


def traces(node: DeployedNode) -> dict[str, tuple[bytes, int, int, int]]:
    """Programs and configurations of the node, with mode and owner."""
    found = {}
    for place in ("/opt/cni/bin", "/etc/cni/net.d"):
        for path in node.path(place).rglob("*"):
            status = path.stat()
            found[str(path.relative_to(node.root))] = (
                path.read_bytes(),
                status.st_mode,
                status.st_uid,
                status.st_gid,
            )
    return found
