"""The served models, from their base paths to the request path.

Wires source, adapter, manager and publisher, and executes changes of the configuration (docs/spec/lifecycle.md §14 to
§16). A reload is checked as a whole before it has any effect. Then the models are independent of each other. The caller
may wait for new models (`change_under_way.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from servable._server.change_under_way import ChangeUnderWay
from servable._server.config.models import (
    ConfigRules,
    ModelConfig,
    RefusedLabelError,
    models_by_path,
    validate_models,
)
from servable._server.config.permissions import Permissions, PermissionsInForce
from servable._server.publisher import ModelPublisher, Traffic
from servable._server.remote.options import RemoteOptions
from servable._server.remote.urls import is_remote, local_path
from servable._server.remote_models import RemoteModels
from servable.errors import (
    ConfigError,
    FailedPreconditionError,
    ServableError,
    UnavailableError,
)
from servable.lifecycle._harness import RetryPolicy
from servable.lifecycle._ids import ServableId
from servable.lifecycle._manager import AspiredVersionsManager
from servable.lifecycle._monitor import EventBus, StateMonitor
from servable.lifecycle._states import ServableState
from servable.platforms import Platform
from servable.platforms._registry import PlatformAdapter, option_types
from servable.sources._configured import ConfiguredVersions
from servable.sources._filesystem import FileSystemSource, MonitoredServable
from servable.sources._settling import SettleTimes

_log = logging.getLogger(__name__)

Edit: TypeAlias = Callable[[tuple[ModelConfig, ...]], Sequence[ModelConfig]]
"""Makes the next configuration from the current one."""

_TURN_SECONDS = 10.0
"""How long a change waits for another one to be put in force, in seconds."""


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """Options for finding and loading versions.

    Attributes:
        poll_wait_seconds: The period of the file-system source.
        retry: How often a failed load is repeated.
        load_slots: How many loads may run concurrently.
        initial_load_slots: The same until the start is complete; `None` for the same number.
        unload_slots: How many unloads may run concurrently.
        allow_labels_for_unavailable: Allow a new label to name a version that is not available.
        servable_versions_always_present: Never unload all versions of a configured model.
        fail_if_zero_versions: Refuse configurations with models that have no version.
        refuse_shared_base_paths: Refuse configurations in which two models have the same base path.
        settle_times: How long versions that are still being written are held back.
        remote: Options of remote base paths.
        permissions: The base paths that configurations may name.
    """

    poll_wait_seconds: float = 1.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    load_slots: int = 4
    initial_load_slots: int | None = None
    unload_slots: int = 4
    allow_labels_for_unavailable: bool = False
    servable_versions_always_present: bool = False
    fail_if_zero_versions: bool = False
    refuse_shared_base_paths: bool = False
    settle_times: SettleTimes = field(default_factory=SettleTimes)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    permissions: PermissionsInForce = field(default_factory=PermissionsInForce)


class ServerCore:
    """The models that a server serves, and their configuration."""

    def __init__(
        self,
        publisher: ModelPublisher,
        platforms: Mapping[str, Platform],
        options: CoreOptions,
    ) -> None:
        """Wire the parts; nothing runs yet.

        Args:
            publisher: Receives the states of versions, and labels.
            platforms: The platforms, which recognise and load versions, by name.
            options: Options for finding and loading versions.
        """
        self.bus = EventBus()
        self.monitor = StateMonitor(self.bus)
        self._publisher = publisher
        self._options = options
        self._manager = AspiredVersionsManager(
            publisher,
            self.bus,
            retry=options.retry,
            load_slots=options.initial_load_slots or options.load_slots,
            unload_slots=options.unload_slots,
        )
        self._platforms = platforms
        self._configured = ConfiguredVersions()
        self._source = FileSystemSource(
            poll_wait_seconds=options.poll_wait_seconds,
            servable_versions_always_present=options.servable_versions_always_present,
            fail_if_zero_versions=options.fail_if_zero_versions,
            settle_times=options.settle_times,
            is_serving=self._is_serving,
            report=publisher.explain,
        )
        self._remote = RemoteModels(options.remote, platforms, publisher.explain)
        self.permit(options.permissions.current)
        self._reload_lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._models: tuple[ModelConfig, ...] | None = None
        self._sourced: frozenset[str] = frozenset()
        self._changes: list[ChangeUnderWay] = []
        self._labels: Mapping[str, Mapping[str, int]] = {}

    def expect(self, names: Sequence[str]) -> None:
        """Announce the models of the first configuration to the publisher; called before the start."""
        self._publisher.expect(names)

    def start(self, models: Sequence[ModelConfig] | None) -> None:
        """Begin to find and load the versions of the first configuration, without waiting for them.

        Args:
            models: The models; `None` if the configuration contains no list.

        Raises:
            ConfigError: The configuration is refused; nothing is loaded.
            RefusedLabelError: A label is refused.
        """
        with self._reload_lock:
            if models is None:
                _log.info("Taking no action for empty config.")
            else:
                self._check(models)
                self._assign_labels(models)
                self._apply(models, logging.INFO)
            self._connect()
            self._manager.start()

    def permit(self, permissions: Permissions | None) -> None:
        """Set the base paths that configurations may name; `None` for all."""
        self._options.permissions.current = permissions
        self._remote.reach = None if permissions is None else permissions.reach

    def check(self, models: Sequence[ModelConfig] | None) -> None:
        """Make the checks of `start`, without looking for versions.

        Raises:
            ConfigError: The configuration is refused.
            RefusedLabelError: A label is refused.
        """
        with self._reload_lock:
            if models is not None:
                self._check(models)
                self._assign_labels(models)

    def complete_start(self) -> None:
        """Limit concurrent loads from now on, to leave CPU time for requests."""
        self._manager.limit_loads(self._options.load_slots)

    def reload(
        self,
        models: Sequence[ModelConfig] | None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Replace the configuration, and wait until each new model serves or has failed.

        Removed models answer nothing after the return; requests in flight keep their versions. Other changes are
        possible while this one waits: a load that takes long, or hangs, must not prevent the removal of its model.

        Args:
            models: The complete new configuration.
            is_cancelled: Called about once a second; the wait ends when it returns true.

        Raises:
            ConfigError: The configuration is refused and nothing has changed.
            RefusedLabelError: A label is refused; models are not touched.
            NotFoundError: A new model has no version; it is served once it has one.
            ServableError: A new model failed to load; the others are served.
        """
        change = self.begin_reload(models)
        if change is not None:
            change.wait_unless_cancelled(is_cancelled)

    def begin_reload(self, models: Sequence[ModelConfig] | None) -> ChangeUnderWay | None:
        """Replace the configuration, without waiting for loads.

        Returns:
            The change, to wait for; `None` if the configuration contains no list.

        Raises:
            ConfigError: The configuration is refused and nothing has changed.
            RefusedLabelError: A label is refused; models are not touched.
        """
        with self._reload_lock:
            if models is None:
                if self._models is not None:
                    raise _illegal_transition()
                _log.info("Taking no action for empty config.")
                return None
            return self._replace(models)

    def change(self, edit: Edit, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Atomically edit the current configuration, put the result in force, and wait as `reload` does.

        Args:
            edit: Makes the next configuration.
            is_cancelled: Called about once a second; the wait ends when it returns true.

        Raises:
            ServableError: As `begin_change`, if nothing has changed, or as `reload`.
        """
        self.begin_change(edit).wait_unless_cancelled(is_cancelled)

    def begin_change(self, edit: Edit) -> ChangeUnderWay:
        """Like `change`, without waiting for loads.

        Labels that do not move need no available version: the failure of a labelled model must not block changes of
        others.

        Raises:
            UnavailableError: Other changes have taken too long.
            ServableError: Raised by `edit`, or the configuration is refused.
        """
        if not self._reload_lock.acquire(timeout=_TURN_SECONDS):
            raise UnavailableError("Another change of the configuration is under way")
        try:
            before = self._models or ()
            models = edit(before)
            unchanged = {model.name for model in models if model in before}
            return self._replace(models, keeps_labels=True, unchanged=unchanged)
        finally:
            self._reload_lock.release()

    def retry(self, servable_id: ServableId) -> None:
        """Load a failed version once more, now; does nothing for other versions."""
        self._manager.retry(servable_id)

    def last_failure(self, servable_id: ServableId) -> ServableError | None:
        """Why the last attempt to load a version failed, while further attempts are due."""
        return self._manager.last_failure(servable_id)

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """The current configuration."""
        return self._models or ()

    def problems(self) -> Mapping[str, ServableError]:
        """The models without versions, with the reasons, as far as their base paths show them."""
        return {**self._source.problems(), **self._remote.problems()}

    def _replace(
        self,
        models: Sequence[ModelConfig],
        *,
        keeps_labels: bool = False,
        unchanged: Collection[str] = (),
    ) -> ChangeUnderWay:
        """Put a configuration in force; called with the lock held.

        Args:
            models: The complete new configuration.
            keeps_labels: Whether labels may stay on versions that are not available.
            unchanged: Models that are not waited for, even if other changes still wait for them.
        """
        self._check(models)
        # A file that is read every second is unchanged nearly always.
        level = logging.DEBUG if tuple(models) == self._models else logging.INFO
        self._assign_labels(models, keeps_labels=keeps_labels)
        # Before any request to the sources, so that no event is missed.
        fresh = StateMonitor(self.bus)
        self._changes = [change for change in self._changes if change.awaited()]
        awaited = {name for change in self._changes for name in change.awaited()}
        still_new = awaited.difference(unchanged)
        for cancelled in [change for change in self._changes if change.is_cancelled]:
            # Repeated reloads with a model that hangs must not leak a change each time.
            if still_new.issuperset(cancelled.awaited()):
                cancelled.close()
                self._changes.remove(cancelled)
        names = [model.name for model in models]
        change = ChangeUnderWay(
            [name for name in names if name not in self._sourced or name in still_new],
            self._sourced.difference(names),
            self.monitor,
            fresh,
            is_configured=lambda name: name in self._sourced,
            problems=self.problems,
            is_stopping=self._is_stopping.is_set,
        )
        self._changes.append(change)
        self._apply(models, level)
        return change

    @property
    def is_stopping(self) -> bool:
        """Whether the server is stopping, so that waits must end."""
        return self._is_stopping.is_set()

    def begin_to_stop(self) -> None:
        """End all waits for loads; serving versions continue."""
        self._is_stopping.set()

    def stop(self, timeout_seconds: float) -> bool:
        """Unload everything.

        Returns:
            Whether it was done in time.
        """
        self.begin_to_stop()
        self._remote.close(0)
        self._source.close(timeout_seconds)
        return self._manager.stop(timeout_seconds)

    def _check(self, models: Sequence[ModelConfig]) -> None:
        rules = ConfigRules(
            self._platforms.keys(),
            self._options.refuse_shared_base_paths,
            self._options.permissions.current,
            option_types=option_types(self._platforms),
        )
        validate_models(models, self._models or (), rules)
        self._source.check(self._monitored(models))
        if tuple(models) != self._models:
            for path, names in models_by_path(models).items():
                _log.warning("Models %s share the base path %s", ", ".join(names), path)

    def _assign_labels(self, models: Sequence[ModelConfig], *, keeps_labels: bool = False) -> None:
        for index, model in enumerate(models):
            if model.labels_when_available:
                continue
            known = self._labels.get(model.name, {})
            for label, version in model.labels.items():
                if keeps_labels and known.get(label) == version:
                    continue
                recorded = self.monitor.state(ServableId(model.name, version))
                is_available = recorded and recorded.state is ServableState.AVAILABLE
                is_new = known.get(label, version) == version
                if not is_available and not (self._options.allow_labels_for_unavailable and is_new):
                    raise RefusedLabelError(
                        index,
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference",
                    )
        # From here on this is the configuration, even if a model cannot be loaded.
        self._models = tuple(models)
        self._labels = {model.name: model.labels for model in models if model.labels}
        self._publisher.set_labels(
            self._labels,
            [model.name for model in models if model.labels_when_available],
            {
                model.name: Traffic(model.splits, model.shadow)
                for model in models
                if model.splits or model.shadow
            },
        )

    def _apply(self, models: Sequence[ModelConfig], level: int) -> None:
        _log.log(level, "Adding/updating models.")
        for model in models:
            _log.log(level, " (Re-)adding model: %s", model.name)
        names = frozenset(model.name for model in models)
        self._publisher.forget_expected(self._sourced - names)
        self._sourced = names
        # Before the other source, so that a model that moves to a remote base path is not emptied.
        self._remote.update(models)
        self._configured.update(model for model in models if not is_remote(model.base_path))
        self._source.update(self._monitored(models))

    def _connect(self) -> None:
        adapter = PlatformAdapter(self._platforms)
        adapter.connect(self._manager)
        self._configured.connect(adapter)
        self._source.connect(self._remote.without_remote(self._configured))
        self._remote.connect(self._manager)

    def _monitored(self, models: Sequence[ModelConfig]) -> Sequence[MonitoredServable]:
        return [
            MonitoredServable(
                model.name,
                local_path(model.base_path),
                model.version_policy,
                keep_last_version=model.keep_last_version,
                is_complete=self._platforms[model.platform].is_complete,
            )
            for model in models
            if not is_remote(model.base_path)
        ]

    def _is_serving(self, servable_id: ServableId) -> bool:
        recorded = self.monitor.state(servable_id)
        return recorded is not None and recorded.state is ServableState.AVAILABLE


def _illegal_transition() -> ConfigError:
    return ConfigError(
        "Cannot transition to requested config. It is only legal to transition from one "
        "ModelConfigList to another.",
        code=FailedPreconditionError.default_code,
    )
