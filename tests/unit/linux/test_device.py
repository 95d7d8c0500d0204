"""Devices that a device plugin hands to pods, in a tree like sysfs."""

from pathlib import Path

import pytest

from meta_cni.linux import device


@pytest.mark.parametrize(
    ("name", "expected"),
    [("0000:01:00.0", True), ("x.sf.2", True), ("nope", False), ("", False), ("..", False), ("pci/x", False)],
)
def test_devices_are_looked_for_on_both_buses(tmp_path: Path, name: str, expected: bool):
    """PCI functions and subfunctions; never outside of their directories."""
    (tmp_path / "bus" / "pci" / "devices" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "bus" / "auxiliary" / "devices" / "x.sf.2").mkdir(parents=True)

    assert expected == device.exists(name, tmp_path)
