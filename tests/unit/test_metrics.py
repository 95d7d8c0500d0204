"""Where a request's time went, and what is told of all requests."""

import subprocess
import sys

import pytest
from pytest_mock import MockerFixture

from meta_cni.metrics import BUILT_IN, Metrics, Reading, Timeline


def lines(metrics: Metrics, start: str) -> list[str]:
    return [each for each in metrics.exposed().decode().splitlines() if each.startswith(start)]


def test_every_moment_belongs_to_a_step():
    """A step that comes twice is one with the time of both."""
    timeline = Timeline()

    for step in ("parse", "ledger", "attach", "ledger"):
        timeline.mark(step)

    assert ["parse", "ledger", "attach"] == list(timeline.steps_s)
    assert pytest.approx(timeline.seconds, abs=0.01) == sum(timeline.steps_s.values())


def test_a_plugin_that_fails_is_told_as_such():
    """Its time counts all the same."""
    timeline = Timeline()

    with pytest.raises(KeyError), timeline.running("net", "net1", "bridge", "ADD", BUILT_IN):
        raise KeyError
    with timeline.running("net", "net1", "bridge", "DEL", BUILT_IN):
        pass

    assert [("ADD", True), ("DEL", False)] == [(each.verb, each.is_failed) for each in timeline.ran]


def test_networks_that_are_no_more_have_no_series(mocker: MockerFixture):
    """A cluster that makes a network a test would fill the daemon's memory, and Prometheus'."""
    mocker.patch("meta_cni.metrics.NETWORKS", 2)
    metrics = Metrics()
    for network in ("a", "b", "a", "c"):
        timeline = Timeline()
        for verb in ("ADD", "DEL"):
            with timeline.running(network, "net1", "bridge", verb, BUILT_IN):
                pass
        metrics.observe("ADD", timeline, 0)

    counts = lines(metrics, "meta_cni_network_duration_seconds_count")

    assert [("a", "ADD", "2.0"), ("a", "DEL", "2.0"), ("c", "ADD", "1.0"), ("c", "DEL", "1.0")] == sorted(
        (each.split('"')[1], each.split('"')[3], each.split()[-1]) for each in counts
    )


def test_requests_networks_plugins_and_errors_are_counted():
    """By verb, network and plugin; two plugins of one attachment are one of its network."""
    metrics, timeline = Metrics(), Timeline()
    for plugin, how in (("bridge", BUILT_IN), ("portmap", "/opt/cni/bin/portmap")):
        with timeline.running("telco/media", "net1", plugin, "ADD", how):
            pass

    metrics.observe("ADD", timeline, 0)
    metrics.observe("ADD", Timeline(), 11)
    metrics.observe("made up", Timeline(), 4)

    assert lines(metrics, "meta_cni_request_duration_seconds_count") == [
        'meta_cni_request_duration_seconds_count{verb="ADD"} 2.0',
        'meta_cni_request_duration_seconds_count{verb="other"} 1.0',
    ]
    assert lines(metrics, "meta_cni_network_duration_seconds_count") == [
        'meta_cni_network_duration_seconds_count{network="telco/media",verb="ADD"} 1.0'
    ]
    assert lines(metrics, "meta_cni_delegate_duration_seconds_count") == [
        'meta_cni_delegate_duration_seconds_count{how="built in",type="bridge",verb="ADD"} 1.0',
        'meta_cni_delegate_duration_seconds_count{how="executed",type="portmap",verb="ADD"} 1.0',
    ]
    assert lines(metrics, "meta_cni_errors_total") == [
        'meta_cni_errors_total{code="11",verb="ADD"} 1.0',
        'meta_cni_errors_total{code="4",verb="other"} 1.0',
    ]


@pytest.mark.parametrize(("code", "label"), [(7, "7"), (999, "999"), (1000, "other"), (-1, "other")])
def test_codes_are_bounded_whatever_plugins_answer(code: int, label: str):
    """A plugin with a new number for each failure would fill Prometheus."""
    metrics = Metrics()

    metrics.observe("ADD", Timeline(), code)

    assert [f'meta_cni_errors_total{{code="{label}",verb="ADD"}} 1.0'] == lines(
        metrics, "meta_cni_errors_total"
    )


def test_what_is_looked_up_is_looked_up_when_somebody_asks():
    """With its labels; what counts up is called so."""
    value = 1.0

    def read() -> list[Reading]:
        pool = {"network": "net", "range": "10.0.0.0/24"}
        return [
            Reading("meta_cni_queue_length", "h", value),
            Reading("meta_cni_pool_free_addresses", "h", 250, pool),
            Reading("meta_cni_pool_free_addresses", "h", 9, pool | {"network": "other"}),
            Reading("meta_cni_calls_refused", "h", 3, is_counter=True),
        ]

    metrics = Metrics(read)
    value = 2.0

    assert ["meta_cni_queue_length 2.0"] == lines(metrics, "meta_cni_queue_length")
    assert lines(metrics, "meta_cni_pool") == [
        'meta_cni_pool_free_addresses{network="net",range="10.0.0.0/24"} 250.0',
        'meta_cni_pool_free_addresses{network="other",range="10.0.0.0/24"} 9.0',
    ]
    assert ["meta_cni_calls_refused_total 3.0"] == lines(metrics, "meta_cni_calls_refused")


def test_a_plugin_call_imports_no_metrics_library():
    """It takes 60 ms, and nobody asks a process for metrics that ends at once."""
    program = "import sys, meta_cni.compose; print('prometheus_client' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert "False\n" == printed.stdout
