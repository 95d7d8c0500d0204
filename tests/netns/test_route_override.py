"""The built-in route-override: failures that undo, CHECK, and lists in which everything is mixed."""

import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from meta_cni.linux import route
from meta_cni.linux.netlink import Socket
from tests.netns.chain import ours, references, theirs, wire
from tests.netns.conftest import Node, PodNetns


def config(previous: dict[str, Any] | None, **keys: Any) -> dict[str, Any]:
    made = {"cniVersion": "1.0.0", "name": "net", "type": "route-override", **keys}
    return made if previous is None else {**made, "prevResult": previous}


def routes(pod: PodNetns) -> set[tuple[str, str]]:
    """(destination, gateway), what is link-local aside."""
    found = [each for each in route.dump(pod.socket) if not each.destination.is_link_local]
    return {(str(each.destination), str(each.gateway)) for each in found}


@pytest.fixture
def previous(pod: PodNetns, host: Socket) -> dict[str, Any]:
    """An interface with an address and the routes that its plugin set up."""
    result = wire(pod, host, "eth0", "10.60.0.2/24", "fd60::2/64")
    told = [{"dst": "10.9.0.0/16", "gw": "10.60.0.1"}, {"dst": "0.0.0.0/0", "gw": "10.60.0.1"}]
    index = next(each.interface_index for each in route.dump(pod.socket))
    for each in told:
        added = route.Route(ip_network(each["dst"]), ip_address(each["gw"]), index)
        pod.socket.request([route.add(added)])
    return {**result, "routes": told}


def test_a_change_that_fails_leaves_the_routes_as_they_were(pod: PodNetns, previous: dict[str, Any]):
    """The reference deletes, adds what it can, and says that all is well."""
    before = routes(pod)
    added = [{"dst": "10.50.0.0/16", "gw": "10.60.0.9"}, {"dst": "10.51.0.0/16", "gw": "192.0.2.1"}]

    answer, code = ours("route-override", pod)("ADD", config(previous, flushroutes=True, addroutes=added))

    assert (1, 100) == (code, answer["code"])
    assert "add route 10.51.0.0/16 via 192.0.2.1: " in answer["msg"]
    assert before == routes(pod)


def test_the_reference_says_that_all_is_well(pod: PodNetns, previous: dict[str, Any]):
    """Its result tells a route that is not there."""
    (binary, *_) = references("route-override")
    added = [{"dst": "10.51.0.0/16", "gw": "192.0.2.1"}]

    answer, code = theirs(binary, pod)("ADD", config(previous, addroutes=added))

    assert 0 == code
    assert "10.51.0.0/16" in json.dumps(answer["routes"])
    assert "10.51.0.0/16" not in {destination for destination, _ in routes(pod)}


def test_a_route_that_is_there_already_is_an_error(pod: PodNetns, previous: dict[str, Any]):
    """Two hops to one destination are not what was asked for."""
    added = [{"dst": "10.9.0.0/16", "gw": "10.60.0.9"}]

    answer, code = ours("route-override", pod)("ADD", config(previous, addroutes=added))

    assert (1, 100) == (code, answer["code"])
    assert "add route 10.9.0.0/16 via 10.60.0.9: " in answer["msg"]
    assert ("10.9.0.0/16", "10.60.0.1") in routes(pod)


def test_one_route_is_put_in_the_place_of_another(pod: PodNetns, previous: dict[str, Any]):
    """delroutes and addroutes of one destination."""
    keys = {"delroutes": [{"dst": "10.9.0.0/16"}], "addroutes": [{"dst": "10.9.0.0/16", "gw": "10.60.0.9"}]}

    answer, code = ours("route-override", pod)("ADD", config(previous, **keys))

    assert code == 0, answer
    assert {("10.9.0.0/16", "10.60.0.9"), ("0.0.0.0/0", "10.60.0.1")} <= routes(pod)
    assert ("10.9.0.0/16", "10.60.0.1") not in routes(pod)
    assert [{"dst": "0.0.0.0/0", "gw": "10.60.0.1"}, {"dst": "10.9.0.0/16", "gw": "10.60.0.9"}] == answer[
        "routes"
    ]
    assert ({}, 0) == ours("route-override", pod)("CHECK", config(answer, **keys))


