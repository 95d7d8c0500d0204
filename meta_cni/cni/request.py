"""
What the runtime asks: the CNI_* variables and standard input, checked before anything runs.

Pure. One table says which variable each verb needs (CNI 1.1.0, "Parameters"); the codes and
the order of the checks are those of the reference skeleton, except that nothing has happened
yet when an error is raised.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from meta_cni.cni.errors import BadEnvironment

NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$")  # CNI specification: names and container ids
IFNAMSIZ = 16  # <linux/if.h>, with the closing zero

NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
"""The variables each verb cannot do without; the verbs are the keys."""


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
    missing = [name for name in NEEDED[command] if not environment.get(name)]
    if missing:
        raise BadEnvironment(f"required env variables [{','.join(missing)}] missing")
    container_id = environment.get("CNI_CONTAINERID", "")
    if container_id and not NAME.match(container_id):
        raise BadEnvironment(
            f"invalid characters in CNI_CONTAINERID {container_id!r}: "
            "expected a letter or digit, then letters, digits, '_', '.' or '-'"
        )
    interface = environment.get("CNI_IFNAME", "")
    if interface and (problem := interface_name_problem(interface)):
        raise BadEnvironment(f"CNI_IFNAME {interface!r}: {problem}")
    return Request(
        command=command,
        container_id=container_id,
        netns=environment.get("CNI_NETNS", ""),
        interface=interface,
        args=parse_args(environment.get("CNI_ARGS", "")),
        path=tuple(part for part in environment.get("CNI_PATH", "").split(":") if part),
        environment=environment,
        stdin=stdin,
    )


def parse_args(text: str) -> Mapping[str, str]:
    """
    CNI_ARGS: KEY=VALUE joined by ';'. A value may contain '='; an empty part is passed over.

    The reference refuses both, and so loses pods over a trailing ';' (containernetworking/cni
    skel); unknown keys are kept, whatever IgnoreUnknown says, because delegates may know them.
    """
    pairs: dict[str, str] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise BadEnvironment(f"CNI_ARGS: {part!r}: expected KEY=VALUE pairs joined by ';'")
        pairs[key.strip()] = value
    return pairs


def format_args(pairs: Mapping[str, str]) -> str:
    """CNI_ARGS for a delegate; every key once."""
    return ";".join(f"{key}={value}" for key, value in pairs.items())


def interface_name_problem(name: str) -> str:
    """What is wrong with the name of a link, for the kernel and for CNI; empty when it is right."""
    if not name:
        return "expected a name of 1 to 15 bytes"
    if len(name.encode()) >= IFNAMSIZ:
        return f"expected at most {IFNAMSIZ - 1} bytes, got {len(name.encode())}"
    if name in (".", ".."):
        return "expected a name other than '.' and '..'"
    if any(character in "/:" or character.isspace() or not character.isprintable() for character in name):
        return "expected a name without '/', ':', white space or control characters"
    return ""
