"""The border between the control plane and the request path.

This stub declares everything that crosses between Python and Rust. Options and published state cross as frozen
dataclasses, which Rust reads by field name. Errors cross as a canonical code and a message, and become the classes of
`servable.errors`. Every call that waits, or works for longer than a few microseconds, releases the interpreter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from typing_extensions import Self

from servable._server.border.control_plane import ControlPlane
from servable._server.border.gateway import PublishedModel
from servable._server.config.api_keys import ApiKey
from servable._server.config.batching import BatchingParameters
from servable._server.config.server_options import ServerOptions
from servable._server.config.tls import TlsCredentials
from servable.loaders._embeddings import EmbeddingsOptions
from servable.loaders._litert import LiteRtOptions
from servable.loaders._onnx import OnnxOptions
from servable.loaders._saved_model import SavedModelOptions
from servable.loaders._trees import TreeOptions
from servable.signature import Signature

__all__ = [
    "COMMIT",
    "BatchQueue",
    "BatchThreads",
    "BatchTicket",
    "Completions",
    "LentTensor",
    "LightGBM",
    "LiteRt",
    "OnnxRuntime",
    "Servable",
    "Server",
    "TensorFlow",
    "Workers",
    "XGBoost",
    "crc32c",
    "load_embeddings",
]

COMMIT: str
"""The commit of the build; empty if unknown."""

def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) checksum, which TFRecord files use."""

def load_embeddings(
    path: str,
    keys: str | None,
    options: EmbeddingsOptions,
    *,
    max_run_seconds: float = 0.0,
    in_background: bool = False,
) -> Servable:
    """Open a table of embeddings.

    Args:
        path: The file; its suffix tells the format.
        keys: A file with the keys of the rows of an array, one a line.
        options: How it is opened and served.
        max_run_seconds: The longest run; 0 for no limit.
        in_background: Load on a thread of low priority.

    Raises:
        ServableError: A file is missing or damaged, or an option does not fit the table.
    """

@final
class BatchThreads:
    """A thread pool that runs the batches of its queues round-robin."""

    def __new__(cls, parameters: BatchingParameters) -> Self:
        """Start the threads.

        Args:
            parameters: The number and the names of the threads. Other fields are ignored.

        Raises:
            OSError: The system cannot start a thread.
        """

    def queue(
        self,
        parameters: BatchingParameters,
        run: Callable[
            [list[LentTensor | tuple[tuple[int, ...], list[bytes]]], float | None],
            list[tuple[int, tuple[int, ...], Any]],
        ],
        is_repeatable: bool = False,
    ) -> BatchQueue:
        """Make a queue whose batches a Python function runs.

        Args:
            parameters: The options of the queue.
            run: Runs one batch. Takes the inputs of the calls, joined along axis 0, and the seconds until the latest
                deadline of the calls. Tensors have the form of `Servable.from_python`, in lists. Every output has as
                many rows as the inputs. All callers of the batch get an exception that it raises.
            is_repeatable: Whether `run` has no side effects. After an exception it is then called again with fewer
                calls, so that only those that cause the error get it.

        Raises:
            UnavailableError: The threads are closed.
            InvalidInputError: The parameters contradict each other.
        """

    def close(self) -> None:
        """Run the waiting batches, and join the threads. A second call has no effect."""

@final
class BatchQueue:
    """A queue of calls that may share batches. It is thread-safe."""

    def run(
        self,
        inputs: list[tuple[int, tuple[int, ...], Any]],
        timeout_seconds: float | None,
        priority: str,
    ) -> list[LentTensor | tuple[tuple[int, ...], list[bytes]]]:
        """Queue a call and wait for its result. Signals are handled during the wait.

        Args:
            inputs: The dtype number, shape and elements of each input, always in the same order. They are copied.
            timeout_seconds: The maximum wait; `None` for no limit.
            priority: `"high"` or `"low"`.

        Returns:
            The outputs, with the rows of this call.

        Raises:
            ServableError: The priority is unknown, the queue is full or closed, the inputs are invalid, or the time is
                over. Also the error of the batch.
        """

    def submit(
        self,
        inputs: list[tuple[int, tuple[int, ...], Any]],
        completions: Completions,
        number: int,
        priority: str,
    ) -> BatchTicket:
        """Queue a call without waiting.

        Args:
            inputs: As for `run`.
            completions: Announces the completion of the call.
            number: The number of the call in `completions`.
            priority: As for `run`.

        Raises:
            ServableError: The priority is unknown, the queue is full or closed, or the inputs are invalid.
        """

