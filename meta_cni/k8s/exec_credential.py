"""
A program that prints who we are, as kubectl runs it: `exec` of a kubeconfig's user.

Source: client.authentication.k8s.io/v1, and client-go's plugin/pkg/client/auth/exec for what is refused.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from meta_cni.cni.errors import BadConfig, TryAgainLater

API = "client.authentication.k8s.io/"
VERSIONS = ("v1", "v1beta1")
INFO = "KUBERNETES_EXEC_INFO"
DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What it printed; texts are PEM."""

    token: str = field(repr=False)
    certificate: str
    key: str = field(repr=False)
    expires_s: float | None
    """Since the epoch."""


@dataclass(frozen=True, slots=True)
class Program:
    """One that is run without being asked anything, and asks nobody."""

    where: str
    """For error texts."""
    command: tuple[str, ...]
    variables: Mapping[str, str]
    api_version: str
    is_told_the_cluster: bool
    install_hint: str


def parse(given: Any, where: str, directory: Path) -> Program:
    """The section of a kubeconfig in this directory; raises BadConfig."""
    section = given if isinstance(given, dict) else {}
    command, api_version = section.get("command"), section.get("apiVersion")
    versions = tuple(API + each for each in VERSIONS)
    if not isinstance(command, str) or not command or api_version not in versions:
        raise BadConfig(f"{where}: exec: expected command, and apiVersion {' or '.join(versions)}")
    where = f"{where}: exec {command}"
    arguments, variables = section.get("args") or [], section.get("env") or []
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        raise BadConfig(f"{where}: args: expected a list of texts")
    if not isinstance(variables, list) or not all(_is_variable(each) for each in variables):
        raise BadConfig(f"{where}: env: expected a list of objects with name and value, both texts")
    if section.get("interactiveMode") == "Always":
        raise BadConfig(f"{where}: interactiveMode Always: expected a program that asks nobody")
    return Program(
        where=where,
        command=(str(directory / command) if "/" in command else command, *arguments),
        variables={each["name"]: each["value"] for each in variables},
        api_version=str(api_version),
        is_told_the_cluster=section.get("provideClusterInfo") is True,
        install_hint=str(section.get("installHint") or "").strip().partition("\n")[0],
    )


def _is_variable(given: Any) -> bool:
    return isinstance(given, dict) and all(isinstance(given.get(key), str) for key in ("name", "value"))


def run(program: Program, environment: Mapping[str, str], cluster: Mapping[str, Any]) -> Credential:
    """What it prints within its deadline; raises TryAgainLater."""
    spec: dict[str, Any] = {"interactive": False}
    if program.is_told_the_cluster:
        spec["cluster"] = dict(cluster)
    told = json.dumps({"apiVersion": program.api_version, "kind": "ExecCredential", "spec": spec})
    printed = _printed(program, {**environment, **program.variables, INFO: told})
    try:
        return _credential(json.loads(printed), program.api_version)
    except ValueError as error:
        said = "expected JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise TryAgainLater(f"{program.where}: it printed no credential: {said}") from None


def _printed(program: Program, environment: Mapping[str, str]) -> bytes:
    where = program.where
    try:
        done = subprocess.run(
            program.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TryAgainLater(f"{where}: no answer within {DEADLINE_S:g} s") from None
    except OSError as error:
        hint = f": {program.install_hint}" if program.install_hint else ""
        raise TryAgainLater(f"{where}: {error.strerror}{hint}") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise TryAgainLater(f"{where}: exit code {done.returncode}: {last or 'it said nothing'}")
    return done.stdout


def _credential(document: Any, api_version: str) -> Credential:
    """Raises ValueError, which says what would be right."""
    if not isinstance(document, dict) or document.get("kind") != "ExecCredential":
        raise ValueError("expected kind ExecCredential")
    if document.get("apiVersion") != api_version:
        raise ValueError(f"expected apiVersion {api_version}, as the kubeconfig has it")
    status = document.get("status")
    if not isinstance(status, dict):
        raise ValueError("expected status")
    token, certificate, key = (
        _text(status, each) for each in ("token", "clientCertificateData", "clientKeyData")
    )
    if bool(certificate) != bool(key) or not (token or certificate):
        raise ValueError("expected status.token, or both status.clientCertificateData and clientKeyData")
    return Credential(token, certificate, key, _expiry(_text(status, "expirationTimestamp")))


def _text(status: Mapping[str, Any], key: str) -> str:
    text = status.get(key)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"expected a text as status.{key}")
    return text or ""


def _expiry(text: str) -> float | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(f"expected a time of RFC 3339 as status.expirationTimestamp, not {text!r}")
    return found.timestamp()
