"""
host-local: addresses from ranges, kept in files on this node.

What is handed out is chosen first, from what the directory says under its lock, and written
then: all that was asked for or nothing. Configuration, choice and texts are the reference
plugin's (plugins/ipam/host-local), so that either program continues where the other stopped.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from meta_cni.cni.config import PluginConfig, RawObject, Section
from meta_cni.cni.errors import (
    AddressesExhausted,
    AlreadyAttached,
    BadConfig,
    CheckFailed,
    CNIError,
    IOFailure,
    NotAvailable,
    join,
)
from meta_cni.cni.result import DNS, NO_DNS, Address, IPConfig, Result, Route
from meta_cni.ipam import keys, ranges, reservations
from meta_cni.ipam.directories import Contents, Directories
from meta_cni.ipam.ranges import Range, RangeSet
from meta_cni.ipam.reservations import Reservation
from meta_cni.linux.address import interface_address
from meta_cni.quick import quick

DATA_DIRECTORY = "/var/lib/cni/networks"
KEYS = (
    *("type", "ranges", "subnet", "rangeStart", "rangeEnd", "gateway"),
    *("routes", "dataDir", "resolvConf"),
)
WRITE_TRIES = 16


@dataclass(frozen=True, slots=True)
class Options:
    """The `ipam` section, checked."""

    sets: tuple[RangeSet, ...]
    routes: tuple[Route, ...]
    resolv_conf: str
    """A file to read when addresses are acquired; a DEL must work when it has gone."""
    directory: Path
    requested: tuple[Address, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class HostLocal:
    """The addresses of one attachment."""

    options: Options
    container_id: str
    interface: str
    deadline_s: float
    directories: Directories = field(default_factory=Directories, compare=False)

    @property
    def is_none(self) -> bool:
        """host-local always hands out addresses."""
        return False

    def acquire(self) -> Result:
        """One address of every range set, or none at all and everything as it was."""
        dns = read_resolv_conf(self.options.resolv_conf)
        directory = str(self.options.directory)
        try:
            made = self._reserve(directory)
        except reservations.NoDirectory:
            # What cannot work in an empty directory does not make one.
            self._choose(Contents(directory, set(), {}))
            with reservations.made(self.options.directory):
                made = self._reserve(directory)
        ips = tuple([_ip(*each) for each in zip(self.options.sets, made, strict=True)])
        return Result(ips=ips, routes=self.options.routes, dns=dns)

    def _reserve(self, directory: str) -> list[Reservation]:
        """Choose and write, again when a program that does not lock was faster; raises NoDirectory."""
        with reservations.locked(directory, self.deadline_s):
            for _ in range(WRITE_TRIES):
                contents = self.directories.look(directory, self.container_id)
                chosen = self._choose(contents)
                try:
                    self.directories.write(contents, chosen)
                except FileExistsError:
                    continue
                return chosen
        raise IOFailure(f"write {directory}: another program takes addresses without the lock")

    def _choose(self, contents: Contents) -> list[Reservation]:
        """An address of every range set in their order; each one requested must be used."""
        held = self._counted(contents.of(self.container_id))
        requested = list(self.options.requested)
        chosen: list[Reservation] = []
        for index, each in enumerate(self.options.sets):
            wanted = _first_of(each, requested) if requested else None
            if wanted is not None:
                requested.remove(wanted)
                address, name = _requested(index, each, wanted, contents.names)
            else:
                self._refuse_second(index, each, held)
                address, name = _next(index, each, contents.last_reserved(index), contents.names)
            path = f"{contents.directory}/{name}"
            chosen.append(Reservation(address, path, self.container_id, self.interface))
        if requested:
            texts = ", ".join(str(address) for address in requested)
            raise BadConfig(f"allocate all requested IPs: {texts}: {self._expected()}")
        return chosen

    def _counted(self, mine: Sequence[Reservation]) -> list[Address]:
        """Of the container's, what this attachment holds, files without interface included."""
        return [each.address for each in mine if each.interface in ("", self.interface)]

    def _refuse_second(self, index: int, set_: RangeSet, held: Sequence[Address]) -> None:
        for address in held:
            if ranges.find(set_, address):
                raise AlreadyAttached(
                    f"allocate for range {index}: {address} has been allocated to {self.container_id}, "
                    "duplicate allocation is not allowed"
                )

    def _expected(self) -> str:
        return "expected one address of each of " + "; ".join(map(ranges.name_of, self.options.sets))

    def release(self) -> None:
        """Remove every file of this attachment; none is no error."""
        directory = str(self.options.directory)
        try:
            with reservations.locked(directory, self.deadline_s):
                contents = self.directories.look(directory, self.container_id)
                mine = reservations.of(self.interface, contents.of(self.container_id))
                self.directories.remove(contents, mine)
        except reservations.NoDirectory:
            return

    def check(self, previous: Result) -> None:
        """Every address of the previous result that is in our ranges is reserved for us, and at least one."""
        mine = self.directories.held(str(self.options.directory), self.container_id)
        held = set(self._counted(mine))
        addresses = (each.address.ip for each in previous.ips)
        ours = [each for each in addresses if any(ranges.find(set_, each) for set_ in self.options.sets)]
        lost = [str(each) for each in ours if each not in held]
        if lost or not held:
            raise CheckFailed(
                f"check addresses of {self.interface}: {self.options.directory} "
                f"has none of {self.container_id}{': ' + ', '.join(lost) if lost else ''}"
            )

    def status(self) -> None:
        """Raise NotAvailable when a range set is full."""
        taken = frozenset(reservations.names(self.options.directory))
        try:
            for index, each in enumerate(self.options.sets):
                _next(index, each, None, taken)
        except AddressesExhausted as error:
            raise NotAvailable(error.message) from None


