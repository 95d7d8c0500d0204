"""host-local in a directory: all or nothing, and what every other program finds there."""

import errno
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import (
    AddressesExhausted,
    AlreadyAttached,
    BadConfig,
    CheckFailed,
    CNIError,
    IOFailure,
    NotAvailable,
    TryAgainLater,
)
from meta_cni.cni.result import Result, parse, to_json
from meta_cni.ipam import host_local, reservations
from meta_cni.ipam.host_local import HostLocal
from meta_cni.ipam.reservations import Reservation
from tests.open_files import open_files

DUAL = [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]
TINY = [[{"subnet": "10.0.0.0/29"}]]
Open = Callable[..., HostLocal]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's dataDir, which is not there yet."""
    return tmp_path / "cni" / "networks"


@pytest.fixture
def opened(node: Path) -> Open:
    """Opens the addresses of a container's eth0."""

    def make(
        ranges: object = DUAL,
        *,
        container: str = "c1",
        interface: str = "eth0",
        arguments: dict[str, str] | None = None,
        deadline_s: float = 10,
        config: dict[str, object] | None = None,
        **ipam: object,
    ) -> HostLocal:
        section = {"type": "host-local", "dataDir": str(node), "ranges": ranges, **ipam}
        document = {
            "cniVersion": "1.1.0",
            "name": "blue",
            "type": "bridge",
            **(config or {}),
            "ipam": section,
        }
        plugin = parse_plugin(json.dumps(document), "network blue")
        return HostLocal(host_local.parse(plugin, arguments or {}), container, interface, deadline_s)

    return make


def ips(result: Result) -> list[str]:
    return [str(each.address) for each in result.ips]


def files(directory: Path) -> dict[str, bytes]:
    """Every file and directory below one, with its content."""
    return {
        str(each.relative_to(directory)): b"" if each.is_dir() else each.read_bytes()
        for each in sorted(directory.rglob("*"))
    }


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """A lock that is not closed is a lock for ever."""
    before = open_files()
    yield
    assert set() == open_files() - before


