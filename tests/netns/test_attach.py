"""A pod with several networks on a real kernel: what it gets, what is told, what is left."""

import json
import shlex
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from meta_cni.cni.errors import TryAgainLater
from meta_cni.linux import link, netns
from tests.netns.conftest import Node, PodNetns

pytestmark = pytest.mark.guest


def two_networks(node: Node) -> None:
    node.nad("one", node.bridge("", 11) | {"capabilities": {"ips": True, "mac": True}})
    node.nad("two", node.bridge("", 12))


def test_pod_without_annotation_gets_the_default_network_alone(node: Node, pod: PodNetns):
    """The most frequent pod of all."""
    answer = node.add()

    assert ["eth0"] == pod.links()
    assert {"10.244.0.2/24", "fd00:244::2/64"} == pod.addresses("eth0")
    assert {("10.244.0.1", "eth0"), ("fd00:244::1", "eth0")} == pod.defaults()
    assert ["br244", "eth0"] == [answer["interfaces"][0]["name"], answer["interfaces"][2]["name"]]
    assert [True] == [each["default"] for each in node.status()]


def test_networks_are_attached_in_order_after_the_default_one(node: Node, pod: PodNetns):
    """S-27: the default network first; names by position."""
    two_networks(node)
    node.annotate("one, two@data0")

    answer = node.add()

    assert ["data0", "eth0", "net1"] == pod.links()
    assert ["default", "telco/one", "telco/two"] == [each["name"] for each in node.status()]
    assert ["eth0", "net1", "data0"] == [each["interface"] for each in node.status()]
    assert [2, 2, 5, 5, 8, 8] == [each["interface"] for each in answer["ips"]]


def test_requested_address_and_mac_are_set(node: Node, pod: PodNetns):
    """What a telco pod's annotation asks for is what its interface has."""
    two_networks(node)
    node.annotate([{"name": "one", "ips": ["10.11.0.77/24"], "mac": "02:00:5E:00:53:77"}])

    node.add()

    assert "10.11.0.77/24" in pod.addresses("net1")
    assert "02:00:5e:00:53:77" == link.require(pod.socket, "net1", "link").mac


def test_nothing_is_left_after_del(node: Node):
    """The first promise."""
    two_networks(node)
    node.annotate("one,two")
    before = node.traces()

    node.add()
    node.delete()

    assert before == node.traces()


def test_del_works_after_everything_it_was_made_from_is_gone(node: Node):
    """D-13, P-04, P-07: DEL needs the ledger and nothing else."""
    two_networks(node)
    node.annotate("one,two")
    before = node.traces()
    node.add()
    for path in (node.root / "objects").iterdir():
        path.unlink()
    node.settings = {"delegates": []}

    node.delete(CNI_ARGS="")

    assert before == node.traces()


def test_del_may_be_repeated_with_an_empty_netns(node: Node):
    """containerd calls DEL twice, the second time without a namespace."""
    node.add()

    node.delete()
    node.delete(CNI_NETNS="")

    assert [] == node.pod.links()


def test_del_after_the_namespace_is_gone_releases_the_addresses(node: Node, pod: PodNetns):
    """The reference plugins leak here."""
    node.add()
    netns.remove(pod.path)

    node.delete()

    files = [path.name for path in (node.root / "ipam" / "default").iterdir()]
    assert ["last_reserved_ip.0", "last_reserved_ip.1", "lock"] == sorted(files)


def test_check_passes_and_then_finds_what_changed(node: Node, pod: PodNetns):
    """D-08: CHECK looks at every attachment, from the ledger."""
    two_networks(node)
    node.annotate("one")
    answer = node.add()
    stdin = json.dumps({**node.configuration(), "prevResult": answer}).encode()
    assert ({}, 0) == node.call("CHECK", stdin=stdin)

    pod.socket.request([link.delete("net1")])

    error = node.fail("CHECK", stdin=stdin)
    assert (105, True) == (error["code"], "net1" in error["msg"])


