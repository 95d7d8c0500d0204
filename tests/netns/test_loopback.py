"""The built-in loopback."""

from ipaddress import ip_interface
from typing import Any

import pytest

from meta_cni.linux import address, link
from tests.netns.chain import ours, references, theirs
from tests.netns.conftest import PodNetns


def config(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "loopback", **keys}


def take_down(pod: PodNetns) -> None:
    pod.socket.request([link.set_link(link.require(pod.socket, "lo", "loopback").index, is_up=False)])


def test_it_is_brought_up_whatever_the_interface_is_called(pod: PodNetns):
    """CNI_IFNAME says nothing to it; the answer is the reference's."""
    (binary, *_) = references("loopback")
    answers = []
    for call in (theirs(binary, pod), ours("loopback", pod)):
        take_down(pod)
        answers.append(call("ADD", config(), CNI_IFNAME="eth7"))
        assert link.require(pod.socket, "lo", "loopback").is_up

    assert answers[0] == ({**answers[1][0], "dns": {}}, 0)
    assert 0 == answers[1][1]


def test_what_was_answered_before_is_passed_on(pod: PodNetns):
    """It stands in lists."""
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path}], "ips": []}

    answer, code = ours("loopback", pod)("ADD", config(prevResult=previous))

    assert code == 0, answer
    assert ["eth0"] == [each["name"] for each in answer["interfaces"]]


def test_another_address_on_it_is_an_error(pod: PodNetns):
    """Somebody uses it for something else."""
    index = link.require(pod.socket, "lo", "loopback").index
    pod.socket.request([address.add(index, ip_interface("192.0.2.1/32"))])

    answer, code = ours("loopback", pod)("ADD", config())

    assert (1, 8) == (code, answer["code"])
    assert "loopback interface found with non-loopback address 192.0.2.1/32" in answer["msg"]


def test_check_tells_that_it_is_down(pod: PodNetns):
    """Programs in the pod talk to themselves through it."""
    answer, _ = ours("loopback", pod)("ADD", config())
    asked = config(prevResult=answer)
    assert ({}, 0) == ours("loopback", pod)("CHECK", asked)

    take_down(pod)

    assert "loopback interface is down" in ours("loopback", pod)("CHECK", asked)[0]["msg"]


@pytest.mark.parametrize("path", ["", "/run/netns/gone"])
def test_del_takes_it_down_and_needs_no_namespace(pod: PodNetns, path: str):
    """And may be repeated."""
    assert ({}, 0) == ours("loopback", pod)("DEL", config())
    assert not link.require(pod.socket, "lo", "loopback").is_up

    assert [({}, 0), ({}, 0)] == [
        ours("loopback", pod)("DEL", config()),
        ours("loopback", pod)("DEL", config(), CNI_NETNS=path),
    ]