@final
class BatchTicket:
    """A queued call. Dropping the ticket cancels the call if its batch has not begun."""

    def result(self) -> list[LentTensor | tuple[tuple[int, ...], list[bytes]]]:
        """Return the outputs, after they were announced. Must be called only once.

        Raises:
            ServableError: The error of the batch.
        """

@final
class Completions:
    """Announces completed calls to an event loop, without taking the interpreter."""

    def __new__(cls) -> Self:
        """Open a pair of connected sockets.

        Raises:
            OSError: The system cannot open them.
        """

    def fileno(self) -> int:
        """Return a file descriptor that is readable while calls are announced. The object owns it."""

    def take(self) -> list[int]:
        """Return the numbers of the calls that completed since the last `take`."""

@final
class LiteRt:
    """The LiteRT of an installed wheel, used through its C API.

    The library stays open for the life of the process. Safe to use from several threads.
    """

    def __new__(cls, library: str) -> Self:
        """Open the library.

        Args:
            library: Its path, which ends in `libLiteRt.so`.

        Raises:
            LoadError: It is missing, or has another version than is needed; the message names both.
        """

    def load_model(
        self, path: str, options: LiteRtOptions, *, in_background: bool = False
    ) -> Servable:
        """Load a model file.

        Args:
            path: The file.
            options: The number of interpreters and threads, and the origin of names.
            in_background: Load on a thread of low priority. Only Linux has priorities of threads.

        Raises:
            ServableError: The file cannot be read or is damaged, or needs operators that LiteRT lacks.
        """

    @staticmethod
    def tensor_bytes(path: str) -> int:
        """Return the memory of the tensors of a run, with the shapes in a model file and without constants.

        Nothing is loaded.

        Args:
            path: The file.

        Raises:
            ServableError: The file cannot be read or is damaged.
        """

@final
class OnnxRuntime:
    """The ONNX Runtime of an installed wheel, used through its C API.

    The library stays open for the life of the process. Safe to use from several threads.
    """

    def __new__(cls, library: str) -> Self:
        """Open the library, and start the threads that models can share.

        Args:
            library: The path of `libonnxruntime.so`.

        Raises:
            LoadError: It cannot be opened, or is too old; the message names what is missing.
        """

    @property
    def version(self) -> str:
        """The version of ONNX Runtime, such as `1.23.2`."""

    def load(
        self,
        path: str,
        options: OnnxOptions,
        max_run_seconds: float,
        *,
        feature_names: Sequence[str],
        class_labels: Sequence[str],
        in_background: bool = False,
    ) -> Servable:
        """Load a model, with its external data.

        Args:
            path: The model file.
            options: Threads, devices, optimisation and memory.
            max_run_seconds: The longest run, which is then cancelled; 0 for no limit.
            feature_names: The names of the columns of the only input, in examples; empty if they are unknown.
            class_labels: The labels of a classifier, in the order of its scores; empty for those of the model, if any.
            in_background: Load on a thread of low priority.

        Raises:
            ServableError: The error of the runtime, with its text.
        """

