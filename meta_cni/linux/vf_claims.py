"""
Which attachment has which virtual function (VF), and what the VF was before.

Files of sriov-cni, in its directory and its format, so that a node may be taken over by either
program while its pods live: <container id>-<interface> has the configuration and the VF's state,
pci/<address> the path of the network namespace that the VF was given to, and pci/vf_lock/<address>.lock
is flocked by whoever changes any of it. What that format cannot say is under a key of ours.

A claim is written, synced, before the VF is touched, and removed when it is again as it was. A file
without the second one is of a call that was killed in between, or of a release before there were any.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from meta_cni.cni.config import Section, decode
from meta_cni.cni.errors import CNIError, DamagedEntry, IOFailure, TryAgainLater
from meta_cni.linux.vf import LINK_STATES, PROTOCOLS, Rate, Settings, Vlan

DIRECTORY = Path("/var/lib/cni/sriov")
OURS = "meta-cni"
LOCK_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Before:
    """A VF's link as it was on the node."""

    name: str
    mac: str = ""
    mtu: int = 0
    is_up: bool = False
    is_promiscuous: bool = False
    is_allmulti: bool = False
    is_known: bool = True
    """All of it; the reference plugin writes down no more than name, MAC and MTU."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One VF of one attachment."""

    container_id: str
    interface: str
    address: str
    parent: str
    """The PF's link."""
    number: int
    wanted: Settings
    """What was asked for."""
    before: Settings
    link: Before | None = None
    """None for a VF that a program drives."""
    network: str = ""
    """Empty where the reference plugin made it."""
    netns: str = ""
    netns_identity: str = ""
    config: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The plugin's configuration, for the reference plugin to read."""

    @property
    def is_ours(self) -> bool:
        """Made by this program."""
        return bool(self.network)


