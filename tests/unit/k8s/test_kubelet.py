"""What the kubelet handed to a pod, asked over a real gRPC server, and what when it does not say."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from meta_cni.cni.errors import TryAgainLater
from meta_cni.k8s import grpc
from meta_cni.k8s import kubelet as kubelets
from meta_cni.k8s.kubelet import Kubelet
from tests.kubelet import FakeKubelet, pod

SRIOV = "intel.com/sriov"
VFS = ["0000:03:02.0", "0000:03:02.1"]
ENTRY = {"PodUID": "u", "ContainerName": "app", "ResourceName": SRIOV, "DeviceIDs": {"0": ["0000:03:02.5"]}}


def ids(kubelet: Kubelet, name: str = "p", uid: str = "u") -> list[str]:
    return [each.device_id for each in kubelet.allocation("telco", name, uid).devices]


@pytest.mark.parametrize("served", ["served", "disabled", "absent"])
def test_devices_come_container_by_container_by_their_names(fake_kubelet: FakeKubelet, served: str):
    """The kubelet tells those of a container in any order, another one each time: P-18."""
    others = [pod(("app", [(SRIOV, ["0000:03:02.7"])]), name="p", namespace=each) for each in ("a", "b")]
    containers = (
        ("sidecar", [(SRIOV, VFS[:1]), ("vendor.com/nic", ["mlx5_core.sf.4"])]),
        ("app", [(SRIOV, ["0000:03:02.3"]), (SRIOV, VFS[1:]), (SRIOV, VFS[:1]), (SRIOV, ["0000:03:02.2"])]),
        ("idle", []),
    )
    fake_kubelet.answer(others[0], pod(*containers), others[1], get=served)

    found = Kubelet(fake_kubelet.directory, 30).allocation("telco", "p", "")

    assert found.is_known
    expected = [
        (SRIOV, VFS[0], "sidecar"),
        ("vendor.com/nic", "mlx5_core.sf.4", "sidecar"),
        *((SRIOV, each, "app") for each in (VFS[1], "0000:03:02.2", "0000:03:02.3")),
    ]
    assert expected == [(each.resource, each.device_id, each.container) for each in found.devices]
    assert {f"kubelet {fake_kubelet.socket}"} == {each.source for each in found.devices}


@pytest.mark.parametrize(
    ("served", "expected"),
    [("served", ["Get", "Get"]), ("disabled", ["Get", "List", "List"]), ("absent", ["Get", "List", "List"])],
)
def test_a_kubelet_without_get_is_asked_for_it_once(
    fake_kubelet: FakeKubelet, served: str, expected: list[str]
):
    """Behind its gate Get answers with an error that has no status of its own."""
    fake_kubelet.answer(pod(("app", [(SRIOV, VFS)])), get=served)
    kubelet = Kubelet(fake_kubelet.directory, 30)

    assert [VFS, VFS] == [ids(kubelet), ids(kubelet)]

    assert expected == fake_kubelet.calls()


def test_a_pod_that_the_kubelet_does_not_know_is_told_apart(fake_kubelet: FakeKubelet):
    """A pod without devices is another thing; and Get is still served."""
    fake_kubelet.answer(pod(("app", []), name="bare"))
    kubelet = Kubelet(fake_kubelet.directory, 30)

    found = [kubelet.allocation("telco", each, "").is_known for each in ("p", "bare")]

    assert [False, True] == found
    assert ["Get", "List", "Get"] == fake_kubelet.calls()


def test_two_pods_of_one_name_are_not_mixed(fake_kubelet: FakeKubelet):
    """List has no UIDs: while the one before is still there, nobody can tell whose devices these are."""
    fake_kubelet.answer(pod(("app", [(SRIOV, VFS[:1])])), pod(("app", [(SRIOV, VFS[1:])])), get="absent")

    with pytest.raises(TryAgainLater, match="has 2 pods telco/p: expected one"):
        ids(Kubelet(fake_kubelet.directory, 30))


def test_a_kubelet_that_is_asked_too_often_is_asked_again(fake_kubelet: FakeKubelet):
    """It takes 100 calls a second from all of the node together (gRPC status 8)."""
    fake_kubelet.answer(pod(("app", [(SRIOV, VFS)])), statuses=[8, 8])

    assert VFS == ids(Kubelet(fake_kubelet.directory, 30))

    assert ["Get"] * 3 == fake_kubelet.calls()


def test_and_not_for_ever(fake_kubelet: FakeKubelet, mocker):
    """The runtime repeats an ADD by itself."""
    mocker.patch.object(kubelets, "PAUSES_S", (0.001,) * 2)
    fake_kubelet.answer(statuses=[8] * 9)
    kubelet = Kubelet(fake_kubelet.directory, 30)

    with pytest.raises(TryAgainLater, match="gRPC status 8: as the test wants it"):
        ids(kubelet)

    assert (3, 1, 1) == (len(fake_kubelet.calls()), kubelet.questions, kubelet.failures)


@pytest.mark.parametrize("status", [7, 13, 14, 16])
def test_any_other_status_is_told_and_no_reason_to_use_the_checkpoint(fake_kubelet: FakeKubelet, status: int):
    """The kubelet is there; what it says later counts."""
    fake_kubelet.checkpoint.write_text(json.dumps({"Data": {"PodDeviceEntries": [ENTRY]}}))
    fake_kubelet.answer(statuses=[status])

    with pytest.raises(TryAgainLater, match=f"call Get of .*: gRPC status {status}: as the test wants it"):
        ids(Kubelet(fake_kubelet.directory, 30))


def test_a_slow_kubelet_is_not_waited_for_without_end(fake_kubelet: FakeKubelet):
    """Code 11 within the time that is set."""
    fake_kubelet.answer(pod(("app", [(SRIOV, VFS)])), delay_s=5)

    with pytest.raises(
        TryAgainLater, match=r"call Get of .*kubelet.sock: (no answer within [\d.]+ s|gRPC status 4)"
    ):
        ids(Kubelet(fake_kubelet.directory, 1.0))


def test_a_big_answer_comes_whole(fake_kubelet: FakeKubelet):
    """More than the windows of HTTP/2, so the server waits until it is told to go on."""
    fake_kubelet.answer(pod(("app", [(SRIOV, VFS)])), get="absent", padding=3 << 20)

    assert VFS == ids(Kubelet(fake_kubelet.directory, 60))


def test_a_huge_answer_is_refused(fake_kubelet: FakeKubelet, mocker):
    """No server makes us take as much memory as it likes."""
    mocker.patch.object(kubelets, "LIMIT", 1 << 20)
    fake_kubelet.answer(get="absent", padding=3 << 20)

    with pytest.raises(TryAgainLater, match="an answer of more than 1048576 bytes"):
        ids(Kubelet(fake_kubelet.directory, 60))


@contextmanager
def listening(directory: Path, serve: Callable[[socket.socket], None]) -> Iterator[Kubelet]:
    """A server that takes one caller and treats him badly."""
    path = directory / kubelets.SOCKET
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)

        def take() -> None:
            caller, _ = server.accept()
            with caller:
                serve(caller)

        thread = threading.Thread(target=take)
        thread.start()
        yield Kubelet(directory, 10)
        thread.join()


def said(
    *frames: Callable[[H2Connection, int], None], headers: bool = True
) -> Callable[[socket.socket], None]:
    """Take the request, and answer with these frames; the connection ends behind them."""

    def serve(caller: socket.socket) -> None:
        http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        stream = 0
        while not stream:
            asked = [
                each for each in http.receive_data(caller.recv(65536)) if isinstance(each, RequestReceived)
            ]
            stream = asked[0].stream_id if asked else 0
        if headers:
            http.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        for frame in frames:
            frame(http, stream)
        caller.sendall(http.data_to_send())
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(65536):
            pass

    return serve


def body(data: bytes) -> Callable[[H2Connection, int], None]:
    return lambda http, stream: http.send_data(stream, data)


def trailers(*headers: tuple[str, str]) -> Callable[[H2Connection, int], None]:
    return lambda http, stream: http.send_headers(stream, list(headers), end_stream=True)


OK = ("grpc-status", "0")
BAD = {
    "silence": (lambda caller: None, "went away before|Connection reset|Broken pipe"),
    "no HTTP/2": (
        lambda caller: caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9),
        "no HTTP/2|reset|Broken pipe",
    ),
    "half a message": (said(body(b"\0\0\0\0\x09ab")), "went away before its answer was complete"),
    "a message cut short": (said(body(b"\0\0\0\0\x09ab"), trailers(OK)), "expected one message of 9 bytes"),
    "two messages": (said(body(b"\0\0\0\0\0" * 2), trailers(OK)), "expected one message of 0 bytes"),
    "compressed": (said(body(b"\1\0\0\0\1a"), trailers(OK)), "not compressed"),
    "no message": (said(trailers(OK)), "an answer without a message"),
    "no status": (said(body(b"\0\0\0\0\0"), trailers(("x", "y"))), "no grpc-status"),
    "no number": (said(body(b"\0\0\0\0\0"), trailers(("grpc-status", "x"))), "no grpc-status"),
    "no gRPC": (said(trailers((":status", "404")), headers=False), "no gRPC: HTTP status 404"),
    "reset": (said(lambda http, stream: http.reset_stream(stream, 8)), "the server broke off"),
    "goes away": (said(lambda http, stream: http.close_connection(2)), "the server broke off"),
    "no protobuf": (said(body(b"\0\0\0\0\1\x0b"), trailers(OK)), "read the answer of kubelet .* wire type 3"),
    "half a pod": (
        said(body(b"\0\0\0\0\4\x0a\2\x1a\x09"), trailers(OK)),
        "read the answer of kubelet .*: field 3 ends behind its message",
    ),
    "said nothing": (
        said(
            trailers(("grpc-status", "13")),
        ),
        "gRPC status 13: without a word",
    ),
    "percent": (said(trailers(("grpc-status", "13"), ("grpc-message", "caf%C3%A9"))), "status 13: café"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_server_that_answers_wrongly_is_told_and_asked_again_later(tmp_path_factory, case: str):
    """Nothing of half an answer counts."""
    serve, expected = BAD[case]

    with (
        listening(tmp_path_factory.mktemp("k"), serve) as kubelet,
        pytest.raises(TryAgainLater, match=expected),
    ):
        ids(kubelet)


@pytest.fixture
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a kubelet that does not run, with a checkpoint."""
    directory = tmp_path_factory.mktemp("k")
    path = directory / kubelets.CHECKPOINT
    path.parent.mkdir()
    path.write_text(json.dumps({"Data": {"PodDeviceEntries": [ENTRY]}}))
    return directory


