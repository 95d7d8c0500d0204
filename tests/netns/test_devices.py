"""Devices from the kubelet's hands into the pod's networks, and back."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from meta_cni.linux import device, link, netns
from meta_cni.linux.netlink import Socket
from tests.kubelet import FakeKubelet
from tests.kubelet import pod as pod_of
from tests.netns.conftest import Node, PodNetns

RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
SRIOV = "intel.com/sriov"
SHARED = "rdma/hca_shared"
ANSWER = """echo '{"cniVersion":"1.1.0"}'"""
VFS = ["0000:03:02.0", "0000:03:02.1"]
TOP = Path(__file__).parents[2]


@pytest.fixture
def sysfs(tmp_path: Path, mocker) -> Path:
    """A tree like sysfs: two virtual functions with links vf1 and vf0."""
    root = tmp_path / "sys"
    for address, name in zip(VFS, ("vf1", "vf0"), strict=True):
        (root / "bus" / "pci" / "devices" / address / "net" / name).mkdir(parents=True)
    for each in (device.path_of, device.exists):
        mocker.patch.object(each, "__defaults__", (root,))
    return root


@pytest.fixture
def worker(node: Node, fake_kubelet: FakeKubelet, sysfs: Path, host: Socket) -> Node:
    """A node with a kubelet, two devices, and networks that need one; `probe` tells what it was given."""
    for name in ("vf0", "vf1"):
        host.request([link.create_pair(name, f"{name}peer")])
    node.settings["kubeletDir"] = str(fake_kubelet.directory)
    (node.root / "out").mkdir()
    node.script(
        "probe",
        f"cat > {node.root}/out/$CNI_COMMAND-$CNI_IFNAME\n[ $CNI_COMMAND != ADD ] || {ANSWER}",
    )
    for name in ("one", "two"):
        node.nad(name, {"cniVersion": "1.1.0", "name": name, "type": "host-device"}, **{RESOURCE: SRIOV})
    probe = {"cniVersion": "1.1.0", "type": "probe", "capabilities": {"deviceID": True}}
    for name in ("probe", "probe2"):
        node.nad(name, {**probe, "name": name}, **{RESOURCE: SRIOV})
    return node


def given(node: Node, name: str = "ADD-net1") -> dict[str, Any]:
    """What probe was given."""
    told: dict[str, Any] = json.loads((node.root / "out" / name).read_text())
    return told


def handed(fake_kubelet: FakeKubelet, ids: list[str], **more: Any) -> None:
    fake_kubelet.answer(pod_of(("app", [(SRIOV, [each]) for each in ids])), **more)


def other(node: Node, container: str, netns_path: str, name: str = "q") -> dict[str, str]:
    """The variables of another pod's call."""
    metadata = {
        "name": name,
        "namespace": "telco",
        "annotations": {"k8s.v1.cni.cncf.io/networks": "probe"},
    }
    node.write({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
    args = f"K8S_POD_NAMESPACE=telco;K8S_POD_NAME={name}"
    return {"CNI_CONTAINERID": container, "CNI_NETNS": netns_path, "CNI_ARGS": args}


def test_networks_of_one_resource_get_a_device_each_by_their_names(
    worker: Node, pod: PodNetns, fake_kubelet: FakeKubelet
):
    """And a DEL brings them back without anybody's help."""
    handed(fake_kubelet, VFS)
    worker.annotate("one,two")
    before = worker.traces()

    worker.add()

    inside = {each.name: each.alias for each in link.dump(pod.socket)}
    assert ("vf1", "vf0") == (inside["net1"], inside["net2"])
    infos = [each.get("device-info") for each in worker.status()]
    assert [None, *VFS] == [each and each["pci"]["pci-address"] for each in infos]
    assert 0 == worker.call("CHECK")[1]
    handed(fake_kubelet, [], statuses=[14] * 9)
    worker.delete()
    assert [] == fake_kubelet.calls()
    assert before == worker.traces()


def test_a_plugin_is_given_the_device_as_multus_does(worker: Node, fake_kubelet: FakeKubelet):
    """At the top of its configuration under both names, and as the capability it declares."""
    handed(fake_kubelet, VFS)
    worker.annotate("probe")

    worker.add()
    worker.delete()

    for told in (given(worker), given(worker, "DEL-net1")):
        assert [VFS[0]] * 3 == [told["deviceID"], told["pciBusID"], told["runtimeConfig"]["deviceID"]]


def test_nobody_is_asked_where_no_network_needs_a_device(worker: Node, fake_kubelet: FakeKubelet):
    """An ADD without devices costs what it did."""
    worker.nad("plain", worker.bridge("plain", 11))
    worker.annotate("plain")

    worker.add()

    assert [] == fake_kubelet.calls()
    worker.delete()


def test_a_selection_may_choose_among_the_pods_devices(worker: Node, fake_kubelet: FakeKubelet):
    """Who chooses comes first, wherever the selection stands."""
    handed(fake_kubelet, VFS)
    worker.annotate([{"name": "probe"}, {"name": "probe2", "deviceID": VFS[0]}])

    worker.add()

    assert [VFS[1], VFS[0]] == [given(worker, f"ADD-net{n}")["deviceID"] for n in (1, 2)]
    worker.delete()


def test_a_device_of_others_cannot_be_chosen(worker: Node, fake_kubelet: FakeKubelet, caplog):
    """As in Multus, the kubelet's word counts; otherwise a pod would take what another one was given."""
    handed(fake_kubelet, VFS[:1])
    worker.annotate([{"name": "probe", "deviceID": VFS[1]}])

    worker.add()

    assert VFS[0] == given(worker)["deviceID"]
    worker.delete()


def test_the_default_networks_share_what_the_pod_was_given(worker: Node, fake_kubelet: FakeKubelet):
    """D-30: the same device was handed out twice, to the default network and to a selected one."""
    handed(fake_kubelet, VFS)
    worker.annotate("probe", **{"v1.multus-cni.io/default-network": "telco/probe2"})

    worker.add()

    assert VFS == [given(worker, f"ADD-{each}")["deviceID"] for each in ("eth0", "net1")]
    worker.delete()


MISSING = [
    ([], "probe", "gave pod telco/p none of it, but nothing: expected it in resources.limits of a container"),
    (
        VFS[:1],
        "probe,probe2",
        rf"probe2\): resource {SRIOV}: kubelet .* gave pod telco/p {VFS[0]} \(container app\): "
        "expected one more of it in resources.limits",
    ),
]


@pytest.mark.parametrize(("ids", "networks", "text"), MISSING)
def test_a_missing_device_is_told_with_what_there_is(
    worker: Node, fake_kubelet: FakeKubelet, ids: list[str], networks: str, text: str
):
    """D-31: it was passed over in silence."""
    handed(fake_kubelet, ids)
    worker.annotate(networks)
    before = worker.traces()

    error = worker.fail()

    assert 7 == error["code"]
    assert re.search(text, error["msg"]), error["msg"]
    assert before == worker.traces()


def test_devices_of_other_resources_are_told_too(worker: Node, fake_kubelet: FakeKubelet):
    """A typing error in the annotation shows at once."""
    fake_kubelet.answer(pod_of(("app", [("intel.com/sriow", VFS[:1])])))
    worker.annotate("probe")

    assert f"none of it, but intel.com/sriow {VFS[0]} (container app)" in worker.fail()["msg"]


def test_a_kubelet_that_is_not_there_is_waited_for_by_the_runtime(worker: Node, tmp_path: Path):
    """Code 11, and nothing touched."""
    worker.settings["kubeletDir"] = str(tmp_path / "none")
    worker.annotate("probe")
    before = worker.traces()

    error = worker.fail()

    assert 11 == error["code"]
    assert "no device of pod telco/p is known (yet): call Get of" in error["msg"]
    assert "kubelet.sock: No such file or directory, and no checkpoint" in error["msg"]
    assert before == worker.traces()


@pytest.mark.parametrize(
    ("more", "timeout_s", "text"),
    [
        ({"delay_s": 5}, 1, "no answer within|status 4"),
        ({"statuses": [13]}, 60, "gRPC status 13: as the test wants it"),
    ],
)
def test_a_kubelet_that_does_not_answer_is_asked_again_later(
    worker: Node, fake_kubelet: FakeKubelet, more: dict[str, Any], timeout_s: float, text: str
):
    """Code 11 within the time that is set."""
    handed(fake_kubelet, VFS, **more)
    worker.settings["kubeletTimeout"] = timeout_s
    worker.annotate("probe")
    before = worker.traces()

    error = worker.fail()

    assert 11 == error["code"]
    assert re.search(text, error["msg"]), error["msg"]
    assert before == worker.traces()


def test_where_the_kubelet_handed_out_nothing_the_selection_counts(worker: Node, tmp_path: Path):
    """A node without a kubelet, as under podman."""
    worker.settings["kubeletDir"] = str(tmp_path / "none")
    worker.annotate([{"name": "probe", "deviceID": VFS[1]}])

    worker.add()

    assert VFS[1] == given(worker)["deviceID"]
    worker.delete()


def test_the_checkpoint_counts_where_nobody_listens(worker: Node, tmp_path: Path):
    """By the UID that the runtime says: a static pod has another one in the API than with the kubelet."""
    kubelet = tmp_path / "other"
    path = kubelet / "device-plugins" / "kubelet_internal_checkpoint"
    path.parent.mkdir(parents=True)
    entry = {"PodUID": "u", "ContainerName": "app", "ResourceName": SRIOV, "DeviceIDs": {"0": VFS[:1]}}
    path.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}, "Checksum": 1}))
    worker.settings["kubeletDir"] = str(kubelet)
    networks = {"k8s.v1.cni.cncf.io/networks": "probe", "kubernetes.io/config.hash": "u"}
    metadata = {"name": "p", "namespace": "telco", "uid": "of-the-api", "annotations": networks}
    worker.write({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})

    worker.add(CNI_ARGS="K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID=u")

    assert VFS[0] == given(worker)["deviceID"]
    worker.delete()


