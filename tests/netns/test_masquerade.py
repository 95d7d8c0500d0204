"""Masquerade rules: whose they are, what a DEL and a GC remove, and what they leave alone."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_cni.cni.errors import CheckFailed, CNIError, ProgramFailed, Several
from meta_cni.cni.result import interface_address_of
from meta_cni.linux import iptables, masquerade, nftables, program
from meta_cni.linux.masquerade import BACKENDS, Owner

pytestmark = pytest.mark.slow

Rules = Callable[[], list[str]]

FOUR, SIX = interface_address_of("10.1.0.2/24"), interface_address_of("fd00:1::2/64")
OTHER = interface_address_of("10.2.0.2/24")
ETH0, NET1 = Owner("net", "c1", "eth0"), Owner("net", "c1", "net1")
NEWER, ELSEWHERE = Owner("net", "c2", "eth0"), Owner("other", "c1", "eth0")

NOT_ALL = r"check .*: not all of its addresses are masqueraded"
UNSEEN = "as far as could be seen"
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def about(rules: Rules, text: str) -> list[str]:
    return [line for line in rules() if text in line]


def test_a_chain_has_the_reference_s_name():
    """Its own test's values."""
    assert "CNI-2bbe0c48b91a7d1b8a6753a8" == Owner("test", "1234", "").chain
    assert "CNI-374f33fe84ab0ed84dcdebe3" == Owner("testalongnamethatdoesnotmakesense", "1234", "").chain


def test_iptables_has_the_reference_s_rules_and_one_that_names_the_interface(packet_filters: Rules):
    """The last one changes nothing for any packet."""
    masquerade.setup("iptables", ETH0, [FOUR])

    chain, said = ETH0.chain, r'-m comment --comment "name: \"net\" id: \"c1\""'
    expected = [
        f"-N {chain}",
        f"-A POSTROUTING -s 10.1.0.2/32 {said} -j {chain}",
        f"-A {chain} -d 10.1.0.0/24 {said} -j ACCEPT",
        f"-A {chain} ! -d 224.0.0.0/4 {said} -j MASQUERADE",
        f'-A {chain} -s 10.1.0.2/32 -m comment --comment "if: eth0"',
    ]
    assert expected == packet_filters()


def test_nftables_has_the_reference_s_rules(packet_filters: Rules):
    """Multicast is not masqueraded, and a comment tells whose a rule is."""
    masquerade.setup("nftables", ETH0, [FOUR, SIX])

    said = f'comment "{ETH0.digest}, net: net, if: eth0, id: c1"'
    assert [
        f"ip saddr 10.1.0.2 ip daddr != 10.1.0.0/24 masquerade {said}",
        f"ip6 saddr fd00:1::2 ip6 daddr != fd00:1::/64 masquerade {said}",
    ] == about(packet_filters, "masquerade comment")
    assert packet_filters()[-3:] == [
        "ip daddr 224.0.0.0/4 return",
        "ip6 daddr ff00::/8 return",
        "goto masq_checks",
    ]


@each_backend
def test_teardown_needs_no_address_and_leaves_others_alone(packet_filters: Rules, backend: str):
    """The link may be gone; the same pod in another network, and the address's new owner, are not."""
    for owner in (NEWER, ELSEWHERE):
        masquerade.setup(backend, owner, [FOUR, SIX])
    before = packet_filters()
    masquerade.setup(backend, ETH0, [FOUR, SIX])
    assert before != packet_filters()

    masquerade.teardown(ETH0)

    assert before == packet_filters()
    masquerade.teardown(ETH0)
    assert before == packet_filters()


