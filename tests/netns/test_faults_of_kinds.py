"""
Faults at the doors of links of the kinds that few kernels have, in ADD, DEL and CHECK.

An emulated Python takes its time: of what these kinds ask the kernel for, a few faults are drawn,
the same ones each time. `FAULTS=all` is all of them, and whole pods of such links.
"""

import shutil
from collections.abc import Iterator

import pytest
from pytest_mock import MockerFixture

from tests.netns import drawing, features, trials
from tests.netns.faults import Kind, World
from tests.netns.sequences import Worker
from tests.netns.trials import EVERY, Daemon, Place, Plugin, Scenario, Trial, host_local, static

pytestmark = [pytest.mark.guest, pytest.mark.slow]

MOST = {"ADD": 2, "DEL": 1, "CHECK": 1}
KINDS = ("ipvlan", "vlan", "vrf", "dummy", "bond", features.VLAN_FILTERING)
MACVLAN = {"type": "macvlan", "master": drawing.MASTER}
BOND = {"type": "bond", "mode": "active-backup", "miimon": "100", "failOverMac": 1}
VLANS = {"vlan": 10, "vlanTrunk": [{"minID": 20, "maxID": 22}], "isDefaultGateway": True}
BRIDGE = {"type": "bridge", "bridge": "br1", "ipam": host_local(1), **VLANS}
MADE = ("br1", "br1.10")
VLAN = {"type": "vlan", "master": "own1", "vlanId": 7, "ipam": host_local(1)}
DUMMY = {"type": "dummy", "ipam": host_local(3, routes=[{"dst": "10.200.0.0/24"}])}
VRF = {"type": "vrf", "vrfname": "vrf1"}


def bond(*links: str, **more: bool) -> Plugin:
    return {**BOND, "links": [{"name": each} for each in links], "ipam": host_local(2), **more}


SCENARIOS = (
    Scenario("bridge of VLANs", ((BRIDGE,),), fresh=MADE),
    Scenario("ipvlan", (({"type": "ipvlan", "master": "own1", "ipam": host_local(1)},),), devices=("own1",)),
    Scenario("vlan of a node that has its name", ((VLAN,),), devices=("own1", "own2"), interface="own2"),
    Scenario("dummy in a VRF", ((DUMMY, VRF),)),
    Scenario("bond", ((bond("own1", "own2"),),), devices=("own1", "own2")),
    Scenario(
        "network of a device",
        (({"type": "host-device", "device": "own1", "useInterfaceNetwork": True, "ipam": host_local(1)},),),
        networked=("own1",),
    ),
)
PODS = (
    Scenario(
        "pod of VLANs",
        (
            (BRIDGE,),
            ({"type": "host-device", "device": "own2", "useInterfaceNetwork": True},),
            ({**VLAN, "ipam": static(2)},),
            (DUMMY, VRF),
        ),
        Daemon,
        devices=("own1",),
        networked=("own2",),
        fresh=MADE,
    ),
    Scenario(
        "pod of a bond",
        (
            ({"type": "ipvlan", "master": "own1", "ipam": host_local(1)},),
            (MACVLAN,),
            (MACVLAN,),
            (bond("eth0n0", "eth0n1", linksInContainer=True),),
            ({"type": "vlan", "master": "eth0n2", "linkInContainer": True, "vlanId": 5, "ipam": static(3)},),
        ),
        Daemon,
        devices=("own1",),
    ),
)


def sampled(verb: str, places: list[Place]) -> list[Place]:
    """What the kernel is asked for; files and programs are the same as with other kinds."""
    own = [each for each in places if each[1].kind is Kind.KERNEL]
    return trials.drawn(own, MOST[verb], verb)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A node for all of them."""
    with trials.node() as made:
        yield made


@pytest.fixture
def world(mocker: MockerFixture) -> World:
    """The doors."""
    return World(mocker)


@pytest.mark.parametrize("scenario", [*SCENARIOS, *(PODS if EVERY else ())], ids=lambda each: each.name)
def test_nothing_is_left_by_a_fault(worker: Worker, world: World, scenario: Scenario):
    """Links come and go as others do, but each kind has messages of its own."""
    for each in KINDS:
        features.need(worker.host, each)
    trial = Trial(worker, world, scenario)
    try:
        failures = trial.run(sampled, is_collecting=False)
    finally:
        shutil.rmtree(trial.root)
        worker.drop()

    assert failures == [], "\n\n".join(failures)
