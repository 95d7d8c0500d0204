"""
vrf: an interface of the pod gets a table of routes of its own (containernetworking/plugins, meta/vrf).

Interfaces that name the same VRF share it; the first makes it, the last takes it away. Unlike the
reference: a table that has somebody's routes or rules is not free, routes on the link itself are
moved as well, a release leaves alone what is in another VRF, and two of a pod never make it twice.
"""

from contextlib import AbstractContextManager, suppress

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, NetnsGone
from meta_cni.cni.result import LARGEST_U32, Result
from meta_cni.delegate import Attachment, Valid, unimplemented
from meta_cni.linux import link, netns, upper, vrf
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Socket

KEYS = ("vrfname", "table")
LONGEST_NAME = 15  # IFNAMSIZ less its NUL


class Vrf:
    """One interface."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        section = config.section
        self.config = config
        self.attachment = attachment
        self.name = section.string("vrfname")
        self.table = section.integer("table", maximum=LARGEST_U32)
        if not self.name:
            raise BadConfig(
                f"{config.where}: vrfname is missing: configuration is expected to have a valid vrf name"
            )
        if not _is_name(self.name) or self.name == attachment.interface:
            raise section.wrong("vrfname", "a name for a link beside the interface, of 1 to 15 characters")

    def add(self, previous: Result | None) -> Result:
        """Put the interface into the VRF; what failed is undone by delete()."""
        if previous is None:
            raise BadConfig(
                f"{self.config.where}: missing prevResult from earlier plugin: "
                "expected one before it that makes the interface"
            )
        pod = self.attachment.namespaces.pod
        with self._locked():
            found = link.require(pod, self.attachment.interface, "link")
            if found.master:
                raise BadConfig(
                    f"{self.config.where}: interface {found.name} has already a master set: "
                    f"{_name_of(pod, found.master)}: expected none"
                )
            vrf.enslave(pod, found, self._vrf())
        return previous

    def _locked(self) -> AbstractContextManager[None]:
        return netns.locked(self.attachment.namespaces.pod_fd, self.attachment.deadline_s)

    def _vrf(self) -> Link:
        """The one that is there, else a new one."""
        pod = self.attachment.namespaces.pod
        found = link.find(pod, self.name)
        if found is None:
            pod.request([vrf.create(self.name, self.table or vrf.free_table(pod))])
            return link.require(pod, self.name, "VRF")
        if found.kind != "vrf":
            raise BadConfig(
                f"{self.config.where}: vrfname {self.name!r}: expected a VRF, or no link of this name"
            )
        table = vrf.table_of(found)
        if self.table not in (0, table):
            raise BadConfig(
                f"{self.config.where}: VRF {self.name} already exist with different routing table {table}: "
                f"expected table {table}, or none"
            )
        return found

    def check(self, previous: Result) -> None:
        """The interface is in the VRF, which has its table; raises CheckFailed."""
        pod, name = self.attachment.namespaces.pod, self.attachment.interface
        found, its = link.find(pod, name), link.find(pod, self.name)
        table = vrf.table_of(its)
        if its is None or not table:
            raise CheckFailed(f"check {name}: VRF {self.name} is not there")
        if found is None or found.master != its.index:
            raise CheckFailed(f"check {name}: it is not in VRF {self.name}")
        if self.table not in (0, table):
            raise CheckFailed(f"check {name}: VRF {self.name} has table {table}: expected {self.table}")

    def delete(self) -> None:
        """Release the interface; the last one takes the VRF with it."""
        with suppress(NetnsGone), self._locked():
            pod = self.attachment.namespaces.pod
            its = link.find(pod, self.name)
            if its is None or its.kind != "vrf":
                return
            inside = vrf.members(pod, its.index)
            own = [each for each in inside if each.name == self.attachment.interface]
            pod.request([link.set_link(each.index, master=0) for each in own])
            if inside == own:
                link.remove(pod, self.name)

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The kernel must know the kind."""
        upper.require(config, "vrf")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Nothing is on the node: VRFs died with the pod's namespace."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _name_of(pod: Socket, index: int) -> str:
    found = link.find_index(pod, index)
    return found.name if found is not None else str(index)


def _is_name(text: str) -> bool:
    """Can it be the name of a link (dev_valid_name(), net/core/dev.c)?"""
    return len(text.encode()) <= LONGEST_NAME and text not in (".", "..") and not set(text) & set("/: \t\n")
