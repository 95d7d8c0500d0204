"""What the guest gives to tests of virtual functions: cards that have them, and netdevsim."""

import os
from pathlib import Path

import pytest

from meta_cni.linux import link
from meta_cni.linux.netlink import Socket
from tests.guest.emulator import VIRTUAL_FUNCTIONS

DEVICES = Path("/sys/bus/pci/devices")
NETDEVSIM = Path("/sys/bus/netdevsim")


@pytest.mark.igb
def test_a_card_has_functions_with_links_of_their_own(cards: list[str], host: Socket):
    """They are on the bus, know the card they are of, and have a driver."""
    device = Path(f"/sys/class/net/{cards[0]}/device")

    (device / "sriov_numvfs").write_text("2")

    assert str(VIRTUAL_FUNCTIONS) == (device / "sriov_totalvfs").read_text().strip()
    for function in ("virtfn0", "virtfn1"):
        address = os.readlink(device / function).removeprefix("../")
        (name,) = os.listdir(DEVICES / address / "net")
        assert link.find(host, name) is not None
        assert "igbvf" == (DEVICES / address / "driver").resolve().name
        assert [cards[0]] == os.listdir(DEVICES / address / "physfn" / "net")


@pytest.mark.igb
def test_a_function_can_be_given_to_userspace(cards: list[str]):
    """vfio-pci takes it where there is an IOMMU."""
    device = Path(f"/sys/class/net/{cards[1]}/device")
    (device / "sriov_numvfs").write_text("1")
    function = (device / "virtfn0").resolve()

    (function / "driver" / "unbind").write_text(function.name)
    (function / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(function.name)

    assert "vfio-pci" == (function / "driver").resolve().name
    assert not (function / "net").exists()


@pytest.mark.netdevsim
def test_netdevsim_makes_functions_without_a_card(host: Socket):
    """Every setting of theirs can be set."""
    before = {each.name for each in link.dump(host)}
    (NETDEVSIM / "new_device").write_text("1 1")
    try:
        (made,) = {each.name for each in link.dump(host)} - before
        (NETDEVSIM / "devices" / "netdevsim1" / "sriov_numvfs").write_text("4")

        assert "netdevsim1" == Path(f"/sys/class/net/{made}/device").resolve().name
        assert "4" == Path(f"/sys/class/net/{made}/device/sriov_numvfs").read_text().strip()
    finally:
        (NETDEVSIM / "del_device").write_text("1")