class Claims:
    """Those of a node."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self.directory = directory

    @contextmanager
    def locked(self, address: str, deadline_s: float) -> Iterator[None]:
        """
        Hold a VF's lock; its file stays, for the reference plugin holds on to the one it opened.

        Raises TryAgainLater when another call holds it for longer.
        """
        path = self.directory / "pci" / "vf_lock" / f"{address}.lock"
        _make_directory(path.parent)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise IOFailure(f"open lock {path}: {error.strerror}") from None
        try:
            _lock(descriptor, address, time.monotonic() + deadline_s)
            yield
        finally:
            os.close(descriptor)

    def find(self, container_id: str, interface: str) -> Claim | None:
        """The claim of an attachment; None when it has none. Raises DamagedEntry."""
        claim = self._read(f"{container_id}-{interface}")
        return replace(claim, container_id=container_id, interface=interface) if claim else None

    def of_device(self, address: str) -> list[Claim]:
        """Every claim on a VF: more than one, where a holder vanished."""
        return [each for each in self.all() if each.address == address]

    def all(self) -> list[Claim]:
        """Every one that can be read."""
        try:
            names = sorted(each.name for each in os.scandir(self.directory) if each.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise IOFailure(f"list {self.directory}: {error.strerror}") from None
        found = []
        for name in names:
            with suppress(CNIError):
                found.append(None if name.startswith(".") else self._read(name))
        return [each for each in found if each is not None]

    def holder(self, address: str) -> str:
        """The path of the namespace that a VF was given to; empty when it is nobody's."""
        try:
            return (self.directory / "pci" / address).read_text(errors="surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise IOFailure(f"read {self.directory / 'pci' / address}: {error.strerror}") from None

    def is_anothers(self, claim: Claim) -> bool:
        """Has the VF been given to another namespace since?"""
        return self.holder(claim.address) not in ("", claim.netns)

    def write(self, claim: Claim) -> None:
        """Keep a claim, durably; its lock is held. Raises IOFailure."""
        text = json.dumps(_document(claim), ensure_ascii=False)
        _replace(self.directory / f"{claim.container_id}-{claim.interface}", text)
        _replace(self.directory / "pci" / claim.address, claim.netns)

    def remove(self, claim: Claim) -> None:
        """Forget a claim, and the holder unless that is another one by now; gone is success."""
        if not self.is_anothers(claim):
            _remove(self.directory / "pci" / claim.address)
        _remove(self.directory / f"{claim.container_id}-{claim.interface}")

    def clear(self, container_id: str, interface: str) -> None:
        """Remove what a write that was cut off left of an attachment's claim."""
        _remove_unfinished(self.directory / f"{container_id}-{interface}")

    def set_aside(self, container_id: str, interface: str) -> Path:
        """Move a damaged claim out of the way, where it can be looked at."""
        name = f"{container_id}-{interface}"
        target = self.directory / "damaged" / f"{name}.{time.time_ns()}"
        _make_directory(target.parent)
        os.replace(self.directory / name, target)
        return target

    def _read(self, name: str) -> Claim | None:
        path = self.directory / name
        try:
            value = decode(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IOFailure(f"read {path}: {error.strerror}") from None
        except CNIError as error:
            raise DamagedEntry(error.message) from None
        try:
            claim = _claim(Section(str(path), value if isinstance(value, dict) else {}), name)
        except CNIError as error:
            raise DamagedEntry(error.message) from None
        return claim if claim.is_ours else replace(claim, netns=self.holder(claim.address))


def _lock(descriptor: int, address: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise IOFailure(f"lock VF {address}: {error.strerror}") from None
        if time.monotonic() > deadline:
            raise TryAgainLater(f"lock VF {address}: another call for it is still running")
        time.sleep(LOCK_POLL_S)


def _document(claim: Claim) -> dict[str, object]:
    """The reference plugin's NetConf, with our own key beside."""
    before, link = claim.before, claim.link
    vlan, rate = before.vlan or Vlan(0), before.rate or Rate()
    original = {
        "HostIFName": link.name if link else "",
        "SpoofChk": bool(before.is_spoof_checked),
        "Trust": bool(before.is_trusted),
        "AdminMAC": before.mac or "",
        "EffectiveMAC": link.mac if link else "",
        "Vlan": vlan.id,
        "VlanQoS": vlan.qos,
        "VlanProto": PROTOCOLS[vlan.protocol],
        "MinTxRate": rate.min_mbps,
        "MaxTxRate": rate.max_mbps,
        "LinkState": LINK_STATES.index(before.link_state or "auto"),
        "MTU": link.mtu if link else 0,
    }
    own = asdict(claim)
    del own["config"]
    return {
        **claim.config,
        "OrigVfState": original,
        "Master": claim.parent,
        "MAC": claim.wanted.mac or "",
        "deviceID": claim.address,
        "VFID": claim.number,
        OURS: own,
    }


def _claim(section: Section, name: str) -> Claim:
    """Out of what either program wrote; raises CNIError."""
    own = section.section(OURS)
    if own is not None:
        return _own(own)
    state = section.section("OrigVfState")
    address = section.string("deviceID")
    if state is None or not address:
        raise section.wrong("OrigVfState", "a file of sriov-cni")
    container_id, _, interface = name.rpartition("-")
    name_before = state.string("HostIFName")
    link = Before(name_before, state.string("EffectiveMAC"), state.integer("MTU"), is_known=False)
    return Claim(
        container_id=container_id,
        interface=interface,
        address=address,
        parent=section.string("Master"),
        number=section.integer("VFID"),
        wanted=_wanted(section),
        before=_before(state),
        link=link if name_before else None,
    )


def _own(section: Section) -> Claim:
    values: dict[str, Any] = {**section.values}
    try:
        link = Before(**values.pop("link")) if values.get("link") else values.pop("link")
        wanted, before = _settings(values.pop("wanted")), _settings(values.pop("before"))
        return Claim(link=link, wanted=wanted, before=before, **values)
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedEntry(f"{section.where}: {error}") from None


def _settings(document: dict[str, Any]) -> Settings:
    vlan, rate = document.pop("vlan"), document.pop("rate")
    return Settings(vlan=Vlan(**vlan) if vlan else None, rate=Rate(**rate) if rate else None, **document)


def _wanted(section: Section) -> Settings:
    """Which keys the reference plugin set, and so puts back; the values do not matter for that."""

    def has(*keys: str) -> bool:
        return any(section.value(key) not in (None, "") for key in keys)

    return Settings(
        vlan=Vlan(0) if has("vlan") else None,
        mac=section.string("MAC") or None,
        rate=Rate() if has("min_tx_rate", "max_tx_rate") else None,
        is_spoof_checked=False if has("spoofchk") else None,
        is_trusted=False if has("trust") else None,
        link_state="auto" if has("link_state") else None,
    )


def _before(state: Section) -> Settings:
    names = {number: name for name, number in PROTOCOLS.items()}
    protocol = names.get(state.integer("VlanProto"), "802.1q")
    return Settings(
        vlan=Vlan(state.integer("Vlan"), state.integer("VlanQoS"), protocol),
        mac=state.string("AdminMAC") or None,
        rate=Rate(state.integer("MinTxRate"), state.integer("MaxTxRate")),
        is_spoof_checked=state.boolean("SpoofChk"),
        is_trusted=state.boolean("Trust"),
        link_state=LINK_STATES[state.integer("LinkState", maximum=len(LINK_STATES) - 1)],
    )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IOFailure(f"make directory {directory}: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    """Written beside, synced, renamed: whole or not at all, after a power cut, too."""
    _make_directory(path.parent)
    temporary = _unfinished(path)
    try:
        with open(temporary, "w", errors="surrogateescape", opener=_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise IOFailure(f"write {path}: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _remove(path: Path) -> None:
    _remove_unfinished(path)
    _unlink(path)


def _remove_unfinished(path: Path) -> None:
    _unlink(_unfinished(path))


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise IOFailure(f"remove {path}: {error.strerror}") from None


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")
