"""`meta-cni` and `kubectl netattach` against a cluster."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cli import command_line, kubectl_plugin
from meta_cni.k8s.store import Kind
from tests.k8s.stand_in import StandIn

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
BRIDGE = {
    "cniVersion": "1.0.0",
    "type": "bridge",
    "bridge": "br1",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]},
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """A command on a machine that is no node: its exit code, what it printed, and what it complained of."""
    monkeypatch.setenv("KUBECONFIG", str(stand_in.write_kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.setattr("meta_cni.cli.CONFIG_DIRECTORY", str(tmp_path / "net.d"))

    def call(*arguments: str, program: Callable[[list[str]], int] = command_line) -> tuple[int, str, str]:
        code = program(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def network(stand_in: StandIn, name: str, config: dict[str, Any] | str, namespace: str = "telco") -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    stand_in.put(NAD, {"metadata": {"name": name, "namespace": namespace}, "spec": {"config": text}})


def pod(
    stand_in: StandIn, name: str, node: str = "node-1", phase: str = "Running", **annotations: Any
) -> None:
    names = {"networks": NETWORKS, "status": STATUS}
    told = {
        names[key]: text if isinstance(text, str) else json.dumps(text) for key, text in annotations.items()
    }
    metadata = {"name": name, "namespace": "telco", "annotations": told}
    stand_in.put(Kind.POD, {"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase}})


def test_a_plan_of_a_pod_of_the_cluster(run: Run, stand_in: StandIn):
    """What is known here, and what is not."""
    network(stand_in, "media", BRIDGE)
    network(stand_in, "fast", {"cniVersion": "1.0.0", "type": "ovs"})
    pod(stand_in, "media-a", networks="media,fast@fast0")

    code, printed, complained = run("plan", "media-a", "-n", "telco")

    assert (0, "") == (code, complained)
    assert [
        "pod telco/media-a on node-1",
        "  1. net1  network telco/media  (at most 60 s)",
        "       bridge: built in (every key is built in); addresses: host-local 10.1.0.0/24 in "
        "/var/lib/cni/networks/media",
        "  2. fast0  network telco/fast  (at most 60 s)",
        "       ovs: executed, ovs (type ovs is not built in); addresses: no addresses (layer 2)",
    ] == printed.splitlines()[:5]
    notes = [each for each in printed.splitlines() if "note: " in each]
    assert ["  note: programs and devices are those of node node-1"] == notes[:1]
    assert "the default network and the policy are not known here" in notes[1]


def test_a_plan_by_the_nodes_own_configuration(run: Run, stand_in: StandIn, tmp_path: Path):
    """With the file of a node the default network is there, and its policy counts."""
    network(stand_in, "media", BRIDGE)
    pod(stand_in, "media-a", networks="media")
    plugin = {"type": "meta-cni", "delegates": [{**BRIDGE, "name": "cbr0", "bridge": "cbr0"}]}
    config = tmp_path / "00-meta-cni.conflist"
    config.write_text(json.dumps({"cniVersion": "1.0.0", "name": "n", "plugins": [plugin]}))

    code, printed, _ = run("plan", "media-a", "-n", "telco", "--config", str(config), "-o", "json")
    plan = json.loads(printed)
    plugin["namespaceIsolation"] = True  # type: ignore[assignment]
    config.write_text(json.dumps({"cniVersion": "1.0.0", "name": "n", "plugins": [plugin]}))
    network(stand_in, "theirs", BRIDGE, "others")
    pod(stand_in, "media-b", networks="others/theirs")
    refused = run("plan", "media-b", "-n", "telco", "--config", str(config))

    assert 0 == code
    assert [("eth0", "cbr0"), ("net1", "telco/media")] == [
        (each["interface"], each["network"]) for each in plan["steps"]
    ]
    assert ("telco/media-a", "node-1") == (plan["pod"], plan["node"])
    assert ["programs and devices are those of node node-1"] == plan["notes"]
    assert 1 == refused[0]
    assert "namespaceIsolation is on" in refused[2]


def test_on_the_pod_s_own_node_programs_are_looked_for(
    run: Run, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
):
    """As in the daemon's own container: what an ADD would not find is told."""
    network(stand_in, "fast", {"cniVersion": "1.0.0", "type": "no-such-plugin"})
    pod(stand_in, "media-a", networks="fast")
    monkeypatch.setenv("NODE_NAME", "node-1")

    code, _, complained = run("plan", "media-a", "-n", "telco")

    assert 1 == code
    assert "find plugin 'no-such-plugin': expected it in" in complained