def test_everything_that_a_route_may_have_is_set(pod: PodNetns, previous: dict[str, Any]):
    """The reference sets destination and gateway alone."""
    added = {
        "dst": "10.50.0.0/16",
        "gw": "10.60.0.9",
        "mtu": 1300,
        "advmss": 1200,
        "priority": 7,
        "table": 77,
    }

    answer, code = ours("route-override", pod)("ADD", config(previous, addroutes=[added]))

    assert code == 0, answer
    (found,) = route.dump(pod.socket, 77)
    assert (1300, 1200, 7) == (found.mtu, found.advmss, found.priority)
    assert ({}, 0) == ours("route-override", pod)("CHECK", config(answer, addroutes=[added]))


def test_check_finds_what_came_back_and_what_was_taken_away(pod: PodNetns, previous: dict[str, Any]):
    """Exactly these routes: the reference asks how an address is reached, which another route may answer."""
    keys: dict[str, Any] = {"flushgateway": True, "addroutes": [{"dst": "10.50.0.0/16", "gw": "10.60.0.9"}]}
    call = ours("route-override", pod)
    answer, _ = call("ADD", config(previous, **keys))
    (added,) = [each for each in route.dump(pod.socket) if str(each.destination) == "10.50.0.0/16"]
    asked = config(answer, **keys)
    assert ({}, 0) == call("CHECK", asked)

    pod.socket.request([route.delete(added)])
    without, code = call("CHECK", asked)
    pod.socket.request([route.add(added)])
    default = route.Route(route.ANYWHERE[4], added.gateway, added.interface_index)
    pod.socket.request([route.add(default)])
    again, _ = call("CHECK", asked)

    assert 1 == code
    assert "route 10.50.0.0/16 via 10.60.0.9 is not there" in without["msg"]
    assert "route 0.0.0.0/0 is there again" in again["msg"]
    assert ({}, 0) == call("CHECK", {**asked, "skipcheck": True})


def test_without_a_previous_result_it_says_where_it_belongs(pod: PodNetns):
    """The reference crashes."""
    answer, code = ours("route-override", pod)("ADD", config(None, flushroutes=True))

    assert (1, 7) == (code, answer["code"])
    assert "prevResult is missing: expected another plugin before it in the list" in answer["msg"]


def test_a_result_without_interfaces_is_about_ours(pod: PodNetns, previous: dict[str, Any]):
    """Of versions before 0.3.0, or of a plugin that tells none."""
    told = {key: value for key, value in previous.items() if key not in ("interfaces", "ips")}

    answer, code = ours("route-override", pod)("ADD", config(told, flushgateway=True))

    assert code == 0, answer
    assert "0.0.0.0/0" not in {destination for destination, _ in routes(pod)}


WRONG = [
    ({"flushroutes": "yes"}, 'flushroutes "yes": expected true or false'),
    ({"delroutes": {"dst": "10.0.0.0/8"}}, "expected a list of objects"),
    (
        {"delroutes": [{"dst": "10.0.0.0"}]},
        'delroutes[0]: dst "10.0.0.0": expected a network in CIDR notation',
    ),
    ({"addroutes": [{"dst": "10.0.0.0/8", "gw": "x"}]}, 'addroutes[0]: gw "x": expected an IP address'),
    ({"args": {"cni": {"addroutes": [{}]}}}, "dst"),
]


@pytest.mark.parametrize(("keys", "text"), WRONG)
def test_a_wrong_key_is_named_before_anything_is_changed(
    pod: PodNetns, previous: dict[str, Any], keys: dict[str, Any], text: str
):
    """And what would be right."""
    before = routes(pod)

    answer, code = ours("route-override", pod)("ADD", config(previous, **{"flushroutes": True, **keys}))

    assert (1, 7) == (code, answer["code"])
    assert text in answer["msg"]
    assert before == routes(pod)


def mixed(node: Node, script: str) -> dict[str, Any]:
    """A list in which built-in and executed plugins take turns."""
    return {
        "cniVersion": "1.0.0",
        "name": "mixed",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "br11",
                "isDefaultGateway": True,
                "ipam": node.ipam(11, routes=[{"dst": "10.9.0.0/16"}]),
            },
            {"type": "tuning", "mtu": 1400, "dataDir": str(node.root / "tuning")},
            {"type": script},
            {
                "type": "route-override",
                "flushgateway": True,
                "addroutes": [{"dst": "10.50.0.0/16", "gw": "10.11.0.9"}],
            },
        ],
    }


