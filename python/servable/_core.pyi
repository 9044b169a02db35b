"""The border between the control plane and the request path.

Everything that crosses between Python and Rust is declared here. Options and published state cross as frozen
dataclasses that Rust reads by field name; errors cross as a canonical code and a message and arrive as the classes of
`servable.errors`. Every call that waits or works for longer than a few microseconds releases the interpreter.
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
from servable.loaders._onnx import OnnxOptions
from servable.loaders._saved_model import SavedModelOptions
from servable.signature import Signature

__all__ = [
    "COMMIT",
    "BatchQueue",
    "BatchThreads",
    "BatchTicket",
    "Completions",
    "LentTensor",
    "OnnxRuntime",
    "Servable",
    "Server",
    "TensorFlow",
    "crc32c",
]

COMMIT: str
"""The commit that the extension was built from; empty where that is not known."""

def crc32c(data: bytes) -> int:
    """The CRC-32 checksum of some bytes with Castagnoli's polynomial, as TFRecord files have it."""

@final
class BatchThreads:
    """Threads that run batches, for any number of queues in turn."""

    def __new__(cls, parameters: BatchingParameters) -> Self:
        """Start the threads.

        Args:
            parameters: How many there are and what they are called; the rest is for queues.

        Raises:
            OSError: The system gives no threads.
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
        """Make a queue whose batches a function of Python runs.

        Args:
            parameters: How calls wait for each other.
            run: Runs one batch. Takes the inputs of the calls, joined along axis 0, and the seconds until the most
                patient caller gives up. Tensors go in and out as with `Servable.from_python`, in lists; every output
                has as many rows as the inputs. What it raises reaches every caller of the batch.
            is_repeatable: Whether `run` may be called again for some of the calls of a batch after it raised, so that
                only those get the error that cause it.

        Raises:
            UnavailableError: The threads are closed.
            InvalidInputError: The parameters contradict each other.
        """

    def close(self) -> None:
        """Run what waits in the queues, and end the threads; a second call does nothing."""

@final
class BatchQueue:
    """Calls that may share batches. Safe to use from several threads."""

    def run(
        self,
        inputs: list[tuple[int, tuple[int, ...], Any]],
        timeout_seconds: float | None,
        priority: str,
    ) -> list[LentTensor | tuple[tuple[int, ...], list[bytes]]]:
        """Put a call into the queue and wait for its result; signals are handled meanwhile.

        Args:
            inputs: Always of the same number and in the same order, each with the number of its dtype, its shape and
                its elements; they are copied.
            timeout_seconds: How long to wait at most; `None` for as long as it takes.
            priority: `"high"`, or `"low"` if others go first.

        Returns:
            The outputs, with the rows of this call.

        Raises:
            ServableError: The priority is none, the queue is full or closed, the inputs do not fit, the time is over,
                or what the batch failed with.
        """

    def submit(
        self,
        inputs: list[tuple[int, tuple[int, ...], Any]],
        completions: Completions,
        number: int,
        priority: str,
    ) -> BatchTicket:
        """Put a call into the queue without waiting.

        Args:
            inputs: As for `run`.
            completions: Where it is announced that the answer is there.
            number: What it is announced as.
            priority: As for `run`.

        Raises:
            ServableError: The priority is none, the queue is full or closed, or the inputs do not fit.
        """

@final
class BatchTicket:
    """A call that was put into a queue. Dropping it withdraws the call, if that has not begun to run."""

    def result(self) -> list[LentTensor | tuple[tuple[int, ...], list[bytes]]]:
        """The outputs, once they have been announced; to be asked once.

        Raises:
            ServableError: What the batch failed with.
        """

@final
class Completions:
    """Tells an event loop which of its calls have an answer, without taking the interpreter to do so."""

    def __new__(cls) -> Self:
        """Open a pair of connected sockets.

        Raises:
            OSError: The system gives none.
        """

    def fileno(self) -> int:
        """What becomes readable when there is something to take; it stays open as long as the object lives."""

    def take(self) -> list[int]:
        """The numbers that were announced since the last call."""

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
        in_background: bool = False,
    ) -> Servable:
        """Load a model, with its external data.

        Args:
            path: The model file.
            options: Threads, devices, optimisation and memory.
            max_run_seconds: The longest run, which is then cancelled; 0 for no limit.
            in_background: Load on a thread of low priority.

        Raises:
            ServableError: The error of the runtime, with its text.
        """

@final
class TensorFlow:
    """The TensorFlow runtime of an installed wheel, used through its C API.

    The libraries stay open for the life of the process. Safe to use from several threads.
    """

    def __new__(cls, library_directory: str) -> Self:
        """Open the runtime's libraries.

        Args:
            library_directory: The directory of the installed `tensorflow` package, which holds `libtensorflow_cc.so.2`
                and `libtensorflow_framework.so.2`.

        Raises:
            LoadError: A library is missing or lacks a function that is needed; the message names it.
        """

    @property
    def version(self) -> str:
        """The runtime's own version, such as `2.21.0`."""

    def start_threads(self, options: SavedModelOptions) -> None:
        """Have the runtime start the threads that all models share, at the priority of the calling thread.

        A second call does nothing. Without one, the first model to be loaded brings them up.

        Args:
            options: How the models are loaded and run, which says how many threads there are.

        Raises:
            ServableError: What the runtime reports.
        """

    def load_library(self, path: str) -> None:
        """Load a library of more operations; they are there for every model that is loaded afterwards.

        From the first one on, TensorFlow's symbols are in the process's global scope. Extensions that use OpenSSL
        (`_hashlib`, `_ssl`) are imported before, as they would be bound to TensorFlow's BoringSSL otherwise.

        Args:
            path: The library, built for this version of TensorFlow.

        Raises:
            ServableError: It is missing or cannot be loaded, with the dynamic linker's reason.
        """

    def load_saved_model(
        self, path: str, options: SavedModelOptions, *, in_background: bool = False
    ) -> Servable:
        """Load a SavedModel: graph, variables, assets and initialisation.

        Args:
            path: The version directory, which holds `saved_model.pb`.
            options: Tags, session options and how runs are scheduled.
            in_background: Load on a thread that gives way to those that serve. Threads that the load starts inherit
                its priority. Only Linux has priorities of threads.

        Raises:
            ServableError: What the runtime reports, with its code and text.
        """