def test_a_device_is_never_two_attachments(
    worker: Node, pods: Callable[[str], PodNetns], fake_kubelet: FakeKubelet
):
    """Whatever the kubelet says: the pod that has it has it until its DEL."""
    handed(fake_kubelet, VFS[:1])
    worker.annotate("probe")
    worker.add()
    fake_kubelet.answer(pod_of(("app", [(SRIOV, VFS[:1])]), name="q"))
    second = other(worker, "second", pods("second").path)

    error = worker.fail(**second)

    assert 11 == error["code"]
    expected = f"device {VFS[0]} is net1 of telco/p (container sandbox): expected its DEL first"
    assert expected in error["msg"]
    worker.delete()
    worker.add(**second)
    assert VFS[0] == given(worker)["deviceID"]
    worker.delete(**second)


def test_two_requests_of_a_sandbox_do_not_share_a_device(worker: Node, fake_kubelet: FakeKubelet):
    """A second CNI_IFNAME of the container is attached to the next one, or not at all."""
    handed(fake_kubelet, VFS)
    worker.annotate([{"name": "probe", "interface": "a"}])
    worker.add()
    worker.annotate([{"name": "probe", "interface": "b"}])
    worker.add(CNI_IFNAME="eth1")
    assert VFS == [given(worker, f"ADD-{each}")["deviceID"] for each in "ab"]
    worker.annotate([{"name": "probe", "interface": "c"}])

    assert 7 == worker.fail(CNI_IFNAME="eth2")["code"]

    worker.delete()
    worker.delete(CNI_IFNAME="eth1")


