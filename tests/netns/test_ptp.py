"""ptp on the kernel: who reaches whom and as whom, what is refused, and what is left of it."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_cni import standalone
from meta_cni.cni.errors import KernelError
from meta_cni.cni.result import interface_address_of
from meta_cni.linux import address, link, masquerade, netns, program, route, sysctl
from meta_cni.linux.masquerade import BACKENDS, Owner
from meta_cni.linux.netlink import Socket
from tests.netns.chain import environment, masquerading, ours, references, theirs
from tests.netns.conftest import PodNetns, ranges
from tests.netns.traffic import is_reached, is_refused, source_seen

pytestmark = pytest.mark.guest

Rules = Callable[[], list[str]]

each_backend = pytest.mark.parametrize("backend", BACKENDS)
DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


@pytest.fixture(autouse=True)
def not_yet_forwarding() -> Iterator[None]:
    """A node that forwards nothing, before and after."""
    paths = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
    for path in paths:
        sysctl.write(path, "0")
    yield
    for path in paths:
        sysctl.write(path, "0")


@pytest.fixture
def second() -> Iterator[PodNetns]:
    """Another pod."""
    made = PodNetns("second")
    yield made
    made.close()


def config(directory: Path, **keys: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(directory), "ranges": ranges(70), "routes": DEFAULTS}
    return {"cniVersion": "1.1.0", "name": "net", "type": "ptp", "ipam": ipam, **keys}


def static(*addresses: dict[str, str], **more: Any) -> dict[str, Any]:
    ipam = {"type": "static", "addresses": list(addresses), **more}
    return {"cniVersion": "1.1.0", "name": "net", "type": "ptp", "ipam": ipam}


def reserved(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.rglob("*70*"))


def masqueraded(rules: Rules) -> list[str]:
    return [line for line in rules() if "10.70." in line or "fd00:70:" in line]


def test_a_pod_reaches_the_node_and_another_pod_by_it(
    pod: PodNetns, second: PodNetns, host: Socket, node_fd: int, tmp_path: Path
):
    """Each has the gateway for itself; the node forwards between them."""
    for each, container in ((pod, "c1"), (second, "c2")):
        answer, code = ours("ptp", each, CNI_CONTAINERID=container)("ADD", config(tmp_path))
        assert code == 0, answer

    for gateway, own, other in (
        ("10.70.0.1", "10.70.0.2", "10.70.0.3"),
        ("fd00:70::1", "fd00:70::2", "fd00:70::3"),
    ):
        assert own == source_seen(pod.fd, node_fd, gateway)
        assert own == source_seen(pod.fd, second.fd, other)
        assert is_reached(node_fd, pod.fd, own)


def test_without_masquerade_a_pod_is_seen_as_itself(
    pod: PodNetns, host: Socket, outside: PodNetns, tmp_path: Path
):
    """And can be reached from outside."""
    assert ours("ptp", pod)("ADD", config(tmp_path))[1] == 0

    assert "10.70.0.2" == source_seen(pod.fd, outside.fd, "192.0.2.2")
    assert "fd00:70::2" == source_seen(pod.fd, outside.fd, "2001:db8::2")
    assert is_reached(outside.fd, pod.fd, "10.70.0.2")


@each_backend
def test_with_masquerade_a_pod_is_seen_as_the_node(
    packet_filters: Rules,
    pod: PodNetns,
    second: PodNetns,
    host: Socket,
    outside: PodNetns,
    tmp_path: Path,
    backend: str,
):
    """Outside of its network; within it, it is itself. When it is gone, another one is not masqueraded."""
    given = config(tmp_path, ipMasq=True, ipMasqBackend=backend)
    plain = config(tmp_path)
    call = ours("ptp", pod)
    answer, code = call("ADD", given)
    assert code == 0, answer
    assert ours("ptp", second, CNI_CONTAINERID="c2")("ADD", plain)[1] == 0

    assert "192.0.2.1" == source_seen(pod.fd, outside.fd, "192.0.2.2")
    assert "2001:db8::1" == source_seen(pod.fd, outside.fd, "2001:db8::2")
    assert "10.70.0.2" == source_seen(pod.fd, second.fd, "10.70.0.3")
    assert "fd00:70::2" == source_seen(pod.fd, second.fd, "fd00:70::3")
    assert "10.70.0.3" == source_seen(second.fd, outside.fd, "192.0.2.2")
    assert ({}, 0) == call("CHECK", {**given, "prevResult": answer})
    assert ({}, 0) == call("DEL", given)
    assert [] == masqueraded(packet_filters)
    assert is_refused(second.fd, pod.fd, "10.70.0.2")


@each_backend
@pytest.mark.parametrize("gone", ["link", pytest.param("namespace", marks=pytest.mark.native), "both"])
def test_del_removes_the_masquerade_when_the_link_went_first(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path, backend: str, gone: str
):
    """The reference asks the link for its addresses, and leaves the rules when there is none."""
    variables = {"CNI_NETNS": ""} if gone != "link" else {}
    netns.run_in(pod.fd, lambda: sysctl.write("net/ipv6/conf/default/accept_dad", "0"))  # it waits for it
    calls = {each: theirs(each, pod) for each in masquerading("ptp", backend)}
    left = {}
    for name, call in {**calls, "ours": ours("ptp", pod)}.items():
        directory = tmp_path / str(len(left))
        given = {**config(directory, ipMasq=True, ipMasqBackend=backend), "cniVersion": "1.0.0"}
        answer, code = call("ADD", given)
        assert code == 0, answer
        assert masqueraded(packet_filters)
        if gone != "namespace":
            pod.socket.request([link.delete("eth0")])
        assert ({}, 0) == call("DEL", given, **variables)
        left[name] = (masqueraded(packet_filters), reserved(directory))
        pod.socket.request([link.delete("eth0")])
        masquerade.teardown(Owner("net", "c1", "eth0"))

    assert ([], []) == left.pop("ours")
    assert all(rules for rules, _ in left.values())


@pytest.mark.slow
@each_backend
def test_each_can_undo_the_others_add(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path, backend: str
):
    """A node whose plugins are exchanged while pods run."""
    references("ptp")
    for binary in masquerading("ptp", backend):
        given = {**config(tmp_path, ipMasq=True, ipMasqBackend=backend), "cniVersion": "1.0.0"}
        for first, other in (
            (ours("ptp", pod), theirs(binary, pod)),
            (theirs(binary, pod), ours("ptp", pod)),
        ):
            answer, code = first("ADD", given)
            assert code == 0, answer
            assert ({}, 0) == other("CHECK", {**given, "prevResult": answer})
            assert ({}, 0) == other("DEL", given)
            assert [] == masqueraded(packet_filters)
            assert [] == [*pod.links(), *reserved(tmp_path)]


@each_backend
def test_gc_removes_rules_of_pods_that_are_not_listed(
    packet_filters: Rules, pod: PodNetns, second: PodNetns, host: Socket, tmp_path: Path, backend: str
):
    """And their addresses; a listed pod, and one of another network, keep theirs."""
    given = config(tmp_path, ipMasq=True, ipMasqBackend=backend)
    masquerade.setup(backend, Owner("other", "c3", "eth0"), [interface_address_of("10.70.0.9/24")])
    assert ours("ptp", second, CNI_CONTAINERID="c2")("ADD", given)[1] == 0
    before = packet_filters()
    assert ours("ptp", pod)("ADD", given)[1] == 0

    valid = [{"containerID": "c2", "ifname": "eth0"}]
    assert ({}, 0) == ours("ptp", pod)("GC", {**given, "cni.dev/valid-attachments": valid})

    assert before == packet_filters()
    assert ["10.70.0.2", "fd00:70::2"] == reserved(tmp_path)


def test_gc_without_masquerade_looks_at_no_rule(
    pod: PodNetns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A node may have no packet filter at all."""
    monkeypatch.setattr(program, "run", lambda *_: pytest.fail("a program was run"))

    assert ({}, 0) == ours("ptp", pod)("GC", config(tmp_path, **{"cni.dev/valid-attachments": []}))


