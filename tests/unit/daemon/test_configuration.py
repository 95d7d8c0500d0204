"""The generated configuration: whose it is made from, what is in it, and when it is there."""

import json
import logging
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from meta_cni import compose, node
from meta_cni.cni.config import NetworkConfig
from meta_cni.cni.errors import BadConfig, CNIError, IOFailure, NotAvailable
from meta_cni.daemon import configuration
from meta_cni.daemon.configuration import Generator, Options, Primary

BRIDGE = {"type": "bridge", "bridge": "br0"}
FLANNEL = """{
  "name": "cbr0", "cniVersion": "1.0.0",
  "plugins": [
    {"type": "flannel", "big": 1e3, "delegate": {"hairpinMode": true}},
    {"type": "portmap", "capabilities": {"portMappings": true, "ips": false}}
  ]
}"""


def conflist(*plugins: dict[str, Any], version: str = "1.1.0", name: str = "primary") -> str:
    return json.dumps({"cniVersion": version, "name": name, "plugins": plugins or (BRIDGE,)})


@dataclass
class Directory:
    """The runtime's directory, with a generator that takes turns when it is told to."""

    path: Path
    now: float = 0.0
    ready: bool = True
    shims: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    generator: Generator = field(init=False)

    def start(self, **keys: Any) -> "Directory":
        """A daemon with this file begins."""
        options = configuration.parse(json.dumps({"cniConfigDir": str(self.path), **keys}), "daemon.json")
        self.generator = Generator(options, self.shims.__contains__, self._status, lambda: self.now)
        return self

    def _status(self, network: NetworkConfig) -> None:
        self.asked.append(network.name)
        if not self.ready:
            raise NotAvailable("not yet")

    def put(self, name: str, text: str) -> Path:
        path = self.path / name
        path.write_text(text)
        return path

    def turn(self, turns: int = 1) -> str:
        """So many turns; what is wrong after the last one."""
        for _ in range(turns):
            self.generator.turn()
        return self.generator.problem()

    def names(self) -> set[str]:
        return {each.name for each in self.path.iterdir()}

    @property
    def ours(self) -> Path:
        return self.path / "00-meta-cni.conflist"

    def plugin(self) -> dict[str, Any]:
        """The plugin in our list."""
        plugins: list[dict[str, Any]] = json.loads(self.ours.read_text())["plugins"]
        return plugins[0]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """With a generator that knows its directory alone."""
    return Directory(tmp_path).start()


def primary_of(text: str, name: str = "10-x.conflist") -> Primary:
    found = configuration.read_primary(Path("/n") / name, text.encode(), lambda _: False)
    assert found is not None
    return found


def test_a_primary_is_embedded_byte_for_byte():
    """A number keeps its format, a key its place: the plugin gets what its author wrote."""
    name, content = configuration.render(primary_of(f"\ufeff {FLANNEL}\n"), Options())

    assert "00-meta-cni.conflist" == name
    assert content.endswith(f'"delegates":[{FLANNEL}]}}]}}\n'.encode())
    document = json.loads(content)
    assert ("1.0.0", "meta-cni-network") == (document["cniVersion"], document["name"])
    assert {
        "type": "meta-cni",
        "generatedBy": "meta-cni daemon",
        "capabilities": {"portMappings": True},
        "delegates": [json.loads(FLANNEL)],
    } == document["plugins"][0]


def test_plugins_of_the_primary_s_own_directory_are_embedded_with_it(directory: Directory):
    """CNI 1.1: the runtime would run them, and it must not run them behind us once more."""
    (directory.path / "primary").mkdir()
    directory.put("primary/20-b.conf", '{"type": "b", "n": 1e3}')
    directory.put("primary/10-a.conf", '{"type": "a"}')
    directory.put("primary/00-c.txt", "notes")
    directory.put("10-x.conflist", conflist({"type": "first"}))

    assert "" == directory.turn()

    def types() -> list[str]:
        return [each["type"] for each in directory.plugin()["delegates"][0]["plugins"]]

    assert ["first", "a", "b"] == types()
    assert b'{"type":"b","n":1e3}' in directory.ours.read_bytes()
    assert json.loads(directory.ours.read_text())["loadOnlyInlinedPlugins"]

    directory.put("10-x.conflist", '{"cniVersion": "1.1.0", "name": "primary"}')
    assert "" == directory.turn()
    assert ["a", "b"] == types()

    text = json.loads(conflist({"type": "first"}))
    directory.put("10-x.conflist", json.dumps({**text, "loadOnlyInlinedPlugins": True}))
    assert "" == directory.turn()
    assert ["first"] == types()


