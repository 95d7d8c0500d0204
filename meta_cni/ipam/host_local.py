"""
host-local: addresses from ranges, kept in files on this node.

The files are the reference plugin's, byte for byte, and so is their lock: both programs hand
out addresses from one directory at the same time and never the same one. One file an address,
made with O_EXCL, holding `<container id>\\r\\n<interface>`.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import (
    AddressesExhausted,
    BadConfig,
    CheckFailed,
    CNIError,
    IOFailure,
    TryAgainLater,
)
from meta_cni.cni.result import DNS, Address, InterfaceAddress, IPConfig, Result, Route
from meta_cni.cni.version import at_least
from meta_cni.ipam import ranges
from meta_cni.ipam.ranges import RangeSet

DATA_DIRECTORY = "/var/lib/cni/networks"
LAST_RESERVED = "last_reserved_ip."
LOCK = "lock"
LOCK_POLL_S = 0.005
KEYS = (
    *("type", "ranges", "subnet", "rangeStart", "rangeEnd", "gateway"),
    *("routes", "dataDir", "resolvConf"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The `ipam` section, checked."""

    sets: tuple[RangeSet, ...]
    routes: tuple[Route, ...]
    dns: DNS
    directory: Path
    requested: tuple[Address, ...]


class HostLocal:
    """The addresses of one attachment."""

    def __init__(self, options: Options, container_id: str, interface: str, deadline_s: float) -> None:
        self.options = options
        self.container_id = container_id
        self.interface = interface
        self.deadline_s = deadline_s

    @property
    def is_none(self) -> bool:
        """host-local always hands out addresses."""
        return False

    def acquire(self) -> Result:
        """One address of every range set, or none at all."""
        is_new = not self.options.directory.exists()
        try:
            with self._locked():
                ips = self._allocate_all()
        except BaseException:
            if is_new:
                _remove_empty(self.options.directory)
            raise
        return Result(ips=ips, routes=self.options.routes, dns=self.options.dns)

    def _allocate_all(self) -> tuple[IPConfig, ...]:
        requested = list(self.options.requested)
        ips: list[IPConfig] = []
        try:
            for index, each in enumerate(self.options.sets):
                ips.append(self._allocate(index, each, requested))
            if requested:
                texts = ", ".join(str(each) for each in requested)
                raise BadConfig(f"allocate all requested IPs: {texts}: expected addresses of the ranges")
        except BaseException:
            self._release_files()
            raise
        return tuple(ips)

    def _allocate(self, index: int, set_: RangeSet, requested: list[Address]) -> IPConfig:
        wanted = next((each for each in requested if ranges.find(set_, each)), None)
        if wanted is not None:
            requested.remove(wanted)
            return self._reserve_requested(index, set_, wanted)
        held = [each for each in self._held() if ranges.find(set_, each)]
        if held:
            raise BadConfig(
                f"allocate for range {index}: {held[0]} has been allocated to {self.container_id}, "
                "duplicate allocation is not allowed"
            )
        for address, range_ in ranges.candidates(set_, self._last_reserved(index)):
            if self._reserve(address, index):
                return IPConfig(_with_prefix(address, range_), range_.gateway)
        raise AddressesExhausted(
            f"allocate for range {index}: no IP addresses available in range set: {ranges.name_of(set_)}"
        )

    def _reserve_requested(self, index: int, set_: RangeSet, wanted: Address) -> IPConfig:
        range_ = ranges.find(set_, wanted)
        assert range_ is not None
        if wanted == range_.gateway:
            raise BadConfig(f"allocate for range {index}: requested ip {wanted} is subnet's gateway")
        if not self._reserve(wanted, index):
            raise AddressesExhausted(
                f"allocate for range {index}: requested IP address {wanted} is not available "
                f"in range set {ranges.name_of(set_)}"
            )
        return IPConfig(_with_prefix(wanted, range_), range_.gateway)

    def _reserve(self, address: Address, index: int) -> bool:
        """Make the address' file; False when somebody has it."""
        path = self.options.directory / str(address)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        except OSError as error:
            raise IOFailure(f"write {path}: {error.strerror}") from None
        try:
            _write_all(descriptor, f"{self.container_id}\r\n{self.interface}".encode())
            (self.options.directory / f"{LAST_RESERVED}{index}").write_text(str(address))
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise IOFailure(f"write {path}: {error.strerror}") from None
        finally:
            os.close(descriptor)
        return True

    def _last_reserved(self, index: int) -> Address | None:
        try:
            return ip_address((self.options.directory / f"{LAST_RESERVED}{index}").read_text().strip())
        except (OSError, ValueError):
            return None

    def _held(self) -> list[Address]:
        return [
            address for address, _ in _files_of(self.options.directory, self.container_id, self.interface)
        ]

    def release(self) -> None:
        """Remove every file of this attachment; none is no error."""
        if not self.options.directory.is_dir():
            return
        with self._locked():
            self._release_files()

    def _release_files(self) -> None:
        for _, path in _files_of(self.options.directory, self.container_id, self.interface):
            _unlink(path)

    def check(self, previous: Result) -> None:
        """An address of this attachment is still reserved."""
        if not self.options.directory.is_dir() or not self._held():
            raise CheckFailed(
                f"check addresses of {self.interface}: {self.options.directory} "
                f"has none of {self.container_id}"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.options.directory, self.deadline_s):
            yield


