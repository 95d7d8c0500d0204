"""Virtual functions that a device plugin handed out, from the kubelet into the pod's networks."""

import json
from pathlib import Path

import pytest

from meta_cni.linux import link
from meta_cni.linux.netlink import Socket
from meta_cni.linux.vf import Vlan
from tests.kubelet import FakeKubelet
from tests.kubelet import pod as pod_of
from tests.netns.conftest import Node, PodNetns
from tests.netns.functions import Card

pytestmark = pytest.mark.igb

RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
POOL = "example.com/media"
EXAMPLE = Path(__file__).parents[2] / "examples" / "telco-sriov"


@pytest.fixture
def card(cards: list[str], host: Socket) -> Card:
    return Card(cards[0], host)


@pytest.fixture
def vfs(card: Card) -> list[str]:
    """Three of them, by their addresses."""
    return card.make(3)


def test_two_vfs_of_one_pool_are_in_one_pod_each_for_its_network(
    node: Node, fake_kubelet: FakeKubelet, card: Card, vfs: list[str], pod: PodNetns
):
    """In the kubelet's order, which is not that of their addresses; the status tells the devices."""
    before = card.states(vfs)
    node.settings["kubeletDir"] = str(fake_kubelet.directory)
    fake_kubelet.answer(pod_of(("upf", [(POOL, [vfs[2]])]), ("probe", [(POOL, [vfs[0]])])))
    for name, vlan in (("rx", 100), ("tx", 200)):
        config = {"cniVersion": "1.1.0", "name": name, "type": "sriov", "vlan": vlan}
        node.nad(name, {**config, "dataDir": str(node.root / "sriov")}, **{RESOURCE: POOL})
    node.annotate("rx,tx")

    node.add()

    inside = {each.name: each.device for each in link.dump(pod.socket) if each.device}
    assert {"net1": vfs[2], "net2": vfs[0]} == inside
    assert [Vlan(200), Vlan(0), Vlan(100)] == [card.settings(number).vlan for number in range(3)]
    infos = [each.get("device-info") for each in node.status()]
    assert [None, vfs[2], vfs[0]] == [each and each["pci"]["pci-address"] for each in infos]
    assert 0 == node.call("CHECK")[1]
    node.delete()
    assert before == card.states(vfs)


def test_the_example_is_attached_as_it_stands(
    node: Node, fake_kubelet: FakeKubelet, card: Card, vfs: list[str], pod: PodNetns, host: Socket
):
    """Four networks of a telco pod: bridge, ipvlan, VLAN and a VF with trust and a VLAN."""
    host.request([link.create_pair("uplink0", "switch0")])
    host.request([link.set_link(link.require(host, "uplink0", "link").index, is_up=True)])
    (given,) = json.loads((EXAMPLE / "10-meta-cni.conflist").read_text())["plugins"]
    node.settings |= {"delegates": given["delegates"], "store": {"directory": str(EXAMPLE)}}
    node.settings["kubeletDir"] = str(fake_kubelet.directory)
    fake_kubelet.answer({**pod_of(("upf", [(POOL, [vfs[1]])])), "name": "upf", "namespace": "core"})
    before, links = card.states(vfs), {each.name for each in link.dump(host)}

    node.add(CNI_ARGS="K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf")

    kinds = {each.name: each.kind for each in link.dump(pod.socket) if each.name != "lo"}
    assert {"eth0": "veth", "sig0": "ipvlan", "oam0": "vlan", "media0": ""} == kinds
    assert vfs[1] == link.require(pod.socket, "media0", "VF").device
    assert (Vlan(100, 5), True, False) == told(card, 1)
    networks = {"eth0": "10.244.1.", "sig0": "10.10.0.", "oam0": "10.42.0.", "media0": "10.100.0."}
    for name, prefix in networks.items():
        assert any(each.startswith(prefix) for each in pod.addresses(name)), name
    node.delete()
    assert (before, links) == (card.states(vfs), {each.name for each in link.dump(host)} - {"cni0"})


def told(card: Card, number: int) -> tuple[object, ...]:
    found = card.settings(number)
    return found.vlan, found.is_trusted, found.is_spoof_checked