def test_one_address_of_every_range_set(opened: Open, node: Path):
    """The files are the reference's, byte for byte, and so are their modes."""
    answer = opened(routes=[{"dst": "0.0.0.0/0"}]).acquire()

    assert {
        "cniVersion": "1.1.0",
        "ips": [
            {"address": "10.0.0.2/24", "gateway": "10.0.0.1"},
            {"address": "fd00::2/64", "gateway": "fd00::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
    } == {key: value for key, value in to_json(answer, "1.1.0").items() if value}
    assert {
        "10.0.0.2": b"c1\r\neth0",
        "fd00::2": b"c1\r\neth0",
        "last_reserved_ip.0": b"10.0.0.2",
        "last_reserved_ip.1": b"fd00::2",
        "lock": b"",
    } == files(node / "blue")
    modes = {each.name: each.stat().st_mode & 0o777 for each in (node / "blue").iterdir()}
    assert (0o644, 0o644, 0o750) == (modes["10.0.0.2"], modes["last_reserved_ip.0"], modes["lock"])


def test_addresses_are_not_reused_at_once(opened: Open):
    """Neighbours still have the old pod in their caches."""
    first = opened(TINY)
    assert ["10.0.0.2/29"] == ips(first.acquire())
    first.release()

    assert ["10.0.0.3/29"] == ips(opened(TINY, container="c2").acquire())


def test_a_full_range_says_so(opened: Open, node: Path):
    """And nothing changes, not even what would come next."""
    for number in range(5):
        opened(TINY, container=f"c{number}").acquire()
    before = files(node)

    with pytest.raises(
        AddressesExhausted,
        match=r"allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6$",
    ):
        opened(TINY, container="late").acquire()

    assert before == files(node)


def test_the_second_family_failing_costs_no_address_of_the_first(opened: Open, node: Path):
    """All or nothing."""
    both = [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/126", "rangeEnd": "fd00::2"}]]
    opened(both).acquire()
    before = files(node)

    with pytest.raises(AddressesExhausted, match="allocate for range 1"):
        opened(both, container="c2").acquire()

    assert before == files(node)


def test_a_second_add_is_refused_and_keeps_the_first_s_addresses(opened: Open, node: Path):
    """The pod still runs with them."""
    opened().acquire()
    before = files(node)

    with pytest.raises(
        AlreadyAttached,
        match=r"10.0.0.2 has been allocated to c1, duplicate allocation is not allowed$",
    ):
        opened().acquire()

    assert before == files(node)


def test_another_interface_of_the_container_gets_its_own(opened: Open):
    """The same network can be attached twice."""
    opened().acquire()

    assert ["10.0.0.3/24", "fd00::3/64"] == ips(opened(interface="net1").acquire())


REQUESTS = {
    "CNI_ARGS": ({"arguments": {"IP": "10.0.0.77"}}, ["10.0.0.77/24", "fd00::2/64"]),
    "with a prefix": ({"arguments": {"IP": "10.0.0.77/16"}}, ["10.0.0.77/24", "fd00::2/64"]),
    "mapped": ({"arguments": {"IP": "::ffff:10.0.0.77"}}, ["10.0.0.77/24", "fd00::2/64"]),
    "args": ({"config": {"args": {"cni": {"ips": ["fd00:0::77"]}}}}, ["10.0.0.2/24", "fd00::77/64"]),
    "capability": (
        {"config": {"runtimeConfig": {"ips": ["10.0.0.77/24", "fd00::77"]}}},
        ["10.0.0.77/24", "fd00::77/64"],
    ),
    "all of them": (
        {
            "arguments": {"IP": "10.0.0.77"},
            "config": {
                "args": {"cni": {"ips": ["10.0.0.77/24"]}},
                "runtimeConfig": {"ips": ["10.0.0.77", "fd00::77/64"]},
            },
        },
        ["10.0.0.77/24", "fd00::77/64"],
    ),
}


@pytest.mark.parametrize(("asked", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_an_address_that_is_asked_for_is_given(opened: Open, asked: dict[str, object], expected: list[str]):
    """Wherever it is asked for, each address once."""
    assert expected == ips(opened(**asked).acquire())


REFUSED = {
    "the gateway": (["10.0.0.1"], "allocate for range 0: requested ip 10.0.0.1 is subnet's gateway$"),
    "taken": (
        ["10.0.0.2"],
        "requested IP address 10.0.0.2 is not available in range set 10.0.0.1-10.0.0.254$",
    ),
    "elsewhere": (
        ["192.168.0.5/24"],
        "allocate all requested IPs: 192.168.0.5: expected one address of each",
    ),
    "two of one set": (["10.0.0.7", "10.0.0.8"], "allocate all requested IPs: 10.0.0.8: expected one"),
}


@pytest.mark.parametrize(("asked", "message"), REFUSED.values(), ids=REFUSED)
def test_an_address_that_cannot_be_given_changes_nothing(
    opened: Open, node: Path, asked: list[str], message: str
):
    """A wish is a wish for exactly that address."""
    opened(container="first").acquire()
    before = files(node)

    with pytest.raises(CNIError, match=message):
        opened(config={"runtimeConfig": {"ips": asked}}).acquire()

    assert before == files(node)


def test_what_cannot_work_makes_no_directory(opened: Open, tmp_path: Path):
    """On a node where the network never was, it still never was."""
    with pytest.raises(BadConfig, match="allocate all requested IPs"):
        opened(arguments={"IP": "192.168.0.5"}).acquire()

    assert {} == files(tmp_path)


BAD = {
    "no ranges": (
        {"ranges": None},
        {},
        "ipam: no IP ranges specified: expected ranges, a list of range sets$",
    ),
    "no address": (
        {},
        {"runtimeConfig": {"ips": ["bogus"]}},
        "requested IP 'bogus': expected an IP address$",
    ),
    "a zone": ({}, {"runtimeConfig": {"ips": ["fe80::1%eth0"]}}, "requested IP 'fe80::1%eth0': expected"),
    "a netmask": (
        {},
        {"runtimeConfig": {"ips": ["10.0.0.7/0.0.0.255"]}},
        "requested IP '10.0.0.7/0.0.0.255'",
    ),
    "two of a family": (
        {"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "10.5.0.0/24"}]]},
        {"cniVersion": "0.2.0"},
        "CNI version 0.2.0 does not support more than 1 address per family$",
    ),
    "overlap with ipRanges": (
        {},
        {"runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/25"}]]}},
        "range set 0 overlaps with 1$",
    ),
    "bad ipRanges": (
        {},
        {"runtimeConfig": {"ipRanges": "x"}},
        'runtimeConfig: ipRanges "x": expected a list',
    ),
    "a route": ({"routes": [{"dst": "x"}]}, {}, r"routes\[0\]: dst \"x\": expected a network"),
    "dataDir": ({"dataDir": 5}, {}, "dataDir 5: expected a string"),
    "a way out": ({}, {"name": "../etc"}, "name '../etc': expected the name of a network"),
}


@pytest.mark.parametrize(("ipam", "config", "message"), BAD.values(), ids=BAD)
def test_bad_configuration_is_refused_when_opened(
    opened: Open, tmp_path: Path, ipam: dict[str, object], config: dict[str, object], message: str
):
    """Before anything is touched, and with the reference's words where it has some."""
    with pytest.raises(BadConfig, match=message):
        opened(**{"ranges": DUAL, **ipam}, config=config)

    assert {} == files(tmp_path)


def test_ranges_of_the_runtime_come_first(opened: Open):
    """The capability ipRanges; kubelet's podCIDR for instance."""
    runtime = {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}

    assert ["10.9.0.2/24", "fd00::2/64"] == ips(
        opened([[{"subnet": "fd00::/64"}]], config={"runtimeConfig": runtime}).acquire()
    )


def test_resolv_conf_becomes_dns(opened: Open, tmp_path: Path):
    """As the reference reads it: comments, several lines, the last domain."""
    text = "; c\n#q\nnameserver 1.1.1.1\n nameserver fd00::53 # x\nnameserver\n"
    (tmp_path / "resolv").write_text(text + "domain a\ndomain b\nsearch x y\nsearch z\noptions o:1 p\n\n")

    dns = opened(resolvConf=str(tmp_path / "resolv")).acquire().dns

    assert (("1.1.1.1", "fd00::53"), "b", ("x", "y", "z"), ("o:1", "p")) == (
        dns.nameservers,
        dns.domain,
        dns.search,
        dns.options,
    )


def test_a_resolv_conf_that_has_gone_fails_add_but_not_del(opened: Open, tmp_path: Path, node: Path):
    """A DEL needs nothing that can go away."""
    file = tmp_path / "resolv"
    file.write_text("")
    opened(resolvConf=str(file)).acquire()
    file.unlink()

    with pytest.raises(BadConfig, match=f"read resolvConf {file}: No such file or directory"):
        opened(container="c2", resolvConf=str(file)).acquire()
    opened(resolvConf=str(file)).release()

    assert {"last_reserved_ip.0", "last_reserved_ip.1", "lock"} == set(files(node / "blue"))


def test_release_takes_only_its_own(opened: Open, node: Path):
    """Neither the other interface's nor another container's, and a second time is fine."""
    for container, interface in (("c1", "eth0"), ("c1", "net1"), ("c10", "eth0")):
        opened(TINY, container=container, interface=interface).acquire()

    opened(TINY).release()
    opened(TINY).release()

    assert {"10.0.0.3": b"c1\r\nnet1", "10.0.0.4": b"c10\r\neth0"} == {
        name: content for name, content in files(node / "blue").items() if name.startswith("10.")
    }


def test_release_on_a_node_without_the_network_makes_nothing(opened: Open, tmp_path: Path):
    """A DEL after the disk was wiped."""
    opened().release()

    assert {} == files(tmp_path)


def test_files_of_old_versions_are_released_when_there_is_no_exact_one(opened: Open, node: Path):
    """As the reference: an old file belongs to all interfaces, so the exact one goes first."""
    directory = node / "blue"
    directory.mkdir(parents=True)
    for name, content in {
        "10.0.0.2": "c1\r\neth0",
        "10.0.0.3": "c1",
        "10.0.0.4": "c1\n",
        "10.0.0.5": "c1\neth0",
    }.items():
        (directory / name).write_bytes(content.encode())

    opened(TINY).release()
    after_one = set(files(directory))
    opened(TINY).release()

    assert {"10.0.0.3", "10.0.0.4", "10.0.0.5", "lock"} == after_one
    assert {"10.0.0.5", "lock"} == set(files(directory))


def test_strange_files_are_nobody_s_and_never_waited_for(opened: Open, node: Path):
    """A named pipe would hold us, a directory has no content, and others' names are not addresses."""
    directory = node / "blue"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "10.0.0.2")
    (directory / "10.0.0.3").mkdir()
    (directory / "10.0.0.4").write_bytes(b"\xff\xfe")
    (directory / "readme").write_text("c1\r\neth0")

    answer = opened(TINY).acquire()
    opened(TINY).release()

    assert ["10.0.0.5/29"] == ips(answer)
    assert {"10.0.0.2", "10.0.0.3", "10.0.0.4", "readme", "last_reserved_ip.0", "lock"} == {
        each.name for each in directory.iterdir()
    }


@pytest.mark.parametrize("name", ["last_reserved_ip.0", "lock"])
def test_no_symbolic_link_is_written_through(opened: Open, node: Path, tmp_path: Path, name: str):
    """Whoever may write into dataDir must not have us, who are root, overwrite a file of the node."""
    (tmp_path / "shadow").write_bytes(b"root:*")
    (node / "blue").mkdir(parents=True)
    (node / "blue" / name).symlink_to(tmp_path / "shadow")

    with pytest.raises(IOFailure, match=f"{name}: Too many levels of symbolic links"):
        opened(TINY).acquire()

    assert b"root:*" == (tmp_path / "shadow").read_bytes()
    assert {name, "lock"} == {each.name for each in (node / "blue").iterdir()} | {"lock"}


def test_a_mark_that_is_a_named_pipe_is_told_and_holds_nobody(opened: Open, node: Path):
    """Opening it would wait for a reader for ever, with the lock held."""
    (node / "blue").mkdir(parents=True)
    os.mkfifo(node / "blue" / "last_reserved_ip.0")

    with pytest.raises(IOFailure, match=r"last_reserved_ip\.0: Illegal seek"):
        opened(TINY).acquire()


@pytest.mark.parametrize("content", [b"", b"bogus", b"\xff", b"10.9.9.9", b"fd00::7"])
def test_a_torn_mark_starts_from_the_first_address(opened: Open, node: Path, content: bytes):
    """After a crash it may hold anything."""
    (node / "blue").mkdir(parents=True)
    (node / "blue" / "last_reserved_ip.0").write_bytes(content)

    assert ["10.0.0.2/29"] == ips(opened(TINY).acquire())


@pytest.mark.parametrize("is_new", [True, False], ids=["a new network", "a network in use"])
@pytest.mark.parametrize("writes", range(4))
def test_a_full_disk_leaves_nothing(
    opened: Open, node: Path, tmp_path: Path, mocker: MockerFixture, writes: int, is_new: bool
):
    """Whichever write it is that fails: two addresses, two marks."""
    if not is_new:
        opened(container="first").acquire()
    before = files(tmp_path)
    done = reservations._write_all
    left = [done] * writes

    def write(descriptor: int, content: bytes) -> None:
        if not left and not is_restored:
            is_restored.append(True)
            os.write(descriptor, content[:1])  # a disk fills in the middle of a word
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (left.pop() if left else done)(descriptor, content)

    is_restored: list[bool] = []
    mocker.patch.object(reservations, "_write_all", write)

    with pytest.raises(IOFailure, match=r"write .*/blue/.*: No space left on device$"):
        opened().acquire()

    assert before == files(tmp_path)


def test_a_data_directory_that_is_a_file_is_named(opened: Open, node: Path, tmp_path: Path):
    """And the file is left alone."""
    node.parent.mkdir()
    node.write_text("mine")
    before = files(tmp_path)

    with pytest.raises(IOFailure, match=f"make {node}/blue: Not a directory"):
        opened().acquire()

    assert before == files(tmp_path)


def test_a_network_directory_that_is_a_file_is_named(opened: Open, node: Path, tmp_path: Path):
    """Somebody's backup of one."""
    node.mkdir(parents=True)
    (node / "blue").write_text("mine")
    before = files(tmp_path)

    with pytest.raises(IOFailure, match=f"make {node}/blue: File exists: expected a directory"):
        opened().acquire()

    assert before == files(tmp_path)


def test_a_directory_that_leads_nowhere_is_named(opened: Open, node: Path):
    """It cannot be told whether there is one, so nothing is made and nothing released."""
    node.mkdir(parents=True)
    (node / "blue").symlink_to("blue")

    for verb in (opened().acquire, opened().release):
        with pytest.raises(IOFailure, match=f"^read {node}/blue: Too many levels of symbolic links$"):
            verb()


def test_a_lock_that_cannot_be_opened_is_named(opened: Open, node: Path):
    """The directory is there, so it is not as if there were no addresses."""
    (node / "blue" / "lock").mkdir(parents=True)

    for verb in (opened().acquire, opened().release):
        with pytest.raises(IOFailure, match=f"^open {node}/blue/lock: Is a directory$"):
            verb()


def test_an_address_that_cannot_be_read_is_named(opened: Open, node: Path):
    """It may be the container's own."""
    (node / "blue").mkdir(parents=True)
    (node / "blue" / "10.0.0.9").symlink_to("10.0.0.9")

    for verb in (opened().acquire, opened().release):
        with pytest.raises(IOFailure, match=f"^read {node}/blue/10.0.0.9: Too many levels of symbolic"):
            verb()


def test_a_directory_that_goes_while_its_lock_is_waited_for_has_nothing_to_release(opened: Open, node: Path):
    """Somebody wipes the disk; the lock file that was waited for locks nothing any more."""
    opened().acquire()
    lock = os.open(node / "blue" / "lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(opened().release)
        time.sleep(0.05)
        shutil.rmtree(node)
        os.close(lock)
        waiting.result()

    assert not node.exists()


def test_a_mark_that_was_longer_is_cut(opened: Open, node: Path):
    """10.0.0.254 and then 10.0.0.2: not 10.0.0.254 again."""
    (node / "blue").mkdir(parents=True)
    (node / "blue" / "last_reserved_ip.0").write_bytes(b"10.0.0.254")

    opened().acquire()

    assert b"10.0.0.2" == (node / "blue" / "last_reserved_ip.0").read_bytes()


def test_a_lock_that_is_held_is_waited_for_no_longer_than_the_deadline(opened: Open, node: Path):
    """The error names the file, so that one can look who holds it (fuser)."""
    opened().acquire()
    started = time.monotonic()

    with open(node / "blue" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TryAgainLater, match=f"lock {node}/blue/lock: another program still holds it"):
            opened(container="c2", deadline_s=0.1).acquire()
        with pytest.raises(TryAgainLater):
            opened(deadline_s=0.1).release()

    assert 0.2 <= time.monotonic() - started


def test_a_directory_that_another_pod_makes_at_the_same_time_is_used(
    opened: Open, node: Path, mocker: MockerFixture
):
    """A node's first two pods start together: the second finds no directory, and then it is there."""
    opening = os.open

    def late(path: str, *more: int) -> int:
        try:
            return opening(path, *more)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            raise

    mocker.patch.object(reservations.os, "open", late)

    assert ["10.0.0.2/24", "fd00::2/64"] == ips(opened().acquire())


def test_a_lock_that_is_let_go_is_taken(opened: Open, node: Path):
    """Waiting is the normal case when ten pods start."""
    opened().acquire()
    lock = os.open(node / "blue" / "lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    release = threading.Timer(0.1, os.close, [lock])
    release.start()

    answer = opened(container="c2").acquire()

    release.join()
    assert ["10.0.0.3/24", "fd00::3/64"] == ips(answer)


def test_a_lock_file_removed_meanwhile_locks_nothing(opened: Open, node: Path):
    """Whoever waited for the old file must not believe to be alone."""
    opened().acquire()
    path = node / "blue" / "lock"
    old, new = os.open(path, os.O_RDONLY), -1
    fcntl.flock(old, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(opened(container="c2", deadline_s=0.3).acquire)
        time.sleep(0.05)
        path.unlink()
        new = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(new, fcntl.LOCK_EX)
        os.close(old)
        error = waiting.exception()
        os.close(new)

    assert isinstance(error, TryAgainLater)


def test_a_lock_that_cannot_be_opened_anew_closes_nothing_twice(
    opened: Open, node: Path, mocker: MockerFixture
):
    """The number may be another thread's by then, and that one's file would be closed."""
    opened().acquire()
    directory = node / "blue"

    def vanish(descriptor: int, path: str) -> bool:
        for each in (*directory.iterdir(), directory):
            each.rmdir() if each.is_dir() else each.unlink()
        return False

    mocker.patch.object(reservations, "_is_linked", vanish)
    before = open_files()

    with (
        pytest.raises(IOFailure, match="blue/lock: No such file or directory"),
        reservations.locked(directory, 1),
    ):
        pass

    assert before == open_files()


def test_pods_that_start_together_get_different_addresses(opened: Open):
    """Threads of one process exclude each other too: every lock is an open file of its own."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: ips(opened(container=f"c{number}").acquire())[0], range(40)))

    assert 40 == len(set(found))


def test_a_program_that_does_not_lock_only_costs_a_try(opened: Open, node: Path, mocker: MockerFixture):
    """O_EXCL is what protects an address in the end."""
    opened(container="first").acquire()
    names = reservations.names

    def late(directory: Path) -> list[str]:
        found = names(directory)
        if "10.0.0.3" not in found:
            (node / "blue" / "10.0.0.3").write_bytes(b"rude\r\neth0")
        return found

    mocker.patch.object(reservations, "names", late)

    assert ["10.0.0.4/24", "fd00::3/64"] == ips(opened().acquire())
    assert b"rude\r\neth0" == (node / "blue" / "10.0.0.3").read_bytes()


def test_a_program_that_never_locks_is_an_error_in_the_end(opened: Open, mocker: MockerFixture):
    """No endless loop."""
    mocker.patch.object(reservations, "write", side_effect=FileExistsError(errno.EEXIST, "File exists"))

    with pytest.raises(IOFailure, match="another program takes addresses without the lock"):
        opened().acquire()


def previous(*addresses: str) -> Result:
    return parse({"cniVersion": "1.1.0", "ips": [{"address": each} for each in addresses]}, "1.1.0")


def test_check_wants_every_address_reserved(opened: Open, node: Path):
    """Addresses outside of the ranges are somebody else's."""
    addresses = opened()
    answer = addresses.acquire()
    addresses.check(answer)
    addresses.check(previous("192.168.0.1/24"))

    (node / "blue" / "fd00::2").write_bytes(b"c2\r\neth0")

    with pytest.raises(CheckFailed, match=f"check addresses of eth0: {node}/blue has none of c1: fd00::2"):
        addresses.check(answer)


def test_check_fails_when_nothing_is_reserved(opened: Open):
    """Even if nobody remembers which addresses there were."""
    with pytest.raises(CheckFailed, match=r"has none of c1$"):
        opened().check(Result())


def test_status_is_about_room(opened: Open, tmp_path: Path):
    """An ADD would fail; and asking makes no directory."""
    opened(TINY).status()
    assert {} == files(tmp_path)
    for number in range(5):
        opened(TINY, container=f"c{number}").acquire()

    with pytest.raises(NotAvailable, match=r"no IP addresses available in range set: 10.0.0.1-10.0.0.6"):
        opened(TINY).status()


def test_reclaim_releases_what_is_not_valid(opened: Open, node: Path):
    """Files without interface belong to their container, torn ones to nobody, strange ones to others."""
    for container in ("c1", "c2", "c3"):
        opened(TINY, container=container).acquire()
    strange = {"10.0.0.5": b"c1", "10.0.0.6": b"", "10.0.0.99": b"c9", "10.0.0.100": b"\xff"}
    for name, content in strange.items():
        (node / "blue" / name).write_bytes(content)

    released = host_local.reclaim(node / "blue", frozenset({("c1", "eth0"), ("c3", "net1")}), 10)

    assert ["10.0.0.3", "10.0.0.4", "10.0.0.6", "10.0.0.99"] == sorted(
        released, key=lambda text: int(text[7:])
    )
    assert {"10.0.0.2", "10.0.0.5", "10.0.0.100"} == {
        name for name in files(node / "blue") if name.startswith("10.")
    }
    assert [] == host_local.reclaim(node / "gone", frozenset(), 10)


def test_a_container_s_addresses_are_found_in_every_network(opened: Open, node: Path):
    """When its ledger entry is damaged, this is all that is left to know."""
    opened().acquire()
    opened(config={"name": "red"}, interface="net1").acquire()
    opened(config={"name": "red"}, container="c2").acquire()
    (node / "a file").write_text("")

    released = host_local.release_container(node, "c1", 10)

    assert ["10.0.0.2 of blue", "fd00::2 of blue", "10.0.0.2 of red", "fd00::2 of red"] == released
    assert {"red/10.0.0.3", "red/fd00::3"} == {name for name in files(node) if "0.3" in name or "::" in name}
    assert [] == host_local.release_container(node, "c1", 10)
    assert [] == host_local.release_container(node / "gone", "c1", 10)


def test_a_network_that_is_locked_does_not_keep_the_others_from_being_tried(opened: Open, node: Path):
    """Undo goes on, and tells."""
    opened().acquire()
    opened(config={"name": "red"}).acquire()

    with open(node / "blue" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TryAgainLater, match=f"lock {node}/blue/lock"):
            host_local.release_container(node, "c1", 0.05)

    assert not (node / "red" / "10.0.0.2").exists()


def test_a_file_that_cannot_be_removed_is_told_and_the_others_are(
    opened: Open, node: Path, mocker: MockerFixture
):
    """A read-only file system, or chattr +i."""
    opened().acquire()
    unlink = os.unlink

    def refuse(path: str) -> None:
        if str(path).endswith("10.0.0.2"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path)

    mocker.patch.object(reservations.os, "unlink", refuse)

    with pytest.raises(IOFailure, match=f"remove {node}/blue/10.0.0.2: Operation not permitted"):
        opened().release()

    mocker.stopall()
    assert not (node / "blue" / "fd00::2").exists()
    assert (node / "blue" / "10.0.0.2").exists()


def reservation(directory: Path) -> Reservation:
    return Reservation(ip_address("10.0.0.2"), f"{directory}/10.0.0.2", "c", "eth0")


ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.text("0123456789abcdef.:", max_size=20),
    st.lists(st.sampled_from(["0", "00", "255", "256", "ffff", ".", ":", "::"]), max_size=12).map("".join),
)


@given(ADDRESSES)
@example("1:2:3:4:5:6:7::")
@example("::ffff:10.0.0.1")
@example("::10.0.0.01")
@example("10.0.0.01")
def test_a_file_s_name_is_an_address_where_it_is_one_for_everybody_else(name: str):
    """The C library's reading is Python's, but for zones."""
    try:
        expected = ip_address(name)
    except ValueError:
        with pytest.raises(ValueError):
            reservations.address_of(name)
        return

    assert expected == reservations.address_of(name)


@given(st.ip_addresses())
@example(ip_address("::ffff:10.0.0.1"))
@example(ip_address("::10.0.0.1"))
@example(ip_address("::1:0"))
@example(ip_address("1:0:0:2::"))
@example(ip_address("1:0:2:3:4:5:6:7"))
def test_a_file_is_called_as_everybody_else_writes_its_address(address: IPv4Address | IPv6Address):
    """The C library's text is Python's, or another plugin would hand the address out again."""
    assert str(address) == reservations.name_of(address)


@pytest.mark.parametrize("name", ["fe80::1%eth0", "10.0.0.1\0", "10.0.0.\udc80", "\u0661.0.0.1", ""])
def test_what_is_no_address_for_go_is_none_for_us(name: str):
    """Files of such names are left alone."""
    with pytest.raises(ValueError):
        reservations.address_of(name)


@pytest.mark.parametrize("errno_", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_unnamed_files_is_written_to_as_the_reference_does(
    tmp_path: Path, mocker: MockerFixture, errno_: int
):
    """NFS and others: the address is handed out all the same."""
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno_, os.strerror(errno_))
        return opened(path, flags, *more)

    mocker.patch.object(reservations.os, "open", refuse)

    reservations.write(tmp_path, [reservation(tmp_path)])

    assert b"c\r\neth0" == (tmp_path / "10.0.0.2").read_bytes()


def test_an_address_has_its_owner_before_it_has_a_name(tmp_path: Path, mocker: MockerFixture):
    """Whoever is killed in between would leave an address that is nobody's, and never comes back."""
    mocker.patch.object(reservations, "_write_all", side_effect=KeyboardInterrupt)
    mocker.patch.object(reservations, "_restore")

    with pytest.raises(KeyboardInterrupt):
        reservations.write(tmp_path, [reservation(tmp_path)])

    assert [] == os.listdir(tmp_path)
