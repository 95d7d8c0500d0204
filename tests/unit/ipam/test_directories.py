"""What is remembered of host-local's directories, and when it is read again."""

import os
import shutil
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import IOFailure
from meta_cni.ipam import reservations
from meta_cni.ipam.directories import Contents, Directories
from meta_cni.ipam.reservations import Reservation

FIRST, SECOND = "10.0.0.2", "10.0.0.3"


@pytest.fixture
def directories() -> Directories:
    return Directories(is_remembering=True)


def look(directories: Directories, directory: Path, container_id: str = "c1") -> Contents:
    return directories.look(str(directory), container_id)


def held(directories: Directories, directory: Path, container_id: str = "c1") -> list[str]:
    return [str(each.address) for each in look(directories, directory, container_id).of(container_id)]


def write(directories: Directories, directory: Path, *addresses: str) -> None:
    """For eth0 of container c1."""
    wanted = [Reservation(ip_address(each), f"{directory}/{each}", "c1", "eth0") for each in addresses]
    directories.write(look(directories, directory), wanted)


def remove(directories: Directories, directory: Path, count: int) -> None:
    """The first ones of c1."""
    contents = look(directories, directory)
    directories.remove(contents, contents.of("c1")[:count])


def test_nothing_is_read_again_while_nobody_else_changes_it(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """A directory of thousands of addresses is read once, not by every ADD and DEL."""
    look(directories, tmp_path)
    spies = [mocker.spy(reservations, name) for name in ("listing", "names", "last_reserved")]

    write(directories, tmp_path, FIRST, SECOND)
    assert ["10.0.0.2", "10.0.0.3"] == held(directories, tmp_path)
    remove(directories, tmp_path, 1)

    assert ["10.0.0.3"] == held(directories, tmp_path)
    contents = look(directories, tmp_path)
    assert {"10.0.0.3", "last_reserved_ip.0", "last_reserved_ip.1"} == contents.names
    assert ["10.0.0.2", "10.0.0.3"] == [str(contents.last_reserved(index)) for index in range(2)]
    assert ["10.0.0.3"] == [str(each.address) for each in directories.held(str(tmp_path), "c1")]
    assert [0, 0, 0] == [each.call_count for each in spies]


def test_a_removal_of_nothing_touches_nothing(directories: Directories, tmp_path: Path):
    """A DEL is repeated at will."""
    write(directories, tmp_path, FIRST)
    before = os.stat(tmp_path).st_mtime_ns

    directories.remove(look(directories, tmp_path, "c2"), [])

    assert before == os.stat(tmp_path).st_mtime_ns


def test_only_so_many_directories_are_remembered(tmp_path: Path, mocker: MockerFixture):
    """A namespace's user names as many as he likes."""
    mocker.patch("meta_cni.ipam.directories.MOST", 2)
    directories = Directories(is_remembering=True)
    for name in "abc":
        (tmp_path / name).mkdir()
        write(directories, tmp_path / name, FIRST)

    assert directories._known is not None
    assert ["b", "c"] == [Path(each).name for each, _ in directories._known.items()]
    assert ["10.0.0.2"] == held(directories, tmp_path / "a")


def test_what_another_program_adds_or_removes_is_seen_at_once(directories: Directories, tmp_path: Path):
    """The reference plugin works in the same directory, and within the same tick of the kernel's clock."""
    for number in range(2, 100):
        write(directories, tmp_path, f"10.0.0.{number}")
        (tmp_path / "10.0.1.1").write_bytes(b"other\r\neth0")
        assert ["10.0.1.1"] == held(directories, tmp_path, "other")
        (tmp_path / "10.0.1.1").unlink()
        assert [] == held(directories, tmp_path, "other")


def test_a_name_that_is_taken_is_learnt(directories: Directories, tmp_path: Path):
    """What a program wrote that holds no lock is found by O_EXCL; the next look must know it."""
    left_ns = look(directories, tmp_path).left_ns
    assert left_ns is not None
    (tmp_path / "10.0.0.2").write_bytes(b"rude\r\neth0")
    os.utime(tmp_path, ns=(left_ns, left_ns))
    assert [] == held(directories, tmp_path, "rude")

    with pytest.raises(FileExistsError):
        write(directories, tmp_path, FIRST)

    assert ["10.0.0.2"] == held(directories, tmp_path, "rude")


def test_what_could_not_be_removed_is_still_known(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """Half of the work done, and an error: the directory tells which half."""
    write(directories, tmp_path, FIRST, SECOND)
    unlink = os.unlink

    def refusing(path: str) -> None:
        if path.endswith("10.0.0.2"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    mocker.patch.object(reservations.os, "unlink", refusing)

    with pytest.raises(IOFailure, match="Operation not permitted"):
        remove(directories, tmp_path, 2)

    assert ["10.0.0.2"] == held(directories, tmp_path)


def test_nothing_is_remembered_where_times_are_coarse(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """A file system that keeps whole seconds cannot tell who was last."""
    utime = os.utime
    mocker.patch.object(os, "utime", lambda path, ns: utime(path, ns=(ns[0], ns[1] // 10**9 * 10**9)))
    look(directories, tmp_path)
    (tmp_path / "10.0.0.2").write_bytes(b"other\r\neth0")
    second = time.time_ns() // 10**9 * 10**9
    utime(tmp_path, ns=(second, second))

    assert ["10.0.0.2"] == held(directories, tmp_path, "other")


def test_nothing_is_remembered_where_times_cannot_be_set(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """Somebody else's directory is read each time, and that is no error."""
    mocker.patch.object(os, "utime", side_effect=PermissionError(1, "Operation not permitted"))

    look(directories, tmp_path)

    assert directories._known is not None
    assert [] == directories._known.items()
    assert [] == held(directories, tmp_path)


def test_what_was_written_is_read_where_the_time_cannot_be_set_any_more(
    directories: Directories, tmp_path: Path, mocker: MockerFixture
):
    """Somebody else owns the directory by now: what the kernel set is no time of ours."""
    look(directories, tmp_path)
    mocker.patch.object(os, "utime", side_effect=PermissionError(1, "Operation not permitted"))

    write(directories, tmp_path, FIRST)
    (tmp_path / "10.0.0.3").write_bytes(b"other\r\neth0")

    assert ["10.0.0.3"] == held(directories, tmp_path, "other")


def test_a_directory_of_the_first_of_january_1970_is_read(directories: Directories, tmp_path: Path):
    """Images are unpacked with that time, which is not the same as none."""
    look(directories, tmp_path)
    (tmp_path / "10.0.0.2").mkdir()
    with pytest.raises(FileExistsError):
        write(directories, tmp_path, FIRST)
    (tmp_path / "10.0.0.2").rmdir()
    os.utime(tmp_path, ns=(0, 0))

    contents = look(directories, tmp_path)

    assert set() == contents.names


def test_one_of_a_container_s_addresses_goes(directories: Directories, tmp_path: Path):
    """Its other interface keeps what it has."""
    write(directories, tmp_path, FIRST, SECOND)

    remove(directories, tmp_path, 1)
    (tmp_path / "10.0.0.3").write_bytes(b"not read")

    assert ["10.0.0.3"] == held(directories, tmp_path)


def test_a_container_without_addresses_is_forgotten(directories: Directories, tmp_path: Path):
    """Containers come by the thousand for as long as a daemon lives."""
    write(directories, tmp_path, FIRST, SECOND)

    remove(directories, tmp_path, 2)

    assert {} == look(directories, tmp_path).by_container


def test_a_directory_that_has_gone_has_nothing(directories: Directories, tmp_path: Path):
    """A CHECK after the disk was wiped."""
    directory = tmp_path / "net"
    directory.mkdir()
    write(directories, directory, FIRST)
    shutil.rmtree(directory)

    assert [] == directories.held(str(directory), "c1")
    assert [] == held(directories, directory)


def test_a_directory_that_was_made_anew_is_read(directories: Directories, tmp_path: Path):
    """Its inode is another one, whatever its time says."""
    directory = tmp_path / "net"
    directory.mkdir()
    write(directories, directory, FIRST)
    stamp = os.stat(directory).st_mtime_ns
    directory.rename(tmp_path / "old")
    directory.mkdir()
    os.utime(directory, ns=(stamp, stamp))

    assert [] == held(directories, directory)
