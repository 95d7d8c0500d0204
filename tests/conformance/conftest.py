"""The process moves into namespaces of its own; what was compared with is told."""

from pathlib import Path

import pytest

from meta_cni.linux import netns
from tests.conformance.differences import Applied
from tests.conformance.programs import Executables, find_reference
from tests.netns import private

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a whole run they come last: tests of elsewhere may need the machine's network before."""
    items.sort(key=lambda item: item.path.is_relative_to(HERE))


@pytest.fixture(scope="session", autouse=True)
def private_node(tmp_path_factory: pytest.TempPathFactory) -> netns.Private:
    """As in tests/netns."""
    tmp_path_factory.getbasetemp()
    return private.enter()


@pytest.fixture(scope="session")
def applied() -> Applied:
    """What the table of differences was needed for."""
    return Applied()


@pytest.fixture(scope="session")
def executables(tmp_path_factory: pytest.TempPathFactory) -> Executables:
    """The built-ins as programs of their own."""
    return Executables.install(tmp_path_factory.mktemp("plugins"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which reference it was."""
    reference = find_reference()
    told = f"{reference.version} ({reference.directory.name})" if reference.version else "none"
    terminalreporter.write_line(f"conformance: reference plugins {told}")