def test_second_add_of_a_sandbox_is_refused_and_changes_nothing(node: Node):
    """The specification forbids it; a half-made second attachment would leak."""
    node.add()
    before = node.traces()

    assert 104 == node.fail()["code"]
    assert before == node.traces()


def test_result_can_be_the_default_networks_alone(node: Node):
    """What Multus answers, for runtimes that count addresses."""
    two_networks(node)
    node.annotate("one")
    node.settings = {"result": "default"}

    answer = node.add()

    assert ["10.244.0.2/24", "fd00:244::2/64"] == [each["address"] for each in answer["ips"]]


def test_configuration_of_multus_runs_unchanged(node: Node, pod: PodNetns):
    """Its result and its status keep the form its users know."""
    two_networks(node)
    node.annotate("one")
    node.settings = {"type": "multus", "cniVersion": "0.3.1", "logLevel": "verbose"}

    answer = node.add()

    assert {"version": "4", "interface": 2, "address": "10.244.0.2/24", "gateway": "10.244.0.1"} == answer[
        "ips"
    ][0]
    assert ["10.244.0.2", "fd00:244::2"] == node.status()[0]["ips"]
    assert "default" not in node.status()[1]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_cni_version_is_answered_in_its_own_form(node: Node, version: str):
    """Runtimes are older than plugins."""
    node.settings = {"cniVersion": version}

    answer = node.add()
    node.delete()

    assert version == answer["cniVersion"]
    assert ("ip4" in answer) == (version < "0.3.0")


def test_default_route_goes_to_the_selection_that_asks_for_it(node: Node, pod: PodNetns):
    """D-01 to D-06: in the kernel, in the result and in the status, per family."""
    two_networks(node)
    node.annotate([{"name": "one", "default-route": ["10.11.0.254"]}, {"name": "two"}])

    answer = node.add()

    assert {("10.11.0.254", "net1"), ("fd00:244::1", "eth0")} == pod.defaults()
    assert [{"dst": "::/0", "gw": "fd00:244::1"}, {"dst": "0.0.0.0/0", "gw": "10.11.0.254"}] == answer[
        "routes"
    ]
    assert ["10.11.0.254"] == node.status()[1]["default-route"]


def test_default_routes_of_other_networks_are_removed(node: Node, pod: PodNetns):
    """A secondary IPAM's default route must not compete with the pod's own."""
    node.nad("one", node.bridge("", 11, isDefaultGateway=True))
    node.annotate("one")

    answer = node.add()

    assert {("10.244.0.1", "eth0"), ("fd00:244::1", "eth0")} == pod.defaults()
    assert ["10.244.0.1", "fd00:244::1"] == [each["gw"] for each in answer["routes"]]


def test_empty_default_route_takes_what_the_network_brings(node: Node, pod: PodNetns):
    """D-04: `[]` keeps the network's own; a family it does not bring stays with the default network."""
    ipam = node.ipam(11, ranges=[[{"subnet": "10.11.0.0/24"}]])
    node.nad("one", {**node.bridge("", 11), "isDefaultGateway": True, "ipam": ipam})
    node.annotate([{"name": "one", "default-route": []}])

    node.add()

    assert {("10.11.0.1", "net1"), ("fd00:244::1", "eth0")} == pod.defaults()


def test_several_gateways_are_ordered_by_metric(node: Node, pod: PodNetns):
    """S-19: the order may map to a metric, and does."""
    two_networks(node)
    node.annotate([{"name": "one", "default-route": ["10.11.0.3", "10.11.0.4", "fd00:11::3"]}])

    node.add()

    assert {("10.11.0.3", "net1"), ("10.11.0.4", "net1"), ("fd00:11::3", "net1")} == pod.defaults()


def test_unreachable_gateway_fails_and_leaves_nothing(node: Node):
    """Every failure after the first touch is undone."""
    two_networks(node)
    node.annotate([{"name": "one", "default-route": ["192.0.2.1"]}])
    before = node.traces()

    error = node.fail()

    assert "192.0.2.1" in error["msg"]
    assert before == node.traces()


