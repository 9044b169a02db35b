"""The control plane's part of the metrics page (docs/spec/observability.md §4 and §6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from servable._server.telemetry.devices import Device, gpu_family
from servable._server.telemetry.families import LATENCY_LIMITS, Counter, Family, Histogram
from servable._server.telemetry.process import build_family, process_families
from servable.errors import ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._states import ServableEvent, ServableState, status_text


class ControlPlaneMetrics:
    """Counts events in the lives of models. Safe to use from several threads."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start all counts at zero.

        Args:
            clock: Measures durations, in seconds.
        """
        self._tensorflow_version: Callable[[], str | None] = lambda: None
        self._tensorflow_devices: Callable[[], Sequence[Device]] = tuple
        self._clock = clock
        self._load_attempts = Counter(
            "/tensorflow/cc/saved_model/load_attempt_count", ["model_path", "status"]
        )
        self._load_latency = Counter("/tensorflow/cc/saved_model/load_latency", ["model_path"])
        self._warm_up_latency = Histogram(
            "/tensorflow/serving/model_warmup_latency", ["model_path", "status"], LATENCY_LIMITS
        )
        self._warm_up_records = Counter(
            "/tensorflow/serving/model_warmup_records_read", ["model_path", "status"]
        )
        self._loads = Counter(
            "servable_loads_total",
            ["model_name", "status"],
            "Versions that became available or finally failed to load, by status.",
        )
        self._load_seconds = Counter(
            "servable_load_seconds_total",
            ["model_name"],
            "Time from the start of a load until the version is available or has failed, including "
            "warm-up and retries.",
        )
        self._reloads = Counter(
            "servable_config_reloads_total",
            ["trigger", "status"],
            "Configuration changes, by trigger and status.",
        )
        self._loading_since: dict[ServableId, float] = {}

    def show_tensorflow(
        self,
        version: Callable[[], str | None],
        devices: Callable[[], Sequence[Device]] = tuple,
    ) -> None:
        """Show the version and the devices of a runtime; the functions are called at each scrape."""
        self._tensorflow_version, self._tensorflow_devices = version, devices

    def tensorflow_devices(self) -> Sequence[Device]:
        """The devices of TensorFlow in this process; empty until it has loaded a model."""
        return self._tensorflow_devices()

    @contextmanager
    def saved_model_load(self, path: str) -> Iterator[None]:
        """Count the load of a version directory; the load runs inside the `with` block."""
        start, status = self._clock(), "fail"
        try:
            yield
            status = "success"
        finally:
            self._load_attempts.add(path, status)
            self._load_latency.add(path, amount=self._micros_since(start))

    @contextmanager
    def warm_up(self, path: str) -> Iterator[Callable[[], None]]:
        """Count the replay of the warm-up records of a version directory; the replay runs inside the `with` block.

        Yields:
            A function to call for each record.
        """
        start, records, status = self._clock(), 0, "UNKNOWN"

        def count_record() -> None:
            nonlocal records
            records += 1

        try:
            yield count_record
            status = "OK"
        except ServableError as error:
            status = status_text(error)
            raise
        finally:
            self._warm_up_latency.add(path, status, value=self._micros_since(start))
            self._warm_up_records.add(path, status, amount=records)

    @contextmanager
    def config_reload(self, trigger: str) -> Iterator[None]:
        """Count a change of the configuration; the change runs inside the `with` block."""
        status = "UNKNOWN"
        try:
            yield
            status = "OK"
        except ServableError as error:
            status = error.code.name
            raise
        finally:
            self._reloads.add(trigger, status)

    def note(self, event: ServableEvent) -> None:
        """Count the end of a load; a subscriber of all events."""
        if event.state is ServableState.LOADING:
            self._loading_since.setdefault(event.id, self._clock())
            return
        since = self._loading_since.pop(event.id, None)
        if since is None or (event.state is ServableState.END and event.error is None):
            return
        code = "OK" if event.error is None else event.error.code.name
        self._loads.add(event.id.name, code)
        self._load_seconds.add(event.id.name, amount=self._clock() - since)

    def scrape(self) -> list[Family]:
        """The current values, and the figures of the process."""
        counted = (
            self._load_attempts,
            self._load_latency,
            self._warm_up_latency,
            self._warm_up_records,
            self._loads,
            self._load_seconds,
            self._reloads,
        )
        return [
            *(each.family() for each in counted),
            *process_families(),
            build_family(self._tensorflow_version()),
            gpu_family(self._tensorflow_devices()),
        ]

    def _micros_since(self, start: float) -> int:
        return int((self._clock() - start) * 1e6)