def test_pods_that_come_at_once_do_not_share_a_device(
    worker: Node, pods: Callable[[str], PodNetns], fake_kubelet: FakeKubelet
):
    """One of them has it, the others are to come again."""
    names = [f"p{n}" for n in range(4)]
    fake_kubelet.answer(*(pod_of(("app", [(SRIOV, VFS[:1])]), name=each) for each in names))
    calls = [other(worker, f"c{each}", pods(each).path, each) for each in names]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: worker.call("ADD", **each), calls))

    assert [0, 11, 11, 11] == sorted(answer.get("code", 0) for answer, _ in answers), answers
    for each in calls:
        worker.delete(**each)


def test_what_a_sandbox_that_is_gone_still_holds_is_undone(
    worker: Node, pods: Callable[[str], PodNetns], fake_kubelet: FakeKubelet
):
    """A DEL that never came, or is still to come: it must not reset the device of the next pod."""
    handed(fake_kubelet, VFS[:1])
    worker.annotate("probe")
    netns.create("/run/netns/gone")
    worker.add(CNI_CONTAINERID="old", CNI_NETNS="/run/netns/gone")
    netns.remove("/run/netns/gone")

    worker.add()

    undone = given(worker, "DEL-net1")
    assert VFS[0] == undone["deviceID"]
    (worker.root / "out" / "DEL-net1").unlink()
    worker.delete(CNI_CONTAINERID="old", CNI_NETNS="")
    assert not (worker.root / "out" / "DEL-net1").exists()
    worker.delete()


