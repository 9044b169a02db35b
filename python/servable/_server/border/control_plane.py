"""The calls from the request path up to the control plane: the only Python object that Rust calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from servable._server.telemetry.families import Family
from servable.errors import Code


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """The answer to a request of the administration API.

    Attributes:
        code: The result of the request; it determines the HTTP status.
        content_type: The type of the body, such as `application/json`.
        body: The document.
    """

    code: Code
    content_type: str
    body: bytes


class ControlPlane(Protocol):
    """The operations of the control plane that the request path calls.

    Inference requests make none of these calls.

    Threads: Rust makes the calls from its own threads, from the start of the server to the end of the process, and they
    overlap. Changes run on the 16 threads `servable-change`; `scrape`, and `administer` for `GET`, on the 4 threads
    `servable-page`. Further calls wait in order.

    Duration: a change blocks until it is complete. It should return within about a second after `is_cancelled` returns
    true, because it occupies one of few threads; its loads continue. `is_cancelled` may be called at any time from any
    thread.

    Errors: the code and the message of a `ServableError` reach the client. Any other exception arrives as INTERNAL with
    its text.
    """

    def reload_config(self, config: bytes, is_cancelled: Callable[[], bool]) -> None:
        """Replace the configuration, for a `HandleReloadConfigRequest`.

        Args:
            config: A serialized `ModelServerConfig`.
            is_cancelled: Whether the client no longer waits.

        Raises:
            ServableError: The configuration is refused, or a new model failed to load.
        """

    def load_model(self, model: str, config: str | None, is_cancelled: Callable[[], bool]) -> None:
        """Serve a model, for the model repository of the Open Inference Protocol, and wait until it is available.

        Only called with `ServerOptions.model_repository`.

        Args:
            model: The name of the model.
            config: A `ModelConfig` as JSON; `None` to serve the model as before it was unloaded.
            is_cancelled: Whether the client no longer waits.

        Raises:
            ServableError: The model is unknown, the configuration is refused, or the load failed.
        """

    def unload_model(self, model: str, is_cancelled: Callable[[], bool]) -> None:
        """Stop serving a model, for the same protocol; return when no further request reaches it.

        Only called with `ServerOptions.model_repository`.

        Args:
            model: The name of the model.
            is_cancelled: Whether the client no longer waits.

        Raises:
            ServableError: The model is not served, or another change is under way.
        """

    def administer(
        self, method: str, target: str, body: bytes, is_cancelled: Callable[[], bool]
    ) -> AdminAnswer:
        """Execute a request of the administration API.

        Only called where an endpoint offers `administration`, for clients that may administer.

        Args:
            method: The HTTP method.
            target: The path with its query, as it was sent.
            body: The body, empty if there is none.
            is_cancelled: Whether the client no longer waits.

        Returns:
            The answer, also if the request failed.
        """

    def scrape(self) -> Sequence[Family]:
        """Return the current metrics of the control plane.

        Called for the metrics page, and for the metrics that a `ReloadConfigRequest` names.

        Raises:
            ServableError: The page is answered with this error.
        """
