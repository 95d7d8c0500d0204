"""
A picture of what is attached: the node, its bridges and masters, the pods and their interfaces.

Pure: plain data in, SVG text out, the same text for the same data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

COLOURS = ("#2563eb", "#059669", "#d97706", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#be185d")
WIDTH_OF_CARD, HEIGHT_OF_CARD, GAP = 196, 92, 14
RAIL_HEIGHT, RAIL_GAP, MARGIN, POD_HEAD = 40, 16, 28, 40
TITLE = 46


@dataclass(frozen=True, slots=True)
class Rail:
    """A bridge or a master of the node."""

    device: str
    kind: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodInterface:
    """One interface of a pod and the device of the node it hangs on."""

    name: str
    network: str
    device: str
    mac: str = ""
    addresses: tuple[str, ...] = ()
    is_default_route: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with its interfaces."""

    name: str
    interfaces: tuple[PodInterface, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that is drawn."""

    node: str
    rails: tuple[Rail, ...]
    pods: tuple[Pod, ...]


def draw(topology: Topology) -> str:
    """The topology as an SVG document."""
    columns = [len(pod.interfaces) for pod in topology.pods] or [2]
    widths = [count * (WIDTH_OF_CARD + GAP) + GAP for count in columns]
    width = max(640, sum(widths) + GAP * (len(widths) - 1)) + 2 * MARGIN + 2 * GAP
    rails_top = MARGIN + TITLE
    pods_top = rails_top + len(topology.rails) * (RAIL_HEIGHT + RAIL_GAP) + 34
    height = pods_top + POD_HEAD + HEIGHT_OF_CARD + 2 * GAP + MARGIN
    colours = {rail.device: COLOURS[n % len(COLOURS)] for n, rail in enumerate(topology.rails)}
    tops = {rail.device: rails_top + n * (RAIL_HEIGHT + RAIL_GAP) for n, rail in enumerate(topology.rails)}
    body = [
        *_frame(topology.node, width, height),
        *_lines(topology, widths, pods_top, tops, colours),
        *(part for rail in topology.rails for part in _rail(rail, width, tops[rail.device], colours)),
        *_pods(topology, widths, pods_top, colours),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="Helvetica, Arial, sans-serif">'
    )
    title = f"<title>Attachments on {escape(topology.node)}</title>"
    return "\n".join([head, title, *body, "</svg>", ""])


def _text(
    x: float, y: float, text: str, size: int, *, colour: str = "#1e293b", limit: int = 28, bold: bool = False
) -> str:
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    weight = ' font-weight="bold"' if bold else ""
    tooltip = f"<title>{escape(text)}</title>" if shown != text else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}>{tooltip}{escape(shown)}</text>'


def _box(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" '
        f"fill={quoteattr(fill)} stroke={quoteattr(stroke)}/>"
    )


def _frame(node: str, width: int, height: int) -> list[str]:
    inner = (MARGIN / 2, MARGIN / 2, width - MARGIN, height - MARGIN)
    return [
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _box(*inner, "#f8fafc", "#94a3b8"),
        _text(MARGIN + GAP, MARGIN + 20, f"node {node}", 17, bold=True, limit=60),
    ]


def _rail(rail: Rail, width: int, top: int, colours: dict[str, str]) -> list[str]:
    colour = colours[rail.device]
    left = MARGIN + GAP
    label = f"{rail.device}   {rail.kind}   {'   '.join(rail.addresses)}"
    return [
        _box(left, top, width - 2 * left, RAIL_HEIGHT, colour, colour),
        _text(left + 14, top + 25, label, 14, colour="#ffffff", limit=110, bold=True),
    ]


def _cards(topology: Topology, widths: Sequence[int]) -> Iterator[tuple[PodInterface, float]]:
    """Every interface with the left edge of its card."""
    for pod, left in zip(topology.pods, _lefts(widths), strict=True):
        for n, interface in enumerate(pod.interfaces):
            yield interface, left + GAP + n * (WIDTH_OF_CARD + GAP)


def _lefts(widths: Sequence[int]) -> list[float]:
    lefts = [float(MARGIN + GAP)]
    for width in widths[:-1]:
        lefts.append(lefts[-1] + width + GAP)
    return lefts


def _lines(
    topology: Topology, widths: Sequence[int], pods_top: int, tops: dict[str, int], colours: dict[str, str]
) -> list[str]:
    """From each card up to its rail; rails drawn later hide what runs behind them."""
    lines = []
    for interface, left in _cards(topology, widths):
        if interface.device in tops:
            x = left + WIDTH_OF_CARD - 24
            y = tops[interface.device] + RAIL_HEIGHT
            colour = colours[interface.device]
            ends = f'x1="{x}" y1="{y}" x2="{x}" y2="{pods_top + POD_HEAD}"'
            lines.append(f'<line {ends} stroke="{colour}" stroke-width="3"/>')
    return lines


def _pods(topology: Topology, widths: Sequence[int], top: int, colours: dict[str, str]) -> list[str]:
    parts: list[str] = []
    for pod, left, width in zip(topology.pods, _lefts(widths), widths, strict=False):
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{POD_HEAD + HEIGHT_OF_CARD + GAP}" rx="8" '
            'fill="#e2e8f0" fill-opacity="0.6" stroke="#94a3b8"/>'
        )
        parts.append(_text(left + GAP, top + 25, f"pod {pod.name}", 15, bold=True, limit=width // 9))
    for interface, left in _cards(topology, widths):
        parts.extend(_card(interface, left, top + POD_HEAD, colours.get(interface.device, "#64748b")))
    return parts


def _card(interface: PodInterface, left: float, top: float, colour: str) -> list[str]:
    x = left + 10
    parts = [
        _box(left, top, WIDTH_OF_CARD, HEIGHT_OF_CARD, "#ffffff", colour),
        _text(x, top + 20, interface.name, 14, colour=colour, bold=True),
        _text(x + 44, top + 20, interface.network, 12, limit=20),
    ]
    parts += [_text(x, top + 39 + 16 * n, each, 12) for n, each in enumerate(interface.addresses[:2])]
    parts.append(_text(x, top + 76, interface.mac, 11, colour="#64748b"))
    if interface.is_default_route:
        parts.append(_text(left + WIDTH_OF_CARD - 56, top + 76, "default", 11, colour=colour, bold=True))
    return parts
