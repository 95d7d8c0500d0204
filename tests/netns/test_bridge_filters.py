"""ipMasq and macspoofchk of the built-in bridge: what passes and as whom, and that nothing is left."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.result import address_of, interface_address_of
from meta_cni.linux import link, masquerade, program, route, spoof, sysctl
from meta_cni.linux.masquerade import BACKENDS, Owner
from meta_cni.linux.netlink import Socket
from meta_cni.linux.spoof import Guarded
from tests.netns.chain import masquerading, ours, references, theirs
from tests.netns.conftest import Node, PodNetns, ranges
from tests.netns.traffic import SILENCE_S, Wire, is_reached, source_seen

pytestmark = pytest.mark.slow

Rules = Callable[[], list[str]]

each_backend = pytest.mark.parametrize("backend", BACKENDS)
DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
OTHER_MAC = "02:00:5e:00:53:99"
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


@pytest.fixture(autouse=True)
def not_yet_forwarding() -> Iterator[None]:
    """A node that forwards nothing, before and after."""
    for path in FORWARDING:
        sysctl.write(path, "0")
    yield
    for path in FORWARDING:
        sysctl.write(path, "0")


def config(directory: Path, **keys: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(directory), "ranges": ranges(80)}
    given = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": ipam}
    return {**given, **keys}


def add(pod: PodNetns, given: dict[str, Any], **variables: str) -> dict[str, Any]:
    answer, code = ours("bridge", pod)("ADD", given, **variables)
    assert code == 0, answer
    return answer


def masqueraded(rules: Rules) -> list[str]:
    return [line for line in rules() if "10.80." in line or "fd00:80:" in line]


def guards(rules: Rules) -> list[str]:
    return [line for line in rules() if "macspoofchk-" in line or "cni-br-iface" in line]


def reserved(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.rglob("*80*"))


@each_backend
def test_a_masqueraded_pod_is_seen_as_the_node_outside_and_as_itself_inside(
    packet_filters: Rules,
    pod: PodNetns,
    pods: Callable[[str], PodNetns],
    outside: PodNetns,
    tmp_path: Path,
    backend: str,
):
    """One that is not is seen as itself everywhere."""
    plain = pods("plain")
    given = config(tmp_path, isDefaultGateway=True, ipMasq=True, ipMasqBackend=backend)
    answer = add(pod, given)
    add(plain, config(tmp_path, isDefaultGateway=True), CNI_CONTAINERID="c2")

    assert "192.0.2.1" == source_seen(pod.fd, outside.fd, "192.0.2.2")
    assert "2001:db8::1" == source_seen(pod.fd, outside.fd, "2001:db8::2")
    assert "10.80.0.2" == source_seen(pod.fd, plain.fd, "10.80.0.3")
    assert "fd00:80::2" == source_seen(pod.fd, plain.fd, "fd00:80::3")
    assert "10.80.0.3" == source_seen(plain.fd, outside.fd, "192.0.2.2")
    assert ({}, 0) == ours("bridge", pod)("CHECK", {**given, "prevResult": answer})
    assert ({}, 0) == ours("bridge", pod)("DEL", given)
    assert [] == masqueraded(packet_filters)


@each_backend
def test_two_attachments_of_a_pod_to_one_network_stay_masqueraded_without_each_other(
    packet_filters: Rules, pod: PodNetns, outside: PodNetns, tmp_path: Path, backend: str
):
    """With iptables the reference's DEL of the one empties the chain of both."""
    keys = {"isGateway": True, "ipMasq": True, "ipMasqBackend": backend}
    given = config(tmp_path, cniVersion="1.0.0", **keys)
    calls = {each: theirs(each, pod) for each in masquerading("bridge", backend)}
    outcomes = {}
    for name, call in {**calls, "ours": ours("bridge", pod)}.items():
        answer, code = call("ADD", given, CNI_IFNAME="net1")
        assert code == 0, answer
        own = answer["ips"][0]["address"].split("/")[0]
        assert call("ADD", given)[1] == 0

        codes = [call("DEL", given)[1] for _ in range(2)]

        index = link.require(pod.socket, "net1", "veth").index
        to_outside = route.Route(route.ANYWHERE[4], address_of("10.80.0.1"), index)
        pod.socket.request([route.add(to_outside)])
        outcomes[name] = (codes, source_seen(pod.fd, outside.fd, "192.0.2.2", bind=own) == "192.0.2.1")
        for interface in ("net1", "eth0"):
            call("DEL", given, CNI_IFNAME=interface)
            masquerade.teardown(Owner("net", "c1", interface))

    assert ([0, 0], True) == outcomes.pop("ours")
    assert all((backend == "nftables") == kept for _, kept in outcomes.values())
    assert [] == masqueraded(packet_filters)


