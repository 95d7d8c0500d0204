"""
Network configurations, kept as the administrator wrote them.

A plugin gets exactly the bytes of every key that we do not have to change: a number keeps
its format, an unknown key its place. So a configuration is held as the JSON text of its
members (RawObject), and only the members that the specification has the runtime inject are
put in or replaced ("Section 4: Derived execution configuration").

Go's decoder, which every reference plugin uses, takes object keys in any case. Known keys
are therefore found in any case here as well, with a warning.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from meta_cni.cni import version as versions
from meta_cni.cni.errors import BadConfig, DecodeFailure
from meta_cni.cni.request import NAME
from meta_cni.cni.result import (
    Address,
    InterfaceAddress,
    Network,
    Route,
    address_of,
    interface_address_of,
    network_of,
)

Found = TypeVar("Found")

PREVIOUS = "prevResult"
LIST_KEYS = (
    "cniVersion",
    "cniVersions",
    "name",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
)
COMMON_KEYS = (
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "ipam",
    "dns",
    "args",
    "runtimeConfig",
    PREVIOUS,
)
"""The keys every plugin configuration may have."""
HANDED_KEYS = ("deviceID", "pciBusID")
"""What a meta plugin puts into every plugin of a network with a device; most have no use for it."""
OBJECT_KEYS = ("ipam", "dns", "args", "runtimeConfig")


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


DEEPEST = 100  # far above any configuration, and far below where Python gives up on encoding it
SPACE = " \t\n\r"  # RFC 8259, section 2; str.strip() alone would take more
_SURROGATE = re.compile("[\ud800-\udfff]")
_encode_string = json.encoder.encode_basestring
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def encode(document: Mapping[str, object]) -> bytes:
    """A document as it is printed, by lines; what is no UTF-8 is written as an escape."""
    return indented(document).encode(errors="backslashreplace") + b"\n"


def encode_compact(document: Mapping[str, object]) -> bytes:
    """As encode(), on one line: a result, which runtimes decode and nobody waits to read."""
    return _ENCODER.encode(document).encode(errors="backslashreplace") + b"\n"


def indented(value: object, margin: str = "\n") -> str:
    """JSON text by lines, as json.dumps() writes it, which has no fast way of doing so."""
    if isinstance(value, str):
        return _encode_string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    inner = margin + "    "
    if isinstance(value, dict):
        if not value:
            return "{}"
        members = [f"{_encode_string(key)}: {indented(each, inner)}" for key, each in value.items()]
        return "{" + inner + ("," + inner).join(members) + margin + "}"
    if isinstance(value, list | tuple) and value:
        elements = [indented(each, inner) for each in value]
        return "[" + inner + ("," + inner).join(elements) + margin + "]"
    return _ENCODER.encode(value)


def decode(text: str | bytes, what: str) -> object:
    """Decode one JSON document; raises DecodeFailure telling where it breaks."""
    document = as_text(text, what)
    start = len(document) - len(document.lstrip(SPACE))
    try:
        value, end = _DECODER.raw_decode(document, start)
    except RecursionError:
        raise DecodeFailure(f"decode {what}: nested too deeply: expected at most {DEEPEST} levels") from None
    except ValueError as error:
        raise DecodeFailure(f"decode {what}: {_json_problem(error)}") from None
    if document[end:].strip(SPACE):
        raise DecodeFailure(f"decode {what}: more than one JSON document")
    brackets = document.count("{") + document.count("[")  # few of them cannot be deep in each other
    if brackets > DEEPEST and _is_deeper(value, DEEPEST):
        raise DecodeFailure(f"decode {what}: nested too deeply: expected at most {DEEPEST} levels")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    """Are there more than so many containers in each other?"""
    level = [value]
    for _ in range(levels):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def as_text(text: str | bytes, what: str) -> str:
    """UTF-8 text; a byte order mark is passed over. Raises DecodeFailure."""
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DecodeFailure(f"decode {what}: byte {error.start} is not UTF-8") from None


def _json_problem(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    return str(error)


@dataclass(frozen=True, slots=True)
class RawObject:
    """A JSON object as ordered members, each with the text that its value was written as."""

    written: tuple[tuple[str, str | None], ...]
    """Keys and texts; None for the text of a value that was put in and that nobody has asked for yet."""
    decoded: Mapping[str, object] = field(repr=False, hash=False)
    """The members decoded, of equal keys the last one, as in Go; nobody changes them."""

    @classmethod
    def parse(cls, text: str | bytes, what: str) -> "RawObject":
        """Raises DecodeFailure when it is not exactly one JSON object."""
        value = decode(text, what)
        if not isinstance(value, dict):
            raise DecodeFailure(f"decode {what}: expected a JSON object, got {kind_of(value)}")
        return cls(tuple(_split_members(as_text(text, what).strip(SPACE))), value)

    @classmethod
    def of(cls, members: Iterable[tuple[str, str]]) -> "RawObject":
        """An object of members whose texts are known to be JSON."""
        kept = tuple(members)
        return cls(kept, {key: _DECODER.decode(text) for key, text in kept})

    @property
    def members(self) -> tuple[tuple[str, str], ...]:
        """The members in their order, each with the text of its value."""
        decoded = self.decoded
        return tuple([(key, _encode(decoded[key]) if text is None else text) for key, text in self.written])

    def values(self) -> dict[str, object]:
        """The members decoded; of equal keys the last one counts, as in Go."""
        return dict(self.decoded)

    def text_of(self, key: str) -> str | None:
        """The JSON text of a member: the key as written, else in any case."""
        members = self.members
        exact = [text for name, text in members if name == key]
        folded = [text for name, text in members if name.casefold() == key.casefold()]
        found = exact or folded
        return found[-1] if found else None

    def elements_of(self, key: str) -> tuple[str, ...]:
        """The JSON text of each element of a member that is an array."""
        text = self.text_of(key)
        return () if text is None else tuple(_split_elements(text))

    def put(self, key: str, value: object) -> "RawObject":
        """
        The object with a member set (in place when it is there, in any case, else at the end).

        The value is as decode() would give it, and nobody changes it any more.
        """
        if isinstance(value, str) and self.decoded.get(key) == value and self._is_alone(key):
            return self
        return self._put(key, _encode(value), value)

    def put_late(self, key: str, value: object) -> "RawObject":
        """As put(), for a long value whose text few need: it is written when it is asked for."""
        return self._put(key, None, value)

    def _is_alone(self, key: str) -> bool:
        """The member is there once, in whatever case."""
        folded = key.casefold()
        return [name.casefold() for name, _ in self.written].count(folded) == 1

    def _has(self, key: str) -> bool:
        """The member is there, in whatever case."""
        return key.casefold() in map(str.casefold, self.decoded)

    def put_text(self, key: str, text: str) -> "RawObject":
        """As put(), with the value's JSON text."""
        return self._put(key, text, _DECODER.decode(text))

    def _put(self, key: str, text: str | None, value: object) -> "RawObject":
        if not self._has(key):
            return RawObject((*self.written, (key, text)), {**self.decoded, key: value})
        folded = key.casefold()
        kept: list[tuple[str, str | None]] = []
        is_put = False
        for name, old in self.written:
            if name.casefold() != folded:
                kept.append((name, old))
            elif not is_put:
                kept.append((key, text))
                is_put = True
        decoded = {name: value for name, value in self.decoded.items() if name.casefold() != folded}
        return RawObject(tuple(kept), {**decoded, key: value})

    def drop(self, key: str) -> "RawObject":
        """The object without a member, in whatever case it was written."""
        if not self._has(key):
            return self
        folded = key.casefold()
        kept = tuple(member for member in self.written if member[0].casefold() != folded)
        decoded = {name: value for name, value in self.decoded.items() if name.casefold() != folded}
        return RawObject(kept, decoded)

    def text(self) -> str:
        """The object as JSON text."""
        return "{" + ",".join(f"{_encode_key(key)}:{text}" for key, text in self.members) + "}"