@final
class TensorFlow:
    """The TensorFlow runtime of an installed wheel, used through its C API.

    The libraries stay open for the life of the process. The class is thread-safe.
    """

    def __new__(cls, library_directory: str) -> Self:
        """Open the libraries of the runtime.

        Args:
            library_directory: The directory of the installed `tensorflow` package, which holds `libtensorflow_cc.so.2`
                and `libtensorflow_framework.so.2`.

        Raises:
            LoadError: A library is missing or lacks a function that is needed; the message names it.
        """

    @property
    def version(self) -> str:
        """The version of the runtime, such as `2.21.0`."""

    def devices(self) -> list[tuple[str, str, int | None]]:
        """The devices that the runtime uses; empty until its first session, which configures them.

        Returns:
            Of each device: its name, such as `/job:localhost/replica:0/task:0/device:GPU:0`; its type, such as `GPU`;
            the maximum memory that the runtime may use of it, in bytes, if that is known.
        """

    def start_threads(self, options: SavedModelOptions) -> None:
        """Start the threads of the runtime that all models share, at the priority of the calling thread.

        A second call has no effect. Without a call, loading the first model starts them.

        Args:
            options: The number of threads. Other fields are ignored.

        Raises:
            ServableError: What the runtime reports.
        """

    def load_library(self, path: str) -> None:
        """Load a library of custom operations, for all models that are loaded afterwards.

        From the first library on, the symbols of TensorFlow are in the global scope of the process. Extensions that use
        OpenSSL (`_hashlib`, `_ssl`) are imported before. Otherwise they would be bound to the BoringSSL of TensorFlow.

        Args:
            path: The library, built for this version of TensorFlow.

        Raises:
            ServableError: It is missing or cannot be loaded. The text has the reason of the dynamic linker.
        """

    def load_saved_model(
        self, path: str, options: SavedModelOptions, *, in_background: bool = False
    ) -> Servable:
        """Load a SavedModel: graph, variables, assets and initialisation.

        Args:
            path: The version directory, which holds `saved_model.pb`.
            options: Tags, session options and the scheduling of runs.
            in_background: Load on a thread of the lowest priority. Threads that the load starts inherit it. Only Linux
                has priorities of threads.

        Raises:
            ServableError: What the runtime reports, with its code and text.
        """

@final
class XGBoost:
    """The XGBoost library of an installed wheel, used through its C API.

    The library stays open for the life of the process. Safe to use from several threads.
    """

    def __new__(cls, library: str) -> Self:
        """Open the library.

        Args:
            library: The path of `libxgboost.so`.

        Raises:
            LoadError: It cannot be opened, or lacks a function that is needed; the message names it.
        """

    @property
    def version(self) -> str:
        """The version of the library, such as `3.2.0`."""

    def load_model(
        self,
        path: str,
        options: TreeOptions,
        *,
        all_rounds: bool = False,
        in_background: bool = False,
    ) -> Servable:
        """Load a model that `save_model` wrote.

        Args:
            path: The file, with the suffix `.ubj` or `.json`.
            options: How it is run, and the labels of its classes.
            all_rounds: Predict with all rounds of a training that stopped early, and not only up to the best one.
            in_background: Load on a thread of low priority.

        Raises:
            ServableError: The file cannot be read, is no such model, or does not fit the options.
        """

@final
class LightGBM:
    """The LightGBM library of an installed wheel, used through its C API.

    The library stays open for the life of the process. Safe to use from several threads.
    """

    def __new__(cls, library: str) -> Self:
        """Open the library.

        Args:
            library: The path of `lib_lightgbm.so`.

        Raises:
            LoadError: It cannot be opened, or lacks a function that is needed; the message names it.
        """

    def load_model(
        self,
        path: str,
        options: TreeOptions,
        *,
        copies: int = 1,
        in_background: bool = False,
    ) -> Servable:
        """Load a model that `save_model` wrote.

        Args:
            path: The text file.
            options: How it is run, and the labels of its classes.
            copies: How many boosters are loaded, so that threads do not share the lock of one.
            in_background: Load on a thread of low priority.

        Raises:
            ServableError: The file cannot be read, is no such model, or does not fit the options.
        """

