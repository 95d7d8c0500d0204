"""The built-in host-device: a link that comes and goes, and is never lost."""

import errno
import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from delegates import host_device
from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, configure, device, link, netns, rule
from meta_cni.linux.netlink import Socket
from tests.netns.chain import ours, references, theirs
from tests.netns.conftest import Node, PodNetns
from tests.netns.traffic import is_reached, own_namespace

pytestmark = pytest.mark.guest

MAC = "02:00:5e:00:53:01"
PCI = "0000:03:00.1"


@pytest.fixture
def up0(host: Socket) -> link.Link:
    """A device of the node, up; a cable's end plays it."""
    host.request([link.create_pair("up0", "sw0")])
    index = link.require(host, "up0", "device").index
    host.request([link.set_link(index, mac=MAC, is_up=True)])
    return link.require(host, "up0", "device")


def config(**keys: Any) -> dict[str, Any]:
    keys = keys or {"device": "up0"}
    return {"cniVersion": "1.1.0", "name": "net", "type": "host-device", **keys}


def kept(directory: Path) -> list[str]:
    """Addresses that are still reserved."""
    return [each.name for each in (directory / "net").glob("10.*")]


def ipam(directory: Path, **more: Any) -> dict[str, Any]:
    ranges = [[{"subnet": "10.1.0.0/24"}]]
    return {"type": "host-local", "dataDir": str(directory), "ranges": ranges, **more}


def test_the_device_is_in_the_pod_with_its_address_and_comes_back(
    pod: PodNetns, host: Socket, up0: link.Link, tmp_path: Path
):
    """Under its own name, without what it was called meanwhile, and down, as its state is not known."""
    asked = config(device="up0", ipam=ipam(tmp_path))
    answer, code = ours("host-device", pod)("ADD", asked)
    assert code == 0, answer

    inside = link.require(pod.socket, "eth0", "device")
    assert (True, MAC, "up0") == (inside.is_up, inside.mac, inside.alias)
    assert [{"name": "eth0", "mac": MAC, "sandbox": pod.path}] == answer["interfaces"]
    assert {"10.1.0.2/24"} == pod.addresses("eth0")
    assert link.find(host, "up0") is None
    assert ({}, 0) == ours("host-device", pod)("CHECK", {**asked, "prevResult": answer})

    assert ({}, 0) == ours("host-device", pod)("DEL", asked)
    back = link.require(host, "up0", "device")
    assert (False, MAC, "") == (back.is_up, back.mac, back.alias)
    assert ([], []) == (pod.links(), kept(tmp_path))


def test_a_neighbour_on_the_wire_is_reached(pod: PodNetns, host: Socket, up0: link.Link):
    """The device is the same one inside."""
    other = link.require(host, "sw0", "cable")
    host.request(
        [link.set_link(other.index, is_up=True), address.add(other.index, ip_interface("10.1.0.9/24"))]
    )
    static = {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]}

    assert 0 == ours("host-device", pod)("ADD", config(device="up0", ipam=static))[1]

    assert is_reached(pod.fd, own_namespace(), "10.1.0.9")


def test_either_program_brings_back_what_the_other_moved(pod: PodNetns, host: Socket, up0: link.Link):
    """A node is taken over while its pods live."""
    (binary, *_) = references("host-device")
    asked = {**config(), "cniVersion": "1.0.0"}
    for first, second in (
        (ours("host-device", pod), theirs(binary, pod)),
        (theirs(binary, pod), ours("host-device", pod)),
    ):
        answer, code = first("ADD", asked)
        assert code == 0, answer
        assert 0 == second("DEL", asked)[1]
        assert MAC == link.require(host, "up0", "device").mac


@pytest.mark.parametrize("key", ["hwaddr", "hwaddr-upper"])
def test_a_device_is_found_by_its_mac(pod: PodNetns, up0: link.Link, key: str):
    """In either case of letters."""
    mac = MAC.upper() if key.endswith("upper") else MAC

    assert 0 == ours("host-device", pod)("ADD", config(hwaddr=mac))[1]

    assert "up0" == link.require(pod.socket, "eth0", "device").alias


