"""What the daemon is put together with."""

import json
import platform
import resource
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from meta_cni import __version__, node
from meta_cni.cni.errors import BadConfig, CNIError
from meta_cni.engine.ledger import Entry, Executed, Ledger, Record
from meta_cni.k8s.events import Occurrence, Recorder
from meta_cni.metrics import Made, Timeline
from meta_cni.node import Node, Told, Wanted
from tests.kubelet import FakeKubelet, pod

INFINITE = resource.RLIM_INFINITY
CASES = [
    # soft, hard; callers, soft limit afterwards
    ((1024, 4096), (1064, 2408)),
    ((1024, INFINITE), (1064, 2408)),
    ((65536, 65536), (1064, 65536)),
    ((1024, 2000), (656, 2000)),
    ((100, 100), (8, 100)),
]


@pytest.mark.parametrize(("limits", "expected"), CASES)
def test_workers_have_descriptors_left_whoever_calls(
    mocker, limits: tuple[int, int], expected: tuple[int, int]
):
    """An ADD that cannot open a socket fails; one that waits to be accepted does not."""
    mocker.patch.object(node.resource, "getrlimit", return_value=limits)
    raised = mocker.patch.object(node.resource, "setrlimit")

    connections = node._connections(workers=8, queue=1000)

    soft = raised.call_args.args[1][0] if raised.called else limits[0]
    assert expected == (connections, soft)


@pytest.fixture
def daemon(tmp_path: Path) -> Node:
    """Put together, and not started."""
    return Node(Wanted(tmp_path / "d" / "s", tmp_path / "spool", "error", workers=1, queue=1))


def record(interface: str, directory: Path, *, is_builtin: bool = True, name: str = "pool") -> Record:
    """An attachment with addresses from a directory."""
    ipam = {"type": "host-local", "dataDir": str(directory), "subnet": "10.1.0.0/24"}
    stdin = json.dumps({"cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": ipam})
    return Record(
        container_id="c",
        request="eth0",
        request_network="node",
        network=f"telco/{name}",
        interface=interface,
        config_name=name,
        cni_version="1.0.0",
        netns="",
        netns_identity="",
        executed=(Executed("tuning", True, '{"type": "tuning"}'), Executed("bridge", is_builtin, stdin)),
        cni_args={},
        path=(),
        deadline_s=1.0,
    )


def told(daemon: Node) -> dict[tuple[str, str], float]:
    return {
        (each.name.removeprefix("meta_cni_"), each.labels.get("network", "")): each.value
        for each in daemon.readings()
    }


def test_pools_of_a_ledger_from_before_are_told_and_a_range_once(daemon: Node, tmp_path: Path):
    """A daemon that starts again knows no call yet; and a scrape with two series of one name is refused."""
    ledger = Ledger(tmp_path / "state" / "ledger")
    one, two = tmp_path / "one", tmp_path / "two"
    records = (record("eth0", one), record("net1", two), record("net2", one, is_builtin=False, name="other"))
    ledger.write(Entry("c", records=records))
    for directory in (one / "pool", two / "pool", one / "other"):
        directory.mkdir(parents=True)
        for name in ("10.1.0.2", "10.1.0.3", "10.9.9.9", "lock", "last_reserved_ip.0"):
            (directory / name).touch()
    daemon.memory.state_directories.add(str(tmp_path / "state"))

    exposed = daemon.metrics.exposed().decode().splitlines()
    pools = [each for each in exposed if each.startswith("meta_cni_pool_")]

    assert 4 == len(pools) == len({each.rpartition(" ")[0] for each in pools})
    found = told(daemon)
    assert (4, 502) == (found["pool_used_addresses", "pool"], found["pool_free_addresses", "pool"])
    assert (2, 251) == (found["pool_used_addresses", "other"], found["pool_free_addresses", "other"])
    assert (1, 1) == (found["ledger_entries", ""], found["ledger_incomplete_entries", ""])


def test_what_an_executed_plugin_wrote_lies_below_the_node_s_root(tmp_path: Path):
    """A daemon in a container sees the node's files elsewhere than the plugin that it executes there."""
    memory = node.compose.Memory(root="/host")

    memory.learn_entry(Entry("c", records=(record("eth0", Path("/pools"), is_builtin=False),)))
    memory.learn_entry(Entry("c", records=(record("eth0", Path("/pools")),)))

    assert {("pool", "/host/pools/pool"), ("pool", "/pools/pool")} == {key for key, _ in memory.pools.items()}


