"""Links on a real kernel: where they are made, and how they go away."""

import errno
import subprocess
from collections.abc import Callable

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import link
from meta_cni.linux.codec import ifinfmsg
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Socket, decode
from tests.netns.conftest import PodNetns

pytestmark = pytest.mark.guest

MAC = "02:00:5e:00:53:01"
GROUP = 0x4D000001


def made_bridge(host: Socket, name: str = "br0") -> Link:
    """A bridge that is up."""
    host.request([link.create_bridge(name)])
    found = link.require(host, name, "bridge")
    host.request([link.set_link(found.index, is_up=True)])
    return found


def test_one_message_makes_a_veth_with_its_peer_in_the_pod(host: Socket, pod: PodNetns):
    """Moving a link afterwards costs 16 ms, and leaves a moment with a wrong name."""
    bridge = made_bridge(host)
    request = link.create_veth("veth0", "net1", pod.fd, mac=MAC, mtu=1400, group=GROUP, master=bridge.index)

    (reply,) = host.request([request])

    host_index, pod_index = link.veth_indexes(reply)
    outside = link.require(host, "veth0", "host end")
    inside = link.require(pod.socket, "net1", "pod end")
    assert (outside.index, inside.index) == (host_index, pod_index)
    assert ("veth", True, bridge.index, 1400, 0) == (
        *(outside.kind, outside.is_up, outside.master),
        *(outside.mtu, outside.group),
    )
    assert ("veth", False, MAC, 1400, GROUP) == (
        *(inside.kind, inside.is_up, inside.mac),
        *(inside.mtu, inside.group),
    )
    assert (pod_index, host_index) == (outside.parent, inside.parent)


def test_a_veth_whose_name_is_taken_in_the_pod_leaves_nothing_on_the_node(host: Socket, pod: PodNetns):
    """Half a pair on the node belongs to nobody."""
    pod.socket.request([link.create_bridge("net1")])

    with pytest.raises(KernelError, match=r"create veth net1 with peer veth0: .*File exists"):
        host.request([link.create_veth("veth0", "net1", pod.fd)])

    assert link.find(host, "veth0") is None


def test_a_veth_whose_bridge_is_gone_leaves_nothing(host: Socket, pod: PodNetns):
    """The bridge may go between the look-up and the message."""
    with pytest.raises(KernelError):
        host.request([link.create_veth("veth0", "net1", pod.fd, master=12345)])

    assert link.find(host, "veth0") is None
    assert [] == pod.links()


@pytest.mark.parametrize("mode", ["private", "vepa", "bridge", "passthru"])
def test_a_macvlan_is_made_in_the_pod(
    needs_kind: Callable[[str], None], host: Socket, pod: PodNetns, mode: str
):
    """Its master stays on the node."""
    needs_kind("macvlan")
    host.request([link.create_pair("up0", "up1")])
    parent = link.require(host, "up0", "master").index

    mac = "" if mode == "passthru" else MAC  # a passthru macvlan has its master's
    host.request(
        [
            link.create_macvlan(
                "net1", Link(parent, "up0"), mode, pod_fd=pod.fd, mac=mac, mtu=1400, group=GROUP
            )
        ]
    )

    made = link.require(pod.socket, "net1", "macvlan")
    assert ("macvlan", parent, 1400, GROUP) == (made.kind, made.parent, made.mtu, made.group)
    assert mode == made.info["IFLA_MACVLAN_MODE"]
    assert link.find(host, "net1") is None
    if mac:
        assert mac == made.mac


def test_a_broadcast_queue_is_as_long_as_asked_for(
    needs_kind: Callable[[str], None], host: Socket, pod: PodNetns
):
    """Telco networks with many neighbours lose ARP requests in the default one."""
    needs_kind("macvlan")
    host.request([link.create_pair("up0", "up1")])
    parent = link.require(host, "up0", "master").index

    request = link.create_macvlan(
        "net1", Link(parent, "up0"), "bridge", pod_fd=pod.fd, broadcast_queue_length=3000
    )
    host.request([request])

    made = link.require(pod.socket, "net1", "macvlan")
    assert 3000 == made.info["IFLA_MACVLAN_BC_QUEUE_LEN"]


def test_a_bridge_that_two_make_at_once_is_made_once(host: Socket):
    """Two pods of one network start together on a fresh node."""
    first, second = host.request([link.create_bridge("br0"), link.create_bridge("br0")])

    assert (0, errno.EEXIST) == (first.errno, second.errno)
    assert "bridge" == link.require(host, "br0", "bridge").kind


