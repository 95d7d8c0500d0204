"""
Every scenario by the reference, by ours in process and by ours as an executable.

Same standard input, same node: same answer, same exit code, same kernel, same files, but for
what differences.py says.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import delegates
from meta_cni.cni import version as versions
from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import CNIError
from meta_cni.linux.netlink import Socket
from tests.conformance import scenario as scenarios
from tests.conformance.differences import INTENDED, Applied
from tests.conformance.programs import Executables, Program, find_reference, in_process
from tests.conformance.run import Outcome, differences, path_of, run
from tests.conformance.scenario import Scenario
from tests.guest.boots import REFERENCE as REFERENCE_BOOT
from tests.netns import features

pytestmark = pytest.mark.slow

REFERENCE = find_reference()
AGE = scenarios.number(REFERENCE.version or "999")
NEW_ENOUGH = (1, 6, 0)
"""The reference plugins that the table of differences is about."""


def spoken() -> list[str]:
    """The CNI versions that the reference speaks too."""
    if not REFERENCE.version:
        return list(versions.SUPPORTED)
    command = [REFERENCE.directory / "bridge"]
    done = subprocess.run(command, env={"CNI_COMMAND": "VERSION"}, input=b"{}", capture_output=True)
    theirs = json.loads(done.stdout)["supportedVersions"]
    return [each for each in versions.SUPPORTED if each in theirs]


def cases() -> list[tuple[Scenario, str]]:
    """
    What this reference is asked: (scenario, CNI version).

    Every version has its own form of a result; an error looks the same in all of them, so
    a scenario that never succeeds is run for the oldest and the newest. One that needs a newer
    reference stands there once, to be skipped.
    """
    known = spoken()
    return [
        (each.in_version(version).beside(AGE), version)
        for each in scenarios.load()
        for version in _versions(each, known)
    ]


def _versions(scenario: Scenario, known: list[str]) -> list[str]:
    if oldest(scenario) > AGE:
        return [(scenario.versions or known)[-1]]
    wanted = known if _succeeds(scenario) else [known[0], known[-1]]
    return [each for each in wanted if each in (scenario.versions or known)]


def oldest(scenario: Scenario) -> tuple[int, ...]:
    """The reference that it can be compared with."""
    return max(scenario.since, NEW_ENOUGH)


def _succeeds(scenario: Scenario) -> bool:
    return bool(scenario.versions) or any(s.command == "ADD" and not s.error for s in scenario.steps)


AGAIN = ("bridge-dual-stack", "macvlan-dual-stack", "ptp-dual-stack")
"""On the guest's kernel, too, which is older; for one CNI version each."""


CASES = cases()
NEWEST_OF = {scenario.name: version for scenario, version in CASES}


def marks(scenario: Scenario, version: str) -> list[pytest.MarkDecorator]:
    """What only the guest's kernel has runs there; `make test` has each scenario once."""
    is_newest = version == NEWEST_OF[scenario.name]
    is_again = is_newest and scenario.name in AGAIN and bool(REFERENCE.version)
    is_for_guest = oldest(scenario) <= AGE and (is_again or bool(scenario.needs))
    return [*[pytest.mark.reference] * is_for_guest, *[pytest.mark.older] * (not is_newest)]


PARAMETERS = [pytest.param(*each, id=f"{each[0].name}-{each[1]}", marks=marks(*each)) for each in CASES]


def not_built_in(scenario: Scenario, version: str) -> str:
    """Why ours cannot be asked; empty when it can."""
    for step in scenario.steps:
        if step.plugin not in delegates.BUILTIN:
            return f"{step.plugin} is not built in"
        document = {"cniVersion": version, "name": "net", "type": step.plugin, **step.config}
        try:
            refusal = delegates.load(step.plugin).refuses(parse_plugin(json.dumps(document), "network net"))
        except CNIError:
            continue  # a configuration that is wrong in itself is a step that fails
        if refusal:
            return f"{step.plugin}: {refusal}"
    return ""


EXECUTED_IN_GUEST = ("bond-plain", "dummy-dual-stack", "ipvlan-l3s", "vlan-mtu", "vrf-plain")
"""One of each type that only the guest's kernel has."""


def is_executed(scenario: Scenario, version: str) -> bool:
    """
    Is ours run as an executable, too?

    Everywhere but in the guest: to start Python takes seconds on its emulated processor, once for
    every step. There it is one scenario of each type that cannot be executed elsewhere, in the newest
    version; a bridge that filters VLANs is the executable that runs for all else a bridge has.
    """
    if not REFERENCE_BOOT.is_running:
        return True
    return scenario.name in EXECUTED_IN_GUEST and version == NEWEST_OF[scenario.name]


