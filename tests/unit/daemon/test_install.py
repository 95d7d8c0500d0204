"""The shim comes, is replaced while it runs, and goes; the node is as it was before."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meta_cni import shim as shim_package
from meta_cni.cli import command_line
from meta_cni.cni.errors import BadConfig, DamagedEntry, IOFailure
from meta_cni.daemon import install, wire
from meta_cni.daemon.install import Installation, Places, Shim
from meta_cni.daemon.wire import Call
from meta_cni.engine.ledger import Entry, Executed, Ledger, Record
from meta_cni.k8s.untold import Status, Untold

SOURCES = Path(shim_package.__file__).parent
PYTHON = (SOURCES / "shim.py").read_bytes()
SHIM = Shim(PYTHON, "a test")
NEWER = Shim(PYTHON + b"# newer\n", "a test")
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "os.chown", "os.utime"}
"""Audit events of what changes a file system; a file that is opened for writing is another one."""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A node with a runtime's directories, others' plugins in one of them."""
    for name in ("bin", "net.d", "cni"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "bridge").write_bytes(b"\x7fELF of somebody else")
    (tmp_path / "net.d" / "10-a.conflist").write_text('{"name": "a"}')
    return Places(
        directory=tmp_path / "bin",
        configurations=tmp_path / "net.d",
        state=tmp_path / "meta-cni" / "installed",
        spool=tmp_path / "meta-cni" / "spool",
        cni_dir=tmp_path / "cni" / "multus",
        socket=tmp_path / "s",
    )


@pytest.fixture
def root(places: Places) -> Path:
    """Everything of the node."""
    return places.directory.parent


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Every path below with all that an uninstallation gives back."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory",)
        else:
            found[name] = (path.read_bytes(), oct(status.st_mode), status.st_mtime_ns, status.st_uid)
    return found


def multus(places: Places, content: bytes = b"\x7fELF of Multus") -> Path:
    """What the node ran before."""
    path = places.directory / "multus"
    path.write_bytes(content)
    path.chmod(0o711)
    os.utime(path, ns=(10**18, 10**18))
    return path


NAMES = ["meta-cni", "multus"]


def test_the_shim_comes_under_every_name_and_goes(places: Places, root: Path):
    """P-09: what was there is there again, byte for byte, with mode, owner and times."""
    path = multus(places)
    (places.directory / "multus-shim").symlink_to("multus")
    before = tree(root)

    lines = install.install(places, SHIM, [*NAMES, "multus-shim"])

    assert [PYTHON] * 3 == [(places.directory / each).read_bytes() for each in (*NAMES, "multus-shim")]
    assert 0o755 == path.stat().st_mode & 0o777
    assert [
        f"{places.directory}/meta-cni installed: a test",
        f"{path} installed: a test; what was there is in {places.state}",
        f"{path}-shim installed: a test; what was there is in {places.state}",
    ] == lines
    assert places.spool.is_dir()

    outcome = install.uninstall(places)

    assert before == tree(root)
    assert ((), ()) == (outcome.told, outcome.errors)
    assert {
        f"{places.directory}/meta-cni removed",
        f"{path} is what it was before",
        f"{path}-shim is what it was before",
    } == set(outcome.done)
    assert install.Outcome(()) == install.uninstall(places)


def test_twice_is_as_good_as_once(places: Places, root: Path):
    """A pod that installs starts with every boot."""
    multus(places)
    before = tree(root)
    install.install(places, SHIM, NAMES)
    installed = tree(root)

    lines = install.install(places, SHIM, NAMES)

    assert [f"{places.directory}/{each} is up to date" for each in NAMES] == lines
    assert installed == tree(root)
    install.uninstall(places)
    assert before == tree(root)


def test_an_upgrade_keeps_what_was_there_before_the_first(places: Places, root: Path):
    """Not the old shim."""
    multus(places)
    before = tree(root)
    install.install(places, SHIM, NAMES)

    install.install(places, NEWER, NAMES)

    assert NEWER.content == (places.directory / "multus").read_bytes()
    install.uninstall(places)
    assert before == tree(root)


def test_a_lost_mode_is_put_right(places: Places):
    """A copy by hand is not executable."""
    install.install(places, SHIM, ["meta-cni"])
    (places.directory / "meta-cni").chmod(0o644)

    assert "installed" in install.install(places, SHIM, ["meta-cni"])[0]

    assert 0o755 == (places.directory / "meta-cni").stat().st_mode & 0o777


