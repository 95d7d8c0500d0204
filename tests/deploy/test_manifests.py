"""The manifests and what they deploy say the same: flags, paths, ports, names, versions."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import models

from meta_cni import __version__, cli
from meta_cni.daemon import configuration, http, install
from meta_cni.daemon.server import Limits
from meta_cni.ipam import host_local
from meta_cni.k8s import kubelet
from meta_cni.k8s.store import Kind
from meta_cni.settings import MULTUS_TYPES, Settings
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY, TOP, Object, Pod

OVERLAYS = (DEPLOY, DEPLOY / "multus")
MULTUS_DAEMON_CONFIG = {
    "chrootDir": "/hostroot",
    "cniVersion": "0.3.1",
    "logLevel": "verbose",
    "logToStderr": True,
    "cniConfigDir": "/host/etc/cni/net.d",
    "multusAutoconfigDir": "/host/etc/cni/net.d",
    "multusConfigFile": "auto",
    "socketDir": "/host/run/multus/",
}
"""The ConfigMap multus-daemon-config of Multus 4.2's thick manifest."""


@pytest.fixture(params=OVERLAYS, ids=lambda each: each.name)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return manifests.rendered(request.param)


@pytest.fixture
def pod(objects: list[Object]) -> Pod:
    return manifests.pod_of(objects)


def parsed(container: Object) -> Any:
    """As the image's entry point reads its arguments; argparse ends the test where it cannot."""
    return cli._parser().parse_args(container["args"])


def test_one_apply_is_everything(objects: list[Object]):
    """`kubectl apply -k deploy/` puts CRDs, RBAC and the DaemonSet on a cluster."""
    kinds = sorted(each["kind"] for each in objects)

    expected = ["ClusterRole", "ClusterRoleBinding", "ConfigMap", "CustomResourceDefinition", "DaemonSet"]
    assert [*expected, "ServiceAccount"] == kinds
    namespaces = {each["metadata"].get("namespace") for each in objects}
    assert {None, "kube-system"} == namespaces


def test_every_crd_is_applied():
    """One that is added to crds/ is not forgotten."""
    listed = yaml.safe_load((TOP / "crds" / "kustomization.yaml").read_text())["resources"]

    there = sorted(each.name for each in (TOP / "crds").glob("*.yaml") if each.name != "kustomization.yaml")
    assert there == sorted(listed)


def test_the_daemon_s_own_account_has_the_role(objects: list[Object]):
    """Or it would be allowed nothing."""
    binding = manifests.only(objects, "ClusterRoleBinding")
    account = manifests.only(objects, "ServiceAccount")["metadata"]

    pod = manifests.pod_of(objects)
    assert account["name"] == pod.spec["serviceAccountName"]
    assert [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}] == (
        binding["subjects"]
    )
    assert manifests.only(objects, "ClusterRole")["metadata"]["name"] == binding["roleRef"]["name"]


def test_every_kind_that_we_know_is_in_the_role(objects: list[Object]):
    """One that is added to the code is not forgotten; and nobody is given everything of anything."""
    rules = manifests.only(objects, "ClusterRole")["rules"]
    granted = {(group, name) for each in rules for group in each["apiGroups"] for name in each["resources"]}

    assert {(each.value.group, each.value.plural) for each in Kind} <= granted
    assert "*" not in {word for each in rules for words in each.values() for word in words}


def test_flags_are_those_of_the_program(pod: Pod):
    """A container that does not start is told by no linter."""
    assert parsed(pod.install).run is cli._install
    assert parsed(pod.daemon).run is cli._daemon


def test_the_shim_has_the_name_that_our_configuration_calls(pod: Pod, tmp_path: Path):
    """And, taking over from Multus, those that its configurations call."""
    path = tmp_path / "daemon-config.json"
    path.write_text(json.dumps({**pod.options, "chrootDir": "/"}))
    options = configuration.open_options(str(path), None, plugin_type=parsed(pod.daemon).type)

    assert options is not None
    names = parsed(pod.install).name
    assert options.type in names
    called = {configuration.TYPE, *(MULTUS_TYPES if options.type == "multus" else ())}
    assert called == set(names)


def places(pod: Pod) -> dict[str, str]:
    """Every directory that the daemon uses by default, and what for."""
    settings = Settings()
    return {
        str(Path(cli.SOCKET).parent): "the socket",
        cli.SPOOL: "the spool",
        str(configuration.Options().directory): "the generated configuration",
        settings.conf_dir: "networks by name",
        settings.bin_dir: "plugins",
        settings.cni_dir: "the ledger",
        str(host_local.DATA_DIRECTORY): "addresses",
        "/run/netns": "pods' namespaces",
        str(Path(settings.kubelet_directory) / kubelet.SOCKET): "a pod's devices",
        str(Path(settings.kubelet_directory) / kubelet.CHECKPOINT): "a pod's devices, where nobody listens",
        settings.device_info_directory.replace("/var/run/", "/run/"): "device-info files",  # as in the image
        str(pod.options["chrootDir"]): "what executed plugins see",
        str(Path(parsed(pod.daemon).config).parent): "the daemon's file",
        **{
            str(pod.options.get(key, configuration.DIRECTORY)): f"{key} of the daemon's file"
            for key in ("cniConfigDir", "multusAutoconfigDir")
        },
    }


