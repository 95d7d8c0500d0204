"""
dummy: a link that leads nowhere, for addresses of the pod (containernetworking/plugins, main/dummy).

Unlike the reference: an interface of the node may have the same name, and a failing ADD is undone.
"""

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, NotAvailable
from meta_cni.cni.result import Interface, Result
from meta_cni.delegate import Attachment, Valid, detach, unimplemented
from meta_cni.linux import configure, link, upper


class Dummy:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        if attachment.addresses.is_none:
            raise BadConfig(_missing(config))

    def add(self, previous: Result | None) -> Result:
        """Create the link in the pod, with its addresses; what failed is removed by delete()."""
        namespaces, name = self.attachment.namespaces, self.attachment.interface
        addresses = self.attachment.addresses.acquire()
        namespaces.pod.request([link.create("dummy", name, group=self.attachment.group)])
        made = link.require_index(namespaces.pod, name, "dummy")
        result = configure.of_the_pod(self.config, addresses)
        mac = configure.configure(namespaces, made, name, result)
        return result.of(Interface(name, mac, self.attachment.netns))

    def check(self, previous: Result) -> None:
        """The link is a dummy, up, with the result's MAC, addresses and routes."""
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        if found.kind != "dummy":
            raise CheckFailed(f"check {found.name}: it is {found.kind or 'a device'}: expected dummy")
        if not found.is_up:
            raise CheckFailed(f"check {found.name}: it is down")
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the link, then give the addresses back."""
        detach(self.attachment)

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """There must be an IPAM, and the kernel must know the kind."""
        if not config.ipam_type:
            raise NotAvailable(_missing(config))
        upper.require(config, "dummy")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pod's namespace; there is nothing else."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, ())


def _missing(config: PluginConfig) -> str:
    return (
        f"{config.where}: ipam is missing: dummy interface requires an IPAM configuration: "
        "expected one, for the link is there for its addresses"
    )
