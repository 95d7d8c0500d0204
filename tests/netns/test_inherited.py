"""Pods that Multus attached before meta-cni took its place: their CHECK, DEL and GC, by Multus' records."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from meta_cni import cli
from meta_cni.linux import link
from tests.netns.beside_multus import find_multus
from tests.netns.conftest import REFERENCE, Node, PodNetns
from tests.netns.daemons import until
from tests.netns.predecessor import POD, Predecessor, encoded

FAILS = '[ "$CNI_COMMAND" = ADD ] && { echo "{\\"cniVersion\\": \\"1.0.0\\"}"; exit 0; }\n[ -e "$0.may" ]'
TELLS = '{ env | grep ^CNI_; cat; echo; } >>"$0.told"; echo "{\\"cniVersion\\": \\"1.0.0\\"}"'


@pytest.fixture
def multus(node: Node, reference: Callable[[str], str]) -> Predecessor:
    """What attached this node's pod; our own configuration has no network of it any more."""
    node.settings["delegates"] = [node.bridge("another", 99)]
    return Predecessor(node, reference)


def default(node: Node) -> dict[str, Any]:
    """A list of plugins."""
    plugins = [
        {"type": "bridge", "bridge": "br1", "isGateway": True, "ipam": node.ipam(1)},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.accept_local": "1"}},
    ]
    return {"cniVersion": "1.0.0", "name": "default", "plugins": plugins}


def second(node: Node, version: str = "0.3.1", name: str = "media") -> dict[str, Any]:
    """A single plugin's configuration."""
    own = {"type": "macvlan", "master": "br1", "mode": "bridge", "ipam": node.ipam(2)}
    return {"cniVersion": version, "name": name, **own}


def leases(node: Node) -> list[str]:
    """Addresses that are taken."""
    return sorted(each.name for each in (node.root / "ipam").rglob("10.*"))


def veths(node: Node) -> list[str]:
    """Host ends of pods, as the reference bridge names them."""
    return [each.name for each in link.dump(node.host) if each.name.startswith("veth")]


def test_a_del_undoes_what_multus_attached(node: Node, multus: Predecessor):
    """Links, addresses, and Multus' own records; a second DEL has nothing to do."""
    multus.attach(default(node), second(node, name="media"), media="m0")
    assert (["eth0", "m0"], ["10.1.0.2", "10.2.0.2"]) == (node.pod.links(), leases(node))

    node.delete()

    assert ([], [], []) == (node.pod.links(), leases(node), veths(node))
    assert [] == multus.files
    node.delete()


def test_a_del_of_a_pod_that_is_gone_undoes_it(node: Node, multus: Predecessor):
    """As containerd's second one: without a namespace, pod and arguments."""
    multus.attach(default(node), second(node))
    node.pod.close()

    node.delete(CNI_NETNS="", CNI_ARGS="")

    assert ([], []) == (leases(node), multus.files)
    until(lambda: not veths(node))  # the kernel takes a namespace apart in the end