@each_backend
@pytest.mark.parametrize(("first", "second"), [(ETH0, NET1), (NET1, ETH0)])
def test_two_attachments_of_a_pod_to_one_network_keep_each_other_s_rules(
    packet_filters: Rules, backend: str, first: Owner, second: Owner
):
    """The reference empties the chain of both, and fails; a repeated DEL must not take the other's."""
    addresses = {ETH0: [FOUR, SIX], NET1: [OTHER, interface_address_of("fd00:1::3/64")]}
    nothing: list[str] = []
    masquerade.setup(backend, second, addresses[second])
    alone = packet_filters()
    masquerade.setup(backend, first, addresses[first])

    for _ in range(2):
        masquerade.teardown(first)
        assert sorted(alone) == sorted(packet_filters())
        masquerade.check(second, addresses[second])
        with pytest.raises(CheckFailed, match=f"^{NOT_ALL}$"):
            masquerade.check(first, addresses[first])

    masquerade.teardown(second)
    assert nothing == [line for line in packet_filters() if "10." in line or ETH0.chain in line]


@each_backend
def test_an_address_of_two_attachments_is_masqueraded_until_both_are_gone(
    packet_filters: Rules, backend: str
):
    """A static address, and the network twice in a pod: undoing the second one took the first one's rule."""
    masquerade.setup(backend, ETH0, [FOUR])
    alone = packet_filters()
    masquerade.setup(backend, NET1, [FOUR])

    masquerade.teardown(NET1)

    assert sorted(alone) == sorted(packet_filters())
    masquerade.check(ETH0, [FOUR])


def test_no_network_of_a_pod_is_masqueraded(packet_filters: Rules):
    """The reference's second ACCEPT stands behind MASQUERADE, where nothing comes."""
    masquerade.setup("iptables", ETH0, [FOUR, OTHER])

    targets = [line.split(" -j ")[-1] for line in about(packet_filters, f"-A {ETH0.chain}")]
    assert ["ACCEPT", "ACCEPT", "MASQUERADE"] == targets[:3]


@each_backend
def test_setup_again_replaces_what_the_owner_had(packet_filters: Rules, backend: str):
    """An ADD whose DEL never came."""
    masquerade.setup(backend, ETH0, [OTHER])

    masquerade.setup(backend, ETH0, [FOUR])

    assert about(packet_filters, "10.1.0.2")
    assert not about(packet_filters, "10.2.0.")


def by_reference(owner: Owner, source: str, network: str) -> None:
    """Rules as the reference plugins make them, line by line."""
    said = ("-m", "comment", "--comment", owner.text)
    lines = [
        ("-N", owner.chain),
        ("-A", owner.chain, "-d", network, "-j", "ACCEPT", *said),
        ("-A", owner.chain, "!", "-d", "224.0.0.0/4", "-j", "MASQUERADE", *said),
        ("-A", "POSTROUTING", "-s", source, "-j", owner.chain, *said),
    ]
    for line in lines:
        subprocess.run(["iptables", "-w", "-t", "nat", *line], check=True)


def test_rules_that_do_not_tell_their_interface_are_the_pod_s(packet_filters: Rules):
    """The reference's, and those of its first versions, which had the whole network as source."""
    by_reference(ETH0, "10.1.0.2/24", "10.1.0.2/24")

    masquerade.teardown(ETH0)

    assert [] == packet_filters()


def test_a_chain_to_which_nothing_leads_is_removed(packet_filters: Rules):
    """What an ADD left that was killed half way."""
    subprocess.run(["iptables", "-w", "-t", "nat", "-N", ETH0.chain], check=True)

    masquerade.teardown(ETH0)

    assert [] == packet_filters()


@each_backend
def test_collect_keeps_what_is_listed_and_what_is_of_another_network(packet_filters: Rules, backend: str):
    """GC of a network that has one pod left, with one of its two interfaces."""
    lost, twin = Owner("net", "c3", "eth0"), Owner("net", "c2", "net1")
    for owner in (NEWER, ELSEWHERE, Owner("net2", "c3", "eth0")):
        masquerade.setup(backend, owner, [FOUR, SIX])
    before = packet_filters()
    for owner in (lost, twin):
        masquerade.setup(backend, owner, [OTHER])

    masquerade.collect("net", {("c2", "eth0"), ("c9", "eth0")})

    assert before == packet_filters()


