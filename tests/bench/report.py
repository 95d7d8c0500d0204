"""
The report as text: tables of medians and ratios, and what was aimed at beside what was reached.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.node import SIZES
from tests.bench.plugins import CHAINED, IN_A_ROW, PODS, SHARED, TYPES

BEGIN, END = "<!-- figures of `make bench` -->", "<!-- end of the figures -->"
CONTESTANTS = ("ours", "Multus thick", "Multus thin")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio that is to be reached."""

    what: str
    limit: float
    of: Callable[[Document], float]
    """Raises KeyError where nobody is there to be compared with."""
    is_fraction: bool = False
    """It is told as 1/n."""


def p50(document: Document, part: str, key: str) -> float:
    """The median of a part's key."""
    return float(document[part][key]["p50"])


def slope(document: Document, who: str, verb: str = "ADD") -> float:
    """Milliseconds of one more interface, from 2 to 8."""
    last = p50(document, "interfaces", f"{who}/{verb}/8")
    return (last - p50(document, "interfaces", f"{who}/{verb}/2")) / 6


def _thick(part: str, key: str) -> Callable[[Document], float]:
    return lambda d: p50(d, part, f"ours/{key}") / p50(d, part, f"Multus thick/{key}")


def _cpu(verb: str) -> Callable[[Document], float]:
    def of(d: Document) -> float:
        used = d["at once"]["cpu_ms"]
        return float(used[f"ours/{verb}/1/cpu"] / used[f"Multus thick/{verb}/1/cpu"])

    return of


def _add_above_floor(d: Document) -> float:
    least = p50(d, "interfaces", "floor/ADD/4") + p50(d, "programs", "shim, daemon answers at once")
    return p50(d, "interfaces", "ours/ADD/4") / least


def _program(name: str) -> Callable[[Document], float]:
    return lambda d: p50(d, "programs", name) / p50(d, "programs", "empty static program")


def _executed(name: str) -> Callable[[Document], float]:
    return lambda d: p50(d, "executed", f"{name}/ADD") / p50(d, "executed", "Multus thick/ADD")


def _growth(d: Document) -> float:
    found = d["growth"]["pods"]
    first, *_, last = found.values()
    return float(last["ADD"]["p50"] / first["ADD"]["p50"])


def _curve(d: Document) -> float:
    """The slope from 4 to 8 interfaces beside that from 2 to 4: 1 is linear."""
    at = {size: p50(d, "interfaces", f"ours/ADD/{size}") for size in SIZES}
    return ((at[8] - at[4]) / 4) / ((at[4] - at[2]) / 2)


def _memory(d: Document) -> float:
    mine, theirs = d["memory"]["ours"], d["memory"]["Multus thick"]
    return float(mine["after 1 000 pods"] / theirs["after 1 000 pods"])


def _flat(d: Document) -> float:
    """Megabytes after ten thousand pairs beside those after the first thousand."""
    return float(d["pairs"]["mb"][-1] / d["pairs"]["mb"][1])


ALONE, ROW = "", f", {IN_A_ROW}"


def _slowest(verb: str, manner: str, beside: str) -> Callable[[Document], float]:
    """Of those that make links: one plugin's time beside the reference's, or the kernel's for any."""

    def of(d: Document) -> float:
        kinds = [each for each in TYPES if each not in SHARED]
        theirs = {each: f"reference{manner}/{each}/{verb}" for each in kinds}
        if beside == "floor":
            theirs = dict.fromkeys(kinds, f"floor{manner}//{verb}")
        return max(
            p50(d, "plugins", f"ours{manner}/{each}/{verb}") / p50(d, "plugins", theirs[each])
            for each in kinds
        )

    return of


