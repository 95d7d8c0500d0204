"""The engine's less travelled ways, on a real kernel."""

import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from meta_cni import compose
from meta_cni.cni.errors import IOFailure, TryAgainLater
from meta_cni.linux import link, netns, sysctl
from tests.netns.conftest import Node, PodNetns


def uid(node: Node, uid: str, **annotations: str) -> None:
    metadata = {"name": "p", "namespace": "telco", "uid": uid, "annotations": annotations}
    node.write({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})


def args(uid: str) -> str:
    return f"K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID={uid}"


@pytest.mark.parametrize(
    "annotations",
    [
        {"kubernetes.io/config.hash": "static"},
        {"kubernetes.io/config.mirror": "static"},
        {"kubernetes.io/config.source": "file"},
    ],
)
def test_static_and_mirror_pods_are_known_by_their_hash(node: Node, annotations: dict[str, str]):
    """P-24: the kubelet and the API know a static pod by different UIDs."""
    uid(node, "of-the-api", **annotations)

    node.add(CNI_ARGS=args("static"))


def test_pod_with_the_right_uid_is_served(node: Node):
    """The normal case."""
    uid(node, "u")

    node.add(CNI_ARGS=args("u"))


def test_container_without_kubernetes_gets_the_default_network(node: Node, pod: PodNetns):
    """podman sends the container's name and no namespace."""
    node.add(CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=some-container")

    assert ["eth0"] == pod.links()


def test_container_without_kubernetes_may_have_a_pod_file(node: Node, pod: PodNetns):
    """Under podman a pod in namespace default, named like the container, tells the networks."""
    node.nad("one", node.bridge("", 11))
    metadata = {"name": "c1", "annotations": {"k8s.v1.cni.cncf.io/networks": "telco/one"}}
    node.write({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})

    node.add(CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=c1")

    assert ["eth0", "net1"] == pod.links()


def test_no_store_means_default_networks_only(node: Node, pod: PodNetns):
    """Multus without a kubeconfig does the same."""
    node.settings = {"store": None}

    node.add(CNI_ARGS="")

    assert ["eth0"] == pod.links()


def test_readiness_file_is_waited_for_and_then_refused_for_now(node: Node, mocker):
    """S-28: 45 s as in Multus, then a code that says try again."""
    node.settings = {"readinessindicatorfile": str(node.root / "ready")}
    from meta_cni.engine import engine

    mocker.patch.object(engine, "READINESS_WAIT_S", 0.0)
    assert 11 == node.fail()["code"]

    (node.root / "ready").touch()
    node.add()


def test_readiness_file_that_comes_in_time_lets_the_add_go_on(node: Node, mocker):
    """The wait is a poll."""
    from meta_cni.engine import engine

    ready = node.root / "ready"
    node.settings = {"readinessindicatorfile": str(ready)}
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        ready.touch()

    mocker.patch.object(compose, "World", partial(engine.World, sleep=pause))

    node.add()

    assert [engine.READINESS_POLL_S] == pauses


def test_same_status_is_not_written_again(node: Node):
    """An ADD after a DEL with the same outcome changes no object."""
    fixed = {"type": "static", "addresses": [{"address": "10.9.0.2/24"}]}
    node.settings = {"delegates": [node.bridge("default", 244) | {"ipam": fixed, "mac": "02:00:00:00:00:01"}]}
    node.add()
    version = (node.root / "state" / "objects" / "version").read_text()
    node.delete()

    node.add()

    assert version == (node.root / "state" / "objects" / "version").read_text()


def test_damaged_entry_does_not_block_a_new_add(node: Node):
    """It is set aside, and reported in the log."""
    ledger = node.root / "state" / "ledger"
    ledger.mkdir(parents=True)
    (ledger / "sandbox").write_text("torn")

    node.add()

    assert 1 == len(list((ledger / "damaged").iterdir()))


def test_other_requests_of_a_sandbox_are_left_alone(node: Node, pod: PodNetns):
    """One container, two calls with different CNI_IFNAME."""
    node.add()
    node.add(CNI_IFNAME="eth1")
    assert ["eth0", "eth1"] == pod.links()

    node.delete(CNI_IFNAME="eth1")

    assert ["eth0"] == pod.links()
    node.delete()


def test_failing_second_request_keeps_the_first(node: Node, pod: PodNetns):
    """Rollback undoes its own request only."""
    node.add()
    node.settings = {"delegates": [node.bridge("default", 244) | {"mtu": 10}]}

    node.fail(CNI_IFNAME="eth1")

    assert ["eth0"] == pod.links()
    node.settings = {}
    node.delete()


def test_failing_second_request_without_networks_keeps_the_first(node: Node, pod: PodNetns, mocker):
    """Chained behind another plugin, for a pod that selects nothing: the first one was forgotten."""
    before = node.traces()
    node.add()
    node.settings = {"delegates": []}
    stdin = json.dumps({**node.configuration(), "prevResult": {"cniVersion": "1.1.0"}}).encode()
    mocker.patch("meta_cni.k8s.file_store.FileStore.patch", side_effect=TryAgainLater("away"))

    assert 11 == node.fail(stdin=stdin, CNI_IFNAME="eth1")["code"]

    assert ["eth0"] == pod.links()
    assert ({}, 0) == node.call("CHECK")
    node.delete()
    assert before == node.traces()


def test_failing_second_request_leaves_the_default_routes_of_the_first(node: Node, pod: PodNetns):
    """They are taken out while the networks are attached, and were not put back."""
    node.add()
    before = pod.defaults()
    node.nad(
        "broken", node.bridge("", 12, ipam=node.ipam(12, routes=[{"dst": "10.9.0.0/16", "gw": "192.0.2.9"}]))
    )
    node.annotate("broken")
    node.settings = {"delegates": [node.bridge("second", 13)]}

    node.fail(CNI_IFNAME="eth1")

    assert before == pod.defaults()
    assert ({}, 0) == node.call("CHECK")
    node.delete()


def test_second_request_without_default_routes_leaves_those_of_the_first(node: Node, pod: PodNetns):
    """The pod reaches the world as it did before."""
    node.add()
    before = pod.defaults()
    node.nad("one", node.bridge("", 12))
    node.annotate("one")
    node.settings = {"delegates": [node.bridge("second", 13)]}

    node.add(CNI_IFNAME="eth1")

    assert before == pod.defaults()
    assert ({}, 0) == node.call("CHECK")
    node.delete(CNI_IFNAME="eth1")
    node.delete()


def test_del_in_our_own_namespace_is_refused(node: Node):
    """Deleting links in the node's namespace would cut the node off."""
    node.add()

    assert 8 == node.fail("DEL", CNI_NETNS="/proc/self/ns/net")["code"]
    node.delete()


def test_check_of_an_unknown_sandbox_is_an_error(node: Node):
    """Nothing was attached, so nothing is as it was left."""
    assert 3 == node.fail("CHECK")["code"]


@pytest.mark.parametrize(("version", "code"), [("0.3.1", 1), ("0.4.0", 0)])
def test_check_exists_from_0_4_0_on(node: Node, version: str, code: int):
    """The specification's table of versions and verbs."""
    node.settings = {"cniVersion": version}
    node.add()

    assert code == node.call("CHECK")[1]


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_exist_from_1_1_0_on(node: Node, command: str):
    """Older configurations are answered with code 1."""
    node.settings = {"cniVersion": "1.0.0"}

    assert 1 == node.fail(command)["code"]


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_del_and_gc_do_not_take_an_unknown_ledger_for_an_empty_one(node: Node, pod: PodNetns, command: str):
    """A typing error in cniDir: every pod that was deleted until it was found was left where it was."""
    node.add()
    right = node.configuration() | {"cni.dev/valid-attachments": []}
    wrong = right | {"CNIDir": "state", "binDir": 5}
    del wrong["cniDir"]

    error = node.fail(command, stdin=json.dumps(wrong).encode())

    assert "cniDir 'state': expected an absolute path" in error["msg"]
    assert ["eth0"] == pod.links()
    assert ({}, 0) == node.call(command, stdin=json.dumps(right | {"binDir": 5}).encode())
    assert [] == pod.links()


def test_gc_without_a_list_is_refused(node: Node):
    """Nothing listed and no list are different things: one would undo everything."""
    assert 7 == node.fail("GC")["code"]


@pytest.mark.parametrize("more", [{"disableCheck": True}, {"cniVersion": "0.3.1"}])
def test_networks_that_cannot_be_checked_are_passed_over(node: Node, pod: PodNetns, more: dict[str, object]):
    """P-19: verbs degrade by network."""
    node.nad("one", node.bridge("", 11) | more)
    node.annotate("one")
    node.add()
    pod.socket.request([link.delete("net1")])

    assert ({}, 0) == node.call("CHECK")


def test_version_is_answered_without_standard_input(node: Node):
    """podman probes it before each call."""
    answer, code = node.call("VERSION", stdin=b"")

    assert (0, "1.1.0", 7) == (code, answer["cniVersion"], len(answer["supportedVersions"]))


def test_policy_builtin_refuses_what_only_the_binary_knows(node: Node):
    """delegatePolicy says why it cannot be followed."""
    node.settings = {"networks": {"default": {"delegatePolicy": "builtin"}}}
    node.settings["delegates"] = [node.bridge("default", 244) | {"frobnicate": True}]

    assert "frobnicate True is not built in" in node.fail()["msg"]


RAN = [
    ("auto", {}, {"one"}),
    ("builtin", {}, set()),
    ("exec", {}, {"default", "one", "two"}),
    ({"bridge": "exec"}, {}, {"default", "one", "two"}),
    ({"macvlan": "exec"}, {}, {"one"}),
    ("exec", {"telco/two": {"delegatePolicy": "builtin"}}, {"default", "one"}),
    ("builtin", {"telco/one": {"delegatePolicy": "exec"}}, {"one"}),
]


@pytest.mark.parametrize(("policy", "networks", "ran"), RAN)
def test_a_policy_says_which_plugin_really_runs(
    node: Node,
    pod: PodNetns,
    policy: object,
    networks: dict[str, object],
    ran: set[str],
    reference: Callable[[str], str],
):
    """For all, for a type, for a network; a key of the binary's own has it run where it may."""
    calls = node.root / "objects" / "calls"
    called = (
        f'input=$(cat); echo "$CNI_COMMAND $input" >> {calls}; echo "$input" | exec {reference("bridge")}'
    )
    node.script("bridge", called)
    of_the_binary = {} if policy == "builtin" and not networks.get("telco/one") else {"frobnicate": True}
    given = {
        name: node.bridge(name, number, cniVersion="1.0.0", ipam={})
        for name, number in (("default", 8), ("one", 9), ("two", 10))
    }
    node.nad("one", given["one"] | of_the_binary)
    node.nad("two", given["two"])
    node.annotate("one,two")
    node.settings = {"delegates": [given["default"]], "delegatePolicy": policy, "networks": networks}

    node.add()
    node.delete()

    lines = calls.read_text().splitlines() if calls.exists() else []
    for command in ("ADD", "DEL"):
        told = [json.loads(each.split(" ", 1)[1]) for each in lines if each.startswith(command)]
        assert ran == {each["name"] for each in told}
    assert [] == pod.links()


@pytest.mark.parametrize(
    "settings",
    [
        {"delegatePolicy": {"host-local": "exec"}},
        {"networks": {"telco/one": {"delegatePolicy": "exec"}}},
    ],
)
def test_policy_exec_has_the_ipam_plugin_executed_to_the_end(
    node: Node, pod: PodNetns, settings: dict[str, object], reference: Callable[[str], str]
):
    """DEL follows what ADD did, whatever the configuration says by then."""
    real = f"{reference('bridge')} {reference('host-local')}".split()
    for name, binary in zip(("bridge", "host-local"), real, strict=True):
        node.script(name, f'echo "{name} $CNI_COMMAND" >> {node.root}/objects/calls; exec {binary}')
    default = node.bridge("default", 244, cniVersion="1.0.0")
    node.settings = {"delegates": [default], **settings}
    node.nad("one", node.bridge("one", 9, cniVersion="1.0.0"))
    node.annotate("one")
    before = node.traces()
    node.add()
    node.settings = {}

    node.delete()

    calls = (node.root / "objects" / "calls").read_text().split("\n")
    assert before == node.traces()
    assert calls.count("host-local ADD") == calls.count("host-local DEL") > 0


def test_ipam_that_is_meta_cni_itself_is_refused(node: Node, mocker):
    """It would call itself without end."""
    script = node.script("meta", "exit 1")
    mocker.patch("sys.argv", [str(script)])
    node.nad("one", node.bridge("one", 9) | {"ipam": {"type": "meta"}})
    node.annotate("one")

    assert "ipam type 'meta' is meta-cni itself" in node.fail()["msg"]


def test_bug_in_a_delegates_undo_does_not_keep_the_others(node: Node, mocker):
    """DEL tries everything and tells everything."""
    node.nad("one", node.bridge("", 11))
    node.annotate("one")
    node.add()
    mocker.patch("delegates.bridge.detach", side_effect=[ZeroDivisionError("oops"), None])

    error = node.fail("DEL")

    assert "ZeroDivisionError" in error["msg"]
    assert [] == node.pod.links()
    mocker.stopall()
    node.delete()


def test_group_deletion_that_fails_is_told_and_the_links_go_one_by_one(node: Node, mocker):
    """A foreign link in our group must not keep ours."""
    from meta_cni.cni.errors import KernelError

    node.add()
    mocker.patch("meta_cni.engine.execute.link.delete_group", side_effect=KernelError("delete links", 95))

    error = node.fail("DEL")

    assert (100, []) == (error["code"], node.pod.links())


def test_the_log_says_what_runs_each_plugin_and_why(node: Node, tmp_path: Path):
    """An operator must see why a binary still runs."""
    log = tmp_path / "meta-cni.log"
    node.script("mine", 'echo "{}"')
    node.nad("one", {"cniVersion": "1.1.0", "type": "mine"})
    node.nad("two", node.bridge("", 12))
    node.settings = {"logFile": str(log), "logLevel": "verbose"}
    node.annotate("one,two")

    node.add()

    text = log.read_text()
    assert (
        f"ADD sandbox net1: network telco/one: mine: {tmp_path}/bin/mine: type mine is not built in" in text
    )
    assert "ADD sandbox net2: network telco/two: bridge: built in: every key is built in" in text


def test_what_was_asked_for_and_is_done_otherwise_is_logged(node: Node):
    """The pod starts; only the log and the plan say that an address goes another way, and a claim none."""
    log = node.root / "meta-cni.log"
    node.nad("one", node.bridge("", 11))
    node.nad("two", node.bridge("", 12))
    node.annotate([{"name": "one", "ips": ["10.11.0.5"]}, {"name": "two", "ipam-claim-reference": "vm.two"}])
    node.settings = {"logFile": str(log), "logLevel": "verbose", "capabilityCheck": "legacy"}

    node.add()

    one, two = (each for each in log.read_text().splitlines() if "[WARNING]" in each)
    assert "networks[0] (telco/one): ips goes by CNI_ARGS alone" in one
    assert "networks[1] (telco/two): ipam-claim-reference vm.two means nothing to meta-cni" in two


def test_gc_goes_on_after_an_error_and_tells_it(node: Node):
    """As much as can be is cleaned; damaged entries are reported."""
    node.script("gc", 'echo "{}"; [ $CNI_COMMAND = GC ] && exit 1; exit 0')
    node.nad("one", {"cniVersion": "1.1.0", "type": "gc"})
    node.annotate("one")
    node.add()
    (node.root / "state" / "ledger" / "zzz").write_text("torn")
    listed = {"cni.dev/valid-attachments": [{"containerID": "sandbox", "ifname": "eth0"}]}

    error = node.fail("GC", stdin=json.dumps({**node.configuration(), **listed}).encode())

    assert ("zzz" in error["msg"], "plugin gc" in error["msg"]) == (True, True)


def test_gc_goes_on_where_a_part_of_it_cannot_be_done(node: Node, mocker: MockerFixture):
    """What Multus left could not be read, once; an address that is nobody's goes all the same."""
    node.add()
    stale = next((node.root / "ipam").rglob("10.*")).with_name("10.244.0.77")
    stale.write_text("gone\r\neth0")
    listed = [{"containerID": "sandbox", "ifname": "eth0"}]
    given = {**node.configuration(), "cni.dev/valid-attachments": listed}
    unread = IOFailure("read results: broken")
    mocker.patch("meta_cni.engine.inherited.Inherited.container_ids", side_effect=[unread, []])

    error = node.fail("GC", stdin=json.dumps(given).encode())

    assert ("read results: broken", False) == (error["msg"], stale.exists())


def test_check_tells_pod_network_and_interface(node: Node):
    """The log of a runtime has many pods', and a message of the kernel's names none of them."""
    node.nad("one", node.bridge("one", 9))
    node.annotate("one")
    node.add()
    link.remove(node.pod.socket, "net1")

    error = node.fail("CHECK")

    told = f"check net1: there is no such interface in {node.pod.path}"
    assert (105, f"pod telco/p: net1 of network telco/one: {told}") == (error["code"], error["msg"])


def test_systems_pods_get_no_default_networks(node: Node, pod: PodNetns):
    """systemNamespaces, as in Multus."""
    for name in ("a", "b"):
        (node.root / "conf" / f"{name}.conf").write_text(json.dumps(node.bridge(name, 20 + len(name))))
    node.settings = {"clusterNetwork": "a", "defaultNetworks": ["b"], "systemNamespaces": ["telco"]}
    node.add()
    assert ["eth0"] == pod.links()
    node.delete()

    node.settings["systemNamespaces"] = ["kube-system"]
    node.add()

    assert ["eth0", "net1"] == pod.links()


def test_auxiliary_chain_is_attached_last(node: Node, pod: PodNetns):
    """auxiliaryCNIChainName, as in Multus."""
    cluster = node.root / "conf" / "c.conf"
    cluster.write_text(json.dumps(node.bridge("cluster", 30)))
    directory = node.root / "conf" / "aux"
    directory.mkdir()
    (directory / "a.conf").write_text(json.dumps(node.bridge("aux", 31)))
    node.settings = {"clusterNetwork": str(cluster), "auxiliaryCNIChainName": "aux"}

    node.add()

    assert ["eth0", "net1"] == pod.links()


@pytest.mark.parametrize("policy", ["builtin", "exec"])
def test_auxiliary_chain_of_tuning_alone(node: Node, pod: PodNetns, policy: str, reference):
    """Multus' own example: its passthru answers nothing, and what comes behind has that as prevResult."""
    reference("tuning")
    node.settings = {"cniVersion": "1.0.0", "delegatePolicy": {"tuning": policy}}
    (node.root / "conf" / "c.conf").write_text(json.dumps(node.bridge("cluster", 30)))
    (node.root / "conf" / "aux").mkdir()
    tuning = {"cniVersion": "1.0.0", "type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}
    (node.root / "conf" / "aux" / "twiddle.conf").write_text(json.dumps(tuning))
    node.settings |= {"clusterNetwork": str(node.root / "conf" / "c.conf"), "auxiliaryCNIChainName": "aux"}

    node.add()

    path = "net/ipv4/conf/eth0/arp_filter"
    assert "1" == netns.run_in(pod.fd, lambda: sysctl.read(path))
    if policy == "builtin":  # the reference's asks for an interface
        assert 0 == node.call("CHECK")[1]
    node.delete()


def test_log_goes_to_its_file(node: Node):
    """logFile and logLevel, with one line a request."""
    log = node.root / "log"
    node.settings = {"logFile": str(log), "logLevel": "verbose"}

    node.add()

    assert "ADD sandbox took" in log.read_text()


@pytest.fixture
def full_disk(node: Node) -> Iterator[Callable[[str], None]]:
    """A directory of the node is on a file system of its own that has no room left."""
    mounted: list[Path] = []

    def fill(name: str) -> None:
        path = node.root / name
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(path)], check=True)
        mounted.append(path)
        with suppress(OSError), open(path / "lock", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    yield fill
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("name", ["state/ledger", "state/objects", "ipam/two"])
def test_full_disk_fails_the_add_and_leaves_nothing(node: Node, full_disk: Callable[[str], None], name: str):
    """A real one: the ledger's, the store's, the addresses' of the last network."""
    node.nad("one", node.bridge("one", 9))
    node.nad("two", node.bridge("two", 10))
    node.annotate("one,two")
    full_disk(name)
    before = node.traces()

    error = node.fail()

    assert (True, True) == ("No space left on device" in error["msg"], error["code"] in (5, 11))
    assert before == node.traces()
    node.delete()
    assert before == node.traces()


def test_error_about_a_name_that_is_no_utf_8_is_still_printed(node: Node):
    """A lone surrogate in a configuration comes back in the message."""
    error = node.fail(stdin=b'{"cniVersion":"1.1.0","name":"\\udcff","type":"meta-cni"}')

    assert (7, True) == (error["code"], "\udcff" in error["msg"])


def test_a_plan_that_could_not_be_kept_is_not_there(node: Node, mocker: MockerFixture):
    """The disk failed behind the renaming: the next ADD would be told that it is the second one."""
    node.script("plugin", "echo '{}'")
    node.nad("one", {"cniVersion": "1.0.0", "name": "one", "type": "plugin"})
    node.annotate("one")
    before = node.traces()
    failing = mocker.patch("meta_cni.engine.ledger._sync_directory", side_effect=OSError(errno.EIO, "broken"))

    error = node.fail()

    assert error["msg"].endswith("/ledger/sandbox: broken")
    assert before == node.traces()
    mocker.stop(failing)
    node.add()