def test_a_stale_holder_that_cannot_be_undone_keeps_its_device(worker: Node, fake_kubelet: FakeKubelet):
    """The device is not as it should be for another pod; the reason is told."""
    handed(fake_kubelet, VFS[:1])
    worker.annotate("probe")
    netns.create("/run/netns/gone")
    worker.add(CNI_CONTAINERID="old", CNI_NETNS="/run/netns/gone")
    netns.remove("/run/netns/gone")
    good = (worker.root / "bin" / "probe").read_text()
    worker.script("probe", '[ $CNI_COMMAND != DEL ] || { echo \'{"code":101,"msg":"busy"}\'; exit 1; }')

    error = worker.fail()

    assert "detach net1 from network telco/probe" in error["msg"]
    assert ["old"] == [each.name for each in (worker.root / "state" / "ledger").iterdir() if each.is_file()]
    worker.script("probe", good)
    worker.delete(CNI_CONTAINERID="old", CNI_NETNS="")


def test_a_stale_holder_that_is_just_being_deleted_is_waited_for(worker: Node, fake_kubelet: FakeKubelet):
    """Its DEL holds its lock; nobody waits for it with a lock of its own."""
    from meta_cni.engine.ledger import Ledger

    handed(fake_kubelet, VFS[:1])
    worker.annotate("probe")
    netns.create("/run/netns/gone")
    worker.add(CNI_CONTAINERID="old", CNI_NETNS="/run/netns/gone")
    netns.remove("/run/netns/gone")

    with Ledger(worker.root / "state" / "ledger").locked("old", 1):
        error = worker.fail()

    assert (11, True) == (error["code"], "lock sandbox old" in error["msg"])
    worker.delete(CNI_CONTAINERID="old", CNI_NETNS="")


def test_a_device_named_twice_in_a_pod_is_refused(worker: Node, tmp_path: Path):
    """Also where no resource is named."""
    worker.nad("free", {"cniVersion": "1.1.0", "name": "free", "type": "probe"})
    worker.annotate([{"name": "free", "deviceID": VFS[0]}] * 2)

    error = worker.fail()

    assert f"device {VFS[0]}: expected one that net1 does not have" in error["msg"]


def test_devices_that_are_no_addresses_are_handed_on_as_they_are(worker: Node, fake_kubelet: FakeKubelet):
    """Shared RDMA devices have made-up names; a built-in has no use for them, and still runs."""
    worker.nad("rdma", worker.bridge("rdma", 12), **{RESOURCE: SHARED})
    fake_kubelet.answer(pod_of(("app", [(SHARED, ["3f2a-7", "3f2a-8"])])))
    worker.annotate("rdma")

    worker.add()

    assert "device-info" not in worker.status()[1]
    record = json.loads((worker.root / "state" / "ledger" / "sandbox").read_bytes().splitlines()[1])
    assert [True, "3f2a-7"] == [
        record["records"][1]["executed"][0]["is_builtin"],
        record["records"][1]["device"],
    ]
    worker.delete()


