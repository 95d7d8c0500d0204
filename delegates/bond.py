"""
bond: several links that are one (k8snetworkplumbingwg/bond-cni).

The members are in the pod (`linksInContainer`), made by networks that are attached before; else
they are the node's, and are moved into the pod and back. A moved link's alias keeps whose it is
and how it was. Unlike the reference: CHECK looks, members get back MAC, MTU and state, one that is
gone or a vanished namespace hinders no DEL, the addresses of a failing ADD are given back, DNS of
the IPAM is kept, and a moved member is back on the node when an ADD fails.
"""

import errno
import re
from contextlib import suppress
from dataclasses import replace
from functools import partial

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import AlreadyAttached, BadConfig, CheckFailed, KernelError, NetnsGone
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Valid, attach, undo, unimplemented
from meta_cni.linux import bond, configure, link, netns, sriov, upper
from meta_cni.linux.bond import MODES, POLICIES, Options
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Socket

KEYS = (
    *("mode", "miimon", "mtu", "failOverMac", "linksInContainer", "links"),
    *("allSlavesActive", "tlbDynamicLb", "xmitHashPolicy"),
)
FEWEST = 2
"""Members of a bond."""
DEFAULT_MTU = 1500
LEAST_MTU = 68  # RFC 791
BALANCING = ("balance-tlb", "balance-alb")
MONITORED = ("802.3ad", *BALANCING)
"""Modes that need to know their members' carriers: 0 is the default then, as for the module's parameters."""
DEFAULT_MONITOR_MS = 100  # BOND_DEFAULT_MIIMON, <net/bonding.h>
MOVED = re.compile(r"bond (?P<bond>\S+) (?P<state>up|down) ?(?P<alias>.*)", re.DOTALL)
"""The alias of a link of the node while it is in the pod."""


