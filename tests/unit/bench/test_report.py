"""What the report says must be what was measured."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.bench import plot, report
from tests.bench.plugins import CHAINED, IN_A_ROW, TYPES

README = Path(__file__).parents[3] / "README.md"


VERBS = ("ADD", "CHECK", "DEL")


def samples(*keys: str, ms: float = 1.0) -> dict[str, Any]:
    """The same figure for each key."""
    return {key: {"p50": ms, "p99": 2 * ms} for key in keys}


@pytest.fixture
def document() -> dict[str, Any]:
    """A run without anybody to be compared with but the kernel."""
    whose = [f"{who}/{verb}" for who in ("ours", "floor") for verb in VERBS]
    interfaces = {f"{each}/{n}": {"p50": float(n), "p99": 9.0} for each in whose for n in (1, 2, 4, 8)}
    least = [f"{who}{{}}//{verb}" for who in ("floor", "chores") for verb in ("ADD", "DEL")]
    least += [f"ours{{}}/{each}/{verb}" for each in (*TYPES, *CHAINED) for verb in VERBS]
    least += ["floor{}/bridge/ADD", "floor{}/ptp/ADD"]
    every = [each.format("") for each in least]
    in_a_row = [each.format(f", {IN_A_ROW}") for each in least]
    return {
        "machine": {"kernel": "6.18", "python": "3.11.2", "cores": 2},
        "peers": {"reference plugins": "v1.9.1"},
        "programs": samples("empty static program", "shim, no daemon", "shim, daemon answers at once"),
        "interfaces": interfaces,
        "steps": {verb: {"lock": 0.2, "attach": 3.5, "all": 4.0} for verb in VERBS},
        "at once": {
            **samples(*(f"ours/{verb}/{n}" for verb in VERBS for n in (1, 10, 50))),
            "cpu_ms": {f"ours/{verb}/1/cpu": 3.0 for verb in VERBS},
        },
        "latencies": samples(*(f"ours/{verb}/{n}" for verb in VERBS for n in (0, 5, 50))),
        "executed": samples("ours, executed/ADD", "ours, executed/DEL"),
        "plugins": {**samples(*every), **samples(*in_a_row, ms=0.5)},
        "memory": {"ours": {"at rest": 30.0, "50 at once": 33.0, "after 1 000 pods": 34.0}},
        "pairs": {"every": 1000, "mb": [34.0, 34.0, 34.5]},
        "growth": {"pods": {"0": samples(*VERBS), "5000": samples(*VERBS)}, "mb": 36.0},
        "cold": samples(*(f"ours/{verb}" for verb in VERBS)),
        "cluster": {
            "server": "kube-apiserver v1.35.4",
            "networks": 5000,
            "pods": 500,
            "found": {
                "empty": {"mb": 30.0, "ready_ms": 400.0},
                "pods": {"mb": 33.0, "ready_ms": 600.0},
                "networks": {"mb": 45.0, "ready_ms": 1000.0},
            },
        },
    }


def line(text: str, start: str) -> str:
    """The line that begins so."""
    return next(each for each in text.splitlines() if each.startswith(start))


def test_an_aim_that_was_missed_is_marked(document: dict[str, Any]):
    """Nobody should have to compare the columns."""
    start = "DEL, 4 built-in interfaces / the kernel"
    reached = line(report.text(document), start)

    document["interfaces"]["ours/DEL/4"]["p50"] = 8.4
    missed = line(report.text(document), start)

    assert (["1.00", "2.00"], ["2.10", "2.00", "*"]) == (reached.split()[-2:], missed.split()[-3:])


def test_who_is_not_there_is_not_compared_with(document: dict[str, Any]):
    """Without Multus the same report is made against the kernel."""
    text = report.text(document)

    assert "Multus" not in text
    assert "kernel alone" in text


def test_pods_in_a_row_are_compared_with_what_others_take_in_a_row(document: dict[str, Any]):
    """Everybody is faster there."""
    document["plugins"] |= samples("ours, in a row/bridge/ADD", ms=1.5)
    document["plugins"] |= samples("reference, in a row/bridge/ADD", ms=6.0)

    rows = [each for each in report.text(document).splitlines() if each.startswith("bridge          ADD")]

    assert [
        ["1.00", "-", "-", "1.0", "0.5"],
        ["1.50", "6.00", "1/4.0", "3.0", "1.5"],
    ] == [each.split()[2:] for each in rows]


def test_of_four_plugins_the_worst_is_told(document: dict[str, Any]):
    """Beside the reference of its own type; a device that is moved is none of them."""
    kinds = {"bridge": (1.0, 8.0), "macvlan": (0.5, 5.0), "ptp": (1.0, 6.0), "tap": (0.5, 8.0)}
    for manner, factor in (("", 2.0), (", in a row", 1.0)):
        for each, (ours, theirs) in {**kinds, "host-device": (20.0, 40.0)}.items():
            document["plugins"] |= samples(f"ours{manner}/{each}/ADD", ms=ours * factor)
            document["plugins"] |= samples(f"reference{manner}/{each}/ADD", ms=theirs)

    told = report.text(document)

    row = line(told, "ADD of one plugin, the worst of four, in a row / reference").split()[-3:]
    alone = line(told, "the same, a pod alone / reference").split()[-3:]
    assert (["1/6.0", "1/7.0", "*"], ["1/3.0", "1/7.0", "*"]) == (row, alone)
    assert "2.00" == line(told, "ADD of one plugin, the worst of four, in a row / the kernel's").split()[-3]


def test_a_large_cluster_is_told_beside_an_empty_one(document: dict[str, Any]):
    """Megabytes and milliseconds alone depend on the machine."""
    text = report.text(document)

    assert "by kube-apiserver v1.35.4" in line(text, "cluster")
    found = [line(text, each).split()[-4:] for each in ("an empty one", "500 pods", "5 000 NADs")]
    assert [
        ["30.0", "1.00", "400", "1.00"],
        ["33.0", "1.10", "600", "1.50"],
        ["45.0", "1.50", "1000", "2.50"],
    ] == found


def test_a_report_replaces_the_one_before():
    """And nothing else in the file."""
    before = f"# x\n{report.BEGIN}\nold\n{report.END}\nrest\n"

    assert f"# x\n{report.BEGIN}\n```\nnew\n```\n{report.END}\nrest\n" == report.put_into(before, "new")


def test_the_readme_has_a_place_for_the_report():
    """Without the markers it would be lost."""
    text = README.read_text()

    assert (1, 1) == (text.count(report.BEGIN), text.count(report.END))


def test_the_picture_has_a_line_for_everybody_who_was_measured(document: dict[str, Any]):
    """Both verbs, two contestants."""
    found = ET.fromstring(plot.svg(document))

    lines = found.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert 4 == len(lines)
