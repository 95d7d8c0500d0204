"""The built-in tap: devices that a virtual machine's process can open."""

import errno
import fcntl
import os
import select
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import BadConfig, KernelError
from meta_cni.linux import link, netns, tuntap
from meta_cni.linux.netlink import Socket
from tests.netns.chain import ours
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

MAC = "02:00:5e:00:53:01"


@pytest.fixture(autouse=True)
def tun() -> None:
    """The tests skip where there is no such device, or nobody may open it."""
    if tuntap.unavailable():
        pytest.skip("no /dev/net/tun")


def config(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": "tap", **keys}


def static(*addresses: str, **more: Any) -> dict[str, Any]:
    return {"type": "static", "addresses": [{"address": each} for each in addresses], **more}


def attributes(pod: PodNetns) -> dict[str, Any]:
    """What the kernel says of the device (IFLA_TUN_*)."""
    found = link.require(pod.socket, "eth0", "tap")
    assert "tun" == found.kind
    return dict(found.info)


def attach_queue(pod: PodNetns, flags: int) -> int:
    """Open the device as a virtual machine's process does."""

    def opened() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(descriptor, tuntap.TUNSETIFF, struct.pack("=16sH22x", b"eth0", flags))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    return netns.run_in(pod.fd, opened)


def test_what_a_pod_sends_into_it_comes_out_at_the_other_side(pod: PodNetns):
    """That is all it is for: frames between the pod's namespace and the process that holds it."""
    answer, code = ours("tap", pod)("ADD", config(ipam=static("10.1.0.2/24", "fd00::2/64"), mac=MAC))
    assert code == 0, answer
    descriptor = attach_queue(pod, tuntap.IFF_TAP | tuntap.IFF_NO_PI)

    try:
        assert _is_heard(pod, descriptor, b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")))
    finally:
        os.close(descriptor)


def _is_heard(pod: PodNetns, descriptor: int, start: bytes) -> bool:
    """Ask for a neighbour until the device has its carrier; does a frame begin so?"""
    for _ in range(20):
        _send_udp(pod, "10.1.0.3")
        while select.select([descriptor], [], [], 0.1)[0]:
            if os.read(descriptor, 2048).startswith(start):
                return True
    return False


def _send_udp(pod: PodNetns, address: str) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", (address, 9))

    netns.run_in(pod.fd, send)


def test_the_result_tells_the_device_with_its_addresses(pod: PodNetns):
    """As macvlan's: one interface, in the sandbox."""
    answer, code = ours("tap", pod)(
        "ADD", config(ipam=static("10.1.0.2/24", dns={"nameservers": ["10.1.0.9"]}), mac=MAC, mtu=1400)
    )

    assert code == 0, answer
    assert [{"name": "eth0", "mac": MAC, "sandbox": pod.path}] == answer["interfaces"]
    assert [{"interface": 0, "address": "10.1.0.2/24"}] == answer["ips"]
    assert {"nameservers": ["10.1.0.9"]} == answer["dns"]
    found = link.require(pod.socket, "eth0", "tap")
    assert (True, 1400, {"10.1.0.2/24"}) == (found.is_up, found.mtu, pod.addresses("eth0"))


@pytest.mark.parametrize("keys", [{"owner": 1000, "group": 1001}, {"owner": 0}, {"group": 7}, {}])
def test_who_may_open_it(pod: PodNetns, keys: dict[str, int]):
    """Without owner and group only who is privileged; 0 is root, not nobody."""
    if os.getuid() != 0 or _is_mapped():
        pytest.skip("no other users in a user namespace")

    answer, code = ours("tap", pod)("ADD", config(**keys, mac=MAC))

    assert code == 0, answer
    found = attributes(pod)
    assert (keys.get("owner"), keys.get("group")) == (
        found.get("IFLA_TUN_OWNER"),
        found.get("IFLA_TUN_GROUP"),
    )
    assert MAC == link.require(pod.socket, "eth0", "tap").mac


def _is_mapped() -> bool:
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


@pytest.mark.parametrize("is_multi_queue", [True, False])
def test_as_many_queues_as_the_process_opens(pod: PodNetns, is_multi_queue: bool):
    """A device is of several queues or of one for ever (tun_set_iff(), drivers/net/tun.c)."""
    assert 0 == ours("tap", pod)("ADD", config(multiQueue=is_multi_queue))[1]
    flags = tuntap.IFF_TAP | tuntap.IFF_NO_PI | tuntap.IFF_VNET_HDR
    several = flags | tuntap.IFF_MULTI_QUEUE

    if not is_multi_queue:
        with pytest.raises(OSError, match="Invalid argument"):
            attach_queue(pod, several)
        os.close(attach_queue(pod, flags))
        return
    queues = [attach_queue(pod, several) for _ in range(3)]
    for each in queues:
        os.close(each)


def test_a_bridge_in_the_pod_takes_it_as_a_port(pod: PodNetns):
    """A pod that switches for its virtual machine."""
    pod.socket.request([link.create_bridge("k6t0")])
    asked = config(bridge="k6t0")

    answer, code = ours("tap", pod)("ADD", asked)

    assert code == 0, answer
    bridge = link.require(pod.socket, "k6t0", "bridge")
    assert bridge.index == link.require(pod.socket, "eth0", "tap").master
    checked = {**asked, "prevResult": answer}
    assert ({}, 0) == ours("tap", pod)("CHECK", checked)
    pod.socket.request([link.set_link(link.require(pod.socket, "eth0", "tap").index, master=0)])
    assert "not a port of bridge k6t0" in ours("tap", pod)("CHECK", checked)[0]["msg"]


@pytest.mark.parametrize("kind", ["none", "veth"])
def test_a_bridge_that_is_none_is_refused_before_anything_is_made(pod: PodNetns, kind: str):
    """The reference leaves the device behind."""
    if kind == "veth":
        pod.socket.request([link.create_pair("k6t0", "other")])
    before = pod.links()

    answer, code = ours("tap", pod)("ADD", config(bridge="k6t0"))

    assert (1, 7) == (code, answer["code"])
    assert "bridge 'k6t0': expected a bridge in the pod" in answer["msg"]
    assert before == pod.links()


def test_a_name_that_is_taken_is_told(pod: PodNetns):
    """Whoever has it keeps it."""
    with pytest.raises(KernelError, match="create tap lo: File exists"):
        netns.run_in(pod.fd, lambda: tuntap.create("lo"))

    assert [] == pod.links()


def test_a_name_with_a_pattern_makes_nothing(pod: PodNetns):
    """The kernel would choose a number, and nobody would find the device again."""
    with pytest.raises(KernelError, match="create tap tap%d: Invalid argument"):
        netns.run_in(pod.fd, lambda: tuntap.create("tap%d"))

    assert [] == pod.links()


def test_a_failing_add_leaves_no_device_and_no_address(pod: PodNetns, tmp_path: Path):
    """The reference leaves the device when its address cannot be set."""
    ipam = {
        "type": "host-local",
        "dataDir": str(tmp_path),
        "ranges": [[{"subnet": "10.1.0.0/24"}]],
        "routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}],
    }

    answer, code = ours("tap", pod)("ADD", config(ipam=ipam))

    assert code == 1
    assert "add route 10.9.0.0/16 via 192.0.2.1" in answer["msg"]
    assert [] == pod.links()
    assert [] == [each.name for each in (tmp_path / "net").glob("10.*")]


def test_del_is_repeatable_and_needs_no_namespace(pod: PodNetns, host: Socket, tmp_path: Path):
    """And gives the address back each time."""
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    call = ours("tap", pod)
    assert 0 == call("ADD", config(ipam=ipam))[1]

    outcomes = [call("DEL", config(ipam=ipam)), call("DEL", config(ipam=ipam))]
    assert 0 == call("ADD", config(ipam=ipam))[1]
    outcomes.append(call("DEL", config(ipam=ipam), CNI_NETNS=""))
    outcomes.append(call("DEL", config(ipam=ipam), CNI_NETNS="/run/netns/gone"))

    assert [({}, 0)] * 4 == outcomes
    assert [] == [each.name for each in (tmp_path / "net").glob("10.*")]


def test_check_tells_another_device_in_its_place(pod: PodNetns):
    """A veth of the same name is not what the virtual machine can open."""
    answer, _ = ours("tap", pod)("ADD", config(mac=MAC))
    link.remove(pod.socket, "eth0")
    pod.socket.request([link.create_pair("eth0", "other")])
    pod.socket.request([link.set_link(link.require(pod.socket, "eth0", "link").index, mac=MAC)])

    found, code = ours("tap", pod)("CHECK", config(mac=MAC, prevResult=answer))

    assert code == 1
    assert "it is veth: expected tap" in found["msg"]


def test_a_label_is_an_error_where_there_is_no_selinux(pod: PodNetns):
    """Silently without it, the process of the virtual machine could not open the device."""
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("SELinux is on")

    answer, code = ours("tap", pod)("ADD", config(selinuxContext="system_u:system_r:container_t:s0"))

    assert (1, 7) == (code, answer["code"])
    assert "selinuxContext 'system_u:system_r:container_t:s0': " in answer["msg"]
    assert "expected a context of this node's policy" in answer["msg"]
    assert [] == pod.links()


def test_with_a_label_the_device_is_made_by_a_program_that_has_it(pod: PodNetns, mocker, tmp_path: Path):
    """The label of a device is that of who makes it; SELinux itself is played by a file."""
    label = tmp_path / "exec"
    label.write_bytes(b"")
    written: list[bytes] = []
    mocker.patch("meta_cni.linux.tuntap.EXEC_LABEL", str(label))
    real = tuntap.program.run
    mocker.patch(
        "meta_cni.linux.tuntap.program.run", side_effect=lambda command: _noted(written, label, real, command)
    )

    answer, code = ours("tap", pod)(
        "ADD", config(selinuxContext="a:b:c:s0", multiQueue=True, mtu=1300, mac=MAC)
    )

    assert code == 0, answer
    assert [b"a:b:c:s0\0"] == written
    assert b"\0" == label.read_bytes()[:1]
    found = link.require(pod.socket, "eth0", "tap")
    assert ("tun", 1300, MAC) == (found.kind, found.mtu, found.mac)
    assert 1 == attributes(pod)["IFLA_TUN_MULTI_QUEUE"]


def _noted(written: list[bytes], label: Path, real: Any, command: list[str]) -> str:
    written.append(label.read_bytes())
    return str(real(command))


WRONG = [
    ({"owner": -1}, "owner -1: expected a whole number from 0 to 4294967294"),
    ({"group": "users"}, 'group "users": expected a whole number'),
    ({"mac": "zz"}, "mac 'zz': expected an Ethernet address"),
    ({"mtu": 65536}, "mtu 65536: expected a whole number from 0 to 65535"),
    ({"multiQueue": 1}, "multiQueue 1: expected true or false"),
    ({"bridge": 5}, "bridge 5: expected a string"),
]


@pytest.mark.parametrize(("keys", "text"), WRONG)
def test_a_wrong_key_is_named_before_anything_is_made(pod: PodNetns, keys: dict[str, Any], text: str):
    """And what would be right."""
    answer, code = ours("tap", pod)("ADD", config(**keys))

    assert (1, 7) == (code, answer["code"])
    assert text in answer["msg"]
    assert [] == pod.links()


def test_a_node_without_the_device_says_what_to_do(pod: PodNetns, mocker):
    """STATUS before, ADD when it happens."""
    mocker.patch("meta_cni.linux.tuntap.DEVICE", "/dev/net/none")

    status, _ = ours("tap", pod)("STATUS", config())
    answer, _ = ours("tap", pod)("ADD", config())

    assert 50 == status["code"]
    for each in (status, answer):
        assert "open /dev/net/none: expected that device on the node: modprobe tun" in each["msg"]


def test_an_unsigned_owner_is_passed_as_it_is(mocker):
    """C's int is signed."""
    called = mocker.patch("meta_cni.linux.tuntap.fcntl.ioctl", return_value=b"t".ljust(40, b"\0"))

    tuntap.create("t", owner=2**32 - 2)

    assert (tuntap.TUNSETOWNER, -2) == called.call_args_list[1].args[1:]


def test_an_error_of_the_kernel_is_told(mocker):
    """With the name of the device."""
    mocker.patch("meta_cni.linux.tuntap.fcntl.ioctl", side_effect=OSError(errno.EPERM, ""))

    with pytest.raises(KernelError, match="create tap t: Operation not permitted"):
        tuntap.create("t")


def test_a_label_that_cannot_be_set_makes_nothing(mocker):
    """The program is not even run."""
    mocker.patch("meta_cni.linux.tuntap.EXEC_LABEL", "/nowhere/exec")
    run = mocker.patch("meta_cni.linux.tuntap.program.run")

    with pytest.raises(BadConfig, match="selinuxContext 'x': No such file"):
        tuntap.create_labelled("t", "x")

    assert not run.called
