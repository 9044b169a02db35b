"""The logic that both clients share: find signatures, prepare inputs, retry.

It is written once, as coroutines. The asynchronous client awaits them. The synchronous client has transports that block
instead of suspending, so its coroutines complete in one step.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from servable.client._arrays import Array, has_dtype, to_array
from servable.client._exchange import Codec, Examples, Exchange, Request, Target, Transport
from servable.client._options import Deadline, Default, Retry, Timeout
from servable.client._results import Classes, InferenceTask, Prediction, State, VersionStatus
from servable.client._signatures import ModelMetadata, ModelSignature
from servable.errors import (
    BackendError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidInputError,
    NotFoundError,
    ServableError,
    UnavailableError,
)

Result = TypeVar("Result")

Inputs = Any
"""A dictionary of values by input name, or a value for the only input.

A value is an array, anything with `__array__` or DLPack, or plain Python values in lists.
"""

_SIGNATURE_SECONDS = 60.0
"""How long signatures are cached in seconds if the server chooses the version, which may change."""
_REMEMBERED = 1000
_READY_PAUSE_SECONDS = 0.1
_PROBE_SECONDS = 2.0


def finish(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine whose transport blocks to its end."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        result: Result = stopped.value
        return result
    coroutine.close()
    raise RuntimeError("a transport of the synchronous client suspended")


@dataclass(frozen=True, slots=True)
class _Remembered:
    metadata: ModelMetadata
    since: float


class Calls:
    """The calls of a client, over any protocol and transport."""

    def __init__(
        self,
        codec: Codec,
        transport: Transport,
        retry: Retry,
        timeout: float | None = None,
    ) -> None:
        """Combine the parts; `timeout` is the default of calls."""
        self._codec = codec
        self._transport = transport
        self._retry = retry
        self._timeout = timeout
        self._metadata: dict[Target, _Remembered] = {}

    async def predict(
        self, target: Target, inputs: Inputs, outputs: Sequence[str], timeout: Timeout
    ) -> Prediction:
        """Run a model; fetches the signature only if the inputs or the protocol need it."""
        deadline = self._deadline(timeout)
        if isinstance(outputs, str):
            outputs = [outputs]
        if self._codec.needs_signature or not _speak_for_themselves(inputs):
            return await self._predict_by_signature(target, inputs, outputs, deadline)
        arrays = {
            name: to_array(_input_name(target, name), value) for name, value in inputs.items()
        }
        try:
            exchange = self._codec.predict(target, arrays, outputs, None)
            return await self._exchange(exchange, deadline)
        except (InvalidInputError, FailedPreconditionError) as error:
            await self._explain(error, target, arrays, outputs, deadline)
            raise

    async def classify(
        self,
        target: Target,
        examples: Examples,
        context: Mapping[str, object] | None,
        timeout: Timeout,
    ) -> Classes:
        """Classify examples."""
        exchange = self._codec.classify(target, _listed(examples), context)
        return await self._exchange(exchange, self._deadline(timeout))

    async def regress(
        self,
        target: Target,
        examples: Examples,
        context: Mapping[str, object] | None,
        timeout: Timeout,
    ) -> Array:
        """Compute a value for each example."""
        exchange = self._codec.regress(target, _listed(examples), context)
        return await self._exchange(exchange, self._deadline(timeout))

    async def multi_inference(
        self,
        target: Target,
        examples: Examples,
        tasks: Sequence[InferenceTask | tuple[str, str]],
        context: Mapping[str, object] | None,
        timeout: Timeout,
    ) -> list[Classes | Array]:
        """Classify and regress the same examples."""
        wanted = [InferenceTask(*task) for task in tasks]
        exchange = self._codec.multi_inference(target, _listed(examples), context, wanted)
        return await self._exchange(exchange, self._deadline(timeout))

    async def metadata(self, target: Target, timeout: Timeout) -> ModelMetadata:
        """Fetch the signatures; never from the cache."""
        return await self._fetch_metadata(target, self._deadline(timeout))

    async def status(self, target: Target, timeout: Timeout) -> list[VersionStatus]:
        """Fetch the state of versions."""
        return await self._exchange(self._codec.status(target), self._deadline(timeout))

    async def reload_config(
        self, config: str | Mapping[str, str | os.PathLike[str]], timeout: Timeout
    ) -> None:
        """Replace the configuration; never retried."""
        text = config if isinstance(config, str) else _config_text(config)
        await self._exchange(self._codec.reload_config(text), self._deadline(timeout))

    async def wait_until_ready(self, targets: Sequence[Target], timeout: Timeout) -> None:
        """Wait until a server answers and has an available version of each model."""
        deadline = self._deadline(timeout)
        if not targets:
            await self._until_ready(self._answers, "the server does not answer", deadline)
        for target in targets:

            async def look(target: Target = target) -> str:
                return await self._missing(target, deadline)

            await self._until_ready(look, f"{target} is not available", deadline)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    # ---- sending

    def _deadline(self, timeout: Timeout) -> Deadline:
        return Deadline(self._timeout if isinstance(timeout, Default) else timeout)

    async def _exchange(self, exchange: Exchange[Result], deadline: Deadline) -> Result:
        return exchange.read(await self._send(exchange.request, deadline))

    async def _send(self, request: Request, deadline: Deadline) -> bytes:
        for attempt in itertools.count(1):
            try:
                return await self._transport.send(request, deadline.remaining())
            except UnavailableError:
                pause = self._retry.pause_seconds(attempt) if request.is_repeatable else None
                if pause is None or not deadline.leaves(pause):
                    raise
            await self._transport.sleep(pause)
        raise AssertionError("the loop has no end")

    # ---- signatures

    async def _predict_by_signature(
        self, target: Target, inputs: Inputs, outputs: Sequence[str], deadline: Deadline
    ) -> Prediction:
        remembered = self._remembered(target)
        metadata = remembered or await self._fetch_metadata(target, deadline)
        while True:
            try:
                signature = metadata.signature(target.signature)
                arrays = self._arrays(target, inputs, outputs, signature)
                exchange = self._codec.predict(target, arrays, outputs, signature)
                return await self._exchange(exchange, deadline)
            except (InvalidInputError, FailedPreconditionError, BackendError):
                # The cached signature may belong to a version that has been unloaded.
                if remembered is None:
                    raise
                fresh = await self._metadata_if_any(target, deadline)
                if fresh is None or fresh.signatures == remembered.signatures:
                    raise
                metadata, remembered = fresh, None

    def _arrays(
        self, target: Target, inputs: Inputs, outputs: Sequence[str], signature: ModelSignature
    ) -> dict[str, Array]:
        """The inputs, converted as the signature says."""
        if not isinstance(inputs, Mapping):
            inputs = {signature.only_input(str(target)): inputs}
        signature.check_input_names(str(target), inputs, all_wanted=self._codec.needs_signature)
        signature.check_output_names(str(target), outputs)
        return {
            name: to_array(_input_name(target, name), value, signature.inputs[name].dtype)
            for name, value in inputs.items()
        }

    async def _explain(
        self,
        refusal: ServableError,
        target: Target,
        arrays: Mapping[str, Array],
        outputs: Sequence[str],
        deadline: Deadline,
    ) -> None:
        """Raise an error from the signature if it explains why the server refused the inputs."""
        metadata = await self._metadata_if_any(target, deadline)
        if metadata is None:
            return
        try:
            self._arrays(target, arrays, outputs, metadata.signature(target.signature))
        except ServableError as explanation:
            raise explanation from refusal

    def _remembered(self, target: Target) -> ModelMetadata | None:
        found = self._metadata.get(replace(target, signature=""))
        if found is None or time.monotonic() - found.since > _SIGNATURE_SECONDS:
            return None
        return found.metadata

    async def _fetch_metadata(self, target: Target, deadline: Deadline) -> ModelMetadata:
        metadata = await self._exchange(self._codec.metadata(target), deadline)
        if len(self._metadata) >= _REMEMBERED:
            self._metadata.clear()
        key = replace(target, signature="")
        self._metadata[key] = _Remembered(metadata, time.monotonic())
        return metadata

    async def _metadata_if_any(self, target: Target, deadline: Deadline) -> ModelMetadata | None:
        """The signatures; `None` if they cannot be fetched, since the caller is about to report another error."""
        try:
            return await self._fetch_metadata(target, deadline)
        except ServableError:
            return None

    # ---- readiness

    async def _until_ready(self, look: Any, complaint: str, deadline: Deadline) -> None:
        while missing := await look():
            if not deadline.leaves(_READY_PAUSE_SECONDS):
                raise DeadlineExceededError(f"{complaint}: {missing}")
            await self._transport.sleep(_READY_PAUSE_SECONDS)

    async def _answers(self) -> str:
        """The reason why the server does not answer; empty if it does."""
        try:
            await self._transport.send(self._codec.ping(), _PROBE_SECONDS)
        except (UnavailableError, DeadlineExceededError) as error:
            return error.message
        except ServableError:
            pass  # an error is an answer, too
        return ""

    async def _missing(self, target: Target, deadline: Deadline) -> str:
        """The reason why a model does not answer; empty if it does."""
        exchange = self._codec.status(target)
        try:
            answer = await self._transport.send(
                exchange.request, min(_PROBE_SECONDS, deadline.remaining() or _PROBE_SECONDS)
            )
        except (UnavailableError, NotFoundError, DeadlineExceededError) as error:
            return error.message
        found = exchange.read(answer)
        if any(status.state is State.AVAILABLE for status in found):
            return ""
        return ", ".join(f"{s.version} is {s.state.value} {s.message}".strip() for s in found)


def _speak_for_themselves(inputs: Inputs) -> bool:
    """Whether inputs have names and dtypes, so that they can be sent without a signature."""
    return isinstance(inputs, Mapping) and all(map(has_dtype, inputs.values()))


def _input_name(target: Target, name: str) -> str:
    return f'input "{name}" of {target}'


def _listed(examples: Examples) -> Examples:
    if isinstance(examples, Mapping):
        raise InvalidInputError("examples: got one dict, want a list of them")
    return list(examples)


def _config_text(models: Mapping[str, str | os.PathLike[str]]) -> str:
    """The text of a configuration with these base paths by model name."""
    entries = (
        f"  config {{ name: {_quoted(name)} base_path: {_quoted(os.fspath(path))} "
        'model_platform: "tensorflow" }\n'
        for name, path in models.items()
    )
    return f"model_config_list {{\n{''.join(entries)}}}\n"


def _quoted(text: str) -> str:
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{escaped}"'
