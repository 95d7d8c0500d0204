"""
One scenario by one program, on a node of its own: what was answered and what it left.

The outcome is a flat table, path -> value, so that a difference is one line. Random names and
addresses are written as what they are of, so that those that should be equal stay equal.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meta_cni.linux import netns
from tests.conformance import state
from tests.conformance.programs import Program
from tests.conformance.scenario import LAST, Scenario, Step

NAMESPACES = "/run/netns"
OF_A_NETWORK = ("GC", "STATUS")
"""Verbs of no attachment: its variables are empty, as libcni has them, and there is no prevResult."""
RANDOM_NAME = re.compile(r"(?:veth|dev)[0-9a-f]{8}")
MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")
KNOWN_MAC = re.compile(r"00:00:00:00:00:00|02:00:5e:|ff:ff:ff:ff:ff:ff")

Outcome = dict[str, Any]


def run(scenario: Scenario, version: str, program: Program, directory: Path, cni_path: str) -> Outcome:
    """Make node and pod, take the steps, tell everything; several may run at once."""
    directory.mkdir()
    paths = {name: f"{NAMESPACES}/{directory.name}-{name}" for name in ("node", "pod")}
    for path in paths.values():
        netns.create(path)
    node, pod = (netns.open_netns(path) for path in paths.values())
    try:
        attempt = Attempt(version, program, directory, cni_path, pod, paths)
        return netns.run_in(node, lambda: attempt.run(scenario))
    finally:
        for descriptor in (node, pod):
            os.close(descriptor)
        for path in paths.values():
            netns.remove(path)
        Path(gone(paths)).unlink(missing_ok=True)  # the reference sbr makes a file of it


def gone(paths: Mapping[str, str]) -> str:
    """The path of a namespace that is no more."""
    return f"{paths['pod']}-gone"


class Attempt:
    """The steps of one scenario; it is run by a thread in the node's namespace."""

    def __init__(
        self,
        version: str,
        program: Program,
        directory: Path,
        cni_path: str,
        pod: int,
        paths: Mapping[str, str],
    ) -> None:
        self.version = version
        self.program = program
        self.directory = directory
        self.cni_path = cni_path
        self.pod = pod
        self.netns = {**paths, "gone": gone(paths), "none": ""}
        self.previous: dict[tuple[str, str], Any] = {}
        """(container, interface) -> what its last ADD answered."""

    def run(self, scenario: Scenario) -> Outcome:
        """The outcome of every step, flat."""
        self._change(scenario.before)
        outcome: Outcome = {}
        for number, step in enumerate(scenario.steps):
            self._change(step.change)
            outcome.update(flat(self._step(step), path_of(number, step)))
        return outcome

    def _change(self, lines: Mapping[str, list[str]]) -> None:
        """Run shell lines on the node and in the pod."""
        if lines.get("node"):
            shell(self._placed(lines["node"]))
        if lines.get("pod"):
            netns.run_in(self.pod, lambda: shell(self._placed(lines["pod"])))

    def _placed(self, lines: list[str]) -> list[str]:
        return [each.replace("@data", str(self.directory)) for each in lines]

    def _step(self, step: Step) -> dict[str, Any]:
        printed, code = self.program(step.plugin, self._environment(step), self._stdin(step))
        answer = documents(printed)
        if step.command == "ADD" and code == 0:
            self.previous[step.container, step.interface] = json.loads(printed)
        found = state.everything(self.pod, self.directory)
        told = {"exit": code, "answer": answer, **found}
        places = {self.netns["node"]: "@node", self.netns["pod"]: "@pod", str(self.directory): "@data"}
        return normal(told, places)

    def _environment(self, step: Step) -> dict[str, str]:
        attachment = {
            "CNI_CONTAINERID": step.container,
            "CNI_NETNS": self.netns[step.netns],
            "CNI_IFNAME": step.interface,
            "CNI_ARGS": step.args,
        }
        values = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": step.command,
            **(dict.fromkeys(attachment, "") if step.command in OF_A_NETWORK else attachment),
            "CNI_PATH": self.cni_path,
            **step.environment,
        }
        return {key: value for key, value in values.items() if value is not None}

    def _stdin(self, step: Step) -> bytes:
        if step.stdin is not None:
            return self._placed([step.stdin])[0].encode()
        config = {"cniVersion": self.version, "name": "net", "type": step.plugin, **step.config}
        is_of_one = step.command not in OF_A_NETWORK
        previous = self.previous.get((step.container, step.interface)) if is_of_one else None
        if step.previous != LAST:
            previous = step.previous
        if previous is not None and (step.command != "ADD" or step.previous != LAST or _is_chained(step)):
            config["prevResult"] = previous
        return json.dumps(config).replace("@data", str(self.directory)).encode()


