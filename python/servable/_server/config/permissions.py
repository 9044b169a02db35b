"""Permissions of configuration changes at run time: only what was named at the start.

Every client that can reach a port can request a reload, unless there are API keys. Such a request may choose
SavedModels on local paths, as in TensorFlow Serving. It may bring no code, and fetch from no other stores.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from servable._server.config.flags import Flags
from servable._server.config.models import ModelConfig
from servable._server.config.ownership import (
    WritableByOthersError,
    require_private_file,
    require_private_tree,
)
from servable._server.remote.stores import Reach, Store, is_at_or_below, store_of
from servable._server.remote.urls import is_remote, local_path, shown
from servable.errors import Code, ConfigError, LoadError


@dataclass(frozen=True, slots=True)
class Permissions:
    """The limits of configuration changes.

    Attributes:
        code_platforms: The platforms whose versions contain code.
        all_python_models: Whether Python models may be served from every private directory (`--allow_python_models`).
        python_base_paths: The base paths of Python models that were named at the start.
        trusted_base_paths: The base paths of models that had `trusted: true` at the start.
        reach: The stores from which versions may be fetched.
        code_stores: The stores of `--allowed_remote_stores`; Python code comes only from these.
        cache_directory: Where fetched versions are stored.
    """

    code_platforms: Collection[str]
    all_python_models: bool = False
    python_base_paths: tuple[str, ...] = ()
    trusted_base_paths: tuple[str, ...] = ()
    reach: Reach = field(default_factory=Reach)
    code_stores: frozenset[Store] = frozenset()
    cache_directory: str = ""

    def check(self, model: ModelConfig) -> None:
        """Refuse a model that was not permitted at the start.

        Raises:
            ConfigError: With `PERMISSION_DENIED`, and the flag that would allow it.
        """
        if is_remote(model.base_path):
            self._check_store(model)
        if model.platform not in self.code_platforms:
            return
        if model.trusted and not (
            self.all_python_models or model.base_path in self.trusted_base_paths
        ):
            raise _denied(
                f"Model {model.name} is trusted in {shown(model.base_path)}, and was not when the server was "
                "started; --allow_python_models allows it"
            )
        if is_remote(model.base_path):
            if store_of(model.base_path) not in self.code_stores:
                raise _denied(
                    f"Model {model.name} is {_code(model)} in the remote store {store_of(model.base_path)}, which "
                    "--allowed_remote_stores does not name"
                )
            is_named = any(is_at_or_below(model.base_path, url) for url in self.python_base_paths)
        else:
            path = local_path(model.base_path)
            self._refuse_cache(path)
            is_named = self._is_below_named(path)
        if not (is_named or self.all_python_models):
            raise _denied(
                f"Model {model.name} is {_code(model)} in {shown(model.base_path)}, which is no base path of a "
                f"{_kind(model)} model that the server was started with; --allow_python_models allows others"
            )

    def admit_code(self, model: ModelConfig, directory: str) -> str:
        """Refuse a version directory whose code must not be run; called immediately before it is.

        Args:
            model: The configuration of its model.
            directory: The directory; always local.

        Returns:
            The directory without symbolic links, to be used instead.

        Raises:
            LoadError: Other users may write to it, or it is not below a permitted base path.
        """
        resolved = require_private_tree(directory)
        if is_remote(model.base_path):
            if not _is_below(resolved, self.cache_directory):
                raise LoadError(
                    f"{directory} is not in the cache of remote models", code=Code.PERMISSION_DENIED
                )
            return resolved
        self._refuse_cache(resolved)
        if not (self.all_python_models or self._is_below_named(resolved)):
            raise LoadError(
                f"{directory} is {resolved}, which is below no base path of a {_kind(model)} model that the server "
                "was started with; --allow_python_models allows others",
                code=Code.PERMISSION_DENIED,
            )
        return resolved

    def _check_store(self, model: ModelConfig) -> None:
        try:
            store = store_of(model.base_path)
        except ValueError as error:
            raise _denied(
                f"Model {model.name} has the base path {shown(model.base_path)}: {error}"
            ) from error
        if store not in self.reach.stores:
            raise _denied(
                f"Model {model.name} is in the remote store {store}, which the server was not started with; "
                "--allowed_remote_stores names further ones"
            )

    def _refuse_cache(self, path: str) -> None:
        # The cache may contain versions of models without code, from stores that may provide none.
        if self.cache_directory and _is_below(path, self.cache_directory):
            raise _denied(
                f"{path} is in the cache of remote models, from which no code is served by its path"
            )

    def _is_below_named(self, path: str) -> bool:
        return any(
            _is_below(path, local_path(base_path))
            for base_path in self.python_base_paths
            if not is_remote(base_path)
        )


class PermissionsInForce:
    """The current permissions of a server, which change with its configuration file.

    Created before all users of it. Safe to use from several threads.

    Attributes:
        current: The permissions now; `None` allows everything.
    """

    def __init__(self, current: Permissions | None = None) -> None:
        """Start with the first permissions."""
        self.current = current

    def admit_code(self, model: ModelConfig, directory: str) -> str:
        """Refuse a version directory whose code must not be run; see `Permissions.admit_code`."""
        permissions = self.current
        if permissions is None:
            return directory
        return permissions.admit_code(model, directory)


def start_permissions(
    flags: Flags,
    models: Sequence[ModelConfig] | None,
    cache_directory: os.PathLike[str],
    code_platforms: Collection[str],
    first_models: Sequence[ModelConfig] | None = None,
) -> Permissions:
    """The permissions of a server that is started with these flags and models.

    A configuration file that other users may write counts like a request: it permits nothing. For a file in a remote
    store this cannot be checked. It permits stores when the server starts, but no further stores later, and no code.

    Args:
        flags: The command line.
        models: The models that the flags or their configuration file name.
        cache_directory: Where fetched versions are stored.
        code_platforms: The platforms whose versions contain code.
        first_models: The models at the start, if `models` was read later.

    Raises:
        ConfigError: A store is invalid.
    """
    code_stores = allowed_stores(flags)
    named: Sequence[ModelConfig] = models or ()
    code = [model for model in named if model.platform in code_platforms]
    if flags.model_config_file and why_not_trusted(flags.model_config_file, code_stores):
        code = []
        is_elsewhere = is_remote(flags.model_config_file)
        named = (models if first_models is None else first_models) or () if is_elsewhere else ()
    remote = tuple(model.base_path for model in named if is_remote(model.base_path))
    return Permissions(
        code_platforms,
        flags.allow_python_models,
        tuple(model.base_path for model in code),
        tuple(model.base_path for model in code if model.trusted),
        Reach(code_stores | frozenset(_stores(remote)), remote),
        code_stores,
        os.fspath(cache_directory),
    )


def why_not_trusted(config_file: str, stores: frozenset[Store]) -> str:
    """Why a configuration file is not trusted like the command line; empty if it is."""
    if is_remote(config_file):
        try:
            is_named = store_of(config_file) in stores
        except ValueError as error:
            return str(error)
        return "" if is_named else "its store is not in --allowed_remote_stores"
    try:
        require_private_file(os.path.abspath(local_path(config_file)))
    except WritableByOthersError as error:
        return error.message
    return ""


def allowed_stores(flags: Flags) -> frozenset[Store]:
    """The stores of `--allowed_remote_stores`.

    Raises:
        ConfigError: A store is invalid.
    """
    stores = set()
    for text in filter(None, map(str.strip, flags.allowed_remote_stores.split(","))):
        try:
            store = store_of(text)
        except ValueError as error:
            raise _unclear(text, str(error)) from error
        if not (store.scheme and store.place and is_remote(text)):
            raise _unclear(
                text, "a store is named by scheme and bucket or host, such as s3://bucket"
            )
        rest = text.partition("://")[2].rstrip("/")
        if (
            "?" in rest
            or (store.scheme in ("http", "https") and "/" in rest)
            or (store.scheme not in ("http", "https") and rest != store.place)
        ):
            raise _unclear(text, "a store is named without a path")
        stores.add(store)
    return frozenset(stores)


def _stores(urls: Iterable[str]) -> Iterable[Store]:
    for url in urls:
        try:
            yield store_of(url)
        except ValueError:
            continue  # the check of its model refuses it


def _kind(model: ModelConfig) -> str:
    """The kind of a model with code, for messages."""
    return "Python" if model.platform == "python" else model.platform


def _code(model: ModelConfig) -> str:
    return f"{_kind(model)} code"


def _is_below(path: str, directory: str) -> bool:
    resolved, base = os.path.realpath(path), os.path.realpath(directory)
    return resolved == base or resolved.startswith(base.rstrip("/") + "/")


def _denied(message: str) -> ConfigError:
    return ConfigError(message, code=Code.PERMISSION_DENIED)


def _unclear(text: str, reason: str) -> ConfigError:
    return ConfigError(f"--allowed_remote_stores has {text}: {reason}")
