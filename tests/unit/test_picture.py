"""The picture: complete, legible at every size, safe to open, the same for the same data."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as some

from meta_cni.picture import COLOURS, EM, FAINT, POD_FILL, SURFACE, Pod, PodInterface, Rail, Topology, draw

GOLDEN = Path(__file__).parents[1] / "golden" / "picture"
CASES = sorted(path.name for path in GOLDEN.iterdir())
SVG = "{http://www.w3.org/2000/svg}"
PATH = re.compile(r"M(\d+) (\d+)(?:V(\d+))?(?:Q\d+ \d+ \d+ (\d+))?(?:H(\d+))?")
LONGEST = "2001:db8:1234:5678:9abc:def0:1234:5678/128"

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


def read(case: Path) -> Topology:
    document = json.loads((case / "topology.json").read_text())
    rails = [Rail(**{**each, "addresses": tuple(each["addresses"])}) for each in document["rails"]]
    pods = []
    for pod in document["pods"]:
        interfaces = [PodInterface(**{**e, "addresses": tuple(e["addresses"])}) for e in pod["interfaces"]]
        pods.append(Pod(pod["name"], tuple(interfaces), pod["netns"]))
    return Topology(document["node"], tuple(rails), tuple(pods))


def sized(pods: int, interfaces: int, address: str = LONGEST) -> Topology:
    """A topology with everything long: every pod on every rail, more addresses with every interface."""
    kinds = ("bridge", "macvlan", "ipvlan", "host-device")
    rails = [Rail(f"device-nr-{n}-abcd", kinds[n % 4], (address,) * (n % 7)) for n in range(interfaces)]
    ends = [
        PodInterface(f"interface-abcd{n}", f"telco/{'network-' * 9}{n}", rails[n].device, "02:00:5e:00:53:01")
        for n in range(interfaces)
    ]
    filled = [
        PodInterface(each.name, each.network, each.device, each.mac, (address,) * n, n == 0)
        for n, each in enumerate(ends)
    ]
    netns = "/var/run/netns/cni-1b6c2e1e-9d0a-4b44-8a5c-0f6b1f0e6f00"
    drawn = [Pod(f"telco/{'pod-' * 12}{n}", tuple(filled), netns) for n in range(pods)]
    return Topology("worker-1", tuple(rails), tuple(drawn))


def parsed(topology: Topology) -> ElementTree.Element:
    return ElementTree.fromstring(draw(topology))


def shown(svg: ElementTree.Element) -> list[str]:
    """Every text as a reader sees it; a tooltip is an element before it."""
    return ["".join([e.text or "", *(child.tail or "" for child in e)]) for e in svg.iter(f"{SVG}text")]


def tooltips(svg: ElementTree.Element) -> list[str]:
    return [tip.text or "" for text in svg.iter(f"{SVG}text") for tip in text.iter(f"{SVG}title")]


def text_boxes(svg: ElementTree.Element) -> list[Rectangle]:
    found = []
    for text, element in zip(shown(svg), svg.iter(f"{SVG}text"), strict=True):
        x, y, size = (float(element.attrib[key]) for key in ("x", "y", "font-size"))
        found.append((x, y - 0.8 * size, x + len(text) * size * EM, y + 0.2 * size))
    return found


def rectangles(svg: ElementTree.Element, radius: str) -> list[Rectangle]:
    """Rectangles by their corners: 6 is a card, 8 a pod, 14 the node."""
    found = []
    for element in svg.iter(f"{SVG}rect"):
        if element.get("rx") == radius:
            x, y, width, height = (float(element.attrib[key]) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def lanes(svg: ElementTree.Element) -> list[list[Rectangle]]:
    """The two straight pieces of every lane, as rectangles without width."""
    found = []
    for element in svg.iter(f"{SVG}path"):
        match = PATH.fullmatch(element.attrib["d"])
        assert match is not None, element.attrib["d"]
        x, start, _, y, end = (float(each or 0) for each in match.groups())
        if y:
            found.append([(x, start, x, y), (x, y, end, y)])
    return found


def meet(one: Rectangle, other: Rectangle) -> bool:
    """Whether two rectangles share a point inside, edges apart."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def touch(one: Rectangle, other: Rectangle) -> bool:
    """Whether two pieces of lanes share any point."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def within(inner: Rectangle, outer: Rectangle) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@pytest.mark.parametrize("case", CASES)
def test_picture_is_as_in_the_golden_case(case: str, golden: Callable[[Path, str], None]):
    """A change of the drawing is seen in review, and the same data gives the same text."""
    golden(GOLDEN / case / "topology.svg", draw(read(GOLDEN / case)))


@pytest.mark.parametrize("case", CASES)
def test_everything_known_is_in_the_picture(case: str):
    """It stands for the table in a report; what is missing in it would be missed."""
    topology = read(GOLDEN / case)

    texts = shown(parsed(topology))

    expected = [f"node {topology.node}"]
    for rail in topology.rails:
        expected += [rail.device, rail.kind, *rail.addresses]
    for pod in topology.pods:
        expected += [f"pod {pod.name}", pod.netns]
        for each in pod.interfaces:
            expected += [each.name, each.network, each.mac, *each.addresses]
    assert [] == [text for text in expected if text not in texts]


@pytest.mark.parametrize("interfaces", range(1, 9))
@pytest.mark.parametrize("pods", range(1, 7))
def test_nothing_overlaps_at_any_size(pods: int, interfaces: int):
    """Legible with one pod of one interface and with six of eight, all names and addresses long."""
    svg = parsed(sized(pods, interfaces))
    texts, cards, drawn = text_boxes(svg), rectangles(svg, "6"), lanes(svg)
    pieces = [piece for lane in drawn for piece in lane]
    (node,) = rectangles(svg, "14")

    assert pods * interfaces == len(cards) == len(drawn)
    assert [] == [pair for pair in combinations(texts, 2) if meet(*pair)]
    assert [] == [each for each in (*texts, *cards, *rectangles(svg, "8")) if not within(each, node)]
    assert [] == [pair for pair in combinations(cards, 2) if touch(*pair)]
    assert [] == [(piece, box) for piece in pieces for box in (*texts, *cards) if meet(piece, box)]
    assert [] == [text for text in texts for card in cards if meet(text, card) and not within(text, card)]
    entered = [box for piece in pieces for box in rectangles(svg, "8") if meet(piece, box)]
    assert len(drawn) == len(entered)  # each lane its own pod, and no other


@pytest.mark.parametrize("interfaces", range(1, 9))
def test_lanes_never_cross(interfaces: int):
    """Two lanes that meet would look like one network."""
    drawn = lanes(parsed(sized(6, interfaces)))

    crossings = [
        (one, other)
        for first, second in combinations(drawn, 2)
        for one in first
        for other in second
        if touch(one, other)
    ]
    assert [] == crossings


def test_every_lane_ends_at_its_own_card_in_the_colour_of_its_rail():
    """A line to the wrong rail is worse than no picture."""
    rails = (Rail("br0", "bridge"), Rail("eth1", "macvlan"))
    ends = (PodInterface("net1", "b", "eth1"), PodInterface("eth0", "a", "br0"))
    svg = parsed(Topology("n", rails, (Pod("ns/p", ends),)))

    paths = [e for e in svg.iter(f"{SVG}path") if "Q" in e.attrib["d"]]
    dots = {(e.attrib["cx"], e.attrib["stroke"]) for e in svg.iter(f"{SVG}circle")}
    cards = rectangles(svg, "6")

    assert [COLOURS[1], COLOURS[0]] == [each.attrib["stroke"] for each in paths]
    for (down, across), card, path in zip(lanes(svg), cards, paths, strict=True):
        assert card[0] == across[2]
        assert card[1] < across[3] < card[3]
        assert (f"{down[0]:.0f}", path.attrib["stroke"]) in dots


def test_bridges_are_solid_and_masters_hollow():
    """Two things a network engineer tells apart first."""
    svg = parsed(Topology("n", (Rail("br0", "bridge"), Rail("eth1", "macvlan")), ()))

    bars = [e for e in svg.iter(f"{SVG}rect") if e.get("rx") == "4" and e.get("stroke") in COLOURS]

    assert [(COLOURS[0], True), (COLOURS[1], False)] == [
        (bar.get("stroke"), bar.get("fill") == bar.get("stroke")) for bar in bars
    ]


def test_default_route_is_marked_on_its_interface_only():
    """The first question about a pod with several interfaces."""
    with_mark = sized(2, 3)
    pods = tuple(
        Pod(pod.name, tuple(PodInterface(e.name, e.network, e.device) for e in pod.interfaces))
        for pod in with_mark.pods
    )

    marks = [
        shown(parsed(each)).count("default") for each in (with_mark, Topology("n", with_mark.rails, pods))
    ]

    assert [3, 1] == marks  # one of them in the legend


def test_a_shortened_text_keeps_both_ends_and_has_a_tooltip():
    """Pods of one deployment differ in the end of their names, networks in the beginning."""
    name = f"telco/{'media-' * 20}x2y4z"
    svg = parsed(Topology("n", (), (Pod(name, ()),)))

    (head,) = [text for text in shown(svg) if text.startswith("pod telco/")]

    assert head.endswith("x2y4z")
    assert "…" in head
    assert [f"pod {name}"] == tooltips(svg)


def test_the_longest_address_is_not_shortened():
    """An address with a hole cannot be copied."""
    assert LONGEST in shown(parsed(sized(1, 2)))


def test_of_many_addresses_the_rest_is_counted_and_in_the_tooltip():
    """Ten addresses must not push the other interfaces out of sight."""
    addresses = tuple(f"10.0.0.{n}/24" for n in range(10))
    rail = Rail("br0", "bridge")

    svg = parsed(Topology("n", (rail,), (Pod("ns/p", (PodInterface("eth0", "a", "br0", "", addresses),)),)))

    assert {"10.0.0.2/24", "and 7 more"} <= set(shown(svg))
    assert "10.0.0.3/24" not in shown(svg)
    assert [" ".join(addresses[3:])] == tooltips(svg)


def test_an_interface_without_address_or_rail_is_drawn():
    """A layer-2 attachment, or a device that was moved into the pod."""
    svg = parsed(Topology("n", (), (Pod("ns/p", (PodInterface("net1", "a", "gone"),)),)))

    assert {"net1", "no address"} <= set(shown(svg))
    assert [] == lanes(svg)


def test_rails_of_a_second_row_are_said_to_be_the_first():
    """A bridge that is drawn twice is still one bridge."""
    texts = shown(parsed(sized(6, 2)))

    assert 2 == texts.count("device-nr-0-abcd") == texts.count("as above")
    assert 1 == texts.count("Legend")


def test_nothing_attached_is_said():
    """An empty frame would look like a mistake."""
    assert "nothing is attached" in shown(parsed(Topology("n", (), ())))


def test_the_picture_describes_itself():
    """For those who hear it, and for the one thing that is one."""
    svg = parsed(Topology("n", (Rail("br0", "bridge"),), (Pod("ns/p", ()), Pod("ns/q", ()))))

    labels = [svg.find(f"{SVG}*[@id='{each}']") for each in svg.attrib["aria-labelledby"].split()]

    assert "img" == svg.attrib["role"]
    assert ["Attachments on n", "2 pods with 0 interfaces on 1 device of the node"] == [
        each.text for each in labels if each is not None
    ]
    assert f"0 0 {svg.attrib['width']} {svg.attrib['height']}" == svg.attrib["viewBox"]


def test_every_colour_of_text_is_read_on_its_ground():
    """WCAG 2.1, 1.4.3: a contrast of 4.5; the ground is our own, whatever the viewer's theme is."""
    grounds = {colour: SURFACE for colour in COLOURS} | {FAINT: POD_FILL}

    assert [] == [colour for colour, ground in grounds.items() if contrast(colour, ground) < 4.5]


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, contrast ratio."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance of #rrggbb."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@given(some.lists(some.text(), min_size=8, max_size=8))
def test_no_text_can_break_the_document(texts: list[str]):
    """A picture that runs a script, or does not open, is a hole: names come from users' files."""
    node, device, kind, address, name, network, mac, netns = texts
    interface = PodInterface(name, network, device, mac, (address, LONGEST), True)
    topology = Topology(node, (Rail(device, kind, (address,)),), (Pod(name, (interface,), netns),))

    document = draw(topology)

    assert document.isascii()
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(document).iter()}
    assert tags <= {"svg", "title", "desc", "rect", "text", "path", "circle"}


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "a\0b", "\ud800", "\ufffe", 'a" onload="x', "]]>"]
)
def test_hostile_names_are_only_text(hostile: str):
    """What XML cannot carry in any form is replaced, the rest is escaped."""
    svg = parsed(Topology(hostile, (), ()))

    expected = re.sub("[\0\ud800\ufffe]", "\ufffd", hostile)
    assert f"node {expected}" in shown(svg)


def test_nothing_is_loaded_from_elsewhere():
    """No font, script, style or image: the file is complete, and safe to open anywhere."""
    document = draw(sized(2, 3)).replace("http://www.w3.org/2000/svg", "")

    assert [] == re.findall(r"https?:|href|url\(|<style|<script|<image", document)