def need_both(scenario: Scenario, version: str) -> None:
    """Skip by what is missing."""
    if scenario.needs:
        with Socket.open_host() as socket:
            features.need(socket, scenario.needs)
    if oldest(scenario) > AGE:
        pytest.skip(f"reference plugins older than v{'.'.join(map(str, oldest(scenario)))}")
    for plugin in sorted({step.counterpart for step in scenario.steps}):
        if not REFERENCE.has(plugin):
            pytest.skip(f"no reference plugin {plugin}")
    refusal = not_built_in(scenario, version)
    if refusal:
        pytest.skip(refusal)


def require_errors(scenario: Scenario, who: str, outcome: Outcome) -> None:
    """Each step fails where the file says so, with its words, and nowhere else."""
    for number, step in enumerate(scenario.steps):
        path, words = path_of(number, step), step.error.get(who)
        told: Any = {key: value for key, value in outcome.items() if key.startswith(f"{path}.answer")}
        assert (words is not None) == (outcome[f"{path}.exit"] != 0), f"{who}: {path}: {told}"
        message = "; ".join(str(value) for key, value in told.items() if key.endswith((".msg", ".details")))
        message = message or f"exit {outcome[f'{path}.exit']}"  # of a crash
        assert (words or "") in message, f"{who}: {path}: {message!r} has no {words!r}"
        if who == "ours" and step.code:
            assert step.code == told[f"{path}.answer.code"], f"{who}: {path}: {told}"


def told_apart(scenario: Scenario, theirs: Outcome, ours: Outcome) -> list[str]:
    """The differences, without the codes that the file has and require_errors() looks at."""
    steps = enumerate(scenario.steps)
    known = tuple(f"{path_of(number, step)}.answer.code: " for number, step in steps if step.code)
    return [each for each in differences(theirs, ours) if not each.startswith(known)]


def require_defect(scenario: Scenario, theirs: Outcome, ours: Outcome) -> None:
    """What the reference does wrong, it does; and we do not."""
    for who, pattern in scenario.defect.items():
        one, other = (theirs, ours) if who == "reference" else (ours, theirs)
        assert lines_with(pattern, one), f"{who} has no line with {pattern}: is the defect mended?"
        assert [] == lines_with(pattern, other)


def lines_with(pattern: str, outcome: Outcome) -> list[str]:
    """The lines of an outcome that have it."""
    lines = [f"{path}: {value}" for path, value in outcome.items()]
    return [each for each in lines if re.search(pattern, each)]


@pytest.mark.parametrize(("scenario", "version"), PARAMETERS)
def test_same_outcome_as_the_reference(
    scenario: Scenario, version: str, tmp_path: Path, applied: Applied, executables: Executables
):
    """In every CNI version, three ways; is_executed() says where it is two."""
    need_both(scenario, version)
    programs = {"reference": REFERENCE.call, "in-process": in_process}
    if is_executed(scenario, version):
        programs["executable"] = executables.call

    outcomes = run_all(scenario, version, programs, tmp_path)

    theirs = outcomes.pop("reference")
    require_errors(scenario, "reference", theirs)
    for name, ours in outcomes.items():
        lines = [f"{scenario.name} {version}: {each}" for each in told_apart(scenario, theirs, ours)]
        unlisted = applied.unlisted(scenario.plugin, lines)
        assert not unlisted, f"{name}:\n" + "\n".join(unlisted)
        require_errors(scenario, "ours", ours)
        require_defect(scenario, theirs, ours)
    applied.scenarios.add((scenario.name, version))


def run_all(
    scenario: Scenario, version: str, programs: Mapping[str, Program], directory: Path
) -> dict[str, Outcome]:
    """Every program at once, each on a node of its own."""
    path = str(REFERENCE.directory)  # the reference executes its IPAM; ours need not
    asked = {"reference": (scenario.of_the_reference(), path)}
    with ThreadPoolExecutor(len(programs)) as pool:
        running = {}
        for name, program in programs.items():
            steps, cni_path = asked.get(name, (scenario, "/nowhere"))
            running[name] = pool.submit(run, steps, version, program, directory / name, cni_path)
        return {name: each.result() for name, each in running.items()}


@pytest.mark.reference
def test_every_intended_difference_is_needed(applied: Applied):
    """A table that only grows says nothing; where only some scenarios ran, it is not judged."""
    not_judged = {each.needs for each, version in CASES if (each.name, version) not in applied.scenarios}
    mended = {each for each in INTENDED if each.until and AGE >= scenarios.number(each.until)}
    judged = [each for each in INTENDED if each.needs not in not_judged and each not in mended]
    unneeded = [f"{each.plugin or 'all'}: {each.pattern}" for each in judged if each not in applied.entries]

    assert [] == unneeded