@final
class LentTensor:
    """A tensor of numbers whose memory may be read through NumPy's array interface.

    The memory stays valid for as long as the object or an array made of it lives.
    """

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The memory of the elements, read-only and row-major. The type of bfloat16 is two opaque bytes."""

@final
class Servable:
    """A loaded version of a model, ready to be published."""

    @staticmethod
    def from_python(
        name: str,
        signatures: Mapping[str, Signature],
        run: Callable[
            [str, dict[str, LentTensor | tuple[tuple[int, ...], list[bytes]]], float | None],
            dict[str, tuple[int, tuple[int, ...], Any]],
        ],
        threads: int,
        max_run_seconds: float,
        is_repeatable: bool = False,
    ) -> Servable:
        """Make a servable from a Python function.

        Args:
            name: The servable id, such as `m/3`, for error messages.
            signatures: The signatures by name, at least one.
            run: Runs one batch, with the interpreter held, on a thread of the servable. Takes the name of a signature,
                its inputs, and the seconds until the deadline. Inputs have the declared dtypes and shapes. A tensor of
                numbers is a `LentTensor`. A tensor of strings is its shape and its elements. Returns all outputs of the
                signature, which are checked and copied. Each is its dtype number, its shape, and its elements: a
                contiguous array in native byte order, or a `list[bytes]` for strings. A `ServableError` that it raises
                is the answer to the client. Any other exception becomes INTERNAL.
            threads: The maximum number of concurrent calls. Further requests wait in order.
            max_run_seconds: The maximum wait of a caller for a running call; 0 for no limit.
            is_repeatable: Whether calls have no side effects, so that the requests of a failed batch may be run again.

        Raises:
            ValueError: A signature is not supported.
        """

    def signature_defs(self) -> bytes:
        """The signatures of the model, as a serialized `tensorflow.serving.SignatureDefMap`.

        Raises:
            FailedPreconditionError: The version was unloaded.
        """

    def description(self) -> bytes:
        """What a server needs to know of the version, for `Workers.add`.

        Raises:
            FailedPreconditionError: The version was unloaded.
        """

    def serve(self, slots: list[int]) -> None:
        """Answer the requests of a server, in a worker process, until the server closes the connections.

        Args:
            slots: The descriptors of stream sockets, taken over. The first is served by the calling thread, each other
                one by a thread.

        Raises:
            ServableError: A thread cannot be started, or the version was unloaded.
        """

    def run(
        self, signature_name: str, inputs: Mapping[str, tuple[int, tuple[int, ...], Any]]
    ) -> dict[str, tuple[int, LentTensor | tuple[tuple[int, ...], list[bytes]]]]:
        """Run a signature once on the calling thread, without the interpreter. The run is neither batched nor counted.

        Args:
            signature_name: The name of the signature.
            inputs: The inputs, which are copied. Each is its dtype number, its shape, and its elements: a contiguous
                array in native byte order, or a `list[bytes]` for strings.

        Returns:
            All outputs: the dtype number of each, and the tensor in the form of `from_python`.

        Raises:
            ServableError: The error that a client would get, or `FAILED_PRECONDITION` after an unload.
        """

    def warm_up(
        self, prediction_log: bytes, iterations: int, check_method_names: bool = False
    ) -> None:
        """Run a recorded request on the calling thread, like one of a client. The run is not counted.

        Args:
            prediction_log: A serialized `tensorflow.serving.PredictionLog`. The model name and version in it are
                ignored. Without a request, nothing is run.
            iterations: How often.
            check_method_names: Whether the method name of the signature must match the call.

        Raises:
            ValueError: The bytes are not such a message.
            ServableError: What a client would get.
        """

    def warm_up_with_zeros(self, iterations: int) -> dict[str, str | None]:
        """Run each signature on zeros and empty strings of its declared shape. Free sizes are 1.

        Args:
            iterations: How often.

        Returns:
            For each signature, the reason why it was not run or failed; `None` if it ran.
        """

    def prediction_log(self, body: bytes, is_examples: bool) -> bytes:
        """Convert a REST request to a record for `warm_up`.

        Args:
            body: The JSON body.
            is_examples: Whether it is a `:classify` or `:regress` instead of a `:predict`. The method name of the
                signature tells these two apart.

        Returns:
            A serialized `tensorflow.serving.PredictionLog`.

        Raises:
            ServableError: What a client would get.
        """

    def batch(
        self, threads: BatchThreads, parameters: BatchingParameters, origin: str = ""
    ) -> None:
        """Enable batching. Must be called once, before the servable is published.

        Args:
            threads: The threads that run the batches.
            parameters: The options of the queues.
            origin: The source of the parameters, for `GET …/batching`.

        Raises:
            InvalidInputError: The parameters contradict each other.
            FailedPreconditionError: It was called before, or the version was unloaded.
            UnavailableError: The threads are closed.
        """

    def leave_unbatched(self, reason: str) -> None:
        """Set the reason why requests are not batched, for `GET …/batching`. Called instead of `batch`.

        Args:
            reason: The reason, such as an option.

        Raises:
            FailedPreconditionError: The version was unloaded.
        """

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the servable is idle: not published, and without requests in flight.

        Args:
            timeout_seconds: The maximum wait; `None` for no limit.

        Returns:
            Whether it is idle. A servable that was never published is idle.
        """

    def unload(self, *, in_background: bool = False) -> None:
        """Release the model and its memory. The servable must be idle. A second call has no effect.

        Args:
            in_background: Release it on a thread of the lowest priority. Python objects must not be released there,
                because they need the interpreter.

        Raises:
            FailedPreconditionError: It is published, or used by a request.
        """

