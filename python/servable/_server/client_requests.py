"""The control plane's side of the calls from the request path, on top of `ServerCore`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servable._server.admin import (
    AdminApi,
    AdminRequest,
    ModelRepository,
    ShadowStatistics,
    respond,
)
from servable._server.border.control_plane import AdminAnswer, ControlPlane
from servable._server.config.models import ModelConfig, parse_reload_config
from servable._server.server_core import ServerCore
from servable._server.telemetry import ControlPlaneMetrics
from servable._server.telemetry.families import Family
from servable.errors import ServableError, UnavailableError

_log = logging.getLogger(__name__)


class ClientRequests(ControlPlane):
    """Executes the calls of the request path. Safe to use from several threads.

    The request path needs this object before there is a core, and may accept requests before the core has started:
    changes wait for `begin`.
    """

    def __init__(self, metrics: ControlPlaneMetrics) -> None:
        """Start without a core.

        Args:
            metrics: The metrics of the control plane.
        """
        self._metrics = metrics
        self._begun = threading.Event()
        self._parts: _Parts | None = None

    def begin(self, core: ServerCore, shadow_statistics: ShadowStatistics) -> None:
        """Execute changes from now on.

        Args:
            core: Serves the models; it has been started.
            shadow_statistics: Returns the counts of copied requests.
        """
        api = AdminApi(core, shadow_statistics, self._metrics.tensorflow_devices)
        self._parts = _Parts(core, ModelRepository(core), api)
        self._begun.set()

    def close(self) -> None:
        """Refuse the changes that wait for `begin`."""
        self._begun.set()

    def reload_config(self, config: bytes, is_cancelled: Callable[[], bool]) -> None:
        """Replace the configuration."""
        core = self._wait().core
        try:
            with self._metrics.config_reload("rpc"):
                models = parse_reload_config(config)
                _log_entries(models)
                core.reload(models, is_cancelled)
        except ServableError as error:
            _log.error("ReloadConfig failed: %s", error)
            raise

    def load_model(self, model: str, config: str | None, is_cancelled: Callable[[], bool]) -> None:
        """Serve a model."""
        self._wait().repository.load(model, config, is_cancelled)

    def unload_model(self, model: str, is_cancelled: Callable[[], bool]) -> None:
        """Stop serving a model."""
        self._wait().repository.unload(model, is_cancelled)

    def administer(
        self, method: str, target: str, body: bytes, is_cancelled: Callable[[], bool]
    ) -> AdminAnswer:
        """Execute a request of the administration API."""
        return respond(self._wait().api, AdminRequest(method, target, body, is_cancelled))

    def scrape(self) -> Sequence[Family]:
        """Return the current metrics."""
        return self._metrics.scrape()

    def _wait(self) -> _Parts:
        self._begun.wait()
        if self._parts is None:
            raise UnavailableError("The server is shutting down")
        return self._parts


@dataclass(frozen=True, slots=True)
class _Parts:
    core: ServerCore
    repository: ModelRepository
    api: AdminApi


def _log_entries(models: Sequence[ModelConfig]) -> None:
    for index, model in enumerate(models):
        _log.info(
            "\nConfig entry\n\tindex : %d\n\tpath : %s\n\tname : %s\n\tplatform : %s",
            index,
            model.base_path,
            model.name,
            model.platform,
        )