def test_a_device_of_the_kubelet_that_is_not_on_the_node_is_refused(worker: Node, fake_kubelet: FakeKubelet):
    """Before anything is touched."""
    handed(fake_kubelet, ["0000:ff:1f.7"])
    worker.annotate("probe")

    assert "device 0000:ff:1f.7 is not there" in worker.fail()["msg"]


INFO = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": VFS[0], "rdma-device": "mlx5_2"}}
FILE = f"intel.com-sriov-{VFS[0]}-device.json"


def infos(node: Node) -> list[str]:
    """The files of attachments."""
    directory = node.root / "devinfo" / "cni"
    return sorted(each.name for each in directory.iterdir()) if directory.exists() else []


def plugin_wrote(node: Node, text: str) -> None:
    directory = node.root / "devinfo" / "dp"
    directory.mkdir(parents=True)
    (directory / FILE).write_text(text)


@pytest.fixture
def informed(worker: Node, fake_kubelet: FakeKubelet) -> Node:
    """A pod whose network declares the capability, with what the device plugin wrote."""
    handed(fake_kubelet, VFS[:1])
    capabilities = {"CNIDeviceInfoFile": True}
    config = {"cniVersion": "1.1.0", "name": "info", "type": "probe", "capabilities": capabilities}
    worker.nad("info", config, **{RESOURCE: SRIOV})
    worker.annotate("info")
    return worker


def test_what_the_device_plugin_wrote_is_told_in_the_status(informed: Node):
    """S-43 to S-46: a copy for the attachment, passed on, told, and gone after the DEL."""
    plugin_wrote(informed, json.dumps(INFO))

    informed.add()

    path = Path(given(informed)["runtimeConfig"]["CNIDeviceInfoFile"])
    assert ("telco-info-sandbox_net1", INFO) == (path.name, json.loads(path.read_text()))
    assert 0o755 == path.parent.stat().st_mode & 0o777
    assert INFO == informed.status()[1]["device-info"]
    informed.delete()
    assert [] == infos(informed)
    assert str(path) == given(informed, "DEL-net1")["runtimeConfig"]["CNIDeviceInfoFile"]


def test_it_is_told_where_no_plugin_declares_the_capability(worker: Node, fake_kubelet: FakeKubelet):
    """The resource is enough."""
    handed(fake_kubelet, VFS[:1])
    plugin_wrote(worker, json.dumps(INFO))
    worker.annotate("probe")

    worker.add()

    assert INFO == worker.status()[1]["device-info"]
    worker.delete()
    assert [] == infos(worker)


def test_what_a_plugin_makes_of_the_file_counts(informed: Node):
    """S-46: it may write it anew."""
    plugin_wrote(informed, json.dumps(INFO))
    path = f"{informed.root}/devinfo/cni/telco-info-sandbox_net1"
    informed.script(
        "probe",
        f'[ $CNI_COMMAND != ADD ] || {{ echo \'{{"type":"x"}}\' >{path}; {ANSWER}; }}',
    )

    informed.add()

    assert {"type": "x"} == informed.status()[1]["device-info"]
    informed.delete()
    assert [] == infos(informed)


def test_a_plugin_without_a_device_is_given_a_file_too(worker: Node):
    """D-32: a vhost-user plugin has no device and something to tell."""
    capabilities = {"CNIDeviceInfoFile": True}
    config = {"cniVersion": "1.1.0", "name": "user", "type": "vhost", "capabilities": capabilities}
    worker.nad("user", config)
    path = f"{worker.root}/devinfo/cni/telco-user-sandbox_net1"
    told = '{"type":"vhost-user","version":"1.1.0"}'
    worker.script(
        "vhost",
        f"[ $CNI_COMMAND != ADD ] || {{ echo '{told}' >{path}; echo '{{\"cniVersion\":\"1.1.0\"}}'; }}",
    )
    worker.annotate("user")

    worker.add()

    assert json.loads(told) == worker.status()[1]["device-info"]
    worker.delete()
    assert [] == infos(worker)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "{" + " " * 70000 + "}"])
