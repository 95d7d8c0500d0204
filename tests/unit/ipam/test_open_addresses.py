"""Which IPAM serves an attachment, and the verbs that concern none."""

import json
from pathlib import Path

import pytest

from meta_cni import ipam
from meta_cni.cni.config import PluginConfig, parse_plugin
from meta_cni.cni.errors import BadConfig, DelegateFailed, NotAvailable
from meta_cni.cni.result import Result
from meta_cni.ipam.external import External
from meta_cni.ipam.host_local import HostLocal
from meta_cni.ipam.static import Static


@pytest.fixture
def path(tmp_path: Path) -> tuple[str, ...]:
    """CNI_PATH with an IPAM of each name; each says no."""
    for name in ("host-local", "static", "pool"):
        (tmp_path / name).write_text("""#!/bin/sh\necho '{"code":50,"msg":"not now"}'; exit 1\n""")
        (tmp_path / name).chmod(0o755)
    return (str(tmp_path),)


RANGES = [[{"subnet": "10.0.0.0/29"}]]


def config(**section: object) -> PluginConfig:
    document = {"cniVersion": "1.1.0", "name": "blue", "type": "bridge", "ipam": section}
    return parse_plugin(json.dumps(document), "network blue")


def local(**more: object) -> PluginConfig:
    return config(type="host-local", ranges=RANGES, **more)


def opened(plugin: PluginConfig, path: tuple[str, ...], policy: str = "auto") -> ipam.Addresses:
    return ipam.open_addresses(
        plugin,
        container_id="c1",
        interface="eth0",
        cni_args={},
        environment={"CNI_PATH": ":".join(path)},
        deadline_s=10,
        policy=policy,
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"ranges": [[{"subnet": "10.0.0.0/29", "gateway": "10.9.0.1"}]]},
            r"gateway 10\.9\.0\.1 not in network 10\.0\.0\.0/29",
        ),
        ({"rangeStart": "10.0.0.x"}, 'rangeStart "10.0.0.x": expected an IP address'),
        ({"gateway": 5}, "gateway 5: expected a string"),
        ({"routes": [{"dst": "10.9.0.0/16", "mtu": -1}]}, r"routes\[0\]: mtu -1: expected a whole number"),
    ],
)
def test_what_an_older_version_allowed_keeps_no_del(more: dict[str, object], text: str, tmp_path: Path):
    """A pod attached before an upgrade must come to its end: its gateway was taken by that ADD."""
    plugin = config(type="host-local", dataDir=str(tmp_path), **{"ranges": RANGES, **more})
    given = {"container_id": "c1", "interface": "eth0", "cni_args": {}, "deadline_s": 10}
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "10.0.0.2").write_bytes(b"c1\r\neth0")

    with pytest.raises(BadConfig, match=text):
        ipam.open_addresses(plugin, environment={"CNI_COMMAND": "ADD"}, **given)
    ipam.open_addresses(plugin, environment={"CNI_COMMAND": "DEL"}, **given).release()

    assert ["lock"] == [each.name for each in (tmp_path / "blue").iterdir()]


@pytest.mark.parametrize("plugin_type", ["host-local", "static"])
def test_what_a_pod_had_asked_for_keeps_no_del(plugin_type: str, tmp_path: Path):
    """What is released stands in the files; an address that an older version could read is no part of it."""
    section = {"type": plugin_type, "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.0.0.0/29"}]]}
    section = section if plugin_type == "host-local" else {"type": "static"}
    document = {"cniVersion": "1.1.0", "name": "blue", "type": "bridge", "ipam": section}
    asked = {**document, "runtimeConfig": {"ips": ["10.0.0.2/255.255.255.248"]}}
    plugin = parse_plugin(json.dumps(asked), "network blue")
    given = {"container_id": "c1", "interface": "eth0", "cni_args": {}, "deadline_s": 10}
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "10.0.0.2").write_bytes(b"c1\r\neth0")

    with pytest.raises(BadConfig, match=r"10\.0\.0\.2/255\.255\.255\.248"):
        ipam.open_addresses(plugin, environment={"CNI_COMMAND": "ADD"}, **given)
    ipam.open_addresses(plugin, environment={"CNI_COMMAND": "DEL"}, **given).release()

    held = ["10.0.0.2"] if plugin_type == "static" else ["lock"]
    assert held == [each.name for each in (tmp_path / "blue").iterdir()]


@pytest.mark.parametrize("plugin", [config(), config(type="")], ids=["empty", "no type"])
def test_without_ipam_there_are_no_addresses(plugin: PluginConfig):
    """Layer 2 only is a configuration, not a mistake."""
    addresses = opened(plugin, ())

    assert addresses.is_none
    assert Result() == addresses.acquire()
    addresses.check(Result())
    addresses.release()


