"""
A control plane on loopback: the real kube-apiserver on its own etcd, in a directory of its own.

There is no controller and no kubelet: a pod is what a test makes of it, and stays so. The API server
decides who may do what by RBAC, and gives tokens to service accounts.

    with Cluster(assets.find(), directory) as cluster:
        kubeconfig = cluster.write_kubeconfig(directory / "kubeconfig")
"""

import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.assets import Assets
from tests.k8s.certificates import Authority, Pair, json_web_token
from tests.k8s.stand_in import write_kubeconfig

Object = dict[str, Any]
ADDRESS = "127.0.0.1"
ADVERTISED = "192.0.2.1"  # RFC 5737: nobody is told; without one it looks for a default route
START_S = 300.0
STOP_S = 30.0
POLL_S = 0.1
LEEWAY_S = 60
ISSUER = "https://kubernetes.default.svc"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
"""Where objects of a manifest are created."""


class Cluster:
    """It serves while the block runs; stop() and start() keep its objects and its port."""

    def __init__(self, assets: Assets, directory: Path, *arguments: str) -> None:
        """`arguments` are the API server's, beside our own."""
        self.directory = directory
        self._arguments = arguments
        self.authority = Authority()
        self._assets = assets
        self._administrator = self.authority.issue("administrator", "system:masters")
        self._port, self._etcd_port, self._peer_port = free_ports(3)
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        files = {
            "authority.crt": self.authority.certificate,
            **_files("server", self.authority.server(ADDRESS)),
            **_files("accounts", self.authority.server("accounts.test")),
            **_files("administrator", self._administrator),
        }
        for name, text in files.items():
            (directory / name).write_text(text)

    def __enter__(self) -> "Cluster":
        try:
            self._etcd = self._run("etcd", self._assets.etcd, self._etcd_arguments())
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._etcd is not None:
            _end(self._etcd)
            self._etcd = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://{ADDRESS}:{self._port}"

    @property
    def port(self) -> int:
        """Where it serves, on loopback."""
        return self._port

    @property
    def resident_bytes(self) -> int:
        """What both programs have in memory."""
        running = [each for each in (self._etcd, self._server) if each is not None]
        pages = [int(Path(f"/proc/{each.pid}/statm").read_text().split()[1]) for each in running]
        return sum(pages) * 4096

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._server = self._run("kube-apiserver", self._assets.api_server, self._server_arguments())
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"start kube-apiserver: {self._last_words('kube-apiserver')}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the API server, at once, as a node does that loses its power; etcd goes on."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(STOP_S)
            self._server = None

    def compact(self) -> None:
        """Let etcd forget every change so far, as the API server asks of it every five minutes."""
        revision = self._ask_etcd("range", {"key": "AA=="})["header"]["revision"]
        self._ask_etcd("compaction", {"revision": revision, "physical": True})

    def _ask_etcd(self, call: str, body: Object) -> Object:
        connection = http.client.HTTPConnection(ADDRESS, self._etcd_port, timeout=120)
        try:
            connection.request("POST", f"/v3/kv/{call}", json.dumps(body))
            answer = connection.getresponse()
            found: Object = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"ask etcd for {call}: {found}")
        return found

    def ask(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> tuple[int, Object]:
        """One request of the administrator: the status code and the answer."""
        context = ssl.create_default_context(cadata=self.authority.certificate)
        context.load_cert_chain(self.directory / "administrator.crt", self.directory / "administrator.key")
        connection = http.client.HTTPSConnection(ADDRESS, self._port, context=context, timeout=120)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": content_type})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        is_object = answer.getheader("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(text) if is_object else {"message": text.decode(errors="replace")}

    def create(self, *documents: Object) -> None:
        """Objects as a manifest has them; those that are there stay."""
        for each in documents:
            namespace = each["metadata"].get("namespace", "")
            status, answer = self.ask("POST", PATHS[each["kind"]].format(namespace=namespace), each)
            if status not in (201, 409):
                raise RuntimeError(f"create {each['kind']} {each['metadata']['name']}: {answer['message']}")

    def apply(self, manifests: Iterable[Path]) -> None:
        """Every object of these files; a CRD is served when this returns."""
        for path in manifests:
            documents = list(yaml.safe_load_all(path.read_text()))
            self.create(*documents)
            for each in documents:
                if each["kind"] == "CustomResourceDefinition":
                    self._wait_for(each["spec"])

    def token(self, namespace: str, account: str, seconds: int = 3600) -> str:
        """For a service account, by the TokenRequest API; ten minutes are the shortest there are."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"spec": {"expirationSeconds": seconds}}
        kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        status, answer = self.ask("POST", path, {**kind, **asked})
        if status != 201:
            raise RuntimeError(f"create token of {namespace}/{account}: {answer['message']}")
        return str(answer["status"]["token"])

    def sign(self, namespace: str, account: str, seconds: float) -> str:
        """
        A token that is valid for so few seconds, by the key of this server; it says 401 up to ten later.

        A server goes on for a minute after the time that is in a token (go-jose, DefaultLeeway), and keeps
        for ten seconds whom it knew (tokenSuccessCacheTTL). TokenRequest gives none below ten minutes.
        """
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}"
        known = self.ask("GET", path)[1]["metadata"]["uid"]
        bound = {"namespace": namespace, "serviceaccount": {"name": account, "uid": known}}
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now - 3600,
            "nbf": now - 3600,
            "exp": now + int(seconds) - LEEWAY_S,
            "kubernetes.io": bound,
        }
        return json_web_token(claims, (self.directory / "accounts.key").read_text())

    def knows(self, token: str) -> bool:
        """Whether the server takes a token."""
        context = ssl.create_default_context(cadata=self.authority.certificate)
        connection = http.client.HTTPSConnection(ADDRESS, self._port, context=context, timeout=120)
        try:
            connection.request("GET", "/api/v1/pods?limit=1", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status != 401
        finally:
            connection.close()

    def write_kubeconfig(self, path: Path, proxy: str = "", **user: Any) -> Path:
        """A kubeconfig for it; the administrator's, unless a user is given in kubectl's words."""
        cluster = {"server": self.url, "certificate-authority": str(self.directory / "authority.crt")}
        if proxy:
            cluster["proxy-url"] = proxy
        files = {
            "client-certificate": str(self.directory / "administrator.crt"),
            "client-key": str(self.directory / "administrator.key"),
        }
        return write_kubeconfig(path, cluster, user or files)

    def _wait_for(self, definition: Mapping[str, Any]) -> None:
        path = (
            f"/apis/{definition['group']}/{definition['versions'][0]['name']}/{definition['names']['plural']}"
        )
        deadline = time.monotonic() + START_S
        while self.ask("GET", path)[0] != 200:
            if time.monotonic() > deadline:
                raise RuntimeError(f"serve {path}: it is not after {START_S:g} s")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def _run(self, name: str, program: Path, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )

    def _last_words(self, name: str) -> str:
        lines = (self.directory / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-5:]) or "it said nothing"

    def _etcd_arguments(self) -> list[str]:
        client, peer = (f"http://{ADDRESS}:{port}" for port in (self._etcd_port, self._peer_port))
        return [
            f"--data-dir={self.directory / 'etcd'}",
            *(f"--{which}-client-urls={client}" for which in ("listen", "advertise")),
            *(f"--{which}-peer-urls={peer}" for which in ("listen", "initial-advertise")),
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=error",
        ]

    def _server_arguments(self) -> list[str]:
        files = {
            "tls-cert-file": "server.crt",
            "tls-private-key-file": "server.key",
            "client-ca-file": "authority.crt",
            "service-account-key-file": "accounts.key",
            "service-account-signing-key-file": "accounts.key",
        }
        return [
            *(f"--{key}={self.directory / name}" for key, name in files.items()),
            f"--etcd-servers=http://{ADDRESS}:{self._etcd_port}",
            f"--bind-address={ADDRESS}",
            f"--secure-port={self._port}",
            f"--advertise-address={ADVERTISED}",
            f"--service-account-issuer={ISSUER}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            "--allow-privileged",
            "--disable-admission-plugins=ServiceAccount",  # nobody makes the accounts that it wants
            *self._arguments,
        ]


def _files(name: str, pair: Pair) -> dict[str, str]:
    return {f"{name}.crt": pair.certificate, f"{name}.key": pair.key}


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; held together, so that none is told twice."""
    sockets = [socket.create_server((ADDRESS, 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