def test_a_file_that_tells_nothing_fails_nobody(informed: Node, text: str):
    """The device is told by its address then."""
    plugin_wrote(informed, text)

    informed.add()

    expected = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": VFS[0]}}
    assert expected == informed.status()[1]["device-info"]
    informed.delete()


def test_an_add_that_fails_leaves_no_file(informed: Node):
    """Neither its own, nor what the plugin wrote into it."""
    plugin_wrote(informed, json.dumps(INFO))
    good = (informed.root / "bin" / "probe").read_text()
    informed.script(
        "probe",
        f"[ $CNI_COMMAND = DEL ] || {{ ls {informed.root}/devinfo/cni >{informed.root}/seen; exit 1; }}",
    )
    before = informed.traces()

    informed.fail()

    assert "telco-info-sandbox_net1\n" == (informed.root / "seen").read_text()
    (informed.root / "seen").unlink()
    informed.script("probe", good)
    after = informed.traces()
    for each in (before, after):
        each["files"].pop("bin/probe")
    assert before == after


def test_a_file_that_cannot_be_written_fails_the_add(informed: Node):
    """Code 5; nothing was attached."""
    plugin_wrote(informed, json.dumps(INFO))
    (informed.root / "devinfo" / "cni").write_text("in the way")

    error = informed.fail()

    assert (5, True) == (error["code"], "write device-info" in error["msg"])
    assert [] == informed.pod.links()


def test_a_file_that_cannot_be_removed_keeps_its_attachment_in_the_ledger(informed: Node):
    """It is told, and the next DEL removes it."""
    plugin_wrote(informed, json.dumps(INFO))
    informed.add()
    path = informed.root / "devinfo" / "cni" / "telco-info-sandbox_net1"
    path.unlink()
    path.mkdir()

    error = informed.fail("DEL")

    assert (5, True) == (error["code"], f"remove device-info {path}" in error["msg"])
    path.rmdir()
    informed.delete()
    assert not (informed.root / "state" / "ledger" / "sandbox").exists()


def test_a_kill_in_the_middle_of_an_add_leaves_a_file_that_the_del_removes(informed: Node):
    """What is to be removed is in the ledger before it is there."""
    plugin_wrote(informed, json.dumps(INFO))
    good = (informed.root / "bin" / "probe").read_text()
    informed.script("probe", "kill -9 $PPID")
    informed.settings["delegates"] = [{"cniVersion": "1.1.0", "name": "d", "type": "loopback"}]
    variables = {
        **os.environ,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "sandbox",
        "CNI_NETNS": informed.pod.path,
        "CNI_IFNAME": "lo",
        "CNI_ARGS": "K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p",
        "CNI_PATH": "/none",
    }
    program = (
        "import sys; from pathlib import Path; from meta_cni.linux import device;"
        f"device.exists.__defaults__ = (Path({str(informed.root / 'sys')!r}),);"
        "from meta_cni.__main__ import main; sys.exit(main())"
    )
    given = json.dumps(informed.configuration()).encode()

    done = subprocess.run(
        [sys.executable, "-c", program], input=given, env=variables, cwd=TOP, capture_output=True
    )

    assert -9 == done.returncode, done
    assert ["telco-info-sandbox_net1"] == infos(informed)
    informed.script("probe", good)
    informed.delete(CNI_IFNAME="lo")
    assert [] == infos(informed)


def test_gc_removes_the_files_of_what_the_runtime_does_not_list(informed: Node):
    """A pod that went without a DEL."""
    plugin_wrote(informed, json.dumps(INFO))
    informed.add()
    informed.settings["cni.dev/valid-attachments"] = []

    assert 0 == informed.call("GC")[1]

    assert [] == infos(informed)


def test_a_damaged_entry_keeps_no_file(informed: Node):
    """Their names tell whose they were."""
    plugin_wrote(informed, json.dumps(INFO))
    informed.add()
    entry = informed.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes()[:200])

    assert "device-info telco-info-sandbox_net1" in informed.fail("DEL")["msg"]

    assert [] == infos(informed)


