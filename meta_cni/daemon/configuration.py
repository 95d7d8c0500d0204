"""
Our configuration in the runtime's directory, generated from the primary network's.

The primary is the one that the runtime would take if we were not there: the first by name. It is
embedded as it is, as the first of `delegates`. Every turn compares what is with what should be, so
no event can be lost, and a daemon that was away needs nothing special. What is ours is known by its
content, never by its name: a configuration that leads back to us is no primary. Nobody else's
file is written, renamed or removed.

The keys are those of Multus' daemon (Multus 4, "thick plugin"). `forceCNIVersion` changes the
embedded copy, where Multus changes the primary's file.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meta_cni import settings
from meta_cni.cni import version as versions
from meta_cni.cni.config import (
    SPACE,
    NetworkConfig,
    PluginConfig,
    RawObject,
    Section,
    as_text,
    decode,
    parse_network,
    parse_plugin,
)
from meta_cni.cni.errors import BadConfig, CNIError, IOFailure, NotAvailable, join
from meta_cni.cni.request import NAME
from meta_cni.daemon import durable
from meta_cni.settings import MULTUS_TYPES

DIRECTORY = "/etc/cni/net.d"
LIST, SINGLE = "00-meta-cni.conflist", "00-meta-cni.conf"
STEM = "00-meta-cni.conf"
"""Every name that our file may have begins so, one by which another program put it aside too."""
LIST_SUFFIX = ".conflist"
SUFFIXES = (".conf", LIST_SUFFIX, ".json")  # what containerd and CRI-O read
TYPE = "meta-cni"
NETWORK = "meta-cni-network"
MARKER, GENERATOR = "generatedBy", "meta-cni daemon"
MODE = 0o600  # as Multus writes its own: it may name credentials
CILIUM = ".cilium_bak"
POLL_S = 1.0
GONE_TURNS = 2  # a primary that is replaced by removing it first is not gone
REPEATS, REPEATS_WITHIN_S = 5, 60.0
LOG = logging.getLogger("meta_cni")

SERVER_KEYS = (
    "socketDir",
    "daemonSocketDir",
    "perNodeCertificate",
    "connectionLimit",
    "metricsPort",
    "enablePprof",
)
"""Of Multus' server; they have no effect here."""
OWN_KEYS = (
    *("cniConfigDir", "multusAutoconfigDir", "multusConfigFile", "multusMasterCNI", "cniVersion"),
    *("forceCNIVersion", "name", "overrideNetworkName", "type", "capabilities", "primaryStatus"),
    "chrootDir",
)
"""How our configuration is generated; all others are put into it as they are."""
GIVEN = ("delegates", "plugins", "prevResult", "runtimeConfig", MARKER)
"""What we or the runtime put in."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the daemon's file says about the configuration to generate."""

    directory: Path = Path(DIRECTORY)
    """`cniConfigDir`: where ours is written."""
    primaries: Path = Path(DIRECTORY)
    """`multusAutoconfigDir`: where the primary is looked for."""
    master: str = ""
    """`multusMasterCNI`: the primary's file name; empty for the first."""
    cni_version: str = ""
    """Empty for the primary's."""
    is_version_forced: bool = False
    name: str = NETWORK
    is_name_primary: bool = False
    """`overrideNetworkName`: the network's name is the primary's."""
    type: str = TYPE
    capabilities: tuple[str, ...] = ()
    is_status_asked: bool = False
    """`primaryStatus`: the primary's plugins must answer STATUS before anything is written."""
    root: str = ""
    """`chrootDir`: where the node's file system is, for a daemon in a container."""
    readiness_file: str = ""
    bin_dir: str = "/opt/cni/bin"
    cni_dir: str = "/var/lib/cni/multus"
    log_level: str = ""
    merged: tuple[tuple[str, str], ...] = ()
    """All other keys, each with its JSON text."""
    ignored: tuple[str, ...] = ()
    """Keys of Multus' server that were there."""
    is_removed_on_stop: bool = False


@dataclass(frozen=True, slots=True)
class Primary:
    """A configuration that the runtime would take if ours was not there."""

    path: Path
    text: str
    """Byte for byte, without what surrounds the document; with the plugins of its own directory."""
    network: NetworkConfig


