"""
tuning: sysctls and link attributes of an interface that is there (containernetworking/plugins, meta/tuning).

What the link had before is kept in a file of the reference's format, so that either of the two
can undo the other's ADD. The file says by one key more which network it belongs to: all of
them share a directory, and a GC must not take another network's files.

Unlike the reference: sysctls of a failing ADD are put back, several tunings of one interface
keep the first originals, a changed MAC is announced, CHECK looks only at what was asked for,
and nothing is left on the node when the link or the pod went away first.
"""

import errno
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from meta_cni.cni.config import PluginConfig, RawObject, Section, decode
from meta_cni.cni.errors import BadConfig, CheckFailed, CNIError, IOFailure, KernelError, NotAvailable
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Valid, ethernet_address, undo, unimplemented
from meta_cni.linux import configure, link, sysctl
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Request

UNFINISHED = ".new"
KEYS = ("sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen", "dataDir")
DATA_DIRECTORY = "/run/cni/tuning"
ALLOWLIST = Path("/etc/cni/tuning/allowlist.conf")


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a link; None and 0 are left alone."""

    mac: str = ""
    mtu: int = 0
    is_promiscuous: bool | None = None
    is_allmulti: bool | None = None
    tx_queue_length: int | None = None

    def of(self, found: Link) -> "Attributes":
        """What a link has of those that are set here."""
        return Attributes(
            mac=found.mac if self.mac else "",
            mtu=found.mtu if self.mtu else 0,
            is_promiscuous=None if self.is_promiscuous is None else found.is_promiscuous,
            is_allmulti=None if self.is_allmulti is None else found.is_allmulti,
            tx_queue_length=None if self.tx_queue_length is None else found.tx_queue_length,
        )

    def requests(self, found: Link) -> list[Request]:
        """One message for each that is set, so that an error names it."""
        index = found.index
        batch: list[tuple[str, object, Request]] = []
        if self.mac:
            batch.append(("mac", self.mac, link.set_link(index, mac=self.mac)))
        if self.is_promiscuous is not None:
            request = link.set_link(index, is_promiscuous=self.is_promiscuous)
            batch.append(("promisc", self.is_promiscuous, request))
        if self.mtu:
            batch.append(("mtu", self.mtu, link.set_link(index, mtu=self.mtu)))
        if self.is_allmulti is not None:
            batch.append(("allmulti", self.is_allmulti, link.set_link(index, is_allmulti=self.is_allmulti)))
        if self.tx_queue_length is not None:
            length = self.tx_queue_length
            batch.append(("txQLen", length, link.set_link(index, tx_queue_length=length)))
        return [replace(each, action=f"set {key} {value} of {found.name}") for key, value, each in batch]


class Tuning:
    """One interface."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        self.wanted = _attributes(config, attachment.cni_args)
        self.sysctls = _by_path(config, attachment.interface)
        name = f"{attachment.container_id}_{attachment.interface}.json"
        self.file = _directory(config) / name

    def add(self, previous: Result | None) -> Result:
        """Set everything; when something cannot be set, sysctls are put back, the rest by delete()."""
        if previous is None:
            raise BadConfig(
                f"{self.config.where}: prevResult is missing: expected another plugin before it in the list"
            )
        _require_allowed(self.config)
        namespaces = self.attachment.namespaces
        is_of_link = self.wanted != Attributes()
        found = link.require(namespaces.pod, self.attachment.interface, "link") if is_of_link else None
        before: list[tuple[str, str]] = []
        try:
            namespaces.run(lambda: self._write_sysctls(before))
            if found is not None:
                self._change(found)
        except CNIError:
            namespaces.run(lambda: _put_back(before))
            raise
        return self._told(previous)

    def _write_sysctls(self, before: list[tuple[str, str]]) -> None:
        """Write all; what each was is appended first, where it can be read."""
        for path, value in self.sysctls.items():
            with suppress(KernelError):
                before.append((path, sysctl.read(path)))
            sysctl.write(path, value)

    def _change(self, found: Link) -> None:
        requests = self.wanted.requests(found)
        if requests:
            self._save(self.wanted.of(found))
            self.attachment.namespaces.pod.request(requests)

    def _save(self, originals: Attributes) -> None:
        """Keep the originals; those of a tuning before this one in the list are the true ones."""
        document = {**_to_json(originals), **self._saved(), "network": self.config.network}
        temporary = self.file.with_suffix(UNFINISHED)
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document, indent=1))
            temporary.chmod(0o600)
            os.replace(temporary, self.file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise IOFailure(f"write {self.file}: {error.strerror}") from None

    def _saved(self) -> dict[str, object]:
        """The originals in the file; nothing where there is none, or it cannot be understood."""
        try:
            return _read(self.file)
        except CNIError:
            return {}

    def _told(self, previous: Result) -> Result:
        """The result with the new MAC, and MTU where it tells one; the neighbours are told, too."""
        wanted = self.wanted
        name = self.attachment.interface
        changed = tuple(
            replace(each, mac=wanted.mac or each.mac, mtu=(wanted.mtu or each.mtu) if each.mtu else 0)
            if each.name == name and each.sandbox
            else each
            for each in previous.interfaces
        )
        if wanted.mac:
            own = [n for n, each in enumerate(changed) if each.name == name and each.sandbox]
            ips = [each for each in previous.ips if each.interface in (None, *own)]
            configure.announce(self.attachment.namespaces, name, ips)
        return replace(previous, interfaces=changed)

    def check(self, previous: Result) -> None:
        """Everything that was asked for is still so; raises CheckFailed."""
        namespaces = self.attachment.namespaces
        namespaces.run(self._check_sysctls)
        name = self.attachment.interface
        if self.wanted == Attributes() and name not in [each.name for each in previous.interfaces]:
            return
        found = link.find(namespaces.pod, name)
        if found is None:
            raise CheckFailed(f"check {name}: there is no such interface in {namespaces.path}")
        self._check_link(found)

    def _check_sysctls(self) -> None:
        for path, value in self.sysctls.items():
            try:
                found = sysctl.read(path)
            except KernelError as error:
                if error.errno in sysctl.UNREADABLE:
                    continue
                raise CheckFailed(f"check sysctl {path}: {error.message}") from None
            if found.split() != value.split():
                raise CheckFailed(f"check sysctl {path}: it is {found!r}: expected {value!r}")

    def _check_link(self, found: Link) -> None:
        """Promiscuous is whoever is counted as such, like in the reference."""
        present = self.wanted.of(replace(found, is_promiscuous=found.promiscuity > 0))
        are, expected = _to_json(present), _to_json(self.wanted)
        for key, value in expected.items():
            if are[key] != value:
                raise CheckFailed(
                    f"check {found.name}: {key} is {json.dumps(are[key])}: expected {json.dumps(value)}"
                )

    def delete(self) -> None:
        """Give the link back what it had, where there still is one, and forget it in any case."""
        with suppress(CNIError):
            self._restore(_from_json(Section(str(self.file), self._saved())))
        _remove(self.file.with_suffix(UNFINISHED))
        _remove(self.file)

    def _restore(self, originals: Attributes) -> None:
        if originals == Attributes():
            return
        pod = self.attachment.namespaces.pod
        found = link.find(pod, self.attachment.interface)
        if found is not None:
            pod.request(originals.requests(found))

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The node's allowlist must let the sysctls through."""
        try:
            _require_allowed(config)
        except CNIError as error:
            raise NotAvailable(error.message) from None

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Remove this network's files of attachments that are not listed; others' are left alone."""
        kept = {f"{container_id}_{interface}.json" for container_id, interface in valid}
        stale = [each for each in _files(_directory(config)) if each.name not in kept]
        undo(*(partial(_remove_of, config.network, each) for each in stale))

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _directory(config: PluginConfig) -> Path:
    text = config.section.string("dataDir") or DATA_DIRECTORY
    if "\0" in text:
        raise config.section.wrong("dataDir", "the path of a directory")
    return Path(text)


def _pod_args(config: PluginConfig) -> Section:
    """`args.cni`; empty when absent."""
    args = config.section.section("args")
    found = args.section("cni") if args is not None else None
    return found if found is not None else Section(f"{config.where}: args: cni", {})


def _attributes(config: PluginConfig, cni_args: Mapping[str, str]) -> Attributes:
    """Each key from `args.cni` where it is there, else from the configuration."""
    cni = _pod_args(config)
    source = {key: cni if cni.value(key) is not None else config.section for key in KEYS}
    runtime = config.section.section("runtimeConfig")
    asked = (runtime.string("mac") if runtime is not None else "") or cni_args.get("MAC", "")
    mac = cni.string("mac") if cni.value("mac") is not None else asked or config.section.string("mac")
    allmulti, length = source["allmulti"], source["txQLen"]
    return Attributes(
        mac=ethernet_address(config, mac),
        mtu=source["mtu"].integer("mtu"),
        is_promiscuous=source["promisc"].boolean("promisc") or None,
        is_allmulti=None if allmulti.value("allmulti") is None else allmulti.boolean("allmulti"),
        tx_queue_length=None if length.value("txQLen") is None else length.integer("txQLen"),
    )


def _by_path(config: PluginConfig, interface: str) -> Mapping[str, str]:
    """Path below /proc/sys -> value; of one parameter `args.cni` has the last word."""
    found: dict[str, str] = {}
    for section, keys in _sysctls(config):
        paths: dict[str, str] = {}
        for key in keys:
            path = _path(section, key, interface)
            if path in paths:
                raise BadConfig(
                    f"{section.where}: {paths[path]!r} and {key!r} are duplicated keys of {path}: "
                    "expected each parameter once"
                )
            paths[path] = key
            found[path] = section.string(key)
    return found


def _sysctls(config: PluginConfig) -> list[tuple[Section, list[str]]]:
    """The sections that have sysctls, weakest first, with their keys as written, repeated ones too."""
    raw_cni = RawObject.of(())
    if _pod_args(config).values:
        raw_args = RawObject.parse(config.raw.text_of("args") or "{}", "args")
        raw_cni = RawObject.parse(raw_args.text_of("cni") or "{}", "args: cni")
    found: list[tuple[Section, list[str]]] = []
    for owner, raw in ((config.section, config.raw), (_pod_args(config), raw_cni)):
        section = owner.section("sysctl")
        if section is not None:
            members = RawObject.parse(raw.text_of("sysctl") or "{}", section.where).members
            found.append((section, [key for key, _ in members]))
    return found


def _path(section: Section, key: str, interface: str) -> str:
    """The file below /proc/sys; only the interface's name may have dots, so nothing leads upwards."""
    if section.value(key) is None:
        raise section.wrong(key, "a string")
    if not " ".join(section.string(key).split()).isprintable():
        raise section.wrong(key, "printable text")
    path = os.path.normpath(key.replace(".", "/").replace("IFNAME", interface, 1)).lstrip("/")
    if not path.startswith("net/") or not path.isprintable():
        raise BadConfig(
            f"{section.where}: invalid net sysctl key {key!r}: "
            "expected one below net, like net.ipv4.conf.IFNAME.arp_filter"
        )
    return path


def _put_back(before: list[tuple[str, str]]) -> None:
    for path, value in reversed(before):
        with suppress(CNIError):
            sysctl.write(path, value)


def _require_allowed(config: PluginConfig) -> None:
    """Every sysctl, as it was written, matches a line of the node's allowlist, if there is one."""
    patterns = _allowlist()
    if patterns is None:
        return
    for section, keys in _sysctls(config):
        for key in keys:
            if not any(pattern.search(key) for pattern in patterns):
                shown = ", ".join(pattern.pattern for pattern in patterns) or "none at all"
                raise BadConfig(
                    f"{section.where}: sysctl {key} is not allowed: expected one of {ALLOWLIST}: {shown}"
                )


def _allowlist() -> list[re.Pattern[str]] | None:
    """The expressions of the file; None when there is no file, and so no limit."""
    try:
        lines = [line.strip() for line in ALLOWLIST.read_text().splitlines()]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise IOFailure(f"read {ALLOWLIST}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return [re.compile(line) for line in lines if line]
    except re.error as error:
        raise BadConfig(
            f"{ALLOWLIST}: {error.pattern!r}: expected a regular expression: {error.msg}"
        ) from None


def _to_json(attributes: Attributes) -> dict[str, object]:
    """The reference's file format."""
    document: dict[str, object] = {
        "mac": attributes.mac or None,
        "promisc": attributes.is_promiscuous,
        "mtu": attributes.mtu or None,
        "allmulti": attributes.is_allmulti,
        "txQLen": attributes.tx_queue_length,
    }
    return {key: value for key, value in document.items() if value is not None}


def _from_json(section: Section) -> Attributes:
    def flag(key: str) -> bool | None:
        return None if section.value(key) is None else section.boolean(key)

    length = None if section.value("txQLen") is None else section.integer("txQLen")
    return Attributes(
        section.string("mac"), section.integer("mtu"), flag("promisc"), flag("allmulti"), length
    )


def _read(path: Path) -> dict[str, object]:
    """The document; empty when there is no file. Raises CNIError when it is damaged."""
    try:
        value = decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IOFailure(f"read {path}: {error.strerror}") from None
    section = Section(str(path), value if isinstance(value, dict) else {})
    _from_json(section)
    return dict(section.values)


def _files(directory: Path) -> list[Path]:
    """Every attachment's; raises IOFailure when that cannot be told."""
    try:
        return [directory / each for each in sorted(os.listdir(directory)) if each.endswith(".json")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise IOFailure(f"read {directory}: {error.strerror}") from None


def _remove_of(network: str, path: Path) -> None:
    """Remove a file of the network's; what does not say whose it is, is nobody's. Raises IOFailure."""
    try:
        whose = Section(str(path), _read(path)).string("network")
    except IOFailure:
        raise
    except CNIError:
        return
    if whose == network:
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno != errno.ENOTDIR:
            raise IOFailure(f"remove {path}: {error.strerror}") from None