def _encode(value: object) -> str:
    """JSON text; a lone surrogate, which UTF-8 cannot write, keeps its escape."""
    text = _ENCODER.encode(value)
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return json.dumps(value, separators=(",", ":"))


@lru_cache(maxsize=256)
def _encode_key(key: str) -> str:
    """There are few keys, and many objects."""
    return _encode(key)


def _skip_space(text: str, index: int) -> int:
    while text[index] in SPACE:
        index += 1
    return index


def _split_members(text: str) -> Iterable[tuple[str, str]]:
    """The members of an object that is known to be valid JSON."""
    index = _skip_space(text, 1)
    while text[index] != "}":
        key, index = _DECODER.raw_decode(text, index)
        start = _skip_space(text, _skip_space(text, index) + 1)
        _, index = _DECODER.raw_decode(text, start)
        yield key, text[start:index]
        index = _skip_space(text, index)
        if text[index] == ",":
            index = _skip_space(text, index + 1)


def _split_elements(text: str) -> Iterable[str]:
    """The elements of an array that is known to be valid JSON."""
    index = _skip_space(text, 1)
    while text[index] != "]":
        start = index
        _, index = _DECODER.raw_decode(text, start)
        yield text[start:index]
        index = _skip_space(text, index)
        if text[index] == ",":
            index = _skip_space(text, index + 1)