def test_a_plugin_of_its_directory_that_leads_to_ourselves_makes_it_no_primary(directory: Directory):
    """P-14: chained behind it, we are called already."""
    (directory.path / "primary").mkdir()
    directory.put("primary/50-meta.conf", '{"type": "meta-cni"}')
    directory.put("10-x.conflist", conflist())

    assert "there is no primary network" in directory.turn()


def test_before_1_0_0_it_is_a_single_plugin():
    """D-28 is the other way round: each version gets the form that it has."""
    text = json.dumps({"cniVersion": "0.3.1", "name": "x", **BRIDGE})

    name, content = configuration.render(primary_of(text, "10-x.conf"), Options())

    assert "00-meta-cni.conf" == name
    document = json.loads(content)
    assert ("0.3.1", "meta-cni") == (document["cniVersion"], document["type"])
    assert [json.loads(text)] == document["delegates"]
    assert "plugins" not in document


def test_the_same_input_gives_the_same_bytes():
    """Else it would be written at every turn."""
    text = conflist({**BRIDGE, "capabilities": {"mac": True, "ips": True, "bandwidth": "true"}})

    assert 1 == len({configuration.render(primary_of(text), Options()) for _ in range(3)})


def test_the_daemon_s_keys_are_put_in_as_they_are():
    """Settings, and what nobody knows; not what is the daemon's own."""
    options = configuration.parse(
        '{"cniDir": "/state", "Unknown": 1.50, "logLevel": "debug", "readinessindicatorfile": "/r", '
        '"cniConfigDir": "/a", "multusAutoconfigDir": "/b", "multusConfigFile": "auto", '
        '"chrootDir": "/proc", "capabilities": {"mac": true, "ips": false}, "type": "multus-shim", '
        '"name": "mine", '
        '"cniVersion": "1.1.0", "multusMasterCNI": "9.json", "socketDir": "/run/multus/", "binDir": "/bin"}',
        "f",
    )

    _, content = configuration.render(primary_of(FLANNEL), options)

    document = json.loads(content)
    assert ("1.1.0", "mine") == (document["cniVersion"], document["name"])
    plugin = document["plugins"][0]
    assert {
        "type": "multus-shim",
        "generatedBy": "meta-cni daemon",
        "capabilities": {"mac": True, "portMappings": True},
        "cniDir": "/state",
        "Unknown": 1.5,
        "logLevel": "debug",
        "readinessindicatorfile": "/r",
        "binDir": "/bin",
    } == {key: value for key, value in plugin.items() if key != "delegates"}
    assert b'"Unknown":1.50' in content
    assert ("/a", "/b", "9.json", "/r", "/bin", "debug") == (
        str(options.directory),
        str(options.primaries),
        options.master,
        options.readiness_file,
        options.bin_dir,
        options.log_level,
    )
    assert ("socketDir",) == options.ignored
    assert "/proc" == options.root


def test_a_version_can_be_forced_upon_the_embedded_primary():
    """Multus rewrites the primary's own file; it belongs to somebody else."""
    options = configuration.parse('{"cniVersion": "0.4.0", "forceCNIVersion": true}', "f")

    _, content = configuration.render(primary_of(FLANNEL), options)

    assert "0.4.0" == json.loads(content)["delegates"][0]["cniVersion"]
    assert b'"big": 1e3' in content


def test_the_network_s_name_can_be_the_primary_s():
    """Multus' overrideNetworkName."""
    options = configuration.parse('{"overrideNetworkName": true}', "f")

    assert "cbr0" == json.loads(configuration.render(primary_of(FLANNEL), options)[1])["name"]


