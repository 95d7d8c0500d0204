"""
ipvlan: a link with addresses of its own and its master's MAC (containernetworking/plugins, main/ipvlan).

The kernel has one mode for all that share a master: a network with another mode changes those
that are there. Unlike the reference: nothing is left behind when addresses cannot be had or set,
a DEL needs no master, an MTU above the master's is refused, mode l2 needs no addresses, DNS of
the IPAM is kept, and IPv6 addresses work at once.
"""

from dataclasses import replace
from functools import partial

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Valid, attach, detach, unimplemented
from meta_cni.linux import configure, upper
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Request

KEYS = ("master", "mode", "mtu", "linkInContainer")
LAYER_2 = "l2"


class Ipvlan:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        section = config.section
        self.config = config
        self.attachment = attachment
        self.master = upper.Master.parse(config, attachment.namespaces)
        self.mode = section.choice("mode", tuple(upper.IPVLAN_MODES), LAYER_2)

    def add(self, previous: Result | None) -> Result:
        """Create the link in the pod, with its addresses; what failed is removed by delete()."""
        master = self._master(previous).find()
        addresses = self._addresses(previous)
        made = self.master.make(self.attachment.interface, partial(self._request, master))
        return attach(self.config, self.attachment, made, addresses)

    def _master(self, previous: Result | None) -> upper.Master:
        """As configured, else the one interface that the plugin before answered with; else none."""
        if self.master.name or previous is None:
            return self.master
        names = [each.name for each in previous.interfaces]
        if len(names) != 1 or not names[0]:
            raise BadConfig(
                f"{self.config.where}: chained master failure. PrevResult lacks a single named interface: "
                f"expected master, or one interface in prevResult instead of {len(names)}"
            )
        return replace(self.master, name=names[0])

    def _addresses(self, previous: Result | None) -> Result:
        """The IPAM's; without an IPAM those of the plugin before."""
        if self.attachment.addresses.is_none and previous is not None and previous.ips:
            return previous
        if self.attachment.addresses.is_none and self.mode != LAYER_2:
            raise BadConfig(
                f"{self.config.where}: ipam is missing: expected it, for mode {self.mode} "
                "passes only what is for an address of the link"
            )
        return self.attachment.addresses.acquire()

    def _request(self, master: Link, name: str) -> Request:
        return upper.create_ipvlan(
            name,
            master,
            self.mode,
            pod_fd=self.attachment.namespaces.pod_fd,
            mtu=self.master.mtu,
            group=self.attachment.group,
        )

    def check(self, previous: Result) -> None:
        """The link is an ipvlan of this mode with the result's MAC, addresses and routes, on its master."""
        if self.master.name:
            self.master.find()
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        mode = upper.ipvlan_mode(found)
        if mode != self.mode:
            raise CheckFailed(
                f"check {found.name}: it is {found.kind or 'a device'} in mode {mode or None}: "
                f"expected ipvlan in mode {self.mode}"
            )
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the link, then give the addresses back; the master is not needed."""
        detach(self.attachment, upper.unfinished(self.attachment.interface))

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The kernel must know the kind; the master, where one is named, must be there."""
        upper.require(config, "ipvlan")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pod's namespace; there is nothing else."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)