def test_failing_network_undoes_those_before_it(node: Node):
    """Rollback in reverse, the failing step included."""
    two_networks(node)
    node.nad("bad", {"cniVersion": "1.1.0", "type": "broken"})
    deleted = node.root / "deleted"
    node.script(
        "broken",
        f'[ $CNI_COMMAND = DEL ] && touch {deleted} && exit 0; echo \'{{"code":11,"msg":"later"}}\'; exit 1',
    )
    node.annotate("one,two,bad")
    before = node.traces()

    error = node.fail()

    assert (11, "network bad: plugin broken: later") == (error["code"], error["msg"])
    assert deleted.exists()
    deleted.unlink()
    assert before == node.traces()


@pytest.mark.parametrize("is_parallel", [False, True])
def test_a_rollback_tells_plugins_what_they_answered(node: Node, is_parallel: bool):
    """What firewall and others made they find by prevResult alone; nobody else's DEL comes."""
    node.settings = {"parallelAttachments": is_parallel}
    answer = '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24"}]}'
    told = node.root / "told"
    node.script("makes", f"[ $CNI_COMMAND = ADD ] && echo '{answer}' && exit 0; cat > {told}")
    node.script(
        "broken", '[ $CNI_COMMAND = DEL ] && exit 0; sleep 0.2; echo \'{"code":11,"msg":"later"}\'; exit 1'
    )
    node.nad("good", {"cniVersion": "1.1.0", "type": "makes"})
    node.nad("bad", {"cniVersion": "1.1.0", "type": "broken"})
    node.annotate("good,bad")

    node.fail()

    assert [{"address": "10.9.0.2/24"}] == json.loads(told.read_text())["prevResult"]["ips"]


def test_undo_that_fails_is_told_and_kept_for_the_next_del(node: Node):
    """S-32, P-05: everything is tried, the error is returned, what is left is kept."""
    node.nad("bad", {"cniVersion": "1.1.0", "type": "stubborn"})
    gone = node.root / "may-go"
    node.script("stubborn", f'[ $CNI_COMMAND = ADD ] && echo "{{}}" && exit 0; [ -e {gone} ] || exit 1')
    node.annotate("bad")
    node.add()

    error = node.fail("DEL")
    assert "detach net1 from network telco/bad" in error["msg"]
    assert [] == node.pod.links()
    gone.touch()
    node.delete()

    assert [] == list((node.root / "state" / "ledger").glob("sandbox*"))


def test_annotation_changed_between_add_and_del_changes_nothing(node: Node):
    """G3: what is torn down is what was built."""
    two_networks(node)
    node.annotate("one")
    before = node.traces()
    node.add()
    node.annotate("two")

    node.delete()

    assert before == node.traces()


def test_damaged_entry_is_set_aside_and_what_is_found_is_undone(node: Node, pod: PodNetns):
    """D-13: a torn entry is neither trusted nor thrown away."""
    node.settings = {"delegates": [node.bridge("default", 244)]}
    node.add()
    entry = node.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b"\n", b"", 1))

    error = node.fail("DEL")

    assert (106, True, True) == (error["code"], "link eth0" in error["msg"], "10.244.0.2" in error["msg"])
    assert [] == pod.links()
    assert 1 == len(list((node.root / "state" / "ledger" / "damaged").iterdir()))
    node.delete()


def test_damaged_entry_still_tells_where_its_networks_keep_their_addresses(node: Node):
    """A network's own directory is in no configuration of the node."""
    own = {"type": "host-local", "dataDir": str(node.root / "own"), "subnet": "10.9.0.0/24"}
    node.nad("one", node.bridge("one", 9) | {"ipam": own})
    node.annotate("one")
    before = node.traces()
    node.add()
    entry = node.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b"\n", b"", 1))

    error = node.fail("DEL")

    assert "10.9.0.2" in error["msg"]
    shutil.rmtree(node.root / "state" / "ledger" / "damaged")
    assert before == node.traces()


