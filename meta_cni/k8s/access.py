"""
Where the API server is, and who we are there: a pod's service account, or a kubeconfig.

Everything is read from files that change while we run: the kubelet writes a new token in place of an
old one, a kubeconfig is generated again, an authority is replaced. So what was read is read again when
a file of it has changed, when it expires, and when the server says that it does not know us. Keys and
tokens are kept in memory only.

Of a user in a kubeconfig: token, tokenFile, client certificate, exec (client.authentication.k8s.io).
"""

import base64
import binascii
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import BadConfig, TryAgainLater

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
"""Set by the kubelet in every container."""
EXEC_API = "client.authentication.k8s.io/"
EXEC_VERSIONS = ("v1", "v1beta1")
EXEC_INFO = "KUBERNETES_EXEC_INFO"
EXEC_DEADLINE_S = 10.0
EXPIRY_MARGIN_S = 10.0
CHECK_S = 1.0
"""How old an answer may be to whether files have changed."""

Stamps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """All that a connection needs, as it was read; texts are PEM."""

    server: str
    where: str
    """Whose words these are, for error texts."""
    authority: str = ""
    """Certificates that sign the server's; empty for those of the system."""
    is_insecure: bool = False
    server_name: str = ""
    proxy: str = ""
    """Empty for that of the environment, if any."""
    certificate: str = ""
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    expires_s: float | None = None
    files: tuple[str, ...] = ()
    """What it was read from."""
    namespace: str = ""
    """The one that counts where none is named; empty where none is set."""

    @property
    def connection(self) -> tuple[object, ...]:
        """What a connection is made with; the token is said anew with every request."""
        identity = (self.certificate, self.key)
        return self.server, self.authority, self.is_insecure, self.server_name, self.proxy, *identity


class Credentials:
    """An access that is read again when it has changed; may be used by several threads."""

    def __init__(self, read: Callable[[], Access], clock: Callable[[], float] = time.time) -> None:
        """`read` raises BadConfig, or TryAgainLater where a file is not there (yet)."""
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Access | None = None
        self._stamps: Stamps = ()
        self._checked_s = 0.0

    def current(self) -> Access:
        """The access as its files have it."""
        with self._lock:
            now = self._clock()
            known = self._known
            if known is not None and 0 <= now - self._checked_s < CHECK_S and not _is_expired(known, now):
                return known
            self._checked_s = now
            if known is None or _is_expired(known, now) or self._stamps != _stamps(known.files):
                return self._renewed()
            return known

    def renew(self, refused: Access) -> Access:
        """The access read again, unless another thread has done so since it was refused."""
        with self._lock:
            return self._renewed() if self._known is refused or self._known is None else self._known

    def _renewed(self) -> Access:
        """Stamps are taken before reading: a change in between is seen the next time."""
        before = _stamps(self._known.files) if self._known else ()
        found = self._read()
        self._stamps = before if self._known and self._known.files == found.files else _stamps(found.files)
        self._known = found
        return found


def _is_expired(access: Access, now: float) -> bool:
    return access.expires_s is not None and now > access.expires_s - EXPIRY_MARGIN_S


def _stamps(files: tuple[str, ...]) -> Stamps:
    """By what it is seen that a file is another one; a projected one is a link."""
    found = []
    for each in files:
        try:
            status = os.stat(each)
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def is_in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the kubelet has told us where the API server is."""
    return bool(environment.get(HOST) and environment.get(PORT))


def in_cluster(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Credentials:
    """Those of the pod's service account, at the address that the environment names."""
    host, port = environment[HOST], environment[PORT]
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def read() -> Access:
        token, authority = directory / "token", directory / "ca.crt"
        where = f"the service account in {directory}"
        files = (str(token), str(authority))
        return Access(server, where, _text(authority), token=_text(token).strip(), files=files)

    return Credentials(read)


def of_kubeconfig(path: Path, context: str = "") -> Credentials:
    """Those of a context in a kubeconfig, the current one by default."""
    return Credentials(lambda: _read_kubeconfig(path, context))