def _first_of(set_: RangeSet, addresses: Sequence[Address]) -> Address | None:
    """The first address that a set has."""
    for each in addresses:
        if ranges.find(set_, each):
            return each
    return None


def _requested(index: int, set_: RangeSet, wanted: Address, taken: Collection[str]) -> tuple[Address, str]:
    """An address that was asked for, and the name of its file."""
    range_ = ranges.find(set_, wanted)
    assert range_ is not None
    if wanted == range_.gateway:
        raise BadConfig(f"allocate for range {index}: requested ip {wanted} is subnet's gateway")
    name = reservations.name_of(wanted)
    if name in taken:
        raise AddressesExhausted(
            f"allocate for range {index}: requested IP address {wanted} is not available "
            f"in range set {ranges.name_of(set_)}"
        )
    return wanted, name


def _next(index: int, set_: RangeSet, last: Address | None, taken: Collection[str]) -> tuple[Address, str]:
    """The next address that is free, and the name of its file."""
    for address in ranges.candidates(set_, last):
        name = reservations.name_of(address)
        if name not in taken:
            return address, name
    raise AddressesExhausted(
        f"allocate for range {index}: no IP addresses available in range set: {ranges.name_of(set_)}"
    )


def _ip(set_: RangeSet, made: Reservation) -> IPConfig:
    """An address of a set as it stands in a Result."""
    range_ = ranges.find(set_, made.address)
    assert range_ is not None
    return IPConfig(interface_address(made.address, range_.subnet.prefixlen), range_.gateway)


def parse(
    config: PluginConfig, cni_args: Mapping[str, str], *, is_new: bool = False, is_released: bool = False
) -> Options:
    """
    Check an ipam section of type host-local; raises BadConfig. Nothing is read or touched.

    A gateway outside of its network (the reference refuses it since 1.10.0) keeps no DEL, nor does
    a route or an address that was asked for: who releases needs none.
    """
    if is_released:
        return config.once(_configured)
    options = config.once(_new if is_new else _with_routes)
    requested = _asked(config, cni_args)
    return replace(options, requested=requested) if requested else options


def _configured(config: PluginConfig) -> Options:
    """What is the same for every pod of a network."""
    section = _ipam(config)
    runtime = config.section.section("runtimeConfig")
    sets = _fixed_sets(section.where, config.raw.text_of("ipam") or "")
    if runtime is not None and runtime.value("ipRanges") is not None:
        sets = (*ranges.parse_list(runtime, "ipRanges"), *sets)
        ranges.check_sets(sets, section.where)
    if not sets:
        raise BadConfig(f"{section.where}: no IP ranges specified: expected ranges, a list of range sets")
    keys.require_one_per_family(config, (each[0].subnet.version for each in sets))
    return Options(sets, (), section.string("resolvConf"), _directory(config, section))


def _with_routes(config: PluginConfig) -> Options:
    routes = _fixed_routes(_ipam(config).where, config.raw.text_of("ipam") or "")
    return replace(config.once(_configured), routes=routes)


def _new(config: PluginConfig) -> Options:
    """For an ADD, which alone is refused bad gateways, and what stands beside a subnet that is not there."""
    section = _ipam(config)
    ranges.check_gateways(config.once(_configured).sets, section.where)
    for key in ("rangeStart", "rangeEnd", "gateway"):
        section.address(key)
    return config.once(_with_routes)


def _ipam(config: PluginConfig) -> Section:
    section = config.ipam
    assert section is not None
    return section


@lru_cache(maxsize=256)
def _fixed_sets(where: str, text: str) -> tuple[RangeSet, ...]:
    """The ranges in the JSON text of an ipam section: the same for every pod of a network."""
    sets = ranges.parse_sets(Section(where, RawObject.parse(text, where).values()))
    ranges.check_sets(sets, where)
    return sets