def test_collect_knows_the_reference_s_rules_by_their_pod(packet_filters: Rules):
    """Nothing tells the interface: a pod that has one listed keeps them."""
    by_reference(ETH0, "10.1.0.2", "10.1.0.0/24")
    before = packet_filters()

    masquerade.collect("net", {("c1", "net1")})
    assert before == packet_filters()
    masquerade.collect("net", set())

    assert [] == packet_filters()


def test_collect_removes_a_chain_to_which_nothing_leads(packet_filters: Rules):
    """Half of a DEL."""
    by_reference(ETH0, "10.1.0.2", "10.1.0.0/24")
    subprocess.run(["iptables", "-w", "-t", "nat", "-F", "POSTROUTING"], check=True)

    masquerade.collect("net", set())

    assert [] == packet_filters()


def test_an_interface_s_name_cannot_break_out_of_its_quotes(packet_filters: Rules):
    """Any name without a slash and white space is one."""
    odd = Owner("net", "c1", """a"';\\b""")
    for backend in BACKENDS:
        masquerade.setup(backend, odd, [FOUR])
        masquerade.check(odd, [FOUR])

        masquerade.teardown(odd)

        with pytest.raises(CheckFailed, match=f"{NOT_ALL}$"):
            masquerade.check(odd, [FOUR])
    assert not about(packet_filters, "10.1.0.2")


def only(path: Path, *names: str) -> str:
    """A directory that has these programs and no others."""
    path.mkdir()
    for name in names:
        (path / name).symlink_to(program.find(name))
    return str(path)


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [(("iptables", "nft"), "iptables"), (("nft",), "nftables"), (("iptables",), "iptables")],
)
def test_iptables_is_chosen_unless_only_nft_works(
    packet_filters: Rules,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    programs: tuple[str, ...],
    chosen: str,
):
    """As the reference does."""
    monkeypatch.setenv("PATH", only(tmp_path / "bin", *programs), prepend=None)

    found = masquerade.choose("")

    monkeypatch.undo()
    assert chosen == found


@pytest.mark.parametrize(
    ("backend", "words"), [("", "iptables or nft"), ("iptables", "iptables"), ("nftables", "nft")]
)
def test_a_missing_program_is_named(
    packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, words: str
):
    """Before anything is done."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ProgramFailed, match=f"{words} is missing"):
        masquerade.choose(backend)


def test_ipv6_needs_ip6tables(packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The one is there, the other not."""
    monkeypatch.setenv("PATH", only(tmp_path / "bin", "iptables"))

    masquerade.require("iptables", [FOUR])
    masquerade.require("nftables", [SIX])
    with pytest.raises(ProgramFailed, match="ip6tables is missing"):
        masquerade.require("iptables", [SIX])


