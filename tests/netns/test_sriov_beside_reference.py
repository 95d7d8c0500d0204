"""
The built-in sriov and sriov-cni itself, side by side: the same calls, each for a function of its own card.

After every call the answer, the pod, what the card tells of the function, its link on the node and the
files are compared, but for what DIFFERENCES says. A difference that is not in there fails the test of
its case; one that no case shows any more fails the run: so what sriov-cni does wrong is shown there.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import address, link, netns, route, sysctl, vf, vf_release
from meta_cni.linux.netlink import Socket
from meta_cni.linux.vf import NO_MAC, Rate, Settings, Target, Vlan
from meta_cni.linux.vf_claims import DIRECTORY
from tests.conformance.programs import BUILT
from tests.conformance.run import differences, flat
from tests.netns.chain import DIRECTORIES, Call, ours, theirs
from tests.netns.conftest import PodNetns
from tests.netns.functions import Card

pytestmark = pytest.mark.igb

BINARIES = (str(BUILT / "bin"), *DIRECTORIES)
INTERFACE = "net1"
MAC, OTHER, THIRD = (f"02:00:5e:00:53:0{last}" for last in (1, 2, 3))
HOME_S = 15.0
"""A namespace that ends gives its devices back in the background."""


@dataclass(frozen=True)
class Side:
    """One of the two programs, with what is its own."""

    call: Call
    card: Card
    address: str
    pod: PodNetns
    data: Path
    link: link.Link
    """Of the function, as it was on the node."""

    @property
    def target(self) -> Target:
        return Target(self.card.index, self.card.name, 0, "igb")

    def set(self, settings: Settings) -> None:
        """Of the function, by its card."""
        vf.apply(self.card.host, self.target, settings)

    def lose_pod(self) -> None:
        """Its namespace ends; the function is on the node again."""
        self.pod.close()
        deadline = time.monotonic() + HOME_S
        while self.card.link_of(self.address) is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def inside(self) -> link.Link | None:
        """The function's link in the pod."""
        found = link.dump(self.pod.socket) if self.pod.fd >= 0 else []
        return next((each for each in found if each.device == self.address), None)

    def mend(self, node_fd: int) -> None:
        """Make the function as it was, as far as it can be; to make a new one takes longer."""
        found, name = self.inside(), self.link.name
        if found is not None:
            moving = link.move(found.index, node_fd, name, alias=found.alias)
            self.pod.socket.request([link.set_link(found.index, is_up=False), moving])
        home, host = self.card.link_of(self.address), self.card.host
        if home is None:
            return
        host.request([link.set_link(home.index, is_up=False)])
        host.request([link.set_link(home.index, name=name, mtu=self.link.mtu)])
        clean = Settings(Vlan(0), NO_MAC, Rate(), is_spoof_checked=True, is_trusted=False)
        self.set(clean.differing(self.card.settings(0)))
        if home.mac != self.link.mac:
            vf_release.take_address(host, home, self.link.mac, name)

    def tell(self) -> dict[str, Any]:
        """Everything that a call may have changed; what is of this side alone has the same name on both."""
        card = asdict(self.card.settings(0))
        if card["mac"] in (NO_MAC, self.link.mac):  # igb tells it some time after it is up
            card["mac"] = "none, or its own"
        home = self.card.link_of(self.address)
        files = (each for path in (DIRECTORY, self.data) for each in _files(path))
        return {
            "card": card,
            "node": {"links": {home.name: _told(home)} if home else {}},
            "pod": self._pod() if self.pod.fd >= 0 else {},
            "files": {str(each): "there" for each in files},
        }

    def _pod(self) -> dict[str, Any]:
        links = [each for each in link.dump(self.pod.socket) if each.name != "lo"]
        names = {each.index: each.name for each in links}
        addresses = address.dump(self.pod.socket)
        routes = [each for each in route.dump(self.pod.socket) if each.interface_index in names]
        own = [each.name for each in links if each.device == self.address]
        return {
            "links": {each.name: _told(each) for each in links},
            "sysctls": netns.run_in(self.pod.fd, lambda: _sysctls(own)),
            "addresses": {
                f"{names[each.interface_index]} {each.address}": "there"
                for each in addresses
                if each.interface_index in names and not each.address.ip.is_link_local
            },
            "routes": {
                f"{each.destination} by {each.gateway} dev {names[each.interface_index]} ": each.mtu
                for each in routes
                if not (each.destination.is_link_local or each.destination.is_multicast)
            },
        }

    def normal(self, told: Any) -> Any:
        """The same, without names that are of this side alone."""
        text = json.dumps(told)
        places = {
            self.pod.path: "@pod",
            self.address: "@vf",
            self.link.mac: "@mac",
            str(self.data): "@data",
        }
        for own, place in places.items():
            text = text.replace(own, place)
        text = re.sub(r"\btemp_\d+\b", "temp_N", text)
        return json.loads(re.sub(rf"\b{self.link.name}\b", "@link", text))