def parse(text: str | bytes, where: str) -> Options:
    """Read the daemon's file; raises one error that names every wrong key."""
    raw = RawObject.parse(text, where)
    section = Section(where, raw.values())
    values: dict[str, Any] = {}
    errors: list[CNIError] = []
    for attribute, read in READ.items():
        try:
            values[attribute] = read(section)
        except CNIError as error:
            errors.append(error)
    errors += [section.wrong(key, "no such key: it is generated") for key in GIVEN if raw.text_of(key)]
    merged = raw
    for key in (*OWN_KEYS, *SERVER_KEYS):
        merged = merged.drop(key)
    parsed, problems = settings.parse(merged.values(), ())
    errors += [BadConfig(f"{where}: {problem}") for problem in problems]
    if values.get("is_version_forced") and not values.get("cni_version"):
        errors.append(section.wrong("forceCNIVersion", "cniVersion, too"))
    if errors:
        raise join(errors)
    ignored = tuple(key for key in SERVER_KEYS if raw.text_of(key) is not None)
    return Options(
        **values,
        bin_dir=parsed.bin_dir,
        cni_dir=parsed.cni_dir,
        readiness_file=parsed.readiness_file,
        merged=merged.members,
        ignored=ignored,
    )


def _directory(section: Section, *keys: str) -> Path:
    """The first of some keys that is there."""
    for key in keys:
        text = section.string(key)
        if text and not text.startswith("/"):
            raise section.wrong(key, "an absolute path")
        if text:
            return Path(text)
    return Path(DIRECTORY)


def _root(section: Section) -> str:
    text = section.string("chrootDir")
    if text and not Path(text).is_dir():
        raise section.wrong("chrootDir", "the directory where the node's file system is mounted")
    return "" if text == "/" else text


def _master(section: Section) -> str:
    if section.string("multusConfigFile", "auto") != "auto":
        raise section.wrong(
            "multusConfigFile", "auto: a configuration of your own is put into cniConfigDir as it is"
        )
    name = section.string("multusMasterCNI")
    if name and ("/" in name or not name.endswith(SUFFIXES)):
        raise section.wrong("multusMasterCNI", f"a file name that ends in one of {', '.join(SUFFIXES)}")
    return name


def _cni_version(section: Section) -> str:
    version = section.string("cniVersion")
    return versions.require_supported(version, section.where) if version else ""


def _name(section: Section) -> str:
    name = section.string("name") or NETWORK
    if not NAME.match(name):
        raise section.wrong("name", "a letter or digit, then letters, digits, '_', '.' or '-'")
    return name


def _type(section: Section) -> str:
    plugin_type = section.string("type") or TYPE
    if not _is_file_name(plugin_type):
        raise section.wrong("type", "the file name that the shim is installed by")
    return plugin_type


def _is_file_name(text: str) -> bool:
    return "/" not in text and text not in (".", "..")


def _capabilities(section: Section) -> tuple[str, ...]:
    capabilities = section.section("capabilities")
    return tuple(key for key in capabilities.values if capabilities.boolean(key)) if capabilities else ()


def _log_level(section: Section) -> str:
    level = section.string("logLevel")
    return level if level in settings.LOG_LEVELS else ""  # a wrong one is told with the other settings


READ: dict[str, Callable[[Section], Any]] = {
    "directory": lambda section: _directory(section, "cniConfigDir"),
    "primaries": lambda section: _directory(section, "multusAutoconfigDir", "cniConfigDir"),
    "master": _master,
    "cni_version": _cni_version,
    "is_version_forced": lambda section: section.boolean("forceCNIVersion"),
    "name": _name,
    "is_name_primary": lambda section: section.boolean("overrideNetworkName"),
    "type": _type,
    "capabilities": _capabilities,
    "is_status_asked": lambda section: section.boolean("primaryStatus"),
    "log_level": _log_level,
    "root": _root,
}
"""Attribute -> how it is read."""


def open_options(
    path: str | None, directory: str | None, *, is_removed_on_stop: bool = False, plugin_type: str = ""
) -> Options | None:
    """
    The daemon's file, with the directory of its command line; None when neither is given.

    `plugin_type` counts where the file names no other type than ours.
    """
    if not _is_file_name(plugin_type):
        raise BadConfig(f"--type {plugin_type!r}: expected the file name that the shim is installed by")
    if path is None and directory is None:
        if is_removed_on_stop or plugin_type:
            flag = "--remove-configuration-on-stop" if is_removed_on_stop else "--type"
            raise BadConfig(f"{flag}: expected --config or --conf-dir, too")
        return None
    options = Options()
    if path is not None:
        text = durable.read(Path(path))
        if text is None:
            raise IOFailure(f"read {path}: expected the daemon's configuration")
        options = parse(text, path)
    if directory is not None:
        is_same = options.primaries == options.directory
        primaries = Path(directory) if is_same else options.primaries
        options = replace(options, directory=Path(directory), primaries=primaries)
    if plugin_type and options.type == TYPE:
        options = replace(options, type=plugin_type)
    return replace(options, is_removed_on_stop=is_removed_on_stop)


def is_generated(text: bytes) -> bool:
    """Was a file written by us, whatever its name is by now?"""
    try:
        document = decode(text, "configuration")
    except CNIError:
        return False
    listed = document.get("plugins", [document]) if isinstance(document, dict) else []
    return isinstance(listed, list) and any(
        isinstance(each, dict) and each.get(MARKER) == GENERATOR for each in listed
    )


