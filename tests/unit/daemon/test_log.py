"""The daemon's log: a line a request, for machines, and no secrets."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import TryAgainLater
from meta_cni.daemon.log import FIELDS, JSONLines, fields_of
from meta_cni.metrics import BUILT_IN, Chosen, Timeline

ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID=u-1;PASSWORD=secret"
VARIABLES = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_ARGS": ARGS}


def formatted(level: int, message: str, fields: dict[str, Any] | None = None, exc_info: Any = None) -> Any:
    record = logging.LogRecord("meta_cni", level, "f", 1, message, (), exc_info)
    if fields is not None:
        setattr(record, FIELDS, fields)
    text = JSONLines().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_request_is_told_with_what_ran_and_why():
    """Where the time went, by step and by plugin."""
    timeline = Timeline()
    timeline.mark("parse")
    timeline.chosen.append(Chosen("telco/a", "net1", "bridge", BUILT_IN, "every key is built in"))
    with timeline.running("telco/a", "net1", "bridge", "ADD", BUILT_IN):
        pass

    told = formatted(logging.INFO, "x", fields_of(VARIABLES, timeline, None))

    assert isinstance(told.pop("ms"), float)
    assert {"parse"} == told.pop("steps").keys()
    (plugin,) = told.pop("plugins")
    assert isinstance(plugin.pop("ms"), float)
    assert {
        "interface": "net1",
        "network": "telco/a",
        "type": "bridge",
        "verb": "ADD",
        "how": "built in",
        "why": "every key is built in",
    } == plugin
    assert told.pop("time").endswith("Z")
    assert {
        "level": "info",
        "verb": "ADD",
        "sandbox": "c1",
        "pod": "telco/p",
        "uid": "u-1",
        "interface": "eth0",
        "code": 0,
    } == told


def test_what_was_asked_for_and_is_not_done_is_told():
    """Nobody looks at a plan of a pod that started."""
    timeline = Timeline(warnings=["deviceID 0000:03:02.1 is not used"])

    told = formatted(logging.INFO, "x", fields_of(VARIABLES, timeline, None))

    assert ["deviceID 0000:03:02.1 is not used"] == told["warnings"]


def test_a_failure_is_told_with_its_code_and_words():
    """Once, where it is answered."""
    told = formatted(logging.ERROR, "x", fields_of(VARIABLES, Timeline(), TryAgainLater("not yet")))

    assert ("error", 11, "not yet") == (told["level"], told["code"], told["error"])


def test_of_the_runtime_s_arguments_only_the_pod_is_told():
    """The others may be anything."""
    assert "secret" not in json.dumps(fields_of(VARIABLES, Timeline(), None))


def test_a_name_that_is_no_text_does_not_cost_the_line(tmp_path: Path):
    """Variables are bytes; a file that takes UTF-8 alone would get nothing of the request."""
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    handler.setFormatter(JSONLines())
    record = logging.LogRecord("meta_cni", logging.INFO, "f", 1, "pod \udcff \u00e9", (), None)

    handler.handle(record)
    handler.close()

    assert "pod \udcff \u00e9" == json.loads((tmp_path / "log").read_text(encoding="utf-8"))["message"]


def test_any_other_record_is_a_line_too():
    """With its traceback in it."""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        told = formatted(logging.WARNING, "a\nb", exc_info=sys.exc_info())

    assert ("warning", "a\nb") == (told["level"], told["message"])
    assert "ZeroDivisionError" in told["traceback"]
