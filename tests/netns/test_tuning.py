"""tuning on the kernel, beside the reference: what is set, what is put back, what is refused."""

import errno
import json
import re
import socket as sockets
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from delegates import tuning
from meta_cni.cni.config import parse_plugin
from meta_cni.linux import link, netns, sysctl
from meta_cni.linux.netlink import Socket
from tests.netns.chain import MAC, binaries, ours, references, theirs, unwire, wire
from tests.netns.conftest import PodNetns

OTHER = "02:00:5e:00:53:02"
ARP_FILTER = "net/ipv4/conf/eth0/arp_filter"


def config(directory: Path, previous: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    given = {"cniVersion": "1.0.0", "name": "net", "type": "tuning", "dataDir": str(directory), **more}
    return {**given, "prevResult": previous} if previous is not None else given


def kernel(pod: PodNetns) -> dict[str, Any]:
    found = link.require(pod.socket, "eth0", "link")
    return {
        "mac": found.mac,
        "mtu": found.mtu,
        "promisc": found.is_promiscuous,
        "allmulti": found.is_allmulti,
        "txQLen": found.tx_queue_length,
        "arp_filter": parameter(pod, ARP_FILTER),
    }


def parameter(pod: PodNetns, path: str) -> str:
    return netns.run_in(pod.fd, lambda: sysctl.read(path))


BEFORE = {"mac": MAC, "mtu": 1500, "promisc": False, "allmulti": False, "txQLen": 1000, "arp_filter": "0"}


def args(**cni: Any) -> dict[str, Any]:
    return {"args": {"cni": cni}}


CASES: list[dict[str, Any]] = [
    {},
    {"mac": OTHER},
    {"mtu": 1400},
    {"promisc": True},
    {"allmulti": True},
    {"txQLen": 500},
    {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
    {"sysctl": {"net/ipv4/conf/eth0/arp_filter": "1"}},
    {"mac": OTHER, "mtu": 1300, "promisc": True, "allmulti": True, "txQLen": 7, "sysctl": {}},
    {"mac": "02:00:5e:00:53:09", "CNI_ARGS": f"IgnoreUnknown=1;MAC={OTHER}"},
    {"CNI_ARGS": "MAC=02:00:5e:00:53:09", "runtimeConfig": {"mac": OTHER}},
    {"runtimeConfig": {"mac": "02:00:5e:00:53:09"}, **args(mac=OTHER)},
    {"promisc": True, "mtu": 1400, **args(promisc=False, mtu=1200, allmulti=True, txQLen=3)},
    {
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "2"},
        **args(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}),
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("keys", CASES)
def test_same_input_has_the_same_outcome_as_the_reference(
    keys: dict[str, Any], tmp_path: Path, pod: PodNetns, host: Socket
):
    """Result, kernel, file, CHECK and DEL: every key and every source."""
    variables = {"CNI_ARGS": keys["CNI_ARGS"]} if "CNI_ARGS" in keys else {}
    keys = {key: value for key, value in keys.items() if key != "CNI_ARGS"}
    calls = {binary: theirs(binary, pod, **variables) for binary in references("tuning")}
    outcomes = {}
    for name, call in {**calls, "ours": ours("tuning", pod, **variables)}.items():
        directory = tmp_path / str(len(outcomes))
        previous = wire(pod, host, "eth0", "10.60.0.2/24")
        given = config(directory, previous, **keys)
        result, code = call("ADD", given)
        assert code == 0, (name, result)
        saved = {path.name: json.loads(path.read_text()) for path in directory.glob("*")}
        state = kernel(pod)
        checked = call("CHECK", {**given, "prevResult": result})
        deleted = call("DEL", given)
        left = {**kernel(pod), "arp_filter": ""}
        for each in saved.values():
            each.pop("network", None)
        result.pop("dns", None)
        outcomes[name] = (result, state, saved, checked, deleted, left, list(directory.glob("*")))
        unwire(host)

    for name, outcome in outcomes.items():
        if is_old(name) and ("txQLen" in str(keys) or "IFNAME" in str(keys)):
            continue
        assert outcome == outcomes["ours"], name


def is_old(name: str) -> bool:
    """1.1, Debian's, does not know txQLen, nor IFNAME in a CHECK, and does not count who listens."""
    return name == "/usr/lib/cni/tuning"


def test_every_key_is_set_checked_and_put_back(tmp_path: Path, pod: PodNetns, host: Socket):
    """The whole of it, without a reference."""
    previous = wire(pod, host, "eth0", "10.60.0.2/24")
    call = ours("tuning", pod)
    given = config(
        tmp_path / "deep" / "data",
        previous,
        mac="02-00-5E-00-53-02",
        mtu=1400,
        promisc=True,
        allmulti=True,
        txQLen=0,
        sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"},
    )

    result, code = call("ADD", given)

    assert (0, OTHER) == (code, result["interfaces"][0]["mac"])
    assert kernel(pod) == {
        "mac": OTHER,
        "mtu": 1400,
        "promisc": True,
        "allmulti": True,
        "txQLen": 0,
        "arp_filter": "1",
    }
    assert ({}, 0) == call("CHECK", {**given, "prevResult": result})
    assert ({}, 0) == call("DEL", given)
    assert {**BEFORE, "arp_filter": "1"} == kernel(pod)
    assert [] == list((tmp_path / "deep" / "data").iterdir())
    assert ({}, 0) == call("DEL", given)


def test_each_can_undo_the_others_add(tmp_path: Path, pod: PodNetns, host: Socket):
    """A node whose plugins are exchanged while pods run."""
    for binary in references("tuning"):
        for first, second in (
            (ours("tuning", pod), theirs(binary, pod)),
            (theirs(binary, pod), ours("tuning", pod)),
        ):
            given = config(tmp_path, wire(pod, host), mtu=1400, mac=OTHER, promisc=True)
            assert 0 == first("ADD", given)[1]

            assert ({}, 0) == second("DEL", given)

            assert BEFORE == kernel(pod)
            assert [] == list(tmp_path.iterdir())
            unwire(host)


def test_sysctl_in_args_alone_works(tmp_path: Path, pod: PodNetns, host: Socket):
    """The reference writes into a map that is not there, and crashes."""
    given = config(tmp_path, wire(pod, host), **args(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}))
    for binary in binaries("tuning"):
        assert 2 == theirs(binary, pod)("ADD", given)[1]

    assert 0 == ours("tuning", pod)("ADD", given)[1]

    assert "1" == parameter(pod, ARP_FILTER)


@pytest.mark.parametrize("gone", ["link", "namespace"])
def test_file_does_not_outlive_the_link(gone: str, tmp_path: Path, pod: PodNetns, host: Socket):
    """The reference leaves it for ever when the link, or the pod, went away first."""
    calls = {binary: theirs(binary, pod) for binary in binaries("tuning")} | {"ours": ours("tuning", pod)}
    left = {}
    for name, call in calls.items():
        directory = tmp_path / str(len(left))
        given = config(directory, wire(pod, host), mtu=1400)
        assert 0 == call("ADD", given)[1]
        unwire(host)
        variables = {"CNI_NETNS": "/run/netns/gone"} if gone == "namespace" else {}

        assert ({}, 0) == call("DEL", given, **variables), name

        left[name] = len(list(directory.iterdir()))
    assert 0 == left.pop("ours")
    assert all(count == 1 for count in left.values())


def test_damaged_file_does_not_keep_a_del(tmp_path: Path, pod: PodNetns, host: Socket):
    """Nothing can be put back by it; the reference leaves it."""
    for text in ("{", "[]", '{"mtu": "x"}', ""):
        (tmp_path / "c1_eth0.json").write_text(text)
        given = config(tmp_path, wire(pod, host))

        assert ({}, 0) == ours("tuning", pod)("DEL", given)

        assert ([], BEFORE) == (list(tmp_path.iterdir()), kernel(pod))
        unwire(host)


def test_what_cannot_be_put_back_does_not_keep_the_rest(tmp_path: Path, pod: PodNetns, host: Socket):
    """An MTU that the kernel refuses now."""
    document = {"mtu": 1, "mac": OTHER, "txQLen": 9}
    (tmp_path / "c1_eth0.json").write_text(json.dumps({**document, "mtu": 2**31 - 1}))

    assert ({}, 0) == ours("tuning", pod)("DEL", config(tmp_path, wire(pod, host)))

    assert {**BEFORE, "mac": OTHER, "txQLen": 9} == kernel(pod)
    assert [] == list(tmp_path.iterdir())


def test_failing_add_leaves_nothing(tmp_path: Path, pod: PodNetns, host: Socket):
    """The sysctls before the one that failed, and the attributes before the one that failed."""
    call = ours("tuning", pod)
    previous = wire(pod, host)
    one = {"net.ipv4.conf.IFNAME.arp_filter": "1"}

    answer, code = call("ADD", config(tmp_path, previous, sysctl={**one, "net.ipv4.nothing": "1"}, mtu=1400))
    assert (1, 100, BEFORE) == (code, answer["code"], kernel(pod)), answer
    answer, code = call("ADD", config(tmp_path, previous, sysctl=one, mac=OTHER, mtu=2**31 - 1, txQLen=5))

    assert (1, BEFORE, []) == (code, kernel(pod), list(tmp_path.iterdir()))
    assert answer["msg"].startswith("set mtu 2147483647 of eth0: ")


def test_no_interface_is_told_by_its_name(tmp_path: Path, pod: PodNetns, host: Socket):
    """ADD and CHECK; DEL has nothing left to do."""
    call = ours("tuning", pod)
    given = config(tmp_path, {"cniVersion": "1.0.0"}, mtu=1400)

    assert call("ADD", given)[0]["msg"].startswith("look up link eth0")
    assert call("CHECK", given)[0]["msg"].startswith("check eth0: there is no such interface")
    assert ({}, 0) == call("DEL", given)


def test_file_that_cannot_be_written_stops_the_add(tmp_path: Path, pod: PodNetns, host: Socket, mocker):
    """Nothing is changed that could not be put back."""
    (tmp_path / "file").write_text("")
    call = ours("tuning", pod)

    answer, code = call("ADD", config(tmp_path / "file" / "data", wire(pod, host), mtu=1400))
    assert (1, 5, BEFORE) == (code, answer["code"], kernel(pod))
    mocker.patch.object(tuning.os, "replace", side_effect=OSError(28, "No space left on device"))
    answer, code = call("ADD", config(tmp_path / "data", wire_again(pod, host), mtu=1400))

    assert (1, BEFORE, []) == (code, kernel(pod), list((tmp_path / "data").iterdir()))
    assert answer["msg"].endswith("c1_eth0.json: No space left on device")


def wire_again(pod: PodNetns, host: Socket) -> dict[str, Any]:
    unwire(host)
    return wire(pod, host)


def test_file_that_cannot_be_read_or_removed_is_told(tmp_path: Path, pod: PodNetns, host: Socket, mocker):
    """A DEL that left it would be repeated for nothing; one that says so is repeated for something."""
    (tmp_path / "c1_eth0.json").mkdir()

    answer, code = ours("tuning", pod)("DEL", config(tmp_path, wire(pod, host)))

    assert (1, 5) == (code, answer["code"])
    assert answer["msg"].startswith(f"remove {tmp_path}/c1_eth0.json: ")


def test_two_tunings_of_one_interface_keep_the_first_originals(tmp_path: Path, pod: PodNetns, host: Socket):
    """One for the MTU, one for the MAC: the reference's second overwrites the file of its first."""
    calls = {binary: theirs(binary, pod) for binary in binaries("tuning")} | {"ours": ours("tuning", pod)}
    left = {}
    for name, call in calls.items():
        first = config(tmp_path, wire(pod, host), mtu=1400)
        previous, _ = call("ADD", first)
        second = config(tmp_path, previous, mtu=1300, mac=OTHER)
        assert 0 == call("ADD", second)[1]

        assert [({}, 0)] * 2 == [call("DEL", second), call("DEL", first)]

        left[name] = kernel(pod)["mtu"]
        unwire(host)
    assert 1500 == left.pop("ours")
    assert all(mtu == 1400 for mtu in left.values())


@pytest.mark.parametrize("in_args", [False, True])
@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ('"net.core.somaxconn": "1", "net.core.somaxconn": "2"', "duplicated"),
        ('"net.core.somaxconn": "1", "net/core/somaxconn": "2"', "duplicated"),
        ('"net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.conf.eth0.arp_filter": "0"', "duplicated"),
        ('"kernel.shmmax": "1"', "invalid net sysctl key"),
        ('"net/../kernel/shmmax": "1"', "No such file or directory"),
        ('"net": "1"', "invalid net sysctl key"),
        ('"": "1"', "invalid net sysctl key"),
        ('"net.\\u0000": "1"', "invalid net sysctl key"),
        ('"net.core.somaxconn": 1', "expected a string"),
        ('"net.core.somaxconn": null', "expected a string"),
        ('"net.core.somaxconn": "\\ud800"', "expected text"),
    ],
)
def test_wrong_sysctls_are_refused(
    in_args: bool, keys: str, text: str, tmp_path: Path, pod: PodNetns, host: Socket
):
    """Dots become slashes, so that no key leads out of /proc/sys/net."""
    previous = json.dumps(wire(pod, host))
    sysctls = f'"args": {{"cni": {{"sysctl": {{{keys}}}}}}}' if in_args else f'"sysctl": {{{keys}}}'
    given = f'{{"cniVersion": "1.0.0", "name": "net", "type": "tuning", {sysctls}, "prevResult": {previous}}}'

    answer, code = ours("tuning", pod)("ADD", given)

    assert (1, True) == (code, text in answer["msg"]), answer


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"mac": "02:00:5e:00:53"}, "expected an Ethernet address"),
        ({"mac": "02:00-5e:00:53:01"}, "expected an Ethernet address"),
        (args(mac=7), "expected a string"),
        ({"mtu": -1}, "expected a whole number"),
        (args(mtu="1400"), "expected a whole number"),
        ({"promisc": 1}, "expected true or false"),
        ({"allmulti": "yes"}, "expected true or false"),
        ({"txQLen": True}, "expected a whole number"),
        ({"dataDir": "a\0b"}, "expected text, without NUL"),
        ({"sysctl": []}, "expected an object"),
        ({"args": {"cni": []}}, "expected an object"),
    ],
)
def test_wrong_values_are_refused_by_key(
    keys: dict[str, Any], text: str, pod: PodNetns, host: Socket, tmp_path: Path
):
    """With what would be right."""
    answer, code = ours("tuning", pod)("ADD", {**config(tmp_path, wire(pod, host)), **keys})

    assert (1, 7, True) == (code, answer["code"], text in answer["msg"]), answer