@pytest.fixture
def sysfs(tmp_path: Path, mocker) -> Path:
    """A tree like sysfs, with one PCI function that has a link, and one for user space."""
    root = tmp_path / "sys"
    (root / "bus" / "pci" / "devices" / PCI / "net" / "up0").mkdir(parents=True)
    other = root / "bus" / "pci" / "devices" / "0000:03:00.2"
    other.mkdir()
    (root / "bus" / "pci" / "drivers" / "vfio-pci").mkdir(parents=True)
    (other / "driver").symlink_to(root / "bus" / "pci" / "drivers" / "vfio-pci")
    virtio = root / "bus" / "pci" / "devices" / "0000:00:04.0" / "virtio1" / "net" / "up0"
    virtio.mkdir(parents=True)
    auxiliary = root / "bus" / "auxiliary" / "devices" / "mlx5_core.sf.4" / "net" / "up0"
    auxiliary.mkdir(parents=True)
    mocker.patch.object(device.path_of, "__defaults__", (root,))
    return root


@pytest.mark.parametrize(
    "keys",
    [
        {"pciBusID": PCI},
        {"pciBusID": "0000:00:04.0"},
        {"runtimeConfig": {"deviceID": PCI}},
        {"runtimeConfig": {"deviceID": "mlx5_core.sf.4"}, "pciBusID": "0000:ff:00.0"},
    ],
)
def test_a_device_is_found_by_its_address(pod: PodNetns, up0: link.Link, sysfs: Path, keys: dict[str, Any]):
    """PCI, virtio below it, the auxiliary bus; what the runtime says comes before the configuration."""
    answer, code = ours("host-device", pod)("ADD", config(**keys))

    assert code == 0, answer
    assert "up0" == link.require(pod.socket, "eth0", "device").alias


def test_a_device_of_a_user_space_driver_stays_where_it_is(pod: PodNetns, sysfs: Path, tmp_path: Path):
    """A program in the pod drives it; only its addresses are told."""
    asked = config(pciBusID="0000:03:00.2", ipam=ipam(tmp_path))

    answer, code = ours("host-device", pod)("ADD", asked)

    assert code == 0, answer
    assert [{"name": "eth0", "sandbox": pod.path}] == answer["interfaces"]
    assert "10.1.0.2/24" == answer["ips"][0]["address"]
    assert [] == pod.links()
    assert ({}, 0) == ours("host-device", pod)("CHECK", {**asked, "prevResult": answer})
    assert ({}, 0) == ours("host-device", pod)("DEL", asked)
    assert [] == kept(tmp_path)


NOT_THERE = [
    ({"device": "up9"}, "device 'up9'"),
    ({"hwaddr": "02:00:00:00:00:77"}, "hwaddr '02:00:00:00:00:77'"),
    ({"kernelpath": "/sys/devices/none"}, "kernelpath '/sys/devices/none'"),
    ({"pciBusID": "0000:ff:00.0"}, "pciBusID '0000:ff:00.0'"),
    ({"runtimeConfig": {"deviceID": "../../x"}}, "pciBusID '../../x'"),
]


@pytest.mark.parametrize(("keys", "text"), NOT_THERE)
def test_a_device_that_is_not_there_is_named(
    pod: PodNetns, host: Socket, tmp_path: Path, keys: dict[str, Any], text: str
):
    """And no address is taken for it; DEL has nothing to do then, where the reference fails."""
    asked = config(**keys, ipam=ipam(tmp_path))

    answer, code = ours("host-device", pod)("ADD", asked)

    assert (1, 7) == (code, answer["code"])
    assert f"{text}: expected a device with a link on the node" in answer["msg"]
    assert ({}, 0) == ours("host-device", pod)("DEL", asked)
    assert [] == kept(tmp_path)


WRONG = [
    ({"mtu": 5}, "mtu 5 is not built in"),
    ({"hwaddr": "zz"}, 'hwaddr "zz": expected an Ethernet address'),
    ({"kernelpath": "/etc"}, "expected a path below /sys/devices/"),
    ({"kernelpath": "/sys/devices/../class/net"}, "expected a path below /sys/devices/"),
    ({"device": "up0", "useInterfaceNetwork": "no"}, 'useInterfaceNetwork "no": expected true or false'),
    ({"device": ""}, 'specify either "device", "hwaddr", "kernelpath" or "pciBusID"'),
]


@pytest.mark.parametrize(("keys", "text"), WRONG)
def test_a_wrong_configuration_is_told_before_anything_is_moved(
    pod: PodNetns, host: Socket, up0: link.Link, keys: dict[str, Any], text: str
):
    """And what would be right."""
    answer, code = ours("host-device", pod)("ADD", config(**keys))

    assert (1, 7) == (code, answer["code"])
    assert text in answer["msg"]
    assert settled(up0) == settled(link.require(host, "up0", "device"))


