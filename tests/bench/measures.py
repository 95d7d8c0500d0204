"""
What is measured, one function a part of the report; each answers with plain data.

Every round gives each contestant its turn, so that noise meets all of them alike. Times are in
milliseconds as the runtime sees them, from the start of its process to the end.
"""

import json
import os
import platform
import ssl
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from meta_cni.linux import netns
from tests.bench import node
from tests.bench.contestants import Contestant, Ours
from tests.bench.floor import Floor
from tests.bench.launcher import Job, Launcher, Outcome
from tests.bench.node import Pod

VERBS = ("ADD", "CHECK", "DEL")
SETTLE_S = 0.04
"""For what a daemon does after its answer, and the kernel after a deletion."""
FAR = 5000
NAMESPACES = 500
Samples = dict[str, list[float]]


@dataclass
class Bench:
    """All that is there to be measured."""

    directory: Path
    launcher: Launcher
    contestants: list[Contestant]
    floors: dict[int, Floor]
    is_quick: bool
    api: "Any" = None
    containers: int = 0
    failures: list[str] = field(default_factory=list)

    def rounds(self, quick: int, whole: int) -> int:
        """How often."""
        return quick if self.is_quick else whole

    def run(self, contestant: Contestant, verb: str, pods: Sequence[Pod], container: str) -> Outcome:
        """One call for every pod, all at once; raises SystemExit when one fails."""
        jobs = [contestant.job(verb, each, f"{container}-{each.number}") for each in pods]
        outcome = self.launcher.run(jobs)
        for ended in outcome.ended:
            if ended.code:
                raise SystemExit(f"{contestant.name}: {verb}: {ended.printed.decode()}")
        return outcome

    def container(self) -> str:
        """A container id that nobody had."""
        self.containers += 1
        return f"bench{self.containers}"


def median(values: Iterable[float]) -> float:
    """Rounded for the report."""
    return round(statistics.median(values), 3)


def told(samples: Samples) -> dict[str, dict[str, float]]:
    """p50 and p99 of each key; of few samples p99 is the largest."""
    return {
        key: {
            "p50": median(values),
            "p99": round(sorted(values)[min(len(values) - 1, int(len(values) * 0.99))], 3),
            "samples": len(values),
        }
        for key, values in samples.items()
    }


def programs(bench: Bench) -> dict[str, Any]:
    """The shim beside a program that does nothing; Multus' shim, where it is there."""
    empty, immediate = (bench.launcher.require(each) for each in ("empty", "immediate"))
    ours = next(each for each in bench.contestants if isinstance(each, Ours))
    served = bench.directory / "immediate.sock"
    jobs = {"empty static program": Job((empty,), {})}
    for name, path in (
        ("shim, no daemon", bench.directory / "nobody"),
        ("shim, daemon answers at once", served),
    ):
        job = ours.job("ADD", node.PODS[0], "c")
        jobs[name] = Job(job.argv, {**job.variables, "META_CNI_SOCKET": str(path)}, job.stdin)
    for each in bench.contestants:
        if each.name == "Multus thick":
            version = each.job("VERSION", node.PODS[0], "c")
            jobs["multus-shim VERSION"] = version
    samples: Samples = defaultdict(list)
    with subprocess.Popen([immediate, str(served)]) as daemon:
        while not served.exists():
            time.sleep(0.01)
        for _ in range(bench.rounds(50, 200)):
            for name, job in jobs.items():
                samples[name].append(bench.launcher.run([job]).ms)
        daemon.kill()
    return told(samples)


def interfaces(bench: Bench) -> dict[str, Any]:
    """Pods of 1, 2, 4 and 8 interfaces, one at a time: key "contestant/verb/size"."""
    samples: Samples = defaultdict(list)
    for n in range(bench.rounds(4, 20) + 1):
        for size, floor in bench.floors.items():
            found = {f"floor/ADD/{size}": floor.add()}
            found[f"floor/DEL/{size}"], found[f"floor acknowledged/DEL/{size}"] = floor.delete()
            pod = next(each for each in node.PODS if each.size == size)
            for contestant in bench.contestants:
                for verb, ms in one(bench, contestant, pod).items():
                    found[f"{contestant.name}/{verb}/{size}"] = ms
            for key, value in found.items():
                samples[key].extend([value] if n else [])
    return told(samples)