def test_what_somebody_else_put_over_it_is_his(places: Places, root: Path):
    """Multus' own installer came after us."""
    multus(places, b"old")
    install.install(places, SHIM, NAMES)
    multus(places, b"new")
    before = tree(places.directory)

    outcome = install.uninstall(places)

    del before["meta-cni"]
    assert before == tree(places.directory)
    assert f"{places.directory}/multus is not ours any more: it stays" in outcome.done
    assert not places.state.exists()


def test_what_somebody_else_put_over_it_is_what_comes_back(places: Places, root: Path):
    """When it was replaced by us once more."""
    multus(places, b"old")
    install.install(places, SHIM, NAMES)
    multus(places, b"new")
    install.install(places, SHIM, NAMES)
    assert 1 == len(list(places.state.glob("multus.*")))

    install.uninstall(places)

    assert b"new" == (places.directory / "multus").read_bytes()
    assert not places.state.exists()


def test_what_somebody_removed_comes_back_when_it_was_there_before(places: Places, root: Path):
    """As it was."""
    multus(places)
    before = tree(root)
    install.install(places, SHIM, NAMES)
    for each in NAMES:
        (places.directory / each).unlink()

    install.uninstall(places)

    assert before == tree(root)


def test_a_shim_that_nobody_recorded_goes_too(places: Places, root: Path):
    """Copied by hand; the runtime would go on calling it."""
    before = tree(root)
    (places.directory / "by-hand").write_bytes(PYTHON)

    assert (f"{places.directory}/by-hand removed",) == install.uninstall(places).done

    assert before == tree(root)