@final
class LentTensor:
    """A tensor of numbers whose memory may be read, by NumPy's array interface.

    The memory stays valid for as long as the object or an array made of it lives.
    """

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Where the elements lie, read-only and row-major; bfloat16 is described as two opaque bytes."""

@final
class Servable:
    """One loaded version of a model, ready to be published."""

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
        """Make a servable of a Python function.

        Args:
            name: The servable id, such as `m/3`, for error messages.
            signatures: What it takes and returns, by the names of signatures; a `dict` of at least one.
            run: Runs one batch. Takes the name of a signature, its inputs, which have the declared dtypes and shapes,
                and the seconds until the caller gives up. A tensor of numbers comes as a `LentTensor`, a tensor of
                strings as its shape and its elements. Returns all outputs of the signature, each as the number of its
                dtype, its shape, and an array without gaps in the machine's byte order, or the `list[bytes]` of its
                strings; they are checked and copied. What it raises is the client's answer: a `ServableError` as it
                is, anything else as INTERNAL. Called with the interpreter held, on threads of the servable's own.
            threads: How many calls there may be at once; further requests wait in line.
            max_run_seconds: How long a caller waits at most for a call that has begun; 0 for any time.
            is_repeatable: Whether a call has no effects but what it returns, so that the requests of a batch that
                failed may be run again.

        Raises:
            ValueError: A signature cannot be served.
        """

    def signature_defs(self) -> bytes:
        """The signatures of the model, as a serialized `tensorflow.serving.SignatureDefMap`.

        Raises:
            FailedPreconditionError: The version was unloaded.
        """

    def run(
        self, signature_name: str, inputs: Mapping[str, tuple[int, tuple[int, ...], Any]]
    ) -> dict[str, tuple[int, LentTensor | tuple[tuple[int, ...], list[bytes]]]]:
        """Run a signature once on the calling thread, without the interpreter; nothing is batched or counted.

        Args:
            signature_name: Which one.
            inputs: Each as the number of its dtype, its shape, and an array without gaps in the machine's byte order,
                or the `list[bytes]` of its strings; they are copied.

        Returns:
            All outputs, each as the number of its dtype, and the tensor as `from_python` describes it.

        Raises:
            ServableError: What a client would get, or `FAILED_PRECONDITION` after an unload.
        """

    def warm_up(
        self, prediction_log: bytes, iterations: int, check_method_names: bool = False
    ) -> None:
        """Run a recorded request on the calling thread, as if a client had sent it; nothing is published or counted.

        Args:
            prediction_log: A serialized `tensorflow.serving.PredictionLog`. Of its model spec, only the name of the
                signature counts. Without a request in it, nothing is run.
            iterations: How often.
            check_method_names: Whether the method name of a signature has to fit the call.

        Raises:
            ValueError: It is not such a message.
            ServableError: What a client would get.
        """

    def warm_up_with_zeros(self, iterations: int) -> dict[str, str | None]:
        """Run each signature on zeros and empty strings of its declared shape, 1 where a size is free.

        Args:
            iterations: How often.

        Returns:
            By the names of the signatures: why one was not run or failed, or `None`.
        """

    def prediction_log(self, body: bytes, is_examples: bool) -> bytes:
        """Make the record of a REST request for `warm_up`.

        Args:
            body: The JSON body.
            is_examples: Whether it is one of `:classify` or `:regress`, which the method name of its signature tells
                apart, and not of `:predict`.

        Returns:
            A serialized `tensorflow.serving.PredictionLog`.

        Raises:
            ServableError: What a client would get.
        """

    def batch(
        self, threads: BatchThreads, parameters: BatchingParameters, origin: str = ""
    ) -> None:
        """Join requests into batches from now on; to be called before it is published, and once.

        Args:
            threads: What runs the batches.
            parameters: How requests wait for each other.
            origin: Where the parameters come from, for `GET …/batching`.

        Raises:
            InvalidInputError: The parameters contradict each other.
            FailedPreconditionError: It was called before, or the version was unloaded.
            UnavailableError: The threads are closed.
        """

    def leave_unbatched(self, reason: str) -> None:
        """Say why its requests are not joined, for `GET …/batching`; to be called instead of `batch`.

        Args:
            reason: What says so, such as an option.

        Raises:
            FailedPreconditionError: The version was unloaded.
        """

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the servable is not published and no request holds it.

        Args:
            timeout_seconds: How long to wait at most; `None` waits without limit.

        Returns:
            Whether it is idle. A servable that was never published is.
        """

    def unload(self, *, in_background: bool = False) -> None:
        """Release the model and its memory. The servable has to be idle; a second call does nothing.

        Args:
            in_background: Release it on a thread that gives way to those that serve. What needs the interpreter to be
                released must not be released there.

        Raises:
            FailedPreconditionError: It is published, or a request holds it.
        """

