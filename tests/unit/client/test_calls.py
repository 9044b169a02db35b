"""Retries, caching and error messages of clients, with a programmed transport."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from servable.client import AsyncClient, AsyncModel, Client, Model, Retry
from servable.client._calls import Calls, finish
from servable.client._exchange import Codec, Request, Target
from servable.client._grpc_codec import GrpcCodec
from servable.client._messages import message_class
from servable.client._rest_codec import RestCodec
from servable.errors import (
    BackendError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    ServableError,
    UnavailableError,
    UnimplementedError,
)

Answer = bytes | ServableError
M = Target("m")
X = {"x": np.float32([1, 2])}


class FakeTransport:
    def __init__(self, *answers: Answer, on_send: Callable[[Request], None] | None = None) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.pauses: list[float] = []

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, ServableError):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def close(self) -> None:
        pass


def metadata(dtype: str = "DT_FLOAT", output: str = "y", **more_inputs: str) -> bytes:
    def info(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "tensor_shape": {"dim": [{"size": "-1"}]}}

    inputs = {name: info(dtype) for name, dtype in {"x": dtype, **more_inputs}.items()}
    signature = {"inputs": inputs, "outputs": {output: info(dtype)}, "method_name": ""}
    return json.dumps(
        {
            "model_spec": {"name": "m", "version": "1"},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
    ).encode()


def calls(
    *answers: Answer, codec: Codec | None = None, retry: Retry | None = None
) -> tuple[Calls, FakeTransport]:
    transport = FakeTransport(*answers)
    return Calls(codec or RestCodec(), transport, retry or Retry()), transport


GONE = UnavailableError("connection refused")
REST_ANSWER = b'{"outputs": [2.5, 3]}'


class TestRepetition:
    def test_predict_is_repeated_until_a_server_is_there(self) -> None:
        client, transport = calls(GONE, GONE, b"", codec=GrpcCodec())
        finish(client.predict(M, X, [], 60))
        assert len(transport.requests) == 3
        first, second = transport.pauses
        assert 0.05 <= first <= 0.1 <= second <= 0.2

    def test_the_attempts_are_counted(self) -> None:
        client, transport = calls(*[GONE] * 3, codec=GrpcCodec(), retry=Retry(attempts=3))
        with pytest.raises(UnavailableError, match="connection refused"):
            finish(client.predict(M, X, [], None))
        assert len(transport.pauses) == 2

    def test_nothing_is_repeated_beyond_the_deadline(self) -> None:
        retry = Retry(initial_pause_seconds=100, longest_pause_seconds=100)
        client, transport = calls(GONE, codec=GrpcCodec(), retry=retry)
        with pytest.raises(UnavailableError):
            finish(client.predict(M, X, [], 10))
        assert transport.pauses == []

    def test_a_reload_is_never_repeated(self) -> None:
        client, transport = calls(GONE, codec=GrpcCodec())
        with pytest.raises(UnavailableError):
            finish(client.reload_config({"m": "/m"}, 60))
        assert len(transport.requests) == 1

    @pytest.mark.parametrize("error", [NotFoundError("no"), DeadlineExceededError("late")])
    def test_other_errors_are_not_repeated(self, error: ServableError) -> None:
        client, transport = calls(error, codec=GrpcCodec())
        with pytest.raises(type(error)):
            finish(client.predict(M, X, [], 60))
        assert len(transport.requests) == 1


class TestSignatures:
    def test_named_arrays_go_over_grpc_without_a_signature(self) -> None:
        client, transport = calls(b"", codec=GrpcCodec())
        finish(client.predict(M, X, [], 60))
        assert [request.path for request in transport.requests] == [
            "/tensorflow.serving.PredictionService/Predict"
        ]

    def test_a_signature_is_asked_for_once(self) -> None:
        client, transport = calls(metadata(), REST_ANSWER, REST_ANSWER)
        for _ in range(2):
            prediction = finish(client.predict(M, [1, 2], [], 60))
        assert [request.path for request in transport.requests] == [
            "/v1/models/m/metadata",
            *["/v1/models/m:predict"] * 2,
        ]
        assert prediction["y"].dtype == np.float32
        assert prediction.value.tolist() == [2.5, 3]

    def test_a_signature_that_has_changed_is_asked_for_again(self) -> None:
        client, _ = calls(
            *(metadata(), REST_ANSWER),
            *(InvalidInputError("not so"), metadata("DT_STRING", "z"), b'{"outputs": ["a"]}'),
        )
        finish(client.predict(M, [1], [], 60))
        with pytest.raises(InvalidInputError, match="got dtype float64, want bytes"):
            finish(client.predict(M, [1.0], [], 60))
        assert finish(client.predict(M, ["a"], [], 60))["z"].tolist() == [b"a"]

    def test_an_error_is_told_also_where_signatures_are_gone(self) -> None:
        client, _ = calls(metadata(), REST_ANSWER, BackendError("it broke"), NotFoundError("gone"))
        finish(client.predict(M, [1], [], 60))
        with pytest.raises(BackendError, match="it broke"):
            finish(client.predict(M, [1], [], 60))

    def test_inputs_that_a_cached_signature_refuses_are_checked_with_a_fresh_one(self) -> None:
        client, transport = calls(metadata(), REST_ANSWER, metadata(k="DT_INT32"), REST_ANSWER)
        finish(client.predict(M, [1], [], 60))
        finish(client.predict(M, {"x": [1], "k": [1]}, [], 60))
        assert len(transport.requests) == 4

    def test_a_refusal_is_explained_by_the_signature(self) -> None:
        refusal = InvalidInputError("Could not parse")
        signature = message_class("tensorflow.serving.SignatureDefMap")()
        signature.signature_def["serving_default"].inputs["x"].dtype = 3
        answer = message_class("tensorflow.serving.GetModelMetadataResponse")()
        answer.metadata["signature_def"].value = signature.SerializeToString()
        client, _ = calls(refusal, answer.SerializeToString(), codec=GrpcCodec())
        with pytest.raises(
            InvalidInputError, match=r'^input "x" of m: got dtype float32, want int'
        ):
            finish(client.predict(M, X, [], 60))

    def test_a_refusal_without_an_explanation_is_passed_on(self) -> None:
        client, _ = calls(InvalidInputError("bad index"), NotFoundError("no"), codec=GrpcCodec())
        with pytest.raises(InvalidInputError, match=r"^bad index$"):
            finish(client.predict(M, X, [], 60))

    @pytest.mark.parametrize(
        ("inputs", "outputs", "complaint"),
        [
            ({"y": [1]}, [], '^inputs of m: got "y", want "k", "x"$'),
            ({"x": [1]}, [], '^inputs of m: got "x", want "k", "x"$'),
            ([1], [], '^inputs of m: got one value without a name, want "k", "x"$'),
            ({"x": [1], "k": [1]}, ["z"], '^outputs of m: asked for "z", there is "y"$'),
            ({"x": [1], "k": [1.5]}, [], '^input "k" of m: got dtype float64, want int32$'),
        ],
    )
    def test_inputs_that_cannot_be_right_are_not_sent(
        self, inputs: Any, outputs: list[str], complaint: str
    ) -> None:
        client, transport = calls(metadata(k="DT_INT32"))
        with pytest.raises(InvalidInputError, match=complaint):
            finish(client.predict(M, inputs, outputs, 60))
        assert len(transport.requests) == 1

    @pytest.mark.parametrize(
        "value",
        [np.float16([1]), np.zeros((0, 3), np.float32)],
        ids=["float16", "empty matrix"],
    )
    def test_values_that_json_cannot_represent_are_reported(self, value: np.ndarray) -> None:
        client, _ = calls(metadata("DT_HALF" if value.dtype == np.float16 else "DT_FLOAT"))
        with pytest.raises(UnimplementedError, match=r'^input "x" of m: JSON cannot carry .*grpc:'):
            finish(client.predict(M, value, [], 60))


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b'{"outputs": {"a": 1}}', b'{"outputs": ["a"]}', b'{"outputs": [[1], [2, 3]]}'],
)
def test_answers_that_are_none_are_refused(answer: bytes) -> None:
    client, _ = calls(metadata(), answer, metadata())
    with pytest.raises(BackendError, match="answer"):
        finish(client.predict(M, [1], [], 60))


def test_bytes_that_are_no_text_come_through_json() -> None:
    client, _ = calls(metadata("DT_STRING"), b'{"outputs": ["\xff", {"b64": "AP8="}, "\\u00e9"]}')
    prediction = finish(client.predict(M, [b"\xff"], [], 60))
    assert prediction.value.tolist() == [b"\xff", b"\x00\xff", "é".encode()]


class TestReadiness:
    def test_it_waits_for_an_available_version(self) -> None:
        def status(state: str) -> bytes:
            found = {"version": "1", "state": state}
            found["status"] = {"error_code": "OK", "error_message": ""}  # type: ignore[assignment]
            return json.dumps({"model_version_status": [found]}).encode()

        client, transport = calls(GONE, NotFoundError("no"), status("LOADING"), status("AVAILABLE"))
        finish(client.wait_until_ready([M], 60))
        assert len(transport.pauses) == 3

    def test_any_answer_of_a_server_will_do_without_a_model(self) -> None:
        client, transport = calls(GONE, InvalidInputError("Missing model name in request."))
        finish(client.wait_until_ready([], 60))
        assert len(transport.pauses) == 1

    def test_the_error_names_the_missing_model(self) -> None:
        client, _ = calls(GONE)
        with pytest.raises(
            DeadlineExceededError, match=r"^m is not available: connection refused$"
        ):
            finish(client.wait_until_ready([M], 0.05))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("",), "got '', want a name"),
        (("m", 1, "stable"), "m: got version 1 and label 'stable', want only one"),
        (("m", -1), "got -1, want a number"),
        (("m", "1"), "got '1', want a number"),
        (("m", True), "got True, want a number"),
    ],
)
def test_targets_that_no_server_understands_are_refused(
    arguments: tuple[Any, ...], complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        Target(*arguments)


@pytest.mark.parametrize(
    ("pair", "same"),
    [((Client, AsyncClient), ("close", "__repr__")), ((Model, AsyncModel), ("__repr__",))],
)
def test_both_clients_take_the_same_arguments(
    pair: tuple[type, type], same: tuple[str, ...]
) -> None:
    one, other = ({n: f for n, f in vars(c).items() if inspect.isfunction(f)} for c in pair)
    public = {name for name in one if not name.startswith("_")} | {*same, "__init__"}
    assert public <= set(other)
    for name in public:
        found = [inspect.signature(methods[name]).parameters for methods in (one, other)]
        assert [str(p).replace("Async", "") for p in found[0].values()] == [
            str(p).replace("Async", "") for p in found[1].values()
        ], name