@each_backend
@pytest.mark.parametrize("gone", ["link", "namespace", "both"])
def test_no_rule_is_left_when_the_link_went_first(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path, backend: str, gone: str
):
    """The reference leaves rules in the same case, but for those it finds by their comment."""
    variables = {"CNI_NETNS": ""} if gone != "link" else {}
    calls = {each: theirs(each, pod) for each in masquerading("bridge", backend)}
    left = {}
    for name, call in {**calls, "ours": ours("bridge", pod)}.items():
        directory = tmp_path / str(len(left))
        keys = {"isGateway": True, "ipMasq": True, "ipMasqBackend": backend, "macspoofchk": True}
        given = config(directory, cniVersion="1.0.0", **keys)
        answer, code = call("ADD", given)
        assert code == 0, answer
        assert masqueraded(packet_filters)
        assert guards(packet_filters)
        if gone != "namespace":
            pod.socket.request([link.delete("eth0")])
        assert ({}, 0) == call("DEL", given, **variables)
        left[name] = (masqueraded(packet_filters), guards(packet_filters), reserved(directory))
        pod.socket.request([link.delete("eth0")])
        masquerade.teardown(Owner("net", "c1", "eth0"))
        spoof.teardown(Guarded("net", "c1", "eth0"))

    assert ([], [], []) == left.pop("ours")
    by_comment = gone == "link" and backend == "nftables"
    assert all(by_comment != bool(rules) for rules, _, _ in left.values())
    assert all((gone != "link") == bool(found) for _, found, _ in left.values())


def test_a_pod_of_ours_whose_namespace_is_gone_leaves_no_rule(packet_filters: Rules, node: Node):
    """Two networks, each with its backend: links are deleted together, rules by each delegate."""
    node.settings["delegates"] = [node.bridge("default", 80, isGateway=True, ipMasq=True, macspoofchk=True)]
    node.nad("one", {**node.bridge("", 81), "isGateway": True, "ipMasq": True, "ipMasqBackend": "nftables"})
    node.annotate("one")
    node.add()
    assert 2 == len([line for line in packet_filters() if "masquerade comment" in line])
    assert masqueraded(packet_filters)
    assert guards(packet_filters)

    node.delete(CNI_NETNS="")

    assert [] == [*masqueraded(packet_filters), *guards(packet_filters)]
    assert not [line for line in packet_filters() if "10.81." in line]


def test_layer_2_has_nothing_to_masquerade(packet_filters: Rules, pod: PodNetns, host: Socket):
    """As in the reference."""
    given = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "ipMasq": True}

    add(pod, given)

    assert [] == packet_filters()
    assert ({}, 0) == ours("bridge", pod)("DEL", given)