@contextmanager
def killed_at(change: int) -> Iterator[None]:
    """In a process that dies just before its n-th change of the file system, whatever it is."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        is_written = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if event in CHANGES or is_written:
            seen += 1
            if seen > change:
                os._exit(9)

    sys.addaudithook(hook)
    yield


def ends(change: int, act: Callable[[], object]) -> bool:
    """Do it in a child that is killed at its n-th change; did it come to its end?"""
    child = os.fork()
    if child == 0:
        try:
            with killed_at(change):
                act()
        except BaseException:  # noqa: BLE001 - a child of a fork never returns
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


def test_an_installation_that_is_killed_anywhere_can_be_run_again(places: Places, root: Path):
    """A node that reboots meanwhile; there is always a whole program under every name."""
    multus(places)
    before = tree(root)
    for change in range(200):
        is_done = ends(change, lambda: install.install(places, SHIM, NAMES))
        assert (places.directory / "multus").read_bytes() in (PYTHON, b"\x7fELF of Multus")

        if change % 2:
            install.install(places, NEWER, NAMES)
        install.uninstall(places)

        assert before == tree(root), change
        if is_done:
            break
    assert is_done
    assert change > 10


def test_an_uninstallation_that_is_killed_anywhere_can_be_run_again(places: Places, root: Path):
    """P-09: half of it is worse than none."""
    multus(places)
    (places.directory / "multus-shim").symlink_to("multus")
    before = tree(root)
    for change in range(200):
        install.install(places, SHIM, [*NAMES, "multus-shim"])
        is_done = ends(change, lambda: install.uninstall(places))

        install.uninstall(places)

        assert before == tree(root), change
        if is_done:
            break
    assert is_done
    assert change > 10


def test_a_program_that_runs_is_replaced(places: Places, root: Path):
    """P-01: "Text file busy" after a reboot kept a node without pods."""
    path = multus(places, Path(str(shutil.which("sleep"))).read_bytes())
    path.chmod(0o755)
    before = tree(root)
    running = subprocess.Popen([path, "60"])
    try:
        with pytest.raises(OSError, match="Text file busy"):
            path.open("r+b")

        install.install(places, SHIM, NAMES)

        assert PYTHON == path.read_bytes()
        assert running.poll() is None
        install.uninstall(places)
        assert before == tree(root)
    finally:
        running.kill()
        running.wait()


def test_a_shim_that_waits_for_its_daemon_is_replaced(places: Places, tmp_path: Path):
    """P-01, by our own: the runtime calls before the daemon is there."""
    shim = install.find_shim(None)
    if b"\x7fELF" != shim.content[:4]:
        pytest.skip("no C compiler")
    install.install(places, shim, NAMES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(str(tmp_path / "s"))
        daemon.listen()
        environment = {"CNI_COMMAND": "ADD", "META_CNI_SOCKET": str(tmp_path / "s")}
        waiting = subprocess.Popen([places.directory / "multus"], env=environment, stdin=subprocess.DEVNULL)
        connection, _ = daemon.accept()
        with connection:
            lines = install.install(places, NEWER, NAMES)

            assert ["installed", "installed"] == [each.split()[1].rstrip(":") for each in lines]
            assert waiting.poll() is None
            while connection.recv(1 << 16):
                pass
            connection.sendall(wire.answer(b"", 0))
        assert 0 == waiting.wait(60)


@pytest.mark.parametrize("name", ["", "../x", ".hidden", ".", "a/b", "a\0b"])
def test_a_name_that_is_none_is_refused(places: Places, root: Path, name: str):
    """Before anything is written."""
    with pytest.raises(BadConfig, match="expected a file name"):
        Installation(places.state).install(SHIM, places.directory, ["meta-cni", name])

    assert {"bridge"} == {each.name for each in places.directory.iterdir()}


def test_a_directory_that_no_runtime_has_is_refused(places: Places, root: Path):
    """A typing error would install where nobody looks."""
    with pytest.raises(IOFailure, match="bni: expected the runtime's plugin directory"):
        Installation(places.state).install(SHIM, root / "bni", ["meta-cni"])


def test_a_directory_under_our_name_is_refused(places: Places):
    """It cannot be replaced whole."""
    (places.directory / "meta-cni").mkdir()

    with pytest.raises(IOFailure, match="it is a directory"):
        install.install(places, SHIM, ["meta-cni"])


@pytest.mark.parametrize("call", ["os.replace", "os.fsync"])
def test_a_disk_that_takes_nothing_leaves_what_was_there(places: Places, root: Path, mocker, call: str):
    """Full, or read-only."""
    multus(places)
    before = tree(places.directory)
    mocker.patch(f"meta_cni.daemon.durable.{call}", side_effect=OSError(28, "No space left on device"))

    with pytest.raises(IOFailure, match="No space left on device"):
        install.install(places, SHIM, NAMES)

    assert before == tree(places.directory)
    mocker.stopall()
    install.uninstall(places)
    assert before == tree(places.directory)


def test_a_link_that_cannot_be_written_leaves_what_was_there(places: Places, mocker):
    """As a file."""
    (places.directory / "multus").symlink_to("bridge")
    mocker.patch("meta_cni.daemon.durable.os.replace", side_effect=OSError(30, "Read-only file system"))

    with pytest.raises(IOFailure, match="Read-only file system"):
        install.install(places, SHIM, ["multus"])

    assert "bridge" == os.readlink(places.directory / "multus")
    assert [] == list(places.state.iterdir())


@pytest.mark.parametrize("place", ["state", "spool"])
def test_a_place_that_cannot_be_made_is_named(places: Places, root: Path, place: str):
    """A file has its name."""
    (root / "meta-cni").write_text("")

    acts = {
        "spool": lambda: install.install(places, SHIM, NAMES),
        "state": lambda: Installation(places.state).install(SHIM, places.directory, NAMES),
    }

    with pytest.raises(IOFailure, match=f"make {getattr(places, place)}: Not a directory"):
        acts[place]()


def test_a_record_that_was_changed_is_not_trusted(places: Places):
    """Something else might be restored; nothing is touched."""
    multus(places)
    install.install(places, SHIM, NAMES)
    record = places.state / "record"
    record.write_bytes(record.read_bytes().replace(b"multus", b"bridge"))
    before = tree(places.directory)

    for act in (lambda: install.install(places, NEWER, NAMES), lambda: install.uninstall(places)):
        with pytest.raises(DamagedEntry, match="the checksum does not match: expected the copies"):
            act()

    assert before == tree(places.directory)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_copy_that_was_changed_is_not_restored(places: Places, is_gone: bool):
    """It is told, everything else is undone, and the shim stays: no program at all is no better."""
    multus(places)
    install.install(places, SHIM, NAMES)
    copy = next(places.state.glob("multus.*"))
    if is_gone:
        copy.unlink()
    else:
        copy.write_bytes(b"something else")

    outcome = install.uninstall(places)

    assert [
        f"restore {places.directory}/multus: {copy} is not what was saved: expected it restored by hand"
    ] == [each.message for each in outcome.errors]
    assert {"bridge", "multus"} == {each.name for each in places.directory.iterdir()}
    multus(places)
    assert () == install.uninstall(places).errors
    assert not places.state.exists()


def test_a_daemon_that_serves_must_be_stopped_first(places: Places, root: Path):
    """It would write its configuration again."""
    install.install(places, SHIM, NAMES)
    before = tree(places.directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(str(places.socket))
        daemon.listen()
        with pytest.raises(IOFailure, match=r"a daemon serves .*: expected it to be stopped first"):
            install.uninstall(places)

    assert before == tree(places.directory)
    assert install.uninstall(places).done  # a socket that was left by one that was killed


def test_what_waits_and_what_is_attached_stays_and_is_told(places: Places):
    """Their addresses and links are known nowhere else."""
    install.install(places, SHIM, NAMES)
    call = Call({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "b"}, b"{}")
    (places.spool / "1.request").write_bytes(wire.request(call))
    ledger = Ledger(places.cni_dir / "ledger")
    ledger.write(entry("a"))
    ledger.write(entry("c"))
    ledger.set_aside("c")
    untold = Untold(places.cni_dir / "untold")
    untold.put(Status("a", "eth0", "telco", "p", {}))

    outcome = install.uninstall(places)

    assert () == outcome.errors
    directory = places.cni_dir / "ledger"
    assert (
        f"1 DELs wait in {places.spool}: they are done when a daemon is started",
        f"1 sandboxes are attached (a): {directory} stays: expected the node to be drained before",
        f"1 damaged entries are in {directory}/damaged: they stay",
    ) == outcome.told
    assert ledger.read("a") == entry("a")
    assert ["p"] == [each.name for each in untold.read()]
    assert 1 == len(ledger.damaged())
    assert (places.spool / "1.request").exists()
    assert not places.state.exists()


def entry(container_id: str) -> Entry:
    executed = (Executed("bridge", True, "{}"),)
    record = Record(
        container_id=container_id,
        request="eth0",
        request_network="n",
        network="n",
        interface="eth0",
        config_name="n",
        cni_version="1.1.0",
        netns="/n",
        netns_identity="1:2",
        executed=executed,
        cni_args={},
        path=(),
        deadline_s=1.0,
    )
    return Entry(container_id, records=(record,))


def test_an_empty_ledger_goes(places: Places, root: Path):
    """Its directories were ours."""
    before = tree(root)
    ledger = Ledger(places.cni_dir / "ledger")
    with ledger.locked("a", 1):
        ledger.write(entry("a"))
        ledger.remove("a")

    assert install.Outcome(()) == install.uninstall(places)

    assert before == tree(root)


def test_what_cannot_be_read_is_told_after_everything_else(places: Places, root: Path):
    """Nothing of it keeps the shim on the node."""
    install.install(places, SHIM, NAMES)
    places.spool.rmdir()
    places.spool.write_text("")
    places.cni_dir.mkdir()
    (places.cni_dir / "ledger").write_text("")

    outcome = install.uninstall(places)

    assert ["Not a directory"] * 2 == [each.message.rpartition(": ")[2] for each in outcome.errors]
    assert {"bridge"} == {each.name for each in places.directory.iterdir()}


def test_directories_that_are_not_there_are_no_trouble(tmp_path: Path):
    """A node that never had any of it."""
    nowhere = tmp_path / "x"

    assert install.Outcome(()) == install.uninstall(Places(*[nowhere / each for each in "abcdef"]))

    assert not nowhere.exists()


@pytest.mark.parametrize("place", ["directory", "state"])
def test_a_directory_that_is_a_file_is_told(places: Places, place: str, root: Path):
    """By its name."""
    install.install(places, SHIM, NAMES)
    if place == "directory":
        broken = Places(**{**vars_of(places), "directory": root / "bin" / "bridge"})
        with pytest.raises(IOFailure, match=r"read .*/bridge: Not a directory"):
            install.uninstall(broken)
    else:
        (places.state / "somebody").mkdir()
        with pytest.raises(IOFailure, match=r"remove .*/installed: "):
            install.uninstall(places)


def vars_of(places: Places) -> dict[str, Path]:
    return {name: getattr(places, name) for name in Places.__slots__}


def test_the_shim_that_is_given_is_taken(tmp_path: Path):
    """Built elsewhere, for a node without a compiler; anything else by mistake is not."""
    path = tmp_path / "shim"
    path.write_bytes(PYTHON)

    assert Shim(PYTHON, str(path)) == install.find_shim(path)

    path.write_bytes(b"multus")
    for each in (path, tmp_path / "gone"):
        with pytest.raises(IOFailure, match=r"it is no shim of meta-cni: expected a compiled shim.c"):
            install.find_shim(each)


def test_one_that_was_compiled_before_is_taken(tmp_path: Path, mocker):
    """By the build of a container image."""
    (tmp_path / "shim").write_bytes(NEWER.content)
    mocker.patch.object(install, "SOURCES", tmp_path)

    assert Shim(NEWER.content, f"{tmp_path}/shim") == install.find_shim(None)


def test_it_is_compiled_where_there_is_a_compiler():
    """Static, and the same bytes each time, so that nothing is replaced without need."""
    if shutil.which("cc") is None and shutil.which("musl-gcc") is None:
        pytest.skip("no C compiler")

    made = [install.find_shim(None) for _ in range(2)]

    assert made[0] == made[1]
    assert b"\x7fELF" == made[0].content[:4]
    assert "compiled here by" in made[0].origin


def compiler(directory: Path, script: str) -> None:
    path = directory / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "no cc"),
        ("echo first >&2; echo cannot find -lc >&2; exit 1", "cc: cannot find -lc"),
        ("exit 3", "cc: exit status 3"),
        ("exec /bin/sleep 60", "timed out"),
    ],
)
def test_without_a_compiler_it_is_the_slow_one_and_says_so(
    tmp_path: Path, mocker, script: str | None, why: str
):
    """Whoever reads it knows what to install."""
    mocker.patch.dict(os.environ, {"PATH": str(tmp_path)})
    mocker.patch.object(install, "COMPILER_S", 0.05 if script and "sleep" in script else 60)
    if script is not None:
        compiler(tmp_path, script)

    shim = install.find_shim(None)

    assert PYTHON == shim.content
    assert "shim.py, which is slow (no musl-gcc; " in shim.origin
    assert why in shim.origin


def test_without_a_python_at_its_place_there_is_none(tmp_path: Path, mocker):
    """The runtime's error would be "no such file or directory", about a file that is there."""
    (tmp_path / "shim.py").write_bytes(PYTHON.replace(b"/usr/bin/python3", b"/usr/bin/python-of-nobody", 1))
    mocker.patch.object(install, "SOURCES", tmp_path)
    mocker.patch.dict(os.environ, {"PATH": ""})

    with pytest.raises(IOFailure, match="no /usr/bin/python-of-nobody; no musl-gcc; no cc: expected one of"):
        install.find_shim(None)