def test_tuning_alone_is_refused(tmp_path: Path, pod: PodNetns):
    """It has no interface of its own."""
    answer, code = ours("tuning", pod)("ADD", config(tmp_path))

    assert (1, True) == (code, "prevResult is missing" in answer["msg"])


def test_interface_with_a_slash_is_refused(tmp_path: Path, pod: PodNetns):
    """It would lead to another parameter."""
    answer, code = ours("tuning", pod, CNI_IFNAME="a/b")("ADD", config(tmp_path, {}))

    assert (1, 4) == (code, answer["code"])


def test_null_keys_are_as_good_as_absent(tmp_path: Path, pod: PodNetns, host: Socket):
    """As in Go."""
    keys = {
        "args": None,
        "sysctl": None,
        "runtimeConfig": None,
        "mac": None,
        "allmulti": None,
        "txQLen": None,
    }

    answer, code = ours("tuning", pod)("ADD", config(tmp_path, wire(pod, host), **keys))

    assert (0, BEFORE) == (code, kernel(pod)), answer


@pytest.fixture
def allowlist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's list, in the test's own directory."""
    path = tmp_path / "allowlist.conf"
    monkeypatch.setattr(tuning, "ALLOWLIST", path)
    return path


def test_allowlist_decides_which_sysctls_may_be_set(
    allowlist: Path, tmp_path: Path, pod: PodNetns, host: Socket
):
    """Both sources; a DEL of what was set before the list was made is not kept."""
    call = ours("tuning", pod)
    previous = wire(pod, host)
    wanted = {"net.ipv4.conf.IFNAME.arp_filter": "1"}
    cases = [{"sysctl": wanted}, args(sysctl=wanted)]

    for text in ("", "^net.ipv4.conf.IFNAME.rp_filter$\n"):
        allowlist.write_text(text)
        for keys in cases:
            answer, code = call("ADD", config(tmp_path, previous, **keys))
            assert (1, 7, "0") == (code, answer["code"], parameter(pod, ARP_FILTER))
            assert "net.ipv4.conf.IFNAME.arp_filter is not allowed" in answer["msg"]
            assert ({}, 0) == call("DEL", config(tmp_path, previous, **keys))
    allowlist.write_text("\n  ^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$  \n")

    for keys in cases:
        assert 0 == call("ADD", config(tmp_path, previous, **keys))[1]


@pytest.mark.parametrize(("text", "code"), [(b"(", 7), (b"\xff", 5)])
def test_allowlist_that_cannot_be_understood_allows_nothing(
    text: bytes, code: int, allowlist: Path, tmp_path: Path, pod: PodNetns, host: Socket
):
    """Better no pod than one with a parameter that the node's owner forbade."""
    allowlist.write_bytes(text)

    answer, _ = ours("tuning", pod)(
        "ADD", config(tmp_path, wire(pod, host), sysctl={"net.core.somaxconn": "9"})
    )

    assert (code, True) == (answer["code"], str(allowlist) in answer["msg"])