def _text(path: Path) -> str:
    """A file that may come later, such as one of a volume."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "expected text"
        raise TryAgainLater(f"read {path}: {reason}") from None


def _read_kubeconfig(path: Path, context: str) -> Access:
    import yaml  # noqa: PLC0415 - only where there is a kubeconfig

    try:
        document = yaml.load(_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise BadConfig(f"read kubeconfig {path}: {getattr(error, 'problem', None) or 'no YAML'}") from None
    if not isinstance(document, dict):
        raise BadConfig(f"read kubeconfig {path}: expected an object with clusters, users and contexts")
    return _Kubeconfig(path, document).access(context or str(document.get("current-context") or ""))


@dataclass(frozen=True, slots=True)
class _Kubeconfig:
    """A kubeconfig, decoded; kubectl's names of its keys."""

    path: Path
    document: Mapping[str, Any]

    def access(self, name: str) -> Access:
        """What one context means."""
        if not name:
            raise BadConfig(f"kubeconfig {self.path}: expected current-context")
        context = self._named("context", name)
        cluster = self._named("cluster", str(context.get("cluster") or ""))
        user_name = str(context.get("user") or "")
        user = self._named("user", user_name) if user_name else {}
        server = server_of(str(cluster.get("server") or ""), f"kubeconfig {self.path}")
        files = [str(self.path)]
        values: dict[str, Any] = {
            "authority": self._pem(cluster, "certificate-authority", files),
            "is_insecure": bool(cluster.get("insecure-skip-tls-verify")),
            "server_name": str(cluster.get("tls-server-name") or ""),
            "proxy": str(cluster.get("proxy-url") or ""),
            "certificate": self._pem(user, "client-certificate", files),
            "key": self._pem(user, "client-key", files),
            "token": self._token(user, files),
            "namespace": str(context.get("namespace") or ""),
        }
        if values["is_insecure"] and values["authority"]:
            raise self._wrong("insecure-skip-tls-verify", "no certificate-authority beside it")
        if bool(values["certificate"]) != bool(values["key"]):
            raise self._wrong(f"user {user_name}", "both client-certificate and client-key")
        if user.get("exec"):
            values.update(self._executed(user["exec"], cluster))
        elif user.get("auth-provider") or user.get("username"):
            raise self._wrong(f"user {user_name}", "token, tokenFile, a client certificate or exec")
        where = f"kubeconfig {self.path}, context {name}"
        return Access(server=server, where=where, files=tuple(files), **values)

    def _wrong(self, what: str, expected: str) -> BadConfig:
        return BadConfig(f"kubeconfig {self.path}: {what}: expected {expected}")

    def _named(self, kind: str, name: str) -> Mapping[str, Any]:
        """The entry of a name in one of the three lists."""
        entries = self.document.get(f"{kind}s")
        for each in entries if isinstance(entries, list) else ():
            if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(kind), dict):
                found: Mapping[str, Any] = each[kind]
                return found
        raise self._wrong(f"{kind} {name!r}", f"an entry of this name in {kind}s")

    def _beside(self, name: str) -> Path:
        """A relative path starts where the kubeconfig is."""
        return self.path.parent / name

    def _pem(self, section: Mapping[str, Any], key: str, files: list[str]) -> str:
        """Given as data, which wins, or in a file."""
        data = section.get(f"{key}-data")
        if data:
            try:
                return base64.b64decode(str(data), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise self._wrong(f"{key}-data", "PEM in base64") from None
        if not section.get(key):
            return ""
        path = self._beside(str(section[key]))
        files.append(str(path))
        return _text(path)

    def _token(self, user: Mapping[str, Any], files: list[str]) -> str:
        """A tokenFile wins, as it does for kubectl."""
        if user.get("tokenFile"):
            path = self._beside(str(user["tokenFile"]))
            files.append(str(path))
            return _text(path).strip()
        return str(user.get("token") or "")

    def _executed(self, given: Any, cluster: Mapping[str, Any]) -> dict[str, Any]:
        """What a credential plugin prints."""
        section = given if isinstance(given, dict) else {}
        command = str(section.get("command") or "")
        api_version = str(section.get("apiVersion") or "")
        if not command or api_version.removeprefix(EXEC_API) not in EXEC_VERSIONS:
            versions = " or ".join(EXEC_API + each for each in EXEC_VERSIONS)
            raise self._wrong("exec", f"command, and apiVersion {versions}")
        if section.get("interactiveMode") == "Always":
            raise self._wrong(f"exec {command}", "one that asks nobody: interactiveMode is Always")
        program = str(self._beside(command)) if "/" in command else command
        information: dict[str, Any] = {
            "apiVersion": api_version,
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
        if section.get("provideClusterInfo"):
            information["spec"]["cluster"] = dict(cluster)
        named = {str(each["name"]): str(each["value"]) for each in section.get("env") or ()}
        environment = {**os.environ, **named, EXEC_INFO: json.dumps(information)}
        arguments = [str(each) for each in section.get("args") or ()]
        return _credential(f"kubeconfig {self.path}: exec {command}", [program, *arguments], environment)


def _credential(where: str, command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a credential plugin within its deadline; raises TryAgainLater."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=EXEC_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TryAgainLater(f"{where}: no answer within {EXEC_DEADLINE_S:g} s") from None
    except OSError as error:
        raise TryAgainLater(f"{where}: {error.strerror}") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise TryAgainLater(f"{where}: exit code {done.returncode}: {last}")
    try:
        status = json.loads(done.stdout)["status"]
        expiry = status.get("expirationTimestamp")
        return {
            "token": str(status.get("token") or ""),
            "certificate": str(status.get("clientCertificateData") or ""),
            "key": str(status.get("clientKeyData") or ""),
            "expires_s": datetime.fromisoformat(expiry).timestamp() if expiry else None,
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TryAgainLater(f"{where}: expected an ExecCredential with a status") from None


def server_of(text: str, where: str) -> str:
    """
    A server's address, as a URL without a slash in the end.

    Multus' generated kubeconfig has IPv4 addresses in brackets; they are taken out.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("https", "http") or not rest:
        raise BadConfig(f"{where}: server {text!r}: expected https://HOST:PORT")
    authority, slash, path = rest.partition("/")
    host, bracket, port = authority.partition("]")
    if authority.startswith("[") and bracket:
        try:
            address = ip_address(host[1:].partition("%")[0])
        except ValueError:
            raise BadConfig(f"{where}: server {text!r}: expected an address between brackets") from None
        authority = f"{address}{port}" if isinstance(address, IPv4Address) else authority
    return f"{scheme}://{authority}{slash}{path}".rstrip("/")
