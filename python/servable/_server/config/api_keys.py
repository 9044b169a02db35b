"""The file of API keys.

One key a line: `name:scope:key`. The scope is `predict` or `admin`, which includes `predict`. The key is in plain text,
or is `sha256:` and its digest in hexadecimal. Empty lines and lines that begin with `#` are skipped.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from servable._server.remote.files import read_file
from servable._server.remote.urls import shown
from servable.errors import ConfigError

MIN_KEY_LENGTH = 16
"""The minimum length of a key, since shorter keys can be guessed."""

_SCOPES = ("predict", "admin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*", re.ASCII)
_KEY = re.compile(r"[!-~]+", re.ASCII)
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret.

    Attributes:
        name: The owner of the key.
        scope: The permission of the key, `predict` or `admin`.
        digest: The SHA-256 of the secret.
    """

    name: str
    scope: str
    digest: bytes = field(repr=False)


def read_api_keys(path: str) -> list[ApiKey]:
    """Read a file of keys.

    Raises:
        ConfigError: The file cannot be read, has no key, or has an invalid line. The message never quotes secrets.
    """
    try:
        content = read_file(path)
    except ConfigError as error:
        raise ConfigError(f"--api_keys_file: {error.message}", code=error.code) from error
    path = shown(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--api_keys_file: {path} is not text in UTF-8") from error
    keys: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _key(line.strip())
            _check_is_new(key, keys)
        except ValueError as error:
            raise ConfigError(f"--api_keys_file: {path}, line {number}: {error}") from error
        keys.append(key)
    if not keys:
        raise ConfigError(
            f"--api_keys_file: {path} has no key, so that every request would be refused"
        )
    return keys


def _key(line: str) -> ApiKey:
    name, _, rest = line.partition(":")
    scope, _, secret = rest.partition(":")
    if not secret:
        raise ValueError("a key is written as name:scope:key")
    if _NAME.fullmatch(name) is None:
        raise ValueError("the name may have letters, digits and . _ @ - in it")
    if scope not in _SCOPES:
        raise ValueError(f"the scope of {name} is predict or admin; got {scope}")
    if secret.startswith("sha256:"):
        match = _DIGEST.fullmatch(secret)
        if match is None:
            raise ValueError(f"the digest of {name} has to have 64 hexadecimal digits")
        return ApiKey(name, scope, bytes.fromhex(match[1]))
    if _KEY.fullmatch(secret) is None:
        raise ValueError(
            f"the key of {name} may have visible ASCII characters in it, and no spaces"
        )
    if len(secret) < MIN_KEY_LENGTH:
        raise ValueError(f"the key of {name} has fewer than {MIN_KEY_LENGTH} characters")
    return ApiKey(name, scope, hashlib.sha256(secret.encode()).digest())


def _check_is_new(key: ApiKey, keys: list[ApiKey]) -> None:
    for other in keys:
        if other.name == key.name:
            raise ValueError(f"there are two keys of {key.name}; use different names")
        if other.digest == key.digest:
            raise ValueError(f"{key.name} and {other.name} have the same key")
