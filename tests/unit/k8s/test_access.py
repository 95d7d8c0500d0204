"""Who we are and where the server is, as it is written down; and what is said where a part is missing."""

import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meta_cni.cni.errors import BadConfig, CNIError, TryAgainLater
from meta_cni.k8s.access import HOST, PORT, Access, in_cluster, is_in_cluster, of_kubeconfig
from meta_cni.k8s.proxy import Proxy
from tests.k8s.certificates import Authority
from tests.k8s.stand_in import write_kubeconfig

AUTHORITY = Authority()
PAIR, OTHER = AUTHORITY.issue("us", "system:nodes"), AUTHORITY.issue("others", "system:nodes")
SERVER = "https://10.96.0.1:443"
Document = dict[str, Any]


def data(text: str) -> str:
    """As the keys that end with -data have it."""
    return base64.b64encode(text.encode()).decode()


def read(
    directory: Path, cluster: Document, user: Document, environment: dict[str, str] | None = None
) -> Access:
    """What a kubeconfig with these means."""
    path = write_kubeconfig(directory / "kubeconfig", {"server": SERVER, **cluster}, user)
    return of_kubeconfig(path, environment={**os.environ, **(environment or {})}).current()


def program(path: Path, text: str) -> Path:
    """A script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_certificates_are_given_as_data_or_in_files_beside(tmp_path: Path):
    """Data wins; a relative path starts at the kubeconfig."""
    (tmp_path / "ca.crt").write_text(AUTHORITY.certificate)
    (tmp_path / "our.crt").write_text(PAIR.certificate)
    (tmp_path / "our.key").write_text(PAIR.key)
    files = {"client-certificate": "our.crt", "client-key": "our.key"}
    inline = {"client-certificate-data": data(OTHER.certificate), "client-key-data": data(OTHER.key)}

    by_file = read(tmp_path, {"certificate-authority": "ca.crt"}, files)
    by_data = read(tmp_path, {"certificate-authority-data": data(AUTHORITY.certificate)}, {**files, **inline})

    assert (AUTHORITY.certificate, PAIR.certificate, PAIR.key) == (
        by_file.authority,
        by_file.certificate,
        by_file.key,
    )
    assert (AUTHORITY.certificate, OTHER.certificate) == (by_data.authority, by_data.certificate)
    assert [str(tmp_path / each) for each in ("kubeconfig", "ca.crt", "our.crt", "our.key")] == list(
        by_file.files
    )


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({}, Proxy("http://of-environment:1")),
        ({"proxy-url": "http://own:2"}, Proxy("http://own:2")),
        ({"server": "https://10.0.0.1"}, None),
        ({"server": "https://10.0.0.1", "proxy-url": "http://own:2"}, Proxy("http://own:2")),
    ],
)
def test_a_proxy_url_wins_over_the_environment(tmp_path: Path, cluster: Document, expected: Proxy | None):
    """NO_PROXY does not count for it."""
    environment = {"HTTPS_PROXY": "http://of-environment:1", "NO_PROXY": "10.0.0.0/24"}

    assert expected == read(tmp_path, cluster, {}, environment).proxy


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./program"}
WRONG: dict[str, tuple[Document, Document, str]] = {
    "no server": ({"server": ""}, {}, "cluster here: server '': expected https://HOST:PORT"),
    "a server without a scheme": (
        {"server": "10.96.0.1"},
        {},
        "server '10.96.0.1': expected https://HOST:PORT",
    ),
    "a server that is no text": ({"server": 1}, {}, "server: expected a text, not int"),
    "an authority that is no base64": (
        {"certificate-authority-data": "-----"},
        {},
        "certificate-authority-data: expected PEM in base64",
    ),
    "an authority that is no certificate": (
        {"certificate-authority-data": data("nothing")},
        {},
        "cluster here: certificate-authority: expected certificates as PEM",
    ),
    "insecure as a text": (
        {"insecure-skip-tls-verify": "false"},
        {},
        "cluster here: insecure-skip-tls-verify 'false': expected true or false",
    ),
    "insecure with an authority": (
        {"insecure-skip-tls-verify": True, "certificate-authority-data": data(AUTHORITY.certificate)},
        {},
        "insecure-skip-tls-verify: expected no certificate-authority beside it",
    ),
    "a server name that is no text": (
        {"tls-server-name": True},
        {},
        "tls-server-name: expected a text, not bool",
    ),
    "a proxy that we cannot use": (
        {"proxy-url": "socks5://proxy:1080"},
        {},
        r"cluster here: proxy-url: proxy 'socks5://proxy:1080': expected http://",
    ),
    "a token that is no text": ({}, {"token": 12}, "token: expected a text, not int"),
    "a token on two lines": (
        {},
        {"token": "a\nb"},
        "user us: token: expected a token on one line, without spaces",
    ),
    "a certificate without a key": (
        {},
        {"client-certificate-data": data(PAIR.certificate)},
        "user us: expected both client-certificate and client-key",
    ),
    "a key without a certificate": (
        {},
        {"client-key-data": data(PAIR.key)},
        "user us: expected both client-certificate and client-key",
    ),
    "the key of another certificate": (
        {},
        {"client-certificate-data": data(PAIR.certificate), "client-key-data": data(OTHER.key)},
        "user us: key values mismatch: expected a certificate and its key as PEM",
    ),
    "a certificate that is none": (
        {},
        {"client-certificate-data": data("nothing"), "client-key-data": data(PAIR.key)},
        "user us.*: expected a certificate and its key as PEM, without a pass phrase",
    ),
    "somebody else": (
        {},
        {"token": "t", "as": "root"},
        "user us: as: expected token, tokenFile, a client cert",
    ),
    "a password": (
        {},
        {"username": "u", "password": "p"},
        "user us: username: expected token",
    ),
    "an auth provider": (
        {},
        {"auth-provider": {"name": "gcp"}},
        "user us: auth-provider: expected token",
    ),
    "exec that is no object": (
        {},
        {"exec": "program"},
        "user us: exec: expected command, and apiVersion client.auth",
    ),
    "exec without a command": (
        {},
        {"exec": {**EXEC, "command": ""}},
        "user us: exec: expected command, and apiVer",
    ),
    "exec of an unknown version": (
        {},
        {"exec": {**EXEC, "apiVersion": "client.authentication.k8s.io/v1alpha1"}},
        "apiVersion client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1",
    ),
    "exec with a wrong argument": (
        {},
        {"exec": {**EXEC, "args": [1]}},
        "exec ./program: args: expected a list of te",
    ),
    "exec with a wrong variable": (
        {},
        {"exec": {**EXEC, "env": [{"name": "A"}]}},
        "exec ./program: env: expected a list of objects with name and value",
    ),
    "exec that asks": (
        {},
        {"exec": {**EXEC, "interactiveMode": "Always"}},
        "interactiveMode Always: expected a program that asks nobody",
    ),
}
"""A cluster, a user, and what is said."""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_part_is_told_with_what_would_be_right(tmp_path: Path, name: str):
    """And with the kubeconfig that it is in."""
    cluster, user, said = WRONG[name]

    with pytest.raises(BadConfig, match=rf"^kubeconfig {tmp_path}/kubeconfig[:,] .*{said}"):
        read(tmp_path, cluster, user)


MISSING: dict[str, tuple[Callable[[Document], object], str]] = {
    "no current context": (
        lambda it: it.pop("current-context"),
        "current-context: expected the name of a context",
    ),
    "no such context": (
        lambda it: it.update({"current-context": "x"}),
        "context 'x': expected an entry of this name",
    ),
    "no contexts": (
        lambda it: it.update(contexts=None),
        "context 'test': expected an entry of this name in contexts",
    ),
    "no such cluster": (
        lambda it: it.update(clusters=[]),
        "cluster 'here': expected an entry of this name in clusters",
    ),
    "a cluster that is none": (
        lambda it: it["clusters"][0].update(cluster=None),
        "cluster 'here': expected an entry of this name in clusters, with an object cluster",
    ),
    "no such user": (lambda it: it.update(users="us"), "user 'us': expected an entry of this name in users"),
    "a context of no cluster": (
        lambda it: it["contexts"][0]["context"].pop("cluster"),
        "cluster '': expected an ent",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_part_is_told_by_its_name(tmp_path: Path, name: str):
    """As kubectl names it."""
    import yaml

    spoil, said = MISSING[name]
    path = write_kubeconfig(tmp_path / "kubeconfig", {"server": SERVER}, {"token": "t"})
    document = yaml.safe_load(path.read_text())
    spoil(document)
    path.write_text(yaml.safe_dump(document))

    with pytest.raises(BadConfig, match=rf"^kubeconfig {path}: {said}"):
        of_kubeconfig(path).current()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected an object with clusters, users and contexts"),
        ("a: [", "."),
        ("{}", "current-context: expected the name of a context"),
    ],
)
def test_a_kubeconfig_that_is_none_is_told(tmp_path: Path, text: str, said: str):
    """With its path."""
    (tmp_path / "kubeconfig").write_text(text)

    with pytest.raises(BadConfig, match=rf"kubeconfig {tmp_path}/kubeconfig: {said}"):
        of_kubeconfig(tmp_path / "kubeconfig").current()


def test_several_kubeconfigs_are_one(tmp_path: Path):
    """As for kubectl: the first entry of a name counts, and a relative path starts where its own file is."""
    import yaml

    parts: dict[str, Document] = {
        "contexts": {
            "current-context": "ours",
            "contexts": [
                {"name": "ours", "context": {"cluster": "here", "user": "us", "namespace": "telco"}}
            ],
        },
        "clusters": {
            "current-context": "other",
            "clusters": [{"name": "here", "cluster": {"server": SERVER}}],
        },
        "users": {
            "clusters": [{"name": "here", "cluster": {"server": "https://10.96.0.2:443"}}],
            "users": [{"name": "us", "user": {"tokenFile": "token"}}],
        },
    }
    for name, document in parts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config").write_text(yaml.safe_dump(document))
    (tmp_path / "users" / "token").write_text("secret\n")
    paths = [tmp_path / name / "config" for name in parts]

    found = of_kubeconfig(*paths).current()

    assert (SERVER, "telco", "secret") == (found.server, found.namespace, found.token)
    assert f"kubeconfig {paths[0]}, context ours" == found.where
    assert {*map(str, paths), str(tmp_path / "users" / "token")} == set(found.files)
    with pytest.raises(
        BadConfig, match=rf"^kubeconfig {paths[0]}: user 'us': expected an entry of this name"
    ):
        of_kubeconfig(*paths[:2]).current()


@pytest.mark.parametrize("content", [None, "", " \n", b"\xff\xfe"])
@pytest.mark.parametrize(
    ("cluster", "user", "file", "said"),
    [
        ({}, {"tokenFile": "x"}, "x", "expected it as tokenFile of kubeconfig .*, user us says"),
        (
            {"certificate-authority": "x"},
            {},
            "x",
            "expected it as certificate-authority of kubeconfig .* says",
        ),
        ({}, {"client-certificate": "x"}, "x", "expected it as client-certificate of kubeconfig .* says"),
    ],
)
def test_a_file_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, cluster: Document, user: Document, file: str, said: str, content: str | bytes | None
):
    """Code 11: a volume may be filled later."""
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(
        TryAgainLater, match=rf"read {tmp_path}/{file}: (No such file|it is empty|it is no text).*{said}"
    ):
        read(tmp_path, cluster, user)


def test_a_key_with_a_pass_phrase_asks_nobody(tmp_path: Path):
    """OpenSSL would ask at the terminal, and the daemon would hang."""
    key = load_pem_private_key(PAIR.key.encode(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = key.private_bytes(*form, secret).decode()
    user = {"client-certificate-data": data(PAIR.certificate), "client-key-data": data(locked)}

    with pytest.raises(
        BadConfig, match=r"user us.*: expected a certificate and its key as PEM, without a pass phrase"
    ):
        read(tmp_path, {}, user)


CREDENTIAL: Document = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": "printed"},
}
PRINTED: dict[str, tuple[Any, str]] = {
    "nothing": ("", "expected JSON"),
    "another kind": ({**CREDENTIAL, "kind": "Credential"}, "expected kind ExecCredential"),
    "another version": (
        {**CREDENTIAL, "apiVersion": "client.authentication.k8s.io/v1beta1"},
        "expected apiVersion client.authentication.k8s.io/v1, as the kubeconfig has it",
    ),
    "no status": ({**CREDENTIAL, "status": None}, "expected status"),
    "no credential": (
        {**CREDENTIAL, "status": {}},
        "expected status.token, or both status.clientCertificateData and",
    ),
    "half a pair": (
        {**CREDENTIAL, "status": {"token": "t", "clientKeyData": PAIR.key}},
        "expected status.token, or both status.clientCertificateData and clientKeyData",
    ),
    "a token that is no text": ({**CREDENTIAL, "status": {"token": 1}}, "expected a text as status.token"),
    "a time that is none": (
        {**CREDENTIAL, "status": {"token": "t", "expirationTimestamp": "tomorrow"}},
        "expected a time of RFC 3339 as status.expirationTimestamp, not 'tomorrow'",
    ),
    "a time of no zone": (
        {**CREDENTIAL, "status": {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00"}},
        "expected a time of RFC 3339",
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_what_a_credential_plugin_prints_is_checked(tmp_path: Path, name: str):
    """Code 11: the next run may print something else."""
    printed, said = PRINTED[name]
    (tmp_path / "printed").write_text(printed if isinstance(printed, str) else json.dumps(printed))
    program(tmp_path / "program", f"cat {tmp_path}/printed")

    with pytest.raises(TryAgainLater, match=rf"user us: exec ./program: it printed no credential: {said}"):
        read(tmp_path, {}, {"exec": EXEC})


FAILING = {
    "it fails": ("echo first >&2; echo 'no ticket' >&2; exit 3", "exec ./program: exit code 3: no ticket"),
    "it fails silently": ("exit 1", "exec ./program: exit code 1: it said nothing"),
    "it hangs": ("exec sleep 60", r"exec ./program: no answer within 0\.3 s"),
    "it is not there": (None, "exec ./program: No such file or directory: install it by hand"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_credential_plugin_that_fails_is_told(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """With its last words."""
    monkeypatch.setattr("meta_cni.k8s.exec_credential.DEADLINE_S", 0.3 if name == "it hangs" else 10.0)
    text, said = FAILING[name]
    if text is not None:
        program(tmp_path / "program", text)

    with pytest.raises(TryAgainLater, match=said):
        read(tmp_path, {}, {"exec": {**EXEC, "installHint": "install it by hand\nor not"}})


def test_a_credential_plugin_is_told_of_the_cluster(tmp_path: Path):
    """Its arguments, its variables, and of the cluster what the API has: the authority, not its file."""
    (tmp_path / "ca.crt").write_text(AUTHORITY.certificate)
    (tmp_path / "printed").write_text(json.dumps(CREDENTIAL))
    keep = 'printf "%s" "$KUBERNETES_EXEC_INFO" > info; printf "%s" "$1 $MORE" > told; cat printed'
    program(tmp_path / "program", f"cd {tmp_path}; {keep}")
    cluster = {
        "certificate-authority": "ca.crt",
        "tls-server-name": "kubernetes",
        "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "a"}}],
    }
    variables = [{"name": "MORE", "value": "b"}]

    found = read(
        tmp_path, cluster, {"exec": {**EXEC, "args": ["a"], "env": variables, "provideClusterInfo": True}}
    )

    told = json.loads((tmp_path / "info").read_text())
    assert ("printed", "a b") == (found.token, (tmp_path / "told").read_text())
    assert {
        "server": SERVER,
        "tls-server-name": "kubernetes",
        "certificate-authority-data": data(AUTHORITY.certificate),
        "config": {"audience": "a"},
    } == told["spec"]["cluster"]
    assert ("ExecCredential", False) == (told["kind"], told["spec"]["interactive"])


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A service account's directory."""
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_text(AUTHORITY.certificate)
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({HOST: "10.96.0.1"}, False),
        ({PORT: "443"}, False),
        ({HOST: "", PORT: "443"}, False),
        ({HOST: "10.96.0.1", PORT: "443"}, True),
    ],
)
def test_a_pod_is_told_by_its_environment(environment: dict[str, str], expected: bool):
    """As client-go tells it."""
    assert expected == is_in_cluster(environment)


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("10.96.0.1", "https://10.96.0.1:443"),
        ("fd00:10:96::1", "https://[fd00:10:96::1]:443"),
        ("kubernetes.default", "https://kubernetes.default:443"),
    ],
)
def test_the_service_is_where_the_environment_says(account: Path, host: str, server: str):
    """IPv6, too."""
    found = in_cluster({HOST: host, PORT: "443", "HTTPS_PROXY": "http://proxy:1"}, account).current()

    assert (server, "secret", Proxy("http://proxy:1")) == (found.server, found.token, found.proxy)