def test_teardown_where_no_program_is_has_nothing_to_do(
    packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A DEL must not fail for ever."""
    monkeypatch.setenv("PATH", str(tmp_path))

    masquerade.teardown(ETH0)
    masquerade.collect("net", set())


@pytest.mark.parametrize("name", ["iptables", "nft"])
def test_teardown_where_a_program_does_not_reach_the_kernel_goes_on_with_the_others(
    packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    """A kernel without the older backend, for one."""
    other = {"iptables": "nftables", "nft": "iptables"}[name]
    masquerade.setup(other, ETH0, [FOUR])
    directory = only(tmp_path / "bin", *{"iptables", "iptables-restore", "nft"} - {name})
    broken = Path(directory, name)
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", directory)

    masquerade.teardown(ETH0)

    monkeypatch.undo()
    assert not about(packet_filters, "10.1.0.2")


def test_teardown_tells_of_each_backend_that_refuses(packet_filters: Rules, monkeypatch: pytest.MonkeyPatch):
    """What is left must be known, and the others are still tried."""
    for backend in BACKENDS:
        masquerade.setup(backend, ETH0, [FOUR, SIX])
    run = program.run

    def refuse(command: list[str], given: str = "") -> str:
        if given:
            raise ProgramFailed(f"run {command[0]}: refused", 1)
        return run(command, given)

    monkeypatch.setattr(program, "run", refuse)
    with pytest.raises(Several) as caught:
        masquerade.teardown(ETH0)

    monkeypatch.undo()
    assert [f"run {each}: refused" for each in ("iptables-restore", "ip6tables-restore", "nft")] == [
        each.message for each in caught.value.errors
    ]
    masquerade.teardown(ETH0)
    assert not about(packet_filters, "10.1.0.2")


@pytest.fixture
def older_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """iptables is the one that does not use nftables (x_tables); the test skips where there is none."""
    binary = program.find("xtables-legacy-multi")
    if not binary:
        pytest.skip("no iptables-legacy")
    (tmp_path / "bin").mkdir()
    for name in ("iptables", "ip6tables"):
        for each in (name, f"{name}-restore"):
            (tmp_path / "bin" / each).symlink_to(binary)
    if subprocess.run([tmp_path / "bin" / "iptables", "-t", "nat", "-S"], capture_output=True).returncode:
        pytest.skip("kernel has no x_tables")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")


@pytest.mark.usefixtures("packet_filters", "older_iptables")
def test_the_older_iptables_does_the_same():
    """Nodes that were installed long ago."""

    def listed() -> list[str]:
        printed = [program.run([each, "-t", "nat", "-S"]) for each in ("iptables", "ip6tables")]
        return [line for text in printed for line in text.splitlines() if "CNI-" in line]

    assert "iptables" == masquerade.choose("")
    masquerade.setup("iptables", ETH0, [FOUR, SIX])
    alone = listed()
    masquerade.setup("iptables", NET1, [OTHER])
    masquerade.setup("iptables", NEWER, [FOUR])
    assert len(alone) + 3 + 5 == len(listed())

    masquerade.teardown(NET1)
    masquerade.collect("net", {("c1", "eth0")})

    assert sorted(alone) == sorted(listed())
    masquerade.check(ETH0, [FOUR, SIX])
    masquerade.teardown(ETH0)
    assert [] == listed()


@pytest.mark.parametrize("name", ["iptables", "nft"])
def test_teardown_tells_of_a_program_that_hangs(
    packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    """Its rules may be there: the next DEL has to look again."""
    directory = only(tmp_path / "bin", *{"iptables", "nft"} - {name})
    hanging = Path(directory, name)
    hanging.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", directory)
    monkeypatch.setattr(program, "DEADLINE_S", 0.2)

    with pytest.raises(ProgramFailed, match=rf"run {name} .*: no answer within 0.2 s"):
        masquerade.teardown(ETH0)


@pytest.mark.parametrize(
    ("name", "backend"), [("iptables", "iptables"), ("ip6tables", "iptables"), ("nft", "nftables")]
)
def test_teardown_tells_of_a_program_that_fails_where_the_kernel_has_rules_of_ours(
    packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, backend: str
):
    """Short of memory it lists nothing, like one that is not made for this kernel; the rules stay."""
    if backend == "iptables" and "nf_tables" not in program.run(["iptables", "--version"]):
        pytest.skip("iptables is that of x_tables, whose chains nobody else knows")
    masquerade.setup(backend, ETH0, [FOUR, SIX])
    path = os.environ["PATH"]
    failing = Path(script(tmp_path / "bin", "echo short of memory >&2; exit 1"))
    (failing / "nft").rename(failing / name)
    monkeypatch.setenv("PATH", f"{failing}:{path}")

    with pytest.raises(ProgramFailed, match="short of memory"):
        masquerade.teardown(ETH0)

    monkeypatch.setenv("PATH", path)
    masquerade.teardown(ETH0)
    assert not [each for each in packet_filters() if "if: " in each or ETH0.chain in each]


@each_backend
def test_what_could_not_be_seen_is_told_only_where_a_rule_is_missing(
    packet_filters: Rules, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """It may be there; and of a backend that nobody uses here nobody needs to know that it does not work."""
    masquerade.setup(backend, ETH0, [FOUR])
    used, other = ("iptables", "nft") if backend == "iptables" else ("nft", "iptables")
    failing = Path(script(tmp_path / "bin", "echo short of memory >&2; exit 1"))
    (failing / "nft").rename(failing / other)
    monkeypatch.setenv("PATH", str(failing), prepend=":")

    masquerade.check(ETH0, [FOUR])
    with pytest.raises(CheckFailed, match=f"{NOT_ALL}, {UNSEEN}: run {other} .*: short of memory"):
        masquerade.check(NET1, [OTHER])

    (failing / other).rename(failing / used)
    with pytest.raises(CheckFailed, match=f"{NOT_ALL}, {UNSEEN}: run {used} .*: short of memory"):
        masquerade.check(ETH0, [FOUR])


def test_teardown_tells_of_a_table_that_cannot_be_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """It is there, and so may be the rules."""
    listed = '{"nftables": [{"table": {"family": "inet", "name": "cni_plugins_masquerade"}}]}'
    text = f"""test "$3" = tables && echo '{listed}' && exit 0; echo busy >&2; exit 1"""
    monkeypatch.setenv("PATH", script(tmp_path / "bin", text))

    with pytest.raises(ProgramFailed, match="busy"):
        masquerade.teardown(ETH0)


@each_backend
def test_a_rule_that_somebody_removes_meanwhile_is_no_failure(
    packet_filters: Rules, monkeypatch: pytest.MonkeyPatch, backend: str
):
    """Two DELs of one pod: what was listed is gone when it is to be removed."""
    masquerade.setup(backend, ETH0, [FOUR])
    run = program.run

    def overtaken(command: list[str], given: str = "") -> str:
        if given:
            monkeypatch.setattr(program, "run", run)
            masquerade.teardown(ETH0)
        return run(command, given)

    monkeypatch.setattr(program, "run", overtaken)

    masquerade.teardown(ETH0)

    assert program.run is run
    assert not about(packet_filters, "10.1.0.2")


@each_backend
def test_what_is_refused_again_and_again_is_told(packet_filters: Rules, backend: str):
    """With the program's own words."""
    change = {
        "nftables": lambda: nftables.change("inet", "t", lambda table: "frobnicate"),
        "iptables": lambda: iptables.change(4, "CNI-", lambda nat: ["-A nowhere -j ACCEPT"]),
    }[backend]

    with pytest.raises(ProgramFailed, match=r"frobnicate|line"):
        change()


def script(path: Path, text: str) -> str:
    path.mkdir()
    (path / "nft").write_text(f"#!/bin/sh\n{text}\n")
    (path / "nft").chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exec sleep 60", "no answer within"),
        ("exit 7", "exit status 7"),
        ("echo '  no  rights' >&2; exit 1", "run nft -j list table inet t: no rights$"),
        ("echo frob", "expected its rules as JSON, got 'frob"),
    ],
)
def test_a_program_that_fails_is_told_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: str
):
    """One line, whatever it printed."""
    monkeypatch.setenv("PATH", f"{script(tmp_path / 'bin', text)}:/usr/bin:/bin")
    monkeypatch.setattr(program, "DEADLINE_S", 0.2 if "sleep" in text else 60)

    with pytest.raises(CNIError, match=words.replace("list table inet t", "list tables")):
        nftables.read("inet", "t")


def test_a_program_that_cannot_be_executed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A file with no interpreter."""
    directory = script(tmp_path / "bin", "")
    Path(directory, "nft").write_text("#!/nowhere/sh\n")
    monkeypatch.setenv("PATH", directory)

    with pytest.raises(ProgramFailed, match="run nft: No such file or directory"):
        program.run(["nft"])


def test_a_table_that_is_there_and_cannot_be_listed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """To take it for missing would leave its rules for ever."""
    listed = '{"nftables": [{"table": {"family": "inet", "name": "t"}}]}'
    text = f"""test "$3" = tables && echo '{listed}' && exit 0; echo busy >&2; exit 1"""
    monkeypatch.setenv("PATH", f"{script(tmp_path / 'bin', text)}:/usr/bin:/bin")

    with pytest.raises(ProgramFailed, match="run nft -j list table inet t: busy"):
        nftables.read("inet", "t")
