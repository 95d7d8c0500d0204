"""An executed IPAM, played by real scripts: the delegation rules of the specification."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import DelegateFailed
from meta_cni.cni.result import parse
from meta_cni.ipam.external import External

CONFIG = {"cniVersion": "1.1.0", "name": "blue", "type": "bridge", "odd": 1.10, "ipam": {"type": "pool"}}
Open = Callable[..., External]


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """Where the plugin writes down how it was called."""
    return tmp_path / "diary"


@pytest.fixture
def opened(tmp_path: Path, diary: Path) -> Open:
    """Opens the addresses of a plugin that notes its verb and input, and then does what it is told."""

    def make(body: str = "", **config: object) -> External:
        binary = tmp_path / "pool"
        binary.write_text(f'#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID $(cat)" >> {diary}\n{body}\n')
        binary.chmod(0o755)
        plugin = parse_plugin(json.dumps({**CONFIG, **config}), "network blue")
        return External(plugin, str(binary), {"PATH": os.environ["PATH"], "CNI_CONTAINERID": "c1"}, 10)

    return make


def calls(diary: Path) -> list[tuple[str, dict[str, object]]]:
    """Verb and input of every call."""
    lines = diary.read_text().splitlines() if diary.exists() else []
    return [(line.split(" ", 2)[0], json.loads(line.split(" ", 2)[2])) for line in lines]


def test_an_executed_ipam_gets_everything_its_caller_got(opened: Open, diary: Path):
    """Environment and the complete input; only the verb is set."""
    answer = (
        """[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}'; true"""
    )
    addresses = opened(answer)

    result = addresses.acquire()
    addresses.release()

    assert ["10.0.0.5/24"] == [str(each.address) for each in result.ips]
    assert [("ADD", CONFIG), ("DEL", CONFIG)] == calls(diary)
    assert diary.read_text().startswith("ADD c1 ")
    assert not addresses.is_none


def test_what_an_ipam_says_of_interfaces_is_not_looked_at(opened: Open):
    """They are made by whoever asked; the reference plugins set each index anew."""
    printed = {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5/24", "interface": 2}], "interfaces": "x"}

    result = opened(f"echo '{json.dumps(printed)}'").acquire()

    assert ((), [None]) == (result.interfaces, [each.interface for each in result.ips])


def test_a_failed_add_is_followed_by_a_del(opened: Open, diary: Path):
    """It may have taken addresses before it failed; the error is the ADD's."""
    fails = """[ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"pool is busy"}'; exit 1; }"""

    with pytest.raises(DelegateFailed, match="network blue: plugin pool: pool is busy") as failed:
        opened(fails).acquire()

    assert 11 == failed.value.code
    assert ["ADD", "DEL"] == [verb for verb, _ in calls(diary)]


def test_an_answer_nobody_can_read_is_followed_by_a_del(opened: Open, diary: Path):
    """Addresses we do not know of could never be released."""
    with pytest.raises(DelegateFailed, match="it printed 'done'"):
        opened("echo done").acquire()

    assert ["ADD", "DEL"] == [verb for verb, _ in calls(diary)]


def test_when_both_fail_both_are_told(opened: Open):
    """The first is the reason, the second what may be left."""
    fails = """echo "{\\"code\\":7,\\"msg\\":\\"no $CNI_COMMAND\\",\\"details\\":\\"d\\"}"; exit 1"""

    with pytest.raises(DelegateFailed, match="no ADD") as failed:
        opened(fails).acquire()

    assert "d\nand releasing what it may have left: network blue: plugin pool: no DEL" == failed.value.details


def test_check_brings_the_previous_result(opened: Open, diary: Path):
    """In the configuration's version."""
    previous = parse({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5/24"}]}, "1.1.0")

    opened().check(previous)

    ((verb, config),) = calls(diary)
    assert "CHECK" == verb
    assert [{"address": "10.0.0.5/24"}] == config["prevResult"]["ips"]


def test_verbs_that_a_version_does_not_have_are_not_called(opened: Open, diary: Path):
    """CHECK came with 0.4.0, STATUS and GC with 1.1.0."""
    opened(cniVersion="0.3.1").check(parse({}, "0.3.1"))
    opened(cniVersion="1.0.0").status()
    opened(cniVersion="1.0.0").reclaim(frozenset())

    assert [] == calls(diary)


def test_status_and_gc_are_passed_on(opened: Open, diary: Path):
    """With the valid attachments under both spellings, as libcni."""
    addresses = opened()

    addresses.status()
    addresses.reclaim(frozenset({("c2", "net1"), ("c1", "eth0")}))

    listed = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]
    both = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
    assert [("STATUS", CONFIG), ("GC", CONFIG | both)] == calls(diary)


def test_a_plugin_s_own_status_is_kept(opened: Open):
    """51 says more than 50."""
    with pytest.raises(DelegateFailed, match="no quorum") as failed:
        opened("""echo '{"code":51,"msg":"no quorum"}'; exit 1""").status()

    assert 51 == failed.value.code
