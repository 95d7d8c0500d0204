"""The examples, applied verbatim, by the programs a user runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.linux.netlink import Socket
from tests.netns.conftest import PodNetns

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "telco-pod"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.slow
def test_two_telco_pods_are_attached_ping_each_other_and_leave_nothing(tmp_path: Path):
    """What the README's first command promises."""
    done = run(str(ROOT / "examples" / "run.py"), "--picture", str(tmp_path / "t.svg"))

    assert 0 == done.returncode, done.stdout + done.stderr
    assert 8 == done.stdout.count(" answers")
    assert 5 == done.stdout.count("left over") == done.stdout.count(": none")
    assert (tmp_path / "t.svg").read_text().startswith("<svg")


def test_plan_of_the_example_tells_every_step(reference: Callable[[str], str]):
    """Step by step, without touching anything; without its program a network cannot be planned."""
    reference("bridge")
    done = run(
        *("-m", "meta_cni", "plan", str(EXAMPLE / "pods.yaml"), "-o", "json"),
        *("--config", str(EXAMPLE / "10-meta-cni.conflist")),
    )
    assert 0 == done.returncode, done.stderr
    plan = json.loads(done.stdout[: done.stdout.index("\n}\n") + 2])
    assert ["eth0", "net1", "net2", "net3"] == [each["interface"] for each in plan["steps"]]
    assert [True, True, True, False] == [each["plugins"][0]["builtin"] for each in plan["steps"]]
    assert "02:00:5e:00:53:21" == plan["steps"][2]["plugins"][0]["runtimeConfig"]["mac"]


def test_plan_as_text_says_how_and_why(reference: Callable[[str], str]):
    """What a person reads before applying."""
    reference("bridge")
    config = str(EXAMPLE / "10-meta-cni.conflist")

    done = run("-m", "meta_cni", "plan", str(EXAMPLE / "pods.yaml"), "--config", config)

    for fragment in (
        "pod telco/media-b",
        "bridge: built in (every key is built in)",
        "(delegatePolicy exec)",
        "host-local",
        "default route IPv6: eth0, as its network brings it",
    ):
        assert fragment in done.stdout


def test_validate_finds_nothing_wrong_in_the_example():
    """The files a new user copies."""
    done = run("-m", "meta_cni", "validate", *(str(path) for path in sorted(EXAMPLE.iterdir())))

    assert (0, "") == (done.returncode, done.stdout), done.stderr


def test_validate_tells_file_object_and_key(tmp_path: Path):
    """Every mistake of every file, not the first one."""
    nad = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "bad"},
        "spec": {"config": '{"type":"bridge","mtu":-1}'},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "annotations": {"k8s.v1.cni.cncf.io/networks": '[{"name":"a","interace":"x","mac":"y"}]'},
        },
    }
    (tmp_path / "objects.json").write_text(json.dumps({"items": [nad, pod]}))
    (tmp_path / "ours.conf").write_text(
        json.dumps(
            {"name": "n", "type": "meta-cni", "result": "x", "delegates": [{"type": "macvlan", "mode": "y"}]}
        )
    )

    done = run("-m", "meta_cni", "validate", str(tmp_path / "objects.json"), str(tmp_path / "ours.conf"))

    assert 1 == done.returncode
    for fragment in (
        "objects.json: NetworkAttachmentDefinition bad: spec.config: bridge: mtu -1",
        "objects.json: Pod p: annotation k8s.v1.cni.cncf.io/networks[0]: mac",
        "unknown key 'interace'",
        "ours.conf: result 'x'",
        'mode "y"',
    ):
        assert fragment in done.stdout


@pytest.mark.slow
def test_attach_list_and_detach_by_hand(tmp_path: Path, pod: PodNetns, host: Socket):
    """Without Kubernetes and without a runtime: a namespace, a pod file, our configuration."""
    ipam = {"type": "static", "addresses": [{"address": "10.9.0.2/24"}]}
    ours = {"cniVersion": "1.1.0", "name": "n", "type": "meta-cni", "cniDir": str(tmp_path / "state")}
    ours["delegates"] = [
        {"cniVersion": "1.1.0", "name": "d", "type": "bridge", "bridge": "brx", "ipam": ipam}
    ]
    config, file = tmp_path / "ours.conf", tmp_path / "pod.yaml"
    config.write_text(json.dumps(ours))
    file.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\n")
    options = ("--config", str(config))

    attached = run("-m", "meta_cni", "attach", pod.path, "--pod", str(file), *options)
    assert (0, {"10.9.0.2/24"}) == (attached.returncode, pod.addresses("eth0")), attached.stdout
    assert json.dumps(json.loads(attached.stdout), indent=4) + "\n" == attached.stdout
    listed = run("-m", "meta_cni", "attachments", "-o", "json", *options)
    assert ["ns/p", "brx"] == [json.loads(listed.stdout)[0][key] for key in ("pod", "device")]
    assert "10.9.0.2/24" in run("-m", "meta_cni", "attachments", "-o", "svg", *options).stdout
    assert "built in" in run("-m", "meta_cni", "attachments", *options).stdout
    again = run("-m", "meta_cni", "attach", pod.path, "--pod", str(file), *options)
    assert 1 == again.returncode

    detached = run("-m", "meta_cni", "detach", pod.path, *options)

    assert (0, []) == (detached.returncode, pod.links())
    assert [] == json.loads(run("-m", "meta_cni", "attachments", "-o", "json", *options).stdout)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("plan", "/nope.yaml", "--config", "CONFIG"), "/nope.yaml"),
        (("plan", "CONFIG", "--config", "/nope"), "read /nope"),
        (("attach", "x", "--pod", "/nope.yaml", "--config", "CONFIG"), "/nope.yaml"),
        (("attachments",), "expected --config FILE"),
        (("validate", "/nope.conf"), "/nope.conf"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], fragment: str):
    """No traceback for a typing error."""
    config = tmp_path / "ours.conf"
    config.write_text('{"name":"n","type":"meta-cni"}')

    done = run("-m", "meta_cni", *(each.replace("CONFIG", str(config)) for each in arguments))

    assert 1 == done.returncode
    assert fragment in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
