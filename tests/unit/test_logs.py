"""Where we log, and how."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_cni.logs import LOG, log_to
from meta_cni.settings import Settings


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    level, handlers = LOG.level, LOG.handlers[:]
    yield
    LOG.setLevel(level)
    for each in set(LOG.handlers) - set(handlers):
        LOG.removeHandler(each)
        each.close()
    LOG.handlers[:] = handlers
    LOG.propagate = True


def test_nobody_writes_a_line_of_his_own(tmp_path: Path):
    """An annotation or a plugin's error with a newline in it must not pass for something that we say."""
    log_to(Settings(log_level="verbose", is_logged_to_stderr=False, log_file=str(tmp_path / "log")))

    LOG.error("%s: %s", "ADD", "no such network 'a\n2026-11-28 [ERROR] node is down\x1b[2J'")
    try:
        raise KeyError("b")
    except KeyError:
        logging.getLogger("meta_cni").exception("a bug")

    first, second, *traceback = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("ADD: no such network 'a\\n2026-11-28 [ERROR] node is down\\x1b[2J'")
    assert second.endswith("[ERROR] a bug")
    assert "Traceback (most recent call last):" == traceback[0]
