"""What a daemon tells of itself while it works: metrics, probes, and a line for each request."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.linux import link
from meta_cni.linux.netlink import Socket
from tests.netns.conftest import Node, PodNetns
from tests.netns.daemons import PORT, Daemon, metrics, page, until


@pytest.fixture
def daemon(tmp_path: Path, host: Socket) -> Iterator[Daemon]:
    """A daemon that serves its metrics on the private node's loopback."""
    host.request([link.set_link(1, is_up=True)])
    made = Daemon(tmp_path, "--http", f"127.0.0.1:{PORT}", "--queue", "3", "--workers", "2")
    (tmp_path / "d").mkdir(mode=0o700)
    made.start()
    yield made
    made.close()


def logged(daemon: Daemon) -> list[dict[str, Any]]:
    """The requests in its log; every line is JSON."""
    whole = daemon.log.read_text().rpartition("\n")[0]  # it may be writing
    records = [json.loads(line) for line in whole.splitlines()]
    return [each for each in records if "verb" in each]


def test_requests_plugins_and_pools_are_told(daemon: Daemon, node: Node, pod: PodNetns):
    """What an operator asks when a node is slow, or runs out of addresses."""
    node.nad("one", node.bridge("one", 11))
    node.nad("bad", {"cniVersion": "1.1.0", "name": "bad", "type": "none"})
    node.annotate("one")
    given = node.configuration() | {"password": "secret"}
    until(lambda: page("/readyz") == (200, "ok\n"))

    answer, code = daemon.call("ADD", "c1", pod.path, "p", given)
    assert 0 == code, answer
    node.annotate("bad")
    assert 0 != daemon.call("ADD", "c2", pod.path, "p", given)[1]

    counted = 'meta_cni_request_duration_seconds_count{verb="ADD"}'
    until(lambda: metrics().get(counted) == 2)  # it is counted when the answer is out
    until(lambda: not metrics()["meta_cni_requests_in_flight"])
    told = metrics()
    assert 1 == told['meta_cni_network_duration_seconds_count{network="telco/one",verb="ADD"}']
    assert 2 == told['meta_cni_delegate_duration_seconds_count{how="built in",type="bridge",verb="ADD"}']
    assert 1 == sum(value for name, value in told.items() if name.startswith("meta_cni_errors_total"))
    assert 1 == told['meta_cni_pool_used_addresses{network="one",range="10.11.0.1-10.11.0.254"}']
    assert 252 == told['meta_cni_pool_free_addresses{network="one",range="10.11.0.1-10.11.0.254"}']
    assert 1 == told["meta_cni_ledger_entries"]
    assert (0, 0, 2) == (
        told["meta_cni_queue_length"],
        told["meta_cni_requests_in_flight"],
        told["meta_cni_workers"],
    )
    good, bad = logged(daemon)
    assert ("ADD", "c1", "telco/p", 0) == tuple(good[key] for key in ("verb", "sandbox", "pod", "code"))
    assert [("eth0", "every key is built in"), ("net1", "every key is built in")] == [
        (each["interface"], each["why"]) for each in good["plugins"]
    ]
    steps = "parse lock pod plan prepare ledger attach status answer"
    assert steps.split() == list(good["steps"])
    assert "find plugin 'none'" in bad["error"]
    assert "secret" not in daemon.log.read_text()


