"""Virtual functions in trees like sysfs: of cards that no emulator has, and of some that went away."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from meta_cni.cni.errors import BadConfig, IOFailure
from meta_cni.linux import sriov
from meta_cni.linux.sriov import Function

PF = "0000:03:00.0"
VFS = ("0000:03:02.0", "0000:03:02.2", "0000:03:02.4")


class Tree:
    """A card with three VFs, and its links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.card(PF, "ice", VFS, "iavf")
        self.link(PF, "ens1")
        for number, address in enumerate(VFS):
            self.link(address, f"ens1v{number}")

    def device(self, address: str) -> Path:
        return self.root / "bus" / "pci" / "devices" / address

    def card(self, pf: str, driver: str, vfs: tuple[str, ...], vf_driver: str) -> None:
        for address, name in ((pf, driver), *((each, vf_driver) for each in vfs)):
            self.device(address).mkdir(parents=True)
            self.bind(address, name)
        for number, address in enumerate(vfs):
            (self.device(pf) / f"virtfn{number}").symlink_to(f"../{address}")
            (self.device(address) / "physfn").symlink_to(f"../{pf}")

    def bind(self, address: str, driver: str) -> None:
        path = self.root / "bus" / "pci" / "drivers" / driver
        path.mkdir(parents=True, exist_ok=True)
        (self.device(address) / "driver").unlink(missing_ok=True)
        (self.device(address) / "driver").symlink_to(path)

    def link(self, address: str, name: str, **files: str) -> None:
        path = self.device(address) / "net" / name
        path.mkdir(parents=True)
        for file, text in files.items():
            (path / file).write_text(text + "\n")
        links = self.root / "class" / "net"
        links.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(path)

    def found(self, address: str) -> Function:
        function = sriov.find(address, self.root)
        assert function is not None
        return function


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_vf_is_known_by_its_address(tree: Tree):
    """Whose it is, which number it has there, what drives it, and what its link is called."""
    expected = Function("0000:03:02.4", 2, "iavf", "ens1v2", PF, "ens1", "ice")

    assert expected == sriov.find("0000:03:02.4", tree.root)


def test_the_number_is_the_card_s(tree: Tree):
    """Addresses need not be in the order of the numbers (VF offset and stride, PCI SR-IOV 3.3.9)."""
    for number in (0, 1):
        (tree.device(PF) / f"virtfn{number}").unlink()
        (tree.device(PF) / f"virtfn{number}").symlink_to(f"../{VFS[1 - number]}")

    assert [1, 0, 2] == [tree.found(each).number for each in VFS]


@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic", "igb_uio"])
def test_a_vf_of_a_userspace_driver_has_no_link(tree: Tree, driver: str):
    """Whatever was left beside."""
    tree.bind(VFS[0], driver)

    found = tree.found(VFS[0])

    assert (True, "", 0) == (found.is_userspace, found.link, found.number)


def test_a_vf_without_a_driver_or_a_link_is_found_all_the_same(tree: Tree):
    """So a VF in a pod looks: what it is has not changed."""
    (tree.device(VFS[0]) / "driver").unlink()
    shutil.rmtree(tree.device(VFS[1]) / "net" / "ens1v1")
    shutil.rmtree(tree.device(VFS[2]) / "net")

    assert ("", "ens1v0", False) == (
        tree.found(VFS[0]).driver,
        tree.found(VFS[0]).link,
        tree.found(VFS[0]).is_userspace,
    )
    assert ["", ""] == [tree.found(each).link for each in VFS[1:]]


def test_a_vf_that_was_taken_away_is_none(tree: Tree):
    """Gone is success, for a DEL."""
    assert sriov.find("0000:03:02.6", tree.root) is None
    shutil.rmtree(tree.device(VFS[0]))
    assert sriov.find(VFS[0], tree.root) is None


def test_a_vf_that_is_taken_away_while_it_is_looked_at_is_none(tree: Tree, mocker):
    """Hot-unplug: its directory may go between any two reads."""
    whole = sriov._parent_link

    def unplugged(path: Path, parent: Path) -> str:
        name = whole(path, parent)
        shutil.rmtree(tree.device(VFS[0]))
        return name

    mocker.patch.object(sriov, "_parent_link", unplugged)

    assert sriov.find(VFS[0], tree.root) is None


def test_a_physical_function_is_refused(tree: Tree):
    """It would be taken away from the node."""
    with pytest.raises(
        BadConfig, match=f"device {PF} is no virtual function: expected one, which has a physfn"
    ):
        sriov.find(PF, tree.root)


def test_a_vf_that_its_card_does_not_know_is_refused(tree: Tree):
    """The number cannot be guessed: it would be another pod's."""
    (tree.device(PF) / "virtfn1").unlink()

    with pytest.raises(BadConfig, match=f"device {VFS[1]}: its physical function {PF} has no such"):
        sriov.find(VFS[1], tree.root)


