"""The built-in sriov's STATUS, on a tree like sysfs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.netns.chain import ours
from tests.netns.conftest import PodNetns

PARENT, ADDRESS = "0000:03:00.0", "0000:03:02.1"


@pytest.fixture
def status(tmp_path: Path, pod: PodNetns) -> Callable[..., tuple[dict[str, Any], int]]:
    """Of a network whose VF is the second one of a card."""
    devices = tmp_path / "sys" / "bus" / "pci" / "devices"
    (devices / PARENT / "net" / "pf0").mkdir(parents=True)
    (devices / ADDRESS).mkdir()
    (devices / PARENT / "virtfn1").symlink_to(f"../{ADDRESS}")
    (devices / ADDRESS / "physfn").symlink_to(f"../{PARENT}")
    base = {"cniVersion": "1.1.0", "name": "media", "type": "sriov", "deviceID": ADDRESS}
    base |= {"dataDir": str(tmp_path / "sriov"), "sysfs": str(tmp_path / "sys")}
    return lambda **keys: ours("sriov", pod)("STATUS", {**base, **keys})


def test_a_network_whose_vf_is_there_is_ready(status: Callable[..., tuple[dict[str, Any], int]]):
    """Nothing has to be made for that."""
    assert ({}, 0) == status()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0000:03:02.7", "device 0000:03:02.7 is not there"),
        (PARENT, f"device {PARENT} is no virtual function: expected one"),
    ],
)
def test_a_network_without_its_vf_is_not(
    status: Callable[..., tuple[dict[str, Any], int]], address: str, why: str
):
    """Code 50, by the name of the device."""
    answer, code = status(deviceID=address)

    assert (1, 50, True) == (code, answer["code"], why in answer["msg"]), answer