@lru_cache(maxsize=256)
def _fixed_routes(where: str, text: str) -> tuple[Route, ...]:
    """Its routes."""
    return Section(where, RawObject.parse(text, where).values()).routes("routes")


def _directory(config: PluginConfig, section: Section) -> Path:
    if config.network in ("", ".", "..") or "/" in config.network:
        raise BadConfig(f"{config.where}: name {config.network!r}: expected the name of a network")
    return Path(section.string("dataDir") or DATA_DIRECTORY) / config.network


def _asked(config: PluginConfig, cni_args: Mapping[str, str]) -> tuple[Address, ...]:
    """Addresses asked for by CNI_ARGS, args.cni and runtimeConfig, each once."""
    asked = keys.asked(config, cni_args)
    found: dict[Address, None] = {}
    for text in (*asked.cni_args, *asked.args, *asked.runtime):
        try:
            found[keys.interface_address(text).ip] = None
        except ValueError:
            raise BadConfig(f"{config.where}: requested IP {text!r}: expected an IP address") from None
    return tuple(found)


def read_resolv_conf(path: str) -> DNS:
    """A resolver's configuration (resolv.conf(5)); no path is no DNS. Raises BadConfig."""
    if not path:
        return NO_DNS
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise BadConfig(f"read resolvConf {path}: {error.strerror}") from None
    words = [line.split() for line in lines if line.strip() and line.strip()[0] not in "#;"]
    values = partial(_values, [each for each in words if len(each) > 1])
    return DNS(
        nameservers=tuple(each[0] for each in values("nameserver")),
        domain=next((each[0] for each in reversed(values("domain"))), ""),
        search=tuple(word for each in values("search") for word in each),
        options=tuple(word for each in values("options") for word in each),
    )


def _values(words: Sequence[list[str]], keyword: str) -> list[list[str]]:
    return [each[1:] for each in words if each[0] == keyword]


def reclaim(directory: Path, valid: frozenset[tuple[str, str]], deadline_s: float) -> list[str]:
    """GC: release every address whose (container id, interface) is not valid; returns them."""
    if not reservations.is_there(directory):
        return []
    containers = {container_id for container_id, _ in valid}
    with reservations.locked(directory, deadline_s):
        stale = [
            each
            for each in reservations.listing(directory)
            if (each.container_id, each.interface) not in valid
            and not (not each.interface and each.container_id in containers)
        ]
        reservations.remove(stale)
    return [str(each.address) for each in stale]


def release_container(data_directory: Path, container_id: str, deadline_s: float) -> list[str]:
    """
    Release every address of a container in every network; for when nothing else is known.

    A network that cannot be read does not keep the others from being tried.
    """
    released: list[str] = []
    errors: list[CNIError] = []
    for name in reservations.names(data_directory):
        try:
            mine = _release_all(data_directory / name, container_id, deadline_s)
            released.extend(f"{each.address} of {name}" for each in mine)
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)
    return released


def _release_all(directory: Path, container_id: str, deadline_s: float) -> list[Reservation]:
    """Release a container's addresses of one network; a directory without any is not locked."""
    if not reservations.is_there(directory):
        return []
    if not reservations.listing(directory, container_id):
        return []
    with reservations.locked(directory, deadline_s):
        mine = reservations.listing(directory, container_id)
        reservations.remove(mine)
    return mine


@dataclass(frozen=True, slots=True)
class Usage:
    """One range set."""

    name: str
    used: int
    free: int


def usage(options: Options) -> list[Usage]:
    """How many addresses of each range set are taken, and how many can still be had. Raises IOFailure."""
    taken = [each for each in map(_address_of, reservations.names(options.directory)) if each is not None]
    found = []
    for each in options.sets:
        used = sum(1 for address in taken if ranges.find(each, address))
        free = sum(map(_count, each)) - used
        found.append(Usage(ranges.name_of(each), used, max(0, free)))
    return found


def _address_of(name: str) -> Address | None:
    try:
        return reservations.address_of(name)
    except ValueError:
        return None


def _count(range_: Range) -> int:
    """Its addresses; the gateway is given to nobody."""
    return int(range_.end) - int(range_.start) + 1 - (range_.gateway in range_)


def describe(options: Options) -> str:
    """One line for a plan."""
    return f"host-local {'; '.join(map(_shown, options.sets))} in {options.directory}"


def _shown(set_: RangeSet) -> str:
    """A set by its subnets, and by its ends where it is not the whole subnet."""
    return ", ".join(str(each.subnet) if each.is_whole else f"{each} of {each.subnet}" for each in set_)
