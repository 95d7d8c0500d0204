"""The daemon as a process of its own, with more to do than it can, and what it has afterwards."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from meta_cni.daemon import wire
from meta_cni.daemon.wire import Call
from tests.netns import daemons
from tests.netns.conftest import Node, PodNetns
from tests.netns.daemons import Daemon, answer_of, until

WAVE = 500
GROWTH_MB = 4.0
"""What a second wave may cost: none is expected, the allocator keeps what it likes."""
Start = Callable[..., Daemon]


@pytest.fixture
def start(node: Node) -> Iterator[Start]:
    """Start a daemon under the node's directory."""
    with ExitStack() as stack:

        def started(*options: str, **more: Any) -> Daemon:
            made = Daemon(node.root, "--log-level", "error", *options)
            stack.callback(made.close)
            made.start(**more)
            return made

        yield started


def sent(daemon: Daemon, node: Node, verb: str, container: str, path: str, **more: str) -> socket.socket:
    """A shim's call without its process, of which 500 at once would be the load; it waits."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(daemons.WAIT_S)
    made.connect(str(daemon.socket))
    variables = {**daemon.environment(verb, container, path, "p"), **more}
    made.sendall(wire.request(Call(variables, json.dumps(node.configuration()).encode())))
    made.shutdown(socket.SHUT_WR)
    return made


def answered(caller: socket.socket) -> tuple[dict[str, Any], int]:
    data = b""
    with caller:
        while got := caller.recv(65536):
            data += got
    printed, code = wire.parse_answer(data)
    return (json.loads(printed) if printed else {}), code


def call(
    daemon: Daemon, node: Node, verb: str, container: str, path: str, **more: str
) -> tuple[dict[str, Any], int]:
    return answered(sent(daemon, node, verb, container, path, **more))


def wave(daemon: Daemon, node: Node, names: list[str]) -> list[str]:
    """An ADD each, at once; the containers that were attached. Everything else was refused for now."""
    callers = {name: sent(daemon, node, "ADD", name, node.pod.path, CNI_IFNAME=name) for name in names}
    answers = {name: answered(caller) for name, caller in callers.items()}
    refused = {name: answer for name, (answer, code) in answers.items() if code}
    assert {11} >= {each["code"] for each in refused.values()}, refused
    assert all("calls are waiting already" in each["msg"] for each in refused.values())
    return [name for name in names if name not in refused]


def settled(daemon: Daemon, most_threads: int) -> tuple[int, int]:
    """Threads and descriptors of a daemon that has done everything."""
    until(lambda: daemon.threads <= most_threads)
    last = -1
    while last != (last := daemon.descriptors):
        time.sleep(0.5)
    return daemon.threads, last


@pytest.mark.slow
def test_a_wave_of_calls_is_served_or_refused_and_costs_nothing_that_stays(start: Start, node: Node):
    """A node that boots starts all its pods at once: a bounded queue, no thread a call, no leak."""
    workers = 4
    daemon = start("--workers", str(workers), "--queue", "60")
    idle = daemon.threads
    node.settings = {"delegates": [node.bridge("default", 244)]}
    names = [f"c{number}" for number in range(WAVE)]
    for verb in ("ADD", "DEL"):
        assert 0 == call(daemon, node, verb, "first", node.pod.path)[1]
    threads, descriptors = settled(daemon, idle)
    afterwards: list[tuple[int, int]] = []
    resident: list[float] = []

    for _ in range(2):
        attached = wave(daemon, node, names)
        assert 60 <= len(attached) < WAVE
        for name in attached:
            assert 0 == call(daemon, node, "DEL", name, node.pod.path, CNI_IFNAME=name)[1]
        afterwards.append(settled(daemon, idle))
        resident.append(daemon.resident_mb)

    most = descriptors + daemons.KEPT_DESCRIPTORS * (workers - 1)
    assert afterwards[0] == afterwards[1]
    assert threads == afterwards[1][0]
    assert descriptors <= afterwards[1][1] <= most
    assert resident[1] - resident[0] < GROWTH_MB
    assert 0 == daemon.stop()


def slow(node: Node, seconds: str) -> dict[str, Any]:
    """A network whose plugin takes its time on ADD, in a child of its own."""
    node.script(
        "slow",
        f'[ "$CNI_COMMAND" = ADD ] && {{ sleep {seconds} & echo $! >> {node.root}/child; wait; }}\n'
        """echo '{"cniVersion": "1.0.0"}'""",
    )
    return {"cniVersion": "1.0.0", "name": "slow", "type": "slow"}


@pytest.mark.slow
def test_one_pod_s_slow_delegate_does_not_hold_up_others(
    start: Start, node: Node, pods: Callable[[str], PodNetns]
):
    """Nor do the calls that wait behind it for the same pod."""
    daemon = start("--workers", "2")
    other = pods("other")
    node.nad("slow", slow(node, "600"))
    node.annotate("slow")
    waiting = [sent(daemon, node, verb, "slow", node.pod.path) for verb in ("ADD", "CHECK", "CHECK", "DEL")]
    until(lambda: children(node))
    node.annotate()

    codes = [call(daemon, node, verb, "fast", other.path)[1] for verb in ("ADD", "CHECK", "DEL") * 5]

    assert [0] * 15 == codes
    (child,) = children(node)
    until(lambda: [child] == executing(daemon))
    os.kill(child, signal.SIGTERM)
    assert [0, 0, 0, 0] == [answered(each)[1] for each in waiting]
    assert 0 == daemon.stop()


def children(node: Node) -> list[int]:
    """Of the slow plugins."""
    path = node.root / "child"
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def executing(daemon: Daemon) -> list[int]:
    """The children that sleep."""
    found = []
    for each in daemon.executed():
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{each}/comm").read_text() == "sleep\n":
                found.append(each)
    return found


@pytest.mark.slow
def test_a_delegate_that_hangs_is_killed_with_all_it_started_and_the_add_undone(start: Start, node: Node):
    """At its deadline; the error names it."""
    daemon = start("--workers", "2")
    node.nad("hanging", slow(node, "600"))
    node.annotate("hanging")
    node.settings = {"delegateTimeout": 1}
    before = node.traces()

    answer, code = call(daemon, node, "ADD", "c1", node.pod.path)

    assert 1 == code
    assert "network slow: plugin slow: no answer within 1 s, it was killed" in answer["msg"]
    assert before == {**node.traces(), "files": before["files"]}
    until(lambda: not daemon.executed())  # they are killed before the answer, and die when they are woken
    assert not [each for each in (node.root / "ipam").rglob("10.*")]
    assert 0 == daemon.stop()


@pytest.mark.slow
def test_sigterm_lets_everything_be_answered_that_was_taken_on(
    start: Start, node: Node, pods: Callable[[str], PodNetns]
):
    """Twenty calls in work: an upgrade costs nobody his ADD."""
    daemon = start("--workers", "20")
    node.nad("slow", slow(node, "1"))
    node.annotate("slow")
    names = [f"c{each}" for each in range(20)]
    namespaces = {name: pods(name) for name in names}
    callers = [sent(daemon, node, "ADD", name, namespaces[name].path) for name in names]
    until(lambda: len(children(node)) == 20)

    code = daemon.stop()

    assert 0 == code
    assert [0] * 20 == [answered(each)[1] for each in callers]
    assert [] == list(daemon.socket.parent.iterdir())
    daemon.start()
    node.annotate()
    assert [0] * 20 == [call(daemon, node, "DEL", name, namespaces[name].path)[1] for name in names]


@pytest.mark.slow
def test_a_plugin_of_a_killed_daemon_is_ended_by_the_next_one_before_its_add_is_undone(
    start: Start, node: Node
):
    """Else it attaches a pod that has been deleted."""
    daemon = start("--workers", "2")
    node.nad("slow", slow(node, "600"))
    node.annotate("slow")
    caller = daemon.asked("ADD", "c1", node.pod.path, "p", node.configuration())
    until(lambda: children(node) and children(node) == executing(daemon))

    daemon.kill()
    answer, code = answer_of(caller)
    deleted = daemon.call("DEL", "c1", node.pod.path, "p", node.configuration())
    left = executing(daemon)
    daemon.start()

    assert (1, 11, ({}, 0)) == (code, answer["code"], deleted)
    assert children(node) == left
    until(lambda: not daemon.executed())
    until(lambda: not list(daemon.spool.iterdir()))
    assert [] == node.pod.links()
    assert [] == [each for each in (node.root / "state" / "ledger").iterdir() if each.is_file()]


@pytest.mark.slow
def test_few_descriptors_make_it_slower_and_nothing_else(start: Start, node: Node):
    """No call is lost, and the processor is not burnt while there is none for the next caller."""
    soft = 40

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))

    daemon = start("--workers", "2", preexec_fn=limit)
    idle = []
    for _ in range(soft):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.connect(str(daemon.socket))
        idle.append(made)
    until(lambda: "accept a call: " in daemon.log.read_text())
    time.sleep(2)
    for each in idle:
        each.close()

    codes = [call(daemon, node, verb, "c1", node.pod.path)[1] for verb in ("ADD", "CHECK", "DEL")]

    assert [0, 0, 0] == codes
    assert daemon.log.read_text().count("accept a call: ") < 100
    assert 0 == daemon.stop()


@pytest.fixture
def reachable(node: Node) -> Iterator[Daemon]:
    """A daemon whose directories any user may come to; its shim needs nothing that only root has."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    root = Path("/run/reachable")
    root.mkdir()
    made = Daemon(root)
    if len(made.shim) > 1:
        pytest.skip("no C compiler")
    made.start()
    yield made
    made.close()
    shutil.rmtree(root)


