"""
IP masquerade of pods: what leaves their network leaves it with the node's address.

Tables, chains, rules and comments are those of the reference plugins (containernetworking/plugins,
pkg/ip), so that either can take away what the other made. They are found by what they say of
themselves, the network's name and the pod, so a DEL needs neither link nor address.

Of iptables' rules the reference's say only which pod they are of: two attachments of a pod to one
network share a chain, and removing one breaks the other. So each address has one rule more at the
end of that chain, one that does nothing but name its interface; the reference empties the chain.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha512
from ipaddress import ip_network

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import CheckFailed, CNIError, ProgramFailed, join
from meta_cni.cni.result import InterfaceAddress
from meta_cni.linux import iptables, nftables, program
from meta_cni.linux.iptables import Nat
from meta_cni.linux.nftables import Table

BACKENDS = ("iptables", "nftables")
PREFIX = "CNI-"
CHAIN_CHARACTERS = 28
CHAIN = re.compile(f"{PREFIX}[0-9a-f]{{{CHAIN_CHARACTERS - len(PREFIX)}}}")
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
COMMENT = re.compile(r'name: "(?P<network>[^"]*)" id: "(?P<container>[^"]*)"')
OWNER = "if: "
FAMILY, TABLE, CHECKS = "inet", "cni_plugins_masquerade", "masq_checks"
FRAME = f"""\
add table {FAMILY} {TABLE} {{ comment \
"Masquerading for plugins from github.com/containernetworking/plugins" ; }}
add chain {FAMILY} {TABLE} {CHECKS} {{ comment \
"Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet" ; }}
add chain {FAMILY} {TABLE} postrouting {{ type nat hook postrouting priority 100 ; }}
flush chain {FAMILY} {TABLE} postrouting
add rule {FAMILY} {TABLE} postrouting ip daddr == 224.0.0.0/4 return
add rule {FAMILY} {TABLE} postrouting ip6 daddr == ff00::/8 return
add rule {FAMILY} {TABLE} postrouting goto {CHECKS}
"""

Valid = Iterable[tuple[str, str]]
"""(container id, interface) of attachments that keep their rules."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rules they are."""

    network: str
    container_id: str
    interface: str

    @property
    def chain(self) -> str:
        """The chain of a pod's attachments to this network."""
        digest = sha512(f"{self.network}{self.container_id}".encode()).hexdigest()
        return f"{PREFIX}{digest}"[:CHAIN_CHARACTERS]

    @property
    def text(self) -> str:
        """What every rule of iptables says."""
        return f'name: "{self.network}" id: "{self.container_id}"'

    @property
    def digest(self) -> str:
        """What every comment in nftables begins with."""
        pod_end = nftables.digest(f"{self.interface}:{self.container_id}")
        return f"{nftables.digest(self.network)}-{pod_end}"


def wanted(config: PluginConfig) -> str | None:
    """`ipMasqBackend`, empty for the node's, where `ipMasq` is on; None where it is off."""
    is_on, backend = config.section.boolean("ipMasq"), config.section.string("ipMasqBackend")
    if is_on and backend:
        config.section.choice("ipMasqBackend", BACKENDS, "")
    return backend if is_on else None


def choose(backend: str) -> str:
    """
    The backend to use: the one that is asked for, else iptables unless only nftables works.

    Raises ProgramFailed when it does not work here. Nothing is touched.
    """
    if backend in ("", "iptables") and iptables.works(4):
        return "iptables"
    if backend in ("", "nftables") and nftables.works():
        return "nftables"
    name = {"iptables": "iptables", "nftables": "nft"}.get(backend, "iptables or nft")
    raise ProgramFailed(f"set up ipMasq: {name} is missing or does not work: expected it to list its rules")


def require(backend: str, addresses: Sequence[InterfaceAddress]) -> None:
    """Raise ProgramFailed when the backend cannot do these addresses; nothing is touched."""
    is_dual = any(each.version == 6 for each in addresses)
    if backend == "iptables" and is_dual and not iptables.works(6):
        raise ProgramFailed(
            "set up ipMasq: ip6tables is missing or does not work: "
            "expected it for IPv6 addresses, or ipMasqBackend nftables"
        )


def setup(backend: str, owner: Owner, addresses: Sequence[InterfaceAddress]) -> None:
    """Masquerade what these addresses send out of their networks; stale rules of the owner go."""
    if backend == "nftables":
        nftables.change(FAMILY, TABLE, lambda table: _nft_setup(table, owner, addresses))
        return
    for version in sorted({each.version for each in addresses}):
        own = [each for each in addresses if each.version == version]
        iptables.change(version, PREFIX, partial(_put, owner=owner, addresses=own))


