"""Batching configuration: `BatchingParameters` as a dataclass, and its rules.

The parameters come from `--batching_parameters_file`, from a platform of `--platform_config_file`, from
`batching_params.pbtxt` in a version directory (docs/spec/batching.md §2, §3, §15), or from the `servable_options` of a
model.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from servable._server.config.flags import Flags
from servable._server.config.text_proto import parse_text_file
from servable.errors import ConfigError

BATCHING_PARAMETERS = "tensorflow.serving.BatchingParameters"
PER_MODEL_FILE = "batching_params.pbtxt"
"""The file of a version's parameters, at the top of its directory."""

MAX_THREADS = 4096
"""The maximum number of threads; a higher number is a mistake that would overload the machine."""

_OBJECTIVES = (0.001, 1e9)
"""The shortest and the longest latency objective in milliseconds: a microsecond and eleven days."""

_log = logging.getLogger(__name__)

MIXED_PRIORITY_POLICIES = (
    "low_priority_padding_with_max_batch_size",
    "low_priority_padding_with_next_allowed_batch_size",
    "priority_isolation",
    "priority_merge",
)
"""The policies for low-priority requests while others wait; the first is the default."""

_OF_THE_POOL = frozenset({"num_batch_threads", "thread_pool_name"})


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """The parameters of batching, with the names and the defaults of TensorFlow Serving.

    The size of a batch is its number of rows, the sum of the sizes of axis 0 of its requests' inputs.

    Attributes:
        max_batch_size: The maximum size of a request. Also the maximum size of a batch, unless requests are split.
        batch_timeout_micros: How long an incomplete batch waits for more requests, from its first request.
        max_enqueued_batches: The maximum length of a queue, including the batch that is being filled. Further requests
            get UNAVAILABLE.
        num_batch_threads: How many batches of all models together run concurrently.
        thread_pool_name: The prefix of the names of these threads.
        allowed_batch_sizes: The sizes that batches are padded to, ascending; empty for any size.
        pad_variable_length_inputs: Pad the other axes of inputs, so that requests with different shapes can share a
            batch.
        enable_large_batch_splitting: Split requests over several batches.
        max_execution_batch_size: The maximum size of a batch if requests are split; `None` for `max_batch_size`.
        latency_objective_millis: The latency that nearly all requests should meet. It determines how long batches wait
            and how large they become; `batch_timeout_micros` is then 0.
        rerun_failed_batches: Run the requests of a failed batch again in smaller batches, so that only the requests
            that cause the error get it. Only for runs without side effects.
        mixed_priority_batching_policy: The treatment of low-priority requests while others wait, one of
            `MIXED_PRIORITY_POLICIES`.
        low_priority_max_batch_size: The maximum size of a batch of only low-priority requests. Here and below, `None`
            means the value for other requests.
        low_priority_batch_timeout_micros: How long such a batch waits for more requests.
        low_priority_max_enqueued_batches: The maximum number of such batches that wait.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None
    latency_objective_millis: float | None = None
    rerun_failed_batches: bool = True
    mixed_priority_batching_policy: str = MIXED_PRIORITY_POLICIES[0]
    low_priority_max_batch_size: int | None = None
    low_priority_batch_timeout_micros: int | None = None
    low_priority_max_enqueued_batches: int | None = None

    @property
    def largest_batch(self) -> int:
        """The maximum number of rows in a batch, before padding."""
        if not self.enable_large_batch_splitting or self.max_execution_batch_size is None:
            return self.max_batch_size
        return self.max_execution_batch_size


@dataclass(frozen=True, slots=True)
class ModelBatching:
    """The batching configuration of a model.

    Attributes:
        parameters: Override those of the platform; `None` uses the platform's. The threads are always the platform's.
        is_off: Whether batching is disabled, whatever the platform says.
    """

    parameters: BatchingParameters | None = None
    is_off: bool = False


@dataclass(frozen=True, slots=True)
class VersionBatching:
    """The batching of one version.

    Attributes:
        parameters: `None` if the version is not batched.
        origin: Where the parameters come from, or why there are none, for logs and reports.
    """

    parameters: BatchingParameters | None
    origin: str


@dataclass(frozen=True, slots=True)
class PlatformBatching:
    """The batching of a platform, whose models share threads.

    Attributes:
        parameters: The defaults of all models, subject to the other attributes.
        per_model: Only the threads of `parameters` are used. Each version has its parameters in its directory, or is
            not batched.
        is_on: Whether models without a batching configuration are batched.
        origin: Where the parameters come from, or why such models are not batched, for logs and reports.
    """

    parameters: BatchingParameters
    per_model: bool = False
    is_on: bool = True
    origin: str = field(default="", compare=False)

    def of_version(self, path: str, model: ModelBatching = ModelBatching()) -> VersionBatching:
        """The batching of a version.

        Args:
            path: The version directory.
            model: The batching configuration of its model.

        Raises:
            ConfigError: The version's file cannot be used.
        """
        if model.is_off:
            return VersionBatching(None, "no_batching in the servable_options of the model")
        if model.parameters is not None:
            return VersionBatching(
                self._on_own_threads(model.parameters),
                "batching in the servable_options of the model",
            )
        if not self.is_on:
            return VersionBatching(None, self.origin)
        if not self.per_model:
            return VersionBatching(self.parameters, self.origin)
        file = os.path.join(path, PER_MODEL_FILE)
        if not os.path.exists(file):
            _log.info("No batching parameters at %s: the version is not batched", file)
            return VersionBatching(None, f"there is no {PER_MODEL_FILE} in the version directory")
        message = parse_text_file(file, BATCHING_PARAMETERS)
        return VersionBatching(
            usable(self._on_own_threads(batching_parameters(message))),
            f"{PER_MODEL_FILE} in the version directory",
        )

    def _on_own_threads(self, parameters: BatchingParameters) -> BatchingParameters:
        return replace(
            parameters,
            num_batch_threads=self.parameters.num_batch_threads,
            thread_pool_name=self.parameters.thread_pool_name,
        )


BATCHING_OFF = PlatformBatching(
    BatchingParameters(thread_pool_name="model_server_batch_threads"),
    is_on=False,
    origin="neither --enable_batching nor the servable_options of the model ask for it",
)
"""Only models with their own batching configuration are batched."""


def flags_batching(flags: Flags) -> PlatformBatching:
    """The batching that the flags configure.

    Raises:
        ConfigError: The file cannot be read, or its values cannot be used.
    """
    if not flags.enable_batching:
        return BATCHING_OFF
    per_model = flags.enable_per_model_batching_parameters
    if not flags.batching_parameters_file:
        origin = "--enable_batching without a file"
        return PlatformBatching(BATCHING_OFF.parameters, per_model, origin=origin)
    message = parse_text_file(flags.batching_parameters_file, BATCHING_PARAMETERS)
    origin = f"--batching_parameters_file={flags.batching_parameters_file}"
    return replace(platform_batching(message, per_model=per_model), origin=origin)


def platform_batching(message: Any, *, per_model: bool) -> PlatformBatching:
    """The batching that a `BatchingParameters` message configures for a platform.

    Args:
        message: The message.
        per_model: Whether each version has its own parameters.

    Raises:
        ConfigError: The values cannot be used.
    """
    parameters = batching_parameters(message)
    if not per_model:
        return PlatformBatching(usable(parameters), origin="--platform_config_file")
    ignored = sorted({field.name for field, _ in message.ListFields()} - _OF_THE_POOL)
    if ignored:
        _log.warning(
            "Batching parameters without effect, because each version has its own: %s",
            ", ".join(ignored),
        )
    # Values that no queue will use are not checked, as in TensorFlow Serving.
    threads = BatchingParameters(
        num_batch_threads=parameters.num_batch_threads,
        thread_pool_name=parameters.thread_pool_name,
    )
    return PlatformBatching(usable(threads), per_model=True)


def read_model_batching(options: Any) -> ModelBatching:
    """The batching configuration in a `servable.ModelOptions` message.

    Raises:
        ConfigError: The values cannot be used.
    """
    choice = options.WhichOneof("batching_choice")
    policy = {field.name: value for field, value in options.batching_policy.ListFields()}
    if choice == "no_batching" and policy:
        raise ConfigError("batching_policy says how to batch, and no_batching not to")
    if choice != "batching" and not policy:
        return ModelBatching(is_off=options.no_batching)
    for name in sorted(_OF_THE_POOL):
        if options.batching.HasField(name):
            raise ConfigError(
                f"batching.{name} is not for one model: all models of a platform share threads"
            )
    parameters = replace(batching_parameters(options.batching), **policy)
    return ModelBatching(usable(parameters))


def fill_model_batching(options: Any, batching: ModelBatching) -> None:
    """Write a batching configuration into a `servable.ModelOptions` message; inverse of `read_model_batching`."""
    if batching.is_off:
        options.no_batching = True
    elif batching.parameters is not None:
        message, defaults = options.batching, BatchingParameters()
        message.SetInParent()
        for field in message.DESCRIPTOR.fields:
            value = getattr(batching.parameters, field.name)
            if field.name in _OF_THE_POOL or value == getattr(defaults, field.name):
                continue
            if field.message_type is not None:
                getattr(message, field.name).value = value
            elif isinstance(value, tuple):
                getattr(message, field.name).extend(value)
            else:
                setattr(message, field.name, value)
        for field in options.batching_policy.DESCRIPTOR.fields:
            value = getattr(batching.parameters, field.name)
            if value != getattr(defaults, field.name):
                setattr(options.batching_policy, field.name, value)


def batching_parameters(message: Any) -> BatchingParameters:
    """The values of a `BatchingParameters` message, with defaults for missing ones."""
    wrapped = {
        field.name: value.value
        for field, value in message.ListFields()
        if field.message_type is not None
    }
    return BatchingParameters(
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        **wrapped,
    )


def usable(parameters: BatchingParameters) -> BatchingParameters:
    """Validate and normalise parameters.

    Raises:
        ConfigError: They cannot be used, in the words of TensorFlow Serving where it refuses the same.
    """
    for problem in batching_problems(parameters):
        raise ConfigError(problem)
    execution_size = parameters.max_execution_batch_size
    if execution_size is not None and not parameters.enable_large_batch_splitting:
        _log.warning("max_execution_batch_size has no effect without enable_large_batch_splitting")
        execution_size = None
    given = tuple(parameters.allowed_batch_sizes)
    # Sizes above the largest batch are never used for padding; that one is then not the last of the list.
    sizes = tuple(sorted(size for size in set(given) if size <= parameters.max_batch_size))
    if sizes != given:
        _log.warning("allowed_batch_sizes are used as %s; got %s", list(sizes), list(given))
    return replace(
        parameters,
        allowed_batch_sizes=sizes,
        max_execution_batch_size=execution_size,
        # TensorFlow Serving treats 0 as 1; with splitting it refuses 0.
        max_enqueued_batches=max(parameters.max_enqueued_batches, 1),
    )


def batching_problems(parameters: BatchingParameters) -> Iterator[str]:
    """The reasons why parameters cannot be used, in the order in which TensorFlow Serving checks them."""
    # A program may put any object into the dataclass; the comparisons below require numbers.
    strange = tuple(_strange_values(parameters))
    if strange:
        yield from strange
        return
    threads = parameters.num_batch_threads
    if threads < 1:
        yield f"num_batch_threads must be positive; was {threads}"
    if threads > MAX_THREADS:
        yield f"num_batch_threads must not be more than {MAX_THREADS}; was {threads}"
    if "\0" in parameters.thread_pool_name:
        yield f"thread_pool_name must not contain null bytes; was {parameters.thread_pool_name!r}"
    limit, splits = parameters.max_batch_size, parameters.enable_large_batch_splitting
    sizes = parameters.allowed_batch_sizes
    # Also with splitting, where no batch exceeds max_execution_batch_size.
    if sizes and sizes[-1] != limit:
        yield (
            "Last entry in allowed_batch_sizes must match max_batch_size; "
            f"last entry was {sizes[-1]}; expected {limit}"
        )
    if sizes and min(sizes) < 1:
        yield f"allowed_batch_sizes must be positive; got {min(sizes)}"
    if limit < 1:
        yield f"input_batch_size_limit must be positive; was {limit}"
    if parameters.batch_timeout_micros < 0:
        yield f"batch_timeout_micros must be non-negative; was {parameters.batch_timeout_micros}"
    enqueued = parameters.max_enqueued_batches
    if enqueued < (1 if splits else 0):
        yield f"max_enqueued_batches must be positive; was {enqueued}"
    if splits and parameters.largest_batch < 1:
        yield f"max_execution_batch_size must be positive; was {parameters.largest_batch}"
    if splits and parameters.largest_batch > limit:
        yield (
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater "
            "than or equal to max_execution_batch_size. "
            f"max_batch_size is {limit}, max_execution_batch_size {parameters.largest_batch}"
        )
    yield from _policy_problems(parameters)


def _strange_values(parameters: BatchingParameters) -> Iterator[str]:
    """The values that should be numbers and are not, or do not fit into 64 bits."""
    for attribute in fields(parameters):
        value, wanted = getattr(parameters, attribute.name), str(attribute.type)
        if value is None and "None" in wanted:
            continue
        if "float" in wanted:
            if not isinstance(value, Real):
                yield f"{attribute.name} must be a number; was {value!r}"
        elif "int" in wanted:
            values = value if isinstance(value, tuple | list) else (value,)
            is_list_wrong = (values is value) != ("tuple" in wanted)
            if is_list_wrong or not all(isinstance(n, Integral) for n in values):
                what = "integers" if "tuple" in wanted else "an integer"
                yield f"{attribute.name} must be {what}; was {value!r}"
            elif not all(-(2**63) <= n < 2**63 for n in values):
                yield f"{attribute.name} must be less than 2**63; was {value!r}"
        elif wanted == "str" and not isinstance(value, str):
            yield f"{attribute.name} must be a string; was {value!r}"


def _policy_problems(parameters: BatchingParameters) -> Iterator[str]:
    """The reasons why parameters that TensorFlow Serving does not have cannot be used."""
    objective = parameters.latency_objective_millis
    if objective is not None and not 0 < objective < math.inf:
        yield f"latency_objective_millis must be positive; was {objective:g}"
    elif objective is not None and not _OBJECTIVES[0] <= objective <= _OBJECTIVES[1]:
        shortest, longest = _OBJECTIVES
        yield (
            f"latency_objective_millis must be between {shortest:g} and {longest:g}; "
            f"was {objective:g}"
        )
    if objective is not None and parameters.batch_timeout_micros > 0:
        yield (
            "latency_objective_millis decides how long batches wait, and batch_timeout_micros is "
            f"{parameters.batch_timeout_micros}: only one of them can"
        )
    policy = parameters.mixed_priority_batching_policy
    if policy not in MIXED_PRIORITY_POLICIES:
        yield (
            f"mixed_priority_batching_policy must be one of {', '.join(MIXED_PRIORITY_POLICIES)}; "
            f"was {policy}"
        )
    for name, smallest, wanted in (
        ("low_priority_max_batch_size", 1, "positive"),
        ("low_priority_batch_timeout_micros", 0, "non-negative"),
        ("low_priority_max_enqueued_batches", 1, "positive"),
    ):
        value = getattr(parameters, name)
        if value is not None and value < smallest:
            yield f"{name} must be {wanted}; was {value}"