def steps(bench: Bench) -> dict[str, dict[str, float]]:
    """Where our daemon's time goes, by its own log of the calls so far: pods with four interfaces."""
    ours = next(each for each in bench.contestants if isinstance(each, Ours))
    found: dict[str, Samples] = {verb: defaultdict(list) for verb in VERBS}
    for line in ours.process.log.read_text().splitlines():
        told = json.loads(line)
        plugins = {each["interface"] for each in told.get("plugins", ())}
        if len(plugins) == node.USUAL and told["verb"] in found:
            for step, ms in {**told["steps"], "all": told["ms"]}.items():
                found[told["verb"]][step].append(ms)
    return {verb: {step: median(each) for step, each in samples.items()} for verb, samples in found.items()}


def one(bench: Bench, contestant: Contestant, pod: Pod) -> dict[str, float]:
    """Milliseconds of each verb."""
    container = bench.container()
    times = {}
    for verb in VERBS:
        times[verb] = bench.run(contestant, verb, [pod], container).ms
        time.sleep(SETTLE_S)
    return times


def at_once(bench: Bench) -> dict[str, Any]:
    """1, 10 and 50 pods with four interfaces at once: total milliseconds, CPU milliseconds a pod."""
    samples: Samples = defaultdict(list)
    for count, rounds in ((1, bench.rounds(4, 25)), (10, bench.rounds(2, 10)), (50, bench.rounds(0, 3))):
        pods = [each for each in node.PODS if each.size == node.USUAL][:count]
        for n in range(rounds + (count < node.MOST_PODS)):
            for contestant in bench.contestants:
                if count > contestant.most_at_once:
                    continue
                container = bench.container()
                for verb in ("ADD", "DEL"):
                    ms, cpu_ms = costs(bench, contestant, verb, pods, container)
                    if n or count == node.MOST_PODS:
                        samples[f"{contestant.name}/{verb}/{count}"].append(ms)
                        samples[f"{contestant.name}/{verb}/{count}/cpu"].append(cpu_ms)
    means = {key: round(statistics.mean(each), 3) for key, each in samples.items() if key.endswith("/cpu")}
    return {**told({key: each for key, each in samples.items() if key not in means}), "cpu_ms": means}


