"""
The daemon's log: one JSON object a line, because it is read by machines before it is read by people.

A request is one line, when it has been answered: whose it was, what ran and why, and where the time
went. Of what the runtime sent it has the names of pod, sandbox and interface; the standard input
and other arguments may hold secrets.
"""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from meta_cni.cni.errors import CNIError
from meta_cni.metrics import Timeline

FIELDS = "fields"
ENCODER = json.JSONEncoder(ensure_ascii=False)
LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}


class JSONLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The fields of a request, else the message."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = LEVELS.get(record.levelno, "error")
        told: dict[str, Any] = {"time": f"{second}.{int(record.msecs):03d}Z", "level": level}
        told.update(getattr(record, FIELDS, None) or {"message": record.getMessage()})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        # A byte that was no UTF-8 is a lone surrogate here: in a file it would cost the whole line.
        return ENCODER.encode(told).encode("utf-8", "backslashreplace").decode()


def fields_of(variables: Mapping[str, str], timeline: Timeline, error: CNIError | None) -> dict[str, Any]:
    """What is told of one request."""
    given = dict(each.partition("=")[::2] for each in variables.get("CNI_ARGS", "").split(";"))
    pod = "/".join(filter(None, (given.get("K8S_POD_NAMESPACE"), given.get("K8S_POD_NAME"))))
    told: dict[str, Any] = {
        "verb": variables.get("CNI_COMMAND", ""),
        "sandbox": variables.get("CNI_CONTAINERID", ""),
        "pod": pod,
        "uid": given.get("K8S_POD_UID", ""),
        "interface": variables.get("CNI_IFNAME", ""),
        "code": error.code if error else 0,
        "error": error.message if error else "",
        "ms": _ms(timeline.seconds),
        "steps": {step: _ms(seconds) for step, seconds in timeline.steps_s.items()},
        "plugins": _plugins(timeline),
        "warnings": timeline.warnings,
    }
    return {key: value for key, value in told.items() if value or key in ("verb", "code", "ms")}


def _plugins(timeline: Timeline) -> list[dict[str, Any]]:
    """Every call of a plugin; with the reason where it was chosen for this request."""
    reasons = {(each.interface, each.type): each.reason for each in timeline.chosen}
    return [
        {
            "interface": each.interface,
            "network": each.network,
            "type": each.type,
            "verb": each.verb,
            "how": each.how,
            "ms": _ms(each.seconds),
            **({"why": reasons[each.interface, each.type]} if (each.interface, each.type) in reasons else {}),
            **({"failed": True} if each.is_failed else {}),
        }
        for each in timeline.ran
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
