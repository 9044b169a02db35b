"""A client that makes Python servables fail; other clients must not be affected."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence

from clients import Client, GrpcClient, Referee, RestClient
from moods import LETHAL, NAP_SECONDS, Mood
from oracle import OK, Outcome, Question
from world import Model

PATIENCE_SECONDS = 0.3
"""The time-out for answers that come late or never, in seconds."""

RECOVERY_SECONDS = 1.0
"""The minimum interval between questions that end a worker, so that some workers are always alive."""

REST_TIMEOUT_SECONDS = 10.0
"""The server's time limit of REST calls, which cannot carry a deadline."""


class Nuisance:
    """Sends questions that make a servable fail, and expects the matching codes."""

    def __init__(
        self, port: int, models: Sequence[Model], referee: Referee, choose: random.Random
    ) -> None:
        """Start without questions."""
        self._models = [model for model in models if model.moods]
        self._referee = referee
        self._choose = choose
        indices = {model.name: model.index for model in models}
        self._rest = RestClient(port, indices)
        self._grpc = GrpcClient(port, indices)
        self._patient = GrpcClient(port, indices)
        self._rest.protocol, self._grpc.protocol = "rude REST", "rude gRPC"
        self._patient.protocol = "rude gRPC"
        self._grpc.timeout_seconds = PATIENCE_SECONDS
        self._over = threading.Event()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Send questions until the end of the block."""
        thread = threading.Thread(target=self._play)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _play(self) -> None:
        while not self._over.is_set():
            model = self._choose.choice(self._models)
            mood = self._choose.choice(model.moods)
            client, code = self._client(mood, model)
            question = Question(model.name, code=code)
            begun = model.ledger.begin()
            try:
                outcome = client.ask(question, [mood.trigger, 1.0])
            except Exception as error:
                outcome = Outcome(f"BROKEN: {error!r}")
            self._referee.judge(client, question, outcome, model.ledger, begun, mood.name.lower())
            is_lethal = model.workers and mood in LETHAL
            self._over.wait(RECOVERY_SECONDS if is_lethal else self._choose.uniform(0, 0.1))

    def _client(self, mood: Mood, model: Model) -> tuple[Client, str]:
        """The client to use, and the expected code."""
        by_rest = self._choose.random() < 0.5
        if mood is Mood.NAP:
            # REST calls have no short deadline, so that a late answer is correct.
            return (self._rest, OK) if by_rest else (self._grpc, mood.code)
        if mood is Mood.HANG:
            is_slow = self._choose.random() < 0.05
            return (self._rest if is_slow else self._grpc), mood.code
        return (self._rest if by_rest else self._patient), mood.code


assert PATIENCE_SECONDS < NAP_SECONDS < REST_TIMEOUT_SECONDS