def test_directory_that_cannot_be_read_keeps_no_other_from_being_salvaged(node: Node, mocker):
    """It is told, and the addresses elsewhere are released."""
    unreadable = node.root / "no-directory"
    unreadable.write_text("")
    mocker.patch("meta_cni.ipam.host_local.DATA_DIRECTORY", str(unreadable))
    node.add()
    entry = node.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b"\n", b"", 1))

    error = node.fail("DEL")

    assert (106, True) == (error["code"], "10.244.0.2" in error["msg"])
    assert f"{unreadable}: Not a directory" in error["msg"]


def test_what_could_not_be_salvaged_is_looked_for_by_the_next_del(node: Node, mocker):
    """The entry was set aside before, and the next DEL found nothing to do: the address stayed."""
    before = node.traces()
    node.add()
    entry = node.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b"\n", b"", 1))
    refused = mocker.patch(
        "meta_cni.compose.host_local.release_container", side_effect=TryAgainLater("lock it: it is held")
    )

    error = node.fail("DEL")

    assert ("it stays for the next DEL" in error["msg"], "lock it" in error["msg"]) == (True, True)
    mocker.stop(refused)
    assert "10.244.0.2" in node.fail("DEL")["msg"]
    node.delete()
    shutil.rmtree(node.root / "state" / "ledger" / "damaged")
    assert before == node.traces()


def test_salvaging_beside_another_sandboxs_del(node: Node, mocker):
    """An entry that goes while it is looked for is no bug, after which nothing would be released."""
    node.add()
    ledger = node.root / "state" / "ledger"
    entry = ledger / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b"\n", b"", 1))
    (ledger / "another").write_text("{}")
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "another":
            path.unlink()
        return read(path)

    mocker.patch.object(Path, "read_bytes", read_bytes)

    error = node.fail("DEL")

    assert (106, True) == (error["code"], "10.244.0.2" in error["msg"])


def test_salvaging_in_our_own_namespace_is_refused(node: Node):
    """As with an entry that is whole."""
    node.add()
    entry = node.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b"\n", b"", 1))

    assert 8 == node.fail("DEL", CNI_NETNS="/proc/self/ns/net")["code"]

    assert 106 == node.fail("DEL")["code"]


def test_gc_of_a_call_that_names_a_container_undoes_every_other_one_as_its_own(node: Node, pod: PodNetns):
    """CNI_CONTAINERID says nothing to a GC; by it, the links went and the addresses stayed for ever."""
    before = node.traces()
    node.add()
    stdin = json.dumps({**node.configuration(), "cni.dev/valid-attachments": []}).encode()

    assert ({}, 0) == node.call("GC", stdin=stdin, CNI_CONTAINERID="another")

    assert before == node.traces()


def test_gc_undoes_what_the_runtime_does_not_list(node: Node):
    """D-09: GC heeds the runtime's list, and reaches every network."""
    two_networks(node)
    node.annotate("one")
    before = node.traces()
    node.add()
    listed = {"cni.dev/valid-attachments": [{"containerID": "sandbox", "ifname": "eth0"}]}
    kept = node.traces()
    assert ({}, 0) == node.call("GC", stdin=json.dumps({**node.configuration(), **listed}).encode())
    assert kept == node.traces()

    empty = {**node.configuration(), "cni.dev/valid-attachments": []}
    assert ({}, 0) == node.call("GC", stdin=json.dumps(empty).encode())

    assert before == node.traces()


def test_gc_of_a_runtime_that_has_no_attachment_undoes_all(node: Node):
    """libcni writes Go's empty list as null, which is not the same as no list."""
    before = node.traces()
    node.add()
    given = node.configuration()

    refused, code = node.call("GC", stdin=json.dumps(given).encode())
    none = {"cni.dev/valid-attachments": None, "cni.dev/attachments": None}
    done = node.call("GC", stdin=json.dumps({**given, **none}).encode())

    assert (1, 7) == (code, refused["code"])
    assert (({}, 0), before) == (done, node.traces())


