"""The model repository of the Open Inference Protocol, on top of `ServerCore`."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence

from servable._server.admin.edits import with_model, without_model
from servable._server.config.model_messages import model_from_json
from servable._server.config.models import ModelConfig
from servable._server.server_core import ServerCore
from servable.errors import InvalidInputError, NotFoundError, UnavailableError
from servable.lifecycle._states import ServableState

_log = logging.getLogger(__name__)

_LOAD_SECONDS = 60.0
"""How long a load waits for a model that is already configured and loading, in seconds."""

_LOOK_SECONDS = 1.0
"""How often such a wait checks for cancellation, in seconds."""


class ModelRepository:
    """Loads and unloads models, and remembers unloaded ones. Safe to use from several threads."""

    def __init__(self, core: ServerCore) -> None:
        """Change the models of a core."""
        self._core = core
        self._lock = threading.Lock()
        self._unloaded: dict[str, ModelConfig] = {}

    def load(
        self,
        name: str,
        config: str | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Serve a model, and wait until it has an available version.

        Args:
            name: The model.
            config: A `ModelConfig` as JSON; a `base_path` suffices. Without it the model is served as before it was
                unloaded.
            is_cancelled: Called about once a second; the wait ends when it returns true.

        Raises:
            NotFoundError: The model is unknown, or has no version.
            InvalidInputError: The configuration is invalid.
            UnavailableError: The model is configured, and has no available version yet.
            ServableError: It failed to load.
        """
        _log.info("Model repository: load %s", name)
        if config is not None:
            model = _parsed(name, config)
        elif any(known.name == name for known in self._core.models):
            self._wait_for(name, is_cancelled)
            return
        else:
            with self._lock:
                remembered = self._unloaded.get(name)
            if remembered is None:
                raise NotFoundError(
                    f"Model {name} is not in the repository; load it with the parameter config, such as "
                    '{"base_path": "/models/m"}'
                )
            model = remembered
        self._core.change(with_model(model), is_cancelled)
        with self._lock:
            self._unloaded.pop(name, None)

    def unload(self, name: str, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Stop serving a model. It can be loaded again without a configuration.

        Args:
            name: The model.
            is_cancelled: Called about once a second; the wait ends when it returns true.

        Raises:
            NotFoundError: It is not served.
            ServableError: Another change is being made.
        """
        _log.info("Model repository: unload %s", name)
        removed: list[ModelConfig] = []

        def edit(models: Sequence[ModelConfig]) -> Sequence[ModelConfig]:
            removed.extend(model for model in models if model.name == name)
            return without_model(name)(models)

        self._core.change(edit, is_cancelled)
        with self._lock:
            self._unloaded.update((model.name, model) for model in removed)

    def _wait_for(self, name: str, is_cancelled: Callable[[], bool]) -> None:
        monitor = self._core.monitor

        def is_available() -> bool:
            states = monitor.states(name).values()
            return any(recorded.state is ServableState.AVAILABLE for recorded in states)

        end = time.monotonic() + _LOAD_SECONDS
        while not monitor.wait_for(is_available, _LOOK_SECONDS):
            if self._core.is_stopping:
                raise UnavailableError("The server is shutting down")
            if time.monotonic() >= end or is_cancelled():
                errors = [r.error for r in monitor.states(name).values() if r.error is not None]
                problem = next(iter(errors), self._core.problems().get(name))
                reason = "" if problem is None else f": {problem.message}"
                raise UnavailableError(f"Model {name} has no version that answers{reason}")


def _parsed(name: str, config: str) -> ModelConfig:
    try:
        document = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"The configuration is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInputError("The configuration has to be a JSON object")
    model = model_from_json({"name": name, "model_platform": "tensorflow", **document})
    if model.name != name:
        raise InvalidInputError(f"The path names model {name}, the configuration {model.name}")
    return model