def test_frames_with_another_mac_are_dropped_and_others_pass(
    packet_filters: Rules, pod: PodNetns, pods: Callable[[str], PodNetns], host: Socket, tmp_path: Path
):
    """Only those of the pod that is checked; after its DEL the same name is unchecked again."""
    other = pods("other")
    checked = config(tmp_path, macspoofchk=True)
    answer = add(pod, checked)
    add(other, config(tmp_path), CNI_CONTAINERID="c2")
    mac = answer["interfaces"][2]["mac"]

    def passes(sender: PodNetns, receiver: PodNetns, source: str, payload: bytes, wait_s: float) -> bool:
        with Wire(receiver.fd, "eth0") as ear, Wire(sender.fd, "eth0") as mouth:
            mouth.send(payload, source=source)
            return ear.receive(payload, wait_s=wait_s) is not None

    assert passes(pod, other, mac, b"true", 2)
    assert not passes(pod, other, OTHER_MAC, b"false", SILENCE_S)
    assert passes(other, pod, OTHER_MAC, b"unchecked", 2)
    assert is_reached(pod.fd, other.fd, "10.80.0.3")
    assert ({}, 0) == ours("bridge", pod)("CHECK", {**checked, "prevResult": answer})
    assert ({}, 0) == ours("bridge", pod)("DEL", checked)
    assert [] == guards(packet_filters)
    add(pod, config(tmp_path))
    assert passes(pod, other, OTHER_MAC, b"no longer checked", 2)


def test_the_mac_that_was_asked_for_is_the_one_that_passes(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path
):
    """Not the one that the kernel would have chosen."""
    add(pod, config(tmp_path, macspoofchk=True, runtimeConfig={"mac": "02:00:5E:00:53:07"}))

    assert ["ether saddr 02:00:5e:00:53:07 return"] == [
        line.split(" comment")[0] for line in guards(packet_filters) if "saddr" in line
    ]


@pytest.mark.slow
def test_each_can_undo_the_others_mac_check(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path
):
    """A node whose plugins are exchanged while pods run."""
    given = config(tmp_path, macspoofchk=True, cniVersion="1.0.0")
    for binary in references("bridge"):
        for first, other in (
            (ours("bridge", pod), theirs(binary, pod)),
            (theirs(binary, pod), ours("bridge", pod)),
        ):
            answer, code = first("ADD", given)
            assert code == 0, answer
            assert guards(packet_filters)
            assert ({}, 0) == other("CHECK", {**given, "prevResult": answer})
            assert ({}, 0) == other("DEL", given)
            assert [] == [*guards(packet_filters), *pod.links(), *reserved(tmp_path)]


def test_add_again_leaves_one_rule_that_leads_to_the_check(packet_filters: Rules):
    """An ADD whose DEL never came; the reference adds another rule for a port that is gone."""
    guarded = Guarded("net", "c1", "eth0")
    spoof.setup(guarded, "vethold", OTHER_MAC)

    spoof.setup(guarded, "vethnew", OTHER_MAC)

    assert ['iifname "vethnew"'] == [
        line.split(" jump")[0] for line in guards(packet_filters) if "iifname" in line
    ]


