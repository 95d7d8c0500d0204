"""The message classes come without the rest of their library, and leave it usable."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
USE_ALL = """
import sys
from meta_cni.linux import codec, netlink

link = codec.ifinfmsg()
data = {"attrs": [("IFLA_MACVLAN_MODE", "bridge"), ("IFLA_MACVLAN_BC_QUEUE_LEN", 9)]}
link["attrs"] = [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "macvlan"), ("IFLA_INFO_DATA", data)]})]
for message in (link, codec.ifaddrmsg(), codec.rtmsg()):
    netlink.decode(type(message), netlink.encode(message, 16, 0, 1))
"""
USE_NONE = """
import sys
from ipaddress import ip_interface, ip_network
from meta_cni.linux import address, link, netlink, route

for each in (
    link.create_veth("veth0", "net1", 3, mac="02:00:5e:00:53:01", group=7, master=2),
    link.create_macvlan("net1", link.Link(2, "up0"), "bridge", pod_fd=3, broadcast_queue_length=9),
    link.set_link(2, is_up=True),
    link.delete("net1"),
    address.add(2, ip_interface("fd00::2/64")),
    route.add(route.Route(ip_network("10.0.0.0/8"), interface_index=2)),
):
    netlink.encode(each.message, each.type, each.flags, 1)
"""
COUNT = "print(sum(name.split('.')[0] == 'pyroute2' for name in sys.modules))"


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_using_every_message_does_not_load_the_library():
    """It costs 200 ms, which a plugin executed for every ADD pays each time."""
    assert 0 < int(run(USE_ALL + COUNT)) < 40


def test_what_every_add_sends_needs_no_message_class():
    """Their import is 50 ms."""
    assert "0" == run(USE_NONE + COUNT)


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_library_can_be_imported_beside_it(order: str):
    """Another user of the library in this process must find all of it, and the same classes."""
    codec, library = "from meta_cni.linux import codec", "import pyroute2"
    first, second = (library, codec) if order == "before" else (codec, library)
    check = (
        "from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg\n"
        "print(pyroute2.IPRoute.__name__, ifinfmsg is codec.ifinfmsg)"
    )

    assert "IPRoute True" == run(f"{first}\n{second}\n{check}")