def test_a_failing_plugin_is_told_in_its_own_words_and_no_secret_of_its_configuration(
    daemon: Daemon, node: Node, pod: PodNetns
):
    """Logs go where configurations do not; what a plugin says is its own affair."""
    node.script("vpn", """cat > /dev/null; echo '{"code": 120, "msg": "the peer says no"}'; exit 1""")
    network = {"cniVersion": "1.1.0", "name": "vpn", "type": "vpn", "password": "hunter1"}
    node.nad("vpn", network)
    node.nad("key", node.bridge("key", 12, apiToken="hunter2", auth={"password": "hunter3"}))
    node.annotate("vpn")
    given = node.configuration() | {"password": "hunter4"}

    answer, _ = daemon.call("ADD", "c1", pod.path, "p", given)
    node.annotate("key")
    node.script("bridge", """cat > /dev/null; echo '{"code": 121, "msg": "never"}'; exit 1""")
    daemon.call("ADD", "c2", pod.path, "p", given)

    assert 120 == answer["code"]
    until(lambda: 2 == len(logged(daemon)))  # a line comes when the answer is out
    assert 1 == metrics()['meta_cni_errors_total{code="120",verb="ADD"}']
    first, second = logged(daemon)
    assert "the peer says no" in first["error"]
    ran = {(each["interface"], each["verb"]): each for each in second["plugins"]}
    executed = ran["net1", "ADD"]
    assert ("apiToken is not built in", True) == (executed["why"], executed["failed"])
    assert "hunter" not in daemon.log.read_text()


def test_a_daemon_that_starts_again_knows_pools_and_what_is_not_complete(
    daemon: Daemon, node: Node, pod: PodNetns
):
    """The ledger says it, though nobody has called but for STATUS."""
    node.script("hangs", "cat > /dev/null; [ $CNI_COMMAND != ADD ] || exec sleep 600")
    node.nad("hangs", {"cniVersion": "1.1.0", "name": "hangs", "type": "hangs"})
    node.annotate("hangs")
    given = node.configuration()
    waiting = daemon.asked("ADD", "c1", pod.path, "p", given)
    until(lambda: metrics()["meta_cni_ledger_incomplete_entries"] == 1 and "eth0" in pod.links())

    daemon.kill()
    waiting.communicate(timeout=60)
    daemon.start()
    assert 0 == daemon.call("STATUS", "", "", "", given)[1]
    until(lambda: "meta_cni_ledger_entries" in metrics())

    told = metrics()
    label = '{network="default",range="10.244.0.1-10.244.0.254"}'
    assert (1, 1) == (told["meta_cni_ledger_entries"], told["meta_cni_ledger_incomplete_entries"])
    assert (1, 252) == tuple(told[f"meta_cni_pool_{each}_addresses{label}"] for each in ("used", "free"))
    assert 0 == daemon.call("DEL", "c1", pod.path, "p", given)[1]
    told = metrics()
    assert (0, 0) == (told["meta_cni_ledger_entries"], told[f"meta_cni_pool_used_addresses{label}"])


def test_a_state_directory_that_cannot_be_written_is_told(daemon: Daemon, node: Node, pod: PodNetns):
    """/readyz says which, and why no pod can be attached."""
    given = node.configuration()
    assert 0 == daemon.call("ADD", "c1", pod.path, "p", given)[1]
    assert 0 == daemon.call("DEL", "c1", pod.path, "p", given)[1]
    until(lambda: page("/readyz")[0] == 200)
    state = node.root / "state"
    os.rename(state, node.root / "away")
    state.symlink_to("/proc/self")  # a directory in which nobody can make anything

    try:
        assert (503, f"write the ledger in {state}: expected a directory that can be written\n") == page(
            "/readyz"
        )
    finally:
        state.unlink()


def test_a_daemon_that_drains_is_not_ready(daemon: Daemon, node: Node, pod: PodNetns):
    """Alive, and not to be sent any more work; its metrics are there until the end."""
    node.script("slow", f"cat > /dev/null; while [ ! -e {node.root}/go ]; do sleep 0.02; done; echo '{{}}'")
    node.settings = {"delegates": [{"cniVersion": "1.1.0", "name": "n", "type": "slow"}]}
    waiting = daemon.asked("ADD", "c1", pod.path, "p", node.configuration())
    until(lambda: metrics()["meta_cni_requests_in_flight"] == 1)

    daemon.running.terminate()
    until(lambda: page("/readyz") == (503, "stopping: what was taken on is finished\n"))
    alive = page("/healthz")
    (node.root / "go").touch()

    assert (200, "ok\n") == alive
    waiting.communicate(timeout=60)
    assert 0 == daemon.running.wait(60)