AIMS = (
    Aim("shim alone, no daemon / an empty static program", 1.3, _program("shim, no daemon")),
    Aim(
        "shim with a daemon that answers at once / an empty static program",
        3.0,
        _program("shim, daemon answers at once"),
    ),
    Aim("ADD, 4 built-in interfaces / Multus thick", 1 / 10, _thick("interfaces", "ADD/4"), True),
    Aim("ADD, 4 built-in interfaces / (kernel + shim)", 2.0, _add_above_floor),
    Aim("DEL, 4 built-in interfaces / Multus thick", 1 / 20, _thick("interfaces", "DEL/4"), True),
    Aim(
        "DEL, 4 built-in interfaces / the kernel's announcement",
        2.0,
        lambda d: p50(d, "interfaces", "ours/DEL/4") / p50(d, "interfaces", "floor/DEL/4"),
    ),
    Aim("10 pods at once, ADD / Multus thick", 1 / 9, _thick("at once", "ADD/10"), True),
    Aim("10 pods at once, DEL / Multus thick", 1 / 11, _thick("at once", "DEL/10"), True),
    Aim("CPU of an ADD, 4 interfaces / Multus thick", 1 / 14, _cpu("ADD"), True),
    Aim("CPU of a DEL, 4 interfaces / Multus thick", 1 / 16, _cpu("DEL"), True),
    Aim(
        "one more built-in interface / Multus thick's",
        1 / 16,
        lambda d: slope(d, "ours") / slope(d, "Multus thick"),
        True,
    ),
    Aim("one more built-in interface / the kernel's", 1.5, lambda d: slope(d, "ours") / slope(d, "floor")),
    Aim("ADD of one plugin, the worst of four, in a row / reference", 1 / 7, _slowest("ADD", ROW, ""), True),
    Aim("the same, a pod alone / reference", 1 / 7, _slowest("ADD", ALONE, ""), True),
    Aim("ADD of one plugin, the worst of four, in a row / the kernel's", 1.5, _slowest("ADD", ROW, "floor")),
    Aim("the same, a pod alone / the kernel's", 1.5, _slowest("ADD", ALONE, "floor")),
    Aim("DEL of one plugin, the worst of four, alone / reference", 1 / 6, _slowest("DEL", ALONE, ""), True),
    Aim("the same / the kernel's announcement", 2.0, _slowest("DEL", ALONE, "floor")),
    Aim("four executed delegates / Multus thick", 0.9, _executed("ours, executed")),
    Aim("the same with parallelAttachments / Multus thick", 0.55, _executed("ours, side by side")),
    Aim("ADD per interface, from 4 to 8 / from 2 to 4", 1.2, _curve),
    Aim("ADD with most pods on the node / with none", 1.2, _growth),
    Aim("memory after 1 000 pods / Multus thick", 1.5, _memory),
    Aim("memory after 10 000 ADDs and DELs / after 1 000", 1.05, _flat),
)


def text(document: Document) -> str:
    """The whole report, as it stands in README.md between the markers."""
    blocks = [
        _about,
        _aims,
        _interfaces,
        _steps,
        _at_once,
        _latencies,
        _memories,
        _grown,
        _clusters,
        _plugins,
    ]
    return "\n\n".join("\n".join(block(document)) for block in blocks)