def test_the_commands_install_and_uninstall(places: Places, root: Path, capsys):
    """As a person or an init container does."""
    (root / "shim").write_bytes(PYTHON)
    multus(places)
    before = tree(root)
    here = [f"--bin-dir={places.directory}", f"--state={places.state}", f"--spool={places.spool}"]
    there = [f"--conf-dir={root}/net.d", f"--cni-dir={root}/cni/multus", f"--socket={root}/s"]

    codes = [command_line(["install", *here, f"--shim={root}/shim", "--name=meta-cni", "--name", "multus"])]
    printed = capsys.readouterr().out
    assert PYTHON == (places.directory / "multus").read_bytes()
    next(places.state.glob("multus.*")).chmod(0o600)
    codes.append(command_line(["uninstall", *here, *there]))

    assert [0, 0] == codes
    assert f"{places.directory}/meta-cni installed: {root}/shim\n" in printed
    assert f"{places.directory}/meta-cni removed\n" in capsys.readouterr().out
    (places.directory / "multus").chmod(0o711)
    assert before == tree(root)


def test_the_command_tells_what_could_not_be_undone(places: Places, root: Path, capsys):
    """On standard error, and by its exit code."""
    multus(places)
    install.install(places, SHIM, NAMES)
    next(places.state.glob("multus.*")).unlink()
    (root / "daemon.json").write_text(f'{{"cniConfigDir": "{root}/net.d", "binDir": "{root}/bin"}}')
    here = [f"--state={places.state}", f"--spool={places.spool}", f"--config={root}/daemon.json"]

    code = command_line(["uninstall", *here, f"--cni-dir={root}/cni", f"--socket={root}/s"])

    assert 1 == code
    assert "meta-cni: restore" in capsys.readouterr().err


def test_a_shim_that_is_none_ends_the_command(places: Places, capsys):
    """Nothing is installed."""
    arguments = ["install", f"--bin-dir={places.directory}", f"--shim={places.directory}/bridge"]

    assert 1 == command_line(arguments)

    assert "it is no shim of meta-cni" in capsys.readouterr().err
