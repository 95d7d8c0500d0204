"""What is remembered of host-local's directories, and when it is read again."""

import os
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import IOFailure
from meta_cni.ipam import reservations
from meta_cni.ipam.directories import Directories

FIRST, SECOND = ip_address("10.0.0.2"), ip_address("10.0.0.3")
OWNER = ("c1", "eth0")


@pytest.fixture
def directories() -> Directories:
    return Directories(is_remembering=True)


def held(directories: Directories, directory: Path, container_id: str = "c1") -> list[str]:
    return [str(each.address) for each in directories.look(directory, container_id)[0]]


def test_nothing_is_read_again_while_nobody_else_changes_it(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """A directory of thousands of addresses is read once, not by every ADD and DEL."""
    directories.look(tmp_path, "c1")
    listing = mocker.spy(reservations, "listing")

    directories.write(tmp_path, [FIRST, SECOND], OWNER, {0: SECOND})
    assert ["10.0.0.2", "10.0.0.3"] == held(directories, tmp_path)
    directories.remove(tmp_path, directories.look(tmp_path, "c1")[0][:1])

    assert ["10.0.0.3"] == held(directories, tmp_path)
    assert {"10.0.0.3", "last_reserved_ip.0"} == set(directories.look(tmp_path, "c1")[1])
    assert ["10.0.0.3"] == [str(each.address) for each in directories.held(tmp_path, "c1")]
    assert 0 == listing.call_count


def test_only_so_many_directories_are_remembered(tmp_path: Path, mocker: MockerFixture):
    """A namespace's user names as many as he likes."""
    mocker.patch("meta_cni.ipam.directories.MOST", 2)
    directories = Directories(is_remembering=True)
    for name in "abc":
        (tmp_path / name).mkdir()
        directories.write(tmp_path / name, [FIRST], OWNER, {})
        directories.look(tmp_path / name, "c1")

    assert ["b", "c"] == [each.name for each, _ in directories._known.items()]
    assert ["10.0.0.2"] == held(directories, tmp_path / "a")


def test_what_another_program_adds_or_removes_is_seen_at_once(directories: Directories, tmp_path: Path):
    """The reference plugin works in the same directory, and within the same tick of the kernel's clock."""
    for number in range(2, 100):
        directories.write(tmp_path, [ip_address(f"10.0.0.{number}")], OWNER, {})
        directories.look(tmp_path, "c1")
        (tmp_path / "10.0.1.1").write_bytes(b"other\r\neth0")
        assert ["10.0.1.1"] == held(directories, tmp_path, "other")
        (tmp_path / "10.0.1.1").unlink()
        assert [] == held(directories, tmp_path, "other")


def test_a_name_that_is_taken_is_learnt(directories: Directories, tmp_path: Path):
    """What a program wrote that holds no lock is found by O_EXCL; the next look must know it."""
    directories.look(tmp_path, "c1")
    known = directories._known.find(tmp_path)
    (tmp_path / "10.0.0.2").write_bytes(b"rude\r\neth0")
    os.utime(tmp_path, ns=(known.stamp[1], known.stamp[1]))
    assert [] == held(directories, tmp_path, "rude")

    with pytest.raises(FileExistsError):
        directories.write(tmp_path, [FIRST], OWNER, {})

    assert ["10.0.0.2"] == held(directories, tmp_path, "rude")


def test_what_could_not_be_removed_is_still_known(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """Half of the work done, and an error: the directory tells which half."""
    directories.look(tmp_path, "c1")
    directories.write(tmp_path, [FIRST, SECOND], OWNER, {})
    unlink = os.unlink

    def refusing(path: str) -> None:
        if path.endswith("10.0.0.2"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    mocker.patch.object(reservations.os, "unlink", refusing)

    with pytest.raises(IOFailure, match="Operation not permitted"):
        directories.remove(tmp_path, directories.look(tmp_path, "c1")[0])

    assert ["10.0.0.2"] == held(directories, tmp_path)


def test_nothing_is_remembered_where_times_are_coarse(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """A file system that keeps whole seconds cannot tell who was last."""
    utime = os.utime
    mocker.patch.object(os, "utime", lambda path, ns: utime(path, ns=(ns[0], ns[1] // 10**9 * 10**9)))
    directories.look(tmp_path, "c1")
    (tmp_path / "10.0.0.2").write_bytes(b"other\r\neth0")
    second = time.time_ns() // 10**9 * 10**9
    utime(tmp_path, ns=(second, second))

    assert ["10.0.0.2"] == held(directories, tmp_path, "other")


def test_nothing_is_remembered_where_times_cannot_be_set(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """Somebody else's directory is read each time, and that is no error."""
    mocker.patch.object(os, "utime", side_effect=PermissionError(1, "Operation not permitted"))

    directories.look(tmp_path, "c1")

    assert [] == directories._known.items()
    assert [] == held(directories, tmp_path)


def test_a_directory_that_was_made_anew_is_read(directories: Directories, tmp_path: Path):
    """Its inode is another one, whatever its time says."""
    directory = tmp_path / "net"
    directory.mkdir()
    directories.look(directory, "c1")
    directories.write(directory, [FIRST], OWNER, {})
    stamp = os.stat(directory).st_mtime_ns
    directory.rename(tmp_path / "old")
    directory.mkdir()
    os.utime(directory, ns=(stamp, stamp))

    assert [] == held(directories, directory)
