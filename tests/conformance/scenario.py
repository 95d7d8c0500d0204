"""
A scenario: what a runtime asks of a plugin, step by step, and on which node.

One YAML file each, whose name is the claim:

    plugin: bridge                 # the type, and the default of every step
    about: why anyone cares
    since: 1.6.0                   # the oldest reference that has what is asked for
    defect: 'DEL.*masquerade'      # what the reference does wrong: a line of its outcome, or {ours: ...}
    until: 1.10.0                  # the first reference without the defect; only it is asked to succeed then
    versions: [1.0.0, 1.1.0]       # default: every CNI version that both speak
    needs: bridge VLAN filtering   # what the kernel must have (tests/netns/features.py)
    before:                        # shell lines (with @data) that make the node and the pod what they are
      node: [ip link add up0 type veth peer name sw0]
      pod: []
    config: {bridge: br0}          # without cniVersion, name and type; @data is the test's directory
    steps:
      - ADD
      - {command: CHECK, change: {pod: [ip address flush dev eth0]}, error: address}

A step may also have `plugin` (where our IPAM is asked by a main plugin, and the reference's itself:
one for each of `reference` and `ours`), `container`, `interface`, `netns` (pod, node, gone or none), `args`
(CNI_ARGS), `config` (keys put over those above; null takes one away), `stdin` (sent as it is, but for @data),
`environment` (over the variables; null takes one away) and `previous`. prevResult is what the
last ADD answered, whichever plugin of a chain that was, unless `previous` says otherwise.
`error` is a text in both messages, or one for each of `reference` and `ours`; `code` is ours, where the
reference has another one (999, internal, for nearly everything). A CHECK that is to succeed is left
out for versions before 0.4.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from meta_cni.cni import version as versions

DIRECTORY = Path(__file__).parent / "scenarios"
LAST = "last"
"""Of `previous`: what the last ADD of this attachment answered, where it answered anything."""
STEP_KEYS = {
    *("command", "plugin", "container", "interface", "netns", "args"),
    *("config", "stdin", "environment", "previous", "change", "error", "code"),
}
SCENARIO_KEYS = {
    *("plugin", "about", "since", "versions", "needs", "before", "config", "steps"),
    *("defect", "until"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One call."""

    command: str
    plugin: str
    """Of ours."""
    counterpart: str
    """The plugin of the reference that has the same to do; nearly always of the same type."""
    container: str = "c1"
    interface: str = "eth0"
    netns: str = "pod"
    args: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    stdin: str | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    previous: Any = LAST
    change: Mapping[str, list[str]] = field(default_factory=dict)
    error: Mapping[str, str] = field(default_factory=dict)
    code: int = 0
    """Of our error, where it is another one than the reference's."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file."""

    name: str
    plugin: str
    steps: tuple[Step, ...]
    before: Mapping[str, list[str]] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    since: tuple[int, ...] = ()
    needs: str = ""
    defect: Mapping[str, str] = field(default_factory=dict)
    """Whose outcome has what the other's has not -> a pattern of its lines."""
    until: tuple[int, ...] = ()

    def of_the_reference(self) -> "Scenario":
        """As its plugins are asked."""
        return replace(self, steps=tuple(replace(each, plugin=each.counterpart) for each in self.steps))

    def in_version(self, version: str) -> "Scenario":
        """Without a CHECK that is to succeed where there is no such verb yet."""
        if versions.at_least(version, "0.4.0"):
            return self
        steps = tuple(each for each in self.steps if each.command != "CHECK" or each.error)
        return replace(self, steps=steps)

    def beside(self, reference: tuple[int, ...]) -> "Scenario":
        """Without the defect, where this reference has mended it."""
        if not self.until or reference < self.until:
            return self
        mended = ({key: text for key, text in each.error.items() if key == "ours"} for each in self.steps)
        steps = tuple(replace(each, error=error) for each, error in zip(self.steps, mended, strict=True))
        return replace(self, steps=steps, defect={})


def _step(given: str | dict[str, Any], scenario: Mapping[str, Any]) -> Step:
    values = {"command": given} if isinstance(given, str) else dict(given)
    assert set(values) <= STEP_KEYS, set(values) - STEP_KEYS
    merged = {**scenario.get("config", {}), **values.get("config", {})}
    values["config"] = {key: value for key, value in merged.items() if value is not None}
    plugin = values.pop("plugin", scenario["plugin"])
    both = {"reference": plugin, "ours": plugin} if isinstance(plugin, str) else plugin
    values.update(plugin=both["ours"], counterpart=both["reference"])
    error = values.get("error")
    if isinstance(error, str):
        values["error"] = {"reference": error, "ours": error}
    assert all(values.get("error", {}).values()), f"{values}: an error says something"
    return Step(**values)


def parse(name: str, text: str) -> Scenario:
    """Read one file; a key that nobody knows is refused."""
    document = yaml.safe_load(text)
    assert set(document) <= SCENARIO_KEYS, set(document) - SCENARIO_KEYS
    return Scenario(
        name=name,
        plugin=document["plugin"],
        steps=tuple(_step(each, document) for each in document["steps"]),
        before=document.get("before", {}),
        versions=tuple(document.get("versions", ())),
        since=number(document.get("since", "0")),
        needs=document.get("needs", ""),
        defect=_defect(document.get("defect", {})),
        until=number(document["until"]) if "until" in document else (),
    )


def _defect(given: str | dict[str, str]) -> dict[str, str]:
    return {"reference": given} if isinstance(given, str) else given


def number(version: str) -> tuple[int, ...]:
    """A version of the reference as numbers, so that it compares."""
    return tuple(int(part) for part in str(version).lstrip("v").split("-")[0].split("."))


def load(directory: Path = DIRECTORY) -> list[Scenario]:
    """Every scenario, by name."""
    return [parse(path.stem, path.read_text()) for path in sorted(directory.glob("*.yaml"))]