def test_a_second_device_takes_nobody_s_place(pod: PodNetns, host: Socket, up0: link.Link):
    """An undo that went by the name would take the first one away from a pod that lives."""
    host.request([link.create_pair("up1", "sw1")])
    assert ours("host-device", pod)("ADD", config(device="up0"))[1] == 0

    error, code = ours("host-device", pod)("ADD", config(device="up1"))

    assert (1, 104) == (code, error["code"])
    assert "up0" == link.require(pod.socket, "eth0", "device").alias
    assert link.find(host, "up1") is not None


NETWORK = (
    "address add 192.0.2.2/24 broadcast 192.0.2.255 dev up0",
    "-6 address add fd00:2::2/64 nodad dev up0",
    "route add 203.0.113.0/24 via 192.0.2.9",
    "-6 route add fd00:9::/64 via fd00:2::9",
    "route add default via 192.0.2.9 table 100",
    "rule add from 192.0.2.2 table 100 priority 900",
)
"""What somebody set up on the device."""


def ip(*commands: str) -> None:
    for each in commands:
        subprocess.run(["ip", *each.split()], check=True)


@pytest.fixture
def network(up0: link.Link) -> Iterator[dict[str, Any]]:
    """The configuration for a device that has a network on the node."""
    ip(*NETWORK)
    yield config(device="up0", useInterfaceNetwork=True)
    ip("rule del priority 900")


def test_the_network_of_the_device_works_in_the_pod(pod: PodNetns, host: Socket, network: dict[str, Any]):
    """A neighbour beyond the router is reached as it was from the node, in both families."""
    router = link.require(host, "sw0", "cable")
    texts = ("192.0.2.9/24", "203.0.113.1/32", "fd00:2::9/64", "fd00:9::1/128")
    added = [address.add(router.index, ip_interface(each)) for each in texts]
    host.request([link.set_link(router.index, is_up=True), *added])

    answer, code = ours("host-device", pod)("ADD", network)

    assert code == 0, answer
    assert ["192.0.2.2/24", "fd00:2::2/64"] == [each["address"] for each in answer["ips"]]
    for each in ("192.0.2.9", "203.0.113.1", "fd00:2::9", "fd00:9::1"):
        assert is_reached(pod.fd, own_namespace(), each), each
    assert ({}, 0) == ours("host-device", pod)("CHECK", {**network, "prevResult": answer})


@pytest.mark.parametrize("lost", ["address flush dev eth0 scope global", "route flush table 100"])
def test_check_tells_what_the_device_brought_and_lost(pod: PodNetns, network: dict[str, Any], lost: str):
    """The route in its own table, too, which the reference does not find even while it is there."""
    answer, code = ours("host-device", pod)("ADD", network)
    assert code == 0, answer
    netns.run_in(pod.fd, lambda: ip(lost))

    told, code = ours("host-device", pod)("CHECK", {**network, "prevResult": answer})

    assert (1, 105) == (code, told["code"])


def test_a_device_that_cannot_be_set_up_has_its_network_on_the_node_again(
    pod: PodNetns, network: dict[str, Any], tmp_path: Path
):
    """The move takes it all away; and no rule is left in the pod."""
    before = (shown("-o", "-4", "address"), shown("-4", "route", "show", "table", "all"), shown("rule"))
    routes_6 = shown("-6", "route")
    broken = ipam(tmp_path, routes=[{"dst": "10.9.0.0/16", "gw": "198.51.100.1"}])

    answer, code = ours("host-device", pod)("ADD", {**network, "ipam": broken})

    assert code == 1
    assert "add route 10.9.0.0/16 via 198.51.100.1" in answer["msg"]
    after = (shown("-o", "-4", "address"), shown("-4", "route", "show", "table", "all"), shown("rule"))
    assert (before, routes_6) == (after, shown("-6", "route"))
    assert (False, []) == (bool(taken_rules(pod)), pod.links())


