"""Certificates for servers and clients of the tests, signed by an authority that lives as long as a test."""

import base64
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, as PEM."""

    certificate: str
    key: str


class Authority:
    """Whoever trusts its certificate trusts those it has issued."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    @property
    def certificate(self) -> str:
        """As PEM."""
        return self._authority.cert_pem.bytes().decode()

    def server_context(self, address: str) -> ssl.SSLContext:
        """For a server at an address, which does not ask its clients for certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(address).configure_cert(context)
        return context

    def server(self, address: str) -> Pair:
        """For a server at an address that is a program of its own."""
        return _pair(self._authority.issue_cert(address))

    def issue(self, common_name: str, organization: str) -> Pair:
        """For a client: its user's name, and the group it is in."""
        issued = self._authority.issue_cert(
            f"{common_name.replace(':', '-')}.test", common_name=common_name, organization_name=organization
        )
        return _pair(issued)


def _pair(issued: trustme.LeafCert) -> Pair:
    return Pair(issued.cert_chain_pems[0].bytes().decode(), issued.private_key_pem.bytes().decode())


def json_web_token(claims: Mapping[str, Any], key: str) -> str:
    """Signed with a key on P-256 (RFC 7515, RFC 7518 section 3.4)."""
    private = load_pem_private_key(key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    header = {"alg": "ES256", "typ": "JWT"}
    text = ".".join(_base64(json.dumps(each).encode()) for each in (header, claims))
    numbers = decode_dss_signature(private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_base64(b''.join(each.to_bytes(32, 'big') for each in numbers))}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
