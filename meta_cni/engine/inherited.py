"""
Pods that were attached before we came, by Multus or by the default network's own configuration.

Multus keeps in `<cniDir>/<container id>` the networks of a sandbox in their order, and the libcni in it
for each attachment that was made `<cniDir>/results/<network>-<container id>-<interface>` with the
configuration, the arguments and the Result. Together they tell what CHECK and DEL need, so that a node
changes its meta plugin while its pods live. What those plugins made is theirs: they are executed again.

A runtime's own libcni does the same below /var/lib/cni: there are the pods that the default network's
plugin attached when it was alone. Their DEL comes to us, by a configuration that they were not attached by.

Nothing here is written by us. The files of an attachment go when it has been undone, as with Multus.
"""

import base64
import binascii
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import NetworkConfig, PluginConfig, Section, parse_network
from meta_cni.cni.errors import CNIError, IOFailure
from meta_cni.engine.device_info import CAPABILITY
from meta_cni.engine.ledger import Entry, Executed, Record
from meta_cni.settings import MULTUS_TYPES, Settings

RUNTIME = "/var/lib/cni"
"""Where a runtime's own libcni records what it attaches, as it does unless it is told otherwise."""
RESULTS = "results"
KIND = "cniCacheV1"
"""Of libcni's files, from CNI 0.8 on; those before have the Result alone."""
OUR_TYPES = ("meta-cni", *MULTUS_TYPES)
IN_RESULTS = ("containerId", "ifName", "netns", "config", "networkName")
IN_NETWORKS = ("Name", "ifnameRequest", "deviceID", "resourceName", "Bytes")
"""Keys that are texts, where they are there."""
REQUESTS = {
    "ips": "ipRequest",
    "mac": "macRequest",
    "infinibandGUID": "infinibandGUIDRequest",
    "deviceID": "deviceID",
}
"""Capability arguments by Multus' names of them."""
LOG = logging.getLogger("meta_cni")
Find = Callable[[PluginConfig], str]
"""The program of a plugin; raises CNIError when there is none."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attachment, as the two records tell it."""

    network: str
    """namespace/name of its NAD, else the name in its configuration."""
    interface: str
    config: NetworkConfig
    offered: Mapping[str, object]
    """Capability arguments: each plugin gets those that it declares."""
    netns: str = ""
    cni_args: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    resource: str = ""
    result: Mapping[str, Any] | None = None
    """In version 1.1.0's form; None when it was not made to its end."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose attachments are asked for, and what the runtime tells; all but the first may be unknown."""

    container_id: str
    interface: str = ""
    netns: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


