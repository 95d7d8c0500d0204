"""What is told: one result, one network-status, in the standard's form or in Multus'."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.cni import result as results
from meta_cni.cni.result import Interface, IPConfig, Result
from meta_cni.engine.status import Attached, complete, merged, network_status

GOLDEN = Path(__file__).parents[2] / "golden" / "status"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def attached(case: Path) -> list[Attached]:
    documents = json.loads((case / "attached.json").read_text())
    return [
        Attached(
            network=each["network"],
            interface=each["interface"],
            is_default=each["default"],
            result=results.parse(each["result"], "1.1.0"),
            device=each.get("device", ""),
            asked_default_route=each.get("asked", False),
        )
        for each in documents
    ]


@pytest.mark.parametrize("form", ["standard", "multus"])
@pytest.mark.parametrize("case", CASES)
def test_status_is_as_in_the_golden_case(case: str, form: str, golden: Callable[[Path, str], None]):
    """S-22 to S-25, and what Multus' users rely on."""
    status = network_status(None, "", attached(GOLDEN / case), form)

    golden(GOLDEN / case / f"status-{form}.json", json.dumps(status, indent=2) + "\n")


@pytest.mark.parametrize("form", ["merged", "default"])
@pytest.mark.parametrize("case", CASES)
def test_result_is_as_in_the_golden_case(case: str, form: str, golden: Callable[[Path, str], None]):
    """The default network first, indexes shifted."""
    result = results.to_json(merged(None, attached(GOLDEN / case), form), "1.1.0")

    golden(GOLDEN / case / f"result-{form}.json", json.dumps(result, indent=2) + "\n")


def test_previous_result_comes_first_in_both():
    """Chained behind a primary plugin, that is the default network."""
    previous = Result((Interface("eth0", sandbox="/n"),), (ip("10.0.0.2/24", 0),))
    own = Attached("ns/a", "net1", False, Result((Interface("net1", sandbox="/n"),), (ip("10.1.0.2/24", 0),)))

    told = merged(previous, [own], "default")
    status = network_status(previous, "primary", [own], "standard")

    assert [0, 1] == [each.interface for each in told.ips]
    assert [("primary", True), ("ns/a", False)] == [(each["name"], each["default"]) for each in status]


def test_previous_result_without_sandbox_still_has_an_entry():
    """S-22: a minimal map where the primary tells nothing."""
    assert [{"name": "primary", "default": True, "dns": {}}] == network_status(
        Result(), "primary", [], "standard"
    )


def ip(text: str, index: int | None = None) -> IPConfig:
    from ipaddress import ip_interface

    return IPConfig(ip_interface(text), None, index)


FOUND = Interface("net1", "02:00:00:00:00:01")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result(), Result((Interface("net1", FOUND.mac, "/n"),), (ip("10.9.0.1/24", 0),))),
        (
            Result((Interface("net1"),)),
            Result((Interface("net1", FOUND.mac, "/n"),), (ip("10.9.0.1/24", 0),)),
        ),
        (
            Result((Interface("net1", "x", "/other"),), (ip("10.1.0.1/24"),)),
            Result((Interface("net1", "x", "/other"),), (ip("10.1.0.1/24", 0),)),
        ),
        (
            Result((Interface("veth0"),), (ip("10.1.0.1/24"),)),
            Result((Interface("veth0"), Interface("net1", FOUND.mac, "/n")), (ip("10.1.0.1/24", 1),)),
        ),
    ],
)
def test_what_a_delegate_left_out_is_completed(result: Result, expected: Result):
    """What it did say is kept."""
    assert expected == complete(result, "net1", "/n", FOUND, [ip("10.9.0.1/24")])


def test_interface_that_is_no_link_stays_as_told():
    """A userspace device has no link in the pod."""
    assert Result() == complete(Result(), "net1", "/n", None, [])