CHOICES = {
    "host-local": (local(), "auto", HostLocal),
    "keys in any case": (local(DATADIR="/x"), "auto", HostLocal),
    "an unknown key": (local(future=1), "auto", External),
    "static": (config(type="static"), "auto", Static),
    "static, unknown key": (config(type="static", future=1), "auto", External),
    "another type": (config(type="pool"), "auto", External),
    "forced out": (local(), "exec", External),
    "forced in": (local(), "builtin", HostLocal),
}


@pytest.mark.parametrize(("plugin", "policy", "expected"), CHOICES.values(), ids=CHOICES)
def test_a_built_in_serves_only_what_it_implements_completely(
    path: tuple[str, ...], plugin: PluginConfig, policy: str, expected: type
):
    """A key we do not know may change everything, so the plugin that knows it runs."""
    addresses = opened(plugin, path, policy)

    assert isinstance(addresses, expected)
    assert not addresses.is_none


def test_a_policy_that_cannot_be_kept_is_an_error(path: tuple[str, ...]):
    """With the reason: which keys, or the type."""
    with pytest.raises(BadConfig, match="delegatePolicy builtin: future of host-local is not built in"):
        opened(local(future=1), path, "builtin")
    with pytest.raises(BadConfig, match="delegatePolicy builtin: type pool is not built in"):
        opened(config(type="pool"), path, "builtin")


def test_an_ipam_that_is_not_installed_is_found_out_at_once():
    """Before an interface is made for it."""
    with pytest.raises(DelegateFailed, match="find plugin 'pool': expected it in /nowhere"):
        opened(config(type="pool"), ("/nowhere",))


def test_an_ipam_type_cannot_leave_the_path():
    """It comes from a user's network."""
    with pytest.raises(BadConfig, match=r"find plugin '../../bin/sh': expected a file name"):
        opened(config(type="../../bin/sh"), ("/opt/cni/bin",))


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (config(), "no addresses (layer 2)"),
        (config(type="pool"), "pool (executed)"),
        (config(type="static", addresses=[{"address": "10.0.0.5/24"}]), "static 10.0.0.5/24"),
        (config(type="static"), "static without addresses"),
        (
            config(
                type="host-local",
                ranges=[
                    [{"subnet": "10.0.0.0/24"}],
                    [{"subnet": "fd00::/64", "rangeStart": "fd00::9"}, {"subnet": "fd01::/64"}],
                ],
            ),
            "host-local 10.0.0.0/24; fd00::9-fd00::ffff:ffff:ffff:ffff of fd00::/64, fd01::/64 "
            "in /var/lib/cni/networks/blue",
        ),
    ],
    ids=["none", "executed", "static", "static, empty", "host-local"],
)
def test_a_plan_says_where_addresses_come_from(plugin: PluginConfig, expected: str):
    """One line, without touching anything."""
    assert expected == ipam.describe(plugin)


def test_status_asks_whoever_would_serve(path: tuple[str, ...]):
    """No IPAM, and static, can always serve."""
    for plugin in (config(), config(type="static")):
        ipam.status(plugin, environment={"CNI_PATH": ":".join(path)}, deadline_s=10)

    with pytest.raises(DelegateFailed, match="plugin pool: not now") as failed:
        ipam.status(config(type="pool"), environment={"CNI_PATH": ":".join(path)}, deadline_s=10)

    assert 50 == failed.value.code


@pytest.mark.parametrize("plugin", [config(type="gone"), config(type="host-local")], ids=["missing", "wrong"])
def test_status_of_what_cannot_be_opened_is_not_available(plugin: PluginConfig):
    """An ADD could not be served."""
    with pytest.raises(NotAvailable, match=r"expected it in no directory|no IP ranges specified"):
        ipam.status(plugin, environment={}, deadline_s=10)


def test_reclaim_asks_whoever_serves(tmp_path: Path, path: tuple[str, ...]):
    """host-local's files here, any other IPAM by GC."""
    plugin = local(dataDir=str(tmp_path))
    opened(plugin, path).acquire()

    ipam.reclaim(plugin, frozenset(), environment={"CNI_PATH": ":".join(path)}, deadline_s=10)
    ipam.reclaim(config(), frozenset(), environment={"CNI_PATH": ":".join(path)}, deadline_s=10)
    with pytest.raises(DelegateFailed, match="plugin pool: not now"):
        ipam.reclaim(
            config(type="pool"), frozenset(), environment={"CNI_PATH": ":".join(path)}, deadline_s=10
        )

    assert not (tmp_path / "blue" / "10.0.0.2").exists()