def test_gc_releases_addresses_nobody_holds(node: Node):
    """A node that crashed leaves files of containers that are gone."""
    node.add()
    stray = node.root / "ipam" / "default" / "10.244.0.99"
    stray.write_bytes(b"gone\r\neth0")
    listed = {"cni.dev/valid-attachments": [{"containerID": "sandbox", "ifname": "eth0"}]}

    node.call("GC", stdin=json.dumps({**node.configuration(), **listed}).encode())

    assert not stray.exists()
    assert (node.root / "ipam" / "default" / "10.244.0.2").exists()


def test_gc_leaves_the_addresses_of_pods_from_before_us(
    node: Node, pods: Callable[[str], PodNetns], mocker: MockerFixture
):
    """
    The default network's plugin attached them when it was alone: no record of ours has them.

    A runtime lists them, or does so by the name of that network only, as CRI-O; it has its own records.
    """
    node.add()
    older, gone = pods("older"), pods("gone")
    results = node.root / "runtime" / "results"
    results.mkdir(parents=True)
    config = b64encode(json.dumps(node.bridge("default", 244)).encode()).decode()
    held = {"listed": 96, "recorded": 97, "strange": 98, "gone": 99}
    for name, last in held.items():
        (node.root / "ipam" / "default" / f"10.244.0.{last}").write_text(f"{name}\r\neth0")
    for name, where in ("recorded", older.path), ("strange", str(results)), ("gone", gone.path):
        made = {"kind": "cniCacheV1", "containerId": name, "ifName": "eth0", "netns": where}
        (results / f"default-{name}-eth0").write_text(json.dumps(made | {"config": config}))
    gone.close()
    mocker.patch("meta_cni.engine.inherited.RUNTIME", str(node.root / "runtime"))
    valid = [{"containerID": each, "ifname": "eth0"} for each in ("sandbox", "listed")]
    given = {**node.configuration(), "cni.dev/valid-attachments": valid}

    assert ({}, 0) == node.call("GC", stdin=json.dumps(given).encode())

    left = {each.name for each in (node.root / "ipam" / "default").glob("10.*")}
    assert {"10.244.0.2", "10.244.0.96", "10.244.0.97", "10.244.0.98"} == left


def test_gc_leaves_the_addresses_of_a_pod_whose_entry_is_damaged(node: Node, pods: Callable[[str], PodNetns]):
    """It may live, and what is left of its entry tells its interfaces; a DEL will release them."""
    two_networks(node)
    node.annotate("one")
    node.add()
    entry = node.root / "state" / "ledger" / "sandbox"
    entry.write_bytes(entry.read_bytes().replace(b'"telco/p"', b'"telco/q"', 1))
    other = pods("other")
    node.add(CNI_CONTAINERID="other", CNI_NETNS=other.path)
    before = node.traces()
    valid = [{"containerID": "other", "ifname": "eth0"}]
    given = {**node.configuration(), "cni.dev/valid-attachments": valid}

    error = node.fail("GC", stdin=json.dumps(given).encode())

    assert (107, before) == (error["code"], node.traces())


def test_gc_collects_nothing_when_it_cannot_tell_what_lives(node: Node, mocker: MockerFixture):
    """The runtime's records cannot be read: an address too many is better than one that two pods have."""
    node.add()
    (node.root / "ipam" / "default" / "10.244.0.99").write_text("gone\r\neth0")
    results = node.root / "runtime" / "results"
    results.parent.mkdir()
    results.symlink_to(results)
    mocker.patch("meta_cni.engine.inherited.RUNTIME", str(node.root / "runtime"))
    valid = [{"containerID": "sandbox", "ifname": "eth0"}]
    given = {**node.configuration(), "cni.dev/valid-attachments": valid}

    error = node.fail("GC", stdin=json.dumps(given).encode())

    assert "Too many levels of symbolic links" in error["msg"]
    assert (node.root / "ipam" / "default" / "10.244.0.99").exists()