def _told(found: link.Link) -> dict[str, Any]:
    return {
        "is": "there",
        "mac": found.mac if found.device else "any",
        "mtu": found.mtu,
        "up": found.is_up,
        "allmulti": found.is_allmulti,
        "promiscuous": found.is_promiscuous,
    }


SYSCTLS = ("ipv4/conf/{}/arp_notify", "ipv6/conf/{}/ndisc_notify", "ipv6/conf/{}/optimistic_dad")


def _sysctls(names: list[str]) -> dict[str, str]:
    paths = [each.format(name) for name in names for each in SYSCTLS]
    return {each: sysctl.read(f"net/{each}") for each in paths}


def _files(directory: Path) -> list[Path]:
    """Locks aside, which stay."""
    found = directory.rglob("*") if directory.exists() else ()
    return [each for each in found if each.is_file() and not each.name.endswith("lock")]


@dataclass(frozen=True)
class Step:
    """One call, and what happens before it."""

    command: str
    keys: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    before: Callable[[Side], object] | None = None
    says: tuple[str, str] = ("", "")
    """What sriov-cni and ours have in their errors; empty for success."""


ADD, CHECK, DEL = (Step(each) for each in ("ADD", "CHECK", "DEL"))
ROUND = (ADD, DEL)


@dataclass(frozen=True)
class Case:
    """A configuration, without what every one has, and the calls with it; {data} is a directory."""

    keys: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ROUND
    version: str = "1.1.0"
    variables: dict[str, str] = field(default_factory=dict)


