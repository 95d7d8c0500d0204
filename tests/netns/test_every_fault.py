"""
Every fault at every door of every call: after it, and what a runtime does then, nothing may be left.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from meta_cni.ipam import reservations
from tests.netns import drawing, leftovers, trials
from tests.netns.faults import World
from tests.netns.sequences import Worker
from tests.netns.trials import Daemon, Place, Scenario, Trial, bridge, host_local, static

TUNING = {
    "type": "tuning",
    "dataDir": "{root}/tuning",
    "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "511"},
    "mac": "02:00:00:00:00:77",
    "promisc": True,
    "allmulti": True,
    "mtu": 1280,
    "txQLen": 100,
}
ROUTES = {"type": "route-override", "flushgateway": True, "addroutes": [{"dst": "10.201.0.0/24"}]}
OWN = {"type": "host-device", "device": "own1"}
SCENARIOS = (
    Scenario("bridge", ((bridge(1, isDefaultGateway=True, hairpinMode=True, mac="02:00:00:00:00:01"),),)),
    Scenario("new bridge", ((bridge(1, isGateway=True, mtu=1400),),), fresh=("br1",)),
    Scenario(
        "bridge, nftables",
        ((bridge(1, ipMasq=True, ipMasqBackend="nftables", macspoofchk=True),),),
        programs=("nft",),
    ),
    Scenario(
        "bridge, iptables", ((bridge(1, ipMasq=True, ipMasqBackend="iptables"),),), programs=("iptables",)
    ),
    Scenario("macvlan", (({"type": "macvlan", "master": drawing.MASTER, "ipam": static(1)},),)),
    Scenario("ptp", (({"type": "ptp", "ipam": host_local(1, routes=[{"dst": "0.0.0.0/0"}])},),)),
    Scenario(
        "ptp, iptables",
        (({"type": "ptp", "ipam": host_local(1), "ipMasq": True, "ipMasqBackend": "iptables"},),),
        programs=("iptables",),
    ),
    Scenario("tap", (({"type": "tap", "multiQueue": True, "owner": 0, "mtu": 1400, "ipam": static(1)},),)),
    Scenario("host-device", (({**OWN, "ipam": host_local(1)},),), devices=("own1",)),
    Scenario("loopback", (({"type": "loopback"},),)),
    Scenario("bridge, tuning", ((bridge(1), TUNING),)),
    Scenario("bridge, sbr", ((bridge(1, isGateway=True), {"type": "sbr"}),)),
    Scenario("bridge, route-override", ((bridge(1, isDefaultGateway=True), ROUTES),)),
    Scenario(
        "pod, executed",
        (
            (bridge(1, isDefaultGateway=True),),
            ({"type": "marks"}, {"type": "marks", "dns": {"search": ["a"]}}),
            (bridge(3), {"type": "marks"}),
        ),
        Daemon,
        scripts=("marks",),
    ),
    Scenario(
        "pod",
        (
            (bridge(1, isDefaultGateway=True),),
            ({"type": "macvlan", "master": drawing.MASTER, "ipam": static(2)},),
            ({"type": "ptp", "ipam": host_local(3)},),
            ({"type": "tap", "ipam": host_local(4)},),
        ),
        Daemon,
    ),
)


MOST_LOOKS = 12
"""Of the doors of CHECK and of GC: what most of them open, other verbs open, too."""


def sampled(verb: str, places: list[Place]) -> list[Place]:
    """All that change something, some of the others."""
    return places if verb in ("ADD", "DEL") else trials.drawn(places, MOST_LOOKS, verb)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A node for all of them."""
    with trials.node() as made:
        yield made


@pytest.fixture
def world(mocker: MockerFixture) -> World:
    """The doors."""
    return World(mocker)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_nothing_is_left_by_any_fault(worker: Worker, world: World, scenario: Scenario):
    """Whatever fails, wherever a call is killed."""
    trial = Trial(worker, world, scenario)
    try:
        failures = trial.run(sampled)
    finally:
        shutil.rmtree(trial.root)
        worker.drop()

    assert failures == [], "\n\n".join(failures)


def test_what_is_forgotten_is_told_with_its_place(worker: Worker, world: World, mocker: MockerFixture):
    """A proof that could not fail would be none."""
    mocker.patch.object(leftovers, "DEADLINE_S", 0.0)
    mocker.patch("tests.netns.trials.MOST", 1)
    (scenario,) = [each for each in SCENARIOS if each.name == "ptp"]
    trial = Trial(worker, world, scenario)
    mocker.patch("meta_cni.ipam.reservations.remove")
    try:
        failures = trial.run(sampled)
    finally:
        shutil.rmtree(trial.root)

    assert re.search(r"ptp: ADD: door \d+, .*: left .*: \+ /run/faults/ptp/ipam/n0/10", failures[0])


def test_what_a_gc_takes_of_others_is_told(worker: Worker, world: World, mocker: MockerFixture):
    """As soon as it is gone."""
    mocker.patch.object(leftovers, "DEADLINE_S", 0.0)
    mocker.patch("tests.netns.trials.MOST", 1)
    (scenario,) = [each for each in SCENARIOS if each.name == "ptp"]
    trial = Trial(worker, world, scenario)

    def reclaim(directory: Path, *_: object) -> None:
        reservations.remove(reservations.listing(directory))

    mocker.patch("meta_cni.ipam.host_local.reclaim", reclaim)
    try:
        failures = trial.run(lambda verb, places: places if verb == "GC" else [])
    finally:
        shutil.rmtree(trial.root)

    assert re.search(r"ptp: GC: door \d+, .*: removed by GC: .*/run/faults/ptp/ipam/n0/10", failures[0])