def only(path: Path, *names: str) -> str:
    path.mkdir()
    for name in names:
        (path / name).symlink_to(program.find(name))
    return str(path)


@pytest.mark.parametrize(
    ("names", "keys", "words"),
    [
        ((), {}, "iptables or nft is missing"),
        (("nft",), {"ipMasqBackend": "iptables"}, "iptables is missing"),
        (("iptables",), {"ipMasqBackend": "nftables"}, "nft is missing"),
        (("iptables",), {}, "ip6tables is missing"),
    ],
)
@pytest.mark.usefixtures("packet_filters", "host")
def test_a_missing_program_fails_an_add_that_leaves_nothing_and_no_del(
    pod: PodNetns,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: tuple[str, ...],
    keys: dict[str, Any],
    words: str,
):
    """It is named, before there is a link."""
    monkeypatch.setenv("PATH", only(tmp_path / "bin", *names))
    given = config(tmp_path / "ipam", ipMasq=True, **keys)
    call = ours("ptp", pod)

    answer, code = call("ADD", given)

    assert (1, 108) == (code, answer["code"])
    assert words in answer["msg"]
    assert [] == [*pod.links(), *reserved(tmp_path / "ipam")]
    assert "0" == sysctl.read("net/ipv4/ip_forward")
    assert ({}, 0) == call("DEL", given)
    if "ip6" not in words:
        answer, code = call("STATUS", given)
        assert (1, 50) == (code, answer["code"])
        assert words in answer["msg"]
    assert ({}, 0) == call("STATUS", config(tmp_path / "ipam"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ipam": None}, "ipam is missing"),
        ({"ipam": {}}, "ipam is missing"),
        ({"mtu": "big"}, 'mtu "big": expected a whole number'),
        ({"mtu": 65536}, "mtu 65536: expected a whole number from 0 to 65535"),
        ({"ipMasq": "yes"}, 'ipMasq "yes": expected true or false'),
        ({"ipMasqBackend": 5}, "ipMasqBackend 5: expected a string"),
        ({"ipMasq": True, "ipMasqBackend": "pf"}, "expected one of iptables, nftables"),
        ({"dns": {"nameservers": "x"}}, 'nameservers "x": expected a list of strings'),
        ({"vlan": 5}, "vlan 5 is not built in"),
    ],
)
def test_what_is_wrong_is_named(pod: PodNetns, host: Socket, tmp_path: Path, given: Any, words: str):
    """With what would be right, and nothing is left."""
    answer, code = ours("ptp", pod)("ADD", {**config(tmp_path), **given})

    assert (1, 7) == (code, answer["code"])
    assert words in answer["msg"]
    assert [] == [*pod.links(), *reserved(tmp_path)]


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ([], "IPAM plugin returned missing IP config"),
        ([{"address": "10.71.0.2/24"}], "address 10.71.0.2/24 has no gateway"),
    ],
)
def test_an_ipam_without_address_or_gateway_is_refused(
    pod: PodNetns, host: Socket, addresses: list[dict[str, str]], words: str
):
    """There would be no way to the pod."""
    answer, code = ours("ptp", pod)("ADD", static(*addresses))

    assert (1, 7) == (code, answer["code"])
    assert words in answer["msg"]
    assert [] == pod.links()