def test_a_device_has_its_network_again_where_a_later_network_fails(node: Node, network: dict[str, Any]):
    """The kubelet tries again, and the next ADD takes along what is there."""
    node.settings = {"delegates": [network]}
    node.nad("broken", {"cniVersion": "1.1.0", "type": "macvlan", "master": "nowhere0"})
    node.annotate("broken")
    before = (shown("-o", "-4", "address"), shown("-4", "route", "show", "table", "all"), shown("rule"))
    routes_6 = shown("-6", "route")

    error = node.fail()

    assert "nowhere0" in error["msg"]
    after = (shown("-o", "-4", "address"), shown("-4", "route", "show", "table", "all"), shown("rule"))
    assert (before, routes_6) == (after, shown("-6", "route"))
    assert (False, []) == (bool(taken_rules(node.pod)), node.pod.links())


def test_a_device_is_up_again_where_a_later_network_fails(node: Node, host: Socket, up0: link.Link):
    """With its alias."""
    host.request([link.set_alias(up0.index, "fast"), link.set_link(up0.index, is_up=True)])
    node.settings = {"delegates": [config(device="up0")]}
    node.nad("broken", {"cniVersion": "1.1.0", "type": "macvlan", "master": "nowhere0"})
    node.annotate("broken")

    node.fail()

    found = link.require(host, "up0", "device")
    assert ("fast", True) == (found.alias, found.is_up)


def shown(*command: str) -> list[str]:
    """What iproute2 lists on the node, without the index of a link, and link-local addresses."""
    text = subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout
    lines = (re.sub(r"^\d+: | linkdown|\\.*", "", each).strip() for each in text.splitlines())
    return sorted(each for each in lines if not each.startswith("fe80:"))


def taken_rules(pod: PodNetns) -> list[rule.Rule]:
    """Those that came along."""
    return [each for each in rule.dump(pod.socket) if each.protocol == configure.RTPROT_TAKEN]


def test_a_network_that_cannot_be_brought_back_is_told(pod: PodNetns, network: dict[str, Any], mocker):
    """The device is there, what it has lost must not be a secret."""
    mocker.patch("delegates.host_device.configure.configure", side_effect=KernelError("set up", 22))
    mocker.patch("delegates.host_device.Layer3.addresses_on", return_value=[])

    answer, code = ours("host-device", pod)("ADD", network)

    assert code == 1
    assert "set up: Invalid argument; and bringing up0 back: add route 0.0.0.0/0 via" in answer["msg"]


def test_a_link_that_took_the_devices_name_gets_no_network_of_it(
    pod: PodNetns, host: Socket, network: dict[str, Any], mocker
):
    """The device is back under another name then."""

    def fail(*arguments: Any, **more: Any) -> link.Link:
        host.request([link.create_bridge("up0")])
        raise KernelError("set up", errno.EINVAL)

    mocker.patch("delegates.host_device.configure.configure", side_effect=fail)

    _, code = ours("host-device", pod)("ADD", network)

    assert code == 1
    stranger = link.require(host, "up0", "bridge")
    assert ([], False) == (list(address.dump(host, stranger.index)), stranger.is_up)


def test_rules_that_came_along_go_with_the_device(pod: PodNetns, host: Socket, network: dict[str, Any]):
    """Also where the link went first; the pod's own rules stay, and the node's."""
    own = "rule add from 192.0.2.2 table 100 priority 7"
    netns.run_in(pod.fd, lambda: ip(own))
    assert 0 == ours("host-device", pod)("ADD", network)[1]
    assert ["192.0.2.2/32"] == [str(each.source) for each in taken_rules(pod)]
    link.remove(pod.socket, "eth0")

    outcomes = [ours("host-device", pod)("DEL", network) for _ in range(2)]

    assert [({}, 0)] * 2 == outcomes
    assert [] == taken_rules(pod)
    assert [7] == [each.priority for each in rule.dump(pod.socket) if each.table == 100]
    assert [900] == [each.priority for each in rule.dump(host) if each.table == 100]


def test_an_address_goes_back_though_a_rule_cannot_be_removed(
    pod: PodNetns, network: dict[str, Any], tmp_path: Path, mocker: MockerFixture
):
    """The device is on the node already: nobody has the address any more."""
    asked = {**network, "ipam": ipam(tmp_path)}
    assert 0 == ours("host-device", pod)("ADD", asked)[1]
    refused = KernelError("list rules", errno.EBUSY)
    mocker.patch("delegates.host_device.layer3.remove_rules", side_effect=refused)

    answer, code = ours("host-device", pod)("DEL", asked)
    mocker.stopall()

    assert (1, "list rules: Device or resource busy", []) == (code, answer["msg"], kept(tmp_path))
    assert ({}, 0) == ours("host-device", pod)("DEL", asked)
    assert [] == taken_rules(pod)


