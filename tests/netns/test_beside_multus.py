"""
"It replaces Multus without a change to any manifest", held to Multus itself.

Every row of multus_inputs.py is done once by a real thin Multus and by ours, as it decides itself and with
every plugin executed; what differs and stands not in multus_differences.py fails. It skips without a Multus.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meta_cni.linux import link, netns
from meta_cni.linux.netlink import Socket
from tests.k8s.stand_in import StandIn
from tests.kubelet import FakeKubelet
from tests.netns import beside_multus, multus_differences
from tests.netns.beside_multus import Outcome, Program, Row, World
from tests.netns.conftest import PodNetns
from tests.netns.multus_differences import INTENDED, Difference
from tests.netns.multus_inputs import ROWS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program() -> str:
    """Multus."""
    found = beside_multus.find_multus()
    if found is None:
        pytest.skip("no multus")
    return found


@pytest.fixture(scope="module")
def needed() -> set[Difference]:
    """Entries that some row needed."""
    return set()


@pytest.fixture(scope="module")
def stand_in(private_node: netns.Private) -> Iterator[StandIn]:
    """Go's client sends its token by TLS alone."""
    with StandIn(is_tls=True) as made:
        yield made


Done = Callable[[Row, Program], Outcome]


@pytest.fixture
def done(
    tmp_path: Path, host: Socket, outside: PodNetns, fake_kubelet: FakeKubelet, stand_in: StandIn
) -> Done:
    """One run, on a node of its own as far as anybody can see."""
    before = {each.name for each in link.dump(host)}
    directories = (tmp_path / each for each in ("theirs", "executed", "ours"))

    def run(row: Row, program: Program) -> Outcome:
        pod = PodNetns("pod")
        stand_in.objects.known.clear()
        try:
            return beside_multus.run(World(next(directories), row, stand_in, pod, fake_kubelet), program)
        finally:
            pod.close()
            beside_multus.clear(host, before)
            stand_in.stop()
            stand_in.start()

    return run


@pytest.mark.parametrize("name", ROWS)
def test_what_multus_does(
    name: str, program: str, done: Done, fake_kubelet: FakeKubelet, needed: set[Difference]
):
    """Answers, annotations, the pod, what plugins are given and in which order, and what is left."""
    row, directory = ROWS[name], fake_kubelet.directory

    theirs = done(row, beside_multus.multus(program, directory))
    executed = done(row, beside_multus.ours(directory, "exec"))
    usual = done(row, beside_multus.ours(directory, "auto"))

    lines = beside_multus.differences(theirs, executed)
    more = beside_multus.differences(without_calls(theirs), without_calls(usual))
    left = multus_differences.unlisted(name, list(dict.fromkeys([*lines, *more])), needed)
    assert not left, "\n".join(("Multus -> ours", *left))


def without_calls(outcome: Outcome) -> Outcome:
    """Built in, nobody is executed."""
    return {path: value for path, value in outcome.items() if ".calls." not in path}


def test_every_intended_difference_is_needed(
    program: str, request: pytest.FixtureRequest, needed: set[Difference]
):
    """A table that only grows says nothing; where only some rows ran, it is not judged."""
    ran = [each for each in request.session.items if "test_what_multus_does[" in each.nodeid]
    if len(ran) == len(ROWS):
        assert [] == [each.pattern for each in INTENDED if each not in needed]
