"""What was done is known, whatever happens to the machine."""

import errno
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from meta_cni.cni.errors import DamagedEntry, IOFailure, TryAgainLater
from meta_cni.engine.ledger import Entry, Executed, Ledger, Record

RECORD = Record(
    container_id="c",
    request="eth0",
    request_network="node",
    network="telco/a",
    interface="net1",
    config_name="a",
    cni_version="1.0.0",
    netns="/run/netns/x",
    netns_identity="4:1",
    executed=(Executed("bridge", True, '{"type":"bridge"}'),),
    cni_args={"IgnoreUnknown": "1"},
    path=("/opt/cni/bin",),
    deadline_s=60.0,
    result={"cniVersion": "1.1.0"},
)
EXTERNAL = replace(RECORD, interface="net2", executed=(Executed("ptp", False, "{}", "/bin/ptp"),))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("records", [(RECORD,), (RECORD, EXTERNAL)])
def test_entry_is_read_as_it_was_written(ledger: Ledger, records: tuple[Record, ...]):
    """DEL needs the very bytes of ADD, with fsync or without."""
    entry = Entry("c", "telco/p", "uid", records, 1.5)

    ledger.write(entry)

    assert entry == ledger.read("c")
    assert ("c",) == ledger.container_ids()


def test_entry_without_attachments_goes_away(ledger: Ledger):
    """Nothing to undo is nothing to keep."""
    ledger.write(Entry("c", records=(RECORD,)))

    ledger.write(Entry("c", records=(RECORD,)).without((RECORD,)))

    assert (None, ()) == (ledger.read("c"), ledger.container_ids())


def test_nothing_is_found_where_nothing_was_written(ledger: Ledger):
    """A fresh node."""
    assert (None, (), ()) == (ledger.read("c"), ledger.container_ids(), ledger.damaged())
    ledger.remove("c")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b.replace(b"telco", b"other")])
def test_damaged_entry_is_known_and_set_aside(ledger: Ledger, damage):
    """P-06: a torn or edited entry is never taken for a good one, and never lost."""
    ledger.write(Entry("c", records=(RECORD,)))
    path = ledger.directory / "c"
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(DamagedEntry, match="checksum"):
        ledger.read("c")
    aside = ledger.set_aside("c")

    assert (aside,) == ledger.damaged()
    assert None is ledger.read("c")


def test_what_is_left_of_an_entry_names_its_interfaces(ledger: Ledger):
    """A GC must not take the addresses of a pod that lives."""
    ledger.write(Entry("c", records=(EXTERNAL, RECORD)))
    path = ledger.directory / "c"
    path.write_bytes(path.read_bytes()[:-80])

    assert {"net1", "net2"} == ledger.named_interfaces("c")
    assert frozenset() == ledger.named_interfaces("another")


def test_results_are_added_to_the_attachments_of_their_request(ledger: Ledger):
    """CHECK compares with them; another request's attachment may have had the same name."""
    before = replace(RECORD, result=None)
    entry = Entry("c", records=(replace(before, request="eth1"), before))
    ledger.write(entry)

    ledger.complete(entry, [(RECORD, RECORD.result or {})])

    assert replace(entry, records=(entry.records[0], RECORD)) == ledger.read("c")


def test_a_pod_without_attachments_has_no_results(ledger: Ledger):
    """Chained behind another plugin, most pods select nothing."""
    ledger.write(Entry("c"))

    ledger.complete(Entry("c"), [])

    assert None is ledger.read("c")


@pytest.mark.parametrize("left", [0, 1, 30, 70])
def test_results_that_were_cut_off_cost_nothing_else(ledger: Ledger, left: int):
    """Killed while it wrote them, a daemon has answered nobody; a DEL undoes the rest."""
    entry = Entry("c", records=(replace(RECORD, result=None),))
    ledger.write(entry)
    path = ledger.directory / "c"
    length = path.stat().st_size
    ledger.complete(entry, [(RECORD, RECORD.result or {})])

    os.truncate(path, length + left)

    assert entry == ledger.read("c")


def test_results_that_were_edited_are_known(ledger: Ledger):
    """P-06."""
    entry = Entry("c", records=(replace(RECORD, result=None),))
    ledger.write(entry)
    ledger.complete(entry, [(RECORD, RECORD.result or {})])
    path = ledger.directory / "c"
    path.write_bytes(path.read_bytes().replace(b"1.1.0", b"1.0.0"))

    with pytest.raises(DamagedEntry, match="checksum of its results"):
        ledger.read("c")


@pytest.mark.parametrize("record", [RECORD, EXTERNAL])
def test_a_full_disk_is_told_when_results_are_added(ledger: Ledger, record: Record, mocker):
    """The ADD is undone then; half a line is not a result."""
    entry = Entry("c", records=(replace(record, result=None),))
    ledger.write(entry)
    write = os.write
    mocker.patch("meta_cni.engine.ledger.os.write", side_effect=lambda to, data: write(to, data[:20]))

    with pytest.raises(IOFailure, match="No space left"):
        ledger.complete(entry, [(record, record.result or {})])

    assert entry == ledger.read("c")


@pytest.mark.parametrize("damage", [{"colour": "red"}, {"records": [{}]}, {"records": None}])
def test_an_entry_of_another_version_is_no_bug(ledger: Ledger, damage: dict[str, object]):
    """A daemon that was put back to an older version undoes what it can instead of failing for ever."""
    ledger.write(Entry("c", records=(RECORD,)))
    path = ledger.directory / "c"
    head, body = path.read_bytes().split(b"\n")[:2]
    body = json.dumps({**json.loads(body), **damage}).encode()
    path.write_bytes(head.rpartition(b" ")[0] + f" {hashlib.sha256(body).hexdigest()}\n".encode() + body)

    with pytest.raises(DamagedEntry, match="another version wrote it"):
        ledger.read("c")


