"""DELs that waited for a daemon."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.cni.errors import IOFailure
from meta_cni.daemon import wire
from meta_cni.daemon.spool import Spool
from meta_cni.daemon.wire import Call

Waits = Callable[[str, str], None]


@pytest.fixture
def waits(tmp_path: Path) -> Waits:
    """Put a DEL of a sandbox into a file."""

    def put(name: str, sandbox: str) -> None:
        call = Call({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": sandbox}, b"{}")
        (tmp_path / name).write_bytes(wire.request(call))

    return put


def test_they_are_done_in_the_order_they_came_and_are_gone(tmp_path: Path, waits: Waits):
    """What is still being written is not there yet."""
    waits("2.request", "b")
    waits("1.request", "a")
    waits("3.request.new", "c")
    done: list[str] = []

    left = list(
        Spool(tmp_path).replay(lambda call: (b"", done.append(call.variables["CNI_CONTAINERID"]) or 0))
    )

    assert ([], ["a", "b"]) == (left, done)
    assert ["3.request.new"] == [each.name for each in tmp_path.iterdir()]


def test_one_that_fails_stays_and_does_not_keep_the_others(tmp_path: Path, waits: Waits):
    """The runtime was told that it is done: nobody else will ever try again."""
    waits("1.request", "a")
    waits("2.request", "b")

    left = list(
        Spool(tmp_path).replay(lambda call: (b"no way", int(call.variables["CNI_CONTAINERID"] == "a")))
    )

    assert [(tmp_path / "1.request", "no way")] == left
    assert ["1.request"] == [each.name for each in tmp_path.iterdir()]


def test_a_damaged_one_is_set_aside_and_told(tmp_path: Path, waits: Waits):
    """It says nothing that could be done, and must not be tried for ever."""
    (tmp_path / "1.request").write_bytes(b"meta-cni 1 request 5 5\nabc")

    ((path, reason),) = Spool(tmp_path).replay(lambda _: (b"", 0))

    assert tmp_path / "1.request" == path
    assert "expected 33" in reason
    assert ["1.damaged"] == [each.name for each in tmp_path.iterdir()]
    assert [] == list(Spool(tmp_path).replay(lambda _: (b"", 0)))


def test_no_spool_is_an_empty_one(tmp_path: Path):
    """The shim makes it when it needs it."""
    assert [] == list(Spool(tmp_path / "none").replay(lambda _: (b"", 0)))


def test_a_spool_that_cannot_be_read_is_told(tmp_path: Path):
    """What waits there is not done."""
    (tmp_path / "file").touch()

    with pytest.raises(IOFailure, match=r"read spool .*file: Not a directory"):
        Spool(tmp_path / "file").entries()


def test_one_that_cannot_be_read_stays_and_is_told(tmp_path: Path, waits: Waits):
    """A directory of that name, or a broken disk."""
    (tmp_path / "1.request").mkdir()
    waits("2.request", "b")

    left = list(Spool(tmp_path).replay(lambda _: (b"", 0)))

    assert [tmp_path / "1.request"] == [path for path, _ in left]
    assert "Is a directory" in left[0][1]
    assert ["1.request"] == [each.name for each in tmp_path.iterdir()]