WRONG = {
    '{"cniVersion": "2.0.0"}': "incompatible CNI versions",
    '{"cniVersion": "one"}': "cniVersion 'one': expected MAJOR.MINOR.PATCH",
    '{"cniConfigDir": "net.d"}': 'd: cniConfigDir "net.d": expected an absolute path',
    '{"multusAutoconfigDir": 5}': "d: multusAutoconfigDir 5: expected a string",
    '{"multusConfigFile": "/etc/x.conf"}': "expected auto: a configuration of your own is put into",
    '{"multusMasterCNI": "/etc/x.conf"}': "expected a file name that ends in one of .conf, .conflist, .json",
    '{"multusMasterCNI": "x.yaml"}': "expected a file name that ends in",
    '{"forceCNIVersion": "yes"}': 'd: forceCNIVersion "yes": expected true or false',
    '{"forceCNIVersion": true}': "d: forceCNIVersion true: expected cniVersion, too",
    '{"overrideNetworkName": 1}': "expected true or false",
    '{"primaryStatus": 1}': "expected true or false",
    '{"name": "-"}': 'd: name "-": expected a letter or digit',
    '{"type": "a/b"}': "expected the file name that the shim is installed by",
    '{"capabilities": []}': "d: capabilities []: expected an object",
    '{"capabilities": {"x": 1}}': "d: capabilities: x 1: expected true or false",
    '{"delegates": []}': "d: delegates []: expected no such key: it is generated",
    '{"logLevel": "loud"}': "d: logLevel 'loud': expected one of panic, error, verbose, debug",
    '{"chrootDir": "/no/such"}': 'd: chrootDir "/no/such": expected the directory where the node',
    '{"logLevel": 3}': "d: logLevel 3: expected a string",
    '{"binDir": "bin"}': "d: binDir 'bin': expected an absolute path",
    "[]": "decode d: expected a JSON object, got a list",
    "{": "decode d:",
}


@pytest.mark.parametrize("text", WRONG, ids=WRONG.values())
def test_a_wrong_daemon_s_file_is_refused_by_its_key(text: str):
    """P-25: a daemon that ends must say why."""
    with pytest.raises(CNIError) as caught:
        configuration.parse(text, "d")

    assert WRONG[text] in f"{caught.value.message} {caught.value.details}"


def test_every_wrong_key_is_told_at_once():
    """One round for the administrator."""
    with pytest.raises(CNIError, match=r"3 errors: .*cniVersion.*name.*cniDir"):
        configuration.parse('{"cniVersion": "x", "name": "-", "cniDir": 5}', "d")


def test_options_come_from_a_file_a_directory_or_both(tmp_path: Path):
    """Without either nothing is generated."""
    path = tmp_path / "daemon.json"
    path.write_text('{"cniConfigDir": "/a", "logLevel": "debug"}')

    both = configuration.open_options(str(path), "/b")

    assert configuration.open_options(None, None) is None
    assert (Path("/b"), Path("/b"), "debug") == (both.directory, both.primaries, both.log_level)
    assert Options(directory=Path("/b"), primaries=Path("/b")) == configuration.open_options(None, "/b")
    path.write_text('{"cniConfigDir": "/a", "multusAutoconfigDir": "/p"}')
    apart = configuration.open_options(str(path), "/b")
    assert (Path("/b"), Path("/p")) == (apart.directory, apart.primaries)
    with pytest.raises(BadConfig, match="expected --config or --conf-dir, too"):
        configuration.open_options(None, None, is_removed_on_stop=True)
    with pytest.raises(IOFailure, match="gone: expected the daemon's configuration"):
        configuration.open_options(str(tmp_path / "gone"), None)


def test_the_shim_s_name_is_the_command_line_s_unless_the_file_names_one(tmp_path: Path):
    """Multus' ConfigMap is taken as it is, and our configuration is to be of its type all the same."""
    plain, named = tmp_path / "plain.json", tmp_path / "named.json"
    plain.write_text("{}")
    named.write_text('{"type": "cni-shim"}')

    found = [configuration.open_options(str(path), None, plugin_type="multus") for path in (plain, named)]

    assert ["multus", "cni-shim"] == [each.type for each in found if each]
    with pytest.raises(BadConfig, match="--type: expected --config or --conf-dir, too"):
        configuration.open_options(None, None, plugin_type="multus")
    with pytest.raises(BadConfig, match=r"--type '\.\./multus': expected the file name"):
        configuration.open_options(None, "/b", plugin_type="../multus")


