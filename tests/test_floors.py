"""
Imports only go down the floors, and every outside library has its door.

The standard library is enough, so the rules can be read and run where nothing is installed.
The sources are read, not imported: an import inside a function or under TYPE_CHECKING ties
two rooms together like any other. The last tests break every rule on purpose.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

FLOORS = {
    "meta_cni.__main__": 8,
    "meta_cni.cli": 7,
    "meta_cni.node": 6,
    "meta_cni.cluster": 6,
    "meta_cni.explain": 6,
    "meta_cni.validate": 6,
    "meta_cni.compose": 5,
    "meta_cni.daemon": 4,
    "meta_cni.controllers": 4,
    "meta_cni.standalone": 4,
    "meta_cni.engine": 3,
    "delegates": 3,
    "meta_cni.ipam": 2,
    "meta_cni.delegate": 2,
    "meta_cni.linux": 1,
    "meta_cni.k8s": 1,
    "meta_cni.invoke": 1,
    "meta_cni.configuration": 1,
    "meta_cni.logs": 1,
    "meta_cni.cni": 0,
    "meta_cni.settings": 0,
    "meta_cni.metrics": 0,
    "meta_cni.picture": 0,
    "meta_cni.shim": 0,
    "meta_cni.quick": -1,
    "meta_cni.recent": -1,
    "meta_cni": -1,
}
"""Rooms; meta_cni itself is the package's __init__, which knows nobody."""

SEES = {
    "delegates": {"meta_cni.cni", "meta_cni.linux", "meta_cni.invoke", "meta_cni.delegate"},
    "meta_cni.shim": set[str](),
}
"""Rooms that see less than all the floors below them."""

DOORS = {
    "pyroute2": ("meta_cni/linux/",),
    "kubernetes": ("meta_cni/k8s/api_store.py",),
    "h2": ("meta_cni/k8s/grpc.py",),
    "urllib3": ("meta_cni/k8s/api_store.py",),
    "prometheus_client": ("meta_cni/metrics.py",),
    "jsonschema": ("meta_cni/k8s/schema.py",),
    "yaml": ("meta_cni/k8s/", "meta_cni/cli.py"),
}
"""Library -> the files or folders that may import it; any other library has no door at all."""

DRAWERS = {"base", "common", "helper", "helpers", "misc", "types", "util", "utils"}
LINES = 50  # of a function: fits a screen

Sources = Mapping[str, str]
"""Path below the root -> text."""


@dataclass(frozen=True, slots=True)
class Import:
    """One module named by an import statement, or by a call that imports a literal name."""

    line: int
    module: str
    is_relative: bool = False