@final
class Workers:
    """The processes that run one version, for requests; see the crate `worker`. Safe to use from several threads."""

    def __new__(cls, name: str, slots: int) -> Self:
        """Begin without a process: requests wait.

        Args:
            name: The servable id, such as `m/3`, for error messages.
            slots: How many requests all processes together run at once.
        """

    def add(self, control: int, slots: list[int], description: bytes) -> int:
        """Add a process that has loaded the version.

        Args:
            control: The descriptor of a socket, taken over: it is shut down when the process must be replaced.
            slots: The descriptors of stream sockets, taken over; `Servable.serve` has their other ends. The last one
                checks inputs.
            description: The result of `Servable.description` in the process; it is not trusted.

        Returns:
            The number of the process.

        Raises:
            ServableError: The description is damaged, or differs from that of a process before.
        """

    def servable(self) -> Servable:
        """The version, once a process has been added. When it is unloaded, the processes are to end.

        Raises:
            ServableError: No process was added, or its signatures cannot be read.
        """

    def replacement_reason(self, number: int) -> str | None:
        """Why a process must be replaced, if that is not because it ended by itself, such as `hung, and was killed`."""

    def remove(self, number: int, how: str) -> tuple[bool, bool]:
        """Remove a process that has ended.

        Args:
            number: The number of the process.
            how: How it ended, such as `was killed by SIGSEGV`, for the requests that it was running.

        Returns:
            Whether it was running a request, and whether it has answered any.
        """

    def refuse(self, explanation: str) -> None:
        """Refuse requests while there is no process, with this explanation, until one is added."""

    def close(self) -> None:
        """Refuse all further requests and close the connections, so that the processes end."""

@final
class Server:
    """The server: accepts connections, and answers requests from the published models."""

    def __new__(cls, options: ServerOptions, control_plane: ControlPlane) -> Self:
        """Create a server, without binding its addresses.

        Args:
            options: Addresses, limits and features.
            control_plane: Executes changes that clients request, and supplies metrics of the control plane. The server
                calls no other Python code, except the functions of Python servables.
        """

    def start(self) -> list[int]:
        """Bind all addresses, and start to accept on those for health checks and administration.

        Other addresses refuse connections until `open`.

        Returns:
            The port of each TCP address of `options.endpoints`, in order. Port 0 in the options selects a free one.

        Raises:
            ConfigError: An address is in use or may not be bound, or an address needs TLS and there are no credentials.
        """

    def open(self) -> None:
        """Start to accept on all addresses. It has no effect before `start`, or if it was called before.

        Raises:
            ConfigError: Listening fails on a bound address.
        """

    def set_tls(self, credentials: TlsCredentials) -> None:
        """Replace the TLS credentials for new connections.

        Open connections keep their credentials. Their sessions cannot be resumed with the new ones.

        Raises:
            ConfigError: The credentials are invalid, and the old ones stay in force. The message names the faulty file
                and its fault.
        """

    def set_api_keys(self, keys: Sequence[ApiKey]) -> None:
        """Replace the API keys. Requests that start after the call need one of them."""

    def publish(self, models: Sequence[PublishedModel]) -> None:
        """Replace the state of the given models atomically, and keep the other models.

        Requests that start after the call see the new state. Requests in flight keep their versions.
        """

    def metadata(self, model: str, version: int) -> bytes:
        """Return the metadata of a version as the JSON of the REST API. The call is not counted.

        Raises:
            ServableError: NOT_FOUND if the version does not exist or is not available.
        """

    def shadow_statistics(self) -> dict[str, dict[str, int | str]]:
        """Return the statistics of all shadows.

        Returns:
            By name of the model: `version`, and the numbers of copies that `matched` the live answer, `differed`,
                `failed`, were `dropped` because the queue was full, or found the version `unavailable`. `last_problem`
                is the last difference or error. The counts are kept until the model has another shadow or none.
            were `dropped` because too many waited, or found the version `unavailable`; `last_problem` says how the
            last answer differed, or why there was none. Counting goes on until the model has another shadow or none.
        """

    def drain(self, timeout_seconds: float) -> bool:
        """Stop accepting, wait for requests in flight, and close all connections.

        Args:
            timeout_seconds: The maximum wait. Requests that are still in flight are then aborted.

        Returns:
            Whether all requests finished. A second call returns at once.
        """
