"""How a plugin runs: by the configuration's word, as far as it can be followed."""

import json
from pathlib import Path

import pytest

from meta_cni.cni.config import PluginConfig, parse_plugin
from meta_cni.cni.errors import BadConfig, DelegateFailed
from meta_cni.compose import choose
from meta_cni.settings import POLICIES, parse


@pytest.fixture
def path(tmp_path: Path) -> tuple[str, ...]:
    """A node's programs."""
    for name in ("bridge", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return (str(tmp_path),)


def plugin(**keys: object) -> PluginConfig:
    text = json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "bridge", **keys})
    return parse_plugin(text, "network net")


COMPLETE: dict[str, object] = {"bridge": "br0"}
UNKNOWN: dict[str, object] = {"frobnicate": True}
OTHER: dict[str, object] = {"type": "mine"}
CHOSEN = [
    ("auto", COMPLETE, True, "every key is built in"),
    ("auto", UNKNOWN, False, "frobnicate True is not built in"),
    ("auto", OTHER, False, "type mine is not built in"),
    ("builtin", COMPLETE, True, "every key is built in"),
    ("exec", COMPLETE, False, "delegatePolicy exec"),
    ("exec", UNKNOWN, False, "frobnicate True is not built in"),
    ("exec", OTHER, False, "type mine is not built in"),
]


@pytest.mark.parametrize(("policy", "keys", "is_builtin", "reason"), CHOSEN)
def test_each_policy_chooses_and_says_why(
    path: tuple[str, ...], policy: str, keys: dict[str, object], is_builtin: bool, reason: str
):
    """An operator must see why a binary still runs."""
    found = choose(plugin(**keys), policy, "auto", path=path)

    name = keys.get("type", "bridge")
    assert (is_builtin, reason, "" if is_builtin else f"{path[0]}/{name}") == (
        found.is_builtin,
        found.reason,
        found.binary,
    )


@pytest.mark.parametrize(("keys", "reason"), [(UNKNOWN, "frobnicate True"), (OTHER, "type mine")])
def test_what_is_not_built_in_is_refused_where_nothing_else_may_run(
    path: tuple[str, ...], keys: dict[str, object], reason: str
):
    """Rather than run what was forbidden."""
    with pytest.raises(BadConfig, match=f"delegatePolicy builtin: {reason} is not built in"):
        choose(plugin(**keys), "builtin", "auto", path=path)


def test_a_program_that_must_run_must_be_there():
    """There is no falling back to what was not to run."""
    with pytest.raises(DelegateFailed, match="find plugin 'bridge'"):
        choose(plugin(**COMPLETE), "exec", "auto", path=("/nowhere",))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_as_a_text_is_every_plugins(policy: str):
    """The network's own word comes before it."""
    settings, problems = parse(
        {"delegatePolicy": policy, "networks": {"ns/a": {"delegatePolicy": "exec"}}}, ()
    )

    assert () == problems
    assert ({policy}, "exec") == (
        {settings.policy_for("ns/b", each) for each in ("bridge", "host-local", "mine")},
        settings.policy_for("ns/a", "bridge"),
    )


WRONG = [
    ("never", "delegatePolicy 'never': expected one of auto, builtin, exec"),
    ("EXEC", "delegatePolicy 'EXEC': expected one of auto, builtin, exec"),
    ("", "delegatePolicy '': expected one of auto, builtin, exec"),
    (
        5,
        "delegatePolicy 5: expected one of auto, builtin, exec, "
        "or an object of plugin types with one of them each",
    ),
    ({"bridge": 5}, "delegatePolicy {'bridge': 5}: expected one of auto, builtin, exec"),
]


@pytest.mark.parametrize(("value", "told"), WRONG)
def test_a_wrong_policy_is_told_with_what_would_be_right(value: object, told: str):
    """And everything runs as it does without one, so that a DEL goes on."""
    settings, problems = parse({"delegatePolicy": value}, ())

    assert (told,) == problems
    assert "auto" == settings.policy_for("ns/a", "bridge")


def test_a_wrong_policy_of_a_network_is_told_with_what_would_be_right():
    """Of which network, the value says."""
    _, problems = parse({"networks": {"ns/a": {"delegatePolicy": "never"}}}, ())

    assert ("networks {'ns/a': {'delegatePolicy': 'never'}}: expected one of auto, builtin, exec",) == tuple(
        each.split(" in ")[0] for each in problems
    )