@final
class Server:
    """Listens, and answers from what was last published."""

    def __new__(cls, options: ServerOptions, control_plane: ControlPlane) -> Self:
        """Prepare a server; nothing is bound yet.

        Args:
            options: Addresses, limits and switches.
            control_plane: Carries out what clients ask to change, and says what was counted outside of the request
                path. It is the only thing of Python that the server calls.
        """

    def start(self) -> list[int]:
        """Bind every address, and begin to accept where only health checks are answered.

        Elsewhere connections are refused until `open`.

        Returns:
            The port of each TCP address of `options.endpoints`, in order; useful where a port was 0.

        Raises:
            ConfigError: An address is taken or may not be bound, or TLS is wanted and nothing was said of it.
        """

    def open(self) -> None:
        """Begin to accept at every address; nothing happens when that was done, or before `start`.

        Raises:
            ConfigError: An address cannot be listened at, though it could be bound.
        """

    def set_tls(self, credentials: TlsCredentials) -> None:
        """Say what connections that are to begin with TLS begin with, from now on.

        Connections under way keep what they began with, and may be resumed by nobody but themselves.

        Raises:
            ConfigError: The credentials cannot be used; the message names which of them, and why. Those before stay.
        """

    def set_api_keys(self, keys: Sequence[ApiKey]) -> None:
        """Put API keys in force for the requests that begin from now on; from then on, one is needed."""

    def publish(self, models: Sequence[PublishedModel]) -> None:
        """Replace the state of the given models, all at once.

        Requests that begin after the return see the new state; requests under way keep the version they hold. Models
        that are not named stay as they are.
        """

    def metadata(self, model: str, version: int) -> bytes:
        """Write the JSON document that REST answers to a question for the metadata of a version. Nothing is counted.

        Raises:
            ServableError: NOT_FOUND if there is no such version, or none that serves.
        """

    def shadow_statistics(self) -> dict[str, dict[str, int | str]]:
        """What came of the copies for each model that has a shadow.

        Returns:
            By the name of the model: `version`, and how many copies `matched` the live answer, `differed`, `failed`,
            were `dropped` because too many waited, or found the version `unavailable`; `last_problem` says how the
            last answer differed, or why there was none. Counting goes on until the model has another shadow or none.
        """

    def drain(self, timeout_seconds: float) -> bool:
        """Stop accepting, let requests in flight finish, and close every connection.

        Args:
            timeout_seconds: How long to wait for the requests in flight; after that they are cut off.

        Returns:
            Whether all of them finished. A second call returns at once.
        """