@each_backend
def test_gc_removes_what_pods_had_that_are_not_listed(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path, backend: str
):
    """A listed pod, another interface of it, and another network's pods keep theirs."""
    given = config(tmp_path, isGateway=True, ipMasq=True, ipMasqBackend=backend, macspoofchk=True)
    for whose in (("net", "c2", "eth0"), ("net", "c2", "net1"), ("other", "c3", "eth0")):
        masquerade.setup(backend, Owner(*whose), [interface_address_of("10.80.0.9/24")])
        spoof.setup(Guarded(*whose), "veth9", OTHER_MAC)
    before = packet_filters()
    add(pod, given)
    assert before != packet_filters()

    valid = [{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]
    assert ({}, 0) == ours("bridge", pod)("GC", {**given, "cni.dev/valid-attachments": valid})

    assert before == packet_filters()
    assert [] == reserved(tmp_path)
    assert ({}, 0) == ours("bridge", pod)("GC", {**given, "cni.dev/valid-attachments": []})
    assert not [line for line in packet_filters() if "c2" in line or "net: net" in line]
    assert [line for line in packet_filters() if "c3" in line]


def test_gc_without_packet_filters_runs_no_program(
    pod: PodNetns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A node may have none at all."""
    monkeypatch.setattr(program, "run", lambda *_: pytest.fail("a program was run"))

    given = config(tmp_path, **{"cni.dev/valid-attachments": []})
    assert ({}, 0) == ours("bridge", pod)("GC", given)


@pytest.mark.usefixtures("packet_filters")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"macspoofchk": True}, "set up macspoofchk: nft is missing"),
        ({"ipMasq": True}, "set up ipMasq: iptables or nft is missing"),
    ],
)
def test_a_missing_program_fails_an_add_that_leaves_nothing_and_no_del(
    pod: PodNetns,
    host: Socket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    keys: dict[str, Any],
    words: str,
):
    """Not even the bridge is made."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    given = config(tmp_path / "ipam", **keys)
    call = ours("bridge", pod)

    answer, code = call("ADD", given)

    assert (1, 108) == (code, answer["code"])
    assert words in answer["msg"]
    assert [] == [*pod.links(), *reserved(tmp_path / "ipam")]
    assert link.find(host, "br0") is None
    assert ({}, 0) == call("DEL", given)
    answer, code = call("STATUS", given)
    assert (1, 50) == (code, answer["code"])
    assert words in answer["msg"]
    assert ({}, 0) == call("STATUS", config(tmp_path / "ipam"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ipMasq": "yes"}, 'ipMasq "yes": expected true or false'),
        ({"macspoofchk": 1}, "macspoofchk 1: expected true or false"),
        ({"ipMasq": True, "ipMasqBackend": "pf"}, "expected one of iptables, nftables"),
    ],
)
def test_what_is_wrong_is_named(pod: PodNetns, host: Socket, tmp_path: Path, given: Any, words: str):
    """With what would be right, before there is a bridge."""
    answer, code = ours("bridge", pod)("ADD", config(tmp_path, **given))

    assert (1, 7) == (code, answer["code"])
    assert words in answer["msg"]
    assert link.find(host, "br0") is None


def test_a_failing_add_leaves_no_rule(
    packet_filters: Rules, pod: PodNetns, host: Socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The masquerade, the last thing that can fail, takes all with it."""
    monkeypatch.setattr(masquerade, "FRAME", "frobnicate\n")
    given = config(tmp_path, isGateway=True, ipMasq=True, ipMasqBackend="nftables", macspoofchk=True)

    answer, code = ours("bridge", pod)("ADD", given)

    assert (1, 108) == (code, answer["code"])
    assert [] == [*pod.links(), *reserved(tmp_path), *masqueraded(packet_filters), *guards(packet_filters)]


def test_check_finds_rules_that_somebody_took_away(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path
):
    """A firewall that was loaded anew."""
    given = config(tmp_path, isGateway=True, ipMasq=True, macspoofchk=True)
    asked = {**given, "prevResult": add(pod, given)}
    call = ours("bridge", pod)
    assert ({}, 0) == call("CHECK", asked)

    masquerade.teardown(Owner("net", "c1", "eth0"))
    assert "not all of its addresses are masqueraded" in call("CHECK", asked)[0]["msg"]
    masquerade.setup("nftables", Owner("net", "c1", "eth0"), [interface_address_of("10.80.0.2/24")])
    assert "not all of its addresses are masqueraded" in call("CHECK", asked)[0]["msg"]
    both = [interface_address_of(each) for each in ("10.80.0.2/24", "fd00:80::2/64")]
    masquerade.setup("nftables", Owner("net", "c1", "eth0"), both)
    assert ({}, 0) == call("CHECK", asked)
    spoof.teardown(Guarded("net", "c1", "eth0"))
    assert "takes frames from other addresses" in call("CHECK", asked)[0]["msg"]
    spoof.setup(Guarded("net", "c1", "eth0"), asked["prevResult"]["interfaces"][1]["name"], OTHER_MAC)
    assert "takes frames from other addresses" in call("CHECK", asked)[0]["msg"]