def planned(node: Node, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`meta-cni plan` of the pod, as a program of its own."""
    config = node.root / "10-meta.conf"
    config.write_text(json.dumps(node.configuration()))
    file = node.root / "objects" / "Pod-p.json"
    command = [sys.executable, "-m", "meta_cni", "plan", str(file), "--config", str(config), *arguments]
    environment = {**os.environ, "CNI_PATH": str(node.root / "bin")}
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, env=environment)


def test_plan_tells_the_device_and_where_it_came_from(worker: Node, fake_kubelet: FakeKubelet):
    """And what is not handed out yet, without failing: the pod may not be on this node."""
    handed(fake_kubelet, VFS[:1])
    worker.annotate("probe,probe2")

    done = planned(worker)

    assert 0 == done.returncode, done.stderr
    source = f"kubelet {fake_kubelet.socket}"
    assert f"device {VFS[0]} of {SRIOV} ({source}, container app)" in done.stdout
    assert f"device ? of {SRIOV} (not handed out yet: {source})" in done.stdout


def test_plan_without_a_kubelet_says_so(worker: Node, tmp_path: Path):
    """On a workstation."""
    worker.settings["kubeletDir"] = str(tmp_path / "none")
    worker.annotate("probe")

    done = planned(worker)

    assert (0, True) == (done.returncode, "(not handed out yet: call Get of" in done.stdout), done


def test_a_device_of_a_claim_is_attached_like_the_kubelets(worker: Node, fake_kubelet: FakeKubelet):
    """Dynamic resource allocation: behind what device plugins handed out."""
    handed(fake_kubelet, VFS[:1])
    version, driver = "resource.k8s.io/v1", "sriov.example.com"
    result = {"request": "nic", "driver": driver, "pool": "n", "device": "vf"}
    claim = {"name": "claim", "namespace": "telco"}
    allocation = {"allocation": {"devices": {"results": [result]}}}
    worker.write(
        {"apiVersion": version, "kind": "ResourceClaim", "metadata": claim, "spec": {}, "status": allocation}
    )
    told = {"k8s.cni.cncf.io/deviceID": VFS[1], "k8s.cni.cncf.io/resourceName": SRIOV}
    attributes = {key: {"string": value} for key, value in told.items()}
    devices = [{"name": "vf", "attributes": attributes}]
    spec = {"driver": driver, "pool": {"name": "n", "generation": 1}, "devices": devices}
    worker.write({"apiVersion": version, "kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": spec})
    annotations = {"k8s.v1.cni.cncf.io/networks": "probe,probe2"}
    metadata = {"name": "p", "namespace": "telco", "annotations": annotations}
    claims = [{"name": "nic", "resourceClaimName": "claim"}]
    worker.write(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"resourceClaims": claims}}
    )

    worker.add()

    assert VFS == [given(worker, f"ADD-net{n}")["deviceID"] for n in (1, 2)]
    worker.delete()


def test_the_example_is_attached_as_it_stands(
    node: Node, fake_kubelet: FakeKubelet, sysfs: Path, host: Socket, pod: PodNetns
):
    """What a user copies: a resource of a device plugin, two networks of it, a pod that asks for two."""
    node.settings["store"] = {"directory": str(TOP / "examples" / "devices")}
    node.settings["kubeletDir"] = str(fake_kubelet.directory)
    resource = [("example.com/n3", [each]) for each in VFS]
    fake_kubelet.answer({**pod_of(("upf", resource)), "name": "upf", "namespace": "core"})
    for name in ("vf0", "vf1"):
        host.request([link.create_pair(name, f"{name}peer")])

    node.add(CNI_ARGS="K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf")

    inside = {each.name: each.alias for each in link.dump(pod.socket)}
    assert ("vf1", "vf0") == (inside["n3"], inside["n9"])
    assert {"10.30.0.10/24"} == pod.addresses("n3")
    node.delete()
    assert {"vf0", "vf1"} <= {each.name for each in link.dump(host)}