class Inherited:
    """What Multus, or a libcni alone, recorded in one directory."""

    def __init__(
        self, settings: Settings, directory: str = "", interface: str = "", networks: Collection[str] = ()
    ) -> None:
        """
        `directory` is another one than `cniDir`.

        Of an `interface`, nothing else is looked at, and only where it is attached to one of the `networks`.
        """
        self._settings = settings
        self._directory = Path(directory or settings.cni_dir)
        self._interface = interface
        self._networks = networks

    def container_ids(self) -> list[str]:
        """Every sandbox with an attachment that was made."""
        found = {cached.string("containerId") for _, cached in self._cached("")}
        return sorted(each for each in found if each)

    def recorded(self) -> Iterator[tuple[str, str, str]]:
        """(container id, interface, netns) of every attachment that libcni has recorded. Raises IOFailure."""
        for _, cached in self._cached(""):
            yield cached.string("containerId"), cached.string("ifName"), cached.string("netns")

    def attachments(self, container_id: str, interface: str) -> list[Attachment]:
        """
        Of a sandbox, in the order they were made; `interface` is the runtime's, empty where it is not known.

        What cannot be read is logged, and hinders no DEL. Raises IOFailure.
        """
        made = {each.interface: each for each in self._made(container_id)}
        found: list[Attachment] = []
        for index, delegate in enumerate(self._delegates(container_id)):
            config = _config(delegate, "Bytes")
            if config is None:
                continue
            name = delegate.string("ifnameRequest") or (f"net{index}" if index else interface)
            if not name:  # the runtime's interface is the one that the default network has
                name = next((each.interface for each in made.values() if each.config.name == config.name), "")
            found.append(_attachment(delegate, config, name, made.pop(name, None)))
        found.extend(made.values())  # those that were plugged in later, of which only libcni knows
        return [each for each in found if each.interface]

    def entry(self, asked: Asked, find: Find) -> Entry | None:
        """What the ledger would have of a sandbox that Multus attached; None when that is nothing."""
        attached = self.attachments(asked.container_id, asked.interface)
        if not attached:
            return None
        args = next((each.cni_args for each in attached if each.cni_args), asked.args)
        records = tuple(self._record(each, asked, args, find, turn) for turn, each in enumerate(attached))
        reference = f"{args.get('K8S_POD_NAMESPACE', '')}/{args.get('K8S_POD_NAME', '')}".strip("/")
        return Entry(asked.container_id, reference, args.get("K8S_POD_UID", ""), records)

    def forget(self, container_id: str, left: tuple[Record, ...]) -> None:
        """Remove the records of what has been undone; `left` is still to be. Raises IOFailure."""
        kept = {each.interface for each in left}
        paths = [path for path, each in self._cached(container_id) if each.string("ifName") not in kept]
        if not left and not self._interface:
            paths.append(self._directory / container_id)
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise IOFailure(f"remove {path}: {error.strerror}") from None

    def _record(
        self, attached: Attachment, asked: Asked, args: Mapping[str, str], find: Find, turn: int
    ) -> Record:
        config, offered = attached.config, attached.offered
        return Record(
            container_id=asked.container_id,
            request=asked.interface,
            request_network=self._settings.name,
            network=attached.network,
            interface=attached.interface,
            config_name=config.name,
            cni_version=config.cni_version,
            netns=asked.netns or attached.netns,
            netns_identity="",
            executed=tuple(_executed(each, offered, find) for each in config.plugins),
            cni_args=attached.cni_args or args,
            path=asked.path,
            deadline_s=self._settings.timeout_for(attached.network),
            device=attached.device,
            resource=attached.resource,
            device_info=str(offered.get(CAPABILITY) or ""),
            is_default=turn == 0,
            is_check_disabled=config.is_check_disabled,
            turn=turn,
            result=attached.result,
        )

    def _delegates(self, container_id: str) -> list[Section]:
        """The networks of a sandbox as Multus wrote them, before it attached the first."""
        path = self._directory / container_id
        try:
            document = json.loads(path.read_bytes())
        except (FileNotFoundError, IsADirectoryError):
            return []
        except OSError as error:
            raise IOFailure(f"read {path}: {error.strerror}") from None
        except ValueError:
            document = None
        listed = document if isinstance(document, list) else [None]
        if not all(isinstance(each, dict) and _are_texts(each, IN_NETWORKS) for each in listed):
            LOG.error("read %s: not as Multus writes it: what libcni recorded in %s counts", path, RESULTS)
            return []
        return [Section(f"{path}: [{index}]", each) for index, each in enumerate(listed)]

    def _made(self, container_id: str) -> Iterator[Attachment]:
        """The attachments that libcni recorded, the oldest first."""
        for _, cached in self._cached(container_id):
            config = _config(cached, "config")
            if config is not None:
                yield Attachment(
                    network=config.name,
                    interface=cached.string("ifName"),
                    config=config,
                    offered=_mapping(cached.value("capabilityArgs")),
                    netns=cached.string("netns"),
                    cni_args=_args(cached.value("cniArgs")),
                    result=_result(cached, config.cni_version),
                )

    def _cached(self, container_id: str) -> list[tuple[Path, Section]]:
        """libcni's files of a sandbox, or of all; what is none of them is passed over."""
        try:
            with os.scandir(self._directory / RESULTS) as listed:
                found = [Path(each.path) for each in listed if f"-{container_id}" in each.name]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise IOFailure(f"read {self._directory / RESULTS}: {error.strerror}") from None
        read = ((path, _cached(path, (*OUR_TYPES, self._settings.type))) for path in found)
        whole = [(path, each) for path, each in read if each is not None]
        mine = [each for each in whole if container_id in ("", each[1].string("containerId"))]
        wanted = [each for each in mine if not self._interface or self._is_asked(each[1])]
        return sorted(wanted, key=lambda each: _age(each[0]))

    def _is_asked(self, cached: Section) -> bool:
        interface, network = cached.string("ifName"), cached.string("networkName")
        return interface == self._interface and network in self._networks


