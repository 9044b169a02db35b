from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from servable._server.config.api_keys import ApiKey, read_api_keys
from servable.errors import Code, ConfigError

KEY = "0123456789abcdef"
DIGEST = hashlib.sha256(KEY.encode()).digest()


def test_keys_are_read_as_they_are_sent_or_as_their_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    other = hashlib.sha256(b"other").hexdigest()
    file.write_text(
        f"# whose\n\napp-1:predict:{KEY}\n  ops@example.org:admin:sha256:{other.upper()}\n"
    )
    assert read_api_keys(str(file)) == [
        ApiKey("app-1", "predict", DIGEST),
        ApiKey("ops@example.org", "admin", bytes.fromhex(other)),
    ]


def test_a_colon_belongs_to_the_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("a:predict:with:colons:within:it")
    (key,) = read_api_keys(str(file))
    assert key.digest == hashlib.sha256(b"with:colons:within:it").digest()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"app:{KEY}", "name:scope:key"),
        (f"app predict {KEY}", "name:scope:key"),
        ("app:predict:", "name:scope:key"),
        (f"a/b:predict:{KEY}", "the name may have"),
        (f"app:root:{KEY}", "the scope of app is predict or admin; got root"),
        ("app:predict:short", "the key of app has fewer than 16 characters"),
        ("app:predict:has spaces within it", "no spaces"),
        ("app:predict:sha256:0123", "64 hexadecimal digits"),
        (f"one:predict:{KEY}", "there are two keys of one"),
        (f"two:admin:{KEY}", "two and one have the same key"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_and_not_quoted(
    line: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"one:predict:{KEY}\n{line}\n")
    with pytest.raises(ConfigError, match=f"{file}, line 2: .*{message}") as info:
        read_api_keys(str(file))
    assert KEY not in info.value.message


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigError, match="No such file") as info:
        read_api_keys(str(file))
    assert info.value.code is Code.NOT_FOUND
    for content, message in ((b"# none\n", "has no key"), (b"\xff", "not text")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read_api_keys(str(file))


def test_digests_stay_out_of_logs() -> None:
    assert str(DIGEST) not in repr(ApiKey("a", "predict", DIGEST))
