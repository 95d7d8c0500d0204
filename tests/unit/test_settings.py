"""Our own configuration: documented, defaulted, and wrong values named."""

from pathlib import Path

import pytest

from meta_cni.settings import KEYS, LogOptions, NetworkOptions, Settings, parse

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_stands_in_the_readme_with_default_and_meaning(key):
    """The table is the documentation."""
    assert f"| `{key.name}` | {key.default or '(empty)'} | {key.meaning} |" in README


def test_defaults_are_those_of_multus():
    """A configuration that says nothing behaves as its author knows it."""
    settings, problems = parse({"name": "n", "cniVersion": "1.0.0", "type": "meta-cni"}, ())

    assert (Settings(name="n", cni_version="1.0.0"), ()) == (settings, problems)


def test_every_key_is_read():
    """Multus' keys by their names, in their forms."""
    settings, problems = parse(
        {
            "clusterNetwork": "a",
            "defaultNetworks": ["b"],
            "namespaceIsolation": "true",
            "globalNamespaces": "default, kube-system,",
            "LogLevel": "debug",
            "logOptions": {"maxAge": 1, "maxSize": 2, "maxBackups": 3, "compress": False},
            "delegatePolicy": {"bridge": "exec"},
            "networks": {"ns/a": {"delegateTimeout": 5, "delegatePolicy": "builtin"}},
            "delegateTimeout": 7,
            "store": {"directory": "/x"},
            "retryDeleteOnError": True,
        },
        ("{}",),
    )

    assert () == problems
    assert ("a", ("b",), True, ("default", "kube-system"), "debug", "/x") == (
        settings.cluster_network,
        settings.default_networks,
        settings.is_isolated,
        settings.global_namespaces,
        settings.log_level,
        settings.store_directory,
    )
    assert LogOptions(1, 2, 3, False) == settings.log_options
    assert {"ns/a": NetworkOptions("builtin", 5.0)} == settings.networks
    assert ("builtin", "exec", "auto") == (
        settings.policy_for("ns/a", "bridge"),
        settings.policy_for("ns/b", "bridge"),
        settings.policy_for("ns/b", "macvlan"),
    )
    assert (5.0, 7.0) == (settings.timeout_for("ns/a"), settings.timeout_for("ns/b"))


@pytest.mark.parametrize("kind", ["multus", "multus-shim"])
def test_type_multus_answers_as_multus(kind: str):
    """Unless the configuration says otherwise."""
    ours = {"result": "merged", "networkStatus": "standard", "capabilityCheck": "strict"}
    assert ("default", "multus", "legacy") == _forms({"type": kind})
    assert ("merged", "standard", "strict") == _forms({"type": kind, **ours})


@pytest.mark.parametrize("kind", ["multus", "multus-shim"])
def test_a_log_level_that_multus_ignores_is_ignored(kind: str):
    """No pod of a node starts otherwise, though nothing but the log is wrong."""
    assert (Settings(type=kind).log_level, ()) == (
        parse({"type": kind, "logLevel": "info"}, ())[0].log_level,
        parse({"type": kind, "logLevel": "info"}, ())[1],
    )
    assert parse({"type": "meta-cni", "logLevel": "info"}, ())[1]


def _forms(values: dict[str, object]) -> tuple[str, str, str]:
    settings, _ = parse(values, ())
    return settings.result, settings.network_status, settings.capability_check


def test_every_problem_is_told_and_the_rest_is_read():
    """A DEL must know cniDir even when another key is wrong."""
    settings, problems = parse(
        {"cniDir": "/state", "binDir": 5, "logOptions": {"maxAge": -1}, "networks": [], "delegatePolicy": 5},
        (),
    )

    assert ("/state", 4) == (settings.cni_dir, len(problems))
    assert "binDir 5: expected an absolute path" in problems
    assert "logOptions {'maxAge': -1}: expected a whole number, 0 or more in maxAge" in problems