def read_primary(
    path: Path, text: bytes, is_shim: Callable[[str], bool], drop_ins: Sequence[tuple[Path, bytes]] = ()
) -> Primary | None:
    """
    A file as the runtime reads it, with the plugins of its directory; None when it leads to ourselves.

    `is_shim` tells of a type whether its program is our shim. Raises CNIError when the runtime
    could not use it either.
    """
    where = str(path)
    network = parse_network(text, where)
    raw = RawObject.parse(text, where)
    if path.suffix != LIST_SUFFIX and raw.text_of("plugins") is not None:
        raise BadConfig(f"{where}: expected type, and no plugins, which a *{LIST_SUFFIX} has")
    if path.suffix == LIST_SUFFIX and raw.text_of("type") is not None:
        raise BadConfig(f"{where}: expected plugins, and no type")
    more = [parse_plugin(each, str(name), network=network.name) for name, each in drop_ins]
    network = network.with_plugins(more)
    if not network.plugins:
        raise BadConfig(f"{where}: expected plugins")
    if any(_is_ours(plugin, is_shim) for plugin in network.plugins):
        return None
    document = as_text(text, where).strip(SPACE)
    if more:
        texts = [*raw.elements_of("plugins"), *(each.raw.text() for each in more)]
        document = raw.put_text("plugins", f"[{','.join(texts)}]").text()
    return Primary(path, document, network)


def drop_ins_of(path: Path, text: bytes) -> list[tuple[Path, bytes]]:
    """The plugin objects in a list's own directory (CNI specification, `loadOnlyInlinedPlugins`)."""
    network = parse_network(text, str(path))
    directory = path.parent / network.name
    if path.suffix != LIST_SUFFIX or network.is_only_inlined or not directory.is_dir():
        return []
    found = [(each, durable.read(each)) for each in _candidates(directory, suffixes=(".conf",))]
    return [(each, content) for each, content in found if content is not None]


def _is_ours(plugin: PluginConfig, is_shim: Callable[[str], bool]) -> bool:
    names = (TYPE, *MULTUS_TYPES)
    return plugin.type in names or plugin.section.value(MARKER) == GENERATOR or is_shim(plugin.type)


def find_primary(options: Options, is_shim: Callable[[str], bool]) -> Primary | None:
    """
    The first configuration by name that does not lead to ourselves; None when there is none.

    Raises CNIError when it is wrong, half written perhaps: the next one by name is none for that.
    """
    for path in _candidates(options.primaries, options.master):
        text = durable.read(path)
        if text is None or (not text and path.name in (LIST, SINGLE)):
            continue
        primary = read_primary(path, text, is_shim, drop_ins_of(path, text))
        if primary is not None:
            return primary
        if options.master:
            raise BadConfig(f"multusMasterCNI {path}: it is meta-cni itself: expected another plugin's")
    return None


