"""
What the runtime asks: the CNI_* variables and standard input, checked before anything runs.

Pure. One table says which variable each verb needs (CNI 1.1.0, "Parameters"); the codes and
the order of the checks are those of the reference skeleton, except that nothing has happened
yet when an error is raised.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meta_cni.cni.errors import BadEnvironment
from meta_cni.quick import quick

NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")  # CNI specification: names and container ids
IFNAMSIZ = 16  # <linux/if.h>, with the closing zero
REFUSED = re.compile("[/:% ]")
"""In the name of a link; of all white space, only this is printable for Python."""
KERNEL_SPACE = b"\xa0"  # lib/ctype.c calls it space, so dev_valid_name() refuses "\u00e0" (0xC3 0xA0)

NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
"""The variables each verb cannot do without; the verbs are the keys."""


@quick
@dataclass(frozen=True, slots=True)
class Request:
    """One call of a runtime; variables that its verb does not need are empty when absent."""

    command: str
    container_id: str
    netns: str
    interface: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    environment: Mapping[str, str]
    stdin: bytes

    @property
    def pod_namespace(self) -> str:
        """K8S_POD_NAMESPACE; empty when the runtime is not Kubernetes'."""
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod_name(self) -> str:
        """K8S_POD_NAME; podman sends the container's name here."""
        return self.args.get("K8S_POD_NAME", "")

    @property
    def pod_uid(self) -> str:
        """K8S_POD_UID; empty when the runtime does not tell."""
        return self.args.get("K8S_POD_UID", "")


def parse(environment: Mapping[str, str], stdin: bytes) -> Request:
    """Check the environment for its verb; raises BadEnvironment (code 4) naming every mistake."""
    command = environment.get("CNI_COMMAND", "")
    if command not in NEEDED:
        raise BadEnvironment(f"unknown CNI_COMMAND {command!r}: expected one of {', '.join(NEEDED)}")
    args, args_problems = _read_args(environment.get("CNI_ARGS", ""))
    problems = (*_environment_problems(environment, NEEDED[command]), *args_problems)
    if problems:
        raise BadEnvironment("; ".join(problems))
    return Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        interface=environment.get("CNI_IFNAME", ""),
        args=args,
        path=tuple(part for part in environment.get("CNI_PATH", "").split(":") if part),
        environment=environment,
        stdin=stdin,
    )


def _environment_problems(environment: Mapping[str, str], needed: tuple[str, ...]) -> Iterator[str]:
    missing = [name for name in needed if not environment.get(name)]
    if missing:
        yield f"required env variables [{','.join(missing)}] missing"
    container_id = environment.get("CNI_CONTAINERID", "")
    if container_id and not NAME.match(container_id):
        yield (
            f"invalid characters in CNI_CONTAINERID {container_id!r}: "
            "expected a letter or digit, then letters, digits, '_', '.' or '-'"
        )
    interface = environment.get("CNI_IFNAME", "")
    if interface and (problem := interface_name_problem(interface)):
        yield f"CNI_IFNAME {interface!r}: {problem}"


def parse_args(text: str) -> Mapping[str, str]:
    """
    CNI_ARGS: KEY=VALUE joined by ';'. A value may contain '='; an empty part is passed over.

    The reference refuses both, and so loses pods over a trailing ';' (containernetworking/cni
    skel); unknown keys are kept, whatever IgnoreUnknown says, because delegates may know them.
    """
    pairs, problems = _read_args(text)
    if problems:
        raise BadEnvironment("; ".join(problems))
    return pairs


def _read_args(text: str) -> tuple[dict[str, str], list[str]]:
    """The pairs of CNI_ARGS, and what is wrong with the parts that are none."""
    pairs: dict[str, str] = {}
    problems: list[str] = []
    for part in text.split(";"):
        key, equals, value = part.partition("=")
        if equals and (name := key.strip()):
            pairs[name] = value
        elif part.strip():
            problems.append(f"CNI_ARGS: {part!r}: expected KEY=VALUE pairs joined by ';'")
    return pairs, problems


def format_args(pairs: Mapping[str, str]) -> str:
    """CNI_ARGS for a delegate; every key once."""
    return ";".join(f"{key}={value}" for key, value in pairs.items())


def interface_name_problem(name: str) -> str:
    """
    What is wrong with the name of a link, for the kernel and for CNI; empty when it is right.

    '%' is refused because the kernel takes it for a pattern: a link "a%d" is made as "a0".
    """
    if not name:
        return "expected a name of 1 to 15 bytes"
    encoded = name.encode(errors="replace")  # a byte that was no UTF-8 is a lone surrogate here
    if len(encoded) >= IFNAMSIZ:
        return f"expected at most {IFNAMSIZ - 1} bytes, got {len(encoded)}"
    if name in (".", ".."):
        return "expected a name other than '.' and '..'"
    if REFUSED.search(name) or not name.isprintable():
        return "expected a name without '/', ':', '%', white space or control characters"
    if KERNEL_SPACE in encoded:
        return "expected a name without the byte 0xA0, white space for the kernel; plain ASCII is safe"
    return ""