def test_every_link_of_a_group_goes_with_one_message(pod: PodNetns):
    """Each link deleted alone waits for its own grace period: 180 ms for eight."""
    pod.socket.request([link.create_bridge("other")])
    for n in range(4):
        pod.socket.request([link.create_veth(f"peer{n}", f"net{n}", pod.fd, group=GROUP)])

    (reply,) = pod.socket.request([link.delete_group(GROUP)])

    assert 0 == reply.errno
    assert ["other"] == pod.links()


def test_what_is_announced_to_be_gone_can_be_made_again_at_once(host: Socket, pod: PodNetns):
    """Names are free, both ends out of sight, the socket is usable while the kernel still cleans up."""
    for _ in range(3):
        host.request([link.create_veth("veth0", "net1", pod.fd, group=GROUP)])

        link.remove(pod.socket, "net1")

        assert (None, None) == (link.find(pod.socket, "net1"), link.find(host, "veth0"))
    link.remove(pod.socket, "net1")


def test_a_group_is_gone_when_its_last_link_is(host: Socket, pod: PodNetns):
    """Eight links in the time of one; those of other groups stay."""
    for n in range(8):
        host.request([link.create_veth(f"veth{n}", f"net{n}", pod.fd, group=GROUP)])
    host.request([link.create_veth("other0", "other", pod.fd, group=GROUP + 1)])

    link.remove_group(pod.socket, GROUP)

    assert ["other"] == pod.links()
    assert [] == [each.name for each in link.dump(host) if each.name.startswith("veth")]
    link.remove_group(pod.socket, GROUP)


def test_what_went_with_its_group_is_known_to_be_gone(host: Socket, pod: PodNetns):
    """Nobody looks for it again, but only when it was announced; without links nothing is done meanwhile."""
    diary: list[set[str]] = []
    for n in range(2):
        host.request([link.create_veth(f"veth{n}", f"net{n}", pod.fd, group=GROUP)])

    link.remove_group(pod.socket, GROUP, lambda: diary.append(set(pod.socket.gone)))
    link.remove_group(pod.socket, GROUP, lambda: diary.append({"again"}))

    assert [set()] == diary
    assert {"net0", "net1"} == pod.socket.gone


def test_a_deletion_that_the_kernel_refuses_is_told(host: Socket, pod: PodNetns):
    """The loopback cannot be deleted; that is said at once."""
    with pytest.raises(KernelError, match="delete link lo: Operation not supported"):
        link.remove(pod.socket, "lo")


def test_a_group_without_links_is_no_error(pod: PodNetns):
    """A DEL is repeatable."""
    (reply,) = pod.socket.request([link.delete_group(GROUP)])

    assert errno.ENODEV == reply.errno


def test_the_group_of_all_other_links_is_not_deleted(pod: PodNetns):
    """Group 0 is what every link has that nobody put into one."""
    pod.socket.request([link.create_bridge("other")])

    with pytest.raises(KernelError, match="delete links of group 0x0: Operation not permitted"):
        pod.socket.request([link.delete_group(0)])

    assert ["other"] == pod.links()


def test_a_link_is_looked_up_without_a_dump(host: Socket):
    """By name, by index, and None where there is none."""
    bridge = made_bridge(host, "br.100")

    found = link.find(host, "br.100"), link.find_index(host, bridge.index)

    assert [bridge.index, bridge.index] == [each.index for each in found if each is not None]
    assert link.find(host, "br") is None
    assert link.find_index(host, 12345) is None
    with pytest.raises(KernelError, match="look up master eth7: No such device"):
        link.require(host, "eth7", "master")


def test_a_pod_may_have_more_links_than_find_room_in_a_socket(pod: PodNetns):
    """The answers to 80 questions are all that the kernel keeps for who has not read the first one."""
    names = [f"net{each}" for each in range(200)]
    pod.socket.request([link.create_pair(*names[each : each + 2]) for each in range(0, len(names), 2)])

    found = link.indexes(pod.socket, names)

    assert names == list(found)
    assert {index: name for name, index in found.items()} == link.names(pod.socket, list(found.values()))


def test_only_what_is_given_is_changed(host: Socket):
    """A bridge that gets a MAC must not go down for it."""
    bridge = made_bridge(host)

    host.request([link.set_link(bridge.index, mac=MAC, mtu=1400)])
    host.request([link.set_link(bridge.index, is_promiscuous=True)])

    found = link.require(host, "br0", "bridge")
    assert (MAC, 1400, True, True) == (found.mac, found.mtu, found.is_up, found.is_promiscuous)


