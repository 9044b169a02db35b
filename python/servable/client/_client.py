"""`Client`: calls a server and waits for the answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from servable.client._arrays import Array
from servable.client._calls import Calls, Inputs, finish
from servable.client._connecting import connect
from servable.client._exchange import Examples, Target
from servable.client._named import NOT_GIVEN, one_or_named
from servable.client._options import Default, Retry, Timeout, Tls
from servable.client._results import Classes, InferenceTask, Prediction, VersionStatus
from servable.client._signatures import ModelMetadata


class Client:
    """Calls a server of TensorFlow Serving's APIs: Servable, or TensorFlow Serving itself.

    Safe to use from several threads. Calls raise the exceptions of `servable.errors`, by the code of the server's
    answer.

    ```python
    with Client("localhost:8500") as client:
        prediction = client.predict("half_plus_two", [1.0, 2.0])
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
        """Describe the server; the first call connects.

        Args:
            address: For gRPC such as `localhost:8500` or `grpcs://…`, for REST `http://localhost:8501` or `https://…`,
                for a Unix socket `unix:/run/servable.sock`.
            timeout: The total time of a call in seconds, retries included; None for no limit. Calls can override it.
            tls: Certificates, for `grpcs://` and `https://`; the system's if None.
            api_key: Sent with each call, as `Authorization: Bearer …`.
            headers: Further metadata of gRPC, or headers of HTTP, sent with each call.
            retry: How often calls without side effects are retried if no server was reached.

        Raises:
            ConfigError: The address or an option cannot be used.
            ImportError: The package for the protocol is not installed.
        """
        self._address = address
        self._calls: Calls = connect(
            address,
            is_async=False,
            tls=tls,
            api_key=api_key,
            headers=headers or {},
            retry=retry or Retry(),
            timeout=timeout,
        )

    def predict(
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
        """Run a model.

        Arrays are sent unchanged. Plain Python values get the dtype of the signature, and a value without a name is the
        only input. For these the signature is fetched once and cached.

        Args:
            model: The model's name.
            inputs: Values by input name, or one value; arrays, anything with `__array__` or DLPack, or plain Python
                values in lists.
            version: Which version; the server chooses if None.
            label: The label of a version, in place of `version`.
            signature: Which signature; the default one if empty.
            outputs: The outputs to return; by default all.
            timeout: In seconds, in place of the client's.

        Returns:
            Arrays by output name; they do not share memory with the answer.
        """
        target = Target(model, version, label, signature)
        return finish(self._calls.predict(target, inputs, outputs, timeout))

    def classify(
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
        """Classify examples.

        Args:
            model: The model's name.
            examples: Values by feature name, for each example: text and bytes, floats, or integers, as single values,
                lists or arrays. A model distinguishes floats from integers.
            context: Features that all examples share.
            version: Which version; the server chooses if None.
            label: The label of a version, in place of `version`.
            signature: Which signature; the default one if empty.
            timeout: In seconds, in place of the client's.

        Returns:
            The classes of each example, with their scores.
        """
        target = Target(model, version, label, signature)
        return finish(self._calls.classify(target, examples, context, timeout))

    def regress(
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
        """Compute a value for each example; the arguments are those of `classify`.

        Returns:
            One float32 for each example.
        """
        target = Target(model, version, label, signature)
        return finish(self._calls.regress(target, examples, context, timeout))

    def multi_inference(
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
        """Classify and regress the same examples in one call; only over gRPC.

        Args:
            model: The model's name.
            examples: As in `classify`.
            tasks: Method (`classify` or `regress`) and signature of each result.
            context: Features that all examples share.
            version: Which version; the server chooses if None.
            label: The label of a version, in place of `version`.
            timeout: In seconds, in place of the client's.

        Returns:
            For each task the result that `classify` or `regress` would return.
        """
        target = Target(model, version, label)
        return finish(self._calls.multi_inference(target, examples, tasks, context, timeout))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> ModelMetadata:
        """Fetch the signatures of a model; the result is readable when printed, or in a notebook."""
        target = Target(model, version, label)
        return finish(self._calls.metadata(target, timeout))

    def status(
        self, model: str, *, version: int | None = None, timeout: Timeout = Default.TIMEOUT
    ) -> list[VersionStatus]:
        """Fetch the state of all versions of a model that the server knows, or of one."""
        target = Target(model, version)
        return finish(self._calls.status(target, timeout))

    def reload_config(
        self,
        config: str | Mapping[str, str | os.PathLike[str]],
        *,
        timeout: Timeout = Default.TIMEOUT,
    ) -> None:
        """Replace the server's configuration; only over gRPC. The call is never retried automatically.

        Args:
            config: The text of a model config file, or base paths of SavedModels by model name.
            timeout: In seconds, in place of the client's.
        """
        finish(self._calls.reload_config(config, timeout))

    def wait_until_ready(
        self,
        *models: str,
        version: int | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> None:
        """Wait until the server answers and has an available version of each model.

        Args:
            models: Their names; without names, any answer of the server suffices.
            version: The version that must be available; any if None.
            timeout: In seconds, in place of the client's.

        Raises:
            DeadlineExceededError: The time-out has passed; the message says what was missing.
        """
        targets = [Target(model, version) for model in models]
        finish(self._calls.wait_until_ready(targets, timeout))

    def model(
        self,
        name: str,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
    ) -> Model:
        """A model of the server, for repeated calls. Sends nothing."""
        return Model(self, Target(name, version, label, signature))

    def close(self) -> None:
        """Close the connections; pending calls fail."""
        finish(self._calls.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r})"


class Model:
    """One model of a server, or one of its versions.

    ```python
    client.model("half_plus_two").predict(x=np.float32([1, 2]))
    ```

    Attributes:
        target: The model's name, version or label, and signature.
    """

    def __init__(self, client: Client, target: Target) -> None:
        """Bind a target to a client; see `Client.model`."""
        self._calls = client._calls
        self.target = target

    def predict(
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
            inputs: As in `Client.predict`.
            outputs: The outputs to return; by default all.
            timeout: In seconds, in place of the client's.
            named: The inputs by name, in place of `inputs`. Inputs called `outputs` or `timeout` must be passed in a
                dictionary.
        """
        values = one_or_named(str(self.target), inputs, named)
        return finish(self._calls.predict(self.target, values, outputs, timeout))

    def classify(
        self,
        examples: Examples,
        *,
        context: Mapping[str, object] | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> Classes:
        """Classify examples; see `Client.classify`."""
        return finish(self._calls.classify(self.target, examples, context, timeout))

    def regress(
        self,
        examples: Examples,
        *,
        context: Mapping[str, object] | None = None,
        timeout: Timeout = Default.TIMEOUT,
    ) -> Array:
        """Compute a value for each example; see `Client.regress`."""
        return finish(self._calls.regress(self.target, examples, context, timeout))

    def metadata(self, *, timeout: Timeout = Default.TIMEOUT) -> ModelMetadata:
        """Fetch the signatures of the model."""
        return finish(self._calls.metadata(replace(self.target, signature=""), timeout))

    def status(self, *, timeout: Timeout = Default.TIMEOUT) -> list[VersionStatus]:
        """Fetch the state of the model's versions; a label makes no difference."""
        target = Target(self.target.model, self.target.version)
        return finish(self._calls.status(target, timeout))

    def __repr__(self) -> str:
        signature = f", signature={self.target.signature!r}" if self.target.signature else ""
        return f"Model({str(self.target)!r}{signature})"