def module_of(path: str) -> str:
    """The dotted name of a source file; a package's __init__ is the package."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str | None:
    """The room a module of ours belongs to; None where nobody gave it a floor."""
    if module == "meta_cni":
        return module
    rooms = (room for room in FLOORS if room != "meta_cni")
    return next((room for room in rooms if module == room or module.startswith(f"{room}.")), None)


def is_ours(module: str) -> bool:
    """Whether a module belongs to one of our two top-level packages."""
    return module.split(".", maxsplit=1)[0] in ("meta_cni", "delegates")


def imports(path: str, sources: Sources) -> Iterator[Import]:
    """Every import of a file, wherever it stands."""
    modules = {module_of(other) for other in sources} | set(FLOORS)
    for node in ast.walk(ast.parse(sources[path], path)):
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(level=level) if level:
                yield Import(node.lineno, node.module or "", is_relative=True)
            case ast.ImportFrom(module=str(package), names=names):
                # "from meta_cni import cli" names a module, "from meta_cni import __version__" does not.
                members = {f"{package}.{alias.name}" for alias in names}
                found = sorted({member if member in modules else package for member in members})
                yield from (Import(node.lineno, module) for module in found)
            case ast.Call(func=called, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(called) in (
                "import_module",
                "importlib.import_module",
                "__import__",
            ):
                yield Import(node.lineno, name)


def floor_mistakes(sources: Sources) -> Iterator[str]:
    """Imports between our rooms that do not go down, and modules without a floor."""
    for path in sources:
        room = room_of(module_of(path))
        if room is None:
            yield f"{path}: give it a floor in tests/test_floors.py"
            continue
        for found in imports(path, sources):
            if found.is_relative:
                yield f"{path}:{found.line}: a relative import"
            elif is_ours(found.module):
                yield from (f"{path}:{found.line}: {why}" for why in refusals(room, path, found.module))


def refusals(room: str, path: str, module: str) -> Iterator[str]:
    """Why a file of a room may not import a module of ours."""
    target = room_of(module)
    if target is None:
        yield f"imports {module}, which has no floor in tests/test_floors.py"
    elif target == room == "delegates":
        if path != "delegates/__init__.py":
            yield f"a delegate imports {module}: delegates never see each other"
    elif target == room:
        return
    elif room in SEES and target not in SEES[room]:
        yield f"{room} imports {module}: it sees only {', '.join(sorted(SEES[room])) or 'nothing of ours'}"
    elif FLOORS[target] >= FLOORS[room]:
        yield f"{room} (floor {FLOORS[room]}) imports {module} (floor {FLOORS[target]})"


def door_mistakes(sources: Sources) -> Iterator[str]:
    """Outside libraries imported where they have no door."""
    for path in sources:
        for found in imports(path, sources):
            library = found.module.split(".")[0]
            if found.is_relative or is_ours(found.module) or library in sys.stdlib_module_names:
                continue
            doors = DOORS.get(library, ())
            if not path.startswith(doors):
                where = f"only {' and '.join(doors)} may" if doors else "it has no door"
                yield f"{path}:{found.line}: imports {library}: {where}"


def name_mistakes(sources: Sources) -> Iterator[str]:
    """Modules and packages that are drawers, not concepts."""
    for path in sources:
        drawers = DRAWERS.intersection(Path(path).with_suffix("").parts)
        yield from (f"{path}: {drawer} is a drawer, not a concept" for drawer in sorted(drawers))


def length_mistakes(sources: Sources) -> Iterator[str]:
    """Functions longer than a screen."""
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text, path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES:
                    yield f"{path}:{node.lineno}: {node.name} is {lines} lines ({LINES} at most)"


def read(*folders: str) -> Sources:
    """The Python sources below some folders of the project."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def listed(mistakes: Iterator[str]) -> str:
    """One mistake a line, so that a failing test shows all of them."""
    return "\n".join(mistakes)


def test_imports_only_go_down_the_floors():
    """A room can be understood, tested and replaced knowing only what lies below it."""
    assert "" == listed(floor_mistakes(read("meta_cni", "delegates")))


def test_outside_libraries_come_in_by_their_door_only():
    """Whoever replaces a library changes one place."""
    assert "" == listed(door_mistakes(read("meta_cni", "delegates")))


def test_no_module_is_a_drawer():
    """What has no name has no place to be found in."""
    assert "" == listed(name_mistakes(read("meta_cni", "delegates", "examples", "tests")))


def test_every_function_fits_a_screen():
    """A reader sees the whole of it at once."""
    assert "" == listed(length_mistakes(read("meta_cni", "delegates", "examples", "tests")))


def test_help_loads_no_heavy_library():
    """`meta-cni --help` answers at once, and a broken library does not take the help away."""
    program = (
        "import sys; sys.argv = ['meta-cni', '--help']\n"
        "from meta_cni.__main__ import main\n"
        "try: assert not main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(sorted({set(DOORS)!r} & set(sys.modules)), file=sys.stderr)"
    )

    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert (0, "[]") == (run.returncode, run.stderr.strip()), run.stderr