def test_the_first_by_name_is_the_primary(directory: Directory):
    """As the runtime would choose, whatever the ending; nothing else in the directory counts."""
    directory.put("30-c.conf", json.dumps({"cniVersion": "1.0.0", "name": "c", **BRIDGE}))
    directory.put("20-b.conflist", conflist(name="b"))
    directory.put("15-d.json", json.dumps({"cniVersion": "1.0.0", "name": "d", **BRIDGE}))
    directory.put("10-a.conflist.bak", conflist(name="bak"))
    directory.put(".05-editing.conflist.swp", "")
    (directory.path / "01-a.conf").mkdir()

    assert "" == directory.turn()

    assert "d" == directory.plugin()["delegates"][0]["name"]


def test_a_named_primary_wins_over_the_order(directory: Directory):
    """Multus' multusMasterCNI."""
    directory.put("10-a.conflist", conflist(name="a"))
    directory.put("20-b.conflist", conflist(name="b"))

    assert "" == directory.start(multusMasterCNI="20-b.conflist").turn()

    assert "b" == directory.plugin()["delegates"][0]["name"]


OURSELVES = {
    "our type": {"type": "meta-cni"},
    "Multus": {"type": "multus-shim", "clusterNetwork": "/etc/cni/net.d/10-x.conflist"},
    "the marker": {"type": "renamed", "generatedBy": "meta-cni daemon"},
    "a shim by another name": {"type": "bridge-of-ours"},
}


@pytest.mark.parametrize("kind", OURSELVES)
def test_what_leads_to_ourselves_is_no_primary(directory: Directory, kind: str):
    """P-14: a restart must not embed us in ourselves, by whatever file name."""
    directory.shims.add("bridge-of-ours")
    directory.put("05-was-ours.conflist", conflist(BRIDGE, OURSELVES[kind]))
    directory.put("10-a.conflist", conflist(name="a"))

    assert "" == directory.turn()

    assert "a" == directory.plugin()["delegates"][0]["name"]
    assert "it is meta-cni itself" in directory.start(multusMasterCNI="05-was-ours.conflist").turn()


def test_a_restart_writes_nothing_that_is_there(directory: Directory):
    """The runtime reads its directory at every change."""
    directory.put("10-a.conflist", conflist())
    directory.turn()
    before = directory.ours.stat()

    assert "" == directory.start().turn(3)

    assert before == directory.ours.stat()
    assert 0o600 == before.st_mode & 0o777


def test_a_changed_primary_changes_ours(directory: Directory):
    """Level-triggered: it does not matter when or how."""
    directory.put("10-a.conflist", conflist(name="a"))
    directory.turn()

    directory.put("10-a.conflist", conflist(name="b"))
    assert "" == directory.turn()
    assert "b" == directory.plugin()["delegates"][0]["name"]

    directory.put("05-c.conflist", conflist(name="c"))
    assert "" == directory.turn()
    assert "c" == directory.plugin()["delegates"][0]["name"]


@pytest.mark.parametrize(
    "text", ["", "{", '{"name": "x"}', conflist(version="9.0.0"), '{"plugins": []}', "{}", "\xff"]
)
def test_a_primary_that_is_being_written_changes_nothing(directory: Directory, text: str):
    """D-27: Multus persists an empty configuration; and the next file by name is no better primary."""
    directory.put("10-a.conflist", conflist(name="a"))
    directory.put("87-podman.conflist", conflist(name="podman"))
    directory.turn()
    before = directory.ours.read_bytes()
    (directory.path / "10-a.conflist").write_bytes(text.encode("latin-1"))

    problem = directory.turn(3)

    assert "10-a.conflist" in problem or "incompatible" in problem
    assert before == directory.ours.read_bytes()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("10-a.conf", conflist(), "expected type, and no plugins, which a *.conflist has"),
        (
            "10-a.conflist",
            json.dumps({"cniVersion": "1.0.0", "name": "a", **BRIDGE}),
            "expected plugins, and no type",
        ),
        ("10-a.conflist", '{"cniVersion": "1.0.0", "name": "a"}', "expected plugins"),
    ],
)
def test_a_list_by_the_name_of_a_single_plugin_is_told(
    directory: Directory, name: str, text: str, expected: str
):
    """The runtime refuses it, too."""
    directory.put(name, text)

    assert expected in directory.turn()

    assert {name} == directory.names()


