"""The two clients of the chaos run, and the referee who checks each answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from oracle import OK, Ledger, Outcome, Question
from splits import STICKY_HEADER
from world import OFFSET_STEP

TIMEOUT_SECONDS = 30.0
SHOWN_EVENTS = 10

CALLERS = ("ada", "bob", "carol@example.com", "d" * 200)

HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Client(ABC):
    """A client that sends one request at a time."""

    protocol: str
    timeout_seconds = TIMEOUT_SECONDS

    def __init__(self, port: int, indices: Mapping[str, int]) -> None:
        """Set the server; the first request connects.

        Args:
            port: The port of the server.
            indices: The index of each model, which identifies its answers.
        """
        self._port = port
        self._indices = indices

    @abstractmethod
    def ask(self, question: Question, inputs: Sequence[float]) -> Outcome:
        """Send a request, and determine from the answer which version gave it."""

    def _recognise(
        self, question: Question, inputs: Sequence[float], outputs: Sequence[float]
    ) -> Outcome:
        offsets = {y - x * 0.5 for x, y in zip(inputs, outputs, strict=False)}
        if len(inputs) != len(outputs) or len(offsets) != 1:
            return Outcome(f"WRONG ANSWER {outputs} to {inputs}")
        index, version = divmod(offsets.pop(), OFFSET_STEP)
        if index != self._indices.get(question.model):
            return Outcome(f"WRONG ANSWER of model {index}, version {version}")
        return Outcome(OK, int(version))


class RestClient(Client):
    """REST over a persistent connection."""

    protocol = "REST"
    _connection: http.client.HTTPConnection | None = None

    def ask(self, question: Question, inputs: Sequence[float]) -> Outcome:
        """See `Client.ask`."""
        path = f"/v1/models/{question.model}"
        if question.version is not None:
            path += f"/versions/{question.version}"
        if question.label is not None:
            path += f"/labels/{question.label}"
        name = "nothing" if question.is_malformed else "x"
        body = json.dumps({"instances": [{name: x} for x in inputs]})
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=self.timeout_seconds
            )
        try:
            headers = {STICKY_HEADER: question.caller} if question.caller else {}
            self._connection.request("POST", f"{path}:predict", body, headers)
            reply = self._connection.getresponse()
            document = json.loads(reply.read())
            if reply.status == 200:
                return self._recognise(question, inputs, document["predictions"])
            assert isinstance(document["error"], str)
            return Outcome(HTTP_CODES.get(reply.status, f"HTTP {reply.status}"))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self._connection.close()
            self._connection = None
            return Outcome(f"BROKEN: {error!r}")


class GrpcClient(Client):
    """gRPC with the stubs of TensorFlow Serving."""

    protocol = "gRPC"
    _stub: prediction_service_pb2_grpc.PredictionServiceStub | None = None

    def ask(self, question: Question, inputs: Sequence[float]) -> Outcome:
        """See `Client.ask`."""
        if self._stub is None:
            channel = grpc.insecure_channel(f"127.0.0.1:{self._port}")
            self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = question.model
        if question.version is not None:
            request.model_spec.version.value = question.version
        if question.label is not None:
            request.model_spec.version_label = question.label
        tensor = request.inputs["nothing" if question.is_malformed else "x"]
        tensor.dtype = 1
        tensor.tensor_shape.dim.add().size = len(inputs)
        tensor.float_val.extend(inputs)
        try:
            metadata = [(STICKY_HEADER, question.caller)] if question.caller else []
            response = self._stub.Predict(request, timeout=self.timeout_seconds, metadata=metadata)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            return Outcome(f"BROKEN: {details}" if is_broken(code, details) else code)
        outcome = self._recognise(question, inputs, response.outputs["y"].float_val)
        spec = response.model_spec
        if outcome.code == OK and (spec.name, spec.version.value) != (
            question.model,
            outcome.version,
        ):
            return Outcome(f"WRONG ANSWER of version {outcome.version}, which says {spec}")
        return outcome


def is_broken(code: str, details: str) -> bool:
    """Whether the client library created the error after a failed connection; the server sends UNAVAILABLE, too."""
    is_ours = (
        details.startswith(("Model ", "There is no room for another run")) or "worker" in details
    )
    return code == "UNAVAILABLE" and not is_ours


class Referee:
    """Counts answers, and keeps the wrong ones.

    Attributes:
        counts: The number of each outcome, by protocol.
        offences: The number of wrong answers.
        events: Descriptions of the first of them.
    """

    def __init__(self, describe: Callable[[str], str]) -> None:
        """Start at zero.

        Args:
            describe: Describes the current changes of a model.
        """
        self.counts: Counter[tuple[str, str]] = Counter()
        self.offences = 0
        self.events: list[str] = []
        self._describe = describe
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def judge(
        self,
        client: Client,
        question: Question,
        outcome: Outcome,
        ledger: Ledger,
        begun: int,
        why: str = "",
    ) -> None:
        """Check the answer to a question.

        Args:
            client: The client.
            question: The question.
            outcome: The answer.
            ledger: The ledger of the model.
            begun: The position in the ledger when the question was sent.
            why: The error that the model was asked to make, if any.
        """
        allowed = ledger.allowed(question, begun)
        with self._lock:
            self.counts[f"{client.protocol} {why}".rstrip(), outcome.code] += 1
            if outcome not in allowed:
                expected = " or ".join(sorted(map(str, allowed)))
                self._offend(
                    f"{client.protocol} {question} got {outcome}, want {expected}; "
                    f"moments {ledger.moments[begun:]}; {self._describe(question.model)}"
                )

    def report(self, event: str) -> None:
        """Record an error that no client saw."""
        with self._lock:
            self._offend(event)

    def _offend(self, event: str) -> None:
        self.offences += 1
        if len(self.events) < SHOWN_EVENTS:
            self.events.append(f"{time.monotonic() - self._started:8.3f} s: {event}")
            print(self.events[-1], flush=True)


@contextlib.contextmanager
def asking(
    clients: Sequence[Client], ledgers: Mapping[str, Ledger], referee: Referee, seed: int
) -> Iterator[None]:
    """Run each client with random questions until the end of the block."""
    is_over = threading.Event()

    def play(client: Client, choose: random.Random) -> None:
        names = [*ledgers, "nobody"]
        unknown = Ledger()
        while not is_over.is_set():
            question = random_question(choose, choose.choice(names))
            inputs = [float(choose.randrange(100)) for _ in range(choose.randint(1, 4))]
            ledger = ledgers.get(question.model, unknown)
            begun = ledger.begin()
            try:
                outcome = client.ask(question, inputs)
            except Exception as error:
                outcome = Outcome(f"BROKEN: {error!r}")
            referee.judge(client, question, outcome, ledger, begun)

    threads = [
        threading.Thread(target=play, args=(client, random.Random(f"{seed} {client.protocol}")))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def random_question(choose: random.Random, model: str) -> Question:
    """A question about a model; some name what does not exist, and some are malformed."""
    is_malformed = choose.random() < 0.1
    caller = choose.choice(["", "", *CALLERS])
    match choose.randrange(4):
        case 0:
            return Question(model, choose.randint(1, 9), None, caller, is_malformed)
        case 1:
            label = choose.choice(["stable", "canary", "unknown"])
            return Question(model, None, label, caller, is_malformed)
        case _:
            return Question(model, None, None, caller, is_malformed)
