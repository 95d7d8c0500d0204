"""Golden plans: what would be done for a pod, and with what."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.config import PluginConfig, parse_network
from meta_cni.cni.errors import CNIError
from meta_cni.cni.request import Request
from meta_cni.engine.networks import Network
from meta_cni.engine.plan import Execution, Plan, Wanted, build, link_group
from meta_cni.engine.selection import parse
from meta_cni.settings import Settings

GOLDEN = Path(__file__).parents[2] / "golden" / "plan"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def choose(plugin: PluginConfig, policy: str, ipam_policy: str) -> Execution:
    """Bridges and macvlans run here, unless the policy says otherwise."""
    is_builtin = plugin.type in ("bridge", "macvlan") and policy != "exec"
    return Execution(plugin, is_builtin, f"policy {policy}", "" if is_builtin else f"/bin/{plugin.type}")


def plan_of(case: dict[str, Any], settings: Settings | None = None) -> Plan:
    networks = {
        name: Network(name, parse_network(json.dumps(text), name, default_name=name.split("/")[-1]), name)
        for name, text in case["networks"].items()
    }
    selections = parse(json.dumps(case["annotation"]), "ns", "annotation")
    wanted = [Wanted(networks[name]) for name in case["defaults"]]
    wanted += [Wanted(networks[each.reference], each) for each in selections]
    args = {"K8S_POD_NAME": "p", "K8S_POD_NAMESPACE": "ns"}
    request = Request("ADD", "c", "/run/netns/p", "eth0", args, ("/bin",), {}, b"")
    chained = case.get("chained", False)
    configured = settings or Settings(**case.get("settings", {}))
    return build(
        request, "ns/p", wanted, configured, choose, case.get("runtimeConfig", {}), is_chained=chained
    )


def told(plan: Plan) -> dict[str, Any]:
    return {
        "steps": [
            {
                "interface": step.interface,
                "network": step.network,
                "default": step.is_default,
                "group": step.group,
                "device": step.device,
                "args": dict(step.cni_args),
                "warnings": list(step.warnings),
                "plugins": [
                    {"builtin": each.is_builtin, "reason": each.reason, "stdin": each.plugin.raw.text()}
                    for each in step.executions
                ],
            }
            for step in plan.steps
        ],
        "defaultRoutes": [
            [each.family, each.owner, [str(gateway) for gateway in each.gateways], each.is_requested]
            for each in plan.default_routes
        ],
    }


@pytest.mark.parametrize("case", CASES)
def test_plan_is_as_in_the_golden_case(case: str, golden: Callable[[Path, str], None]):
    """Order, names, capabilities, arguments, default route."""
    document = json.loads((GOLDEN / case / "pod.json").read_text())

    golden(GOLDEN / case / "plan.json", json.dumps(told(plan_of(document)), indent=2) + "\n")


def test_bad_plugin_of_any_network_stops_the_plan():
    """Nothing may be touched when any step is wrong; all are told."""

    def refuse(plugin: PluginConfig, policy: str, ipam_policy: str) -> Execution:
        raise CNIError(f"no {plugin.type}")

    config = parse_network('{"name":"a","plugins":[{"type":"x"},{"type":"y"}]}', "a")
    request = Request("ADD", "c", "/n", "eth0", {}, (), {}, b"")

    with pytest.raises(CNIError, match="no x; no y"):
        build(request, "", [Wanted(Network("a", config, "a"))], Settings(), refuse, {})


def test_groups_of_different_requests_differ():
    """Two networks of one container under podman are deleted apart."""
    assert link_group("eth0", 0) != link_group("eth1", 0)
    assert link_group("eth0", 0) != link_group("eth0", 1)


APART = {"type": "x"}


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"type": "y"}, ["net1", "net2", "net3"]),
        ({"type": "bridge"}, ["net1", "net3"]),
        ({"plugins": [{"type": "y"}, {"type": "macvlan"}]}, ["net1", "net3"]),
        ({"type": "y", "isDefaultGateway": True}, ["net1", "net3"]),
        ({"type": "y", "ipam": {"routes": [{"dst": "0.0.0.0/0"}]}}, ["net1", "net3"]),
        ({"type": "y", "ipam": {"routes": [{"dst": "::/0"}]}}, ["net1", "net3"]),
        ({"type": "y", "master": "net1"}, []),
        ({"type": "y", "links": [{"name": "net3"}]}, []),
        ({"type": "bridge", "master": "net3"}, []),
    ],
)
def test_only_what_needs_nothing_of_another_is_attached_side_by_side(
    second: dict[str, Any], expected: list[str]
):
    """A bond over net1 and net2 comes behind both; a default route is taken out before the next one comes."""
    networks = {"d": {"type": "bridge"}, "ns/a": APART, "ns/b": second, "ns/c": APART}
    case = {"networks": networks, "defaults": ["d"], "annotation": [{"name": each} for each in "abc"]}

    plan = plan_of(case, Settings(is_parallel=True))

    assert expected == [each.interface for each in plan.steps if each.is_side_by_side]
    assert not any(each.is_side_by_side for each in plan_of(case).steps)


def test_who_asks_for_the_default_route_is_not_attached_side_by_side():
    """It is settled in order."""
    networks = {"d": {"type": "bridge"}, "ns/a": APART, "ns/b": APART, "ns/c": APART}
    annotation = [{"name": "a", "default-route": ["10.0.0.1"]}, {"name": "b"}, {"name": "c"}]
    case = {"networks": networks, "defaults": ["d"], "annotation": annotation}

    plan = plan_of(case, Settings(is_parallel=True))

    assert ["net2", "net3"] == [each.interface for each in plan.steps if each.is_side_by_side]
