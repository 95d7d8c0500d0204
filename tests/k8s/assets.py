"""
The real API server, its etcd and the kubelet: those in KUBEBUILDER_ASSETS, as envtest has it, else our own.

No distribution has them, so they are built, once a machine, and kept outside of the tree:

    python -m tests.k8s.assets

k8s.io/kubernetes names its own parts by versions that do not exist, so it cannot be built as it is:
a module that requires it says where they are, by the list in its go.mod.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest.cache import Missing, cached, run

KUBERNETES, ETCD = "1.35.4", "3.6.5"
"""The versions that are built."""
ASSETS = "KUBEBUILDER_ASSETS"
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
}
"""The package that each is built from."""
SERVERS = ("kube-apiserver", "etcd")
"""Without these there is no cluster; without a kubelet there are tests that skip."""
STAGED = re.compile(r"^\s*(k8s\.io/\S+) => \./staging/", re.MULTILINE)
VERSION = "k8s.io/component-base/version.gitVersion"
"""What the server says it is; Go's own builds leave it open."""


@dataclass(frozen=True, slots=True)
class Assets:
    """A directory with the programs."""

    directory: Path

    @property
    def api_server(self) -> Path:
        """Kubernetes'."""
        return self.directory / "kube-apiserver"

    @property
    def etcd(self) -> Path:
        """Where the API server keeps it all."""
        return self.directory / "etcd"

    @property
    def kubelet(self) -> Path:
        """The node's, where it was asked for."""
        return self.directory / "kubelet"


def cache_directory() -> Path:
    """Where those that we have built are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meta-cni-kubernetes"


def name() -> str:
    """Of the directory there: another version is built anew."""
    return f"{KUBERNETES}-kubelet-etcd-{ETCD}"


def find(cache: Path | None = None, programs: Sequence[str] = SERVERS) -> Assets:
    """Those that are there; raises Missing when one of `programs` is not, and builds nothing."""
    given = os.environ.get(ASSETS)
    directory = Path(given) if given else (cache or cache_directory()) / name()
    for each in programs:
        if not os.access(directory / each, os.X_OK):
            raise Missing(f"no {each}")
    return Assets(directory)


def ready(cache: Path | None = None) -> Assets:
    """Those that are there, else built; raises Missing."""
    if os.environ.get(ASSETS):
        return find()
    if not ((cache or cache_directory()) / name()).exists() and shutil.which("go") is None:
        raise Missing("no kube-apiserver: no Go to build it")
    return Assets(cached(name(), build, cache or cache_directory()))


def build(scratch: Path) -> Path:
    """The programs in a new directory below this one; what Go fetches and compiles stays below it, too."""
    module, made = scratch / "module", scratch / "made"
    module.mkdir()
    (module / "go.mod").write_text(_module(()))
    _go(scratch, module, "mod", "download", f"k8s.io/kubernetes@v{KUBERNETES}")
    fetched = scratch / "go" / "pkg" / "mod" / "cache" / "download" / "k8s.io" / "kubernetes" / "@v"
    (module / "go.mod").write_text(_module(STAGED.findall((fetched / f"v{KUBERNETES}.mod").read_text())))
    for program, package in PROGRAMS.items():
        flags = ("-mod=mod", "-trimpath", f"-ldflags=-s -w -X {VERSION}=v{KUBERNETES}")
        try:
            _go(scratch, module, "build", *flags, "-o", str(made / program), package, purpose=program)
        except Missing as missing:
            if program in SERVERS:
                raise
            print(f"{missing}: the tests on a real {program} will skip")
    return made


def _module(staged: tuple[str, ...] | list[str]) -> str:
    """A go.mod that requires Kubernetes and etcd, and says where the parts of the one are."""
    replaced = "".join(f"\t{each} => {each} v0.{KUBERNETES.partition('.')[2]}\n" for each in staged)
    required = f"\tk8s.io/kubernetes v{KUBERNETES}\n\tgo.etcd.io/etcd/server/v3 v{ETCD}\n"
    return f"module tests\n\ngo 1.25.0\n\nrequire (\n{required})\n\nreplace (\n{replaced})\n"


def _go(scratch: Path, module: Path, *arguments: str, purpose: str = SERVERS[0]) -> str:
    places = {"GOPATH": scratch / "go", "GOCACHE": scratch / "build"}
    settings = (f"{key}={value}" for key, value in places.items())
    fixed = ("GOFLAGS=-modcacherw -buildvcs=false", "CGO_ENABLED=0", "GOWORK=off")
    return run(purpose, "env", *settings, *fixed, "go", *arguments, directory=module)


def main() -> int:
    """Build what is not there; where CI=true, its absence is a failure."""
    try:
        found = ready()
    except Missing as missing:
        print(f"{missing}: the tests on a real API server will skip")
        return int(os.environ.get("CI") == "true")
    there = [each for each in map(found.directory.joinpath, PROGRAMS) if each.exists()]
    sizes = ", ".join(f"{each.name} {each.stat().st_size >> 20} MB" for each in there)
    print(f"{found.directory}: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