def test_a_link_is_renamed_and_put_down(host: Socket):
    """As the interface a delegate made under a temporary name."""
    bridge = made_bridge(host)

    host.request([link.set_link(bridge.index, is_up=False), link.set_link(bridge.index, name="br1")])

    assert link.find(host, "br0") is None
    found = link.require(host, "br1", "bridge")
    assert (bridge.index, False) == (found.index, found.is_up)


def test_a_port_is_put_into_a_bridge_and_released(host: Socket):
    """A master of 0 is none, None leaves it."""
    bridge = made_bridge(host)
    host.request([link.create_pair("port0", "port1")])
    index = link.require(host, "port0", "port").index
    masters: list[int] = []

    for master in (bridge.index, None, 0):
        host.request([link.set_link(index, master=master)])
        masters.append(link.require(host, "port0", "port").master)

    assert [bridge.index, bridge.index, 0] == masters


@pytest.mark.parametrize(("is_hairpin", "is_isolated"), [(True, None), (None, True), (True, True)])
def test_a_port_is_hairpin_or_isolated(host: Socket, is_hairpin: bool | None, is_isolated: bool | None):
    """What is not given stays as it was."""
    bridge = made_bridge(host)
    host.request([link.create_pair("port0", "port1")])
    index = link.require(host, "port0", "port").index
    host.request([link.set_link(index, master=bridge.index)])

    host.request([link.set_port(index, is_hairpin=is_hairpin, is_isolated=is_isolated)])

    info = decode(ifinfmsg, link.require(host, "port0", "port").message).get_attr("IFLA_LINKINFO")
    port = info.get_attr("IFLA_INFO_SLAVE_DATA")
    actual = bool(port.get_attr("IFLA_BRPORT_MODE")), bool(port.get_attr("IFLA_BRPORT_ISOLATED"))
    assert (bool(is_hairpin), bool(is_isolated)) == actual


def test_a_kind_no_kernel_has_skips_by_its_name(needs_kind: Callable[[str], None]):
    """What a machine cannot prove is said, not passed over."""
    with pytest.raises(pytest.skip.Exception, match=r"^kernel has no warp$"):
        needs_kind("warp")

    needs_kind("bridge")
    needs_kind("veth")


def by_codec(body: bytes) -> dict[str, object]:
    """The same link by the library's codec."""
    message = decode(ifinfmsg, body)
    info = message.get_attr("IFLA_LINKINFO")
    names = {"name": "IFNAME", "mac": "ADDRESS", "mtu": "MTU", "tx_queue_length": "TXQLEN"}
    names |= {"master": "MASTER", "parent": "LINK", "group": "GROUP", "promiscuity": "PROMISCUITY"}
    names |= {"alias": "IFALIAS", "operstate": "OPERSTATE"}
    found = {key: message.get_attr(f"IFLA_{name}") for key, name in names.items()}
    found["kind"] = info.get_attr("IFLA_INFO_KIND") if info else None
    found |= {"index": message["index"], "is_up": message["flags"] & 1 or None}
    return {key: value or None for key, value in found.items()}


def port_state_by_codec(body: bytes) -> int:
    """The same of a bridge's port; 0 for what is none."""
    info = decode(ifinfmsg, body).get_attr("IFLA_LINKINFO")
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None
    return port.get_attr("IFLA_BRPORT_STATE") if port else 0


def test_links_are_read_as_the_codec_reads_them(host: Socket, pod: PodNetns):
    """A bridge with its port, a macvlan with its master, a group, an alias, a loopback."""
    host.request([link.create_bridge("brc"), link.create_pair("up0", "sw0")])
    bridge, upper = (link.require(host, name, "link").index for name in ("brc", "up0"))
    host.request([link.create_veth("ve0", "net1", pod.fd, mac="02:00:5e:00:53:01", group=7, master=bridge)])
    host.request([link.create_macvlan("net2", Link(upper, "up0"), "vepa", pod_fd=pod.fd, group=9)])
    host.request([link.set_link(upper, is_up=True, is_promiscuous=True)])
    subprocess.run(["ip", "link", "set", "dev", "sw0", "alias", "the \u00e4ther"], check=True)
    assert "the \u00e4ther" == link.require(host, "sw0", "link").alias

    for socket in (host, pod.socket):
        found = link.dump(socket)
        assert len(found) > 1
        for each in found:
            expected = by_codec(each.message)
            assert expected == {key: getattr(each, key) or None for key in expected}, each.name
            assert port_state_by_codec(each.message) == link.port_state(each.message), each.name
