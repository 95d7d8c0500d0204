"""What the device manager's file says of a pod, in both of its forms."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s import checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint"
CASES = sorted(path.name for path in GOLDEN.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_devices_are_those_of_the_golden_case(case: str, golden: Callable[[Path, str], None], monkeypatch):
    """By container, by their names, each device once."""
    monkeypatch.chdir(GOLDEN / case)

    found = checkpoint.read(Path("checkpoint.json"), "u1")

    assert found is not None
    golden(GOLDEN / case / "devices.json", json.dumps([asdict(each) for each in found], indent=2) + "\n")


def test_no_file_is_no_answer(tmp_path: Path):
    """A node without a kubelet; that is another thing than a pod without devices."""
    assert None is checkpoint.read(tmp_path / "none", "u1")


def test_a_file_of_an_earlier_boot_is_no_answer(tmp_path: Path):
    """What was handed out before a reboot says nothing about now."""
    path = tmp_path / "checkpoint"
    entry = {"PodUID": "u1", "ContainerName": "a", "ResourceName": "r", "DeviceIDs": {"0": ["d"]}}
    told = {"Data": {"PodDeviceEntries": [entry]}, "BootID": checkpoint.BOOT_ID.read_text().strip()}
    path.write_text(json.dumps(told))
    now = checkpoint.read(path, "u1")

    path.write_text(json.dumps({**told, "BootID": "another"}))

    assert now is not None
    assert (["d"], None) == ([each.device_id for each in now], checkpoint.read(path, "u1"))


WRONG = [
    ("{", "expected JSON"),
    ("[]", "expected Data.PodDeviceEntries"),
    ('{"Data": 1}', "expected Data.PodDeviceEntries"),
    ('{"Data": {"PodDeviceEntries": [{"PodUID": "u1"}]}}', "expected Data.PodDeviceEntries"),
    ('{"Data": {"PodDeviceEntries": [1]}}', "expected Data.PodDeviceEntries"),
    (
        '{"Data": {"PodDeviceEntries": [{"PodUID": "u1", "ResourceName": "r", "ContainerName": "c",'
        ' "DeviceIDs": "d"}]}}',
        "expected Data.PodDeviceEntries",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_a_file_that_is_none_is_looked_at_again(tmp_path: Path, text: str, expected: str):
    """Nothing is guessed from it."""
    path = tmp_path / "checkpoint"
    path.write_text(text)

    with pytest.raises(TryAgainLater, match=expected):
        checkpoint.read(path, "u1")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    """A directory in its place, or no permission."""
    with pytest.raises(TryAgainLater, match=f"read checkpoint {tmp_path}: Is a directory"):
        checkpoint.read(tmp_path, "u1")
