from __future__ import annotations

from pathlib import Path

import pytest

from servable._server.config.flags import Flags
from servable._server.config.tls import Pem, TlsCredentials, read_tls, tls_files
from servable.errors import Code, ConfigError


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    cert, key, ca = (tmp_path / name for name in ("cert", "key", "ca"))
    for file in (cert, key, ca):
        file.write_text(file.name)
    flags = Flags(tls_certificate_file=str(cert), tls_key_file=str(key))
    assert tls_files(flags) == (str(cert), str(key))
    assert read_tls(flags) == TlsCredentials(Pem(str(cert), b"cert"), Pem(str(key), b"key"))
    mutual = Flags(
        tls_certificate_file=str(cert), tls_key_file=str(key), tls_client_ca_file=str(ca)
    )
    assert read_tls(mutual).client_ca == Pem(str(ca), b"ca")


def test_a_file_that_is_not_there_is_named_with_its_flag(tmp_path: Path) -> None:
    cert = tmp_path / "cert"
    cert.touch()
    with pytest.raises(ConfigError, match="--tls_key_file: /none; No such file") as info:
        read_tls(Flags(tls_certificate_file=str(cert), tls_key_file="/none"))
    assert info.value.code is Code.NOT_FOUND


def test_the_message_of_tensorflow_serving_holds_the_text(tmp_path: Path) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(r'server_key: "KEY\n" server_cert: "CERT" custom_ca: "CA"')
    found = read_tls(Flags(ssl_config_file=str(file)))
    assert (found.key.text, found.certificate.text) == (b"KEY\n", b"CERT")
    assert found.key.name == f"server_key in {file}"
    assert found.client_ca is None, "without client_verify, nobody is asked for a certificate"
    file.write_text('server_key: "K" server_cert: "C" custom_ca: "CA" client_verify: true')
    assert read_tls(Flags(ssl_config_file=str(file))).client_ca == Pem(
        f"custom_ca in {file}", b"CA"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('server_key: "K" client_verify: true', "client_verify in .* needs custom_ca"),
        ("server_key: 1", "Invalid protobuf file: '.*ssl.config'"),
        ("", "Invalid protobuf file: '.*ssl.config'"),
    ],
)
def test_a_message_that_means_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tls(Flags(ssl_config_file=str(file)))


def test_keys_stay_out_of_logs() -> None:
    assert "secret" not in repr(TlsCredentials(Pem("c", b""), Pem("k", b"secret")))
