"""A call, independent of its transport: the request, and how the answer is decoded."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from servable.client._arrays import Array
from servable.client._results import Classes, InferenceTask, Prediction, VersionStatus
from servable.client._signatures import ModelMetadata, ModelSignature
from servable.errors import InvalidInputError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Target:
    """The model, version and signature of a call.

    Attributes:
        model: The model's name.
        version: A version; the server chooses if None.
        label: A label in place of a version.
        signature: The default one if empty.
    """

    model: str
    version: int | None = None
    label: str | None = None
    signature: str = ""

    def __post_init__(self) -> None:
        """Refuse a target that no server would understand.

        Raises:
            InvalidInputError: The name is empty, or both a version and a label are given.
        """
        model: object = self.model
        version: object = self.version
        if not isinstance(model, str) or not model:
            raise InvalidInputError(f"model: got {model!r}, want a name")
        if version is not None and self.label is not None:
            raise InvalidInputError(
                f"{model}: got version {version} and label {self.label!r}, want only one"
            )
        is_number = isinstance(version, numbers.Integral) and not isinstance(version, bool)
        if self.version is not None and not (is_number and 0 <= self.version < 2**63):
            raise InvalidInputError(f"version of {model}: got {version!r}, want a number")

    def __str__(self) -> str:
        """For example `half_plus_two/3`, or `half_plus_two:stable` with a label."""
        if self.version is not None:
            return f"{self.model}/{self.version}"
        return self.model if self.label is None else f"{self.model}:{self.label}"


@dataclass(frozen=True, slots=True)
class Request:
    """An encoded request.

    Attributes:
        path: The method of gRPC, or the path of REST.
        body: The message, or the document; None for a GET.
        is_repeatable: Whether the request has no side effects, so that it may be retried.
    """

    path: str
    body: bytes | None = None
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Result]):
    """A request, and the decoder of its answer.

    Attributes:
        request: The request.
        read: Decodes the answer; raises `BackendError` if that is malformed.
    """

    request: Request
    read: Callable[[bytes], Result] = field(repr=False)


Examples = Sequence[Mapping[str, object]]
"""Values by feature name, for each example."""


class Codec(Protocol):
    """The encoding of one of the two protocols."""

    needs_signature: bool
    """Whether Predict requires the signature, to encode the request or to decode the answer."""

    def predict(
        self,
        target: Target,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        signature: ModelSignature | None,
    ) -> Exchange[Prediction]:
        """Run a model on arrays; `outputs` are the outputs to return, all if empty."""

    def classify(
        self, target: Target, examples: Examples, context: Mapping[str, object] | None
    ) -> Exchange[Classes]:
        """Classify examples."""

    def regress(
        self, target: Target, examples: Examples, context: Mapping[str, object] | None
    ) -> Exchange[Array]:
        """Compute a value for each example."""

    def multi_inference(
        self,
        target: Target,
        examples: Examples,
        context: Mapping[str, object] | None,
        tasks: Sequence[InferenceTask],
    ) -> Exchange[list[Classes | Array]]:
        """Classify and regress the same examples."""

    def metadata(self, target: Target) -> Exchange[ModelMetadata]:
        """Fetch the signatures."""

    def status(self, target: Target) -> Exchange[list[VersionStatus]]:
        """Fetch the state of versions."""

    def reload_config(self, config: str) -> Exchange[None]:
        """Replace the configuration by another one, in text format."""

    def ping(self) -> Request:
        """A request that every live server refuses with INVALID_ARGUMENT."""


class Transport(Protocol):
    """Sends requests.

    Synchronous transports block and never suspend, so that both kinds of client share the same coroutines; see
    `servable.client._calls.finish`.
    """

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        """Send a request, and return the answer.

        Raises:
            ServableError: The error in the server's answer, or UnavailableError if there is no answer.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:
        """Close the connections."""