def test_plugins_get_what_they_had_at_the_add(node: Node, multus: Predecessor):
    """In reverse order, with the same arguments and capability arguments, and the Result."""
    told = [node.script(name, TELLS.replace("$0", str(node.root / "both"))) for name in ("one", "two")]
    plugins = [{"type": each.name, "capabilities": {"mac": True}, "x": 1.50} for each in told]
    network = {"cniVersion": "1.0.0", "name": "both", "plugins": plugins}
    multus.write(default(node), network)
    multus.add(network, "net1", mac="02:00:00:00:00:01", ips=["10.2.0.9/24"])
    log = node.root / "both.told"
    log.unlink()

    node.delete(CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=another")

    documents = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert ["two", "one"] == [each["type"] for each in documents]
    assert all({"mac": "02:00:00:00:00:01"} == each["runtimeConfig"] for each in documents)
    assert [{"cniVersion": "1.0.0"}] * 2 == [each["prevResult"] for each in documents]
    assert 2 == log.read_text().count("CNI_ARGS=" + ";".join("=".join(each) for each in POD) + "\n")
    assert 2 == log.read_text().count("CNI_IFNAME=net1\n")
    assert [1.5, 1.5] == [each["x"] for each in documents]


def test_an_add_that_multus_did_not_finish_is_undone(node: Node, multus: Predecessor):
    """What it was about to attach has no Result; its plugin is asked all the same."""
    multus.write(default(node), second(node))
    multus.add(default(node), "eth0")
    left = node.root / "ipam" / "media" / "10.2.0.2"
    left.parent.mkdir()
    left.write_text("sandbox\r\nnet1")

    node.delete()

    assert ([], [], []) == (node.pod.links(), leases(node), multus.files)


def test_what_was_plugged_in_later_is_undone(node: Node, multus: Predecessor):
    """Multus itself forgets it: only libcni has a record."""
    multus.attach(default(node))
    multus.add(second(node), "extra0")

    node.delete()

    assert ([], [], []) == (node.pod.links(), leases(node), multus.files)


@pytest.mark.parametrize("text", ["", "[{", "{}", '["x"]', '[{"Bytes": 1}]'])
def test_records_that_were_cut_off_hinder_no_del(node: Node, multus: Predecessor, text: str):
    """Power was lost: what libcni wrote is enough."""
    multus.attach(default(node), second(node))
    (multus.directory / "sandbox").write_text(text)
    log = node.root / "log"
    node.settings |= {"logFile": str(log), "logLevel": "error"}

    node.delete()

    assert ([], [], []) == (node.pod.links(), leases(node), multus.files)
    assert "not as Multus writes it" in log.read_text()


@pytest.mark.parametrize("spoil", ["text", "kind", "config", "base64", "result"])
def test_a_result_that_is_none_is_passed_over(node: Node, multus: Predecessor, spoil: str):
    """What Multus wrote itself is enough for a DEL."""
    multus.attach(default(node), second(node))
    path = multus.directory / "results" / "media-sandbox-net1"
    spoilt = json.loads(path.read_text()) | {
        "text": {"ifName": 1},
        "kind": {"kind": "x"},
        "config": {"config": encoded({"name": "media"})},
        "base64": {"config": "?"},
        "result": {"result": {"ips": 1}},
    }.get(spoil, {})
    path.write_text(json.dumps(spoilt))

    node.delete()

    assert ([], []) == (node.pod.links(), leases(node))
    assert multus.files in ([], ["results/media-sandbox-net1"])


def test_what_cannot_be_undone_stays_recorded(node: Node, multus: Predecessor):
    """The rest is undone; the next DEL does what is left, and nothing else is said."""
    plugin = node.script("fails", FAILS)
    network = {"cniVersion": "1.0.0", "name": "failing", "type": "fails"}
    multus.attach(default(node), network)

    error = node.fail("DEL")

    assert "detach net1 from network failing" in error["msg"]
    assert ([], []) == (node.pod.links(), leases(node))
    assert ["results/failing-sandbox-net1", "sandbox"] == multus.files
    Path(f"{plugin}.may").touch()
    node.delete()
    assert [] == multus.files


def test_a_plugin_that_is_not_there_any_more_is_told(node: Node, multus: Predecessor):
    """Nothing is forgotten, nothing touched."""
    plugin = node.script("mine", 'echo "{\\"cniVersion\\": \\"1.0.0\\"}"')
    multus.attach(default(node), {"cniVersion": "1.0.0", "name": "mine", "type": "mine"})
    before = multus.files, node.pod.links()
    plugin.unlink()

    error = node.fail("DEL")

    assert f"find plugin 'mine': expected it in {node.root}/bin" in error["msg"]
    assert before == (multus.files, node.pod.links())


def test_a_record_that_cannot_be_removed_is_told(
    node: Node, multus: Predecessor, monkeypatch: pytest.MonkeyPatch
):
    """The next DEL is told of it again; what it undoes once more is gone already."""
    multus.attach(default(node))
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "results":
            raise OSError(30, os.strerror(30))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        error = node.fail("DEL")

    assert "default-sandbox-eth0: Read-only file system" in error["msg"]
    node.delete()
    assert [] == multus.files


@pytest.mark.parametrize("name", ["sandbox", "results", "results/default-sandbox-eth0"])
def test_records_that_cannot_be_read_are_told(node: Node, multus: Predecessor, name: str):
    """Nothing is taken for undone; the next DEL finds them again."""
    multus.attach(default(node))
    path, aside = multus.directory / name, node.root / "aside"
    path.rename(aside)
    path.symlink_to(path)

    error = node.fail("DEL")

    assert f"{path}: Too many levels of symbolic links" in error["msg"]
    assert ["eth0"] == node.pod.links()
    path.unlink()
    aside.rename(path)
    node.delete()
    assert ([], [], []) == (node.pod.links(), leases(node), multus.files)


def test_a_directory_shared_with_the_runtime(node: Node, multus: Predecessor):
    """Its own attachment there is Multus as a whole, which is us by now: neither executed nor removed."""
    multus.attach(default(node))
    own = {"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus"}
    path = multus.directory / "results" / "multus-cni-network-sandbox-eth0"
    path.write_text((multus.directory / "results" / "default-sandbox-eth0").read_text())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": encoded(own)}))

    node.delete()

    assert ([], []) == (node.pod.links(), leases(node))
    assert ["results/multus-cni-network-sandbox-eth0"] == multus.files


def test_check_asks_the_plugins_that_attached_it(node: Node, multus: Predecessor):
    """Good as it is, and told when it is not."""
    multus.attach(default(node), second(node, "1.0.0"))

    assert ({}, 0) == node.call("CHECK")
    node.pod.socket.request([link.delete("net1")])
    answer, code = node.call("CHECK")

    assert 1 == code
    assert "net1" in json.dumps(answer)
    assert ["results/default-sandbox-eth0", "results/media-sandbox-net1", "sandbox"] == multus.files


def test_gc_undoes_pods_whose_namespaces_are_gone(
    node: Node, multus: Predecessor, pods: Callable[[str], PodNetns]
):
    """Neither those that the runtime lists nor those that are there: it may list them by another network."""
    gone = pods("gone")
    for container, where in (("listed", gone), ("there", node.pod), ("lost", gone)):
        there = Predecessor(Node(node.root, node.host, where), multus.reference, container)
        config = default(node)
        config["plugins"] = config["plugins"][:1]
        if container == "lost":
            gone.socket.request([link.delete("eth0")])
        there.attach(config)
    gone.close()
    valid = [{"containerID": "listed", "ifname": "eth0"}]
    given = node.configuration() | {"cni.dev/valid-attachments": valid}

    answer, code = node.call("GC", stdin=json.dumps(given).encode())

    assert ({}, 0) == (answer, code)
    assert ["results/default-listed-eth0", "results/default-there-eth0"] == [
        each for each in multus.files if "/" in each
    ]
    assert 2 == len(leases(node))


class Runtime(Predecessor):
    """A runtime that attaches a pod by the default network's own configuration: its libcni has a record."""

    @property
    def directory(self) -> Path:
        """/var/lib/cni, as far as the test goes."""
        made = self.node.root / "runtime"
        made.mkdir(exist_ok=True)
        return made


@pytest.fixture
def runtime(multus: Predecessor, mocker: MockerFixture) -> Runtime:
    """The same node, before there was any meta plugin."""
    made = Runtime(multus.node, multus.reference)
    mocker.patch("meta_cni.engine.inherited.RUNTIME", str(made.directory))
    return made


def test_a_del_undoes_what_the_default_network_attached_before_us(node: Node, runtime: Runtime):
    """It comes by our configuration, and was answered with success: the address was nobody's for ever."""
    node.settings["delegates"] = [default(node)]
    runtime.add(default(node), "eth0")
    runtime.add(second(node), "eth1")  # another network of the runtime's, whose DEL is its own
    assert ["eth0", "eth1"] == node.pod.links()

    assert ({}, 0) == node.call("CHECK")
    node.delete()

    assert (["eth1"], ["10.2.0.2"]) == (node.pod.links(), leases(node))
    assert ["results/media-sandbox-eth1"] == runtime.files
    node.delete()


def test_what_the_default_network_cannot_undo_stays_in_the_runtimes_records(node: Node, runtime: Runtime):
    """The runtime is told, and comes again."""
    plugin = node.script("fails", FAILS)
    network = {"cniVersion": "1.0.0", "name": "failing", "type": "fails"}
    node.settings["delegates"] = [network]
    runtime.add(network, "eth0")

    assert "detach eth0 from network failing" in node.fail("DEL")["msg"]

    assert ["results/failing-sandbox-eth0"] == runtime.files
    Path(f"{plugin}.may").touch()
    node.delete()
    assert [] == runtime.files


@pytest.mark.parametrize("more", [{}, {"delegates": [], "clusterNetwork": "nowhere"}])
def test_a_default_network_of_before_hinders_no_del(node: Node, runtime: Runtime, more: dict[str, Any]):
    """Another one is it now; the plugins of the old one may have gone with it, and nobody would call them."""
    plugin = node.script("mine", 'echo "{\\"cniVersion\\": \\"1.0.0\\"}"')
    runtime.add({"cniVersion": "1.0.0", "name": "mine", "type": "mine"}, "eth0")
    plugin.unlink()
    node.settings |= more

    node.delete()

    assert ["results/mine-sandbox-eth0"] == runtime.files


def test_chained_what_is_before_us_is_the_runtimes_to_undo(node: Node, runtime: Runtime):
    """It was alone in the list when the pod was attached; its own DEL comes behind ours."""
    runtime.add(default(node), "eth0")
    node.settings["delegates"] = []

    node.delete()

    assert (["eth0"], ["results/default-sandbox-eth0"]) == (node.pod.links(), runtime.files)


@pytest.mark.parametrize("ours", ["meta-cni", "multus-shim", "by-another-name"])
@pytest.mark.parametrize("plugins", [[], [{"type": "none-like-this"}]])
def test_the_runtimes_records_of_our_own_attachments_are_not_followed(
    node: Node, runtime: Runtime, ours: str, plugins: list[dict[str, Any]]
):
    """A DEL that comes again, alone or in a chain: we would call ourselves, and the plugins before us."""
    listed = {"cniVersion": "1.0.0", "name": "node", "plugins": [*plugins, {"type": ours}]}
    made = {"kind": "cniCacheV1", "containerId": "sandbox", "ifName": "eth0", "networkName": "node"}
    made |= {"config": encoded(listed)}
    path = runtime.directory / "results" / "node-sandbox-eth0"
    path.parent.mkdir()
    path.write_text(json.dumps(made))
    node.settings |= {"type": ours, "delegates": [node.bridge("node", 99)]}

    node.delete()

    assert ["results/node-sandbox-eth0"] == runtime.files


def test_gc_of_a_network_leaves_what_multus_attached_to_it(
    node: Node, multus: Predecessor, pods: Callable[[str], PodNetns]
):
    """New pods of that network are ours, so it is collected: the addresses of older pods were free then."""
    config = default(node)
    multus.attach(config, second(node, "1.0.0", name="media"))
    node.settings["delegates"] = [config]
    new = pods("new")
    node.add(CNI_CONTAINERID="new", CNI_NETNS=new.path)
    before = leases(node)

    for listed in ("new",), ("new", "sandbox"):
        valid = [{"containerID": each, "ifname": "eth0"} for each in listed]
        given = node.configuration() | {"cni.dev/valid-attachments": valid}
        assert ({}, 0) == node.call("GC", stdin=json.dumps(given).encode())

    assert (3, before) == (len(before), leases(node))
    assert ["eth0", "net1"] == node.pod.links()


def test_they_are_among_what_is_attached(node: Node, multus: Predecessor, tmp_path: Path):
    """`meta-cni attachments`; whose they are is said."""
    multus.attach(default(node), second(node, "1.0.0"))
    config = tmp_path / "config"
    config.write_text(json.dumps(node.configuration()))
    printed = StringIO()

    with redirect_stdout(printed):
        assert 0 == cli.command_line(["attachments", "--config", str(config)])

    lines = [line.split() for line in printed.getvalue().splitlines()[1:]]
    assert [["telco/p", "eth0", "default"], ["telco/p", "net1", "media"]] == [each[:3] for each in lines]
    assert all(["by", "Multus"] == each[-2:] for each in lines)
    assert ["10.1.0.2/24", "10.2.0.2/24"] == [each[4] for each in lines]


def test_the_real_multus_hands_over(node: Node):
    """What it has attached is checked and detached by us, called by its own configuration."""
    program = find_multus()
    if program is None:
        pytest.skip("no multus")
    given = {
        "cniVersion": "1.0.0",
        "name": "multus-cni-network",
        "type": "multus",
        "cniDir": str(node.root / "state"),
        "binDir": REFERENCE[-1],
        "delegates": [default(node), second(node, "1.0.0")],
    }
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "sandbox", "CNI_NETNS": node.pod.path}
    variables |= {"CNI_IFNAME": "eth0", "CNI_ARGS": "K8S_POD_NAME=p", "CNI_PATH": ":".join(REFERENCE)}
    stdin = json.dumps(given).encode()
    subprocess.run([program], input=stdin, env={**os.environ, **variables}, check=True, capture_output=True)
    assert ["eth0", "net1"] == node.pod.links()

    assert ({}, 0) == node.call("CHECK", stdin=stdin)
    assert ({}, 0) == node.call("DEL", stdin=stdin)

    assert ([], [], []) == (node.pod.links(), leases(node), veths(node))
    left = [each for each in (node.root / "state").rglob("*") if each.is_file() and each.name != "lock"]
    assert [] == left