def costs(
    bench: Bench, contestant: Contestant, verb: str, pods: Sequence[Pod], container: str
) -> tuple[float, float]:
    """Milliseconds until all have their answer, and CPU milliseconds a pod, what comes after it included."""
    before = contestant.cpu_ms()
    outcome = bench.run(contestant, verb, pods, container)
    time.sleep(SETTLE_S * (1 + len(pods) // 10))
    used = contestant.cpu_ms() - before + sum(each.cpu_ms for each in outcome.ended)
    return outcome.ms, used / len(pods)


def latencies(bench: Bench) -> dict[str, Any]:
    """Pods with four interfaces while the API server takes 0, 5 and 50 ms for each answer."""
    pod = next(each for each in node.PODS if each.size == node.USUAL)
    samples: Samples = defaultdict(list)
    asked: dict[str, Any] = {}
    for latency in (0, 5, 50):
        bench.api.slow(latency)
        for _ in range(bench.rounds(1, 6)):
            for contestant in bench.contestants:
                for verb, ms in one(bench, contestant, pod).items():
                    samples[f"{contestant.name}/{verb}/{latency}"].append(ms)
        asked = bench.api.slow(0)
    return {**told(samples), "asked": asked}


def executed(bench: Bench, contestants: Sequence[Contestant]) -> dict[str, Any]:
    """Four plugins of others that are executed, by those who can."""
    pod = next(each for each in node.PODS if each.size == node.USUAL)
    samples: Samples = defaultdict(list)
    for n in range(bench.rounds(2, 10) + 1):
        for contestant in contestants:
            for verb, ms in one(bench, contestant, pod).items():
                samples[f"{contestant.name}/{verb}"].extend([ms] if n else [])
    return told(samples)


def cold(bench: Bench) -> dict[str, Any]:
    """The first ADD and DEL of a daemon that has just started."""
    pod = next(each for each in node.PODS if each.size == node.USUAL)
    samples: Samples = defaultdict(list)
    for contestant in bench.contestants:
        for _ in range(bench.rounds(1, 3)):
            contestant.restart()
            for verb, ms in one(bench, contestant, pod).items():
                samples[f"{contestant.name}/{verb}"].append(ms)
    return told(samples)


def memory(bench: Bench) -> dict[str, Any]:
    """Megabytes of each daemon: at rest, with 50 pods at once, after 1 000 pods, and over many more."""
    found: dict[str, Any] = {}
    usual = [each for each in node.PODS if each.size == node.USUAL]
    for contestant in bench.contestants:
        contestant.restart()
        time.sleep(1)
        if not contestant.resident_mb():
            continue
        mine = {"at rest": round(contestant.resident_mb(), 1)}
        container = bench.container()
        for verb in ("ADD", "DEL"):
            bench.run(contestant, verb, usual, container)
            mine["50 at once"] = round(max(mine.get("50 at once", 0.0), contestant.resident_mb()), 1)
        pods(bench, contestant, bench.rounds(200, 1000))
        mine["after 1 000 pods"] = round(contestant.resident_mb(), 1)
        found[contestant.name] = mine
    return found


def pods(bench: Bench, contestant: Contestant, count: int) -> None:
    """So many pods with one interface come and go, some at once."""
    single = [Pod(1, number) for number in range(node.FEW)]
    for _ in range(count // node.FEW):
        container = bench.container()
        for verb in ("ADD", "DEL"):
            bench.run(contestant, verb, single, container)


def pairs(bench: Bench) -> dict[str, Any]:
    """Our daemon's memory over 10 000 ADDs and DELs."""
    ours = next(each for each in bench.contestants if isinstance(each, Ours))
    step = bench.rounds(100, 1000)
    found = [round(ours.resident_mb(), 2)]
    for _ in range(10):
        pods(bench, ours, step)
        found.append(round(ours.resident_mb(), 2))
    return {"every": step, "mb": found}


def growth(bench: Bench) -> dict[str, Any]:
    """ADD and DEL of one pod while up to 5 000 others are on the node, in 500 namespaces."""
    ours = next(each for each in bench.contestants if isinstance(each, Ours))
    far = bench.rounds(1000, FAR)
    places = [f"/run/netns/many{n}" for n in range(NAMESPACES)]
    for each in places:
        netns.create(each)
    found: dict[str, Any] = {}
    there = 0
    for mark in range(0, far + 1, far // 5):
        while there < mark:
            jobs = [_many(ours, "ADD", places, there + n) for n in range(node.FEW)]
            _all_well(bench.launcher.run(jobs))
            there += node.FEW
        samples: Samples = defaultdict(list)
        for n in range(bench.rounds(20, 60)):
            for verb in VERBS:
                outcome = bench.launcher.run([_many(ours, verb, places, FAR + n)])
                _all_well(outcome)
                samples[verb].append(outcome.ms)
            time.sleep(SETTLE_S)
        found[str(mark)] = told(samples)
    return {"pods": found, "mb": round(ours.resident_mb(), 1)}


def _many(ours: Ours, verb: str, places: Sequence[str], number: int) -> Job:
    """
    A pod of which the API knows nothing, with one tap in a namespace that it shares.

    On a bridge or a master the kernel would hand every frame of a new link to all the others.
    """
    job = ours.job(verb, Pod(1, 0), f"many{number}")
    own = {
        "CNI_NETNS": places[number % NAMESPACES],
        "CNI_IFNAME": f"eth{number // NAMESPACES}",
        "CNI_ARGS": "",
    }
    network = {"name": "many", "type": "tap", "bridge": "", "isDefaultGateway": False}
    return Job(job.argv, {**job.variables, **own}, ours.stdin(**network))


def _all_well(outcome: Outcome) -> None:
    for each in outcome.ended:
        if each.code:
            raise SystemExit(each.printed.decode())


class Api:
    """The small API server, in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context = ssl.create_default_context(cafile=str(directory / "ca.crt"))

    def slow(self, ms: int) -> dict[str, int]:
        """Let it take so long from now on; what it was asked so far."""
        url = f"https://127.0.0.1:{(self.directory / 'port').read_text()}/latency?ms={ms}"
        with urlopen(Request(url), context=self.context) as answer:
            asked: dict[str, int] = json.load(answer)["asked"]
            return asked


def machine() -> dict[str, Any]:
    """Where it was measured."""
    load = round(os.getloadavg()[0], 2)
    python = platform.python_version()
    return {"kernel": os.uname().release, "python": python, "cores": os.cpu_count(), "load": load}
