"""Certificates for servers and clients of the tests, signed by an authority that lives as long as a test."""

import ssl
from dataclasses import dataclass

import trustme


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
