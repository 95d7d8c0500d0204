"""Where the real API server is looked for, and by what name it is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest.cache import Missing
from tests.k8s import assets


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One without Go, and without anything that was built."""
    monkeypatch.delenv(assets.ASSETS, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def programs(directory: Path, *names: str) -> Path:
    """Files that could be run."""
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).touch(0o755)
    return directory


def test_those_that_are_named_come_first(machine: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever has them need not build them."""
    programs(assets.cache_directory() / assets.name(), *assets.PROGRAMS)
    given = programs(machine / "given", *assets.PROGRAMS)
    monkeypatch.setenv(assets.ASSETS, str(given))

    assert given == assets.find().directory == assets.ready().directory


def test_one_that_is_missing_where_they_are_named_is_told(machine: Path, monkeypatch: pytest.MonkeyPatch):
    """Others are not taken in its place."""
    programs(assets.cache_directory() / assets.name(), *assets.PROGRAMS)
    monkeypatch.setenv(assets.ASSETS, str(programs(machine / "given", "kube-apiserver")))

    for ask in (assets.find, assets.ready):
        with pytest.raises(Missing, match=r"^no etcd$"):
            ask()


def test_those_that_were_built_are_found(machine: Path):
    """Go is not asked for then."""
    built = programs(assets.cache_directory() / assets.name(), *assets.PROGRAMS)

    assert built == assets.find().directory == assets.ready().directory


@pytest.mark.parametrize(("in_ci", "code"), [("", 0), ("true", 1)])
def test_without_go_nothing_is_built(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_ci: str, code: int
):
    """The tests skip by the name, and in CI that is a failure."""
    monkeypatch.setenv("CI", in_ci)
    with pytest.raises(Missing, match=r"^no kube-apiserver$"):
        assets.find()

    assert code == assets.main()

    assert "no kube-apiserver: no Go to build it: " in capsys.readouterr().out


def test_a_kubelet_is_missed_by_those_who_need_one(machine: Path, monkeypatch: pytest.MonkeyPatch):
    """envtest has none, and its API server is as good."""
    monkeypatch.setenv(assets.ASSETS, str(programs(machine / "given", *assets.SERVERS)))

    assert machine / "given" == assets.find().directory
    with pytest.raises(Missing, match=r"^no kubelet$"):
        assets.find(programs=("kubelet",))


GO = """\
#!/bin/sh
echo "$PWD $GOPATH $CGO_ENABLED $*" >>{log}
case "$1 $2" in
"mod download")
    fetched=$GOPATH/pkg/mod/cache/download/${{3%@*}}/@v
    mkdir -p "$fetched"; cp {module} "$fetched/${{3#*@}}.mod" ;;
build*) case "$*" in *{broken}) echo no such module >&2; exit 1 ;; esac
    while [ "$1" != -o ]; do shift; done; mkdir -p "${{2%/*}}"; cp go.mod "$2"; chmod +x "$2" ;;
esac
"""


@pytest.fixture
def go(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A Go that notes how it was called, and cannot build one of the packages."""

    def make(broken: str = "nothing") -> Path:
        module, log = machine / "kubernetes.mod", machine / "log"
        module.write_text("replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\ta.b/c => a.b/d v1\n)\n")
        text = GO.format(log=log, module=module, broken=broken)
        (programs(machine / "bin", "go") / "go").write_text(text)
        monkeypatch.setenv("PATH", f"{machine / 'bin'}:/usr/bin:/bin")
        return log

    return make


def test_what_is_built_says_where_the_parts_of_kubernetes_are(go: Callable[..., Path]):
    """And nothing but the programs is left behind."""
    log = go()

    made = assets.ready()

    text = made.api_server.read_text()
    assert f"k8s.io/kubernetes v{assets.KUBERNETES}\n" in text
    assert f"replace (\n\tk8s.io/api => k8s.io/api v0.{assets.KUBERNETES[2:]}\n)" in text
    kept = {each.name for each in assets.cache_directory().iterdir()}
    assert {assets.name(), f"{assets.name()}.lock"} == kept
    assert made == assets.ready() == assets.find(programs=tuple(assets.PROGRAMS))
    assert 4 == len(log.read_text().splitlines())


def test_a_kubelet_that_cannot_be_built_takes_nobody_elses_tests(
    go: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    """It needs modules that the API server does not."""
    go("/kubelet")

    assert 0 == assets.main()

    told = capsys.readouterr().out.splitlines()
    assert "no kubelet: env: no such module: the tests on a real kubelet will skip" == told[0]
    assert "kubelet" not in told[1].partition(": ")[2]
    assert assets.find() == assets.ready()
    with pytest.raises(Missing, match=r"^no kubelet$"):
        assets.find(programs=("kubelet",))


def test_an_api_server_that_cannot_be_built_is_told(go: Callable[..., Path]):
    """And nothing is left that would look like one."""
    go("/kube-apiserver")

    with pytest.raises(Missing, match=r"^no kube-apiserver: env: no such module$"):
        assets.ready()

    assert [f"{assets.name()}.lock"] == [each.name for each in assets.cache_directory().iterdir()]
