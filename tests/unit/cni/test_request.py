"""The environment of a call: verbs by variables, the grammar of CNI_ARGS, names of links."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni.errors import BadEnvironment
from meta_cni.cni.request import NEEDED, Request, format_args, interface_name_problem, parse, parse_args

FULL = {
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=upf-0;K8S_POD_UID=1-2-3",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}

# CNI 1.1.0, "CNI operations"; R required, o optional
TABLE = """
        CONTAINERID NETNS IFNAME ARGS PATH
ADD     R           R     R      o    R
CHECK   R           R     R      o    R
DEL     R           o     R      o    R
GC      o           o     o      o    R
STATUS  o           o     o      o    R
VERSION o           o     o      o    o
"""
_, HEADER, *LINES = TABLE.rstrip().split("\n")
CELLS = [
    (verb, f"CNI_{variable}", mark == "R")
    for verb, *marks in map(str.split, LINES)
    for variable, mark in zip(HEADER.split(), marks, strict=True)
]


def test_every_verb_is_in_the_table():
    """A new verb needs a row."""
    assert list(NEEDED) == [line.split()[0] for line in LINES]


@pytest.mark.parametrize("absent", [None, ""])
@pytest.mark.parametrize(("verb", "variable", "is_required"), CELLS)
def test_each_verb_has_its_required_variables(
    verb: str, variable: str, is_required: bool, absent: str | None
):
    """An empty variable is as good as none."""
    environment = {"CNI_COMMAND": verb, **FULL}
    if absent is None:
        del environment[variable]
    else:
        environment[variable] = absent

    if not is_required:
        assert verb == parse(environment, b"").command
        return
    with pytest.raises(BadEnvironment) as caught:
        parse(environment, b"")

    assert f"required env variables [{variable}] missing" == caught.value.message


@pytest.mark.parametrize("verb", NEEDED)
def test_missing_variables_are_named_at_once(verb: str):
    """Whoever calls by hand needs one try, not four."""
    if not NEEDED[verb]:
        assert Request(verb, "", "", "", {}, (), {"CNI_COMMAND": verb}, b"") == parse(
            {"CNI_COMMAND": verb}, b""
        )
        return
    with pytest.raises(BadEnvironment) as caught:
        parse({"CNI_COMMAND": verb}, b"")

    assert f"required env variables [{','.join(NEEDED[verb])}] missing" == caught.value.message


def test_a_request_is_what_the_runtime_sent():
    """Also what we do not know, such as a trace context: delegates get all of it."""
    environment = {"CNI_COMMAND": "ADD", **FULL, "TRACEPARENT": "00-1-2-01"}

    request = parse(environment, b"{}")

    expected = Request(
        command="ADD",
        container_id="c0ffee",
        netns="/run/netns/pod",
        interface="eth0",
        args={
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": "telco",
            "K8S_POD_NAME": "upf-0",
            "K8S_POD_UID": "1-2-3",
        },
        path=("/opt/cni/bin", "/usr/lib/cni"),
        environment=environment,
        stdin=b"{}",
    )
    assert expected == request
    assert ("telco", "upf-0", "1-2-3") == (request.pod_namespace, request.pod_name, request.pod_uid)


def test_without_kubernetes_there_is_no_pod():
    """podman and cnitool send no K8S_ keys."""
    request = parse({"CNI_COMMAND": "ADD", **FULL, "CNI_ARGS": ""}, b"")

    assert ("", "", "") == (request.pod_namespace, request.pod_name, request.pod_uid)


def test_empty_parts_of_the_path_are_passed_over():
    """An empty one would mean the current directory."""
    request = parse({"CNI_COMMAND": "GC", "CNI_PATH": ":/opt/cni/bin::"}, b"")

    assert ("/opt/cni/bin",) == request.path


def test_every_mistake_is_named_at_once():
    """As the docstring promises."""
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "a b",
        "CNI_IFNAME": "a/b",
        "CNI_ARGS": "x;=y;Z=1",
    }

    with pytest.raises(BadEnvironment) as caught:
        parse(environment, b"")

    fragments = [
        "[CNI_NETNS,CNI_PATH] missing",
        "CNI_CONTAINERID 'a b'",
        "CNI_IFNAME 'a/b'",
        "CNI_ARGS: 'x'",
        "'=y'",
    ]
    assert fragments == [fragment for fragment in fragments if fragment in caught.value.message]


CONTAINER_IDS = [("0", True), ("a.b_c-D9", True), ("x" * 300, True)]
CONTAINER_IDS += [(text, False) for text in (".a", "-a", "_a", "a b", "a/b", "a\n", "é", "a;b", "\udcff")]


@pytest.mark.parametrize(
    ("text", "is_right"), CONTAINER_IDS, ids=[ascii(row[0])[:20] for row in CONTAINER_IDS]
)
def test_container_ids_are_names(text: str, is_right: bool):
    """They become file names; a final newline, which `$` would let pass, is none."""
    environment = {"CNI_COMMAND": "ADD", **FULL, "CNI_CONTAINERID": text}

    if is_right:
        assert text == parse(environment, b"").container_id
        return
    with pytest.raises(BadEnvironment, match="invalid characters in CNI_CONTAINERID"):
        parse(environment, b"")


@pytest.mark.parametrize("verb", NEEDED)
def test_what_is_optional_is_still_checked(verb: str):
    """GC and STATUS need no interface, but a wrong one is a mistake of the runtime's."""
    with pytest.raises(BadEnvironment, match="CNI_IFNAME 'a b': expected a name without"):
        parse({"CNI_COMMAND": verb, **FULL, "CNI_IFNAME": "a b"}, b"")