def test_full_disk_keeps_the_old_entry(ledger: Ledger, mocker):
    """A write that fails must not cost what was known."""
    entry = Entry("c", records=(RECORD,))
    ledger.write(entry)
    mocker.patch("meta_cni.engine.ledger.os.fsync", side_effect=OSError(28, "No space left on device"))

    with pytest.raises(IOFailure, match="No space left"):
        ledger.write(replace(entry, records=(RECORD, EXTERNAL)))

    mocker.stopall()
    assert entry == ledger.read("c")
    assert ["c"] == sorted(os.listdir(ledger.directory))


def test_a_write_that_was_cut_off_leaves_one_file_that_goes_with_the_entry(ledger: Ledger, mocker):
    """A daemon that was killed cleans up nothing; the DEL that follows does."""
    mocker.patch("meta_cni.engine.ledger.os.replace", side_effect=KeyboardInterrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ledger.write(Entry("c", records=(RECORD,)))
    left = sorted(os.listdir(ledger.directory))

    ledger.remove("c")

    assert ([".c.new"], []) == (left, os.listdir(ledger.directory))


def test_who_has_a_device_is_found_among_all(ledger: Ledger):
    """By its whole name; what is damaged, gone meanwhile or of other devices is passed over."""
    records = [replace(RECORD, device=each) for each in ("0000:03:00.1", "0000:03:00.11", 'a "b" é', "")]
    for name, each in zip("abcd", records, strict=True):
        ledger.write(Entry(name, records=(EXTERNAL, each)))
    (ledger.directory / "torn").write_text('"0000:03:00.1"')

    found = ledger.holders({"0000:03:00.1", 'a "b" é'})

    assert [("a", records[0]), ("c", records[2])] == [(entry.container_id, record) for entry, record in found]


def test_an_entry_that_cannot_be_read_is_told(ledger: Ledger):
    """Nobody may say that a device is free then."""
    (ledger.directory / "c").mkdir(parents=True)

    with pytest.raises(IOFailure, match=r"read ledger entry .*: Is a directory"):
        ledger.read("c")


def test_an_entry_that_goes_while_holders_are_looked_for_holds_nothing(ledger: Ledger, mocker):
    """Its DEL is done."""
    mocker.patch.object(ledger, "container_ids", return_value=("gone",))

    assert [] == ledger.holders({"d"})


def test_lock_of_one_sandbox_waits_and_others_do_not(ledger: Ledger):
    """S-33 for calls of one container; different pods run side by side."""
    with ledger.locked("c", 1):
        with ledger.locked("d", 1):
            pass
        with pytest.raises(TryAgainLater, match="sandbox c"), ledger.locked("c", 0.05):
            pass


def test_lock_is_handed_on(ledger: Ledger):
    """The one who waits gets it when the holder is done, and there is one file for all of them."""
    order: list[str] = []
    taken = threading.Event()

    def hold() -> None:
        with ledger.locked("c", 5):
            taken.set()
            threading.Event().wait(0.1)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    with ledger.locked("c", 5):
        order.append("second")
    thread.join()

    assert ["first", "second"] == order
    assert ["lock"] == [each.name for each in (ledger.directory / "locks").iterdir()]


def test_a_lock_that_was_removed_meanwhile_locks_nothing(ledger: Ledger):
    """Who came after the removal has another file, so who waited takes that."""

    def wait() -> None:
        with ledger.locked("c", 0.2):
            pass

    with ThreadPoolExecutor(1) as pool, ledger.locked("c", 1):
        ledger.forget_locks()
        with ledger.locked("c", 1):
            error = pool.submit(wait).exception()

    assert isinstance(error, TryAgainLater)


def test_a_file_system_without_locks_is_told(ledger: Ledger, mocker):
    """Nobody may go on as if he had one."""
    mocker.patch("meta_cni.engine.ledger.fcntl.fcntl", side_effect=OSError(37, "No locks available"))

    told = r"lock .*/locks/lock: No locks available"

    with pytest.raises(IOFailure, match=told), ledger.locked("c", 1):
        pass


def test_a_lock_that_could_not_be_had_is_held_by_nobody(ledger: Ledger, mocker):
    """A daemon that kept the descriptor would refuse the sandbox's DEL until it ends."""
    refused = mocker.patch("os.stat", side_effect=OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(IOFailure, match=r"lock .*: Input/output error"), ledger.locked("c", 0):
        pass
    mocker.stop(refused)

    with ledger.locked("c", 0):
        pass


def test_unwritable_places_are_told_by_name(tmp_path: Path, mocker):
    """An operator must know which directory to repair."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    ledger = Ledger(blocked / "ledger")

    with pytest.raises(IOFailure, match="make directory"), ledger.locked("c", 1):
        pass
    with pytest.raises(IOFailure, match="read ledger entry"):
        ledger.read("c")
    with pytest.raises(IOFailure, match="remove ledger entry"):
        ledger.remove("c")
    with pytest.raises(IOFailure, match="read ledger"):
        ledger.container_ids()
    with pytest.raises(IOFailure, match="set aside ledger entry gone: No such file"):
        Ledger(tmp_path / "l").set_aside("gone")
    mocker.patch("meta_cni.engine.ledger.os.open", side_effect=OSError(13, "Permission denied"))
    with pytest.raises(IOFailure, match="open lock"), Ledger(tmp_path / "l").locked("c", 1):
        pass


def test_requests_of_one_sandbox_are_told_apart():
    """podman joins one container to several networks of ours."""
    other = replace(RECORD, request="eth1")

    assert (other,) == Entry("c", records=(RECORD, other)).of_request("eth1")