def test_status_asks_the_allowlist(allowlist: Path, tmp_path: Path, pod: PodNetns):
    """An ADD could not be served."""
    given = config(tmp_path, sysctl={"net.core.somaxconn": "9"}, cniVersion="1.1.0")
    call = ours("tuning", pod)

    assert ({}, 0) == call("STATUS", given)
    allowlist.write_text("rp_filter")

    assert 50 == call("STATUS", given)[0]["code"]


@pytest.mark.parametrize(
    ("wanted", "changed", "text"),
    [
        ({"mac": OTHER}, {"mac": MAC}, f'mac is "{MAC}": expected "{OTHER}"'),
        ({"mtu": 1400}, {"mtu": 1500}, "mtu is 1500: expected 1400"),
        ({"promisc": True}, {"is_promiscuous": False}, "promisc is false: expected true"),
        ({"allmulti": True}, {"is_allmulti": False}, "allmulti is false: expected true"),
        ({"txQLen": 5}, {"tx_queue_length": 6}, "txQLen is 6: expected 5"),
    ],
)
def test_check_finds_what_was_changed(
    wanted: dict[str, Any], changed: dict[str, Any], text: str, tmp_path: Path, pod: PodNetns, host: Socket
):
    """By its name, with what is and what was to be."""
    call = ours("tuning", pod)
    given = config(tmp_path, wire(pod, host), **wanted)
    result, _ = call("ADD", given)
    index = link.require(pod.socket, "eth0", "link").index
    pod.socket.request([link.set_link(index, **changed)])

    answer, code = call("CHECK", {**given, "prevResult": result})

    assert (1, 105, f"check eth0: {text}") == (code, answer["code"], answer["msg"])