@pytest.mark.parametrize("is_directory_left", [True, False])
def test_a_card_without_a_link_is_refused(tree: Tree, is_directory_left: bool):
    """It is in another namespace, or a program drives it; nothing can be set up through it."""
    shutil.rmtree(tree.device(PF) / "net" / "ens1" if is_directory_left else tree.device(PF) / "net")

    with pytest.raises(BadConfig, match=f"physical function {PF} has no link on the node"):
        sriov.find(VFS[0], tree.root)


@pytest.fixture
def switchdev(tree: Tree) -> Tree:
    """As mlx5 and ice have it: uplink and representors are all links of the PF."""
    shutil.rmtree(tree.device(PF) / "net")
    (tree.root / "class" / "net" / "ens1").unlink()
    switch = {"phys_switch_id": "0c42a1"}
    tree.link(PF, "ens1", phys_port_name="p0", **switch)
    for number in range(3):
        tree.link(PF, f"a{number}", phys_port_name=f"pf0vf{number}", **switch)
    tree.link(PF, "b0", phys_port_name="pf0sf2", **switch)
    other = "0000:03:00.1"
    tree.card(other, "mlx5_core", (), "")
    tree.link(other, "c0", phys_port_name="pf1vf2", **switch)
    tree.link(other, "d0", phys_port_name="pf0vf2", phys_switch_id="ffffff")
    return tree


def test_a_representor_is_not_the_physical_function(switchdev: Tree):
    """Though it comes first by name, and is a link of the same device."""
    assert "ens1" == switchdev.found(VFS[2]).parent


@pytest.mark.parametrize("port", ["pf0vf{}", "c0pf0vf{}"])
def test_a_representor_is_found_by_its_card_and_number(switchdev: Tree, port: str):
    """Not another PF's, not another switch's, not a subfunction's; with and without a controller."""
    (switchdev.device(PF) / "net" / "a2" / "phys_port_name").write_text(port.format(2))

    assert "a2" == sriov.representor_of(switchdev.found(VFS[2]), switchdev.root)


def test_a_card_in_legacy_mode_has_no_representors(tree: Tree):
    """It has no switch to tell."""
    assert "" == sriov.representor_of(tree.found(VFS[0]), tree.root)


def test_the_port_of_a_vf_is_that_of_its_link(tree: Tree):
    """A ConnectX-3 has two ports in one function, and each VF is of one of them."""
    (tree.device(PF) / "net" / "ens1" / "dev_port").write_text("0\n")
    tree.link(PF, "ens1d1", dev_port="1")
    (tree.device(VFS[0]) / "net" / "ens1v0" / "dev_port").write_text("0\n")
    (tree.device(VFS[1]) / "net" / "ens1v1" / "dev_port").write_text("1\n")
    shutil.rmtree(tree.device(VFS[2]) / "net")

    assert ["ens1", "ens1d1", "ens1"] == [tree.found(each).parent for each in VFS]


def test_the_link_of_a_card_is_found_by_any_device(tree: Tree):
    """Most links are of no virtual function, or of no device at all."""
    devices = (VFS[0], PF, "virtio0", "")

    assert ["ens1", "", "", ""] == [sriov.parent_link_of(each, tree.root) for each in devices]
    shutil.rmtree(tree.device(PF) / "net")
    assert "" == sriov.parent_link_of(VFS[0], tree.root)


def test_the_rdma_device_of_a_vf_is_told(tree: Tree):
    """A device-info file has it."""
    assert "" == sriov.rdma_device_of(tree.found(VFS[0]), tree.root)
    (tree.device(VFS[0]) / "infiniband" / "mlx5_2").mkdir(parents=True)
    assert "mlx5_2" == sriov.rdma_device_of(tree.found(VFS[0]), tree.root)


def test_two_cards_do_not_mix(tree: Tree):
    """Both have a VF of number 0."""
    tree.card("0000:04:00.0", "igb", ("0000:04:10.0",), "igbvf")
    tree.link("0000:04:00.0", "ens2")

    expected = replace(tree.found(VFS[0]), address="0000:04:10.0", driver="igbvf", link="")
    expected = replace(expected, parent_address="0000:04:00.0", parent="ens2", parent_driver="igb")
    assert expected == tree.found("0000:04:10.0")


@pytest.mark.parametrize("driver", ["iavf", ""])
def test_a_vf_is_taken_from_its_driver_and_given_back(tree: Tree, driver: str):
    """One that a call was killed with has none any more."""
    unbind = tree.root / "bus" / "pci" / "drivers" / "iavf" / "unbind"
    if not driver:
        (tree.device(VFS[0]) / "driver").unlink()

    sriov.rebind(VFS[0], tree.root)

    assert bool(driver) == unbind.exists()
    assert not driver or VFS[0] == unbind.read_text()
    assert VFS[0] == (tree.root / "bus" / "pci" / "drivers_probe").read_text()


def test_a_vf_that_cannot_be_given_to_a_driver_is_told(tree: Tree):
    """By its address, in the kernel's words."""
    (tree.root / "bus" / "pci" / "drivers_probe").mkdir()

    with pytest.raises(IOFailure, match=f"bind VF {VFS[0]} to its driver: Is a directory"):
        sriov.rebind(VFS[0], tree.root)