def _candidates(directory: Path, name: str = "", suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """What the runtime would read, in its order; or the file of this name."""
    try:
        for path in sorted(directory.iterdir()):
            is_wanted = path.name == name if name else path.suffix in suffixes
            if is_wanted and path.is_file():
                yield path
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def render(primary: Primary, options: Options) -> tuple[str, bytes]:
    """Our file's name and content: a list from 1.0.0 on, where CNI has no single plugins any more."""
    version = options.cni_version or primary.network.cni_version
    name = primary.network.name if options.is_name_primary else options.name
    delegate = primary.text
    if options.is_version_forced:
        delegate = RawObject.parse(delegate, str(primary.path)).put("cniVersion", version).text()
    plugin = RawObject.of(()).put("type", options.type).put(MARKER, GENERATOR)
    capabilities = sorted(primary.network.capabilities | set(options.capabilities))
    if capabilities:
        plugin = plugin.put("capabilities", dict.fromkeys(capabilities, True))
    plugin = RawObject.of((*plugin.members, *options.merged)).put_text("delegates", f"[{delegate}]")
    head = RawObject.of(()).put("cniVersion", version).put("name", name)
    if versions.at_least(version, "1.0.0"):
        head = head.put("loadOnlyInlinedPlugins", True)  # a directory of this name may be the primary's
        return LIST, head.put_text("plugins", f"[{plugin.text()}]").text().encode() + b"\n"
    return SINGLE, RawObject.of((*head.members, *plugin.members)).text().encode() + b"\n"


def remove(directory: Path) -> list[Path]:
    """Remove what we generated, under every name it may have got; others' files stay."""
    try:
        found = [each for each in directory.iterdir() if each.name.startswith(STEM) and each.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None
    for name in (LIST, SINGLE):
        durable.remove(durable.beside(directory / name))
    ours = [each for each in sorted(found) if is_generated(durable.read(each) or b"")]
    return [each for each in ours if durable.remove(each)]


class Generator:
    """Keeps our file as it should be, turn by turn."""

    def __init__(
        self,
        options: Options,
        is_shim: Callable[[str], bool],
        status: Callable[[NetworkConfig], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`status` raises CNIError when a network's plugins could not serve an ADD."""
        self.options = options
        self.is_shim = is_shim
        self.status = status
        self.clock = clock
        self._problem = ""
        self._turns_without = 0
        self._left: bytes | None = None
        """Our file as it was left by the last turn; None when there was to be none."""
        self._repeats: deque[float] = deque()

    def problem(self) -> str:
        """What keeps our file from being as it should be; empty when nothing does."""
        return self._problem

    def run(self, over: threading.Event) -> None:
        """Take turns until it is over; a daemon that could not listen has ended before the first one."""
        while not over.wait(POLL_S):
            self.turn()
        if self.options.is_removed_on_stop:
            self._tell(self._outcome(self._remove))

    def turn(self) -> None:
        """Compare and correct, once; never raises. What hinders is logged when it changes."""
        self._tell(self._outcome(self._correct))

    def _outcome(self, act: Callable[[], str]) -> str:
        try:
            return act()
        except CNIError as error:
            return error.message
        except Exception as error:  # a thread that dies is never replaced
            LOG.exception("a bug in meta-cni")
            return f"a bug in meta-cni: {error!r}"

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            LOG.warning("generated configuration: %s", problem)
        elif self._problem and not problem:
            LOG.info("generated configuration: as it should be")
        self._problem = problem

    def _correct(self) -> str:
        primary = find_primary(self.options, self.is_shim)
        if primary is None:
            return self._without()
        self._turns_without = 0
        name, wanted = render(primary, self.options)
        path = self.options.directory / name
        found = durable.read(path)
        if found != wanted:
            if found and not is_generated(found):
                raise BadConfig(f"write {path}: there is one that meta-cni did not generate: expected none")
            self._require_ready(primary)
            if wanted == self._left and not self._may_repeat():
                return self._disturbed(path)
            durable.replace(path, wanted, MODE)
            LOG.info("generated %s from %s", path, primary.path)
        self._left = wanted
        self._remove_generated(*({LIST, SINGLE} - {name}))
        return self._disturbed(path) or self._preceded(path)

    def _preceded(self, ours: Path) -> str:
        """Does the runtime take another one, because of its name?"""
        for path in _candidates(ours.parent):
            if path.name >= ours.name:
                break
            text = durable.read(path) or b""
            if read_primary(path, text, self.is_shim, drop_ins_of(path, text)) is not None:
                return f"{path}: the runtime takes it before {ours.name}: expected a name that comes after"
        return ""

    def _without(self) -> str:
        """There is no primary: without a network of its own the runtime says so, and no ADD fails."""
        self._turns_without += 1
        if self._turns_without >= GONE_TURNS:
            self._remove()
        where = self.options.primaries / self.options.master
        wanted = "this file" if self.options.master else f"a file *{', *'.join(SUFFIXES)} of another plugin"
        return f"there is no primary network in {where}: expected {wanted}"

    def _remove(self) -> str:
        self._left = None
        self._remove_generated(LIST, SINGLE)
        return ""

    def _remove_generated(self, *names: str) -> None:
        for path in (self.options.directory / name for name in names):
            if is_generated(durable.read(path) or b"") and durable.remove(path):
                LOG.info("removed %s", path)

    def _require_ready(self, primary: Primary) -> None:
        path = self.options.readiness_file
        if path and not Path(path).exists():
            raise NotAvailable(f"wait for {primary.path}: readinessindicatorfile {path} does not exist")
        if self.options.is_status_asked:
            try:
                self.status(primary.network)
            except CNIError as error:
                raise NotAvailable(f"wait for {primary.path}: {error.message}") from None

    def _may_repeat(self) -> bool:
        """Another program changed what we left: it is answered, but not for ever at once."""
        self._forget_repeats()
        if len(self._repeats) >= REPEATS:
            return False
        self._repeats.append(self.clock())
        return True

    def _disturbed(self, path: Path) -> str:
        """Does another program work against us?"""
        self._forget_repeats()
        if not self._repeats:
            return ""
        by_cilium = path.with_name(path.name + CILIUM).exists()
        who = "Cilium (expected cni.exclusive=false)" if by_cilium else "another program"
        return f"{path} is changed or removed by {who}: it is written again {REPEATS} times a minute at most"

    def _forget_repeats(self) -> None:
        while self._repeats and self.clock() - self._repeats[0] > REPEATS_WITHIN_S:
            self._repeats.popleft()
