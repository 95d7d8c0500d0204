"""What this kernel has, by the names that a skip is told with: "kernel has no ipvlan"."""

import errno

import pytest

from meta_cni.cni.errors import KernelError
from meta_cni.linux import link
from meta_cni.linux.codec import ifinfmsg
from meta_cni.linux.netlink import NLM_F_CREATE, Request, Socket

VLAN_FILTERING = "bridge VLAN filtering"
"""CONFIG_BRIDGE_VLAN_FILTERING. Every other name is the kind of a link."""
PROBE = "probe0"


def need(host: Socket, feature: str) -> None:
    """Skip the test where the kernel has it not; the socket is one on the test's own node."""
    if not has(host, feature):
        pytest.skip(f"kernel has no {feature}")


def has(host: Socket, feature: str) -> bool:
    """Can such a link be made?"""
    filtering = link.create_bridge(PROBE, is_vlan_filtering=True)
    try:
        host.request([filtering if feature == VLAN_FILTERING else _creation(feature)])
    except KernelError as error:  # what the kind itself refuses, for want of a master, it has
        if error.errno == errno.EOPNOTSUPP:
            return False
    host.request([link.delete(PROBE)])
    return True


def _creation(kind: str) -> Request:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", PROBE), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})]
    return Request(f"create {kind} {PROBE}", message, link.RTM_NEWLINK, NLM_F_CREATE)
