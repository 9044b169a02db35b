"""Recognises remote base paths, and the packages that open them."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from servable.errors import Code, LoadError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL = ("", "file", "local")

_EXTRAS = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gcs", "gcsfs"),
    "gcs": ("gcs", "gcsfs"),
    "az": ("azure", "adlfs"),
    "abfs": ("azure", "adlfs"),
    "abfss": ("azure", "adlfs"),
    "hf": ("hf", "huggingface_hub"),
    "http": ("http", "fsspec[http]"),
    "https": ("http", "fsspec[http]"),
}
"""The extra of this package, and the driver that it installs, by scheme."""


def scheme_of(base_path: str) -> str:
    """The scheme of a URL in lower case; empty for a path."""
    match = _SCHEME.match(base_path)
    return match[1].lower() if match else ""


def is_remote(base_path: str) -> bool:
    """Whether versions must be fetched before they can be loaded."""
    return scheme_of(base_path) not in _LOCAL


def local_path(base_path: str) -> str:
    """The path of a local base path: `file:///models/m` is `/models/m`."""
    return unquote(urlsplit(base_path).path) if scheme_of(base_path) else base_path


def shown(url: str) -> str:
    """The URL for logs and answers: without a user, a password or a signature."""
    if "@" in url and scheme_of(url) in ("http", "https", "ftp", "sftp"):
        url = re.sub(r"(?<=://)[^/@]*@", "", url)
    return re.sub(r"\?.*", "?…", url) if scheme_of(url) in ("http", "https") else url


def missing_driver(url: str, reason: str) -> LoadError:
    """The error for a URL without an installed driver; names the package to install."""
    scheme = scheme_of(url)
    if scheme in _EXTRAS:
        extra, driver = _EXTRAS[scheme]
        advice = f"needs the package {driver}; install it with `pip install 'servable[{extra}]'`"
    else:
        advice = f"needs fsspec and its driver for {scheme}://: {reason}"
    return LoadError(f"{shown(url)} {advice}", code=Code.FAILED_PRECONDITION)
