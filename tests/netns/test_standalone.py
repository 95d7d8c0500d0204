"""The built-in delegates as plugins of their own, beside the reference: same input, same outcome."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from meta_cni import standalone
from meta_cni.linux import address, link, route
from meta_cni.linux.codec import ifinfmsg
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Socket, decode
from tests.netns.conftest import PodNetns, ranges

Call = Callable[[str, dict[str, Any]], tuple[dict[str, Any], int]]


def environment(command: str, pod: PodNetns) -> dict[str, str]:
    return {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": pod.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    }


def ours(plugin_type: str, pod: PodNetns) -> Call:
    def call(command: str, config: dict[str, Any]) -> tuple[dict[str, Any], int]:
        printed, code = standalone.serve(plugin_type, environment(command, pod), json.dumps(config).encode())
        return (json.loads(printed) if printed else {}), code

    return call


def theirs(binary: str, pod: PodNetns) -> Call:
    def call(command: str, config: dict[str, Any]) -> tuple[dict[str, Any], int]:
        done = subprocess.run(
            [binary], input=json.dumps(config).encode(), env=environment(command, pod), capture_output=True
        )
        return (json.loads(done.stdout) if done.stdout.strip() else {}), done.returncode

    return call


INTENDED = {
    "dns": "the reference prints an empty object where there is none to tell",
}
"""Keys of a result that may be absent in ours when empty in theirs; nothing else may differ."""


def normal(value: Any) -> Any:
    """Random names and MACs made equal, intended differences taken out."""
    value = {key: item for key, item in value.items() if item or key not in INTENDED}
    text = re.sub(r"veth[0-9a-f]{8}", "vethX", json.dumps(value, sort_keys=True))
    return json.loads(re.sub(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC", text))


def is_hairpin(port: Link) -> bool:
    """IFLA_BRPORT_MODE."""
    info = decode(ifinfmsg, port.message).get_attr("IFLA_LINKINFO")
    return bool(info.get_attr("IFLA_INFO_SLAVE_DATA").get_attr("IFLA_BRPORT_MODE"))


def kernel(pod: PodNetns, host: Socket) -> dict[str, Any]:
    """What is in the kernel on both sides."""
    inside = link.require(pod.socket, "eth0", "link")
    bridges = [each for each in link.dump(host) if each.kind == "bridge"]
    return {
        "link": (inside.kind, inside.mtu, inside.is_up),
        "mode": inside.info.get("IFLA_MACVLAN_MODE"),
        "addresses": pod.addresses("eth0"),
        "routes": {
            (str(each.destination), str(each.gateway), each.mtu)
            for each in route.dump(pod.socket)
            if not each.destination.is_link_local
        },
        "bridges": [(each.name, each.is_up, each.is_promiscuous) for each in bridges],
        "bridge addresses": {
            str(found.address)
            for each in bridges
            for found in address.dump(host, each.index)
            if not found.address.ip.is_link_local
        },
        "ports": [
            (is_hairpin(each), link.port_state(each.message)) for each in link.dump(host) if each.master
        ],
    }


def config(tmp_path: Path, version: str, **more: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": ranges(50)}
    return {"cniVersion": version, "name": "net", "ipam": ipam, **more}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("bridge", {"bridge": "brs"}),
    ("bridge", {"bridge": "brs", "isGateway": True}),
    ("bridge", {"bridge": "brs", "isDefaultGateway": True}),
    ("bridge", {"bridge": "brs", "mtu": 1400, "hairpinMode": True}),
    ("bridge", {"bridge": "brs", "promiscMode": True}),
    ("bridge", {"bridge": "brs", "dns": {"nameservers": ["10.0.0.10"], "search": ["x"]}}),
    ("macvlan", {"master": "up0"}),
    ("macvlan", {"master": "up0", "mode": "vepa", "mtu": 1400}),
    ("macvlan", {"master": "up0", "mode": "private"}),
    ("macvlan", {"master": "up0", "mode": "passthru"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize(("plugin_type", "keys"), CASES)
def test_same_input_has_the_same_outcome_as_the_reference(
    plugin_type: str,
    keys: dict[str, Any],
    version: str,
    tmp_path: Path,
    pod: PodNetns,
    host: Socket,
    reference: Callable[[str], str],
):
    """Result and kernel, ADD and DEL."""
    outcomes = []
    for name, call in (("theirs", theirs(reference(plugin_type), pod)), ("ours", ours(plugin_type, pod))):
        host.request([link.create_pair("up0", "sw0")])
        for end in ("up0", "sw0"):
            host.request([link.set_link(link.require(host, end, "link").index, is_up=True)])
        given = config(tmp_path / name, version, type=plugin_type, **keys)
        result, code = call("ADD", given)
        assert 0 == code, result
        state = kernel(pod, host)
        checked = call("CHECK", {**given, "prevResult": result})[1] if version != "0.3.1" else 0
        deleted = call("DEL", given)
        left = [path.name for path in (tmp_path / name / "net").iterdir()]
        outcomes.append((normal(result), state, checked, deleted, pod.links(), sorted(left)))
        for each in ("up0", "brs"):
            host.request([link.delete(each)])

    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("plugin_type", "keys"), [("bridge", {"bridge": "brs"}), ("macvlan", {"master": "up0"}), ("ptp", {})]
)
def test_second_add_is_refused_and_leaves_the_first_one_alone(
    plugin_type: str, keys: dict[str, Any], tmp_path: Path, pod: PodNetns, host: Socket
):
    """The undoing of a failing ADD took the link and the addresses of a pod that was running."""
    host.request([link.create_pair("up0", "sw0")])
    call, given = ours(plugin_type, pod), config(tmp_path, "1.0.0", type=plugin_type, **keys)
    result, code = call("ADD", given)
    assert 0 == code, result
    before = kernel(pod, host)

    error, code = call("ADD", given)

    assert (1, 104) == (code, error["code"])
    assert before == kernel(pod, host)
    assert ({}, 0) == call("CHECK", {**given, "prevResult": result})
    assert ({}, 0) == call("DEL", given)


def test_version_is_answered(pod: PodNetns):
    """Without standard input."""
    answer, code = ours("bridge", pod)("VERSION", {})

    assert (0, "1.1.0") == (code, answer["cniVersion"])


def test_layer_2_works_through_every_verb(pod: PodNetns, host: Socket):
    """The reference's CHECK fails without IPAM."""
    call = ours("bridge", pod)
    given = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "brs", "portIsolation": True}

    result, code = call("ADD", given)

    assert (0, ["eth0"]) == (code, pod.links())
    assert ({}, 0) == call("CHECK", {**given, "prevResult": result})
    assert ({}, 0) == call("STATUS", given)
    assert ({}, 0) == call("DEL", given)
    assert ({}, 0) == call("DEL", given)
    assert [] == pod.links()