def of_runtime(settings: Settings, interface: str = "", networks: Collection[str] = ()) -> Inherited:
    """
    What the runtime attached without a meta plugin, by the default network's own configuration.

    Its attachments by us, or by Multus, are left out: they are in the records of those. Others of the same
    sandbox have other interfaces, and are the runtime's own to undo. `networks` are the default ones of now:
    of one that was there before them, the plugins may be gone.
    """
    return Inherited(settings, RUNTIME, interface, networks)


def _age(path: Path) -> tuple[int, str]:
    with suppress(OSError):
        return path.stat().st_mtime_ns, path.name
    return 0, path.name


def _cached(path: Path, ours: Collection[str]) -> Section | None:
    """
    A file of libcni's; None for any other.

    A runtime that shares the directory keeps its own attachment there, which is Multus itself, or us: alone,
    or behind another plugin.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IOFailure(f"read {path}: {error.strerror}") from None
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("kind") != KIND or not _are_texts(document, IN_RESULTS):
        return None
    section = Section(str(path), document)
    config = _config(section, "config")
    is_meta = config is not None and any(each.type in ours for each in config.plugins)
    return None if is_meta else section


def _are_texts(document: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    return all(isinstance(document.get(each, ""), str) for each in keys)


def _config(section: Section, key: str) -> NetworkConfig | None:
    """A configuration in base64, as Go writes bytes into JSON; None when it is none, which is logged."""
    where = f"{section.where}: {key}"
    try:
        found = parse_network(base64.b64decode(section.string(key), validate=True), where)
    except binascii.Error:
        LOG.error("%s: expected base64", where)
    except CNIError as error:
        LOG.error("%s", error.message)
    else:
        if found.plugins:
            return found
        LOG.error("%s: expected plugins", where)
    return None


def _attachment(delegate: Section, config: NetworkConfig, name: str, made: Attachment | None) -> Attachment:
    """A network of the sandbox, and what libcni knows of its attachment."""
    known = made or Attachment(
        config.name,
        name,
        config,
        {key: value for key, asked in REQUESTS.items() if (value := delegate.value(asked))},
    )
    return replace(
        known,
        network=delegate.string("Name") or config.name,
        device=delegate.string("deviceID"),
        resource=delegate.string("resourceName"),
    )


def _executed(plugin: PluginConfig, offered: Mapping[str, object], find: Find) -> Executed:
    given = {key: value for key, value in offered.items() if key in plugin.capabilities}
    ready = plugin.execution({"runtimeConfig": given or None})
    return Executed(plugin.type, False, ready.raw.text(), find(ready))


def _args(pairs: object) -> dict[str, str]:
    """CNI_ARGS, of which Multus has some twice."""
    listed = pairs if isinstance(pairs, list) else []
    return {each[0]: each[1] for each in listed if isinstance(each, list) and len(each) == 2 and each[1]}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _result(cached: Section, version: str) -> Mapping[str, Any] | None:
    """The Result of the ADD; None when there is none that can be read, of which no DEL fails."""
    try:
        told = results.parse(_mapping(cached.value("result")), version)
        return results.to_json(told, versions.NEWEST)
    except CNIError as error:
        LOG.error("%s: result: %s", cached.where, error.message)
        return None