def put_into(readme: str, report: str) -> str:
    """README.md with another report between the markers."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n```\n{report}\n```\n{END}{after}"


def ratio(value: float, is_fraction: bool) -> str:
    """As it is told."""
    return f"1/{1 / value:.1f}" if is_fraction else f"{value:.2f}"


def _about(d: Document) -> Iterator[str]:
    peers = ", ".join(f"{name} {version}" for name, version in d["peers"].items())
    machine = d["machine"]
    what = f"Linux {machine['kernel']}, {machine['cores']} cores, Python {machine['python']}"
    yield f"{what}; {peers}; milliseconds, medians"


def _aims(d: Document) -> Iterator[str]:
    yield f"{'':68}{'reached':>10}{'aim':>8}"
    for each in AIMS:
        try:
            value = each.of(d)
        except KeyError:
            continue
        mark = "" if value <= each.limit else "  *"
        shown = ratio(value, each.is_fraction), ratio(each.limit, each.is_fraction)
        yield f"{each.what:68}{shown[0]:>10}{shown[1]:>8}{mark}"


def _interfaces(d: Document) -> Iterator[str]:
    yield f"{'one pod of so many interfaces; p50 (p99)':40}" + "".join(f"{each:>16}" for each in SIZES)
    names = {"floor": "kernel alone", "floor acknowledged": "kernel, until acknowledged"}
    for verb in ("ADD", "CHECK", "DEL"):
        for who in ("floor", "floor acknowledged", *CONTESTANTS):
            keys = [f"{who}/{verb}/{each}" for each in SIZES]
            if keys[0] in d["interfaces"]:
                found = [d["interfaces"][key] for key in keys]
                texts = (f"{each['p50']:.1f} ({each['p99']:.1f})" for each in found)
                row = "".join(f"{each:>16}" for each in texts)
                yield f"{verb:6}{names.get(who, who):34}{row}"


def _steps(d: Document) -> Iterator[str]:
    """CHECK takes one step only."""
    yield "where our daemon's time goes, four interfaces, by its log"
    for verb in ("ADD", "DEL"):
        yield f"{verb:6}" + ", ".join(f"{step} {ms:.2f}" for step, ms in d["steps"][verb].items())


def _at_once(d: Document) -> Iterator[str]:
    yield f"{'pods of four interfaces at once':40}{1:>16}{10:>16}{50:>16}{'CPU of one':>16}"
    for verb in ("ADD", "DEL"):
        for who in CONTESTANTS:
            keys = [f"{who}/{verb}/{each}" for each in (1, 10, 50)]
            if keys[0] in d["at once"]:
                found = (d["at once"].get(key) for key in keys)
                row = "".join(f"{each['p50']:16.1f}" if each else f"{'-':>16}" for each in found)
                yield f"{verb:6}{who:34}{row}{d['at once']['cpu_ms'][f'{who}/{verb}/1/cpu']:16.1f}"


def _latencies(d: Document) -> Iterator[str]:
    yield f"{'four interfaces; the API server answers in ms':40}{0:>11}{5:>16}{50:>16}{'cold':>16}"
    for verb in ("ADD", "DEL"):
        for who in CONTESTANTS:
            if f"{who}/{verb}/0" in d["latencies"]:
                row = "".join(f"{p50(d, 'latencies', f'{who}/{verb}/{each}'):16.1f}" for each in (0, 5, 50))
                yield f"{verb:6}{who:34}{row}{p50(d, 'cold', f'{who}/{verb}'):16.1f}"
    for who in ("ours, executed", "ours, side by side", "Multus thick"):
        if f"{who}/ADD" in d["executed"]:
            both = ", ".join(f"{verb} {p50(d, 'executed', f'{who}/{verb}'):.1f}" for verb in ("ADD", "DEL"))
            yield f"four executed plugins, {who}: {both}"


def _memories(d: Document) -> Iterator[str]:
    names = ("at rest", "50 at once", "after 1 000 pods")
    yield f"{'resident MB':40}" + "".join(f"{each:>20}" for each in names)
    for who, found in d["memory"].items():
        yield f"{who:40}" + "".join(f"{found[each]:20.1f}" for each in names)
    every, megabytes = d["pairs"]["every"], d["pairs"]["mb"]
    yield f"ours after every {every} more ADDs and DELs: " + " ".join(f"{each:.1f}" for each in megabytes)


def _grown(d: Document) -> Iterator[str]:
    found = d["growth"]["pods"]
    yield f"{'pods on the node already':40}" + "".join(f"{each:>10}" for each in found)
    for verb in ("ADD", "CHECK", "DEL"):
        yield f"{verb:40}" + "".join(f"{each[verb]['p50']:10.2f}" for each in found.values())


def _clusters(d: Document) -> Iterator[str]:
    """Without an aim; each beside the empty cluster of the same run."""
    told = d["cluster"]
    networks, pods = (f"{told[each]:,}".replace(",", " ") for each in ("networks", "pods"))
    names = {
        "empty": "an empty one",
        "pods": f"{pods} pods on the node",
        "networks": f"{networks} NADs",
    }
    heads = f"{'resident MB':>16}{'/empty':>10}{'ready after':>16}{'/empty':>10}"
    yield f"{'cluster, by ' + told['server']:40}{heads}"
    for state, name in names.items():
        row = ""
        for key, form in (("mb", "16.1f"), ("ready_ms", "16.0f")):
            value, least = told["found"][state][key], told["found"]["empty"][key]
            row += f"{value:{form}}{value / least:10.2f}"
        yield f"{name:40}{row}"


def _plugins(d: Document) -> Iterator[str]:
    """Each delegate in our process, without daemon and shim, beside the executed binary."""
    every = [*TYPES, *CHAINED]
    yield from _beside_reference(d["plugins"], "one plugin, in this process", "", every)
    yield ""
    in_a_row = [each for each in TYPES if each not in SHARED]
    title = f"{PODS - 1} pods right after it"
    yield from _beside_reference(d["plugins"], title, f", {IN_A_ROW}", in_a_row)


def _beside_reference(found: Document, title: str, manner: str, types: Sequence[str]) -> Iterator[str]:
    def median(who: str, rest: str) -> float:
        value: float = found[f"{who}{manner}/{rest}"]["p50"]
        return value

    floors = {verb: median("floor", f"/{verb}") for verb in ("ADD", "DEL")}
    least = {verb: floors[verb] + median("chores", f"/{verb}") for verb in floors}
    heads = f"{'ours':>10}{'reference':>12}{'/reference':>12}{'/kernel':>10}{'/with files':>14}"
    yield f"{title:28}{heads}"
    told = ", ".join(f"{verb} {floors[verb]:.2f} and {least[verb]:.2f}" for verb in floors)
    yield f"kernel alone, and with sockets and host-local's files: {told}"
    own = {each: median("floor", f"{each}/ADD") + least["ADD"] - floors["ADD"] for each in ("bridge", "ptp")}
    told = ", ".join(f"{plugin_type} {ms:.2f}" for plugin_type, ms in own.items())
    yield f"with all that the delegate asks the kernel for an ADD, and no delegate: {told}"
    for plugin_type in types:
        for verb in ("ADD", "CHECK", "DEL"):
            mine = median("ours", f"{plugin_type}/{verb}")
            other = found.get(f"reference{manner}/{plugin_type}/{verb}", {}).get("p50")
            compared = f"{other:12.2f}{ratio(mine / other, True):>12}" if other else f"{'-':>12}{'-':>12}"
            is_compared = verb in floors and plugin_type in TYPES
            above = [f"{mine / each[verb]:.1f}" if is_compared else "-" for each in (floors, least)]
            yield f"{plugin_type:16}{verb:12}{mine:10.2f}{compared}{above[0]:>10}{above[1]:>14}"
