"""
The networks annotation: what a pod asks for.

Pure. Both forms of the NPWG standard (Kubernetes Network Custom Resource Definition De-facto
Standard v1.3, section 4) and the keys Multus adds. Every element is read to its end, so that
one error tells every mistake of the annotation.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_interface

from meta_cni.cni.config import Section, decode
from meta_cni.cni.errors import BadConfig, CNIError, DecodeFailure, join
from meta_cni.cni.hardware import ETHERNET, GUID, hardware_address, is_of_one_station
from meta_cni.cni.request import interface_name_problem
from meta_cni.cni.result import Address

NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT_NETWORK = "v1.multus-cni.io/default-network"

LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
PROTOCOLS = ("TCP", "UDP", "SCTP")
RATES = (("ingressRate", "ingressBurst"), ("egressRate", "egressBurst"))
KEYS = (
    *("name", "namespace", "interface", "interfaceRequest", "ips", "mac", "infiniband-guid", "cni-args"),
    *("portMappings", "bandwidth", "default-route", "deviceID", "ipam-claim-reference"),
)


@dataclass(frozen=True, slots=True)
class Selection:
    """One selected network and what is asked of it; empty values were not asked for."""

    name: str
    namespace: str
    where: str
    interface: str = ""
    ips: tuple[str, ...] = ()
    mac: str = ""
    infiniband_guid: str = ""
    port_mappings: tuple[Mapping[str, object], ...] = ()
    bandwidth: Mapping[str, int] = field(default_factory=dict)
    cni_args: Mapping[str, object] = field(default_factory=dict)
    default_route: tuple[Address, ...] | None = None
    """None when not asked for; empty: the default route that the network itself brings."""
    device_id: str = ""
    ipam_claim: str = ""

    @property
    def reference(self) -> str:
        """namespace/name, as in network-status."""
        return f"{self.namespace}/{self.name}"

    @property
    def requests(self) -> Mapping[str, object]:
        """The capability arguments this element makes: capability name -> value."""
        asked = {
            "ips": list(self.ips),
            "mac": self.mac,
            "infinibandGUID": self.infiniband_guid,
            "portMappings": [dict(mapping) for mapping in self.port_mappings],
            "bandwidth": dict(self.bandwidth),
        }
        return {key: value for key, value in asked.items() if value}


def parse(text: str, default_namespace: str, where: str) -> tuple[Selection, ...]:
    """
    Read an annotation in either form; an empty one selects nothing.

    Raises BadConfig or DecodeFailure; several mistakes come as one error that tells all.
    """
    if not text.strip():
        return ()
    if any(character in text for character in '[{"'):
        return _parse_json(text, default_namespace, where)
    return _collect(
        [
            partial(_parse_short, item, default_namespace, f"{where}[{index}]")
            for index, item in enumerate(part.strip() for part in text.split(","))
        ]
    )


def unknown_keys(text: str) -> tuple[str, ...]:
    """Keys of the JSON form that nobody reads: most likely typing errors. Dotted ones are somebody's own."""
    try:
        elements = json.loads(text)
    except ValueError:
        return ()
    if not isinstance(elements, list):
        return ()
    keys = (key for element in elements if isinstance(element, dict) for key in element)
    return tuple(key for key in keys if key not in KEYS and "." not in key)


def _collect(parsers: list[Callable[[], Selection]]) -> tuple[Selection, ...]:
    """Run every parser, and raise all their errors as one."""
    selections: list[Selection] = []
    errors: list[CNIError] = []
    for parser in parsers:
        try:
            selections.append(parser())
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)
    return tuple(selections)


def _parse_short(item: str, default_namespace: str, where: str) -> Selection:
    """[namespace/]name[@interface]"""
    network, *interface = item.split("@")
    *namespace, name = network.split("/")
    if len(namespace) > 1 or len(interface) > 1 or not name or "" in (*namespace, *interface):
        raise BadConfig(f"{where}: {item!r}: expected [namespace/]name[@interface]")
    problems: list[str] = []
    if not SUBDOMAIN.match(name):
        problems.append(f"name {name!r}: expected a DNS-1123 subdomain")
    for each in namespace:
        if not LABEL.match(each):
            problems.append(f"namespace {each!r}: expected a DNS-1123 label")
    for each in interface:
        if problem := interface_name_problem(each):
            problems.append(f"interface {each!r}: {problem}")
    if problems:
        raise join([BadConfig(f"{where}: {each}") for each in problems])
    return Selection(
        name=name,
        namespace=namespace[0] if namespace else default_namespace,
        interface=interface[0] if interface else "",
        where=where,
    )


def _parse_json(text: str, default_namespace: str, where: str) -> tuple[Selection, ...]:
    elements = decode(text, where)
    if not isinstance(elements, list):
        raise DecodeFailure(f"{where}: expected a JSON list of objects, even for one network")
    return _collect(
        [
            partial(_parse_element, element, default_namespace, f"{where}[{index}]")
            for index, element in enumerate(elements)
        ]
    )