def test_status_says_whether_an_add_could_be_served(node: Node):
    """D-10: at once, with the code of the specification."""
    assert ({}, 0) == node.call("STATUS")
    node.settings = {"readinessindicatorfile": str(node.root / "absent")}
    assert 50 == node.fail("STATUS")["code"]
    node.settings = {"delegates": [{"cniVersion": "1.1.0", "name": "x", "type": "macvlan", "master": "nope"}]}
    assert 50 == node.fail("STATUS")["code"]


@pytest.mark.parametrize("more", [{"type": "nowhere"}, {"type": "bridge", "ipam": {"type": "nowhere"}}])
def test_status_tells_of_a_program_that_is_not_there(node: Node, more: dict[str, object]):
    """A runtime looks for the code of the specification; it was 101."""
    node.settings = {"delegates": [{"cniVersion": "1.0.0", "name": "x", **more}]}

    error = node.fail("STATUS")

    assert (50, True) == (error["code"], "find plugin 'nowhere': expected it in" in error["msg"])


def test_status_asks_an_executed_plugin(node: Node):
    """From 1.1.0 on; its own code is what the runtime sees."""
    node.script("asked", 'echo \'{"code":51,"msg":"half"}\'; exit 1')
    node.settings = {"delegates": [{"cniVersion": "1.1.0", "name": "x", "type": "asked"}]}

    assert 51 == node.fail("STATUS")["code"]


def test_result_without_interfaces_is_completed_from_the_namespace(node: Node, pod: PodNetns):
    """P-21: old plugins answer addresses only."""
    bridge = 'import sys; from meta_cni.__main__ import plugin; sys.exit(plugin("bridge"))'
    node.script(
        "old",
        f"{sys.executable} -c {shlex.quote(bridge)} > $0.out || exit 1\n"
        '[ $CNI_COMMAND = ADD ] && echo \'{"cniVersion":"0.2.0","ip4":{"ip":"10.11.0.2/24"}}\'; exit 0',
    )
    node.nad("old", {**node.bridge("", 11), "cniVersion": "0.2.0", "type": "old"})
    node.annotate("old")

    answer = node.add()
    node.delete()

    entry = node.status()[1]
    assert (["10.11.0.2/24"], "net1", pod.path) == (
        entry["ips"],
        answer["interfaces"][3]["name"],
        answer["interfaces"][3]["sandbox"],
    )
    assert answer["interfaces"][3]["mac"] == entry["mac"]
    assert [] == pod.links()


def test_chained_behind_another_plugin_the_previous_result_comes_first(node: Node, pod: PodNetns):
    """P-15: the primary CNI stays the primary, the pod gets its other networks all the same."""
    two_networks(node)
    node.annotate("one")
    node.settings = {"delegates": []}
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": pod.path}],
        "ips": [{"address": "10.0.0.9/24", "interface": 0}],
    }
    stdin = json.dumps({**node.configuration(), "prevResult": previous}).encode()

    answer, code = node.call("ADD", stdin=stdin)

    assert (0, "10.0.0.9/24", ["net1"]) == (code, answer["ips"][0]["address"], pod.links())
    assert [True, False] == [each["default"] for each in node.status()]


def test_default_network_can_be_replaced_by_the_pod(node: Node, pod: PodNetns):
    """v1.multus-cni.io/default-network, with everything a selection may ask (P-17)."""
    two_networks(node)
    selection = json.dumps([{"name": "one", "namespace": "telco", "mac": "02:00:5e:00:53:01"}])
    node.annotate(**{"v1.multus-cni.io/default-network": selection})

    node.add()

    assert "02:00:5e:00:53:01" == link.require(pod.socket, "eth0", "link").mac
    assert ["telco/one"] == [each["name"] for each in node.status()]