def test_nothing_is_written_before_the_primary_is_ready(directory: Directory, tmp_path: Path):
    """P-13: a node that says it is ready before its network is starts pods without one."""
    ready = tmp_path / "ready"
    directory.start(readinessindicatorfile=str(ready), primaryStatus=True)
    directory.ready = False
    problems = [directory.turn()]
    directory.put("10-a.conflist", conflist(name="a"))
    problems.append(directory.turn())
    ready.touch()
    problems.append(directory.turn())
    assert not directory.ours.exists()
    directory.ready = True

    assert "" == directory.turn(3)

    assert "there is no primary network" in problems[0]
    assert "readinessindicatorfile" in problems[1]
    assert "not yet" in problems[2]
    assert ["a", "a"] == directory.asked
    assert directory.ours.exists()


def test_what_is_not_ready_any_more_takes_nothing_away(directory: Directory, tmp_path: Path):
    """Pods run; our own STATUS tells."""
    ready = directory.put("ready", "")
    directory.put("10-a.conflist", conflist(name="a"))
    directory.start(readinessindicatorfile=str(ready)).turn()
    before = directory.ours.read_bytes()
    ready.unlink()

    assert "" == directory.turn()
    directory.put("10-a.conflist", conflist(name="b"))
    assert "readinessindicatorfile" in directory.turn()

    assert before == directory.ours.read_bytes()


def test_without_a_primary_there_is_none_of_ours(directory: Directory):
    """P-09: the runtime says that there is no network, instead of failing every ADD."""
    primary = directory.put("10-a.conflist", conflist())
    directory.turn()
    primary.unlink()

    assert "there is no primary network in" in directory.turn()
    assert directory.ours.exists()
    assert "expected a file *.conf, *.conflist, *.json of another plugin" in directory.turn()
    assert set() == directory.names()

    primary.write_text(conflist())
    assert "" == directory.turn()
    assert directory.ours.exists()


def test_a_primary_that_is_replaced_by_removing_it_first_is_not_gone(directory: Directory):
    """The node would be not ready for a moment."""
    primary = directory.put("10-a.conflist", conflist(name="a"))
    directory.turn()
    for name in ("b", "c"):
        primary.unlink()
        directory.turn()
        assert directory.ours.exists()
        primary.write_text(conflist(name=name))
        assert "" == directory.turn()

    assert "c" == directory.plugin()["delegates"][0]["name"]


def test_a_named_primary_that_is_gone_is_named(directory: Directory):
    """Another one does not stand in for it."""
    directory.put("20-b.conflist", conflist(name="b"))
    directory.start(multusMasterCNI="10-a.conflist")

    assert f"in {directory.path}/10-a.conflist: expected this file" in directory.turn(2)

    assert {"20-b.conflist"} == directory.names()


def test_only_one_of_the_two_names_is_there(directory: Directory):
    """A primary that changes its version changes ours; two would be one too many."""
    directory.put("10-a.conflist", conflist(version="0.4.0"))
    directory.turn()
    assert {"00-meta-cni.conf", "10-a.conflist"} == directory.names()
    directory.put("10-a.conflist", conflist(version="1.0.0"))

    assert "" == directory.turn()

    assert {"00-meta-cni.conflist", "10-a.conflist"} == directory.names()


@pytest.mark.parametrize("name", ["00-meta-cni.conflist", "00-meta-cni.conf"])
def test_a_file_that_somebody_else_wrote_is_left(directory: Directory, name: str):
    """By its content, not by its name."""
    theirs = directory.put(name, conflist({"type": "meta-cni"}))
    directory.put("10-a.conflist", conflist())

    problem = directory.turn()
    (directory.path / "10-a.conflist").unlink()
    directory.turn(3)

    assert conflist({"type": "meta-cni"}) == theirs.read_text()
    assert ("there is one that meta-cni did not generate" in problem) == (name.endswith("list"))


def test_an_empty_file_of_our_name_is_ours_to_write(directory: Directory):
    """What an unclean file system leaves."""
    directory.ours.touch()
    directory.put("10-a.conflist", conflist())

    assert "" == directory.turn()

    assert "primary" == directory.plugin()["delegates"][0]["name"]