def test_an_address_needs_no_network_beside_it_and_two_may_share_a_gateway(
    pod: PodNetns, host: Socket, node_fd: int
):
    """The reference fails for both."""
    given = static(
        {"address": "10.71.0.2/32", "gateway": "10.71.0.1"},
        {"address": "10.72.0.2/24", "gateway": "10.71.0.1"},
        {"address": "10.72.0.3/24", "gateway": "10.71.0.1"},
        {"address": "fd00:71::2/128", "gateway": "fd00:71::1"},
    )

    answer, code = ours("ptp", pod)("ADD", given)

    assert code == 0, answer
    for own in ("10.71.0.2", "10.72.0.2", "10.72.0.3", "fd00:71::2"):
        assert is_reached(node_fd, pod.fd, own)
    assert ({}, 0) == ours("ptp", pod)("CHECK", {**given, "prevResult": answer})


@pytest.mark.parametrize(
    "more",
    [{"routes": [{"dst": "10.9.0.0/16", "gw": "198.51.100.1"}]}, {}],
)
def test_a_failing_add_leaves_nothing(
    packet_filters: Rules,
    pod: PodNetns,
    host: Socket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    more: Any,
):
    """A route that cannot be, a rule that cannot be."""
    if not more:
        monkeypatch.setattr(masquerade, "FRAME", "frobnicate\n")
    given = config(tmp_path, ipMasq=True, ipMasqBackend="nftables")
    given["ipam"] = {**given["ipam"], **more}
    before = {each.name for each in link.dump(host)}

    answer, code = ours("ptp", pod)("ADD", given)

    assert (1, 100 if more else 108) == (code, answer["code"])
    assert [] == [*pod.links(), *reserved(tmp_path), *masqueraded(packet_filters)]
    assert before == {each.name for each in link.dump(host)}


