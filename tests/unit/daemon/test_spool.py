"""DELs that waited for a daemon."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.cni.errors import IOFailure
from meta_cni.daemon import spool as spools
from meta_cni.daemon import wire
from meta_cni.daemon.spool import Spool
from meta_cni.daemon.wire import Call

Waits = Callable[..., None]


class Node:
    """What does the calls: DELs of some interfaces fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.done: list[str] = []

    def handle(self, call: Call) -> tuple[bytes, int]:
        told = " ".join(call.variables[each] for each in ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"))
        self.done.append(told)
        is_failing = call.variables["CNI_COMMAND"] == "DEL" and call.variables["CNI_IFNAME"] in self.failing
        return (b"no way", 1) if is_failing else (b"", 0)


def call_of(verb: str, container_id: str, interface: str = "eth0") -> Call:
    return Call({"CNI_COMMAND": verb, "CNI_CONTAINERID": container_id, "CNI_IFNAME": interface}, b"{}")


@pytest.fixture
def waits(tmp_path: Path) -> Waits:
    """Put a DEL of a container into a file."""

    def put(name: str, container_id: str, interface: str = "eth0") -> None:
        (tmp_path / name).write_bytes(wire.request(call_of("DEL", container_id, interface)))

    return put


def due(spool: Spool) -> dict[str, list[str]]:
    return {key: [each.path.name for each in mine] for key, mine in spool.due().items()}


def settle(spool: Spool, container_id: str, node: Node) -> list[str]:
    return spool.settle(spool.due()[container_id], node.handle)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def test_containers_are_told_in_the_order_they_came(tmp_path: Path, waits: Waits):
    """What is still being written is not there yet."""
    waits("2.request", "b")
    waits("1.request", "a")
    waits("4.request", "b", "eth1")
    waits("3.request.new", "c")

    assert {"a": ["1.request"], "b": ["2.request", "4.request"]} == due(Spool(tmp_path))


def test_the_requests_of_a_container_are_done_in_the_order_they_came_and_are_gone(
    tmp_path: Path, waits: Waits
):
    """Those of others are not touched."""
    waits("3.request", "a", "eth0")
    waits("1.request", "a", "eth1")
    waits("2.request", "b")
    node = Node()

    left = settle(Spool(tmp_path), "a", node)

    assert ([], ["DEL a eth1", "DEL a eth0"]) == (left, node.done)
    assert ["2.request"] == names(tmp_path)


def test_what_was_done_meanwhile_is_not_done_again(tmp_path: Path, waits: Waits):
    """A call of the container came first: by now there may be a new attachment."""
    waits("1.request", "a")
    spool, node = Spool(tmp_path), Node()
    mine = spool.due()["a"]
    spool.serve(call_of("ADD", "a"), node.handle)

    left = spool.settle(mine, node.handle)

    assert ([], ["DEL a eth0", "ADD a eth0"]) == (left, node.done)


def test_one_that_fails_stays_and_does_not_keep_the_others(tmp_path: Path, waits: Waits, caplog):
    """The runtime was told that it is done: nobody else will ever try again."""
    waits("1.request", "a", "eth0")
    waits("2.request", "a", "eth1")
    node = Node("eth0")

    left = settle(Spool(tmp_path), "a", node)

    assert ["spooled DEL 1.request: no way"] == left
    assert ["DEL a eth0", "DEL a eth1"] == node.done
    assert ["1.request"] == names(tmp_path)
    assert ["spooled DEL 1.request: no way: it is tried again in 5 s"] == caplog.messages


def test_one_that_fails_is_tried_less_and_less_often(tmp_path: Path, waits: Waits, mocker):
    """It may fail for ever, and must not cost more than a look now and then."""
    waits("1.request", "a")
    now = mocker.patch.object(spools.time, "monotonic", return_value=1000.0)
    spool, node = Spool(tmp_path), Node("eth0")
    tried: list[float] = []

    for second in range(1000):
        now.return_value = 1000.0 + second
        for each in spool.due().values():
            spool.settle(each, node.handle)
            tried.append(second)

    assert [0, 5, 15, 35, 75, 155, 315, 615, 915] == tried
    assert len(tried) == spool.failures


def test_one_that_works_at_last_is_gone(tmp_path: Path, waits: Waits, mocker):
    """That is what it was kept for."""
    waits("1.request", "a")
    now = mocker.patch.object(spools.time, "monotonic", return_value=1000.0)
    spool, node = Spool(tmp_path), Node("eth0")
    settle(spool, "a", node)
    node.failing.clear()
    now.return_value += 5

    left = [spool.settle(each, node.handle) for each in spool.due().values()]

    assert [[]] == left
    assert [] == names(tmp_path)


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_a_call_comes_after_the_dels_of_its_container(tmp_path: Path, waits: Waits, verb: str):
    """podman starts a container again under its id: the old DEL must not take the new attachment."""
    waits("1.request", "a")
    waits("2.request", "b")
    node = Node()

    answer = Spool(tmp_path).serve(call_of(verb, "a"), node.handle)

    assert ((b"", 0), ["DEL a eth0", f"{verb} a eth0"]) == (answer, node.done)
    assert ["2.request"] == names(tmp_path)


def test_an_add_is_refused_while_a_del_of_its_container_fails(tmp_path: Path, waits: Waits):
    """It would be done later, and take away what the ADD had made."""
    waits("1.request", "a")
    node = Node("eth0")

    printed, code = Spool(tmp_path).serve(call_of("ADD", "a"), node.handle)

    error = json.loads(printed)
    assert (1, 11) == (code, error["code"])
    assert "container a: its last DEL is not done yet: spooled DEL 1.request: no way" == error["msg"]
    assert ["DEL a eth0"] == node.done


def test_a_del_by_the_runtime_itself_drops_what_fails_of_that_attachment(tmp_path: Path, waits: Waits):
    """A configuration that was damaged then may be right now; of another attachment nothing is known."""
    waits("1.request", "a", "eth0")
    waits("2.request", "a", "eth1")
    node = Node("eth0", "eth1")
    answers = iter([(b"no", 1), (b"no", 1), (b"", 0)])

    answer = Spool(tmp_path).serve(call_of("DEL", "a"), lambda _: next(answers))

    assert (b"", 0) == answer
    assert ["2.request"] == names(tmp_path)
    assert 1 == Spool(tmp_path).serve(call_of("ADD", "a"), node.handle)[1]


def test_a_del_that_fails_as_well_drops_nothing(tmp_path: Path, waits: Waits):
    """Nothing has been undone."""
    waits("1.request", "a")
    node = Node("eth0")

    answer = Spool(tmp_path).serve(call_of("DEL", "a"), node.handle)

    assert ((b"no way", 1), ["1.request"]) == (answer, names(tmp_path))


def test_a_call_without_container_waits_for_nothing(tmp_path: Path, waits: Waits):
    """STATUS and GC are about no container."""
    waits("1.request", "a")
    node = Node()

    Spool(tmp_path).serve(call_of("STATUS", ""), node.handle)

    assert ["STATUS  eth0"] == node.done


def test_a_damaged_one_is_set_aside_and_told(tmp_path: Path, caplog):
    """It says nothing that could be done, and must not be tried for ever."""
    (tmp_path / "1.request").write_bytes(b"meta-cni 1 request 5 5\nabc")
    spool = Spool(tmp_path)

    told = spool.due(), spool.due()

    assert ({}, {}) == told
    assert ["1.damaged"] == names(tmp_path)
    assert 1 == len(caplog.messages)
    assert "expected 33" in caplog.messages[0]


def test_no_spool_is_an_empty_one(tmp_path: Path):
    """The shim makes it when it needs it."""
    assert {} == Spool(tmp_path / "none").due()


def test_a_spool_that_cannot_be_read_is_told_and_keeps_nobody(tmp_path: Path):
    """What waits there is not done; the others are served."""
    (tmp_path / "file").touch()
    spool, node = Spool(tmp_path / "file"), Node()

    answer = spool.serve(call_of("ADD", "a"), node.handle)

    assert (b"", 0) == answer
    with pytest.raises(IOFailure, match=r"read spool .*file: Not a directory"):
        spool.due()


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_spool_that_others_may_write_to_is_refused(tmp_path: Path, mode: int):
    """Whatever they put there would be done as root."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(mode)

    with pytest.raises(IOFailure, match=r"use .*spool: it is not only ours"):
        Spool(tmp_path / "spool").clear_unfinished()


def test_one_that_cannot_be_read_stays_and_is_told(tmp_path: Path, waits: Waits, caplog):
    """A directory of that name, or a broken disk."""
    (tmp_path / "1.request").mkdir()
    waits("2.request", "b")

    told = due(Spool(tmp_path))

    assert {"b": ["2.request"]} == told
    assert ["spooled DEL 1.request: read it: Is a directory"] == caplog.messages
    assert ["1.request", "2.request"] == names(tmp_path)


def test_one_that_cannot_be_removed_is_not_done(tmp_path: Path, waits: Waits, mocker):
    """The next daemon would do it again, to whatever is there by then."""
    waits("1.request", "a")
    mocker.patch.object(Path, "unlink", side_effect=OSError(30, "Read-only file system"))
    node = Node()

    printed, code = Spool(tmp_path).serve(call_of("ADD", "a"), node.handle)

    assert 1 == code
    assert b"Read-only file system" in printed
    assert ["DEL a eth0"] == node.done


def test_what_a_killed_shim_left_half_written_is_removed_in_time(tmp_path: Path, waits: Waits):
    """Its caller was not answered; one that is being written now is left alone."""
    waits("1.request.new", "a")
    waits("2.request.new", "a")
    waits("3.request", "a")
    long_ago = time.time() - spools.UNFINISHED_S - 1
    os.utime(tmp_path / "1.request.new", (long_ago, long_ago))

    Spool(tmp_path).clear_unfinished()

    assert ["2.request.new", "3.request"] == names(tmp_path)
