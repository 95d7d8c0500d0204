"""
MAC spoof check: of what a pod sends into its bridge only frames with its own address come in.

Table, chains, rules and comments are those of the reference plugins (containernetworking/plugins,
pkg/link), so that either can take away what the other made. They name container and interface;
for a GC of one network a last rule, which no frame comes to, names the network.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from meta_cni.cni.errors import ProgramFailed
from meta_cni.linux import nftables
from meta_cni.linux.nftables import Table

FAMILY, TABLE, BASE = "bridge", "nat", "PREROUTING"
PRIORITY = -300  # NF_BR_PRI_NAT_DST_BRIDGED, <linux/netfilter_bridge.h>
PREFIX, SUFFIX = "cni-br-iface-", "-mac"

Command = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Guarded:
    """The attachment whose frames are checked."""

    network: str
    container_id: str
    interface: str

    @property
    def id(self) -> str:
        """What its chains are named by."""
        return f"{self.container_id}-{self.interface}"


def require() -> None:
    """Raise ProgramFailed where frames cannot be checked; nothing is touched."""
    if not nftables.works():
        raise ProgramFailed(
            "set up macspoofchk: nft is missing or does not work: expected it to list its rules"
        )


def setup(guarded: Guarded, port: str, mac: str) -> None:
    """Drop what comes in by a port of a bridge and has another source; stale rules of the attachment go."""
    chain, comment = PREFIX + guarded.id, _comment(guarded.id)
    source = {"payload": {"protocol": "ether", "field": "saddr"}}
    rules = [
        _rule(BASE, comment, _is({"meta": {"key": "iifname"}}, port), {"jump": {"target": chain}}),
        _rule(chain, comment, {"jump": {"target": chain + SUFFIX}}),
        _rule(chain + SUFFIX, comment, _is(source, mac), {"return": None}),
        _rule(chain + SUFFIX, comment, {"drop": None}),
        _rule(chain + SUFFIX, _network(guarded.network), {"return": None}),
    ]
    hook = {"type": "filter", "hook": "prerouting", "prio": PRIORITY, "policy": "accept"}
    made = [
        {"add": {"table": {"family": FAMILY, "name": TABLE}}},
        {"add": {"chain": {**_chain(BASE), **hook}}},
        *({"add": {"chain": _chain(each)}} for each in (chain, chain + SUFFIX)),
        *({"flush": {"chain": _chain(each)}} for each in (chain, chain + SUFFIX)),
    ]
    nftables.change(
        FAMILY, TABLE, lambda table: nftables.as_json([*made, *_base_rules_gone(table, guarded.id), *rules])
    )


def teardown(guarded: Guarded) -> None:
    """Remove rules and chains of the attachment; none is no error."""
    own = PREFIX + guarded.id
    nftables.change_if_there(
        FAMILY,
        TABLE,
        lambda table: nftables.as_json(list(_gone(table, guarded.id))),
        is_ours=lambda chain: chain in (own, own + SUFFIX),
    )


def collect(network: str, valid: Iterable[tuple[str, str]]) -> None:
    """Remove what this network's attachments have that are not listed; the reference's tell no network."""
    kept = {f"{container_id}-{interface}" for container_id, interface in valid}
    words = _network(network)

    def commands(table: Table) -> str:
        chains = [each.chain for each in table.rules if each.comment == words]
        ids = sorted({each.removeprefix(PREFIX).removesuffix(SUFFIX) for each in chains} - kept)
        return nftables.as_json([command for each in ids for command in _gone(table, each)])

    nftables.change_if_there(FAMILY, TABLE, commands, is_ours=lambda chain: chain.startswith(PREFIX))


def is_set_up(guarded: Guarded, port: str, mac: str) -> bool:
    """Is the port's traffic led to a chain that lets this address through and drops the rest?"""
    table = nftables.read(FAMILY, TABLE)
    chain = PREFIX + guarded.id
    found = {
        name: [each.expression for each in table.rules if each.chain == name]
        for name in (BASE, chain, chain + SUFFIX)
    }
    leads = any(
        {"jump": {"target": chain}} in each and port in (_right(part) for part in each)
        for each in found[BASE]
    )
    first, *rest = found[chain + SUFFIX] or [()]
    is_checked = {"return": None} in first and mac in (_right(part) for part in first)
    return (
        leads
        and ({"jump": {"target": chain + SUFFIX}},) in found[chain]
        and is_checked
        and (({"drop": None},) in rest[:1])
    )


def _right(part: Any) -> object:
    return part.get("match", {}).get("right")


def _gone(table: Table, identity: str) -> Iterator[Command]:
    """What removes rules and chains of one attachment, as far as they are there."""
    yield from _base_rules_gone(table, identity)
    chains = [each for each in (PREFIX + identity, PREFIX + identity + SUFFIX) if each in table.chains]
    yield from ({"flush": {"chain": _chain(each)}} for each in chains)
    yield from ({"delete": {"chain": _chain(each)}} for each in chains)


def _base_rules_gone(table: Table, identity: str) -> list[Command]:
    own = [each for each in table.rules if each.chain == BASE and each.comment == _comment(identity)]
    place = {"family": FAMILY, "table": TABLE, "chain": BASE}
    return [{"delete": {"rule": {**place, "handle": each.handle}}} for each in own]


def _comment(identity: str) -> str:
    return f"macspoofchk-{identity}"


def _network(name: str) -> str:
    return nftables.comment(f"{nftables.digest(name)}, net: {name}")


def _chain(name: str) -> Command:
    return {"family": FAMILY, "table": TABLE, "name": name}


def _rule(chain: str, comment: str, *expression: Command) -> Command:
    rule = {"family": FAMILY, "table": TABLE, "chain": chain, "expr": list(expression), "comment": comment}
    return {"add": {"rule": rule}}


def _is(left: Command, right: str) -> Command:
    return {"match": {"op": "==", "left": left, "right": right}}
