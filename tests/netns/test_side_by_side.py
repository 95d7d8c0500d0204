"""parallelAttachments: executed secondaries at the same time, and everything else as without it."""

import json
from typing import Any

import pytest
from pytest_mock import MockerFixture

from delegates.external import External
from tests.netns.conftest import Node, PodNetns

MEET = """
cat > /dev/null
touch {root}/$CNI_COMMAND-$CNI_IFNAME
for n in $(seq 1000); do
    if [ -e {root}/$CNI_COMMAND-{other} ]; then
        [ $CNI_COMMAND = ADD ] || exit 0
        nsenter --net=$CNI_NETNS ip link add $CNI_IFNAME type veth peer peer-$CNI_IFNAME
        {more}
        echo '{{"cniVersion": "1.1.0"}}'
        exit 0
    fi
    sleep 0.01
done
echo '{{"code": 100, "msg": "nobody came"}}'
exit 1
"""
"""A plugin that goes on when another one runs at the same time."""
DIARY = """
cat > /dev/null
echo $CNI_COMMAND $CNI_IFNAME >> {root}/diary
if [ $CNI_IFNAME = {bad} ] && [ $CNI_COMMAND = ADD ]; then
    echo '{{"code": 100, "msg": "'$CNI_IFNAME' broke"}}'
    exit 1
fi
echo '{{"cniVersion": "1.1.0"}}'
"""


@pytest.fixture
def parallel(node: Node) -> Node:
    """A node with the option on; networks `first` and `second` are executed, `bridge` is built in."""
    node.settings = {"parallelAttachments": True}
    for name in ("first", "second"):
        node.nad(name, {"cniVersion": "1.1.0", "name": name, "type": name})
    node.nad("bridge", node.bridge("bridge", 12))
    node.annotate("first,bridge,second")
    return node


def meeting(node: Node, **more: str) -> None:
    """Both plugins wait for each other."""
    for name, other in (("first", "net3"), ("second", "net1")):
        node.script(name, MEET.format(root=node.root, other=other, more=more.get(name, "")))


def test_executed_secondaries_run_at_the_same_time_and_are_told_in_their_order(parallel: Node, pod: PodNetns):
    """Each waits for the other; one after the other, the first would wait for ever."""
    meeting(parallel)

    result = parallel.add()

    inside = [each["name"] for each in result["interfaces"] if each.get("sandbox")]
    assert ["eth0", "net1", "net2", "net3"] == inside
    told = [each["name"] for each in parallel.status()]
    assert ["default", "telco/first", "telco/bridge", "telco/second"] == told
    assert {"eth0", "net1", "net2", "net3"} <= set(pod.links())


def test_they_are_detached_at_the_same_time(parallel: Node, pod: PodNetns):
    """Deletions wait for the kernel; side by side they wait together."""
    meeting(parallel)
    parallel.add()

    parallel.delete()

    assert (parallel.root / "DEL-net1").exists()
    assert (parallel.root / "DEL-net3").exists()


def test_they_are_detached_when_the_pod_has_gone(parallel: Node):
    """An empty CNI_NETNS: each plugin still gets its DEL."""
    meeting(parallel)
    parallel.add()

    parallel.delete(CNI_NETNS="")

    assert (parallel.root / "DEL-net1").exists()
    assert (parallel.root / "DEL-net3").exists()


def test_a_default_route_that_one_of_them_brings_does_not_stay(parallel: Node, pod: PodNetns):
    """The default network keeps it, as without the option."""
    brings = (
        "ip='nsenter --net='$CNI_NETNS' ip'; $ip link set net1 up; $ip link set peer-net1 up;"
        "$ip address add 10.77.0.2/24 dev net1; $ip route append default via 10.77.0.1 dev net1"
    )
    meeting(parallel, first=brings)

    parallel.add()

    assert {"eth0"} == {interface for _, interface in pod.defaults()}


@pytest.mark.parametrize("bad", ["net1", "net3"])
def test_when_one_fails_everything_is_undone(parallel: Node, bad: str):
    """The other ones' attachments too, whether they were faster or slower."""
    before = parallel.traces()
    for name in ("first", "second"):
        parallel.script(name, DIARY.format(root=parallel.root, bad=bad))

    error = parallel.fail()

    assert f"{bad} broke" in error["msg"]
    lines = (parallel.root / "diary").read_text().splitlines()
    assert {"ADD net1", "ADD net3", "DEL net1", "DEL net3"} == set(lines)
    (parallel.root / "diary").unlink()
    after = parallel.traces()
    for name in ("first", "second"):
        after["files"].pop(f"bin/{name}")
    assert before == after


def test_all_failures_are_told(parallel: Node):
    """One at a time would mean one try at a time."""
    parallel.script("first", DIARY.format(root=parallel.root, bad="net1"))
    parallel.script("second", DIARY.format(root=parallel.root, bad="net3"))

    error = parallel.fail()

    assert "net1 broke" in json.dumps(error)
    assert "net3 broke" in json.dumps(error)


def test_a_bug_of_ours_undoes_everything_too(parallel: Node, mocker: MockerFixture):
    """Code 999, and no attachment left."""
    for name in ("first", "second"):
        parallel.script(name, DIARY.format(root=parallel.root, bad="none"))
    add = External.add

    def buggy(external: External, previous: Any) -> Any:
        if external.attachment.interface == "net3":
            raise RuntimeError("oops")
        return add(external, previous)

    mocker.patch.object(External, "add", buggy)

    error = parallel.fail()

    assert 999 == error["code"]
    assert {"DEL net1", "DEL net3"} < set((parallel.root / "diary").read_text().splitlines())


def test_without_the_option_they_run_one_after_the_other(parallel: Node):
    """As the NPWG standard says."""
    parallel.settings = {}
    for name in ("first", "second"):
        parallel.script(name, DIARY.format(root=parallel.root, bad="none"))

    parallel.add()
    parallel.delete()

    expected = ["ADD net1", "ADD net3", "DEL net3", "DEL net1"]
    assert expected == (parallel.root / "diary").read_text().splitlines()