def test_what_another_program_took_away_is_written_again_but_not_for_ever(
    directory: Directory, caplog: pytest.LogCaptureFixture
):
    """P-15: Cilium renames every other configuration; silence would leave pods with one network."""
    directory.put("10-a.conflist", conflist())
    directory.turn()
    written = 0
    caplog.set_level(logging.INFO, "meta_cni")
    for _ in range(20):
        directory.now += 1
        directory.ours.replace(directory.path / "00-meta-cni.conflist.cilium_bak")
        problem = directory.turn()
        if not directory.ours.exists():
            break
        written += 1

    assert configuration.REPEATS == written
    assert "by Cilium (expected cni.exclusive=false)" in problem
    assert 1 == sum("Cilium" in each.message for each in caplog.records)

    directory.now += 61
    assert "Cilium" in directory.turn()
    directory.now += 61
    assert "" == directory.turn()
    assert directory.ours.exists()
    assert "as it should be" in caplog.records[-1].message


def test_what_another_program_changed_is_put_right(directory: Directory):
    """An editor, another installer."""
    directory.put("10-a.conflist", conflist())
    directory.turn()
    right = directory.ours.read_bytes()
    directory.ours.write_bytes(right.replace(b"bridge", b"broken"))

    assert "is changed or removed by another program" in directory.turn()

    assert right == directory.ours.read_bytes()