MISSING_IN_POD: dict[str, tuple[dict[str, str], str, str | None, type[CNIError], str]] = {
    "no token": (
        {},
        "token",
        None,
        TryAgainLater,
        "token: No such file or directory: expected it as the kubelet",
    ),
    "no authority": (
        {},
        "ca.crt",
        None,
        TryAgainLater,
        "ca.crt: No such file or directory: expected it as the kubel",
    ),
    "an empty token": (
        {},
        "token",
        "\n",
        TryAgainLater,
        "token: it is empty: expected it as the kubelet mounts it",
    ),
    "an empty authority": (
        {},
        "ca.crt",
        "",
        TryAgainLater,
        "ca.crt: it is empty: expected it as the kubelet",
    ),
    "a token that is none": (
        {},
        "token",
        "a b",
        BadConfig,
        "token: expected a token on one line, without spaces",
    ),
    "an authority that is none": ({}, "ca.crt", "x", BadConfig, "ca.crt: expected certificates as PEM"),
    "no host": (
        {HOST: ""},
        "token",
        "t",
        BadConfig,
        f"environment has no {HOST}: expected a kubeconfig, or a pod of",
    ),
    "no port": (
        {PORT: ""},
        "token",
        "t",
        BadConfig,
        f"environment has no {PORT}: expected a kubeconfig, or a pod of",
    ),
    "a port that is none": (
        {PORT: "tcp"},
        "token",
        "t",
        BadConfig,
        f"environment {PORT} 'tcp': expected a number",
    ),
}


@pytest.mark.parametrize("name", MISSING_IN_POD)
def test_what_a_pod_lacks_is_told(account: Path, name: str):
    """A pod without its account would be nobody, and the server's answer misleading."""
    environment, file, text, refusal, said = MISSING_IN_POD[name]
    (account / file).unlink()
    if text is not None:
        (account / file).write_text(text)

    with pytest.raises(refusal, match=said):
        in_cluster({HOST: "10.96.0.1", PORT: "443", **environment}, account).current()