def test_an_address_that_is_routed_elsewhere_is_refused(pod: PodNetns, host: Socket, outside: PodNetns):
    """With the reference the ADD succeeds, and the pod is unreachable."""
    index = link.require(host, "up0", "link").index
    wanted = interface_address_of("10.71.0.2/32").network
    host.request([route.add(route.Route(wanted, interface_index=index))])

    answer, code = ours("ptp", pod)("ADD", static({"address": "10.71.0.2/24", "gateway": "10.71.0.1"}))

    assert (1, "add route 10.71.0.2/32: File exists") == (code, answer["msg"])
    assert [] == pod.links()


def test_check_tells_what_is_missing(packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path):
    """Pod's side, node's side and rules."""
    call = ours("ptp", pod)
    given = config(tmp_path, ipMasq=True)
    answer, code = call("ADD", given)
    assert code == 0, answer
    asked = {**given, "prevResult": answer}
    index = link.require(pod.socket, "eth0", "veth").parent

    def message() -> str:
        told, code = call("CHECK", asked)
        return str(told["msg"]) if code else ""

    assert message() == ""
    masquerade.teardown(Owner("net", "c1", "eth0"))
    assert "not all of its addresses are masqueraded" in message()
    to_pod = next(each for each in route.dump(host) if each.interface_index == index)
    host.request([route.delete(to_pod)])
    assert "the node has no route to 10.70.0.2 through it" in message()
    inside = link.require(pod.socket, "eth0", "veth").index
    pod.socket.request([address.delete(inside, interface_address_of("10.70.0.2/24"))])
    assert "address 10.70.0.2/24 is not there" in message()
    pod.socket.request([link.delete("eth0")])
    assert "there is no such interface" in message()
    pod.socket.request([link.create_bridge("eth0")])
    pod.socket.request([link.set_link(link.require(pod.socket, "eth0", "link").index, is_up=True)])
    bare = {**asked, "prevResult": {"cniVersion": "1.1.0", "interfaces": [], "ips": []}}
    assert "it is bridge: expected veth" in call("CHECK", bare)[0]["msg"]


