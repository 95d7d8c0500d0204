"""
Where the API server is, and who we are there: a pod's service account, or a kubeconfig.

Everything is read from files that change while we run: the kubelet writes a new token in place of an
old one, a kubeconfig is generated again, an authority is replaced. So what was read is read again when
a file of it has changed, when it expires, and when the server says that it does not know us. Keys and
tokens are kept in memory only.

Of a user in a kubeconfig: token, tokenFile, client certificate, exec (client.authentication.k8s.io). What
we would have to pass over is refused: somebody who acts for another one would act with rights of his own.
"""

import base64
import binascii
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import BadConfig, TryAgainLater
from meta_cni.k8s import certificate, exec_credential, proxy
from meta_cni.k8s.proxy import Proxy

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
"""Set by the kubelet in every container."""
EXPIRY_MARGIN_S = 10.0
CHECK_S = 1.0
"""How old an answer may be to whether files have changed."""
OF_SERVICE_ACCOUNT = "as the kubelet mounts it for a pod's service account (automountServiceAccountToken)"
UNKNOWN = ("as", "as-uid", "as-groups", "as-user-extra", "auth-provider", "username", "password")
"""What a kubeconfig's user may have and we do not do."""
CLUSTER_EXTENSION = "client.authentication.k8s.io/exec"
"""Of a cluster in a kubeconfig, for credential plugins."""

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
    proxy: Proxy | None = None
    certificate: str = ""
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    identity: str = ""
    """Where the token or certificate is from, for error texts."""
    expires_s: float | None = None
    files: tuple[str, ...] = ()
    """What it was read from."""
    namespace: str = ""
    """The one that counts where none is named; empty where none is set."""

    @property
    def place(self) -> str:
        """The server and the way there, for error texts."""
        return f"{self.server} by proxy {self.proxy.url}" if self.proxy else self.server

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

    def read() -> Access:
        server = _service(environment)
        token, authority = directory / "token", directory / "ca.crt"
        files = (str(token), str(authority))
        text = _text(authority, OF_SERVICE_ACCOUNT)
        certificate.require_authority(text, str(authority))
        return Access(
            server=server,
            where=f"the service account in {directory}",
            authority=text,
            proxy=proxy.of_environment(server, environment),
            token=_token(_text(token, OF_SERVICE_ACCOUNT), str(token)),
            identity=str(token),
            files=files,
        )

    return Credentials(read)


def _service(environment: Mapping[str, str]) -> str:
    """The API server's service, as a URL; its address may be IPv6."""
    host, port = environment.get(HOST, ""), environment.get(PORT, "")
    for name, text in ((HOST, host), (PORT, port)):
        if not text:
            raise BadConfig(f"environment has no {name}: expected a kubeconfig, or a pod of the cluster")
    if not port.isdecimal():
        raise BadConfig(f"environment {PORT} {port!r}: expected a number")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def of_kubeconfig(*paths: Path, environment: Mapping[str, str] = os.environ) -> Credentials:
    """Those of a kubeconfig's current context; of several, the first that has what is looked for counts."""
    return Credentials(lambda: _read_kubeconfigs(paths, environment))