MODES = [
    (0o700, 0o600, "Permission denied"),
    (0o755, 0o600, "Permission denied"),
    (0o755, 0o666, "call by user 65534: expected root"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("directory", "file", "told"), MODES)
def test_another_user_is_kept_out(reachable: Daemon, node: Node, directory: int, file: int, told: str):
    """By the directory's mode, else by the socket's, else by the kernel's word of who calls."""
    is_made_so = (reachable.socket.parent.stat().st_mode & 0o777, reachable.socket.stat().st_mode & 0o777)
    reachable.socket.parent.chmod(directory)
    reachable.socket.chmod(file)

    done = subprocess.run(
        reachable.shim,
        input=b"x" * 300_000,
        env=reachable.environment("ADD", "c1", node.pod.path, "p"),
        capture_output=True,
        user=65534,
        group=65534,
        extra_groups=[],
    )

    assert (0o700, 0o600) == is_made_so
    assert 1 == done.returncode
    assert told in json.loads(done.stdout)["msg"]
    assert 0 == call(reachable, node, "STATUS", "", "")[1]


@pytest.mark.slow
def test_a_del_that_always_fails_keeps_nobody_and_is_said(
    start: Start, node: Node, pods: Callable[[str], PodNetns]
):
    """It stays in the spool, where it can be seen; its own container waits for it."""
    node.nad("stuck", {"cniVersion": "1.0.0", "name": "stuck", "type": "stuck"})
    node.script(
        "stuck",
        f'[ -e {node.root}/broken ] && [ "$CNI_COMMAND" = DEL ] && exit 1\n'
        """echo '{"cniVersion": "1.0.0"}'""",
    )
    node.annotate("stuck")
    daemon = start()
    other = pods("other")
    calls = {name: (name, path) for name, path in (("stuck", node.pod.path), ("other", other.path))}
    assert 0 == call(daemon, node, "ADD", *calls["stuck"])[1]
    node.annotate()
    assert 0 == call(daemon, node, "ADD", *calls["other"])[1]
    daemon.kill()
    (node.root / "broken").touch()
    for name, path in calls.values():
        assert ({}, 0) == daemon.call("DEL", name, path, "p", node.configuration())
    daemon.start()
    until(lambda: "it is tried again in" in daemon.log.read_text())

    again = call(daemon, node, "ADD", *calls["other"])
    refused, code = call(daemon, node, "ADD", *calls["stuck"])

    assert 0 == again[1]
    assert (1, 11) == (code, refused["code"])
    assert "container stuck: its last DEL is not done yet" in refused["msg"]
    assert 1 == len(list(daemon.spool.iterdir()))
    (node.root / "broken").unlink()
    assert 0 == call(daemon, node, "ADD", *calls["stuck"])[1]
    assert [] == list(daemon.spool.iterdir())
    for name, path in calls.values():
        assert 0 == call(daemon, node, "DEL", name, path)[1]


@pytest.mark.slow
def test_a_spool_on_a_full_disk_is_told_to_the_runtime(start: Start, node: Node):
    """Success would be a lie: it calls again, until it is true."""
    daemon = start()
    daemon.kill()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", daemon.spool], check=True)
    try:
        (daemon.spool / "other").write_bytes(b"x" * 4096)
        answer, code = daemon.call("DEL", "c1", node.pod.path, "p", node.configuration())
        left = [each.name for each in daemon.spool.iterdir()]
    finally:
        subprocess.run(["umount", daemon.spool], check=True)

    assert (1, 5, ["other"]) == (code, answer["code"], left)
    assert "No space left on device" in answer["msg"]


@pytest.mark.slow
def test_an_interrupt_stops_it_as_well(start: Start):
    """A person tries it out in a terminal."""
    daemon = start("--workers", "2")
    daemon.running.send_signal(signal.SIGINT)

    assert 0 == daemon.running.wait(daemons.WAIT_S)
    assert [] == list(daemon.socket.parent.iterdir())


@pytest.mark.slow
def test_a_spool_that_others_may_write_to_is_refused(node: Node):
    """Whatever they put there would be done as root."""
    daemon = Daemon(node.root)
    daemon.spool.mkdir()
    daemon.spool.chmod(0o777)

    code = daemon.launched().wait(daemons.WAIT_S)

    assert 1 == code
    assert f"use {daemon.spool}: it is not only ours" in daemon.log.read_text()


@pytest.mark.slow
def test_the_spool_is_there_before_a_shim_needs_it(node: Node):
    """A shim makes the directory, but none above it."""
    daemon = Daemon(node.root)
    daemon.spool = node.root / "lib" / "meta-cni" / "spool"
    daemon.start()
    daemon.kill()

    answer = daemon.call("DEL", "c1", node.pod.path, "p", node.configuration())

    assert ({}, 0) == answer
    assert 1 == len(list(daemon.spool.iterdir()))


def killing(node: Node, verb: str) -> dict[str, Any]:
    """A plugin that kills the daemon, once."""
    node.script(
        "killing",
        f'[ "$CNI_COMMAND" = {verb} ] && mkdir {node.root}/killed 2>/dev/null && kill -9 $PPID && sleep 600\n'
        """echo '{"cniVersion": "1.0.0"}'""",
    )
    return {"cniVersion": "1.0.0", "name": "killing", "type": "killing"}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_kill_between_two_delegates_leaves_nothing(start: Start, node: Node, verb: str, place: int):
    """Whichever it is: what was recorded is undone by the DEL that waits in the spool."""
    for number in (1, 2):
        node.nad(f"n{number}", node.bridge(f"n{number}", number))
    node.nad("killing", killing(node, verb))
    networks = ["n1", "n2"]
    networks.insert(place, "killing")
    node.annotate(",".join(networks))
    before = node.traces()
    daemon = start("--workers", "2")
    given = ("c1", node.pod.path, "p", node.configuration())

    added = daemon.call("ADD", *given)
    deleted = daemon.call("DEL", *given)
    daemon.running.wait(daemons.WAIT_S)
    waiting = len(list(daemon.spool.iterdir()))
    daemon.start()

    assert (1 if verb == "ADD" else 0, ({}, 0), 1) == (added[1], deleted, waiting)
    until(lambda: not list(daemon.spool.iterdir()))  # after ten seconds it serves others meanwhile
    left = node.traces()
    files = [each for each in left["files"] if each.startswith(("ipam", "state", "spool"))]
    assert ([], before["pod links"], before["pod routes"]) == (files, left["pod links"], left["pod routes"])
    assert not [each for each in left["host links"] if each.startswith("veth")]
    again = daemon.call("ADD", *given)
    assert 0 == again[1], again
    assert 0 == daemon.call("CHECK", *given[:3], {**given[3], "prevResult": again[0]})[1]
    assert 0 == daemon.call("DEL", *given)[1]