def test_a_pool_that_cannot_be_understood_is_left_out(tmp_path: Path):
    """An executed plugin may take what we refuse."""
    memory = node.compose.Memory()
    bad = Executed("x", False, '{"type": "x", "ipam": {"type": "host-local", "subnet": "none"}}')

    memory.learn_entry(Entry("c", records=(replace(record("eth0", tmp_path), executed=(bad,)),)))

    assert [] == memory.pools.items()


def test_what_runs_here_is_told(daemon: Node):
    """Whoever compares nodes wants to know which version they have."""
    (line,) = [
        each for each in daemon.metrics.exposed().decode().splitlines() if each.startswith("meta_cni_build")
    ]

    python = platform.python_version()
    assert f'meta_cni_build_info{{python="{python}",version="{__version__}"}} 1.0' == line


@pytest.mark.parametrize("verb", ["STATUS", "none"])
def test_a_request_is_answered_as_it_was_though_it_cannot_be_told(verb: str, caplog):
    """An ADD that is done and not answered would stay for ever."""

    def tell(*_: object) -> None:
        raise ZeroDivisionError("told")

    stdin = json.dumps({"cniVersion": "1.1.0", "name": "n", "type": "meta-cni", "clusterNetwork": "none"})
    variables = {"CNI_COMMAND": verb, "CNI_PATH": "/none"}
    expected = node.compose.serve(variables, stdin.encode(), node.compose.Memory())

    printed = node.compose.serve(variables, stdin.encode(), node.compose.Memory(tell=tell))

    assert expected == printed
    assert "a bug in meta-cni" in caplog.messages


def test_a_kubelet_that_was_needed_and_is_not_there_is_told(daemon: Node, tmp_path: Path):
    """Its directory is not mounted into the container: no pod with a device can be attached."""
    before = daemon.problems()
    daemon.memory.kubelet(str(tmp_path / "k"), 1).allocation("telco", "p", "u")

    after = [each for each in daemon.problems() if each not in before]

    assert [True] == [
        each.startswith(f"find the kubelet's devices: expected {tmp_path}/k/") for each in after
    ]
    assert (1, 1) == tuple(told(daemon)[f"kubelet_{each}", ""] for each in ("questions", "failures"))


def test_a_kubelet_that_answers_is_counted_and_no_problem(daemon: Node, fake_kubelet: FakeKubelet):
    """One object for all requests, which remembers whether there is Get."""
    fake_kubelet.answer(pod(("app", [])))
    before = daemon.problems()

    for _ in range(2):
        daemon.memory.kubelet(str(fake_kubelet.directory), 30).allocation("telco", "p", "u")

    assert before == daemon.problems()
    assert (2, 0) == tuple(told(daemon)[f"kubelet_{each}", ""] for each in ("questions", "failures"))


def served(verb: str, cluster: str | None, error: CNIError | None = None) -> Told:
    """A request for a pod with two networks."""
    args = "K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID=0a"
    variables = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_ARGS": args}
    made = [Made("telco/a", "net1", ("10.0.0.2/24",)), Made("telco/b", "net2", ())]
    return variables, Timeline(made=made if verb == "ADD" else [], cluster=cluster), error


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([served("ADD", "")], ["Add net1 [10.0.0.2/24] from telco/a", "Add net2 [] from telco/b"]),
        ([served("ADD", None)], []),
        ([served("ADD", ""), served("DEL", "")], []),
        ([served("ADD", "", BadConfig("no mode"))], ["no mode"]),
        ([served("DEL", ""), served("ADD", "", BadConfig("no mode"))], ["no mode"]),
    ],
    ids=["made", "no cluster", "undone for its caller was gone", "failed", "failed and undone"],
)
def test_events_are_of_what_is_there(daemon: Node, mocker, calls: list[Told], expected: list[str]):
    """An attachment that was undone before anybody heard of it never was."""
    recorded: list[Occurrence] = []
    mocker.patch.object(daemon.recorders, "record", lambda cluster, told: recorded.extend(told))
    for each in calls:
        daemon.tell(*each)

    daemon._finish()

    assert expected == [each.message for each in recorded]


def test_events_are_counted(daemon: Node):
    """Those that were dropped by their reasons."""
    recorder = Recorder(None, "node")  # type: ignore[arg-type]
    recorder.sent = 4
    recorder.dropped.update({"queue full": 2, "refused": 1})
    daemon.recorders._known["kubeconfig"] = recorder, threading.Thread()

    found = {
        (each.name.removeprefix("meta_cni_events_"), each.labels.get("reason", "")): each.value
        for each in daemon.readings()
        if each.name.startswith("meta_cni_events_")
    }

    dropped = {("dropped", "queue full"): 2, ("dropped", "refused"): 1}
    assert {("sent", ""): 4, ("waiting", ""): 0, **dropped} == found
