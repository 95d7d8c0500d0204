"""CNI versions: which exist, how they compare, which one to speak."""

import re
from collections.abc import Iterable
from functools import lru_cache

from meta_cni.cni.errors import DecodeFailure, IncompatibleVersion

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = SUPPORTED[-1]
WHEN_ABSENT = "0.1.0"  # CNI specification: a configuration without cniVersion is 0.1.0

NUMBER = re.compile(r"[0-9]{1,9}")

Version = tuple[int, int, int]


@lru_cache(maxsize=64)
def parse(text: str) -> Version:
    """MAJOR.MINOR.PATCH as numbers, so that they compare; raises DecodeFailure."""
    parts = text.split(".")
    if len(parts) != 3 or not all(NUMBER.fullmatch(part) for part in parts):
        raise DecodeFailure(f"cniVersion {text!r}: expected MAJOR.MINOR.PATCH, for example {NEWEST}")
    major, minor, patch = (int(part) for part in parts)
    return major, minor, patch


@lru_cache(maxsize=256)
def at_least(version: str, minimum: str) -> bool:
    """Is `version` the same as or newer than `minimum`?"""
    return parse(version) >= parse(minimum)


def require_supported(version: str, what: str = "config") -> str:
    """The version of `what`, when somebody here speaks it; else IncompatibleVersion (code 1)."""
    parse(version)
    if version not in SUPPORTED:
        raise IncompatibleVersion(
            "incompatible CNI versions",
            f'{what} is "{version}", meta-cni supports {", ".join(SUPPORTED)}',
        )
    return version


def choose(versions: Iterable[str], version: str) -> str:
    """
    The newest version that both the configuration (`cniVersions` or `cniVersion`) and we speak.

    Every one is parsed, so a malformed one is an error even where another would do. When none
    is ours, `version` itself or else the first of `versions` is returned, so that the error
    names what the configuration asked for.
    """
    candidates = (*versions, version) if version else tuple(versions)
    newest_first = sorted(candidates, key=parse, reverse=True)
    spoken = (candidate for candidate in newest_first if candidate in SUPPORTED)
    return next(spoken, version or next(iter(candidates), WHEN_ABSENT))