def test_a_device_of_a_user_space_driver_has_no_network_to_bring(pod: PodNetns, sysfs: Path, tmp_path: Path):
    """Before an address is taken for it."""
    asked = config(pciBusID="0000:03:00.2", useInterfaceNetwork=True, ipam=ipam(tmp_path))

    answer, code = ours("host-device", pod)("ADD", asked)

    assert (1, 7) == (code, answer["code"])
    assert "useInterfaceNetwork true: expected a device with a link on the node" in answer["msg"]
    assert "0000:03:00.2 is driven by a program" in answer["msg"]
    assert [] == kept(tmp_path)


def settled(found: link.Link) -> tuple[object, ...]:
    """But for its operational state, which the kernel finds out in its own time."""
    return found, found.alias, found.group, found.tx_queue_length, found.promiscuity


def test_a_name_that_is_taken_in_the_pod_moves_nothing(
    pod: PodNetns, host: Socket, up0: link.Link, tmp_path: Path
):
    """And the DEL that follows leaves the other link alone: it has no alias of ours."""
    pod.socket.request([link.create_pair("eth0", "other")])
    asked = config(device="up0", ipam=ipam(tmp_path))

    answer, code = ours("host-device", pod)("ADD", asked)

    assert (1, 100) == (code, answer["code"])
    assert "move up0 to eth0 in the pod: File exists" in answer["msg"]
    assert settled(up0) == settled(link.require(host, "up0", "device"))
    assert ({}, 0) == ours("host-device", pod)("DEL", asked)
    assert ["eth0", "other"] == pod.links()
    assert [] == kept(tmp_path)


def test_a_second_add_leaves_the_device_in_the_pod(pod: PodNetns, up0: link.Link):
    """The undoing of the ADD that was refused brought back what a running pod was using."""
    asked = config(device="up0")
    result, code = ours("host-device", pod)("ADD", asked)
    assert 0 == code, result

    error, code = ours("host-device", pod)("ADD", asked)

    assert (1, 104) == (code, error["code"])
    assert "eth0 in the pod is device up0: expected a DEL first" in error["msg"]
    assert ({}, 0) == ours("host-device", pod)("CHECK", {**asked, "prevResult": result})


def test_a_device_whose_addresses_cannot_be_set_is_back_as_it_was(
    pod: PodNetns, host: Socket, up0: link.Link, tmp_path: Path
):
    """Name, alias, up, its bridge: the reference leaves it in the pod."""
    host.request([link.create_bridge("br0")])
    bridge = link.require(host, "br0", "bridge")
    host.request([link.set_link(up0.index, master=bridge.index)])
    subprocess.run(["ip", "link", "set", "dev", "up0", "alias", "the uplink"], check=True)
    broken = ipam(tmp_path, routes=[{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}])

    answer, code = ours("host-device", pod)("ADD", config(device="up0", ipam=broken))

    assert code == 1
    assert "add route 10.9.0.0/16 via 192.0.2.1" in answer["msg"]
    back = link.require(host, "up0", "device")
    assert (True, MAC, "the uplink", bridge.index) == (back.is_up, back.mac, back.alias, back.master)
    assert ([], []) == (pod.links(), kept(tmp_path))


def test_a_move_that_fails_half_way_is_undone(pod: PodNetns, host: Socket, up0: link.Link, mocker):
    """The kernel moves first and renames then; somebody was faster with the name."""
    find = link.find

    def race(socket: Socket, name: str) -> link.Link | None:
        found = find(socket, name)
        if name == "eth0" and found is None and "eth0" not in pod.links():
            pod.socket.request([link.create_pair("eth0", "other")])
        return found

    mocker.patch("delegates.host_device.link.find", side_effect=race)

    answer, code = ours("host-device", pod)("ADD", config())

    assert (1, 100) == (code, answer["code"])
    assert "File exists" in answer["msg"]
    mocker.stopall()
    back = link.require(host, "up0", "device")
    assert (True, MAC, "") == (back.is_up, back.mac, back.alias)
    assert ["eth0", "other"] == pod.links()


