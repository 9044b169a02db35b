"""What a configuration may bring while the server runs: what was named when it was started, and no more.

Whoever can reach a port can ask for a reload, unless there are API keys. Such a request may choose among SavedModels on
local paths, as in TensorFlow Serving. It brings no code, and fetches from nowhere else.
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
    """What changes of the configuration may bring.

    Attributes:
        code_platforms: The platforms whose versions bring code.
        all_python_models: Whether Python models may be served from every private directory
            (`--allow_python_models`).
        python_base_paths: The base paths of Python models that the start of the server named.
        reach: Where may be fetched from.
        code_stores: The stores of `--allowed_remote_stores`; Python code comes from no other one.
        cache_directory: Where fetched versions are kept.
    """

    code_platforms: Collection[str]
    all_python_models: bool = False
    python_base_paths: tuple[str, ...] = ()
    reach: Reach = field(default_factory=Reach)
    code_stores: frozenset[Store] = frozenset()
    cache_directory: str = ""

    def check(self, model: ModelConfig) -> None:
        """Refuse a model that the start of the server does not allow.

        Raises:
            ConfigError: With `PERMISSION_DENIED`, and the flag that would allow it.
        """
        if is_remote(model.base_path):
            self._check_store(model)
        if model.platform not in self.code_platforms:
            return
        if is_remote(model.base_path):
            if store_of(model.base_path) not in self.code_stores:
                raise _denied(
                    f"Model {model.name} is Python code in the remote store {store_of(model.base_path)}, which "
                    "--allowed_remote_stores does not name"
                )
            is_named = any(is_at_or_below(model.base_path, url) for url in self.python_base_paths)
        else:
            path = local_path(model.base_path)
            self._refuse_cache(path)
            is_named = self._is_below_named(path)
        if not (is_named or self.all_python_models):
            raise _denied(
                f"Model {model.name} is Python code in {shown(model.base_path)}, which is no base path of a Python "
                "model that the server was started with; --allow_python_models allows others"
            )

    def admit_code(self, base_path: str, directory: str) -> str:
        """Refuse a version directory whose code must not be run; to be asked right before it is.

        Args:
            base_path: The base path of its model, as configured.
            directory: The directory, local in any case.

        Returns:
            The directory without symbolic links, which is to be used instead.

        Raises:
            LoadError: Others may write it, or it is not below a base path that may be served.
        """
        resolved = require_private_tree(directory)
        if is_remote(base_path):
            if not _is_below(resolved, self.cache_directory):
                raise LoadError(
                    f"{directory} is not in the cache of remote models", code=Code.PERMISSION_DENIED
                )
            return resolved
        self._refuse_cache(resolved)
        if not (self.all_python_models or self._is_below_named(resolved)):
            raise LoadError(
                f"{directory} is {resolved}, which is below no base path of a Python model that the server was "
                "started with; --allow_python_models allows others",
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
        # What is there was fetched, perhaps for models without code, from stores that may bring none.
        if self.cache_directory and _is_below(path, self.cache_directory):
            raise _denied(
                f"{path} is in the cache of remote models, from which no Python code is served by its path"
            )

    def _is_below_named(self, path: str) -> bool:
        return any(
            _is_below(path, local_path(base_path))
            for base_path in self.python_base_paths
            if not is_remote(base_path)
        )


class PermissionsInForce:
    """The permissions of a server, which change with its configuration file.

    Made before anything that asks or changes them. Safe to use from several threads.

    Attributes:
        current: What is allowed now; `None` for everything.
    """

    def __init__(self, current: Permissions | None = None) -> None:
        """Begin with what is allowed at first."""
        self.current = current

    def admit_code(self, base_path: str, directory: str) -> str:
        """Refuse a version directory whose code must not be run; see `Permissions.admit_code`."""
        permissions = self.current
        if permissions is None:
            return directory
        return permissions.admit_code(base_path, directory)


def start_permissions(
    flags: Flags,
    models: Sequence[ModelConfig] | None,
    cache_directory: os.PathLike[str],
    code_platforms: Collection[str],
    first_models: Sequence[ModelConfig] | None = None,
) -> Permissions:
    """What a server allows that is started with these flags and models.

    A configuration file that others may write counts like a request: what it names is not allowed for that. Of one in a
    remote store, that cannot be told: it names stores when the server starts, and neither further ones later nor code.

    Args:
        flags: The command line.
        models: The models that the flags or their configuration file name.
        cache_directory: Where fetched versions are kept.
        code_platforms: The platforms whose versions bring code.
        first_models: Those that were named at the start, where `models` have been read since.

    Raises:
        ConfigError: A store cannot be understood.
    """
    code_stores = allowed_stores(flags)
    named: Sequence[ModelConfig] = models or ()
    python = tuple(model.base_path for model in named if model.platform in code_platforms)
    if flags.model_config_file and why_not_trusted(flags.model_config_file, code_stores):
        python = ()
        is_elsewhere = is_remote(flags.model_config_file)
        named = (models if first_models is None else first_models) or () if is_elsewhere else ()
    remote = tuple(model.base_path for model in named if is_remote(model.base_path))
    return Permissions(
        code_platforms,
        flags.allow_python_models,
        python,
        Reach(code_stores | frozenset(_stores(remote)), remote),
        code_stores,
        os.fspath(cache_directory),
    )


def why_not_trusted(config_file: str, stores: frozenset[Store]) -> str:
    """Why a configuration file does not speak for whoever started the server; empty where it does."""
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
        ConfigError: One cannot be understood.
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
            continue  # refused when its model is checked


def _is_below(path: str, directory: str) -> bool:
    resolved, base = os.path.realpath(path), os.path.realpath(directory)
    return resolved == base or resolved.startswith(base.rstrip("/") + "/")


def _denied(message: str) -> ConfigError:
    return ConfigError(message, code=Code.PERMISSION_DENIED)


def _unclear(text: str, reason: str) -> ConfigError:
    return ConfigError(f"--allowed_remote_stores has {text}: {reason}")
