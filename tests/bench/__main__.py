"""
What an ADD, a DEL and a CHECK cost: ours, Multus' where it is to be had, and the kernel's alone.

    python -m tests.bench [quick] [--multus DIRECTORY] [--plugins DIRECTORY]

The whole takes nine minutes and writes bench.json, docs/bench.svg and the figures in README.md;
`quick` takes two and prints them. Nothing is asserted.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from meta_cni.linux import link, netns
from meta_cni.linux.netlink import Socket
from tests.bench import clusters, measures, node, peers, plot, plugins, report
from tests.bench.contestants import TOP, Contestant, Ours, Process
from tests.bench.floor import Floor
from tests.bench.launcher import Launcher
from tests.bench.measures import Api, Bench

PLUGINS = f"{TOP}/.reference/bin:/opt/cni/bin:/usr/lib/cni"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("form", nargs="?", choices=("whole", "quick"), default="whole")
    parser.add_argument(
        "--multus", metavar="DIRECTORY", help="multus, multus-daemon and multus-shim; else PATH"
    )
    parser.add_argument("--plugins", metavar="DIRECTORY", help="the reference plugins")
    asked = parser.parse_args()
    found = peers.found(asked.multus or os.environ["PATH"])
    directory = asked.plugins or next(each for each in PLUGINS.split(":") if Path(each, "bridge").exists())
    netns.enter_private()
    document = measured(asked.form == "quick", found, directory)
    print(report.text(document))
    if asked.form == "whole":
        (TOP / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
        (TOP / "docs" / "bench.svg").write_text(plot.svg(document))
        readme = TOP / "README.md"
        readme.write_text(report.put_into(readme.read_text(), report.text(document)))


def measured(is_quick: bool, programs: dict[str, str], directory: str) -> dict[str, Any]:
    """The whole document."""
    node.build()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        bench = prepared(Path(scratch), stack, is_quick, programs, directory)
        document: dict[str, Any] = {"machine": measures.machine(), "peers": versions(programs, directory)}
        for name, part in parts(bench, directory, stack).items():
            started = time.monotonic()
            document[name] = part()
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return document


def prepared(
    scratch: Path, stack: ExitStack, is_quick: bool, programs: dict[str, str], directory: str
) -> Bench:
    """Everybody started."""
    launcher = Launcher(scratch)
    api = scratch / "api"
    api.mkdir()
    (api / "objects.json").write_text(json.dumps(node.objects(scratch / "addresses")))
    server = Process([sys.executable, "-m", "tests.bench.api", str(api)], api / "log")
    stack.callback(server.close)
    server.wait_until(api / "port")
    contestants: list[Contestant] = [Ours(scratch, launcher, directory, **access(api))]
    if len(programs) == len(peers.PROGRAMS):
        contestants += [
            kind(scratch, programs, directory, api)  # type: ignore[list-item]
            for kind in (peers.Thick, peers.Thin)
        ]
    for each in contestants:
        stack.callback(each.close)
    with Socket.open_host() as host:
        bridge = link.require(host, node.BRIDGES[0], "bridge").index
    netns.create("/run/netns/floor")
    pod = netns.open_netns("/run/netns/floor")
    floors = {size: Floor(pod, bridge, size) for size in node.SIZES}
    return Bench(scratch, launcher, contestants, floors, is_quick, Api(api))


def access(api: Path) -> dict[str, Any]:
    """The keys by which our daemon finds objects: at the API server, in files where it cannot ask one."""
    if find_spec("meta_cni.k8s.api_store"):
        return {"kubeconfig": str(api / "kubeconfig")}
    store = api / "store"
    if not store.exists():
        store.mkdir()
        objects = json.loads((api / "objects.json").read_text())
        mine = [each for each in objects if each["metadata"]["namespace"] == node.OURS]
        (store / "objects.json").write_text(json.dumps({"items": mine}))
        os.utime(store / "objects.json", (1, 1))
    return {"store": {"directory": str(store)}}


def parts(bench: Bench, directory: str, stack: ExitStack) -> dict[str, Callable[[], Any]]:
    """The parts of the report, in the order they are measured."""

    def others() -> dict[str, Any]:
        keys = {"delegatePolicy": "exec", **access(bench.api.directory)}
        more = {"ours, executed": {}, "ours, side by side": {"parallelAttachments": True}}
        made: list[Contestant] = [
            Ours(bench.directory, bench.launcher, directory, name=name, **keys, **own)
            for name, own in more.items()
        ]
        for each in made:
            stack.callback(each.close)
        return measures.executed(bench, [*made, *(c for c in bench.contestants if c.name == "Multus thick")])

    rounds = bench.rounds(8, 25)
    return {
        # First: where others have removed their files, ext4 takes several times as long for host-local's.
        "plugins": lambda: measures.told(plugins.run_aside(rounds, directory)),
        "programs": lambda: measures.programs(bench),
        "interfaces": lambda: measures.interfaces(bench),
        "steps": lambda: measures.steps(bench),
        "at once": lambda: measures.at_once(bench),
        "latencies": lambda: measures.latencies(bench),
        "executed": others,
        "memory": lambda: measures.memory(bench),
        "pairs": lambda: measures.pairs(bench),
        "growth": lambda: measures.growth(bench),
        "cold": lambda: measures.cold(bench),
        "cluster": lambda: clusters.measured(bench),
    }


def versions(programs: dict[str, str], directory: str) -> dict[str, str]:
    """What the peers say of themselves."""
    found = {"reference plugins": peers.version_of(f"{directory}/bridge")}
    if "multus" in programs:
        found["Multus"] = peers.build_of(programs["multus"])
    return found


if __name__ == "__main__":
    main()
