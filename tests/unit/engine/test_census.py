"""A ledger is counted while others write it, and nobody notices."""

from dataclasses import replace
from pathlib import Path

import pytest

from meta_cni.cni.errors import IOFailure
from meta_cni.engine.census import Census, Count
from meta_cni.engine.ledger import Entry, Ledger
from tests.unit.engine.test_ledger import EXTERNAL, RECORD


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def learned() -> list[str]:
    """Whose entries were read."""
    return []


@pytest.fixture
def census(ledger: Ledger, learned: list[str]) -> Census:
    return Census(ledger, lambda entry: learned.append(entry.container_id))


def test_a_ledger_that_is_not_there_has_nothing(census: Census):
    """Before the first ADD."""
    assert Count(0, 0, 0) == census.count()


def test_complete_incomplete_and_damaged_entries_are_counted(ledger: Ledger, census: Census):
    """The last two are what somebody should look at."""
    ledger.write(Entry("good", records=(RECORD,)))
    ledger.write(Entry("half", records=(RECORD, replace(EXTERNAL, result=None))))
    for name in ("torn", "aside"):
        ledger.write(Entry(name, records=(RECORD,)))
        (ledger.directory / name).write_bytes(b"meta-cni 1 ")
    ledger.set_aside("aside")

    assert Count(entries=3, incomplete=1, damaged=2) == census.count()


def test_an_entry_is_read_again_only_when_it_has_changed(ledger: Ledger, census: Census, learned: list[str]):
    """A node with hundreds of pods is asked every few seconds."""
    for name in ("a", "b"):
        ledger.write(Entry(name, records=(replace(RECORD, result=None),)))
    assert 2 == census.count().incomplete
    assert 2 == census.count().incomplete
    ledger.write(Entry("b", records=(RECORD,)))
    assert 1 == census.count().incomplete
    ledger.remove("a")

    assert Count(1, 0, 0) == census.count()
    assert ["a", "b", "b"] == learned


def test_an_entry_that_is_undone_while_it_is_counted_is_no_damage(ledger: Ledger, census: Census, mocker):
    """A DEL waits for nobody who only counts."""
    ledger.write(Entry("a", records=(RECORD,)))
    mocker.patch.object(ledger, "read", return_value=None)

    assert Count(1, 0, 0) == census.count()


def test_an_entry_that_goes_between_its_name_and_its_mark_is_none(ledger: Ledger, mocker):
    """As above, a moment earlier."""
    mocker.patch.object(ledger, "container_ids", return_value=("gone",))

    assert {} == ledger.marks()


def test_an_entry_that_cannot_be_read_is_counted_as_damaged(ledger: Ledger, census: Census, mocker):
    """Its DEL will fail, too."""
    ledger.write(Entry("a", records=(RECORD,)))
    mocker.patch.object(ledger, "read", side_effect=IOFailure("read ledger entry a: Input/output error"))

    assert Count(1, 0, 1) == census.count()
