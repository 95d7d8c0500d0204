"""
Which proxy leads to a server, by the rules of kubectl and of every other program in Go.

Of the environment (golang.org/x/net/http/httpproxy): HTTPS_PROXY counts for https and HTTP_PROXY for http, in
lower case where the upper case is not set. NO_PROXY takes hosts out: by address, by prefix, by a domain with
all below it, each with or without a port. A host on loopback is never behind a proxy. What a kubeconfig has
as proxy-url counts whatever the environment says. Pure.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from meta_cni.cni.errors import BadConfig

PORTS = {"https": "443", "http": "80"}
EXPECTED = "expected http://[USER:PASSWORD@]HOST:PORT or https://..."
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that is asked to CONNECT."""

    url: str
    """Without the user, as it may be told to everybody."""
    user: str = field(default="", repr=False)
    """With the password, USER:PASSWORD."""

    @property
    def headers(self) -> dict[str, str]:
        """What is said to the proxy alone (RFC 7617)."""
        if not self.user:
            return {}
        return {"proxy-authorization": f"Basic {base64.b64encode(self.user.encode()).decode()}"}


def parse(text: str, where: str) -> Proxy:
    """A proxy's URL; raises BadConfig, and does not tell its password."""
    head, at, rest = text.rpartition("@")
    scheme = (head or rest).partition("://")[0]
    shown = f"{scheme}://{rest}" if at else text
    try:
        parts = urlsplit(text)
        is_right = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadConfig(f"{where}: proxy {shown!r}: {EXPECTED}")
    user = unquote(parts.netloc.rpartition("@")[0])
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", user)


def of_environment(server: str, environment: Mapping[str, str]) -> Proxy | None:
    """The one that leads to a server's URL; None for a server that is asked directly. Raises BadConfig."""
    parts = urlsplit(server)
    name, text = _set(environment, f"{parts.scheme}_proxy")
    if not text or is_excluded(server, _set(environment, "no_proxy")[1]):
        return None
    return parse(text if "://" in text else f"http://{text}", f"environment {name}")


def _set(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable in capitals, else as it is: its name and value."""
    for each in (name.upper(), name):
        if environment.get(each):
            return each, environment[each].strip()
    return name, ""


def is_excluded(server: str, no_proxy: str) -> bool:
    """Whether a server's URL is asked directly, by loopback or by NO_PROXY."""
    parts = urlsplit(server)
    host = parts.hostname or ""
    port = str(parts.port) if parts.port else PORTS[parts.scheme]
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = (each.strip().lower() for each in no_proxy.split(","))
    return any(_excludes(each, host, address, port) for each in entries if each)


def _excludes(entry: str, host: str, address: Address | None, port: str) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return address is not None and _is_within(address, entry)
    name, entry_port = _split(entry)
    if not name or entry_port not in ("", port):
        return False
    wanted = _address(name)
    if wanted is not None or address is not None:
        return wanted == address
    domain = name.removeprefix("*")
    return host.endswith(domain) if domain.startswith(".") else f".{host}".endswith(f".{domain}")


def _split(entry: str) -> tuple[str, str]:
    """A host and its port, or none; an IPv6 address has one only behind brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") != 1:
        return entry, ""
    name, _, port = entry.partition(":")
    return name, port


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_within(address: Address, prefix: str) -> bool:
    try:
        return address in ip_network(prefix, strict=False)
    except ValueError:
        return False