ARGS = [
    ("", {}),
    (";", {}),
    (" ; ;", {}),
    ("A=1", {"A": "1"}),
    ("A=1;", {"A": "1"}),
    (";A=1;;B=2", {"A": "1", "B": "2"}),
    ("A=", {"A": ""}),
    ("A=b=c", {"A": "b=c"}),
    (" A =1", {"A": "1"}),
    ("A= 1 ", {"A": " 1 "}),
    ("A=1;A=2", {"A": "2"}),
    ("IgnoreUnknown=0;NEW=x", {"IgnoreUnknown": "0", "NEW": "x"}),
    (
        "MAC=02:00:00:00:00:01;IP=10.1.2.3/24,fd00::3/64",
        {"MAC": "02:00:00:00:00:01", "IP": "10.1.2.3/24,fd00::3/64"},
    ),
]


@pytest.mark.parametrize(("text", "pairs"), ARGS)
def test_args_are_read(text: str, pairs: dict[str, str]):
    """More than the reference takes: a trailing ';' has cost pods."""
    assert pairs == parse_args(text)


@pytest.mark.parametrize("text", ["A", "A=1;B", "=1", " =1", "A=1,B=2;C"])
def test_args_that_are_no_pairs_are_refused(text: str):
    """A lost key is a pod without its annotation."""
    with pytest.raises(BadEnvironment, match="expected KEY=VALUE pairs joined by ';'") as caught:
        parse_args(text)

    assert f"CNI_ARGS: {text.rsplit(';', maxsplit=1)[-1]!r}" in caught.value.message


arg_keys = st.text(st.characters(blacklist_characters=";="), min_size=1).filter(
    lambda key: key == key.strip()
)
arg_values = st.text(st.characters(blacklist_characters=";"))


@given(st.dictionaries(arg_keys, arg_values))
def test_args_are_written_as_they_are_read(pairs: dict[str, str]):
    """A delegate sees what the runtime said."""
    assert pairs == parse_args(format_args(pairs))


NAMES = [
    ("eth0", ""),
    ("eth0.100", ""),
    ("fifteen-bytes-x", ""),
    ("é", ""),
    ("...", ""),
    ("@", ""),
    ("", "expected a name of 1 to 15 bytes"),
    ("sixteen-bytes-xy", "expected at most 15 bytes, got 16"),
    ("éééééééé", "expected at most 15 bytes, got 16"),
    (".", "expected a name other than '.' and '..'"),
    ("..", "expected a name other than '.' and '..'"),
    *(
        (name, "expected a name without '/', ':'")
        for name in ("a/b", "a:b", "a%d", "a%", "a b", "a\t", "a\n", "\x7f")
    ),
    ("a\u2003b", "expected a name without '/', ':'"),
    ("a\udcff", "expected a name without '/', ':'"),
    ("a\ud800", "expected a name without '/', ':'"),
    ("à", "expected a name without the byte 0xA0"),
]


@pytest.mark.parametrize(("name", "problem"), NAMES, ids=[ascii(row[0]) for row in NAMES])
def test_names_of_links_are_those_the_kernel_takes(name: str, problem: str):
    """Found before anything is made; the kernel would say Invalid argument, or make "a%d" as "a0"."""
    found = interface_name_problem(name)

    assert found.startswith(problem)
    assert bool(problem) == bool(found)


@given(st.text(st.characters()))
def test_any_name_is_judged(name: str):
    """Lone surrogates included: JSON can write them, and no UTF-8 is one from the environment."""
    problem = interface_name_problem(name)

    assert problem.startswith("expected ") or 1 <= len(name.encode()) <= 15


@given(
    st.dictionaries(
        st.sampled_from(["CNI_COMMAND", *FULL]), st.sampled_from([*NEEDED]) | st.text(st.characters())
    ),
)
def test_any_environment_is_a_request_or_code_4(environment: dict[str, str]):
    """Nothing a runtime sets may look like a bug of ours."""
    with suppress(BadEnvironment):
        assert environment.get("CNI_COMMAND") == parse(environment, b"").command