def test_a_bridge_is_the_gateway_of_each_network_of_a_pod(pod: PodNetns, host: Socket):
    """What is wanted is not in the way of what else is wanted; the reference keeps the last one."""
    host.request([link.create_bridge("brs")])
    index = link.require(host, "brs", "bridge").index
    host.request([address.add(index, ip_interface(each)) for each in ("10.9.0.1/24", "10.1.0.1/24")])
    addresses = [{"address": each} for each in ("10.1.0.5/24", "10.2.0.5/24", "10.3.0.5/24")]
    given = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "brs", "isGateway": True}
    given["ipam"] = {"type": "static", "addresses": addresses}

    refused, code = ours("bridge", pod)("ADD", given)
    result, forced = ours("bridge", pod)("ADD", {**given, "forceAddress": True})

    assert (1, 7, 0) == (code, refused["code"], forced), result
    assert "expected forceAddress true" in refused["msg"]
    present = {str(each.address) for each in address.dump(host, index) if each.address.version == 4}
    assert {"10.1.0.1/24", "10.2.0.1/24", "10.3.0.1/24"} == present


def test_failing_add_leaves_nothing(pod: PodNetns, host: Socket, tmp_path: Path):
    """The reference leaves the link of a macvlan whose addresses cannot be had."""
    given = config(tmp_path, "1.0.0", type="bridge", bridge="brs")
    given["ipam"]["routes"] = [{"dst": "10.0.0.0/8", "gw": "192.0.2.1"}]

    answer, code = ours("bridge", pod)("ADD", given)

    assert (1, 100, []) == (code, answer["code"], pod.links())
    assert not [path for path in tmp_path.rglob("10.50.*")]


def in_directory(directory: Path) -> dict[str, Any]:
    return {"type": "host-local", "dataDir": str(directory), "ranges": ranges(9)}


WRONG_SINCE = [
    ("macvlan", {"master": "up0", "mode": "source"}),
    ("macvlan", {"master": "up0", "mtu": "big"}),
    ("bridge", {"bridge": "br0", "hairpinMode": True, "promiscMode": True}),
    ("bridge", {"bridge": "br0", "runtimeConfig": {"mac": "zz"}}),
    ("bridge", {"bridge": "a name of more than 15 bytes", "dns": {"domain": 5}}),
    ("host-device", {"device": "up0", "useInterfaceNetwork": "no"}),
]