def parse(config: PluginConfig, cni_args: Mapping[str, str]) -> Options:
    """Check an ipam section of type host-local; raises BadConfig."""
    section = config.ipam
    assert section is not None
    runtime = config.section.section("runtimeConfig")
    sets = ranges.parse_sets(section)
    if runtime is not None and runtime.value("ipRanges") is not None:
        sets = (*ranges.parse_list(runtime, "ipRanges"), *sets)
    if not sets:
        raise BadConfig(f"{section.where}: no IP ranges specified: expected ranges, a list of range sets")
    ranges.check_sets(sets, section.where)
    _check_version(config, sets, section)
    return Options(
        sets=sets,
        routes=parse_routes(section),
        dns=_resolv_conf(section),
        directory=Path(section.string("dataDir") or DATA_DIRECTORY) / config.network,
        requested=_requested(config, runtime, cni_args),
    )


def _check_version(config: PluginConfig, sets: tuple[RangeSet, ...], section: Section) -> None:
    families = [each[0].subnet.version for each in sets]
    if not at_least(config.cni_version, "0.3.0") and len(families) != len(set(families)):
        raise BadConfig(
            f"{section.where}: CNI version {config.cni_version} "
            "does not support more than 1 address per family"
        )


def parse_routes(section: Section) -> tuple[Route, ...]:
    """`routes` of an ipam section, with everything a Result's route may have."""
    return tuple(
        Route(
            destination=each.network("dst"),
            gateway=each.address("gw"),
            mtu=each.integer("mtu"),
            advmss=each.integer("advmss"),
            priority=each.integer("priority"),
            table=each.integer("table") if each.value("table") is not None else None,
            scope=each.integer("scope", maximum=255) if each.value("scope") is not None else None,
        )
        for each in section.sections("routes")
    )


def _requested(
    config: PluginConfig, runtime: Section | None, cni_args: Mapping[str, str]
) -> tuple[Address, ...]:
    """Addresses asked for by CNI_ARGS, args.cni and runtimeConfig, each once."""
    args = config.section.section("args")
    cni = args.section("cni") if args else None
    texts = [text for text in cni_args.get("IP", "").split(",") if text]
    texts += [*(cni.strings("ips") if cni else ()), *(runtime.strings("ips") if runtime else ())]
    found: dict[Address, None] = {}
    for text in texts:
        try:
            found[ip_interface(text).ip] = None
        except ValueError:
            raise BadConfig(f"{config.where}: requested IP {text!r}: expected an IP address") from None
    return tuple(found)


def _resolv_conf(section: Section) -> DNS:
    path = section.string("resolvConf")
    if not path:
        return DNS()
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise BadConfig(f"{section.where}: resolvConf {path}: {error.strerror}") from None
    words = [line.split() for line in lines if line.strip() and line.strip()[0] not in "#;"]
    return DNS(
        nameservers=tuple(each[1] for each in words if each[0] == "nameserver" and len(each) > 1),
        domain=next((each[1] for each in words if each[0] == "domain" and len(each) > 1), ""),
        search=tuple(word for each in words if each[0] == "search" for word in each[1:]),
        options=tuple(word for each in words if each[0] == "options" for word in each[1:]),
    )


def _with_prefix(address: Address, range_: ranges.Range) -> InterfaceAddress:
    return ip_interface(f"{address}/{range_.subnet.prefixlen}")


@contextmanager
def locked(directory: Path, deadline_s: float) -> Iterator[None]:
    """Hold the lock that the reference plugin takes; raises TryAgainLater at the deadline."""
    path = directory / LOCK
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise IOFailure(f"open {path}: {error.strerror}") from None
    try:
        _flock(descriptor, path, time.monotonic() + deadline_s)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TryAgainLater(f"lock {path}: another program still holds it") from None
            time.sleep(LOCK_POLL_S)


def _write_all(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise IOFailure(f"remove {path}: {error.strerror}") from None


def _remove_empty(directory: Path) -> None:
    """Take away a directory that a failed allocation made."""
    leftover = [
        each for each in directory.glob("*") if each.name != LOCK and not each.name.startswith(LAST_RESERVED)
    ]
    if leftover:
        return
    with suppress(OSError):
        for each in directory.glob("*"):
            each.unlink()
        directory.rmdir()


def _files(directory: Path) -> Iterator[tuple[Address, Path, str, str]]:
    """(address, file, container id, interface) of every allocation in a directory."""
    for path in sorted(directory.iterdir()):
        try:
            address = ip_address(path.name)
            container_id, _, interface = path.read_bytes().decode().strip().partition("\n")
        except (ValueError, OSError):
            continue
        yield address, path, container_id.strip(), interface.strip()


def _files_of(directory: Path, container_id: str, interface: str) -> list[tuple[Address, Path]]:
    """The files of one attachment; older versions wrote no interface."""
    return [
        (address, path)
        for address, path, owner, name in _files(directory)
        if owner == container_id and name in ("", interface)
    ]


def reclaim(directory: Path, valid: frozenset[tuple[str, str]], deadline_s: float) -> list[str]:
    """GC: release every address whose (container id, interface) is not valid; returns them."""
    if not directory.is_dir():
        return []
    with locked(directory, deadline_s):
        stale = [
            (address, path)
            for address, path, owner, name in _files(directory)
            if (owner, name) not in valid and not (name == "" and owner in {each for each, _ in valid})
        ]
        for _, path in stale:
            _unlink(path)
    return [str(address) for address, _ in stale]


def release_container(data_directory: Path, container_id: str, deadline_s: float) -> list[str]:
    """Release every address of a container in every network; for when nothing else is known."""
    released: list[str] = []
    for directory in sorted(data_directory.iterdir()) if data_directory.is_dir() else []:
        if not directory.is_dir():
            continue
        with suppress(CNIError), locked(directory, deadline_s):
            for address, path, owner, _ in _files(directory):
                if owner == container_id:
                    _unlink(path)
                    released.append(f"{address} of {directory.name}")
    return released


def describe(options: Options) -> str:
    """One line for a plan."""
    return f"host-local {', '.join(ranges.name_of(each) for each in options.sets)} in {options.directory}"
