"""Replays recorded requests before a version becomes available (docs/spec/lifecycle.md §20)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from servable._server.telemetry import ControlPlaneMetrics
from servable.errors import Code, InvalidInputError, ServableError
from servable.lifecycle._loader import Loader
from servable.lifecycle._loader import Servable as LoadedServable
from servable.loaders._wrapping import WrappingLoader
from servable.warmup._tf_record import read_records

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

_log = logging.getLogger(__name__)

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
"""The file of recorded requests in a version directory."""

MAX_RECORDS = 1000
"""The maximum number of requests of a version."""

_SHOWN_BYTES = 1000
"""How many bytes of an invalid record an error quotes; few, because errors travel in headers."""


@dataclass(frozen=True, slots=True)
class WarmUpOptions:
    """How versions are warmed up.

    Attributes:
        recorded: Replay the requests that are stored beside the model, if any (`--enable_model_warmup`).
        iterations: How often each request is run (`--num_request_iterations_for_warmup`).
        automatic: Without such requests, run each signature on zeros of its declared shape.
        check_method_names: Whether the method name of a signature must match the call.
    """

    recorded: bool = True
    iterations: int = 1
    automatic: bool = False
    check_method_names: bool = False


def warm_up(
    servable: Servable,
    path: str,
    options: WarmUpOptions,
    metrics: ControlPlaneMetrics | None = None,
) -> None:
    """Run the requests that are stored in a version directory.

    Runs on the calling thread. Requests are not published, counted or answered.

    Args:
        servable: The loaded version.
        path: Its directory.
        options: Which requests to run, and how often.
        metrics: Counts the replays.

    Raises:
        ServableError: A request failed, or the file is damaged.
    """
    file = os.path.join(path, WARM_UP_FILE)
    if options.recorded and os.path.exists(file):
        with (metrics or ControlPlaneMetrics()).warm_up(path) as count_record:
            _replay(servable, path, file, options, count_record)
        return
    if options.recorded:
        _log.info("No warmup data file found at %s", file)
    if options.automatic:
        _run_on_zeros(servable, path, options)


def _replay(
    servable: Servable,
    path: str,
    file: str,
    options: WarmUpOptions,
    count_record: Callable[[], None],
) -> None:
    _log.info(
        "Starting to read warmup data for model at %s with model-warmup-options "
        "num_request_iterations { value: %d }",
        file,
        options.iterations,
    )
    start = time.monotonic()
    count = 0
    try:
        for record in read_records(file):
            _run(servable, record, file, options)
            count_record()
            count += 1
            if count > MAX_RECORDS:
                raise InvalidInputError(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
                )
    except OSError as error:
        raise ServableError(f"{file}; {error.strerror}") from error
    except ServableError as error:
        if count > MAX_RECORDS:
            raise
        text = error.message
        if error.code is Code.DATA_LOSS:
            text += ". Please verify your warmup data is in TFRecord format."
        raise ServableError(f"{text} (record {count + 1} of {file})", code=error.code) from error
    _log.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
        "Elapsed time (microseconds): %d.",
        file,
        count,
        (time.monotonic() - start) * 1e6,
    )


def _run(servable: Servable, record: bytes, file: str, options: WarmUpOptions) -> None:
    try:
        servable.warm_up(record, options.iterations, options.check_method_names)
    except ValueError as error:
        shown = record[:_SHOWN_BYTES].decode("utf-8", "replace")
        raise InvalidInputError(f"Failed to parse warmup record: {shown} from {file}") from error


def _run_on_zeros(servable: Servable, path: str, options: WarmUpOptions) -> None:
    start = time.monotonic()
    for signature, fault in servable.warm_up_with_zeros(options.iterations).items():
        if fault is not None:
            _log.info("Signature %s of %s was not warmed up: %s", signature, path, fault)
    _log.info("Warmed up %s with zeros in %.3f s", path, time.monotonic() - start)


class WarmUpLoader(WrappingLoader):
    """Loads a version, then warms it up; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        loader: Loader,
        path: str,
        options: WarmUpOptions,
        metrics: ControlPlaneMetrics | None = None,
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            loader: Loads the version.
            path: The version directory.
            options: How to warm up.
            metrics: Counts the replays.
        """
        super().__init__(loader)
        self._path = path
        self._options = options
        self._metrics = metrics

    def completion(self) -> Callable[[LoadedServable], None]:
        """Run the requests of the version.

        Unlike the load, the runs have the priority of requests. The first runs start threads that persist, such as
        XLA's, and these threads inherit the priority.
        """
        return lambda servable: warm_up(
            cast("Servable", servable), self._path, self._options, self._metrics
        )