def test_a_directory_that_is_not_there_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The daemon serves all the same, and goes on when it comes."""
    directory = Directory(tmp_path / "net.d").start()
    caplog.set_level(logging.INFO, "meta_cni")

    assert f"read {tmp_path}/net.d: No such file or directory" == directory.turn(3)

    assert 1 == len(caplog.records)
    directory.path.mkdir()
    directory.put("10-a.conflist", conflist())
    assert "" == directory.turn()


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "os.fchmod"])
def test_a_disk_that_takes_nothing_leaves_what_was_there(directory: Directory, mocker, call: str):
    """Full, or read-only: what was there is whole, and nothing is beside it."""
    directory.put("10-a.conflist", conflist(name="a"))
    directory.turn()
    before = directory.ours.read_bytes()
    directory.put("10-a.conflist", conflist(name="b"))
    fault = mocker.patch(
        f"meta_cni.daemon.durable.{call}", side_effect=OSError(28, "No space left on device")
    )

    problem = directory.turn(2)

    assert f"write {directory.ours}: No space left on device" == problem
    assert (before, {"10-a.conflist", directory.ours.name}) == (
        directory.ours.read_bytes(),
        directory.names(),
    )
    mocker.stop(fault)
    assert "" == directory.turn()


def test_a_file_that_cannot_be_removed_is_told(directory: Directory, mocker):
    """A read-only directory, once more."""
    primary = directory.put("10-a.conflist", conflist())
    directory.turn()
    primary.unlink()
    mocker.patch.object(Path, "unlink", side_effect=OSError(30, "Read-only file system"))

    assert f"remove {directory.ours}: Read-only file system" == directory.turn(2)


def test_a_primary_that_cannot_be_read_is_told(directory: Directory, mocker):
    """A bad sector must not look like an absent network."""
    directory.put("10-a.conflist", conflist())
    directory.turn()
    read = mocker.patch.object(Path, "read_bytes", autospec=True)
    read.side_effect = lambda path: broken(path) if path.name == "10-a.conflist" else path.open("rb").read()

    assert f"read {directory.path}/10-a.conflist: Input/output error" == directory.turn(3)

    assert directory.ours.exists()


def broken(path: Path) -> bytes:
    raise OSError(5, "Input/output error", str(path))


def test_a_file_that_the_runtime_takes_before_ours_is_told(directory: Directory):
    """Pods would get one network, and nobody would know why."""
    directory.put("00-a.conflist", conflist({"type": "meta-cni"}))
    directory.put("10-a.conflist", conflist())
    assert "" == directory.turn()
    directory.put("00-b.conf", json.dumps({"cniVersion": "1.0.0", "name": "b", **BRIDGE}))

    problems = [directory.turn(), directory.start(multusMasterCNI="10-a.conflist").turn()]

    expected = "the runtime takes it before 00-meta-cni.conflist: expected a name that comes after"
    assert [f"{directory.path}/00-b.conf: {expected}"] * 2 == problems


def test_a_bug_does_not_end_the_thread(directory: Directory, mocker):
    """Nobody would start it again."""
    directory.put("10-a.conflist", conflist())
    mocker.patch("meta_cni.daemon.configuration.render", side_effect=ZeroDivisionError("oops"))

    assert "a bug in meta-cni: ZeroDivisionError('oops')" == directory.turn()


@pytest.mark.parametrize("is_removed", [False, True])
def test_what_is_left_when_the_daemon_ends(directory: Directory, mocker, is_removed: bool):
    """By default it stays: the shim answers that later is better."""
    mocker.patch.object(configuration, "POLL_S", 0.001)
    directory.put("10-a.conflist", conflist())
    options = directory.generator.options
    directory.generator.options = replace(options, is_removed_on_stop=is_removed)
    over = threading.Event()
    thread = threading.Thread(target=directory.generator.run, args=(over,))
    thread.start()
    while not directory.ours.exists():
        over.wait(0.001)

    over.set()
    thread.join()

    assert is_removed == (not directory.ours.exists())
    assert (directory.path / "10-a.conflist").exists()


def test_removing_takes_what_was_generated_under_every_name(directory: Directory):
    """What Cilium put aside, and what was half written; nothing else."""
    directory.put("10-a.conflist", conflist())
    directory.turn()
    generated = directory.ours.read_text()
    directory.put("00-meta-cni.conflist.cilium_bak", generated)
    directory.put(".00-meta-cni.conflist.new", generated[:50])
    directory.put("00-meta-cni.conf", conflist({"type": "meta-cni"}))
    directory.put("99-other.conflist", generated)

    removed = configuration.remove(directory.path)

    assert ["00-meta-cni.conflist", "00-meta-cni.conflist.cilium_bak"] == [each.name for each in removed]
    assert {"10-a.conflist", "00-meta-cni.conf", "99-other.conflist"} == directory.names()
    assert [] == configuration.remove(directory.path)
    assert [] == configuration.remove(directory.path / "gone")
    with pytest.raises(IOFailure, match=r"read .*10-a.conflist: Not a directory"):
        configuration.remove(directory.path / "10-a.conflist")


@pytest.fixture
def own(tmp_path: Path) -> Options:
    """Options of a node with plugins of its own, and a primary that waits for its STATUS."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "net.d").mkdir()
    keys = {"cniConfigDir": f"{tmp_path}/net.d", "binDir": f"{tmp_path}/bin", "primaryStatus": True}
    keys |= {"socketDir": "/run/multus/", "logFile": f"{tmp_path}/log"}
    return configuration.parse(json.dumps(keys), "daemon.json")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_daemon_asks_the_primary_s_own_plugins(own: Options, tmp_path: Path):
    """What calls a real plugin, with the list's name and version."""
    plugin = tmp_path / "bin" / "primary-of-somebody"
    script(plugin, """echo '{"code": 50, "msg": "no route to the others yet"}'; exit 1""")
    (own.directory / "10-a.conflist").write_text(conflist({"type": plugin.name}))
    generator = node.generator_of(own)

    generator.turn()
    assert "no route to the others yet" in generator.problem()
    script(plugin, f"cat > {tmp_path}/asked; echo $CNI_COMMAND >> {tmp_path}/asked")
    generator.turn()

    assert "" == generator.problem()
    assert (own.directory / configuration.LIST).exists()
    asked = (tmp_path / "asked").read_text()
    assert asked.endswith("STATUS\n")
    assert ("1.1.0", "primary") == tuple(
        json.loads(asked[: -len("STATUS\n")])[key] for key in ("cniVersion", "name")
    )


def test_a_primary_without_status_is_not_asked(own: Options, tmp_path: Path):
    """Before 1.1.0 there is no such verb."""
    script(tmp_path / "bin" / "old", "exit 1")
    (own.directory / "10-a.conflist").write_text(conflist({"type": "old"}, version="1.0.0"))
    generator = node.generator_of(own)

    generator.turn()

    assert "" == generator.problem()


def test_a_shim_in_the_plugin_directory_is_known_by_what_it_is(own: Options, tmp_path: Path):
    """P-14: by a name that nobody could guess."""
    (tmp_path / "bin" / "x").write_bytes((Path(compose.__file__).parent / "shim" / "shim.py").read_bytes())
    (own.directory / "10-a.conflist").write_text(conflist({"type": "x"}))
    generator = node.generator_of(own)

    generator.turn()

    assert "there is no primary network" in generator.problem()


def test_keys_that_have_no_effect_are_told(own: Options, caplog: pytest.LogCaptureFixture):
    """A file of Multus' daemon works as it is."""
    node.generator_of(own)

    assert ["keys of Multus' server that have no effect: socketDir"] == [
        each.message for each in caplog.records
    ]
