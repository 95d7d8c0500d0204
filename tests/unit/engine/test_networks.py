"""Where a network's configuration comes from, in the standard's order."""

import json
from pathlib import Path

import pytest

from meta_cni.cni.errors import CNIError
from meta_cni.engine.networks import Networks
from meta_cni.k8s.file_store import FileStore
from meta_cni.settings import Settings


def conf(name: str = "", **more: object) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": name, "type": "bridge"} | more)


def conflist(name: str, *types: str, **more: object) -> str:
    plugins = [{"type": each} for each in types]
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins} | more)


class Place:
    """A configuration directory and a store."""

    def __init__(self, root: Path) -> None:
        self.conf, self.objects = root / "conf", root / "objects"
        self.conf.mkdir()
        self.objects.mkdir()
        self.store = FileStore(self.objects, root / "state")

    def nad(self, name: str, config: str | None, namespace: str = "ns") -> None:
        document = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": namespace},
        }
        spec = {} if config is None else {"spec": {"config": config}}
        (self.objects / f"{namespace}-{name}.json").write_text(json.dumps(document | spec))

    def networks(self, has_store: bool = True, **settings: object) -> Networks:
        configured = Settings(conf_dir=str(self.conf), **settings)  # type: ignore[arg-type]
        return Networks(configured, self.store if has_store else None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_name_of_the_nad_is_injected_and_bytes_are_kept(place: Place):
    """S-06; a name that is there stays."""
    place.nad("media", '{"type":"x","n":1.10}')

    network = place.networks().of_nad("ns", "media", "w")

    assert ("ns/media", "media", "1.10") == (
        network.reference,
        network.config.name,
        network.config.plugins[0].raw.text_of("n"),
    )


@pytest.mark.parametrize("config", [None, "", "  "])
def test_nad_without_config_is_looked_up_by_name_lists_first(place: Place, config: str | None):
    """S-02, S-05: .conflist before .conf, and one bad file spoils nothing (D-47)."""
    place.nad("media", config)
    (place.conf / "00-bad.conflist").write_text("{")
    (place.conf / "10-media.conf").write_text(conf("media"))
    (place.conf / "20-media.conflist").write_text(conflist("media", "a", "b"))

    network = place.networks().of_nad("ns", "media", "w")

    assert ["a", "b"] == [each.type for each in network.config.plugins]


def test_single_file_serves_when_there_is_no_list(place: Place):
    """The last resort before failing."""
    place.nad("media", "")
    (place.conf / "media.json").write_text(conf("media"))

    assert "bridge" == place.networks().of_nad("ns", "media", "w").config.plugins[0].type


def test_what_cannot_be_read_is_named_when_nothing_is_found(place: Place):
    """The broken file may well be the one that was meant."""
    place.nad("media", "")
    (place.conf / "a.conflist").write_text("{")

    with pytest.raises(CNIError) as caught:
        place.networks().of_nad("ns", "media", "w")

    assert "a.conflist" in caught.value.details


def test_list_takes_the_plugins_of_its_directory(place: Place):
    """loadOnlyInlinedPlugins is false by default; only *.conf, in order."""
    directory = place.conf / "media"
    directory.mkdir()
    for name in ("20-b.conf", "10-a.conf"):
        (directory / name).write_text(json.dumps({"type": name[3]}))
    (directory / "30-c.json").write_text(json.dumps({"type": "c"}))
    (place.conf / "m.conflist").write_text(conflist("media", "x"))

    types = [each.type for each in place.networks().of_name("media", "w").config.plugins]

    assert ["x", "a", "b"] == types


@pytest.mark.parametrize("flag", [True, "true", "True"])
def test_list_of_inlined_plugins_ignores_its_directory(place: Place, flag: object):
    """Booleans may be strings."""
    (place.conf / "media").mkdir()
    (place.conf / "media" / "a.conf").write_text('{"type":"a"}')
    (place.conf / "m.conflist").write_text(conflist("media", "x", loadOnlyInlinedPlugins=flag))

    assert 1 == len(place.networks().of_name("media", "w").config.plugins)


def test_reference_without_slash_is_a_nad_then_a_name(place: Place):
    """clusterNetwork: the NAD of multusNamespace first."""
    (place.conf / "a.conf").write_text(conf("both", bridge="file"))
    (place.conf / "b.conf").write_text(conf("only-file"))
    place.nad("both", conf("both", bridge="nad"), "kube-system")
    networks = place.networks()

    assert "kube-system/both" == networks.of_reference("both", "w").reference
    assert "only-file" == networks.of_reference("only-file", "w").reference
    assert "both" == place.networks(has_store=False).of_reference("both", "w").reference


def test_reference_with_slash_is_a_path(place: Place):
    """A file, or the first file of a directory."""
    path = place.conf / "a.conflist"
    path.write_text(conflist("first", "x"))
    networks = place.networks()

    assert "first" == networks.of_reference(str(path), "w").reference
    assert "first" == networks.of_reference(str(place.conf), "w").reference


@pytest.mark.parametrize(
    ("reference", "text"), [("/nope", "does not exist"), ("{conf}", "no network configuration in")]
)
def test_path_that_leads_nowhere_is_told(place: Place, reference: str, text: str):
    """What is missing, and what would be right."""
    with pytest.raises(CNIError, match=text):
        place.networks().of_reference(reference.format(conf=place.conf), "w")


def test_unreadable_files_are_told(place: Place, mocker):
    """A directory without rights."""
    (place.conf / "media").mkdir()
    (place.conf / "media" / "a.conf").write_text('{"type":"a"}')
    path = place.conf / "m.conflist"
    path.write_text(conflist("media", "x"))
    networks = place.networks()
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.suffix == ".conf":
            raise PermissionError(13, "Permission denied")
        return read(self)

    mocker.patch.object(Path, "read_bytes", refuse)
    with pytest.raises(CNIError, match="read plugin configuration"):
        networks.of_file(path)
    with pytest.raises(CNIError, match="read network configuration"):
        networks.of_file(place.conf / "other.conf")


def test_default_networks_follow_the_cluster_network_but_not_in_system_namespaces(place: Place):
    """systemNamespaces get the default network alone."""
    (place.conf / "a.conf").write_text(conf("a"))
    (place.conf / "b.conf").write_text(conf("b"))
    networks = place.networks(cluster_network="a", default_networks=("b",), delegates=(conf("ignored"),))

    assert ["a", "b"] == [each.reference for each in networks.defaults(is_system_pod=False)]
    assert ["a"] == [each.reference for each in networks.defaults(is_system_pod=True)]


def test_every_wrong_default_network_is_told(place: Place):
    """One error for two mistakes."""
    networks = place.networks(cluster_network="x", default_networks=("y",))

    with pytest.raises(CNIError, match=r"clusterNetwork.*defaultNetworks\[0\]"):
        networks.defaults(is_system_pod=False)


def test_selection_without_a_store_says_what_to_configure(place: Place):
    """Annotations need somewhere to look networks up."""
    with pytest.raises(CNIError, match="expected store or kubeconfig"):
        place.networks(has_store=False).of_nad("ns", "a", "w")


def test_auxiliary_chain_is_made_of_the_files_in_its_directory(place: Place):
    """auxiliaryCNIChainName, beside the cluster network's file."""
    cluster = place.conf / "c.conflist"
    cluster.write_text(conflist("cluster", "x"))
    (place.conf / "aux").mkdir()
    networks = place.networks(cluster_network=str(cluster), auxiliary_chain="aux")
    assert networks.auxiliary() is None
    (place.conf / "aux" / "a.conf").write_text('{"type":"a"}')

    found = networks.auxiliary()
    of_directory = place.networks(cluster_network=str(place.conf), auxiliary_chain="aux").auxiliary()

    assert found is not None
    assert ("aux", ["a"]) == (found.reference, [each.type for each in found.config.plugins])
    assert of_directory == found
    assert place.networks().auxiliary() is None


def test_list_without_any_plugins_is_refused(place: Place):
    """Neither inlined nor in its directory."""
    (place.conf / "m.conflist").write_text('{"cniVersion":"1.0.0","name":"media"}')

    with pytest.raises(CNIError, match="no plugin configurations"):
        place.networks().of_file(place.conf / "m.conflist")


def test_missing_directory_has_no_networks(tmp_path: Path):
    """A node without /etc/cni/multus/net.d."""
    networks = Networks(Settings(conf_dir=str(tmp_path / "nope")), None)

    with pytest.raises(CNIError, match="no network named"):
        networks.of_name("x", "w")