def test_a_plan_names_what_is_missing(run: Run, stand_in: StandIn):
    """The pod itself; a network of it; a cluster."""
    pod(stand_in, "media-a", networks="media,other")

    no_pod = run("plan", "media-b", "-n", "telco")
    no_network = run("plan", "media-a", "-n", "telco")

    assert 1 == no_pod[0]
    assert "Pod telco/media-b" in no_pod[2]
    assert 1 == no_network[0]
    assert ["media", "other"] == [
        line.rpartition("NetworkAttachmentDefinition ")[2].split()[0] for line in no_network[2].splitlines()
    ]


def test_no_cluster_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What would be right is said."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    monkeypatch.setenv("HOME", str(tmp_path))

    code, _, complained = run("validate", "--live")

    assert 1 == code
    assert "meta-cni: no cluster: expected --kubeconfig FILE, KUBECONFIG, or ~/.kube/config\n" == complained


def test_kubeconfig_may_name_several_files(
    run: Run, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As for kubectl: those that are there are one."""
    pod(stand_in, "media-a", networks="")
    mine = "{name: mine, context: {cluster: here, user: us, namespace: telco}}"
    (tmp_path / "context").write_text(f"current-context: mine\ncontexts: [{mine}]")
    whole = stand_in.write_kubeconfig(tmp_path / "whole")
    named = (tmp_path / "gone", tmp_path / "context", whole)
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, named)))

    code, printed, complained = run("plan", "media-a", "--live")

    assert (0, "") == (code, complained)
    assert printed.startswith("pod telco/media-a on node-1\n")


def test_the_context_s_namespace_counts(run: Run, stand_in: StandIn, tmp_path: Path):
    """As it does for kubectl; --kubeconfig wins over KUBECONFIG."""
    pod(stand_in, "media-a", networks="")
    kubeconfig = stand_in.write_kubeconfig(tmp_path / "other")
    kubeconfig.write_text(
        kubeconfig.read_text().replace("cluster: here", "cluster: here\n    namespace: telco")
    )

    code, printed, complained = run("plan", "media-a", "--kubeconfig", str(kubeconfig))

    assert (0, "") == (code, complained)
    assert printed.startswith("pod telco/media-a on node-1\n")


def test_every_mistake_in_a_cluster(run: Run, stand_in: StandIn):
    """Networks, annotations, and names that lead nowhere; each with its object."""
    network(stand_in, "good", BRIDGE)
    network(stand_in, "bad", {**BRIDGE, "mtu": "big"})
    network(stand_in, "worse", "{")
    network(stand_in, "elsewhere", BRIDGE, "others")
    pod(stand_in, "a", networks="good,gone,others/elsewhere")
    pod(stand_in, "b", networks='[{"name": "good", "mac": "x"}]')
    pod(stand_in, "c")

    code, printed, complained = run("validate", "--live", "-n", "telco")

    assert 1 == code
    lines = printed.splitlines()
    assert 4 == len(lines), printed
    assert lines[0].startswith("NetworkAttachmentDefinition telco/bad: ")
    assert 'mtu "big": expected' in lines[0]
    assert (
        "NetworkAttachmentDefinition telco/worse: spec.config: '{': "
        "expected a CNI network configuration, a list or a single plugin's, as JSON text"
    ) == lines[1]
    assert (
        f"Pod telco/a: annotation {NETWORKS}[1]: network telco/gone: "
        "no NetworkAttachmentDefinition gone in namespace telco"
    ) == lines[2]
    assert lines[3].startswith(f'Pod telco/b: annotation {NETWORKS}[0]: mac "x": expected')
    assert "4 problems in 5 objects and files\n" == complained


def test_mistakes_as_json(run: Run, stand_in: StandIn, tmp_path: Path):
    """For programs; files and objects alike."""
    network(stand_in, "worse", "{")
    path = tmp_path / "bad.yaml"
    path.write_text("kind: [")

    code, printed, _ = run("validate", str(path), "--live", "-o", "json")

    assert 1 == code
    assert [str(path), "NetworkAttachmentDefinition telco/worse"] == [
        each["where"] for each in json.loads(printed)
    ]


def test_a_cluster_without_mistakes(run: Run, stand_in: StandIn):
    """Nothing is printed, and the exit code says so."""
    network(stand_in, "good", BRIDGE)
    pod(stand_in, "a", networks="good")

    assert (0, "", "0 problems in 2 objects and files\n") == run("validate", "--live")


def test_nothing_to_validate_is_a_mistake(run: Run):
    """Not a success."""
    code, _, complained = run("validate")

    assert (1, "meta-cni: validate: expected FILE..., or --live for what is in a cluster\n") == (
        code,
        complained,
    )


TOLD = [
    {
        "name": "cbr0",
        "interface": "eth0",
        "mac": "02:00:00:00:00:01",
        "ips": ["10.244.1.2/24"],
        "default": True,
    },
    {
        "name": "telco/fast",
        "interface": "net1",
        "ips": ["10.1.0.2/24", "fd00::2/64"],
        "device-info": {"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:01:00.2"}},
    },
]


def test_attachments_of_all_nodes(run: Run, stand_in: StandIn):
    """By node and pod; pods that have ended have none."""
    pod(stand_in, "b", "node-1", status=TOLD)
    pod(stand_in, "a", "node-2", status=TOLD[:1])
    pod(stand_in, "over", "node-1", "Succeeded", status=TOLD)
    pod(stand_in, "none", "node-1")

    code, printed, complained = run("attachments", "--all-nodes")

    assert (0, "") == (code, complained)
    assert [
        "NODE    POD      INTERFACE  NETWORK     MAC                ADDRESSES               DEFAULT  DEVICE",
        "node-1  telco/b  eth0       cbr0        02:00:00:00:00:01  10.244.1.2/24           yes",
        "node-1  telco/b  net1       telco/fast  -                  10.1.0.2/24 fd00::2/64"
        "           0000:01:00.2",
        "node-2  telco/a  eth0       cbr0        02:00:00:00:00:01  10.244.1.2/24           yes",
    ] == [line.rstrip() for line in printed.splitlines()]


def test_attachments_as_json_and_of_a_namespace(run: Run, stand_in: StandIn):
    """Nothing is lost."""
    pod(stand_in, "b", status=TOLD)

    _, printed, _ = run("attachments", "-n", "telco", "-o", "json")
    nothing = run("attachments", "-n", "others", "-o", "json")

    first, second = json.loads(printed)
    assert ("node-1", "telco/b", "eth0", True) == tuple(
        first[key] for key in ("node", "pod", "interface", "isDefault")
    )
    assert (["10.1.0.2/24", "fd00::2/64"], "0000:01:00.2") == (second["addresses"], second["device"])
    assert (0, "[]\n", "") == nothing


def test_a_status_that_cannot_be_read_is_named(run: Run, stand_in: StandIn):
    """And hides no other."""
    pod(stand_in, "a", status="{")
    pod(stand_in, "b", status=TOLD)
    pod(stand_in, "c", status='{"name": "x"}')

    code, printed, complained = run("attachments", "--all-nodes")

    assert 1 == code
    assert 3 == len(printed.splitlines())
    assert [f"meta-cni: pod telco/{each}: annotation {STATUS}" for each in "ac"] == [
        line.partition(": annotation")[0] + f": annotation {STATUS}" for line in complained.splitlines()
    ]


def test_a_picture_is_of_one_node(run: Run):
    """There is none of a cluster."""
    code, _, complained = run("attachments", "--all-nodes", "-o", "svg")

    assert 1 == code
    assert "leave out --all-nodes" in complained


def test_an_api_server_that_forbids_is_named(run: Run, stand_in: StandIn):
    """With the verb and the resource that the role lacks."""
    stand_in.forbidden.add(("list", "pods"))

    code, _, complained = run("attachments", "--all-nodes")

    assert 1 == code
    assert "list pods" in complained


def test_kubectl_has_all_three(run: Run, stand_in: StandIn):
    """`kubectl netattach plan|validate|list`."""
    network(stand_in, "media", BRIDGE)
    pod(stand_in, "a", networks="media", status=TOLD)

    planned = run("plan", "a", "-n", "telco", program=kubectl_plugin)
    validated = run("validate", program=kubectl_plugin)
    listed = run("list", "-o", "json", program=kubectl_plugin)

    assert planned[1].startswith("pod telco/a on node-1\n")
    assert (0, "", "0 problems in 2 objects and files\n") == validated
    assert 2 == len(json.loads(listed[1]))


@pytest.mark.slow
def test_kubectl_finds_the_plugin_by_its_name(stand_in: StandIn, tmp_path: Path):
    """Whatever is called kubectl-netattach on the PATH."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    pod(stand_in, "a", status=TOLD)
    kubeconfig = stand_in.write_kubeconfig(tmp_path / "kubeconfig")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(kubeconfig),
    }

    done = subprocess.run(
        [kubectl, "netattach", "list", "-n", "telco"], env=environment, capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stderr
    assert done.stdout.startswith("NODE    POD      INTERFACE")
