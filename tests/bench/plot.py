"""
The figures as a picture: milliseconds over interfaces, for ADD and DEL, on one logarithmic scale.

Colours have a fair contrast on white and on black, so that the picture can be read on either.
"""

import math
from typing import Any

from tests.bench.node import SIZES

SERIES = {
    "floor": ("kernel alone", "#8a8a8a", "4 3"),
    "ours": ("meta-cni", "#0b84a5", ""),
    "Multus thick": ("Multus thick", "#ca472f", ""),
    "Multus thin": ("Multus thin", "#d98a1f", ""),
}
WIDTH, HEIGHT, LEFT, TOP, PANEL, GAP = 860, 340, 62, 44, 340, 60
BOTTOM = HEIGHT - 44
STEPS = (1, 2, 5)


def svg(document: dict[str, Any]) -> str:
    """The picture."""
    samples = document["interfaces"]
    values = [each["p50"] for key, each in samples.items() if key.split("/")[0] in SERIES]
    lowest, highest = math.log10(min(values) * 0.8), math.log10(max(values) * 1.2)

    def y(ms: float) -> float:
        return BOTTOM - (math.log10(ms) - lowest) / (highest - lowest) * (BOTTOM - TOP)

    ticks = [step * 10.0**power for power in range(-2, 5) for step in STEPS]
    ticks = [each for each in ticks if lowest <= math.log10(each) <= highest]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#7a7a7a">',
        "<title>Milliseconds of ADD and DEL by interfaces of a pod</title>",
    ]
    for number, verb in enumerate(("ADD", "DEL")):
        left = LEFT + number * (PANEL + GAP)
        parts.append(
            f'<text x="{left}" y="{TOP - 18}" font-size="14">{verb}, ms, of so many interfaces</text>'
        )
        parts += _grid(left, [(y(each), f"{each:g}") for each in ticks])
        parts += _lines(samples, verb, left, y)
    return "\n".join([*parts, "</svg>", ""])


def _x(left: float, size: int) -> float:
    return left + 20 + math.log2(size) / math.log2(SIZES[-1]) * (PANEL - 110)


def _grid(left: float, ticks: list[tuple[float, str]]) -> list[str]:
    found = []
    for y, text in ticks:
        ends = f'x1="{left}" y1="{y:.1f}" x2="{left + PANEL - 80}" y2="{y:.1f}"'
        line = f'<line {ends} stroke="#888" stroke-opacity="0.25"/>'
        found.append(f'{line}<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for size in SIZES:
        found.append(f'<text x="{_x(left, size):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{size}</text>')
    return found


def _lines(samples: dict[str, Any], verb: str, left: float, y: Any) -> list[str]:
    """A line a contestant, with its name at the end; names that would touch are moved apart."""
    found: list[str] = []
    names: list[tuple[float, str, str]] = []
    for who, (name, colour, dashes) in SERIES.items():
        if f"{who}/{verb}/{SIZES[0]}" not in samples:
            continue
        points = [(_x(left, each), y(samples[f"{who}/{verb}/{each}"]["p50"])) for each in SIZES]
        text = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        found.append(f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        found += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        names.append((points[-1][1], name, colour))
    lowest = 0.0
    for at, name, colour in sorted(names):
        lowest = max(at, lowest + 14)
        x = _x(left, SIZES[-1]) + 8
        found.append(f'<text x="{x:.1f}" y="{lowest + 4:.1f}" fill="{colour}">{name}</text>')
    return found
