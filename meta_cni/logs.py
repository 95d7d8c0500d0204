"""
Where we log: standard error and a file, as the configuration says.

A file that has become too long is renamed and packed, as logOptions says.
"""

import gzip
import logging
import os
import shutil
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from meta_cni.settings import LogOptions, Settings

LEVELS = {
    "panic": logging.CRITICAL,
    "error": logging.ERROR,
    "verbose": logging.INFO,
    "debug": logging.DEBUG,
}
CONTROL = {number: repr(chr(number))[1:-1] for number in (*range(32), 127, *range(128, 160), 0x2028, 0x2029)}
LOG = logging.getLogger("meta_cni")


class OneLine(logging.Formatter):
    """A message is one line, whatever an annotation or a plugin's error had in it; a traceback is not."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Control characters, as Python writes them in a string."""
        return super().formatMessage(record).translate(CONTROL)


def log_to(settings: Settings, formatter: logging.Formatter | None = None) -> None:
    """Log to standard error and to a file, as the configuration says."""
    LOG.setLevel(LEVELS[settings.log_level])
    LOG.propagate = False
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = []
    if settings.is_logged_to_stderr:
        handlers.append(logging.StreamHandler())
    if settings.log_file:
        with suppress(OSError):
            handlers.append(_log_file(settings.log_file, settings.log_options))
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter or OneLine("%(asctime)s [%(levelname)s] %(message)s"))
        LOG.addHandler(handler)


def _log_file(path: str, options: LogOptions) -> RotatingFileHandler:
    handler = RotatingFileHandler(
        path, maxBytes=options.max_size_mb << 20, backupCount=options.max_backups, delay=True
    )
    if options.is_compressed:
        handler.namer = "{}.gz".format
        handler.rotator = _compress
    oldest = time.time() - options.max_age_days * 86400
    for backup in Path(path).parent.glob(f"{Path(path).name}.*"):
        if backup.stat().st_mtime < oldest:
            backup.unlink(missing_ok=True)
    return handler


def _compress(source: str, target: str) -> None:
    with open(source, "rb") as plain, gzip.open(target, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    os.unlink(source)