def test_every_package_is_installed():
    """pyproject.toml lists packages by name; one left out is missing only in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    folders = {str(Path(path).parent).replace("/", ".") for path in read("meta_cni", "delegates")}

    assert sorted(folders | {"meta_cni.crds"}) == project["tool"]["setuptools"]["packages"]


BREACHES = {
    "an import upwards": (
        floor_mistakes,
        "meta_cni/cni/result.py",
        "from meta_cni.linux import netlink",
        "meta_cni/cni/result.py:1: meta_cni.cni (floor 0) imports meta_cni.linux (floor 1)",
    ),
    "an import across": (
        floor_mistakes,
        "meta_cni/engine/plan.py",
        "import delegates",
        "meta_cni/engine/plan.py:1: meta_cni.engine (floor 3) imports delegates (floor 3)",
    ),
    "an import inside a function": (
        floor_mistakes,
        "meta_cni/invoke.py",
        "def run():\n    from meta_cni import cli",
        "meta_cni/invoke.py:2: meta_cni.invoke (floor 1) imports meta_cni.cli (floor 7)",
    ),
    "an import by a call": (
        floor_mistakes,
        "meta_cni/invoke.py",
        "import importlib\nimportlib.import_module('meta_cni.cli')",
        "meta_cni/invoke.py:2: meta_cni.invoke (floor 1) imports meta_cni.cli (floor 7)",
    ),
    "a relative import": (
        floor_mistakes,
        "meta_cni/cni/result.py",
        "from . import errors",
        "meta_cni/cni/result.py:1: a relative import",
    ),
    "a delegate that sees another": (
        floor_mistakes,
        "delegates/macvlan.py",
        "from delegates.bridge import Bridge",
        "delegates/macvlan.py:1: a delegate imports delegates.bridge: delegates never see each other",
    ),
    "a delegate that sees who hands out addresses": (
        floor_mistakes,
        "delegates/macvlan.py",
        "from meta_cni.ipam import static",
        "delegates/macvlan.py:1: delegates imports meta_cni.ipam: it sees only "
        "meta_cni.cni, meta_cni.delegate, meta_cni.invoke, meta_cni.linux",
    ),
    "a shim that knows us": (
        floor_mistakes,
        "meta_cni/shim/shim.py",
        "from meta_cni import __version__",
        "meta_cni/shim/shim.py:1: meta_cni.shim imports meta_cni: it sees only nothing of ours",
    ),
    "a package that knows its rooms": (
        floor_mistakes,
        "meta_cni/__init__.py",
        "import meta_cni.cni.errors",
        "meta_cni/__init__.py:1: meta_cni (floor -1) imports meta_cni.cni.errors (floor 0)",
    ),
    "a module without a floor": (
        floor_mistakes,
        "meta_cni/attic.py",
        "",
        "meta_cni/attic.py: give it a floor in tests/test_floors.py",
    ),
    "an import of a module without a floor": (
        floor_mistakes,
        "meta_cni/cli.py",
        "import meta_cni.attic",
        "meta_cni/cli.py:1: imports meta_cni.attic, which has no floor in tests/test_floors.py",
    ),
    "a library beside its door": (
        door_mistakes,
        "meta_cni/engine/engine.py",
        "def run():\n    from pyroute2.netlink import nlmsg",
        "meta_cni/engine/engine.py:2: imports pyroute2: only meta_cni/linux/ may",
    ),
    "a library in the next file": (
        door_mistakes,
        "meta_cni/k8s/file_store.py",
        "import jsonschema",
        "meta_cni/k8s/file_store.py:1: imports jsonschema: only meta_cni/k8s/schema.py may",
    ),
    "a library without a door": (
        door_mistakes,
        "delegates/bridge.py",
        "import requests",
        "delegates/bridge.py:1: imports requests: it has no door",
    ),
    "a drawer": (
        name_mistakes,
        "meta_cni/linux/utils.py",
        "",
        "meta_cni/linux/utils.py: utils is a drawer, not a concept",
    ),
    "a folder that is a drawer": (
        name_mistakes,
        "meta_cni/common/sysctl.py",
        "",
        "meta_cni/common/sysctl.py: common is a drawer, not a concept",
    ),
    "a long function": (
        length_mistakes,
        "meta_cni/cli.py",
        "def run():\n" + "    pass\n" * 50,
        "meta_cni/cli.py:1: run is 51 lines (50 at most)",
    ),
}


def test_a_breach_of_any_rule_is_reported():
    """A check that cannot fail checks nothing."""
    for breach, (rule, path, text, expected) in BREACHES.items():
        assert expected == listed(rule({path: text})), breach


ALLOWED = {
    "meta_cni/__init__.py": "__version__ = '1'",
    "meta_cni/__main__.py": "from meta_cni import cli",
    "meta_cni/cli.py": "import sys, yaml\nfrom meta_cni import __version__, compose",
    "meta_cni/compose.py": "import delegates\nfrom meta_cni.engine import engine",
    "meta_cni/standalone.py": "from delegates.bridge import Bridge",
    "meta_cni/engine/plan.py": "from meta_cni.engine import selection\nfrom meta_cni import delegate",
    "meta_cni/linux/link.py": "from pyroute2.netlink import nlmsg\nfrom meta_cni.cni import errors",
    "meta_cni/shim/shim.py": "import socket",
    "delegates/__init__.py": "from delegates.bridge import Bridge",
    "delegates/bridge.py": "from meta_cni.linux import link\nfrom meta_cni.delegate import Attachment",
}


def test_a_tree_that_keeps_the_rules_is_left_alone():
    """A check that is always red is switched off."""
    for rule in (floor_mistakes, door_mistakes, name_mistakes, length_mistakes):
        assert "" == listed(rule(ALLOWED)), rule.__name__