def is_below(path: str, directory: str) -> bool:
    return Path(path).is_relative_to(directory)


def test_every_place_that_the_daemon_uses_is_mounted(pod: Pod):
    """What is written into the container's own layer is gone with it, and on no node."""
    targets = [each.target for each in pod.mounts(pod.daemon)]

    missing = [path for path in places(pod) if not any(is_below(path, target) for target in targets)]
    assert [] == missing


def test_nothing_is_mounted_that_the_daemon_does_not_use():
    """Each mount is one more thing that a hole in us opens."""
    pod = manifests.pod_of(manifests.rendered(DEPLOY))

    unused = [
        each.target
        for each in pod.mounts(pod.daemon)
        if not any(is_below(path, each.target) for path in places(pod))
    ]
    assert [] == unused


def test_multus_own_daemon_file_is_served_as_it_is():
    """Where there is one it counts, and the directories that it names are there."""
    objects = manifests.rendered(DEPLOY / "multus")
    file = {"daemon-config.json": json.dumps(MULTUS_DAEMON_CONFIG)}
    pod = manifests.pod_of(objects, **{"multus-daemon-config": file})

    assert MULTUS_DAEMON_CONFIG == pod.options
    targets = [each.target for each in pod.mounts(pod.daemon)]
    assert [] == [path for path in places(pod) if not any(is_below(path, target) for target in targets)]
    options = configuration.parse(json.dumps({**pod.options, "chrootDir": "/"}), "daemon-config.json")
    assert ("socketDir",) == options.ignored


def test_a_place_is_at_its_own_path(pod: Pod):
    """The runtime, the shim and executed plugins name it as the node does."""
    elsewhere = {
        each.target: each.source
        for container in (pod.install, pod.daemon)
        for each in pod.mounts(container)
        if each.source not in ("", each.target)
    }

    expected = {"/hostroot": "/"}
    if parsed(pod.daemon).type == "multus":
        expected["/host/etc/cni/net.d"] = "/etc/cni/net.d"
    assert expected == elsewhere


def test_install_finds_its_places(pod: Pod):
    """The runtime's plugins; what it puts away; the spool, which is there before a shim needs it."""
    targets = [each.target for each in pod.mounts(pod.install)]

    for path in (install.DIRECTORY, parsed(pod.install).state, parsed(pod.install).spool):
        assert any(is_below(path, target) for target in targets), path
    assert len(targets) == len(pod.install["volumeMounts"]) == 2


def test_namespaces_that_come_later_are_seen(pod: Pod):
    """A pod's is mounted after the daemon was started."""
    propagated = {each.target for each in pod.mounts(pod.daemon) if each.is_propagated}

    assert {"/run/netns", "/hostroot"} == propagated


def test_what_executed_plugins_need_is_the_node_s(pod: Pod):
    """A plugin looks itself up in /proc, which is the node's below chrootDir."""
    assert pod.spec["hostPID"] is True
    assert pod.spec["hostNetwork"] is True
    assert pod.daemon["securityContext"]["privileged"] is True


def test_probes_ask_where_the_daemon_answers(pod: Pod):
    """A probe at another port kills the daemon of every node."""
    address, port = http.parse(parsed(pod.daemon).http)
    pages = http.Pages(lambda: b"", lambda: True, list)

    for name, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        asked = pod.daemon[f"{name}Probe"]["httpGet"]
        assert {"host": address, "port": port, "path": path} == asked
        assert 200 == pages.answer(asked["path"])[0]


def test_the_daemon_has_the_time_to_finish(pod: Pod):
    """SIGKILL comes after it, for a new one as for one that is deleted."""
    limits = Limits()

    assert limits.drain_s + limits.read_s < pod.spec["terminationGracePeriodSeconds"]
    startup = pod.daemon["startupProbe"]
    assert limits.start_s < startup["periodSeconds"] * startup["failureThreshold"]


def test_it_is_rolled_out_one_node_after_the_other():
    """A surge would wait for ever: a node has one daemon at a time."""
    daemon_set = manifests.only(manifests.rendered(DEPLOY), "DaemonSet")

    strategy = daemon_set["spec"]["updateStrategy"]
    assert {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}} == strategy
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_multus_daemonset_is_replaced():
    """By its name and its selector, which cannot be changed; its pods wait for their node to be drained."""
    daemon_set = manifests.only(manifests.rendered(DEPLOY / "multus"), "DaemonSet")

    assert "kube-multus-ds" == daemon_set["metadata"]["name"]
    assert {"matchLabels": {"name": "multus"}} == daemon_set["spec"]["selector"]
    labels = {"tier": "node", "app": "multus", "name": "multus"}
    assert labels == daemon_set["spec"]["template"]["metadata"]["labels"]
    assert {"type": "OnDelete"} == daemon_set["spec"]["updateStrategy"]


