"""
Our own configuration, as a runtime gives it to us on standard input.

Beside our keys (settings) there are those that the specification gives every plugin: prevResult,
runtimeConfig, and the valid attachments of a GC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from meta_cni.cni import request as requests
from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import RawObject, Section, kind_of
from meta_cni.cni.errors import BadConfig, DecodeFailure
from meta_cni.cni.result import Result
from meta_cni.settings import Settings
from meta_cni.settings import parse as parse_settings

GC_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")  # libcni writes both


class NoConfiguration(BadConfig):
    """There is none of ours where the runtime's are."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A runtime's standard input, read."""

    settings: Settings
    problems: tuple[str, ...]
    runtime_config: Mapping[str, object]
    previous: Result | None
    valid: frozenset[tuple[str, str]] | None
    """`cni.dev/valid-attachments` of a GC; None when absent."""
    is_ledger_known: bool = True
    """Not where `cniDir` is wrong: without it a DEL would find nothing, and call that success."""


@lru_cache(maxsize=16)
def read_configuration(text: str | bytes) -> Configuration:
    """
    Read our own configuration; raises DecodeFailure (6), BadConfig (7) or IncompatibleVersion (1).

    Problems with our own keys do not stop a DEL, so they are returned. A runtime gives the same to
    every ADD, so the newest texts are remembered.
    """
    raw = RawObject.parse(text, "standard input")
    section = Section("configuration", raw.values())
    name = section.string("name")
    if not name:
        raise BadConfig("configuration: missing network name: expected name")
    if not requests.NAME.match(name):
        raise section.wrong("name", "a letter or digit, then letters, digits, '_', '.' or '-'")
    version = versions.require_supported(section.string("cniVersion") or versions.WHEN_ABSENT)
    values = section.values
    texts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    if section.value("delegates") is not None:
        if isinstance(section.value("delegates"), list):
            texts = raw.elements_of("delegates")
        else:
            problems = (f"delegates {kind_of(section.value('delegates'))}: expected a list of objects",)
    settings, more = parse_settings({**values, "cniVersion": version}, texts)
    runtime = section.section("runtimeConfig")
    return Configuration(
        settings=settings,
        problems=(*problems, *more),
        runtime_config=runtime.values if runtime else {},
        previous=_previous(section, version),
        valid=valid_attachments(section),
        is_ledger_known=section.value("cniDir") in (None, settings.cni_dir),
    )


def _previous(section: Section, version: str) -> Result | None:
    previous = section.section("prevResult")
    if previous is None:
        return None
    try:
        return results.parse(previous.values, version)
    except DecodeFailure as error:
        raise DecodeFailure(f"configuration: prevResult: {error.message}") from None


def valid_attachments(section: Section) -> frozenset[tuple[str, str]] | None:
    """
    The (container id, interface) pairs that a GC is to leave alone; None when it tells none.

    A runtime without any attachment tells null: libcni writes Go's empty list so.
    """
    if not any(key in section.values for key in GC_KEYS):
        return None
    key = next((each for each in GC_KEYS if section.values.get(each) is not None), GC_KEYS[0])
    return frozenset((each.string("containerID"), each.string("ifname")) for each in section.sections(key))
