"""Attachments that stand on others come after them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import BadConfig
from meta_cni.engine.order import links_of, turns


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ([[], [], []], (0, 1, 2)),
        ([["net1", "net2"], [], []], (2, 0, 1)),
        ([[], ["net2"], []], (0, 2, 1)),
        ([["net1"], ["net2"], []], (2, 1, 0)),
        ([["eth0"], ["lo", "up0"], []], (0, 1, 2)),
    ],
    ids=["nobody", "a bond of the others", "one", "a chain", "itself, and what is not of the pod's networks"],
)
def test_an_attachment_comes_after_those_it_stands_on(
    needs: Sequence[Sequence[str]], expected: tuple[int, ...]
):
    """All others keep their order."""
    assert expected == turns(("eth0", "net1", "net2"), needs)


def test_attachments_in_a_circle_are_refused():
    """There is no first one; those that could be made are not named."""
    with pytest.raises(BadConfig, match=r"^interfaces net1, net2 stand on each other: expected one that"):
        turns(("eth0", "net1", "net2"), [[], ["net2"], ["net1"]])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"master": "net1"}, []),
        ({"master": "net1", "linkInContainer": True}, ["net1"]),
        ({"linkInContainer": True}, []),
        ({"links": [{"name": "net1"}]}, []),
        ({"links": [{"name": "net1"}, {"name": "net2"}], "linksInContainer": True}, ["net1", "net2"]),
        ({"links": [{"name": 1}, {}, "net1"], "linksInContainer": True}, []),
        ({"links": "net1", "linksInContainer": True}, []),
    ],
)
def test_what_a_plugin_stands_on_is_in_the_pod_if_it_says_so(keys: dict[str, Any], expected: list[str]):
    """A master of the node may have the same name."""
    plugin = parse_plugin(
        json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "x", **keys}), "network net"
    )

    assert expected == list(links_of(plugin))