RECORDER = """
cat >"$0.$CNI_COMMAND"
[ "$CNI_COMMAND" = ADD ] || exit 0
python3 - "$0.ADD" <<'P'
import json, sys
given = json.load(open(sys.argv[1]))
result = given["prevResult"]
result["dns"] = {"nameservers": ["10.11.0.53"]}
print(json.dumps(result))
P
"""


def test_built_in_and_executed_plugins_mix_in_one_list(node: Node):
    """prevResult goes from one to the other both ways, through every verb, and nothing is left."""
    recorder = node.script("recorder", RECORDER)
    node.nad("mixed", mixed(node, "recorder"))
    node.annotate("mixed")
    before = node.traces()

    node.add()
    given = json.loads(Path(f"{recorder}.ADD").read_text())["prevResult"]
    (status,) = [each for each in node.status() if each["name"] == "telco/mixed"]
    after = {(str(each.destination), str(each.gateway)) for each in route.dump(node.pod.socket)}
    assert ({}, 0) == node.call("CHECK")
    node.delete()

    assert ["br11", "net1"] == sorted(
        each["name"] for each in given["interfaces"] if "veth" not in each["name"]
    )
    assert {"10.9.0.0/16", "0.0.0.0/0", "::/0"} == {each["dst"] for each in given["routes"]}
    assert ["10.11.0.53"] == status["dns"]["nameservers"]
    assert ("10.50.0.0/16", "10.11.0.9") in after
    assert ("0.0.0.0/0", "10.11.0.1") not in after
    for verb in ("CHECK", "DEL"):
        seen = json.loads(Path(f"{recorder}.{verb}").read_text())["prevResult"]
        assert "10.50.0.0/16" in {each["dst"] for each in seen["routes"]}
        Path(f"{recorder}.{verb}").unlink()
    Path(f"{recorder}.ADD").unlink()
    assert before == node.traces()


def test_a_list_that_fails_at_its_last_plugin_leaves_nothing(node: Node):
    """Everything before it is undone, built in or executed."""
    recorder = node.script("recorder", RECORDER)
    broken = mixed(node, "recorder")
    broken["plugins"][3]["addroutes"] = [{"dst": "10.50.0.0/16", "gw": "192.0.2.1"}]
    node.nad("mixed", broken)
    node.annotate("mixed")
    before = node.traces()

    error = node.fail()

    assert "add route 10.50.0.0/16 via 192.0.2.1" in error["msg"]
    assert Path(f"{recorder}.DEL").exists()
    for verb in ("ADD", "DEL"):
        Path(f"{recorder}.{verb}").unlink()
    assert before == node.traces()


def test_check_of_a_list_accepts_a_route_that_was_added_on_the_link_itself(node: Node):
    """The bridge is asked about the whole list's result, in which such a route has no gateway."""
    bridge = {**node.bridge("", 244), "isGateway": True}
    override = {"type": "route-override", "addroutes": [{"dst": "10.201.0.0/24"}]}
    plugins = [{key: value for key, value in bridge.items() if key not in ("name", "cniVersion")}, override]
    node.settings = {"delegates": [{"cniVersion": "1.1.0", "name": "default", "plugins": plugins}]}
    node.add()
    assert ({}, 0) == node.call("CHECK")

    (added,) = [each for each in route.dump(node.pod.socket) if str(each.destination) == "10.201.0.0/24"]
    node.pod.socket.request([route.delete(added)])

    assert "route 10.201.0.0/24" in node.fail("CHECK")["msg"]


def test_check_finds_a_route_that_a_plugin_behind_it_has_moved(node: Node):
    """sbr takes what an interface has out of the main table."""
    bridge = {**node.bridge("", 244), "isGateway": True}
    override = {"type": "route-override", "addroutes": [{"dst": "10.201.0.0/24"}]}
    first = {key: value for key, value in bridge.items() if key not in ("name", "cniVersion")}
    plugins = [first, override, {"type": "sbr"}]
    node.settings = {"delegates": [{"cniVersion": "1.1.0", "name": "default", "plugins": plugins}]}

    node.add()

    assert "10.201.0.0/24" not in {str(each.destination) for each in route.dump(node.pod.socket)}
    assert ({}, 0) == node.call("CHECK")
    for each in route.dump(node.pod.socket, 0):
        if str(each.destination) == "10.201.0.0/24":
            node.pod.socket.request([route.delete(each)])
    assert "route 10.201.0.0/24" in node.fail("CHECK")["msg"]
