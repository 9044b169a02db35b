"""Certificates of temporary authorities."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, as files.

    Attributes:
        certificate: The chain.
        key: The private key.
    """

    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and writes them into a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self.file = directory / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def server(self, name: str = "server") -> Identity:
        """Issue a certificate for this machine; an older one of the same name is replaced."""
        return self._issue(name, "localhost", "127.0.0.1")

    def client(self, name: str = "client") -> Identity:
        """Issue a client certificate."""
        return self._issue(name, "client@example.org")

    def context(self, client: Identity | None = None) -> ssl.SSLContext:
        """A context for Python's HTTPS clients that trusts servers of this authority."""
        context = ssl.create_default_context(cafile=str(self.file))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def _issue(self, name: str, *subjects: str) -> Identity:
        issued = self._ca.issue_cert(*subjects)
        identity = Identity(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        identity.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        identity.key.write_bytes(issued.private_key_pem.bytes())
        return identity


def ssl_config(identity: Identity, client_ca: Path | None = None) -> str:
    """Write the text of an `--ssl_config_file`; JSON strings are strings of protobuf's text format, too."""
    lines = [
        f"server_key: {json.dumps(identity.key.read_text())}",
        f"server_cert: {json.dumps(identity.certificate.read_text())}",
    ]
    if client_ca is not None:
        lines += [f"custom_ca: {json.dumps(client_ca.read_text())}", "client_verify: true"]
    return "\n".join(lines)