def test_mixed_list_of_built_in_and_executed_plugins_passes_prev_result(node: Node):
    """A chained plugin sees what the built-in one answered."""
    seen = node.root / "seen"
    node.script(
        "after",
        f'[ $CNI_COMMAND = ADD ] && cat > {seen} && echo \'{{"cniVersion":"1.1.0",'
        '"interfaces":[{"name":"net1","sandbox":"x"}]}\'; exit 0',
    )
    plugins = f'[{json.dumps(node.bridge("", 11))}, {{"type": "after", "x": 1.10}}]'
    node.nad("mixed", f'{{"cniVersion": "1.1.0", "plugins": {plugins}}}')
    node.annotate("mixed")

    node.add()
    node.delete()

    assert '"x":1.10' in seen.read_text()
    assert "10.11.0.2/24" == json.loads(seen.read_text())["prevResult"]["ips"][0]["address"]
    assert [] == node.pod.links()


def test_delegate_that_hangs_is_ended_and_undone(node: Node):
    """D-33: a deadline for each delegate, by network."""
    node.nad("slow", {"cniVersion": "1.1.0", "type": "slow"})
    node.script("slow", "[ $CNI_COMMAND = ADD ] && sleep 60; exit 0")
    node.settings = {"networks": {"telco/slow": {"delegateTimeout": 2}}}
    node.annotate("slow")
    before = node.traces()

    assert 102 == node.fail()["code"]
    assert before == node.traces()


def test_type_that_is_ourselves_is_refused_by_what_it_is(node: Node, mocker):
    """P-14: under whatever name, no loop."""
    own = node.script("meta-cni", "exit 0")
    mocker.patch("sys.argv", [str(own)])
    node.script("other-name", "exit 0")
    node.nad("loop", {"cniVersion": "1.1.0", "type": "other-name"})
    node.annotate("loop")

    assert "is meta-cni itself" in node.fail()["msg"]


@pytest.mark.parametrize("text", ["meta-cni 1 answer %d %zu", "meta-cni 27 answer "])
def test_type_that_is_our_shim_is_refused_in_every_version(node: Node, text: str):
    """P-14: it would come back to the daemon, which would wait for itself."""
    node.script("multus", f"echo '{text}'")
    node.nad("loop", {"cniVersion": "1.1.0", "type": "multus"})
    node.nad("loops-for-addresses", {"cniVersion": "1.1.0", "type": "bridge", "ipam": {"type": "multus"}})

    for network in ("loop", "loops-for-addresses"):
        node.annotate(network)
        assert f"is meta-cni itself ({node.root}/bin/multus)" in node.fail()["msg"]


def test_call_by_our_own_delegate_is_refused(node: Node):
    """A wrapper script hides what it calls; the environment tells."""
    assert 4 == node.fail(META_CNI_CHAIN="sandbox")["code"]


def test_bug_in_our_own_code_is_undone_like_any_failure(node: Node, mocker):
    """Any exception, even a bug, must leave nothing behind."""
    two_networks(node)
    node.annotate("one")
    before = node.traces()
    mocker.patch("meta_cni.engine.status.network_status", side_effect=ZeroDivisionError("oops"))

    error = node.fail()

    assert (999, True) == (error["code"], "oops" in error["msg"])
    assert before == node.traces()


def test_store_that_refuses_the_status_fails_the_add_and_leaves_nothing(node: Node, mocker):
    """D-34: a failure after the delegates succeeded is undone, too."""
    from meta_cni.cni.errors import TryAgainLater

    before = node.traces()
    mocker.patch("meta_cni.k8s.file_store.FileStore.patch", side_effect=TryAgainLater("conflict"))

    assert 11 == node.fail()["code"]
    assert before == node.traces()


def test_full_disk_before_the_first_touch_touches_nothing(node: Node, mocker):
    """The ledger is written first; without it nothing is done."""
    before = node.traces()
    mocker.patch("meta_cni.engine.ledger.os.replace", side_effect=OSError(28, "No space left on device"))

    assert 5 == node.fail()["code"]
    assert before == node.traces()