def test_without_a_socket_the_checkpoint_counts(away: Path):
    """As Multus has it."""
    found = Kubelet(away).allocation("telco", "p", "u")

    assert (True, f"checkpoint {away / kubelets.CHECKPOINT}") == (found.is_known, found.source)
    assert ["0000:03:02.5"] == [each.device_id for each in found.devices]


def test_when_nobody_listens_the_checkpoint_counts(away: Path):
    """A kubelet that ended leaves its socket, and what it handed out stays handed out."""
    path = away / kubelets.SOCKET
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))

    assert ["0000:03:02.5"] == ids(Kubelet(away))


@pytest.mark.parametrize(("uid", "expected"), [("other", "checkpoint"), ("", "No such file.*goes by UIDs")])
def test_a_pod_that_the_checkpoint_does_not_have_is_not_known(away: Path, uid: str, expected: str):
    """It may come to have devices yet."""
    found = Kubelet(away).allocation("telco", "p", uid)

    assert ((), False) == (found.devices, found.is_known)
    assert re.search(expected, found.source)


def test_a_node_without_a_kubelet_is_said_to_be_one(tmp_path: Path):
    """Both places are named, and so does /readyz once somebody needed it."""
    kubelet = Kubelet(tmp_path)
    before = kubelet.problem()

    found = kubelet.allocation("telco", "p", "u")

    assert not found.is_known
    assert "kubelet.sock: No such file or directory, and no checkpoint" in found.source
    assert ("", True) == (before, "find the kubelet's devices: expected" in kubelet.problem())


def test_callers_that_do_not_fit_are_told_so(tmp_path_factory: pytest.TempPathFactory):
    """A kubelet that hangs has its queue full at once; connect(2) then answers EAGAIN."""
    directory = tmp_path_factory.mktemp("k")
    path = directory / kubelets.SOCKET
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))

            with pytest.raises(grpc.CallFailed, match="too many callers wait already"):
                ids(Kubelet(directory, 0.5))
