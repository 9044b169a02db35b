"""TLS: the files of the server's certificates, and their content (docs/spec/command_line.md §8).

`--ssl_config_file` is TensorFlow Serving's: a message with PEM text, for gRPC only. The flags that name PEM files are
ours, and apply to every listener.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servable._server.config.flags import Flags
from servable._server.config.text_proto import parse_text_file
from servable._server.remote.files import require_local
from servable.errors import Code, ConfigError


@dataclass(frozen=True, slots=True)
class Pem:
    """Text in PEM form.

    Attributes:
        name: The origin of the text, for error messages.
        text: The text.
    """

    name: str
    text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsCredentials:
    """The server's identity, and the authority for its clients.

    Attributes:
        certificate: The server's certificate, followed by intermediate ones.
        key: Its private key.
        client_ca: If set, clients must have a certificate that one of these has signed.
    """

    certificate: Pem
    key: Pem
    client_ca: Pem | None = None


def check_tls_flags(flags: Flags) -> None:
    """Refuse ambiguous combinations.

    Raises:
        ConfigError: With the text of TensorFlow Serving where it refuses the same.
    """
    if flags.use_alts_credentials and flags.ssl_config_file:
        raise ConfigError(
            "Either use_alts_credentials must be false or ssl_config_file must be empty."
        )
    if flags.ssl_config_file and flags.tls_certificate_file:
        raise ConfigError("Either ssl_config_file or tls_certificate_file must be empty.")
    if bool(flags.tls_certificate_file) != bool(flags.tls_key_file):
        raise ConfigError("--tls_certificate_file and --tls_key_file need each other")
    if flags.tls_client_ca_file and not flags.tls_certificate_file:
        raise ConfigError("--tls_client_ca_file needs --tls_certificate_file and --tls_key_file")
    for flag in ("tls_certificate_file", "tls_key_file", "tls_client_ca_file"):
        reason = "private keys and certificates must be local files"
        require_local(flag, getattr(flags, flag), reason)


def tls_files(flags: Flags) -> tuple[str, ...]:
    """The files of the credentials; empty without TLS."""
    files = (
        flags.ssl_config_file,
        flags.tls_certificate_file,
        flags.tls_key_file,
        flags.tls_client_ca_file,
    )
    return tuple(file for file in files if file)


def read_tls(flags: Flags) -> TlsCredentials:
    """Read the credentials from their files.

    Raises:
        ConfigError: A file cannot be read, or lacks required content.
    """
    if flags.ssl_config_file:
        return _of_message(flags.ssl_config_file)
    client_ca = flags.tls_client_ca_file
    return TlsCredentials(
        _of_file("tls_certificate_file", flags.tls_certificate_file),
        _of_file("tls_key_file", flags.tls_key_file),
        _of_file("tls_client_ca_file", client_ca) if client_ca else None,
    )


def _of_file(flag: str, path: str) -> Pem:
    try:
        return Pem(path, Path(path).read_bytes())
    except OSError as error:
        code = Code.NOT_FOUND if isinstance(error, FileNotFoundError) else Code.UNKNOWN
        raise ConfigError(f"--{flag}: {path}; {error.strerror}", code=code) from error


def _of_message(path: str) -> TlsCredentials:
    message: Any = parse_text_file(path, "tensorflow.serving.SSLConfig")

    def pem(name: str) -> Pem:
        return Pem(f"{name} in {path}", getattr(message, name).encode())

    if message.client_verify and not message.custom_ca:
        # TensorFlow Serving starts, and accepts no client.
        raise ConfigError(
            f"Failed to BuildAndStart gRPC server: client_verify in {path} needs custom_ca, "
            "the certificates that clients' certificates are checked against"
        )
    return TlsCredentials(
        pem("server_cert"), pem("server_key"), pem("custom_ca") if message.client_verify else None
    )