def _parse_element(element: object, default_namespace: str, where: str) -> Selection:
    """One object of the JSON form; every key is read before an error is raised."""
    if not isinstance(element, dict):
        raise BadConfig(f"{where}: expected an object with at least a name")
    section = Section(where, element)
    values: dict[str, object] = {}
    errors: list[CNIError] = []
    for attribute, read in _READERS.items():
        try:
            values[attribute] = read(section)
        except CNIError as error:
            errors.append(error)
    if values.get("ips") and values.get("ipam_claim"):
        errors.append(BadConfig(f"{where}: ips and ipam-claim-reference: expected only one of them"))
    if errors:
        raise join(errors)
    values["namespace"] = values["namespace"] or default_namespace
    return Selection(where=where, **values)  # type: ignore[arg-type]


def _name(section: Section) -> str:
    name = section.string("name")
    if not SUBDOMAIN.match(name) or len(name) > 253:
        raise section.wrong("name", "the name of a NetworkAttachmentDefinition (a DNS-1123 subdomain)")
    return name


def _namespace(section: Section) -> str:
    namespace = section.string("namespace")
    if namespace and (not LABEL.match(namespace) or len(namespace) > 63):
        raise section.wrong("namespace", "the name of a namespace (a DNS-1123 label)")
    return namespace


def _interface(section: Section) -> str:
    key = "interface" if section.string("interface") else "interfaceRequest"
    name = section.string(key)
    if name and (problem := interface_name_problem(name)):
        raise BadConfig(f"{section.where}: {key} {name!r}: {problem}")
    return name


def _ips(section: Section) -> tuple[str, ...]:
    for text in section.strings("ips"):
        try:
            ip_interface(text)
        except ValueError:
            raise BadConfig(
                f"{section.where}: ips {text!r}: expected an IP address, with or without prefix length"
            ) from None
    return section.strings("ips")


def _mac(section: Section) -> str:
    text = section.string("mac")
    address = hardware_address(text, ETHERNET)
    if text and (address is None or not is_of_one_station(address)):
        raise section.wrong("mac", "a unicast Ethernet address like 02:00:5e:00:53:01")
    return address or ""


def _guid(section: Section) -> str:
    text = section.string("infiniband-guid")
    if text and hardware_address(text, GUID) is None:
        raise section.wrong("infiniband-guid", "an 8-byte GUID like c2:11:22:33:44:55:66:77")
    return hardware_address(text, GUID) or ""


def _port_mappings(section: Section) -> tuple[Mapping[str, object], ...]:
    mappings = []
    for each in section.sections("portMappings"):
        protocol = (each.string("protocol") or "TCP").upper()
        if protocol not in PROTOCOLS:
            raise each.wrong("protocol", f"one of {', '.join(PROTOCOLS)}")
        mapping: dict[str, object] = {
            "hostPort": each.integer("hostPort", -1, minimum=1, maximum=65535),
            "containerPort": each.integer("containerPort", -1, minimum=1, maximum=65535),
            "protocol": protocol.lower(),
        }
        for key in ("hostPort", "containerPort"):
            if mapping[key] == -1:
                raise each.wrong(key, "a port from 1 to 65535")
        if (host_ip := each.address("hostIP")) is not None:
            mapping["hostIP"] = str(host_ip)
        mappings.append(mapping)
    return tuple(mappings)


def _bandwidth(section: Section) -> Mapping[str, int]:
    limits = section.section("bandwidth")
    if limits is None:
        return {}
    found: dict[str, int] = {}
    for rate, burst in RATES:
        for key in (rate, burst):
            if limits.value(key) is not None:
                found[key] = limits.integer(key, minimum=1, maximum=2**63 - 1)
        if burst in found and rate not in found:
            raise limits.wrong(rate, f"bits per second, because {burst} is given")
    if not found:
        raise section.wrong("bandwidth", "at least one of ingressRate, egressRate")
    return found


def _cni_args(section: Section) -> Mapping[str, object]:
    arguments = section.section("cni-args")
    return arguments.values if arguments else {}


def _default_route(section: Section) -> tuple[Address, ...] | None:
    if section.value("default-route") is None:
        return None
    try:
        return tuple(ip_address(text) for text in section.strings("default-route"))
    except ValueError:
        raise section.wrong("default-route", "a list of gateway addresses without prefix") from None


_READERS: Mapping[str, Callable[[Section], object]] = {
    "name": _name,
    "namespace": _namespace,
    "interface": _interface,
    "ips": _ips,
    "mac": _mac,
    "infiniband_guid": _guid,
    "port_mappings": _port_mappings,
    "bandwidth": _bandwidth,
    "cni_args": _cni_args,
    "default_route": _default_route,
    "device_id": lambda section: section.string("deviceID"),
    "ipam_claim": lambda section: section.string("ipam-claim-reference"),
}
