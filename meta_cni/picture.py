"""
A picture of what is attached: the node, its bridges and masters, the pods and their interfaces.

Pure: plain data in, SVG out, the same text for the same data. Devices are horizontal rails, a pod
is a column of cards below them, and each card has a lane of its own left of its pod. The topmost
card takes the lane nearest to it, so lanes of one pod never cross; a lane passes only behind rails,
and only a dot connects. Widths are known without measuring, because the one font is monospaced.
The text is ASCII (anything else is a character reference), so no locale can spoil it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from unicodedata import combining, east_asian_width
from xml.sax.saxutils import escape

FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
EM = 0.62  # SF Mono, the widest of them, takes 0.618 of its size for a character
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2 Char

# Each is read on white: a contrast of at least 4.5, WCAG 2.1, 1.4.3.
COLOURS = ("#1d4ed8", "#047857", "#b45309", "#7e22ce", "#b91c1c", "#0e7490", "#4d7c0f", "#be185d")
INK, FAINT, PAPER, SURFACE, POD_FILL, EDGE = "#0f172a", "#55627a", "#ffffff", "#f8fafc", "#e9eef5", "#a3b0c2"

MARGIN, PADDING, LEADING, RADIUS = 16, 12, 16, 8
HEAD = MARGIN + 52  # the frame's edge and the name of the node
RAIL, LANE, STUB, GUTTER, BAND_GAP = 8, 10, 14, 26, 34
NARROWEST, WIDEST = 190, 320  # the widest holds any IPv6 address with its prefix length
PODS_IN_A_ROW, ADDRESSES_SHOWN = 4, 4
LEGEND = ("bridge", "master or device", "attachment", "default route")


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
    netns: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that is drawn."""

    node: str
    rails: tuple[Rail, ...]
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text; the tooltip tells what the text leaves out."""

    text: str
    size: int = 11
    colour: str = INK
    is_bold: bool = False
    tooltip: str = ""


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What all parts of one drawing agree on."""

    label_width: int
    card_width: int
    width: int
    colours: dict[str, str]

    @property
    def bars_left(self) -> int:
        return 2 * MARGIN + self.label_width + PADDING


@dataclass(frozen=True, slots=True)
class _Card:
    """An interface and where it is drawn; lane is the x of its line, None without a rail."""

    interface: PodInterface
    left: int
    top: int
    lane: int | None


@dataclass(frozen=True, slots=True)
class _Box:
    """A pod and where it is drawn."""

    pod: Pod
    left: int
    top: int
    bottom: int
    cards: tuple[_Card, ...]


def draw(topology: Topology) -> str:
    """The topology as an SVG document, in ASCII."""
    sheet = _sheet(topology)
    parts: list[str] = []
    top = HEAD
    rails = topology.rails
    for pods in _rows(topology.pods):
        drawn, bottom = _band(sheet, rails, pods, top, has_legend=top == HEAD)
        parts += drawn
        top = bottom + BAND_GAP
        rails = tuple(replace(rail, addresses=("as above",)) for rail in topology.rails)
    height = top - BAND_GAP + 2 * MARGIN
    svg = [*_head(topology, sheet.width, height), *parts, "</svg>", ""]
    return "\n".join(svg).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _head(topology: Topology, width: int, height: int) -> list[str]:
    """The document's own element, its description, the paper and the frame of the node."""
    interfaces = sum(len(pod.interfaces) for pod in topology.pods)
    counts = ((len(topology.pods), "pod"), (interfaces, "interface"), (len(topology.rails), "device"))
    pods, ends, devices = (f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    frame = _rectangle(MARGIN, MARGIN, width - 2 * MARGIN, height - 2 * MARGIN, SURFACE, EDGE, radius=14)
    room = width - 4 * MARGIN
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-labelledby="topology-title topology-desc" '
        f'font-family="{FONT}">',
        f'<title id="topology-title">{_escaped(f"Attachments on {topology.node}")}</title>',
        f'<desc id="topology-desc">{pods} with {ends} on {devices} of the node</desc>',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        frame,
        _text(2 * MARGIN, MARGIN + 31, _Line(f"node {topology.node}", 16, is_bold=True), room),
    ]


