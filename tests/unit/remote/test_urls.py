from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

import pytest

from servable._server.remote.store import RemoteStore
from servable._server.remote.urls import is_remote, local_path, missing_driver, shown
from servable.errors import Code, LoadError


@pytest.mark.parametrize(
    ("base_path", "expected"),
    [
        ("/models/m", False),
        ("file:///models/m", False),
        ("s3://bucket/m", True),
        ("S3://bucket/m", True),
        ("abfs://container@account.dfs.core.windows.net/m", True),
        ("https://host/m", True),
        ("memory://m", True),
    ],
)
def test_remote_base_paths_are_recognised(base_path: str, expected: bool) -> None:
    assert is_remote(base_path) is expected


def test_a_file_url_is_a_path() -> None:
    assert local_path("file:///models/a%20b") == "/models/a b"
    assert local_path("/models/a%20b") == "/models/a%20b"


def test_secrets_are_not_shown() -> None:
    assert shown("https://me:secret@host/m/1?sig=abc") == "https://host/m/1?…"
    assert shown("s3://bucket/m") == "s3://bucket/m"
    # Here it is no secret, but part of the address.
    assert shown("abfs://c@a.dfs.core.windows.net/m") == "abfs://c@a.dfs.core.windows.net/m"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("s3://b/m", "s3fs; install it with `pip install 'servable[s3]'`"),
        ("gs://b/m", "gcsfs; install it with `pip install 'servable[gcs]'`"),
        ("az://b/m", "adlfs; install it with `pip install 'servable[azure]'`"),
        ("abfs://b/m", "adlfs; install it with `pip install 'servable[azure]'`"),
        ("hf://o/r", "huggingface_hub; install it with `pip install 'servable[hf]'`"),
        ("https://h/m", "fsspec[http]; install it with `pip install 'servable[http]'`"),
    ],
)
def test_a_missing_driver_is_named(url: str, advice: str) -> None:
    assert advice in missing_driver(url, "").message


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_driver_that_is_not_installed_is_an_error_of_the_model(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def import_without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", import_without)
    if missing == "s3fs":
        registry = importlib.import_module("fsspec.registry")
        monkeypatch.delitem(registry._registry, "s3", raising=False)

    with pytest.raises(LoadError, match=r"needs the package s3fs; .*servable\[s3\]") as raised:
        RemoteStore().directories("s3://bucket/m")

    assert raised.value.code is Code.FAILED_PRECONDITION


def test_an_unknown_scheme_is_an_error_of_the_model() -> None:
    with pytest.raises(LoadError, match="nowhere://") as raised:
        RemoteStore().directories("nowhere://bucket/m")

    assert raised.value.code is Code.FAILED_PRECONDITION