def test_del_tells_of_rules_it_cannot_remove_when_all_else_is_done(
    packet_filters: Rules, pod: PodNetns, host: Socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The next DEL removes them."""
    given = config(tmp_path, ipMasq=True)
    call = ours("ptp", pod)
    assert call("ADD", given)[1] == 0
    run = program.run

    def refuse(command: list[str], text: str = "") -> str:
        return run(command, "frobnicate\n" if text else "")

    monkeypatch.setattr(program, "run", refuse)
    answer, code = call("DEL", given)
    monkeypatch.undo()

    assert (1, 108) == (code, answer["code"])
    assert [] == [*pod.links(), *reserved(tmp_path)]
    assert ({}, 0) == call("DEL", given)
    assert [] == masqueraded(packet_filters)


def test_del_tells_of_addresses_it_cannot_release(pod: PodNetns, host: Socket, tmp_path: Path):
    """The link is gone all the same."""
    given = config(tmp_path)
    call = ours("ptp", pod)
    assert call("ADD", given)[1] == 0

    answer, code = call("DEL", {**given, "ipam": {"type": "host-local", "ranges": "none"}})

    assert (1, 7) == (code, answer["code"])
    assert [] == pod.links()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [({"mtu": "big"}, 0), ({"ipMasqBackend": "pf"}, 0), ({"ipMasqBackend": 5}, 0), ({"ipMasq": "yes"}, 1)],
)
def test_del_removes_what_it_can_though_the_configuration_is_wrong_by_now(
    packet_filters: Rules, pod: PodNetns, host: Socket, tmp_path: Path, wrong: dict[str, Any], expected: int
):
    """Where ipMasq itself cannot be read, it tells so after all else is done."""
    given = config(tmp_path, ipMasq=True)
    call = ours("ptp", pod)
    assert call("ADD", given)[1] == 0

    answer, code = call("DEL", {**given, **wrong})

    assert (expected, expected == 1) == (code, "ipMasq" in answer.get("msg", ""))
    assert [] == [*pod.links(), *reserved(tmp_path)]
    assert (expected == 1) == bool(masqueraded(packet_filters))


def test_a_node_without_ipv6_is_no_failure(
    pod: PodNetns, host: Socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """There is no accept_ra to be set then."""

    set_new = sysctl.set_new

    def without(path: str, value: str) -> None:
        if "ipv6" in path:
            raise KernelError(f"write sysctl {path} {value}", errno.ENOENT)
        set_new(path, value)

    monkeypatch.setattr(sysctl, "set_new", without)

    assert ours("ptp", pod)("ADD", static({"address": "10.71.0.2/24", "gateway": "10.71.0.1"}))[1] == 0


@pytest.mark.parametrize(
    ("address", "gateway", "expected"),
    [("10.71.0.2/24", "10.71.0.1", "1"), ("fd00:71::2/64", "fd00:71::1", "0")],
)
def test_duplicates_of_the_node_s_own_address_are_looked_for_unless_the_pod_needs_it_at_once(
    pod: PodNetns, host: Socket, address: str, gateway: str, expected: str
):
    """By its link-local address it asks for the pod's; a router's word it takes in no case."""
    sysctl.write("net/ipv6/conf/default/accept_dad", "1")

    answer, code = ours("ptp", pod)("ADD", static({"address": address, "gateway": gateway}))

    assert code == 0, answer
    parameters = f"net/ipv6/conf/{answer['interfaces'][0]['name']}"
    assert [expected, "0"] == [sysctl.read(f"{parameters}/{each}") for each in ("accept_dad", "accept_ra")]


def test_version_is_answered_and_the_pair_is_as_asked_for(pod: PodNetns, host: Socket, tmp_path: Path):
    """MTU at both ends, one queue, the pod's end named."""
    assert b"1.1.0" in standalone.serve("ptp", environment("VERSION", pod, dict(os.environ)), b"")[0]

    answer, code = ours("ptp", pod)("ADD", config(tmp_path, mtu=1400))

    assert code == 0, answer
    found = link.require(pod.socket, "eth0", "veth")
    node_end = link.require(host, answer["interfaces"][0]["name"], "veth")
    assert (1400, 1400, found.index) == (found.mtu, node_end.mtu, node_end.parent)
    assert [node_end.mac, found.mac] == [each["mac"] for each in answer["interfaces"]]
