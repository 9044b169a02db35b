"""Decides when the ports open, when a start is complete, and when it has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from servable._server.change_under_way import did_not_become_available
from servable._server.config.models import ModelConfig
from servable._server.server_core import ServerCore
from servable.errors import Code, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._monitor import RecordedState
from servable.lifecycle._states import ServableEvent, ServableState

_RECHECK_SECONDS = 0.05
"""How often the first attempts are checked in seconds: failed attempts and missing versions cause no events."""


@dataclass(frozen=True, slots=True)
class StartedModel:
    """The state of a model when the ports open.

    Attributes:
        name: The model.
        platform: Its kind.
        versions: The available versions, the highest first.
        problem: Why there is none, if there is none.
    """

    name: str
    platform: str
    versions: tuple[int, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StartSummary:
    """The result of a start.

    Attributes:
        seconds: The duration.
        models: The models, in the order of the configuration.
        grpc_port: The TCP port of gRPC; 0 for none.
        rest_port: The TCP port of REST; 0 for none.
        has_tls: Whether the REST port requires TLS.
        asks_for_keys: Whether requests need an API key.
        other_addresses: Unix sockets.
    """

    seconds: float
    models: tuple[StartedModel, ...]
    grpc_port: int
    rest_port: int
    has_tls: bool = False
    asks_for_keys: bool = False
    other_addresses: tuple[str, ...] = ()


def started_models(core: ServerCore) -> tuple[StartedModel, ...]:
    """The states of all models in a core's configuration."""
    problems = core.problems()
    return tuple(_started(core, model, problems.get(model.name)) for model in core.models)


def _started(core: ServerCore, model: ModelConfig, problem: ServableError | None) -> StartedModel:
    states = core.monitor.states(model.name)
    versions = tuple(v for v, found in states.items() if found.state is ServableState.AVAILABLE)
    text = ""
    if not versions:
        text = problem.message if problem else "no version was found"
        for version, found in states.items():
            error = found.error or core.last_failure(ServableId(model.name, version))
            text = f"version {version} " + (f"failed: {error.message}" if error else "is loading")
            break
    return StartedModel(model.name, model.platform, versions, text)


class StartupWatch:
    """Detects, once, when the first configuration has settled.

    A model has settled when it has had an available version, or when all its versions have finally failed. A model
    without a version has not settled: its first version may appear at any time.
    """

    def __init__(
        self,
        core: ServerCore,
        names: Sequence[str],
        on_ready: Callable[[], None],
        on_failed: Callable[[ServableError], None],
    ) -> None:
        """Start watching; the callbacks run on threads of the lifecycle and must be quick.

        Args:
            core: Loads the models; it must not have started.
            names: The models of the first configuration.
            on_ready: All have settled, and at least one serves, or there is none.
            on_failed: All have failed.
        """
        self._core = core
        self._monitor = core.monitor
        self._pending = set(names)
        self._failed: dict[str, tuple[str, ServableError]] = {}
        self._names = dict.fromkeys(names)  # in order, with fast look-ups
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._is_done = False
        if not names:
            self._is_done = True
            on_ready()
        core.bus.subscribe(self._look_at)

    def wait_until_tried(self, is_over: Callable[[], bool]) -> None:
        """Wait until each model has its first version, has failed once, or has none to load.

        Retries are not waited for. If every model has finally failed, only `on_failed` is left to wait for.

        Args:
            is_over: Whether to stop waiting; called periodically.
        """
        untried = list(self._names)

        def have_settled() -> bool:
            # One model is checked per event, so that a start with thousands is not slowed down.
            while untried and self._has_settled(untried[-1]):
                untried.pop()
            return not untried

        while not is_over():
            if self._monitor.wait_for(have_settled, _RECHECK_SECONDS):
                if self._may_serve():
                    return
                # `on_failed` is about to be called; wait for it.
                time.sleep(_RECHECK_SECONDS)
            configured = {model.name for model in self._core.models}
            problems = self._core.problems()
            untried[:] = [
                name
                for name in untried
                if name in configured and not self._is_tried(name, name in problems)
            ]

    def _has_settled(self, name: str) -> bool:
        states = self._monitor.states(name)
        return _is_available(states) or _failure(states) is not None

    def _may_serve(self) -> bool:
        """Whether there is no model, or one that has not finally failed."""
        names = self._names
        return not names or any(_failure(self._monitor.states(name)) is None for name in names)

    def _is_tried(self, name: str, has_problem: bool) -> bool:
        states = self._monitor.states(name)
        # A version that ended without an error, or was cancelled, was replaced by another one.
        wanted = [
            version
            for version, recorded in states.items()
            if recorded.state is not ServableState.END or _has_failed(recorded)
        ]
        if not wanted:
            return has_problem
        return _is_available(states) or all(
            _has_failed(states[version]) or self._core.last_failure(ServableId(name, version))
            for version in wanted
        )

    def _look_at(self, event: ServableEvent) -> None:
        name = event.id.name
        if self._is_done or name not in self._names:
            return
        states = self._monitor.states(name)
        if _is_available(states):
            self._pending.discard(name)
            self._failed.pop(name, None)
        elif failure := _failure(states):
            version, error = failure
            self._pending.discard(name)
            self._failed[name] = (str(ServableId(name, version)), error)
        if self._pending:
            return
        self._is_done = True
        if len(self._failed) < len(self._names):
            self._on_ready()
        else:
            failed = [self._failed[name] for name in self._names]
            self._on_failed(did_not_become_available("servable", failed))


def _is_available(states: Mapping[int, RecordedState]) -> bool:
    return any(recorded.state is ServableState.AVAILABLE for recorded in states.values())


def _has_failed(recorded: RecordedState) -> bool:
    error = recorded.error
    return (
        recorded.state is ServableState.END
        and error is not None
        and error.code is not Code.CANCELLED
    )


def _failure(states: Mapping[int, RecordedState]) -> tuple[int, ServableError] | None:
    """The highest version of a model and its error, if every version has finally failed."""
    if not states or not all(r.state is ServableState.END and r.error for r in states.values()):
        return None
    version, recorded = next(iter(states.items()))
    return (
        None if recorded.error is None or not _has_failed(recorded) else (version, recorded.error)
    )