def path_of(number: int, step: Step) -> str:
    """Where the outcome of a step is; it names who is meant to fail."""
    outcomes = {"": "", "ours reference": "-failed", "reference": "-failed-there", "ours": "-failed-here"}
    return f"{number}.{step.command}{outcomes[' '.join(sorted(step.error))]}"


def _is_chained(step: Step) -> bool:
    """An ADD of a plugin that stands behind another one in a list."""
    return step.plugin in ("tuning", "sbr", "route-override", "portmap", "bandwidth", "firewall", "vrf")


def shell(lines: list[str]) -> None:
    """Lines of the scenario in the namespace of the calling thread; one that fails fails the test."""
    done = subprocess.run(["sh", "-ec", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, (lines, done.stderr)


def documents(printed: bytes) -> Any:
    """What was printed: one JSON document as it is, several or none in a list."""
    decoder, text, found = json.JSONDecoder(), printed.decode().strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found[0] if len(found) == 1 else found


def normal(told: dict[str, Any], places: Mapping[str, str]) -> Any:
    """Random names numbered in the node's order; random MACs as those of the link that has them."""
    text = json.dumps(told)
    for path, place in places.items():
        text = text.replace(path, place)
    owners = {link["address"]: place for place in ("pod", "node") for link in told[place]["links"].values()}
    names = [each for each in told["node"]["links"] if RANDOM_NAME.fullmatch(each)]
    for number, name in enumerate(names):
        text = text.replace(name, f"veth#{number}")
    text = RANDOM_NAME.sub("veth#?", text)
    text = MAC.sub(lambda found: _mac(found[0], owners), text)
    return json.loads(text)


def _mac(mac: str, owners: Mapping[str, str]) -> str:
    """A MAC that somebody chose stays; a random one is there (on a link that exists) or is not."""
    if KNOWN_MAC.match(mac):
        return mac
    return f"MAC in the {owners[mac]}" if mac in owners else "MAC of nobody"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a document with their paths; an empty container is a leaf."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from flat(item, f"{path}[{number}]")
    else:
        yield path, value


ABSENT = "(absent)"
OF_A_LINK = re.compile(
    r"\.(?:links\.|sysctls\.ipv./conf/|addresses\.|vlans\.|routes\..* dev )(?P<link>[^ ./]+)[ ./]"
)


def differences(theirs: Outcome, ours: Outcome) -> list[str]:
    """
    One line for every path with another value.

    A link that only one has is one line; an empty container in a state is as good as none.
    """
    lines = []
    for path in sorted({*theirs, *ours}, key=_order):
        one, other = theirs.get(path, ABSENT), ours.get(path, ABSENT)
        if one != other and not _is_empty(path, one, other) and not _is_of_one(path, theirs, ours):
            lines.append(f"{path}: {one!r} -> {other!r}")
    return lines


def _is_empty(path: str, *values: Any) -> bool:
    return any(each in ({}, []) for each in values) and ".answer" not in path


def _is_of_one(path: str, theirs: Outcome, ours: Outcome) -> bool:
    """Does it belong to a link that only one of them has?"""
    found = OF_A_LINK.search(path)
    if found is None or path.endswith(".is"):
        return False
    step, place = re.match(r"(\d+\.[^.]+)\.(\w+)", path).groups()  # type: ignore[union-attr]
    link = f"{step}.{place}.links.{found['link']}.is"
    return (link in theirs) != (link in ours)


def _order(path: str) -> tuple[int, str]:
    """Step by step."""
    number, _, rest = path.partition(".")
    return int(number), rest