def test_what_cannot_be_undone_is_told_with_what_went_wrong(pod: PodNetns, up0: link.Link, mocker):
    """A device that is in the wrong place must not be a secret."""
    mocker.patch("delegates.host_device.configure.configure", side_effect=KernelError("set up", 22))
    mocker.patch.object(host_device.HostDevice, "_move_out", side_effect=KernelError("move back", 16))

    answer, code = ours("host-device", pod)("ADD", config())

    assert code == 1
    assert (
        "set up: Invalid argument; and bringing up0 back: move back: Device or resource busy" in answer["msg"]
    )


def test_a_name_that_is_taken_on_the_node_does_not_lose_the_device(
    pod: PodNetns, host: Socket, up0: link.Link, caplog: pytest.LogCaptureFixture
):
    """Somebody else has it now: it comes back under another one, and says which it had."""
    assert 0 == ours("host-device", pod)("ADD", config())[1]
    host.request([link.create_bridge("up0")])
    caplog.set_level("WARNING", "meta_cni")

    outcome = ours("host-device", pod)("DEL", config())

    assert ({}, 0) == outcome
    assert "device up0 is back as dev" in caplog.text
    (back,) = [each for each in link.dump(host) if each.mac == MAC]
    assert "up0" == back.alias
    assert back.name.startswith("dev")
    assert "bridge" == link.require(host, "up0", "bridge").kind


def test_an_address_is_kept_as_long_as_the_device_has_it(
    pod: PodNetns, up0: link.Link, tmp_path: Path, mocker: MockerFixture
):
    """Two pods would have it while the first one's DEL is tried again."""
    asked = config(device="up0", ipam=ipam(tmp_path))
    assert 0 == ours("host-device", pod)("ADD", asked)[1]
    refused = KernelError("move eth0 to up0 on the node", errno.EBUSY)
    mocker.patch.object(host_device.HostDevice, "_move_out", side_effect=refused)

    answer, code = ours("host-device", pod)("DEL", asked)
    held = kept(tmp_path)
    mocker.stopall()

    assert (1, "move eth0 to up0 on the node: Device or resource busy") == (code, answer["msg"])
    assert (["10.1.0.2"], {"10.1.0.2/24"}) == (held, pod.addresses("eth0"))
    assert ({}, 0) == ours("host-device", pod)("DEL", asked)
    assert [] == kept(tmp_path)


def test_del_is_repeatable_and_needs_neither_device_nor_namespace(
    pod: PodNetns, host: Socket, up0: link.Link, tmp_path: Path
):
    """The reference fails for each of these, and keeps the address where CNI_NETNS is empty."""
    asked = config(device="up0", ipam=ipam(tmp_path))
    call = ours("host-device", pod)
    assert 0 == call("ADD", asked)[1]

    outcomes = [call("DEL", asked), call("DEL", asked)]
    assert 0 == call("ADD", asked)[1]
    outcomes.append(call("DEL", asked, CNI_NETNS=""))
    assert [] == kept(tmp_path)
    link.remove(pod.socket, "eth0")
    outcomes += [call("DEL", asked), call("DEL", asked, CNI_NETNS="/run/netns/gone")]

    assert [({}, 0)] * 5 == outcomes


@pytest.mark.parametrize("keys", [{"device": "up0"}, {"hwaddr": MAC}])
def test_a_device_that_came_back_by_itself_gets_its_name_again(
    pod: PodNetns, host: Socket, up0: link.Link, keys: dict[str, Any]
):
    """A physical one does, when its namespace ends: as eth0, with its alias."""
    host.request([link.set_link(up0.index, is_up=False), link.rename(up0.index, "eth0", alias="up0")])

    assert ({}, 0) == ours("host-device", pod)("DEL", config(**keys), CNI_NETNS="/run/netns/gone")

    assert ("", False) == (link.require(host, "up0", "device").alias, link.find(host, "eth0") is not None)


def test_links_that_only_look_like_it_keep_their_names(pod: PodNetns, host: Socket, up0: link.Link):
    """An alias is anybody's to set."""
    host.request([link.create_pair("eth0", "other")])
    strange = link.require(host, "eth0", "link")
    for alias in ("a/b", "far too long for a name", "up9"):
        host.request([link.rename(strange.index, "eth0", alias=alias)])
        assert ({}, 0) == ours("host-device", pod)("DEL", config(), CNI_NETNS="/run/netns/gone")
        assert alias == link.require(host, "eth0", "link").alias