@pytest.mark.parametrize(("plugin_type", "wrong"), WRONG_SINCE)
def test_del_removes_everything_though_the_configuration_is_wrong_by_now(
    plugin_type: str, wrong: dict[str, Any], pod: PodNetns, host: Socket, tmp_path: Path
):
    """A DEL that fails for ever keeps a pod in Terminating, and its address reserved."""
    host.request([link.create_pair("up0", "sw0")])
    base = {"cniVersion": "1.0.0", "name": "net", "type": plugin_type, "ipam": in_directory(tmp_path)}
    names = {"macvlan": "master", "bridge": "bridge", "host-device": "device"}
    right = {names[plugin_type]: "br0" if plugin_type == "bridge" else "up0"}
    call = ours(plugin_type, pod)
    assert call("ADD", {**base, **right})[1] == 0

    answer, code = call("DEL", {**base, **wrong})

    assert ({}, 0) == (answer, code)
    assert link.find(pod.socket, "eth0") is None
    assert [] == [each.name for each in (tmp_path / "net").glob("10.*")]


def test_del_brings_a_device_back_and_tells_that_it_is_not_known_which_it_was(
    pod: PodNetns, host: Socket, tmp_path: Path
):
    """Its alias says whose it is; a namespace that is gone would have said nothing."""
    host.request([link.create_pair("up0", "sw0")])
    base = {"cniVersion": "1.0.0", "name": "net", "type": "host-device", "ipam": in_directory(tmp_path)}
    call = ours("host-device", pod)
    assert call("ADD", {**base, "device": "up0"})[1] == 0

    answer, code = call("DEL", {**base, "hwaddr": "zz"})

    assert (1, 7) == (code, answer["code"])
    assert 'hwaddr "zz"' in answer["msg"]
    assert link.find(pod.socket, "eth0") is None
    assert link.find(host, "up0") is not None
    assert [] == [each.name for each in (tmp_path / "net").glob("10.*")]


def test_del_removes_the_link_and_tells_that_the_addresses_cannot_be_released(
    pod: PodNetns, host: Socket, tmp_path: Path
):
    """Where addresses are kept is what the broken part would have said."""
    base = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0"}
    call = ours("bridge", pod)
    assert call("ADD", {**base, "ipam": in_directory(tmp_path)})[1] == 0

    answer, code = call("DEL", {**base, "ipam": {"type": "host-local", "ranges": "none"}})

    assert (1, 7) == (code, answer["code"])
    assert "ranges" in answer["msg"]
    assert link.find(pod.socket, "eth0") is None


def test_a_key_that_is_not_implemented_is_refused_before_anything_is_done(pod: PodNetns, host: Socket):
    """There is no binary to run instead; passing over it would give another network than asked for."""
    config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "frobnicate": 5}

    answer, code = ours("bridge", pod)("ADD", config)

    assert (1, 7) == (code, answer["code"])
    assert "frobnicate 5 is not built in" in answer["msg"]
    assert link.find(host, "br0") is None


def test_own_namespace_is_refused_before_anything_is_done(pod: PodNetns, host: Socket):
    """The reference prints two documents."""
    variables = {**environment("ADD", pod), "CNI_NETNS": "/proc/self/ns/net"}
    text = json.dumps({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "brs"}).encode()

    printed, code = standalone.serve("bridge", variables, text)

    assert (1, 8, None) == (code, json.loads(printed)["code"], link.find(host, "brs"))


def test_gc_releases_what_is_not_listed(pod: PodNetns, tmp_path: Path):
    """The reference hands a GC to no IPAM."""
    given = config(tmp_path, "1.1.0", type="bridge", bridge="brs")
    directory = tmp_path / "net"
    directory.mkdir()
    for name, owner in (("10.50.0.9", "gone"), ("10.50.0.8", "c1")):
        (directory / name).write_bytes(f"{owner}\r\neth0".encode())
    valid = [{"containerID": "c1", "ifname": "eth0"}]

    assert ({}, 0) == ours("bridge", pod)("GC", {**given, "cni.dev/valid-attachments": valid})

    assert (False, True) == ((directory / "10.50.0.9").exists(), (directory / "10.50.0.8").exists())


