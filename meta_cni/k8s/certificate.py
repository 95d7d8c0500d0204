"""
Certificates and keys, as PEM: checked where they are read.

A handshake that fails for a wrong one says neither which one it was nor where it stands.
"""

import os
from typing import IO

from meta_cni.cni.errors import BadConfig


def require_authority(text: str, where: str) -> None:
    """Raises BadConfig unless there is a certificate in it."""
    import ssl  # noqa: PLC0415 - 7 MB, only for those who talk to a server

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError):
        raise BadConfig(f"{where}: expected certificates as PEM") from None


def require_pair(certificate: str, key: str, where: str) -> None:
    """Raises BadConfig unless the key is the certificate's, and needs no pass phrase."""
    import ssl  # noqa: PLC0415 - as above

    with unnamed(certificate) as first, unnamed(key) as second:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(path_of(first), path_of(second), password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None)
            told = f": {reason.lower().replace('_', ' ')}" if reason else ""
            expected = "expected a certificate and its key as PEM, without a pass phrase"
            raise BadConfig(f"{where}{told}: {expected}") from None


def unnamed(text: str) -> IO[bytes]:
    """A file that has no name, so that no key is left on a disk."""
    file = os.fdopen(os.memfd_create("meta-cni", os.MFD_CLOEXEC), "r+b")
    file.write(text.encode())
    file.flush()
    return file


def path_of(file: IO[bytes]) -> str:
    """Where this process finds a file without a name, as long as it is open."""
    return f"/proc/self/fd/{file.fileno()}"