class Bond:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        section = config.section
        self.config = config
        self.attachment = attachment
        self.options = _options(section)
        self.mtu = section.integer("mtu", minimum=LEAST_MTU, maximum=65535) if section.value("mtu") else 0
        self.is_in_pod = section.boolean("linksInContainer")
        self.links = _links(section)
        if attachment.interface in self.links:
            raise section.wrong("links", f"other links than the bond {attachment.interface} itself")

    def add(self, previous: Result | None) -> Result:
        """Make the bond of its members, with its addresses; what failed is undone by delete()."""
        self._refuse_second()
        self._validate(self._find_members())
        addresses = self.attachment.addresses.acquire()
        if not self.is_in_pod:
            self._move_in()
        return attach(self.config, self.attachment, self._create(), addresses)

    def _refuse_second(self) -> None:
        """An ADD before has made the bond; what fails now must not take it away."""
        name = self.attachment.interface
        found = link.find(self.attachment.namespaces.pod, name)
        if found is not None and found.kind == "bond":
            raise AlreadyAttached(f"{self.config.where}: {name} is a bond already: expected a DEL first")
        if found is not None:
            raise KernelError(f"create bond {name}", errno.EEXIST)

    def _find_members(self) -> list[Link]:
        """All of them, where they are before; raises BadConfig."""
        namespaces = self.attachment.namespaces
        side, place = (namespaces.pod, "in the pod") if self.is_in_pod else (namespaces.host, "on the node")
        found = [link.find(side, each) for each in self.links]
        missing = [name for name, each in zip(self.links, found, strict=True) if each is None]
        if missing:
            raise BadConfig(f"{self.config.where}: links: {missing[0]!r}: expected a link {place}")
        return [each for each in found if each is not None]

    def _validate(self, members: list[Link]) -> None:
        """The kernel gives every member the bond's MTU, and takes a member from another master."""
        for each in members:
            self._validate_mtu(each)
            if each.master:
                raise BadConfig(
                    f"{self.config.where}: links: {each.name} has a master already: expected one without"
                )

    def _validate_mtu(self, member: Link) -> None:
        """What is longer than the member takes, or the physical function that it is of, would be lost."""
        mtu = self.mtu or DEFAULT_MTU
        parent = sriov.parent_link_of(member.device)
        physical = link.find(self.attachment.namespaces.host, parent) if parent else None
        for each in (member, physical):
            if each is not None and mtu > each.mtu:
                whose = "" if each is member else f", whose function {member.name} is"
                raise BadConfig(
                    f"{self.config.where}: invalid MTU {mtu}, bigger than that of link {each.name}{whose}: "
                    f"expected at most {each.mtu}"
                )

    def _move_in(self) -> None:
        """From the node, under their names."""
        namespaces = self.attachment.namespaces
        for name in self.links:
            if link.find(namespaces.pod, name) is not None:
                raise KernelError(f"move {name} into the pod", errno.EEXIST)
            found = link.require(namespaces.host, name, "link")
            state = "up" if found.is_up else "down"
            alias = f"bond {self.attachment.interface} {state} {found.alias}"
            moving = link.move(found.index, namespaces.pod_fd, name, alias=alias)
            namespaces.host.request([replace(moving, action=f"move {name} into the pod")])

    def _create(self) -> Link:
        pod, name = self.attachment.namespaces.pod, self.attachment.interface
        pod.request([bond.create(name, self.options, mtu=self.mtu, group=self.attachment.group)])
        made = link.require(pod, name, "bond")
        members = [link.require(pod, each, "link") for each in self.links]
        for each, mac in bond.duplicates(members).items():
            pod.request([link.set_link(each.index, mac=mac)])
        for each in members:
            bond.enslave(pod, each, made)
        return made

    def check(self, previous: Result) -> None:
        """It is a bond as configured, of its members, with the result's MAC, addresses and routes."""
        pod = self.attachment.namespaces.pod
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        if found.kind != "bond":
            raise CheckFailed(f"check {found.name}: it is {found.kind or 'a device'}: expected bond")
        options = bond.options_of(found, self.options)
        if options != self.options:
            raise CheckFailed(f"check {found.name}: its options are {options}: expected {self.options}")
        for name in self.links:
            member = link.find(pod, name)
            if member is None or member.master != found.index:
                raise CheckFailed(f"check {found.name}: {name} is no member of it")
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the bond, give the members back as they were, and the addresses when no bond has them."""
        undo(self._delete, self._return_members)

    def _delete(self) -> None:
        self._delete_bond()
        self.attachment.addresses.release()

    def _delete_bond(self) -> None:
        """What has the name may be another's: a link that was there before an ADD that failed."""
        with suppress(NetnsGone):
            pod, name = self.attachment.namespaces.pod, self.attachment.interface
            found = link.find(pod, name)
            if found is not None and found.kind == "bond":
                link.remove(pod, name)

    def _return_members(self) -> None:
        """Released by the kernel with MAC and MTU of their own, but for a MAC that was changed before."""
        namespaces = self.attachment.namespaces
        try:
            pod = namespaces.pod
        except NetnsGone:
            self._restore_returned()
            return
        found = [each for each in (link.find(pod, name) for name in self.links) if each is not None]
        own = [each for each in found if self.is_in_pod or self._state_of(each)]
        for each, mac in bond.disguised(own).items():
            pod.request([link.set_link(each.index, mac=mac)])
        if self.is_in_pod:
            pod.request([link.set_link(each.index, is_up=True) for each in own if not each.master])
            return
        undo(*(partial(self._move_out, each) for each in own), self._restore_returned)

    def _state_of(self, found: Link) -> re.Match[str] | None:
        """What was noted when this bond's ADD moved a link; None of any other link."""
        noted = MOVED.fullmatch(found.alias)
        return noted if noted and noted["bond"] == self.attachment.interface else None

    def _move_out(self, inside: Link) -> None:
        with netns.opened_own() as descriptor:
            moving = link.move(inside.index, descriptor, inside.name, alias=inside.alias)
            self.attachment.namespaces.pod.request(
                [replace(moving, action=f"move {inside.name} to the node")]
            )

    def _restore_returned(self) -> None:
        """
        Those on the node, be it that another DEL got no further.

        Physical links come back by themselves when their namespace ends; all others ended with it.
        """
        if not self.is_in_pod:
            host = self.attachment.namespaces.host
            for name in self.links:
                found = link.find(host, name)
                if found is not None:
                    self._restore(host, found)

    def _restore(self, host: Socket, found: Link) -> None:
        """State and then alias as they were noted: as long as the alias tells it, another DEL can do it."""
        noted = self._state_of(found)
        if noted is not None:
            host.request([link.set_link(found.index, is_up=noted["state"] == "up")])
            host.request([link.set_alias(found.index, noted["alias"])])

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The kernel must know the kind."""
        upper.require(config, "bond")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Nothing but the members themselves is on the node."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _options(section: Section) -> Options:
    mode = section.string("mode")
    if mode not in MODES:
        raise section.wrong("mode", f"one of {', '.join(MODES)}")
    choices = {bond.IFLA_BOND_FAIL_OVER_MAC: section.integer("failOverMac", maximum=2)}
    if section.value("allSlavesActive") is not None:
        choices[bond.IFLA_BOND_ALL_SLAVES_ACTIVE] = section.integer("allSlavesActive", maximum=1)
    if section.value("tlbDynamicLb") is not None:
        if mode not in BALANCING:
            raise section.wrong("tlbDynamicLb", f"it in mode {' or '.join(BALANCING)} only")
        choices[bond.IFLA_BOND_TLB_DYNAMIC_LB] = section.integer("tlbDynamicLb", maximum=1)
    if section.value("xmitHashPolicy") is not None:
        policy = section.choice("xmitHashPolicy", tuple(POLICIES), "")
        choices[bond.IFLA_BOND_XMIT_HASH_POLICY] = POLICIES[policy]
    return Options(mode, _monitor_ms(section, mode), choices)


def _monitor_ms(section: Section, mode: str) -> int:
    """miimon, which is text; without it a member that fails would never be noticed."""
    value = section.value("miimon")
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}", value):
        raise section.wrong("miimon", 'milliseconds as text, for example "100"')
    is_needed = mode in MONITORED and not int(value)
    return DEFAULT_MONITOR_MS if is_needed else int(value)


def _links(section: Section) -> tuple[str, ...]:
    """The names of the members, in their order."""
    names = tuple(each.string("name") for each in section.sections("links"))
    if len(names) < FEWEST or not all(names):
        raise section.wrong("links", f"at least {FEWEST} objects with the name of a link each")
    if len(set(names)) < len(names):
        raise section.wrong("links", "each link once")
    return names
