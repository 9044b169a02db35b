"""`AsyncClient`: calls a server from an event loop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from servable.client._arrays import Array
from servable.client._calls import Calls, Inputs
from servable.client._connecting import connect
from servable.client._exchange import Examples, Target
from servable.client._named import NOT_GIVEN, one_or_named
from servable.client._options import Default, Retry, Timeout, Tls
from servable.client._results import Classes, InferenceTask, Prediction, VersionStatus
from servable.client._signatures import ModelMetadata


class AsyncClient:
    """Calls a server of TensorFlow Serving's APIs from an event loop.

    The interface is that of `Client`, with coroutines. Calls may run concurrently, in the event loop of the first one.
    Cancelling a task cancels its call.

    ```python
    async with AsyncClient("localhost:8500") as client:
        prediction = await client.predict("half_plus_two", [1.0, 2.0])
    ```
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = 60.0,
        tls: Tls | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Describe the server; see `Client` for the arguments."""
        self._address = address
        self._calls: Calls = connect(
            address,
            is_async=True,
            tls=tls,
            api_key=api_key,
            headers=headers or {},
            retry=retry or Retry(),
            timeout=timeout,
        )

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: Sequence[str] = (),
        timeout: Timeout = Default.TIMEOUT,
    ) -> Prediction:
        """Run a model; see `Client.predict`."""
        target = Target(model, version, label, signature)
        return await self._calls.predict(target, inputs, outputs, timeout)

    async def classify(
        self,
        model: str,
        examples: Examples,
        *,
        context: Mapping[str, object] | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout: Timeout = Default.TIMEOUT,
    ) -> Classes:
        """Classify examples; see `Client.classify`."""
        target = Target(model, version, label, signature)
        return await self._calls.classify(target, examples, context, timeout)

    async def regress(
        self,
        model: str,
        examples: Examples,
        *,
        context: Mapping[str, object] | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout: Timeout = Default.TIMEOUT,
    ) -> Array:
        """Compute a value for each example; see `Client.regress`."""
        target = Target(model, version, label, signature)
        return await self._calls.regress(target, examples, context, timeout)

    async def multi_inference(
        self,
        model: str,
        examples: Examples,
        tasks: Sequence[InferenceTask | tuple[str, str]],
        *,
        context: Mapping[str, object] | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> list[Classes | Array]:
        """Classify and regress the same examples in one call; see `Client.multi_inference`."""
        target = Target(model, version, label)
        return await self._calls.multi_inference(target, examples, tasks, context, timeout)

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> ModelMetadata:
        """Fetch the signatures of a model; the result is readable when printed, or in a notebook."""
        target = Target(model, version, label)
        return await self._calls.metadata(target, timeout)

    async def status(
        self, model: str, *, version: int | None = None, timeout: Timeout = Default.TIMEOUT
    ) -> list[VersionStatus]:
        """Fetch the state of all versions of a model that the server knows, or of one."""
        target = Target(model, version)
        return await self._calls.status(target, timeout)

    async def reload_config(
        self,
        config: str | Mapping[str, str | os.PathLike[str]],
        *,
        timeout: Timeout = Default.TIMEOUT,
    ) -> None:
        """Replace the server's configuration; see `Client.reload_config`."""
        await self._calls.reload_config(config, timeout)

    async def wait_until_ready(
        self,
        *models: str,
        version: int | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> None:
        """Wait until the server answers and has an available version of each model; see `Client.wait_until_ready`."""
        targets = [Target(model, version) for model in models]
        await self._calls.wait_until_ready(targets, timeout)

    def model(
        self,
        name: str,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
    ) -> AsyncModel:
        """A model of the server, for repeated calls. Sends nothing."""
        return AsyncModel(self, Target(name, version, label, signature))

    async def close(self) -> None:
        """Close the connections; pending calls fail."""
        await self._calls.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._address!r})"


class AsyncModel:
    """One model of a server, or one of its versions.

    ```python
    await client.model("half_plus_two").predict(x=np.float32([1, 2]))
    ```

    Attributes:
        target: The model's name, version or label, and signature.
    """

    def __init__(self, client: AsyncClient, target: Target) -> None:
        """Bind a target to a client; see `AsyncClient.model`."""
        self._calls = client._calls
        self.target = target

    async def predict(
        self,
        inputs: Inputs = NOT_GIVEN,
        /,
        *,
        outputs: Sequence[str] = (),
        timeout: Timeout = Default.TIMEOUT,
        **named: Any,
    ) -> Prediction:
        """Run the model.

        Args:
            inputs: As in `AsyncClient.predict`.
            outputs: The outputs to return; by default all.
            timeout: In seconds, in place of the client's.
            named: The inputs by name, in place of `inputs`. Inputs called `outputs` or `timeout` must be passed in a
                dictionary.
        """
        values = one_or_named(str(self.target), inputs, named)
        return await self._calls.predict(self.target, values, outputs, timeout)

    async def classify(
        self,
        examples: Examples,
        *,
        context: Mapping[str, object] | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> Classes:
        """Classify examples; see `AsyncClient.classify`."""
        return await self._calls.classify(self.target, examples, context, timeout)

    async def regress(
        self,
        examples: Examples,
        *,
        context: Mapping[str, object] | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> Array:
        """Compute a value for each example; see `AsyncClient.regress`."""
        return await self._calls.regress(self.target, examples, context, timeout)

    async def metadata(self, *, timeout: Timeout = Default.TIMEOUT) -> ModelMetadata:
        """Fetch the signatures of the model."""
        return await self._calls.metadata(replace(self.target, signature=""), timeout)

    async def status(self, *, timeout: Timeout = Default.TIMEOUT) -> list[VersionStatus]:
        """Fetch the state of the model's versions; a label makes no difference."""
        target = Target(self.target.model, self.target.version)
        return await self._calls.status(target, timeout)

    def __repr__(self) -> str:
        signature = f", signature={self.target.signature!r}" if self.target.signature else ""
        return f"AsyncModel({str(self.target)!r}{signature})"