def _rows(pods: tuple[Pod, ...]) -> Iterator[tuple[Pod, ...]]:
    """The pods in rows of nearly the same length; one empty row when there is none."""
    rows = max(1, -(-len(pods) // PODS_IN_A_ROW))
    length = max(1, -(-len(pods) // rows))
    for start in range(0, max(1, len(pods)), length):
        yield pods[start : start + length]


def _sheet(topology: Topology) -> _Sheet:
    """Columns as wide as their longest text, within bounds; the same for every rail and every card."""
    colours = {rail.device: COLOURS[n % len(COLOURS)] for n, rail in enumerate(topology.rails)}
    labels = [line for rail in topology.rails for line in _told(rail.addresses)]
    names = [_width(f"{rail.device} {rail.kind}", 13) for rail in topology.rails]
    label_width = _bounded([*names, *(_width(line.text, line.size) for line in labels)])
    interfaces = [each for pod in topology.pods for each in pod.interfaces]
    lines = [line for each in interfaces for line in _facts(each)]
    lines += [line for pod in topology.pods for line in _pod_head(pod)]
    card_width = _bounded([_width(line.text, line.size) + 2 * PADDING for line in lines])
    sheet = _Sheet(label_width, card_width, 0, colours)
    boxes = [box for pods in _rows(topology.pods) for box in _boxes(sheet, pods, 0)]
    right = max((box.left + card_width + 2 * PADDING for box in boxes), default=sheet.bars_left + 360)
    return _Sheet(label_width, card_width, right + GUTTER + MARGIN, colours)


def _bounded(widths: Iterable[int]) -> int:
    return min(WIDEST, max([NARROWEST, *widths]))


def _boxes(sheet: _Sheet, pods: tuple[Pod, ...], top: int) -> Iterator[_Box]:
    """The pods of one row, side by side, each behind the lanes of its interfaces."""
    left = sheet.bars_left
    for pod in pods:
        lanes = sum(each.device in sheet.colours for each in pod.interfaces)
        left += GUTTER + LANE * lanes
        box = _box(sheet, pod, left, top)
        yield box
        left += sheet.card_width + 2 * PADDING


def _box(sheet: _Sheet, pod: Pod, left: int, top: int) -> _Box:
    """A pod with its cards below each other."""
    lane = left - STUB
    cards: list[_Card] = []
    y = top + PADDING + LEADING * len(_pod_head(pod)) + 6
    for interface in pod.interfaces:
        has_rail = interface.device in sheet.colours
        cards.append(_Card(interface, left + PADDING, y, lane if has_rail else None))
        lane -= LANE if has_rail else 0
        y += _height(interface) + PADDING
    return _Box(pod, left, top, y, tuple(cards))


def _band(
    sheet: _Sheet, rails: tuple[Rail, ...], pods: tuple[Pod, ...], top: int, *, has_legend: bool
) -> tuple[list[str], int]:
    """One row of pods under the rails, and where it ends."""
    rows = [LEADING * (1 + len(_told(rail.addresses))) + 14 for rail in rails]
    tops = dict(zip((rail.device for rail in rails), accumulate(rows, initial=top), strict=False))
    pods_top = top + sum(rows) + PADDING
    boxes = list(_boxes(sheet, pods, pods_top))
    cards = [card for box in boxes for card in box.cards]
    parts = [_lane(sheet, card, tops) for card in cards if card.lane is not None]
    parts += [part for rail in rails for part in _rail(sheet, rail, tops[rail.device])]
    parts += [part for card in cards if card.lane is not None for part in _dot(sheet, card, tops)]
    parts += [part for box in boxes for part in _pod(sheet, box)]
    bottoms = [pods_top, *(box.bottom for box in boxes)]
    if has_legend:
        parts += _legend(2 * MARGIN, pods_top)
        bottoms.append(pods_top + 22 * (len(LEGEND) + 1))
    if not pods:
        parts.append(_text(sheet.bars_left, pods_top + 24, _Line("nothing is attached", 13, FAINT), 360))
    return parts, max(bottoms)


def _rail(sheet: _Sheet, rail: Rail, top: int) -> Iterator[str]:
    """A rail with its label left of it; a paler edge lets lanes visibly pass behind."""
    colour = sheet.colours[rail.device]
    left, right = sheet.bars_left, sheet.width - 2 * MARGIN
    yield _rectangle(left - 2, top + 2, right - left + 4, RAIL + 8, SURFACE, SURFACE, radius=0)
    yield _bar(left, top + 6, right - left, colour, rail.kind)
    label = _Line(rail.device, 13, colour, is_bold=True)
    room = sheet.label_width - _width(f" {rail.kind}", 11)
    yield _text(2 * MARGIN, top + 14, label, max(room, sheet.label_width // 2))
    used = min(_width(f"{rail.device} ", 13), max(room, sheet.label_width // 2) + 6)
    yield _text(2 * MARGIN + used, top + 14, _Line(rail.kind, 11, FAINT), sheet.label_width - used)
    yield from _block(2 * MARGIN, top + LEADING, _told(rail.addresses), sheet.label_width)


def _bar(left: int, top: int, width: int, colour: str, kind: str) -> str:
    """A bridge is solid, everything else hollow."""
    fill = colour if kind == "bridge" else PAPER
    return _rectangle(left, top, width, RAIL, fill, colour, radius=RAIL // 2, stroke=2)


def _lane(sheet: _Sheet, card: _Card, tops: dict[str, int]) -> str:
    """From the rail down the card's own lane and across into the pod."""
    y, x, turn = card.top + PADDING + 4, card.lane or 0, 5
    start = tops[card.interface.device] + 6 + RAIL // 2
    path = f"M{x} {start}V{y - turn}Q{x} {y} {x + turn} {y}H{card.left}"
    return f'<path d="{path}" fill="none" stroke="{sheet.colours[card.interface.device]}" stroke-width="2"/>'


def _dot(sheet: _Sheet, card: _Card, tops: dict[str, int]) -> Iterator[str]:
    """Where a lane is connected to its rail: over the rail's edge, unlike a lane that passes behind."""
    y, colour = tops[card.interface.device] + 6 + RAIL // 2, sheet.colours[card.interface.device]
    yield f'<path d="M{card.lane} {y}V{y + RAIL + 4}" stroke="{colour}" stroke-width="2"/>'
    yield f'<circle cx="{card.lane}" cy="{y}" r="5" fill="{PAPER}" stroke="{colour}" stroke-width="2"/>'


def _pod(sheet: _Sheet, box: _Box) -> Iterator[str]:
    """The pod's box with its cards; the ends of the lanes are drawn again, over the box."""
    width = sheet.card_width + 2 * PADDING
    yield _rectangle(box.left, box.top, width, box.bottom - box.top, POD_FILL, EDGE)
    yield from _block(box.left + PADDING, box.top + 6, _pod_head(box.pod), sheet.card_width)
    for card in box.cards:
        colour = sheet.colours.get(card.interface.device, FAINT)
        if card.lane is not None:
            y = card.top + PADDING + 4
            ends = f'd="M{box.left - 2} {y}H{card.left}"'
            yield f'<path {ends} fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from _card(card, sheet.card_width, colour)


def _card(card: _Card, width: int, colour: str) -> Iterator[str]:
    """One interface: its name, the mark of the default route, and what is known of it."""
    interface, room = card.interface, width - 2 * PADDING
    yield _rectangle(card.left, card.top, width, _height(interface), PAPER, colour, radius=6)
    x = card.left + PADDING
    marked = 64 if interface.is_default_route else 0
    name = _Line(interface.name, 13, colour, is_bold=True)
    yield _text(x, card.top + PADDING + 9, name, room - marked)
    if interface.is_default_route:
        yield from _mark(card.left + width - PADDING - 56, card.top + PADDING - 4, colour)
    yield from _block(x, card.top + PADDING + LEADING - 3, _facts(interface), room)


def _mark(left: int, top: int, colour: str) -> Iterator[str]:
    yield _rectangle(left, top, 56, LEADING, colour, colour, radius=LEADING // 2)
    yield _text(left + 5, top + 12, _Line("default", 10, PAPER, is_bold=True), 50)


def _legend(left: int, top: int) -> Iterator[str]:
    """What the marks mean, below the labels of the rails."""
    yield _text(left, top + 14, _Line("Legend", 12, INK, is_bold=True), NARROWEST)
    symbol = 56
    rows = range(top + 30, top + 30 + 22 * len(LEGEND), 22)
    for y, text in zip(rows, LEGEND, strict=True):
        yield _text(left + symbol + 10, y + 4, _Line(text, 11, FAINT), NARROWEST - symbol - 10)
    bridge, device, attachment, mark = rows
    yield _bar(left, bridge - RAIL // 2, symbol, FAINT, "bridge")
    yield _bar(left, device - RAIL // 2, symbol, FAINT, "")
    yield f'<path d="M{left + 4} {attachment}H{left + symbol}" stroke="{FAINT}" stroke-width="2"/>'
    yield (
        f'<circle cx="{left + 5}" cy="{attachment}" r="5" fill="{PAPER}" stroke="{FAINT}" stroke-width="2"/>'
    )
    yield from _mark(left, mark - LEADING // 2, FAINT)


def _pod_head(pod: Pod) -> list[_Line]:
    lines = [_Line(f"pod {pod.name}", 13, is_bold=True)]
    return lines + ([_Line(pod.netns, colour=FAINT)] if pod.netns else [])


def _facts(interface: PodInterface) -> list[_Line]:
    """What a card says below the interface's name."""
    lines = [_Line(interface.network, 12)]
    lines += _told(interface.addresses) or [_Line("no address", colour=FAINT)]
    return lines + ([_Line(interface.mac, colour=FAINT)] if interface.mac else [])


def _told(addresses: tuple[str, ...]) -> list[_Line]:
    """A line an address; of many, the last line tells how many more there are."""
    if len(addresses) <= ADDRESSES_SHOWN:
        return [_Line(each) for each in addresses]
    shown, more = addresses[: ADDRESSES_SHOWN - 1], addresses[ADDRESSES_SHOWN - 1 :]
    return [*map(_Line, shown), _Line(f"and {len(more)} more", colour=FAINT, tooltip=" ".join(more))]


def _height(interface: PodInterface) -> int:
    return PADDING + LEADING * (1 + len(_facts(interface))) + 4


def _block(x: int, top: int, lines: Iterable[_Line], room: int) -> Iterator[str]:
    """Lines of text below each other."""
    for n, line in enumerate(lines, start=1):
        yield _text(x, top + n * LEADING - 2, line, room)


def _text(x: int, y: int, line: _Line, room: int) -> str:
    """A line of text in so many pixels; what does not fit loses its middle and gets a tooltip."""
    shown = _shortened(line.text, int(room / (line.size * EM)))
    told = line.tooltip or (line.text if shown != line.text else "")
    tooltip = f"<title>{_escaped(told)}</title>" if told else ""
    weight = ' font-weight="bold"' if line.is_bold else ""
    place = f'x="{x}" y="{y}" font-size="{line.size}" fill="{line.colour}"{weight}'
    return f"<text {place}>{tooltip}{_escaped(shown)}</text>"


def _rectangle(
    x: int, y: int, width: int, height: int, fill: str, edge: str, *, radius: int = RADIUS, stroke: int = 1
) -> str:
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"'
    return f'<rect {place} fill="{fill}" stroke="{edge}" stroke-width="{stroke}"/>'


def _escaped(text: str) -> str:
    """Text as XML, without the characters XML cannot carry in any form."""
    return escape(NOT_XML.sub("\ufffd", text))


def _width(text: str, size: int) -> int:
    """The pixels a text takes, rounded up."""
    return int(_cells(text) * size * EM) + 1


def _cells(text: str) -> int:
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def _shortened(text: str, room: int) -> str:
    """A text in so many cells: both its ends tell names apart, so the middle goes."""
    if _cells(text) <= room:
        return text
    head = _fitting(text, room // 2)
    return f"{head}…{_fitting(text[::-1], room - 1 - _cells(head))[::-1]}"


def _fitting(text: str, room: int) -> str:
    """As much of the beginning as fits."""
    ends = accumulate(map(_cells_of, text))
    return text[: sum(1 for _ in takewhile(lambda end: end <= room, ends))]