def test_what_uninstalls_is_rolled_out_in_place_of_the_daemon():
    """It runs where no daemon is left, by its own flags, and takes no user's network away."""
    objects = manifests.rendered(DEPLOY / "uninstall")
    pod = manifests.pod_of(objects)
    installing = manifests.only(manifests.rendered(DEPLOY), "DaemonSet")
    removing = manifests.only(objects, "DaemonSet")

    assert not [each for each in objects if each["kind"] == "CustomResourceDefinition"]
    assert installing["metadata"] == removing["metadata"]
    for key in ("selector", "updateStrategy"):
        assert installing["spec"][key] == removing["spec"][key]
    found = parsed(pod.install)
    assert found.run is cli._uninstall
    targets = [each.target for each in pod.mounts(pod.install)]
    wanted = (
        configuration.DIRECTORY,
        install.DIRECTORY,
        found.state,
        found.spool,
        Settings().cni_dir,
        found.socket,
    )
    assert [] == [path for path in wanted if not any(is_below(path, target) for target in targets)]
    assert ["sleep", "infinity"] == pod.daemon["command"]
    assert "args" not in pod.daemon
    assert {f"meta-cni:{__version__}"} == {each["image"] for each in (pod.install, pod.daemon)}


def test_a_node_is_served_before_any_other_pod(pod: Pod):
    """Whatever its taints are; it is evicted last."""
    assert [{"operator": "Exists"}] == pod.spec["tolerations"]
    assert "system-node-critical" == pod.spec["priorityClassName"]


def test_requests_are_said_and_limits_are_not(pod: Pod):
    """A daemon killed for a plugin's memory is what Multus' users report most."""
    for container in (pod.install, pod.daemon):
        assert {"cpu", "memory"} == set(container["resources"]["requests"])
        assert "limits" not in container["resources"]


def test_the_image_is_of_this_version(pod: Pod):
    """An old image with new manifests has other flags."""
    images = {each["image"] for each in (pod.install, pod.daemon)}

    assert {f"meta-cni:{__version__}"} == images
    first, _ = (DEPLOY / "Dockerfile").read_text().split("\n", 1)
    assert f"meta-cni:{__version__}" in shlex.split(first)


SCALARS = {"str": str, "int": int, "bool": bool, "float": (int, float)}
PARTS = re.compile(r"(List|Dict)\[(?:str, )?(.*)\]")


def misfits(value: Any, kind: str, path: str) -> Iterator[str]:
    """Where a value is not what Kubernetes' own schema of its type says, by the official client's models."""
    parts = PARTS.fullmatch(kind)
    if parts:
        is_list = parts[1] == "List"
        if not isinstance(value, list if is_list else dict):
            yield f"{path}: expected {kind}"
            return
        for key, each in enumerate(value) if is_list else value.items():
            yield from misfits(each, parts[2], f"{path}[{key}]")
    elif kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{path}: {value!r}: expected {kind}"
    elif kind != "object":
        yield from _misfits_of_model(value, getattr(models, kind), path)


def _misfits_of_model(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: expected an object"
        return
    names = {key: attribute for attribute, key in model.attribute_map.items()}
    for key, each in value.items():
        if key not in names:
            yield f"{path}.{key}: no such field"
        else:
            yield from misfits(each, model.openapi_types[names[key]], f"{path}.{key}")
    try:
        model(**{names[key]: each for key, each in value.items() if key in names})
    except ValueError as error:  # what is required
        yield f"{path}: {error}"


@pytest.mark.parametrize("directory", [*OVERLAYS, DEPLOY / "uninstall"], ids=lambda each: each.name)
def test_every_field_is_kubernetes_own(directory: Path):
    """A server drops what it does not know, and says so to nobody who pipes it."""
    found = [
        line
        for each in manifests.rendered(directory)
        for line in misfits(each, f"V1{each['kind']}", f"{each['kind']} {each['metadata']['name']}")
    ]

    assert [] == found


def test_a_field_that_is_misspelt_is_found():
    """The test above can fail: an unknown key, a wrong type, a missing one."""
    daemon_set = manifests.only(manifests.rendered(DEPLOY), "DaemonSet")
    spec = daemon_set["spec"]["template"]["spec"]
    spec["hostPid"] = True
    spec["terminationGracePeriodSeconds"] = "75"
    del spec["containers"]

    found = list(misfits(daemon_set, "V1DaemonSet", "it"))

    pod = "it.spec.template.spec"
    assert [
        f"{pod}.terminationGracePeriodSeconds: '75': expected int",
        f"{pod}.hostPid: no such field",
    ] == sorted(found[:2], reverse=True)
    assert "containers" in found[2]