def teardown(owner: Owner) -> None:
    """Remove every rule of the owner from whatever backend there is; none is no error."""
    _everywhere(
        lambda nat: _without(nat, owner, {owner.interface}),
        lambda table: _nft_delete(table, lambda comment: comment.startswith(owner.digest)),
        is_ours=lambda chain: chain == owner.chain,
    )


def collect(network: str, valid: Valid) -> None:
    """Remove the rules of this network's attachments that are not listed; others' are left alone."""
    kept = frozenset(valid)
    prefix = f"{nftables.digest(network)}-"
    digests = tuple(Owner(network, *each).digest for each in kept)
    _everywhere(
        lambda nat: _collected(nat, network, kept),
        lambda table: _nft_delete(
            table, lambda comment: comment.startswith(prefix) and not comment.startswith(digests)
        ),
        is_ours=lambda chain: CHAIN.fullmatch(chain) is not None,
    )


def check(owner: Owner, addresses: Sequence[InterfaceAddress]) -> None:
    """Raise CheckFailed unless every address has its rule, in whatever backend."""
    looks = [
        partial(_by_iptables, version, owner)
        for version in sorted({each.version for each in addresses})
        if program.find(iptables.PROGRAMS[version])
    ]
    looks += [partial(_by_nftables, owner, addresses)] if program.find(nftables.NAME) else []
    found: set[str] = set()
    failures: list[str] = []
    for look in looks:
        try:
            found |= look()
        except ProgramFailed as error:
            failures.append(error.message)
    if not all(str(ip_network(each.ip)) in found for each in addresses):
        unseen = f", as far as could be seen: {'; '.join(failures)}" if failures else ""
        raise CheckFailed(f"check {owner.interface}: not all of its addresses are masqueraded{unseen}")


def _by_iptables(version: int, owner: Owner) -> set[str]:
    """The addresses of an owner that have their rule there."""
    return set(_shared(iptables.read(version, PREFIX), owner).sources)


def _by_nftables(owner: Owner, addresses: Sequence[InterfaceAddress]) -> set[str]:
    own = [each for each in nftables.read(FAMILY, TABLE).rules if each.comment.startswith(owner.digest)]
    texts = [json.dumps(each.expression) for each in own]
    return {str(ip_network(a.ip)) for a in addresses if any(f'"{a.ip}"' in text for text in texts)}


def _everywhere(
    nat: Callable[[Nat], Sequence[str]], table: Callable[[Table], str], is_ours: Callable[[str], bool]
) -> None:
    """
    Change every backend that is there: which one an ADD used may not be known any more.

    `is_ours` knows iptables' chains by their names; the table of nftables is all of these plugins.
    """
    errors: list[CNIError] = []
    for version in iptables.PROGRAMS:
        try:
            iptables.change_if_there(version, PREFIX, nat, is_ours)
        except CNIError as error:
            errors.append(error)
    try:
        nftables.change_if_there(FAMILY, TABLE, table, is_ours=CHECKS.__eq__)
    except CNIError as error:
        errors.append(error)
    if errors:
        raise join(errors)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a pod has of iptables' rules for one network and one version of IP."""

    owner: Owner
    owners: tuple[tuple[str, str], ...]
    """(source, interface that has it); no interface where the reference set it up, which tells none."""
    networks: tuple[str, ...] = ()
    """Destinations that are not masqueraded."""

    @property
    def sources(self) -> list[str]:
        """Each once: several interfaces of a pod may have been given the same address."""
        return list(dict.fromkeys(source for source, _ in self.owners))

    def put(self, addresses: Sequence[InterfaceAddress]) -> "_Shared":
        """With exactly these addresses for the owner."""
        name = _bare(self.owner.interface)
        own = dict.fromkeys((str(ip_network(each.ip)), name) for each in addresses)
        replaced = {(source, "") for source, _ in own}
        others = (each for each in self.owners if each[1] != name and each not in replaced)
        networks = (*self.networks, *(str(each.network) for each in addresses))
        return replace(self, owners=(*others, *own), networks=tuple(dict.fromkeys(networks)))

    def without(self, interfaces: Iterable[str]) -> "_Shared":
        """
        Without the addresses of these interfaces; if they have none, without those that tell no interface.

        Those are the reference's, which knows one attachment of a pod to a network.
        """
        gone = {_bare(each) for each in interfaces}
        if not gone.intersection(name for _, name in self.owners):
            gone = {""}
        return replace(self, owners=tuple(each for each in self.owners if each[1] not in gone))

    def lines(self, nat: Nat) -> list[str]:
        """What makes it so, out of what there is."""
        chain = self.owner.chain
        jumps = [each for each in nat.rules if each.target == chain]
        there = {each.source for each in jumps}
        surplus = [f"-D {each.text}" for each in jumps if each.source not in self.sources]
        if not self.owners:
            return [*surplus, f"-F {chain}", f"-X {chain}"] if chain in nat.chains else surplus
        new = (source for source in self.sources if source not in there)
        return [
            *surplus,
            *self._filled(),
            *(f"-A POSTROUTING -s {each} -j {chain}{self._told}" for each in new),
        ]

    def _filled(self) -> Iterator[str]:
        """The chain, emptied and filled: what is not masqueraded comes before what is."""
        chain = self.owner.chain
        sources = [ip_network(each) for each in self.sources]
        yield f":{chain} - [0:0]"
        for each in self.networks:
            if any(source.network_address in ip_network(each) for source in sources):
                yield f"-A {chain} -d {each} -j ACCEPT{self._told}"
        yield f"-A {chain} ! -d {MULTICAST[sources[0].version]} -j MASQUERADE{self._told}"
        for source, name in self.owners:
            if name:
                yield f'-A {chain} -s {source} -m comment --comment "{OWNER}{name}"'

    @property
    def _told(self) -> str:
        quoted = self.owner.text.replace('"', r"\"")
        return f' -m comment --comment "{quoted}"'


