"""Decides when a start is complete, and when it has failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from servable.change_under_way import did_not_become_available
from servable.errors import Code, ServableError
from servable.lifecycle.ids import ServableId
from servable.lifecycle.states import ServableState
from servable.server_core import ServerCore


class StartupWatch:
    """Says once when the first configuration has settled.

    A model has settled when it has had an available version, or when all its versions have failed
    for good. One that has no version yet has not: its first one may come at any time.
    """

    def __init__(
        self,
        core: ServerCore,
        names: Sequence[str],
        on_ready: Callable[[], None],
        on_failed: Callable[[ServableError], None],
    ) -> None:
        """Watch from now on; the callbacks come on threads of the lifecycle and must be quick.

        Args:
            core: What loads the models; it must not have started.
            names: The models of the first configuration.
            on_ready: All have settled, and at least one serves, or there is none.
            on_failed: All have failed.
        """
        self._monitor = core.monitor
        self._pending = set(names)
        self._failed: dict[str, tuple[str, ServableError]] = {}
        self._names = dict.fromkeys(names)  # in order, and quick to look into
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._is_done = False
        if not names:
            self._is_done = True
            on_ready()
        core.bus.subscribe(lambda event: self._look_at(event.id.name))

    def _look_at(self, name: str) -> None:
        if self._is_done or name not in self._names:
            return
        states = self._monitor.states(name)
        if any(recorded.state is ServableState.AVAILABLE for recorded in states.values()):
            self._pending.discard(name)
            self._failed.pop(name, None)
        elif all(r.state is ServableState.END and r.error is not None for r in states.values()):
            version, recorded = next(iter(states.items()))
            if recorded.error is not None and recorded.error.code is not Code.CANCELLED:
                self._pending.discard(name)
                self._failed[name] = (str(ServableId(name, version)), recorded.error)
        if self._pending:
            return
        self._is_done = True
        if len(self._failed) < len(self._names):
            self._on_ready()
        else:
            failed = [self._failed[name] for name in self._names]
            self._on_failed(did_not_become_available("servable", failed))