@pytest.mark.parametrize(
    ("listed", "left"),
    [
        ({"cni.dev/valid-attachments": None, "cni.dev/attachments": None}, []),
        ({"cni.dev/attachments": [{"containerID": "c1", "ifname": "eth0"}]}, ["10.50.0.8"]),
        ({"cni.dev/valid-attachments": None, "cni.dev/attachments": [{"containerID": "c1"}]}, []),
    ],
)
def test_gc_reads_the_list_as_libcni_writes_it(
    pod: PodNetns, tmp_path: Path, listed: dict[str, Any], left: list[str]
):
    """An empty list of Go's is null; and the key was spelled otherwise once."""
    given = config(tmp_path, "1.1.0", type="bridge", bridge="brs")
    (tmp_path / "net").mkdir()
    (tmp_path / "net/10.50.0.8").write_bytes(b"c1\r\neth0")

    assert ({}, 0) == ours("bridge", pod)("GC", {**given, **listed})

    assert left == [each.name for each in (tmp_path / "net").glob("10.*")]


@pytest.mark.parametrize(
    ("command", "given", "code"),
    [
        ("ADD", [], 6),
        ("ADD", {"type": "bridge"}, 7),
        ("ADD", {"name": "a b", "type": "bridge"}, 7),
        ("ADD", {"name": "n", "type": "bridge", "cniVersion": "9.0.0"}, 1),
        ("CHECK", {"name": "n", "type": "bridge", "cniVersion": "0.3.1"}, 1),
        ("CHECK", {"name": "n", "type": "bridge", "cniVersion": "1.0.0"}, 7),
        ("GC", {"name": "n", "type": "bridge", "cniVersion": "1.1.0"}, 7),
        ("STATUS", {"name": "n", "type": "bridge", "cniVersion": "1.0.0"}, 1),
        ("FROB", {"name": "n", "type": "bridge"}, 4),
    ],
)
def test_wrong_calls_have_the_specifications_codes(pod: PodNetns, command: str, given: Any, code: int):
    """One JSON document, whatever is wrong."""
    answer, exit_code = ours("bridge", pod)(command, given)

    assert (1, code) == (exit_code, answer["code"])


def test_conflicting_gateway_address_needs_force(pod: PodNetns, host: Socket, tmp_path: Path):
    """The reference's rule for a bridge that is a gateway already."""
    call = ours("bridge", pod)
    host.request([link.create_bridge("brs")])
    index = link.require(host, "brs", "bridge").index

    host.request([address.add(index, ip_interface("192.0.2.1/24"))])
    given = config(tmp_path, "1.0.0", type="bridge", bridge="brs", isGateway=True)

    answer, code = call("ADD", given)
    assert (1, True) == (code, "already has an IP address different from" in answer["msg"])
    answer, code = call("ADD", {**given, "forceAddress": True})

    assert 0 == code, answer
    found = {str(each.address) for each in address.dump(host, index)}
    assert ("192.0.2.1/24" in found, "10.50.0.1/24" in found) == (False, True)


def test_check_finds_what_was_changed(pod: PodNetns, host: Socket, tmp_path: Path):
    """Address, route, bridge, link: each by its name."""
    call = ours("bridge", pod)
    given = config(tmp_path, "1.0.0", type="bridge", bridge="brs", isDefaultGateway=True)
    result, _ = call("ADD", given)
    asked = {**given, "prevResult": result}
    inside = link.require(pod.socket, "eth0", "link")

    def message() -> str:
        answer, code = call("CHECK", asked)
        return str(answer["msg"]) if code else ""

    defaults = [each for each in route.dump(pod.socket) if each.destination.prefixlen == 0]
    pod.socket.request([route.delete(defaults[0])])
    assert "route" in message()
    pod.socket.request([route.add(defaults[0])])
    assert message() == ""
    found = address.dump(pod.socket, inside.index)[0]
    pod.socket.request([address.delete(inside.index, found.address)])
    assert "address" in message()
    host.request([link.set_link(inside.parent, master=0)])
    pod.socket.request([address.add(inside.index, found.address), route.add(defaults[0], append=True)])
    assert "not a port of bridge" in message()
    host.request([link.delete("brs")])
    assert "no such bridge" in message()


def test_ipv6_address_is_still_there_after_the_link_was_down(pod: PodNetns, host: Socket, tmp_path: Path):
    """The kernel takes IPv6 addresses from a link that goes down; the reference has it keep them."""
    result, code = ours("bridge", pod)("ADD", config(tmp_path, "1.0.0", type="bridge", bridge="brs"))
    assert 0 == code, result

    index = link.require(pod.socket, "eth0", "link").index
    pod.socket.request([link.set_link(index, is_up=False), link.set_link(index, is_up=True)])

    assert {"10.50.0.2/24", "fd00:50::2/64"} == pod.addresses("eth0")