def _bare(interface: str) -> str:
    """An interface's name without what would have to be quoted."""
    return re.sub(r"[\"'\\]", "", interface)


def _put(nat: Nat, owner: Owner, addresses: Sequence[InterfaceAddress]) -> list[str]:
    return _shared(nat, owner).put(addresses).lines(nat)


def _without(nat: Nat, owner: Owner, interfaces: Iterable[str]) -> list[str]:
    before = _shared(nat, owner)
    after = before.without(interfaces)
    return [] if after.owners and after == before else after.lines(nat)


def _shared(nat: Nat, owner: Owner) -> _Shared:
    """What there is of a pod's rules for one network."""
    inside = [each for each in nat.rules if each.chain == owner.chain]
    named = [
        (each.source, each.comment.removeprefix(OWNER)) for each in inside if each.comment.startswith(OWNER)
    ]
    jumps = dict.fromkeys(each.source for each in nat.rules if each.target == owner.chain)
    accepted = [each.destination for each in inside if each.target == "ACCEPT"]
    told = {source for source, _ in named}
    owners = [each for each in named if each[0] in jumps]
    return _Shared(owner, (*owners, *((each, "") for each in jumps if each not in told)), tuple(accepted))


def _collected(nat: Nat, network: str, valid: frozenset[tuple[str, str]]) -> list[str]:
    """The lines that remove what no valid attachment of a network has."""
    found = (COMMENT.fullmatch(each.comment) for each in nat.rules)
    containers = {each["container"] for each in found if each and each["network"] == network}
    lines: list[str] = []
    for container_id in sorted(containers):
        kept = {_bare(interface) for valid_id, interface in valid if valid_id == container_id}
        shared = _shared(nat, Owner(network, container_id, ""))
        named = {name for _, name in shared.owners}
        gone = named - kept - ({""} if kept else set())
        if gone or not kept:
            lines += _without(nat, shared.owner, gone)
    return lines


def _nft_setup(table: Table, owner: Owner, addresses: Sequence[InterfaceAddress]) -> str:
    told = f"{owner.digest}, net: {owner.network}, if: {owner.interface}, id: {owner.container_id}"
    words = nftables.comment(told)
    families = {4: "ip", 6: "ip6"}
    rules = (
        'add rule {0} {1} {2} {3} saddr == {4.ip} {3} daddr != {4.network} masquerade comment "{5}"\n'.format(
            FAMILY, TABLE, CHECKS, families[each.version], each, words
        )
        for each in addresses
    )
    stale = _nft_delete(table, lambda comment: comment.startswith(owner.digest))
    return "".join((FRAME, stale, *rules))


def _nft_delete(table: Table, is_wanted: Callable[[str], bool]) -> str:
    return "".join(
        f"delete rule {FAMILY} {TABLE} {each.chain} handle {each.handle}\n"
        for each in table.rules
        if each.chain == CHECKS and is_wanted(each.comment)
    )