def test_check_finds_a_changed_sysctl(tmp_path: Path, pod: PodNetns, host: Socket):
    """And one that is not there."""
    call = ours("tuning", pod)
    given = config(tmp_path, wire(pod, host), sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"})
    call("ADD", given)
    netns.run_in(pod.fd, lambda: sysctl.write(ARP_FILTER, "0"))

    assert call("CHECK", given)[0]["msg"] == f"check sysctl {ARP_FILTER}: it is '0': expected '1'"
    nothing = {**given, "sysctl": {"net.ipv4.nothing": "1"}}
    assert 105 == call("CHECK", nothing)[0]["code"]


def test_check_takes_any_white_space_between_values(tmp_path: Path, pod: PodNetns, host: Socket):
    """The kernel prints a tab; the reference's CHECK fails for ever."""
    given = config(tmp_path, wire(pod, host), sysctl={"net.ipv4.ip_local_port_range": "20000 30000"})
    assert 0 == ours("tuning", pod)("ADD", given)[1]
    for binary in binaries("tuning"):
        assert 1 == theirs(binary, pod)("CHECK", given)[1]

    assert ({}, 0) == ours("tuning", pod)("CHECK", given)


def test_check_takes_any_form_of_the_mac(tmp_path: Path, pod: PodNetns, host: Socket):
    """The reference compares the text: its own ADD of an upper-case MAC does not pass its CHECK."""
    given = config(tmp_path, wire(pod, host), mac=OTHER.upper())
    assert 0 == ours("tuning", pod)("ADD", given)[1]
    for binary in binaries("tuning"):
        assert 1 == theirs(binary, pod)("CHECK", given)[1]

    assert ({}, 0) == ours("tuning", pod)("CHECK", given)


def test_listening_in_the_pod_is_nothing_to_check_or_keep(tmp_path: Path, pod: PodNetns, host: Socket):
    """A packet socket counts as promiscuous; the reference's CHECK fails, and its DEL makes that last."""
    given = config(tmp_path, wire(pod, host), mtu=1400, promisc=True)
    listener = netns.run_in(pod.fd, lambda: sockets.socket(sockets.AF_PACKET, sockets.SOCK_RAW, 0))
    listener.bind(("eth0", 3))
    index = link.require(pod.socket, "eth0", "link").index
    membership = index.to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(10)  # PACKET_MR_PROMISC
    listener.setsockopt(263, 1, membership)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
    with listener:
        quiet = {**given, "promisc": False, "mtu": 1500}
        for binary in filter(lambda each: not is_old(each), binaries("tuning")):
            assert 1 == theirs(binary, pod)("CHECK", quiet)[1]
            assert 0 == theirs(binary, pod)("ADD", given)[1]
            assert 0 == theirs(binary, pod)("DEL", given)[1]
            assert link.require(pod.socket, "eth0", "link").is_promiscuous
            pod.socket.request([link.set_link(index, is_promiscuous=False)])
        assert ({}, 0) == ours("tuning", pod)("CHECK", quiet)

        assert 0 == ours("tuning", pod)("ADD", given)[1]
        assert 0 == ours("tuning", pod)("DEL", given)[1]

        assert not link.require(pod.socket, "eth0", "link").is_promiscuous


def test_parameter_for_writing_alone_is_written_and_not_checked(tmp_path: Path, pod: PodNetns, host: Socket):
    """Nobody can tell what it is."""
    given = config(tmp_path, wire(pod, host), sysctl={"net.ipv4.route.flush": "1"})

    assert 0 == ours("tuning", pod)("ADD", given)[1]
    assert ({}, 0) == ours("tuning", pod)("CHECK", given)


def test_neighbours_learn_the_new_mac(tmp_path: Path, pod: PodNetns, host: Socket):
    """Else they send to the old one until it is stale: our own bridge has just announced it."""
    previous = wire(pod, host, "eth0", "10.60.0.2/24")
    from meta_cni.cni.result import interface_address_of
    from meta_cni.linux import address

    index = link.require(host, "up-eth0", "link").index
    host.request([address.add(index, interface_address_of("10.60.0.1/24"))])
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as sender:
        sender.sendto(b"", ("10.60.0.2", 9))
    assert MAC == neighbour("10.60.0.2", MAC)

    assert 0 == ours("tuning", pod)("ADD", config(tmp_path, previous, mac=OTHER))[1]

    assert OTHER == neighbour("10.60.0.2", OTHER)


def neighbour(ip: str, expected: str) -> str:
    """The MAC the node has for an address, once it is the expected one, or after a second."""
    import time

    found = ""
    for _ in range(100):
        lines = [line.split() for line in Path("/proc/thread-self/net/arp").read_text().splitlines()]
        found = next((fields[3] for fields in lines if fields[0] == ip), "")
        if found == expected:
            break
        time.sleep(0.01)
    return found


def test_mtu_is_told_where_the_result_tells_one(tmp_path: Path, pod: PodNetns, host: Socket):
    """CNI 1.1.0 results have it; the node's end keeps its own."""
    previous = wire(pod, host)
    previous["interfaces"][0]["mtu"] = 1500
    previous["interfaces"].insert(0, {"name": "eth0", "mac": MAC, "mtu": 9000})

    result, _ = ours("tuning", pod)("ADD", config(tmp_path, previous, mtu=1400, mac=OTHER))

    assert [(9000, MAC), (1400, OTHER)] == [(each["mtu"], each["mac"]) for each in result["interfaces"]]


def test_gc_removes_what_this_network_left(tmp_path: Path, pod: PodNetns):
    """Networks share the directory: other ones' files, and the reference's, are not ours to remove."""
    names = {"c1_eth0.json": "net", "gone_eth0.json": "net", "c2_eth0.json": "other", "c3_eth0.json": ""}
    for name, network in names.items():
        (tmp_path / name).write_text(json.dumps({"mtu": 1500, **({"network": network} if network else {})}))
    (tmp_path / "torn.json").write_text("{")
    listed = [{"containerID": "c1", "ifname": "eth0"}]
    given = config(tmp_path, cniVersion="1.1.0") | {"cni.dev/valid-attachments": listed}

    assert ({}, 0) == ours("tuning", pod)("GC", given)

    left = sorted(path.name for path in tmp_path.iterdir())
    assert ["c1_eth0.json", "c2_eth0.json", "c3_eth0.json", "torn.json"] == left


@pytest.mark.parametrize("where", ["os.listdir", "pathlib.Path.read_bytes"])
def test_gc_tells_what_it_could_not_read(tmp_path: Path, pod: PodNetns, mocker: MockerFixture, where: str):
    """Whatever it is, it stays for the next one."""
    (tmp_path / "gone_eth0.json").write_text(json.dumps({"mtu": 1500, "network": "net"}))
    given = config(tmp_path, cniVersion="1.1.0") | {"cni.dev/valid-attachments": []}
    call = ours("tuning", pod)
    broken = mocker.patch(where, side_effect=OSError(errno.EIO, "broken"))

    answer, code = call("GC", given)
    mocker.stop(broken)

    assert (1, 5) == (code, answer["code"])
    assert re.fullmatch(f"read {tmp_path}(/gone_eth0.json)?: broken", answer["msg"])
    assert ({}, 0) == call("GC", given)
    assert [] == list(tmp_path.iterdir())


def test_gc_without_a_directory_has_nothing_to_do(tmp_path: Path, pod: PodNetns):
    """The first GC of a node."""
    given = config(tmp_path / "none", cniVersion="1.1.0") | {"cni.dev/valid-attachments": []}

    assert ({}, 0) == ours("tuning", pod)("GC", given)


def test_unknown_key_is_left_to_the_binary():
    """A newer reference may have learnt it."""
    text = {"cniVersion": "1.0.0", "name": "net", "type": "tuning", "txQLen": 1, "numQueues": 4}

    assert "numQueues 4 is not built in" == tuning.Tuning.refuses(parse_plugin(json.dumps(text), "net"))


def test_del_removes_what_a_killed_one_had_begun_to_write(host: Socket, pod: PodNetns, tmp_path: Path):
    """The originals are written beside and renamed; nobody else knows of the file in between."""
    previous = wire(pod, host)
    call = ours("tuning", pod)
    given = config(tmp_path, previous, mac=OTHER)
    call("ADD", given)
    for each in list(tmp_path.iterdir()):
        each.with_suffix(".new").touch()

    answer = call("DEL", given)

    assert (({}, 0), []) == (answer, list(tmp_path.iterdir()))
    unwire(host)
