"""A call without its transport: what is sent, and how the answer is read."""

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
    """What a call is for.

    Attributes:
        model: Its name.
        version: A version; the server chooses if None.
        label: A label in place of a version.
        signature: The default one if empty.
    """

    model: str
    version: int | None = None
    label: str | None = None
    signature: str = ""

    def __post_init__(self) -> None:
        """Refuse what no server would understand.

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
        """Such as `half_plus_two/3`, or `half_plus_two:stable` for a label."""
        if self.version is not None:
            return f"{self.model}/{self.version}"
        return self.model if self.label is None else f"{self.model}:{self.label}"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Attributes:
        path: The method of gRPC, or the path of REST.
        body: The message, or the document; None for a GET.
        is_repeatable: Whether it changes nothing, so that it may be sent again.
    """

    path: str
    body: bytes | None = None
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Result]):
    """A request, and what makes a result of the answer.

    Attributes:
        request: What is sent.
        read: Raises `BackendError` if the answer is not what it has to be.
    """

    request: Request
    read: Callable[[bytes], Result] = field(repr=False)


Examples = Sequence[Mapping[str, object]]
"""Values by the names of features, for each example."""


class Codec(Protocol):
    """One of the two protocols."""

    needs_signature: bool
    """Whether Predict can only be sent or read with the signature at hand."""

    def predict(
        self,
        target: Target,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        signature: ModelSignature | None,
    ) -> Exchange[Prediction]:
        """Run a model on arrays; `outputs` are those wanted, all if there are none."""

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
        """Ask for the signatures."""

    def status(self, target: Target) -> Exchange[list[VersionStatus]]:
        """Ask for the state of versions."""

    def reload_config(self, config: str) -> Exchange[None]:
        """Replace the configuration by another one, in text format."""

    def ping(self) -> Request:
        """Something that any server that answers has to refuse as INVALID_ARGUMENT."""


class Transport(Protocol):
    """Carries requests.

    The synchronous ones block and never suspend, so that one and the same coroutine serves both
    kinds of client; see `servable.client._calls.finish`.
    """

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        """Send a request, and return the answer.

        Raises:
            ServableError: What the server answered with, or UnavailableError where there is none.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:
        """Give back connections."""