def _text(path: Path, expected: str = "") -> str:
    """A file that may come later, such as one of a volume, and is not empty."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
    else:
        if text.strip():
            return text
        reason = "it is empty"
    raise TryAgainLater(
        f"read {path}: {reason}" + (f": expected it {expected}" if expected else "")
    ) from None


def _token(text: str, where: str) -> str:
    """A token goes into a line of a request."""
    token = text.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadConfig(f"{where}: expected a token on one line, without spaces")
    return token


def _read_kubeconfigs(paths: Sequence[Path], environment: Mapping[str, str]) -> Access:
    read: list[str] = []
    found = [_Kubeconfig(each, _decoded(each), environment, read) for each in paths]
    whose, context = next(((each, name) for each in found if (name := each.current())), (found[0], ""))
    return whose.access(context, found)


def _decoded(path: Path) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - only where there is a kubeconfig

    try:
        document = yaml.load(_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise BadConfig(f"read kubeconfig {path}: {getattr(error, 'problem', None) or 'no YAML'}") from None
    if not isinstance(document, dict):
        raise BadConfig(f"read kubeconfig {path}: expected an object with clusters, users and contexts")
    return document


@dataclass(frozen=True, slots=True)
class _Kubeconfig:
    """A kubeconfig, decoded; kubectl's names of its keys."""

    path: Path
    document: Mapping[str, Any]
    environment: Mapping[str, str]
    files: list[str]
    """What was read so far, of all that are one."""

    def current(self) -> str:
        """The name of the context to take; empty where it tells none."""
        return str(self.document.get("current-context") or "")

    def access(self, name: str, beside: "Sequence[_Kubeconfig]") -> Access:
        """What one context means; its parts may be in others."""
        if not name:
            raise self._wrong("current-context", "the name of a context")
        self.files.extend(str(each.path) for each in beside)
        where, context = self._find("context", name, beside)
        cluster_name, user_name = where._field(context, "cluster"), where._field(context, "user")
        whose, cluster = where._find("cluster", cluster_name, beside)
        values = whose._server(cluster, f"cluster {cluster_name}")
        if user_name:
            whose, user = where._find("user", user_name, beside)
            values |= whose._identity(user, f"user {user_name}", cluster, str(values["authority"]))
        return Access(
            where=f"kubeconfig {where.path}, context {name}",
            namespace=where._field(context, "namespace"),
            files=tuple(self.files),
            **values,
        )

    def _find(
        self, kind: str, name: str, beside: "Sequence[_Kubeconfig]"
    ) -> "tuple[_Kubeconfig, Mapping[str, Any]]":
        """The first entry of a name, and whose it is."""
        for each in beside:
            entry = each._named(kind, name)
            if entry is not None:
                return each, entry
        raise self._wrong(f"{kind} {name!r}", f"an entry of this name in {kind}s, with an object {kind}")

    def _server(self, cluster: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Where the server is, and how it is known."""
        server = server_of(self._field(cluster, "server"), f"kubeconfig {self.path}, {what}")
        authority = self._pem(cluster, "certificate-authority")
        is_insecure = cluster.get("insecure-skip-tls-verify") or False
        if not isinstance(is_insecure, bool):
            raise self._wrong(f"{what}: insecure-skip-tls-verify {is_insecure!r}", "true or false")
        if is_insecure and authority:
            raise self._wrong(f"{what}: insecure-skip-tls-verify", "no certificate-authority beside it")
        if authority:
            certificate.require_authority(authority, f"kubeconfig {self.path}, {what}: certificate-authority")
        given = self._field(cluster, "proxy-url")
        way = f"kubeconfig {self.path}, {what}: proxy-url"
        return {
            "server": server,
            "authority": authority,
            "is_insecure": is_insecure,
            "server_name": self._field(cluster, "tls-server-name"),
            "proxy": proxy.parse(given, way) if given else proxy.of_environment(server, self.environment),
        }

    def _identity(
        self, user: Mapping[str, Any], what: str, cluster: Mapping[str, Any], authority: str
    ) -> dict[str, Any]:
        """Who we are; nobody where the user has nothing that says it."""
        where = f"kubeconfig {self.path}, {what}"
        for key in UNKNOWN:
            if user.get(key):
                raise self._wrong(f"{what}: {key}", "token, tokenFile, a client certificate or exec")
        if user.get("exec"):
            return self._executed(user["exec"], where, cluster, authority)
        pem = self._pem(user, "client-certificate"), self._pem(user, "client-key")
        if bool(pem[0]) != bool(pem[1]):
            raise self._wrong(what, "both client-certificate and client-key")
        if pem[0]:
            certificate.require_pair(*pem, where)
        token, identity = self._token(user, where)
        return {"certificate": pem[0], "key": pem[1], "token": token, "identity": identity}

    def _wrong(self, what: str, expected: str) -> BadConfig:
        return BadConfig(f"kubeconfig {self.path}: {what}: expected {expected}")

    def _named(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """The entry of a name in one of the three lists."""
        entries = self.document.get(f"{kind}s")
        for each in entries if isinstance(entries, list) else ():
            if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(kind), dict):
                found: Mapping[str, Any] = each[kind]
                return found
        return None

    def _field(self, section: Mapping[str, Any], key: str) -> str:
        """A text; empty where there is none."""
        text = section.get(key)
        if text is not None and not isinstance(text, str):
            raise self._wrong(key, f"a text, not {type(text).__name__}")
        return text or ""

    def _beside(self, name: str) -> Path:
        """A relative path starts where the kubeconfig is."""
        return self.path.parent / name

    def _pem(self, section: Mapping[str, Any], key: str) -> str:
        """Given as data, which wins, or in a file."""
        data = self._field(section, f"{key}-data")
        if data:
            try:
                return base64.b64decode(data, validate=True).decode()
            except (binascii.Error, ValueError):
                raise self._wrong(f"{key}-data", "PEM in base64") from None
        name = self._field(section, key)
        if not name:
            return ""
        path = self._beside(name)
        self.files.append(str(path))
        return _text(path, f"as {key} of kubeconfig {self.path} says")

    def _token(self, user: Mapping[str, Any], where: str) -> tuple[str, str]:
        """And where it stands; a tokenFile wins, as it does for kubectl."""
        name = self._field(user, "tokenFile")
        if not name:
            return _token(self._field(user, "token"), f"{where}: token"), where
        path = self._beside(name)
        self.files.append(str(path))
        return _token(_text(path, f"as tokenFile of {where} says"), str(path)), str(path)

    def _executed(self, given: Any, where: str, cluster: Mapping[str, Any], authority: str) -> dict[str, Any]:
        """What a credential plugin prints."""
        program = exec_credential.parse(given, where, self.path.parent)
        found = exec_credential.run(program, self.environment, _told(cluster, authority))
        if found.certificate:
            certificate.require_pair(found.certificate, found.key, program.where)
        return {
            "token": _token(found.token, program.where),
            "certificate": found.certificate,
            "key": found.key,
            "identity": program.where,
            "expires_s": found.expires_s,
        }


def _told(cluster: Mapping[str, Any], authority: str) -> dict[str, Any]:
    """What a credential plugin may know of a cluster: its authority itself, not its file."""
    keys = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
    told = {key: cluster[key] for key in keys if cluster.get(key)}
    if authority:
        told["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    for each in cluster.get("extensions") or ():
        if isinstance(each, dict) and each.get("name") == CLUSTER_EXTENSION:
            told["config"] = each.get("extension")
    return told


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