def _is_text(value: str) -> bool:
    """Can it be a name or a path? JSON can write what neither the kernel nor a file system has."""
    if value.isascii():
        return "\0" not in value
    try:
        return b"\0" not in value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False


def kind_of(value: object) -> str:
    """The JSON name of a value's type, for error texts."""
    for kind, name in ((bool, "a boolean"), (str, "a string"), (dict, "an object"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"


@dataclass(frozen=True, slots=True)
class Section:
    """
    A JSON object read key by key; a wrong value raises BadConfig with `where`, key and value.

    null counts as absent, as in Go. Keys are found in any case.
    """

    where: str
    values: Mapping[str, object]
    _folded: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    def value(self, key: str) -> object:
        """The raw value; None when absent."""
        if key in self.values:
            return self.values[key]
        if not self._folded:
            self._folded.update(zip(map(str.casefold, self.values), self.values.values(), strict=True))
        return self._folded.get(key.casefold())

    def wrong(self, key: str, expected: str) -> BadConfig:
        """The error for a key: what it is and what would be right."""
        return BadConfig(f"{self.where}: {key} {_shown(self.value(key))}: expected {expected}")

    def string(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        if not _is_text(value):
            raise self.wrong(key, "text, without NUL or half a surrogate pair")
        return value

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        """One of some strings; an empty one is the default."""
        value = self.string(key) or default
        if value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return value

    def boolean(self, key: str, default: bool = False, *, is_text_allowed: bool = False) -> bool:
        """true or false; "true" and "false" in any case where `is_text_allowed`."""
        value = self.value(key)
        if value is None:
            return default
        if is_text_allowed and isinstance(value, str) and value.casefold() in ("true", "false"):
            return value.casefold() == "true"
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integer(self, key: str, default: int = 0, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """A whole number within bounds."""
        value = self.value(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.wrong(key, f"a whole number from {minimum} to {maximum}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        if not all(map(_is_text, value)):
            raise self.wrong(key, "a list of texts, without NUL or half a surrogate pair")
        return tuple(value)

    def section(self, key: str) -> "Section | None":
        """An object; None when absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Section(f"{self.where}: {key}", value)

    def sections(self, key: str) -> "tuple[Section, ...]":
        """A list of objects."""
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, "a list of objects")
        return tuple(Section(f"{self.where}: {key}[{index}]", item) for index, item in enumerate(value))

    def address(self, key: str) -> Address | None:
        """An IP address without prefix; None when absent or empty."""
        text = self.string(key)
        try:
            return address_of(text) if text else None
        except ValueError:
            raise self.wrong(key, "an IP address") from None

    def interface_address(self, key: str) -> InterfaceAddress:
        """An IP address with its prefix."""
        text = self.string(key)
        try:
            return interface_address_of(text)
        except ValueError:
            raise self.wrong(key, "an IP address in CIDR notation, for example 10.1.2.3/24") from None

    def network(self, key: str) -> Network:
        """An IP network in CIDR notation; host bits are cut, as Go's parser does."""
        text = self.string(key)
        try:
            return network_of(text)
        except ValueError:
            raise self.wrong(key, "a network in CIDR notation, for example 10.1.2.0/24") from None

    def routes(self, key: str) -> tuple[Route, ...]:
        """A list of routes, with everything a Result's route may have."""
        return tuple(_route(each) for each in self.sections(key))


def _route(section: Section) -> Route:
    def number(key: str, maximum: int) -> int | None:
        return section.integer(key, maximum=maximum) if section.value(key) is not None else None

    return Route(
        destination=section.network("dst"),
        gateway=section.address("gw"),
        mtu=section.integer("mtu"),
        advmss=section.integer("advmss"),
        priority=section.integer("priority", maximum=2**32 - 1),
        table=number("table", 2**32 - 1),
        scope=number("scope", 255),
    )


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One plugin object of a network configuration, or the standard input of one plugin."""

    network: str
    """The name of the network configuration it stands in."""
    cni_version: str
    type: str
    capabilities: frozenset[str]
    """The capabilities declared true."""
    raw: RawObject
    section: Section
    """The object's keys, to be read one by one."""
    is_ready: bool = field(default=False, repr=False, compare=False)
    """It has what is its list's, as execution() gives it."""
    found: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False, compare=False)
    """What once() has found; of one that differs by `prevResult` alone, the same."""

    def once(self, find: "Callable[[PluginConfig], Found]") -> Found:
        """
        What a function finds in this configuration alone: it is asked the first time.

        Pods come by the thousand and networks by the dozen, and parse_network() remembers those.
        """
        if find not in self.found:
            self.found[find] = find(self)
        found: Found = self.found[find]
        return found

    @property
    def where(self) -> str:
        """How error texts name this plugin."""
        return self.section.where

    @property
    def ipam(self) -> Section | None:
        """The `ipam` object; None when absent or without a type, which means layer 2 only."""
        return self.once(_ipam_of)

    @property
    def ipam_type(self) -> str:
        """The IPAM plugin's type; empty when the attachment is layer 2 only."""
        return self.once(_ipam_type_of)

    def keys_outside(self, known: Iterable[str]) -> tuple[str, ...]:
        """The keys that are in no list of known ones, whatever their case."""
        folded = _folded(tuple(known))
        return tuple(
            key
            for key, _ in self.raw.written
            if key.casefold() not in folded and not key.startswith("cni.dev/")
        )

    def execution(self, injected: Mapping[str, object]) -> "PluginConfig":
        """
        What is written to the plugin: `cniVersion` and `name` of the list, and `injected`.

        A member injected as None is taken out.
        """
        ready = self if self.is_ready else self.once(_of_list)
        raw = ready.raw
        for key, value in injected.items():
            if value is None:
                raw = raw.drop(key)
            elif key == PREVIOUS:  # a delegate of ours has no use for its text
                raw = raw.put_late(key, value)
            else:
                raw = raw.put(key, value)
        if raw is ready.raw:
            return ready
        is_same = injected.keys() == {PREVIOUS}  # nobody looks for anything in it once
        return ready._of(raw, ready.found if is_same else {})

    def _of(self, raw: RawObject, found: dict[Callable[..., Any], Any]) -> "PluginConfig":
        """The plugin with what is put in."""
        section = Section(self.section.where, raw.decoded)
        return PluginConfig(
            self.network, self.cni_version, self.type, self.capabilities, raw, section, True, found
        )


def _ipam_of(config: PluginConfig) -> Section | None:
    section = config.section.section("ipam")
    return section if section is not None and section.string("type") else None


def _ipam_type_of(config: PluginConfig) -> str:
    section = config.ipam
    return section.string("type") if section is not None else ""


def _of_list(config: PluginConfig) -> PluginConfig:
    """The plugin with what it has of its list, and nothing else: most pods put nothing in."""
    raw = config.raw.put("cniVersion", config.cni_version).put("name", config.network)
    return config._of(raw, {})


@lru_cache(maxsize=64)
def _folded(known: tuple[str, ...]) -> frozenset[str]:
    """Keys in whatever case, those that every configuration may have among them."""
    return frozenset(key.casefold() for key in (*known, *COMMON_KEYS, *LIST_KEYS, *HANDED_KEYS))


@lru_cache(maxsize=256)
def parse_plugin(text: str | bytes, where: str, *, network: str = "", cni_version: str = "") -> PluginConfig:
    """
    Read one plugin object; `network` and `cni_version` come from its list where it stands in one.

    Raises DecodeFailure when it is no JSON object, BadConfig when a common key is wrong. The newest
    texts are remembered: DELs and CHECKs read what ADDs have recorded.
    """
    raw = RawObject.parse(text, where)
    section = Section(where, raw.values())
    named = section.value("type")
    plugin_type = named if isinstance(named, str) else section.string("type")
    if not plugin_type:
        raise BadConfig(f"{where}: type is missing: expected the file name of a CNI plugin")
    if "/" in plugin_type or not _is_text(plugin_type) or plugin_type in (".", ".."):
        raise section.wrong("type", "a file name without '/'")
    capabilities = section.section("capabilities")
    declared = capabilities.values if capabilities else {}
    on = [key for key in declared if capabilities and capabilities.boolean(key, is_text_allowed=True)]
    for key in OBJECT_KEYS:
        section.section(key)
    return PluginConfig(
        network=network or section.string("name"),
        cni_version=cni_version or section.string("cniVersion") or versions.WHEN_ABSENT,
        type=plugin_type,
        capabilities=frozenset(on),
        raw=raw,
        section=Section(f"{where}: {plugin_type}", section.values),
    )


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A network configuration list; a single plugin configuration is a list of one."""

    name: str
    cni_version: str
    plugins: tuple[PluginConfig, ...]
    is_check_disabled: bool = False
    is_gc_disabled: bool = False
    is_only_inlined: bool = False
    """`loadOnlyInlinedPlugins`: no plugin objects are taken from the directory named like the network."""
    warnings: tuple[str, ...] = ()

    @property
    def capabilities(self) -> frozenset[str]:
        """What at least one plugin of the list declares."""
        return frozenset().union(*(plugin.capabilities for plugin in self.plugins))

    def with_plugins(self, more: Iterable[PluginConfig]) -> "NetworkConfig":
        """The list with plugin objects from its directory behind the inlined ones."""
        return replace(self, plugins=(*self.plugins, *more))


@lru_cache(maxsize=256)
def parse_network(text: str | bytes, where: str, *, default_name: str = "") -> NetworkConfig:
    """
    Read a list or a single plugin configuration; a missing `name` becomes `default_name`.

    Raises DecodeFailure (6), BadConfig (7) or IncompatibleVersion (1). A list may have no
    `plugins` when its directory is to provide them; who loads that must check there is one.
    Pods come by the thousand and networks by the dozen: the newest texts are remembered.
    """
    raw = RawObject.parse(text, where)
    section = Section(where, raw.values())
    name = _name_of(section, default_name)
    cni_version = versions.require_supported(_version_of(section))
    is_list = section.value("plugins") is not None or section.value("type") is None
    if is_list:
        section.sections("plugins")
        texts = raw.elements_of("plugins") if section.value("plugins") is not None else ()
        if section.value("plugins") is not None and not texts:
            raise section.wrong("plugins", "a list with at least one plugin object")
    else:
        texts = (raw.text(),)
    plugins = tuple(
        parse_plugin(
            each,
            f"{where}: plugins[{index}]" if is_list else where,
            network=name,
            cni_version=cni_version,
        )
        for index, each in enumerate(texts)
    )
    return NetworkConfig(
        name=name,
        cni_version=cni_version,
        plugins=plugins,
        is_check_disabled=section.boolean("disableCheck", is_text_allowed=True),
        is_gc_disabled=section.boolean("disableGC", is_text_allowed=True),
        is_only_inlined=section.boolean("loadOnlyInlinedPlugins", is_text_allowed=True),
        warnings=(
            *case_warnings(section, LIST_KEYS if is_list else ()),
            *(line for plugin in plugins for line in case_warnings(plugin.section, COMMON_KEYS)),
        ),
    )


def case_warnings(section: Section, known: Iterable[str]) -> tuple[str, ...]:
    """A line for each known key that was written in another case than the specification's."""
    by_fold = {key.casefold(): key for key in known}
    return tuple(
        f"{section.where}: key {key!r} is read as {by_fold[key.casefold()]!r}"
        for key in section.values
        if key.casefold() in by_fold and key != by_fold[key.casefold()]
    )


def _name_of(section: Section, default_name: str) -> str:
    name = section.string("name") or default_name
    if not name:
        raise BadConfig(f"{section.where}: missing network name: expected a name like 'sriov-media'")
    if not NAME.match(name):
        raise BadConfig(
            f"{section.where}: name {name!r}: expected a letter or digit, "
            "then letters, digits, '_', '.' or '-'"
        )
    return name


def _version_of(section: Section) -> str:
    version = section.string("cniVersion") or versions.WHEN_ABSENT
    several = section.strings("cniVersions")
    return versions.choose(several, section.string("cniVersion")) if several else version
