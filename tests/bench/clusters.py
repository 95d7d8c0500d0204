"""
What a large cluster costs a daemon: memory of what it keeps of it, and the time until it is ready.

It runs on the real API server where that was built, else on the tests' own. Every figure is of a
daemon that was started for it; that of an empty cluster is taken in turns with the others.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from meta_cni.k8s.access import of_kubeconfig
from meta_cni.k8s.api_store import ApiStore, Server
from meta_cni.k8s.store import Kind
from tests.bench import node
from tests.bench.contestants import START_S, TOP, Process
from tests.bench.measures import Bench, median
from tests.guest.cache import Missing
from tests.k8s import assets
from tests.k8s.cluster import Cluster, free_ports
from tests.k8s.stand_in import StandIn

NETWORKS, PODS = 5000, 500
NAMESPACES = [f"tenant-{n}" for n in range(50)]
CALLERS = 8
SETTLE_S = 2.0
"""For what goes on after a daemon is ready."""
POLL_S = 0.005
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@contextmanager
def serving(directory: Path) -> Iterator[tuple[str, Path]]:
    """What the API server is, and a kubeconfig for it."""
    path = directory / "kubeconfig"
    try:
        found = assets.find()
    except Missing:
        with StandIn() as stand_in:
            yield "the tests' own API server", stand_in.write_kubeconfig(path)
        return
    with Cluster(found, directory) as cluster:
        cluster.apply([TOP / "crds" / "net-attach-def.yaml"])
        kind = {"apiVersion": "v1", "kind": "Namespace"}
        cluster.create(*({**kind, "metadata": {"name": each}} for each in NAMESPACES))
        told = subprocess.run([found.api_server, "--version"], capture_output=True, text=True, check=True)
        yield f"kube-apiserver {told.stdout.split()[-1]}", cluster.write_kubeconfig(path)


def measured(bench: Bench) -> dict[str, Any]:
    """Megabytes and milliseconds: an empty cluster, pods on the node, and networks."""
    directory = bench.directory / "cluster"
    directory.mkdir()
    counts = {"networks": bench.rounds(500, NETWORKS), "pods": bench.rounds(50, PODS)}
    samples: dict[str, list[dict[str, float]]] = defaultdict(list)
    rounds = range(bench.rounds(1, 5))
    with serving(directory) as (name, kubeconfig):
        store = ApiStore(Server(of_kubeconfig(kubeconfig)))
        fill(store, Kind.POD, map(pod, range(counts["pods"])))
        started(directory, kubeconfig, "elsewhere", 0, 0)  # what is read from the disk once
        for _ in rounds:
            samples["empty"].append(started(directory, kubeconfig, "elsewhere", 0, 0))
            samples["pods"].append(started(directory, kubeconfig, "here", counts["pods"], 0))
        fill(store, Kind.NETWORK_ATTACHMENT_DEFINITION, map(network, range(counts["networks"])))
        for _ in rounds:
            samples["networks"].append(started(directory, kubeconfig, "elsewhere", 0, counts["networks"]))
    found = {
        state: {key: median(each[key] for each in taken) for key in taken[0]}
        for state, taken in samples.items()
    }
    return {"server": name, **counts, "found": found}


def fill(store: ApiStore, kind: Kind, documents: Iterable[dict[str, Any]]) -> None:
    """Create them all."""
    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in pool.map(partial(store.create, kind), documents):
            pass


def network(number: int) -> dict[str, Any]:
    """One that somebody has applied by kubectl."""
    namespace = NAMESPACES[number % len(NAMESPACES)]
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": f"10.{number % 250}.0.0/16", "rangeStart": f"10.{number % 250}.1.10"}]],
        "routes": [{"dst": "192.168.0.0/16", "gw": f"10.{number % 250}.0.1"}],
    }
    plugins = [
        {"type": "macvlan", "master": "eth1", "mode": "bridge", "mtu": 9000, "ipam": ipam},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}, "promisc": False},
    ]
    name = f"net-{number}"
    made = node.definition(name, namespace, {"cniVersion": "1.0.0", "name": name, "plugins": plugins})
    del made["metadata"]["uid"]
    made["metadata"]["annotations"] = {LAST_APPLIED: json.dumps(made)}
    return made


def pod(number: int) -> dict[str, Any]:
    """One of a workload, on the node that is called here."""
    variables = [{"name": f"SETTING_{n}", "value": f"value of setting {n}"} for n in range(20)]
    labels = {"app.kubernetes.io/name": "workload", "app.kubernetes.io/instance": f"workload-{number}"}
    containers = [
        {"name": name, "image": f"registry.example/{name}:1.0", "env": variables}
        for name in ("app", "sidecar")
    ]
    metadata = {
        "name": f"workload-{number}",
        "namespace": NAMESPACES[number % len(NAMESPACES)],
        "labels": labels,
        "annotations": {node.NETWORKS: "net-1,net-2", "prometheus.io/scrape": "true"},
    }
    spec = {"nodeName": "here", "containers": containers, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def started(directory: Path, kubeconfig: Path, name: str, pods: int, networks: int) -> dict[str, float]:
    """A daemon on the node of this name: when it is ready, and what it has in memory; it knows so many."""
    (port,) = free_ports(1)
    command = daemon(directory, kubeconfig, port)
    began = time.monotonic()
    process = Process(command, directory / "daemon.log", NODE_NAME=name)
    try:
        while page(port, "/readyz")[0] != 200:
            if time.monotonic() - began > START_S:
                raise SystemExit(f"not ready: {page(port, '/readyz')[1]}")
            time.sleep(POLL_S)
        ready_ms = (time.monotonic() - began) * 1000
        known = kept(page(port, "/metrics")[1])
        if known != {"pods": pods, "network-attachment-definitions": networks}:
            raise SystemExit(f"the daemon is ready and knows {known}: expected {pods} and {networks}")
        time.sleep(SETTLE_S)
        return {"ready_ms": ready_ms, "mb": process.resident_mb()}
    finally:
        process.close()


def daemon(directory: Path, kubeconfig: Path, port: int) -> list[str]:
    """Its command, with a configuration of its own that names the cluster."""
    primary = directory / "net.d" / "10-primary.conflist"
    if not primary.exists():
        primary.parent.mkdir()
        primary.write_text(json.dumps({"cniVersion": "1.0.0", "name": "p", "plugins": [{"type": "ptp"}]}))
        options = {
            "cniConfigDir": str(primary.parent),
            "multusAutoconfigDir": str(primary.parent),
            "cniDir": str(directory / "state"),
            "kubeconfig": str(kubeconfig),
        }
        (directory / "daemon.json").write_text(json.dumps(options))
        (directory / "run").mkdir(mode=0o700)
    places = ["--socket", str(directory / "run" / "s"), "--spool", str(directory / "spool")]
    told = ["--http", f"127.0.0.1:{port}", "--config", str(directory / "daemon.json")]
    return [sys.executable, "-m", "meta_cni", "daemon", *places, *told]


def page(port: int, path: str) -> tuple[int, str]:
    """Status and text; 0 as long as nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, os.strerror(error.errno or 0)
    finally:
        connection.close()


def kept(metrics: str) -> dict[str, int]:
    """How many objects there are of each resource, by /metrics."""
    start = 'meta_cni_informer_objects{resource="'
    lines = [line.removeprefix(start) for line in metrics.splitlines() if line.startswith(start)]
    return {resource: int(float(value)) for resource, _, value in (line.partition('"} ') for line in lines)}
