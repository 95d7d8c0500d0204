"""
loopback: the pod's `lo`, up (containernetworking/plugins, main/loopback).

It is called for every pod by runtimes that put it into their list; CNI_IFNAME says nothing to it.
"""

from contextlib import suppress

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadNetns, CheckFailed, NetnsGone
from meta_cni.cni.result import Interface, IPConfig, Result
from meta_cni.delegate import Attachment, Valid, unimplemented
from meta_cni.linux import address, link

NAME = "lo"
MAC = "00:00:00:00:00:00"


class Loopback:
    """One pod's loopback."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.attachment = attachment

    def add(self, previous: Result | None) -> Result:
        """Bring it up; what a plugin before it answered is passed on."""
        pod = self.attachment.namespaces.pod
        found = link.require(pod, NAME, "loopback")
        pod.request([link.set_link(found.index, is_up=True)])
        addresses = [each.address for each in address.dump(pod, found.index)]
        for each in addresses:
            if not each.ip.is_loopback:
                raise BadNetns(f"loopback interface found with non-loopback address {each}")
        if previous is not None:
            return previous
        firsts = {each.version: each for each in reversed(addresses)}
        ips = tuple(IPConfig(firsts[version], interface=0) for version in sorted(firsts))
        return Result(interfaces=(Interface(NAME, MAC, self.attachment.netns),), ips=ips)

    def check(self, previous: Result) -> None:
        """It is up."""
        if not link.require(self.attachment.namespaces.pod, NAME, "loopback").is_up:
            raise CheckFailed("check lo: loopback interface is down")

    def delete(self) -> None:
        """Take it down, where there still is a pod."""
        with suppress(NetnsGone):
            pod = self.attachment.namespaces.pod
            pod.request([link.set_link(link.require(pod, NAME, "loopback").index, is_up=False)])

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """It needs nothing."""

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Nothing is on the node."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """It has no keys of its own."""
        return unimplemented(config, ())