def host_local(**more: Any) -> dict[str, Any]:
    """Addresses of two families, and routes."""
    ranges = [[{"subnet": "10.1.0.0/24", "gateway": "10.1.0.254"}], [{"subnet": "fd00:1::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.3"}, {"dst": "fd00:9::/64"}]
    base = {"type": "host-local", "dataDir": "{data}", "ranges": ranges, "routes": routes}
    return {"ipam": {**base, **more}}


def refused(theirs: str, ours: str, **keys: Any) -> Case:
    """Something that is wrong in itself."""
    return Case(keys, (Step("ADD", says=(theirs, ours)),))


def rename(name: str) -> Callable[[Side], None]:
    """As a pod with NET_ADMIN does."""

    def change(side: Side) -> None:
        found = side.inside()
        assert found is not None
        side.pod.socket.request([link.set_link(found.index, is_up=False)])
        side.pod.socket.request([link.set_link(found.index, name=name, mtu=1300)])

    return change


def set_on_card(side: Side) -> None:
    """As an operator does before."""
    side.set(Settings(Vlan(5, 2), rate=Rate(0, 50), is_spoof_checked=False, is_trusted=True))


def give_address(side: Side) -> None:
    """The same, to a function that may choose another."""
    side.set(Settings(mac=THIRD, is_trusted=True))


def set_on_node(side: Side) -> None:
    """The same, of the function's link."""
    side.card.host.request([link.set_link(side.link.index, mtu=1400, is_up=True)])


def take_name(side: Side) -> None:
    """A link of the pod that has the name already."""
    side.pod.socket.request([link.create_bridge(INTERFACE)])


def to_userspace(side: Side) -> None:
    """As an operator gives a function to DPDK."""
    device = Path("/sys/bus/pci/devices") / side.address
    (device / "driver" / "unbind").write_text(side.address)
    (device / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(side.address)


EVERYTHING = {
    "vlan": 100,
    "vlanQoS": 3,
    "vlanProto": "802.1Q",
    "mac": MAC.upper(),
    "spoofchk": "off",
    "trust": "on",
    "max_tx_rate": 100,
}
FRESH = ("mac", "macs of pods in turn", "an address that the card gave")
"""Cases that need functions that no pod has had."""
CASES = {
    "nothing": Case(steps=(ADD, CHECK, DEL, DEL)),
    "vlan": Case({"vlan": 100}),
    "vlan and qos": Case({"vlan": 4094, "vlanQoS": 7, "vlanProto": "802.1q"}),
    "vlan 0": Case({"vlan": 0, "vlanQoS": 0, "vlanProto": "802.1Q"}, (Step("ADD", before=set_on_card), DEL)),
    "mac": Case({"mac": MAC.upper()}),
    "mac of CNI_ARGS": Case(
        {"mac": OTHER, "trust": "on"}, variables={"CNI_ARGS": f"IgnoreUnknown=1;MAC={MAC}"}
    ),
    "mac of the runtime": Case(
        {"mac": THIRD, "trust": "on", "runtimeConfig": {"mac": MAC.upper()}},
        variables={"CNI_ARGS": f"MAC={OTHER}"},
    ),
    "macs of pods in turn": Case(
        {"mac": MAC},
        (
            ADD,
            DEL,
            Step("ADD", {"mac": OTHER}, says=("cannot assign requested address", "")),
            Step("DEL", {"mac": OTHER}),
        ),
    ),
    "spoofchk off": Case({"spoofchk": "off"}),
    "spoofchk on": Case({"spoofchk": "on"}, (Step("ADD", before=set_on_card), DEL)),
    "trust on": Case({"trust": "on"}),
    "trust off": Case({"trust": "off"}, (Step("ADD", before=set_on_card), DEL)),
    "max_tx_rate": Case({"max_tx_rate": 100}),
    "both rates": Case({"min_tx_rate": 0, "max_tx_rate": 200}),
    "no rate": Case({"max_tx_rate": 0}, (Step("ADD", before=set_on_card), DEL)),
    "a log": Case({"vlan": 3, "logLevel": "debug", "logFile": "/dev/null"}),
    "everything": Case({**EVERYTHING, **host_local()}, (ADD, CHECK, DEL, DEL)),
    "everything in 0.1.0": Case({**EVERYTHING, **host_local()}, version="0.1.0"),
    "everything in 0.2.0": Case({**EVERYTHING, **host_local()}, version="0.2.0"),
    "everything in 0.3.0": Case({**EVERYTHING, **host_local()}, version="0.3.0"),
    "everything in 0.3.1": Case({**EVERYTHING, **host_local()}, version="0.3.1"),
    "everything in 0.4.0": Case({**EVERYTHING, **host_local()}, (ADD, CHECK, DEL), version="0.4.0"),
    "everything in 1.0.0": Case({**EVERYTHING, **host_local()}, version="1.0.0"),
    "everything over what the card had": Case(EVERYTHING, (Step("ADD", before=set_on_card), DEL)),
    "nothing over what the card had": Case({}, (Step("ADD", before=set_on_card), DEL)),
    "an address that the card gave": Case({}, (Step("ADD", before=give_address), DEL)),
    "up with another MTU before": Case({"vlan": 7}, (Step("ADD", before=set_on_node), DEL)),
    "keys in other letters": Case({"VLAN": 9, "SpoofChk": "off", "Mac": MAC, "TRUST": "on"}),
    "null and empty": Case({"vlan": None, "spoofchk": "", "trust": "", "link_state": "", "mac": ""}),
    "its own dns": Case({"dns": {"nameservers": ["10.1.0.9"]}, **host_local()}),
    "DEL before any ADD": Case(EVERYTHING, (DEL,)),
    "ADD twice": Case(
        {"vlan": 8}, (ADD, Step("ADD", says=("is already allocated", "expected a DEL first")), DEL)
    ),
    "held by another": Case(
        {"vlan": 8},
        (
            ADD,
            Step(
                "ADD",
                {"vlan": 9},
                {"CNI_CONTAINERID": "c2"},
                says=("is already allocated", "expected its DEL"),
            ),
            DEL,
        ),
    ),
    "renamed in the pod": Case(
        EVERYTHING, (ADD, Step("DEL", before=rename("other"), says=("failed to get netlink device", "")), DEL)
    ),
    "DEL without a namespace": Case(EVERYTHING, (ADD, Step("DEL", variables={"CNI_NETNS": ""}))),
    "DEL when the namespace is gone": Case(EVERYTHING, (ADD, Step("DEL", before=Side.lose_pod))),
    "DEL of nothing when the namespace is gone": Case({}, (ADD, Step("DEL", before=Side.lose_pod))),
    "a vlan protocol that igb refuses": Case(
        {"vlan": 100, "vlanProto": "802.1ad"},
        (Step("ADD", says=("failed to set vf 0 vlan", "set vlan 100 protocol 802.1ad of VF 0")), DEL),
    ),
    "a lowest rate that igb refuses": Case(
        {**EVERYTHING, "min_tx_rate": 50},
        (Step("ADD", says=("failed to set vf 0 min_tx_rate to 50", "set min_tx_rate 50")), DEL),
    ),
    "a link state that igb refuses": Case(
        {**EVERYTHING, "link_state": "enable"},
        (Step("ADD", says=("failed to set vf 0 link state", "set link_state enable")), DEL),
    ),
    "a name that is taken": Case(
        EVERYTHING,
        (
            Step("ADD", before=take_name, says=("error setting container", "has a link net1")),
            DEL,
        ),
    ),
    "an IPAM without addresses": Case(
        {**EVERYTHING, **host_local(ranges=[[{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.1"}]], routes=[])},
        (Step("ADD", says=("failed to set up IPAM plugin", "no IP addresses available")), DEL),
    ),
    "a function of a program": Case(
        {**EVERYTHING, **host_local()},
        (
            Step("ADD", before=to_userspace),
            Step("DEL", says=("failed to get netlink device with name net1", "")),
            DEL,
        ),
    ),
    "vlan too big": refused("vlan id 4095 invalid", "from 0 to 4094", vlan=4095),
    "qos without a vlan": refused("vlan id must be configured", "expected a vlan with it", vlanQoS=1),
    "protocol without a vlan": refused(
        "vlan id must be configured", "expected a vlan with it", vlanProto="802.1q"
    ),
    "qos too big": refused("PCP 8 invalid", "from 0 to 7", vlan=1, vlanQoS=8),
    "qos of vlan 0": refused("non-zero vlan id", "a vlan that is not 0 with it", vlan=0, vlanQoS=1),
    "802.1ad of vlan 0": refused("non-zero vlan id", "that is not 0 with it", vlan=0, vlanProto="802.1AD"),
    "no protocol": refused("vlan Proto 802.1x invalid", "802.1q, 802.1ad", vlan=1, vlanProto="802.1x"),
    "no link state": refused("invalid link_state value: up", "auto, enable, disable", link_state="up"),
    "no mac": refused("failed to parse MAC address 02:zz", "expected an Ethernet address", mac="02:zz"),
    "a vlan in quotes": Case(
        {"vlan": "100"},
        (
            Step("ADD", says=("cannot unmarshal string", "from 0 to 4094")),
            Step("DEL", says=("cannot unmarshal string", "")),
        ),
    ),
    "no deviceID": refused("VF pci addr is required", "deviceID is missing", deviceID=""),
    "no such device": refused("no such file", "is not there", deviceID="0000:7f:10.0"),
    "a switch that is neither on nor off": Case(
        {"spoofchk": "no", "trust": "yes"}, (Step("ADD", says=("", "one of on, off")), DEL)
    ),
}


@dataclass(frozen=True)
class Difference:
    """What differs, as a pattern of a line like `vlan: 0.ADD.pod.link.mtu: 1500 -> 1400`, and why."""

    pattern: str
    reason: str


GONE = r"'\(absent\)'"
THEIRS, OURS = rf": 'there' -> {GONE}$", rf": {GONE} -> 'there'$"
"""Only there, only here."""
DIFFERENCES = (
    Difference(rf"\.answer\.interfaces\[0\]\.pciID: {GONE} -> '@vf'$", "CNI 1.1.0 has a place for it"),
    Difference(rf"\.answer\.(ip[46]\.)?routes\[\d\]\.gw: {GONE} -> ", "the next hop that was set is told"),
    Difference(rf"\.answer\.dns: {{}} -> {GONE}$", "empty DNS says nothing"),
    Difference(rf"\.answer\.dns\.nameservers\[0\]: {GONE} -> '10.1.0.9'$", "a network's own DNS is told"),
    Difference(r"\.DEL\.node\.links\.@link\.up: False -> True$", "a link that was up is up again"),
    # What sriov-cni does wrong.
    Difference(
        r"^an address that the card gave: 1\.DEL\."
        rf"(card\.mac: 'none.* -> '{THIRD}'|node\..*mac: '{THIRD}' -> '@mac')$",
        "an address of card or function is lost where a trusted function chose another",
    ),
    Difference(
        r"^macs of pods in turn: (2\.ADD|3\.DEL)\.",
        "a function that had one address of a network takes no other",
    ),
    Difference(
        rf"^renamed in the pod: [12]\.DEL\.(pod\.links\.other\.is{THEIRS}|node\.links\.@link\.is{OURS})",
        "a function that the pod renamed stays in there; the second DEL says that all is well",
    ),
    Difference(
        r"^DEL without a namespace: 1\.DEL\.card\.(is_|mac|rate|vlan)", "the function keeps its settings"
    ),
    Difference(
        r"^DEL without a namespace: 1\.DEL\."
        rf"(pod\.links\.net1\.is{THEIRS}|node\.links\.@link\.is{OURS})",
        "and stays where it is",
    ),
    Difference(
        rf"namespace is gone: 1\.DEL\.node\.links\.(net1\.is{THEIRS}|@link\.is{OURS})",
        "the node has a link of the pod's name",
    ),
    Difference(rf"\.DEL\.files\.\S*/pci/@vf{THEIRS}", "the function is told to be somebody's afterwards"),
    Difference(
        r"^a (lowest rate|link state) that igb refuses: (0\.ADD|1\.DEL)\.card\.(is_|mac|rate|vlan)",
        "what was set before the refused setting stays",
    ),
    Difference(
        rf"^a name that is taken: .*\.(pod\.links\.temp_N\.is{THEIRS}|node\.links\.@link\.is{OURS})",
        "the function is lost in the pod, under a name of its own",
    ),
    Difference(
        rf"^a name that is taken: .*\.pod\.links\.(@link\.is{THEIRS}|net1\.is{OURS})",
        "and the pod's own link gets the function's name",
    ),
    Difference(r"^a switch that is neither on nor off: 0\.ADD\.", "what means nothing is taken as off"),
)


@pytest.fixture(scope="module")
def made(card_names: list[str]) -> dict[str, tuple[list[str], object]]:
    """Card -> addresses and states of its functions, as they were made."""
    return {}


@pytest.fixture(scope="module")
def binary() -> str:
    """sriov-cni, which is skipped by its name where it could not be built: before a card is touched."""
    found = next((f"{each}/sriov" for each in BINARIES if os.access(f"{each}/sriov", os.X_OK)), None)
    if found is None:
        pytest.skip("no reference plugin sriov")
    return found


@pytest.fixture
def cards(
    binary: str,
    request: pytest.FixtureRequest,
    card_names: list[str],
    host: Socket,
    made: dict[str, tuple[list[str], object]],
) -> list[Card]:
    """Each with a function; to make one takes seconds, so only where a test left it another way."""
    if any(f"[{each}]" in request.node.name for each in FRESH):
        made.clear()
    found = [Card(name, host) for name in card_names]
    for each in found:
        addresses, states = made.get(each.name, ([], None))
        if each.count() != len(addresses) or states != each.states(addresses):
            addresses = each.make(1)
            made[each.name] = addresses, each.states(addresses)
    return found


@pytest.fixture
def sides(
    binary: str,
    cards: list[Card],
    made: dict[str, tuple[list[str], object]],
    pods: Callable[[str], PodNetns],
    node_fd: int,
    tmp_path: Path,
) -> Iterator[tuple[Side, Side]]:
    """sriov-cni, and ours."""
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    found = []
    for name, each in zip(("theirs", "ours"), cards, strict=True):
        pod, (own,) = pods(name), made[each.name][0]
        path = ":".join(BINARIES)
        variables = {"CNI_IFNAME": INTERFACE, "CNI_PATH": path}
        call = theirs(binary, pod, **variables)
        if name == "ours":
            call = ours("sriov", pod, **variables)
        of_node = each.link_of(own)
        assert of_node is not None
        found.append(Side(call, each, own, pod, tmp_path / name, of_node))
    yield found[0], found[1]
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    for side in found:
        with suppress(KernelError):
            side.mend(node_fd)


def config(side: Side, keys: dict[str, Any], version: str = "1.1.0") -> dict[str, Any]:
    """The standard input."""
    base = {"cniVersion": version, "name": "media", "type": "sriov", "deviceID": side.address}
    found: dict[str, Any] = json.loads(json.dumps({**base, **keys}).replace("{data}", str(side.data)))
    return found


def run(case: Case, side: Side, number: int) -> tuple[dict[str, Any], list[str]]:
    """What every step told, flat; and what succeeded or failed other than the case says."""
    outcome: dict[str, Any] = {}
    wrong, previous = [], {}
    for place, step in enumerate(case.steps):
        if step.before is not None:
            step.before(side)
        given = {**config(side, {**case.keys, **step.keys}, case.version), **previous}
        answer, code = side.call(step.command, given, **{**case.variables, **step.variables})
        words, message = step.says[number], f"{answer.get('msg', '')} {answer.get('details', '')}"
        if (code != 0) != bool(words) or words not in message:
            wrong.append(f"{place}.{step.command}: exit {code}: {words!r} is not in {message!r}")
        told = side.tell()
        if not any(step.says):
            told["answer"] = answer
        if step.command == "ADD" and code == 0 and case.version >= "0.4.0":
            previous = {"prevResult": answer}
        outcome.update(flat(side.normal(told), f"{place}.{step.command}"))
    return outcome, wrong


@pytest.fixture(scope="module")
def applied() -> dict[str, set[str]]:
    """The cases that ran, and the patterns that were needed."""
    return {"cases": set(), "patterns": set()}


@pytest.mark.parametrize("name", CASES)
def test_same_as_sriov_cni(name: str, sides: tuple[Side, Side], applied: dict[str, set[str]]):
    """But for what is meant."""
    (expected, theirs_wrong), (actual, ours_wrong) = (
        run(CASES[name], each, number) for number, each in enumerate(_one_by_one(sides))
    )

    lines = [f"{name}: {each}" for each in differences(expected, actual)]
    needed = {line: [each.pattern for each in DIFFERENCES if re.search(each.pattern, line)] for line in lines}
    unlisted = [line for line, patterns in needed.items() if not patterns]
    assert [] == [*theirs_wrong, *ours_wrong, *unlisted], "\n".join([*theirs_wrong, *ours_wrong, *unlisted])
    applied["cases"].add(name)
    applied["patterns"].update(pattern for patterns in needed.values() for pattern in patterns)


def _one_by_one(sides: tuple[Side, Side]) -> Iterator[Side]:
    """They have their files in one directory."""
    for each in sides:
        yield each
        shutil.rmtree(DIRECTORY, ignore_errors=True)


def test_every_difference_is_needed(sides: tuple[Side, Side], applied: dict[str, set[str]]):
    """What sriov-cni mended meanwhile goes from the table; where only some cases ran, it is not judged."""
    unneeded = [each.pattern for each in DIFFERENCES if each.pattern not in applied["patterns"]]

    assert applied["cases"] != set(CASES) or [] == unneeded


@pytest.mark.parametrize("is_ours_first", [True, False], ids=["ours first", "sriov-cni first"])
def test_each_gives_back_what_the_other_one_attached(
    sides: tuple[Side, Side], cards: list[Card], is_ours_first: bool
):
    """A node is taken over with its pods, and given back."""
    side, other = sides[::-1] if is_ours_first else sides
    given = config(side, {**EVERYTHING, **host_local()})
    before = side.card.states([side.address])
    answer, code = side.call("ADD", given)
    assert code == 0, answer
    assert side.inside() is not None

    answer, code = other.call("DEL", given, CNI_NETNS=side.pod.path)

    assert (code, [], before) == (0, side.pod.links(), side.card.states([side.address])), answer
    assert [] == _files(DIRECTORY)


@pytest.mark.parametrize("is_ours_first", [True, False], ids=["ours first", "sriov-cni first"])
def test_a_function_that_the_other_one_gave_to_a_pod_is_not_given_again(
    sides: tuple[Side, Side], is_ours_first: bool
):
    """Until its DEL."""
    side, other = sides[::-1] if is_ours_first else sides
    assert 0 == side.call("ADD", config(side, {"vlan": 7}))[1]

    answer, code = other.call("ADD", config(side, {"vlan": 8}), CNI_CONTAINERID="c2")

    assert (1, Vlan(7)) == (code, side.card.settings(0).vlan)
    assert answer["msg"].endswith("is already allocated" if is_ours_first else "expected its DEL"), answer
    assert 0 == side.call("DEL", config(side, {"vlan": 7}))[1]


def test_what_a_pod_of_sriov_cni_left_is_cleaned_by_our_next_add(sides: tuple[Side, Side]):
    """Its namespace has ended without a DEL; sriov-cni itself gives the next pod what is there."""
    side, other = sides
    before = side.card.states([side.address])
    assert 0 == side.call("ADD", config(side, EVERYTHING))[1]
    side.lose_pod()

    answer, code = other.call("ADD", config(side, {}), CNI_CONTAINERID="c2")

    assert code == 0, answer
    settings = side.card.settings(0)
    assert (Vlan(0), False, Rate()) == (settings.vlan, settings.is_trusted, settings.rate)
    assert ({}, 0) == other.call("DEL", config(side, {}), CNI_CONTAINERID="c2")
    assert before == side.card.states([side.address])
