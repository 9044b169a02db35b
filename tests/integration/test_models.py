"""Kinds of SavedModels: dtypes, inputs and outputs, variables, assets, tables, state."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess

ml_dtypes = pytest.importorskip("ml_dtypes")  # comes with TensorFlow


def limits(dtype: Any) -> np.ndarray:
    """An integer array of two rows with the limits of its range."""
    info = np.iinfo(dtype)
    return np.array([[info.min, 0, 1], [2, info.max - 1, info.max]], dtype)


def floats(dtype: Any) -> np.ndarray:
    """A float array with special values."""
    info = ml_dtypes.finfo(dtype)
    values = [0.0, -0.0, 1.5, -2.25, float(info.max), float(info.smallest_normal)]
    return np.array([*values, np.inf, -np.inf, np.nan], dtype).reshape(3, 3)


ARRAYS = {
    **{name: limits(name) for name in "int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()},
    **{name: floats(name) for name in "float16 float32 float64".split()},
    "bfloat16": floats(ml_dtypes.bfloat16),
    "bool": np.array([[True, False], [False, True]]),
    "complex64": np.array([1 + 2j, -0.5j, np.inf], np.complex64),
    "complex128": np.array([1 + 2j, -0.5j, 1e300], np.complex128),
    "string": np.array([[b"", b"a\0b"], ["é😀".encode(), b"\xff\xfe" * 20]], object),
}
# Values that JSON can represent. The floats are exact in their dtype, so that they survive a round trip.
OVER_REST = {
    "float32": [[1.5, -0.0], [2.0**127, 2.0**-126]],
    "float64": [[1.5, -0.0], [1e300, 2.2250738585072014e-308]],
    "int8": [[-128, 127]],
    "int16": [[-32768, 32767]],
    "int32": [[-(2**31), 2**31 - 1]],
    "int64": [[-(2**63), 2**63 - 1]],
    "uint8": [[0, 255]],
    "uint32": [[0, 2**32 - 1]],
    "uint64": [[0, 2**64 - 1]],
    "bool": [[True, False]],
    "string": [["", "a", "é😀", "\u0000"]],
}
NOT_OVER_REST = ("float16", "bfloat16", "uint16", "complex64", "complex128")


class TestDtypes:
    @pytest.mark.parametrize("as_content", [True, False], ids=["content", "fields"])
    @pytest.mark.parametrize("name", ARRAYS)
    def test_pass_through_grpc(
        self, name: str, as_content: bool, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        sent = ARRAYS[name]
        answer = grpc_client.predict(
            server.port, "dtypes", {"x": sent}, signature=name, as_content=as_content
        )
        got = answer["outputs"]["y"]
        assert got.shape == sent.shape
        if sent.dtype == object:
            assert got.tolist() == sent.tolist()
        else:
            assert got.dtype == sent.dtype
            assert got.tobytes() == sent.tobytes()

    @pytest.mark.parametrize("name", ARRAYS)
    def test_pass_through_grpc_empty(
        self, name: str, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        sent = ARRAYS[name][:0]
        answer = grpc_client.predict(server.port, "dtypes", {"x": sent}, signature=name)
        assert answer["outputs"]["y"].shape == sent.shape

    @pytest.mark.parametrize("name", OVER_REST)
    def test_pass_through_rest(self, name: str, server: ServerProcess) -> None:
        values = OVER_REST[name]
        columnar = server.predict("dtypes", {"signature_name": name, "inputs": values})
        assert columnar.status == 200, columnar.body
        got = columnar.json()["outputs"]
        if name == "float32":
            got = np.float32(got).tolist()
        assert repr(got) == repr(values)  # distinguishes -0.0 from 0.0, and True from 1
        rows = server.predict("dtypes", {"signature_name": name, "instances": values})
        assert rows.json()["predictions"] == columnar.json()["outputs"]

    @pytest.mark.parametrize("name", NOT_OVER_REST)
    def test_that_json_cannot_carry_are_refused(self, name: str, server: ServerProcess) -> None:
        reply = server.predict("dtypes", {"signature_name": name, "inputs": [1]})
        assert reply.status == 501
        assert reply.error.startswith("Conversion of JSON Value: 1 to type: ")

    def test_bytes_pass_through_rest_as_base64(self, server: ServerProcess) -> None:
        raw = bytes(range(256))
        encoded = {"b64": base64.b64encode(raw).decode()}
        reply = server.predict("dtypes", {"signature_name": "string", "inputs": [encoded]})
        # The output's name does not end in `_bytes`, so the bytes are written unencoded.
        assert b"\\u0000" in reply.body
        assert raw[0x80:] in reply.body

    def test_a_large_string_passes_through(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        sent = np.array([b"x" * 5_000_000, b"y"], object)
        answer = grpc_client.predict(server.port, "dtypes", {"x": sent}, signature="string")
        assert answer["outputs"]["y"].tolist() == sent.tolist()

    def test_ten_megabytes_pass_through(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        sent = np.arange(2_500_000, dtype=np.float32)
        answer = grpc_client.predict(server.port, "dtypes", {"x": sent}, signature="float32")
        assert np.array_equal(answer["outputs"]["y"], sent)


class TestGraphs:
    def test_several_inputs_and_outputs_over_rest(self, server: ServerProcess) -> None:
        rows = [
            {"numbers": 1.5, "counts": 2, "words": ["a", "b"]},
            {"numbers": 0.5, "counts": -1, "words": ["c", "d"]},
        ]
        assert server.predict("multiple", {"instances": rows}).json() == {
            "predictions": [
                {"joined": "ab", "sum": 3.5, "twice": 4},
                {"joined": "cd", "sum": -0.5, "twice": -2},
            ]
        }

    def test_several_inputs_and_outputs_over_grpc(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        inputs = {
            "numbers": np.array([1.5], np.float32),
            "counts": np.array([2], np.int32),
            "words": np.array([[b"a", b"b"]], object),
        }
        outputs = grpc_client.predict(server.port, "multiple", inputs)["outputs"]
        assert {name: value.tolist() for name, value in outputs.items()} == {
            "joined": [b"ab"],
            "sum": [3.5],
            "twice": [4],
        }

    @pytest.mark.parametrize(
        ("value", "shape"), [(1.0, []), ([1.0], [1]), ([[[1.0, 2.0]]], [1, 1, 2])]
    )
    def test_unknown_rank(self, value: Any, shape: list[int], server: ServerProcess) -> None:
        reply = server.predict("unknown_rank", {"inputs": value}).json()
        assert reply == {"outputs": {"rank": len(shape), "shape": shape}}

    def test_reference_variables_and_an_initialisation_op(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        x = np.array([1.0, 1.0], np.float32)
        outputs = grpc_client.predict(server.port, "reference_variables", {"x": x})["outputs"]
        assert outputs["reference"].tolist() == [1.0, 2.0]
        assert outputs["y"].tolist() == [41.0, 42.0]

    def test_an_asset_is_read_at_load(self, server: ServerProcess) -> None:
        reply = server.predict("half_plus_two", {"instances": [0.0]})
        assert reply.json() == {"predictions": [2.0]}

    def test_a_module_of_tensorflow_2(self, server: ServerProcess) -> None:
        reply = server.predict("half_plus_two_tf2", {"instances": [1.0, 2.0, 5.0]})
        assert reply.json() == {"predictions": [2.5, 3.0, 4.5]}

    def test_a_look_up_table_from_an_asset(self, server: ServerProcess) -> None:
        reply = server.predict("words", {"instances": ["two", "zero", "nine"]})
        assert reply.json() == {"predictions": [2, 0, -1]}

    def test_state_is_kept_between_calls(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        def call(signature: str) -> int:
            answer = grpc_client.predict(server.port, "counter", {}, signature=signature)
            return int(answer["outputs"]["count"])

        before = call("read")
        assert [call("raise") for _ in range(3)] == [before + 1, before + 2, before + 3]
        assert call("read") == before + 3

    def test_an_error_of_the_graph_reaches_the_client(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        reply = server.predict("failing", {"instances": [3]})
        assert reply.status == 400
        assert "indices[0] = 3 is not in [0, 3)" in reply.error
        with pytest.raises(RpcError) as error:
            grpc_client.predict(server.port, "failing", {"index": np.array([3], np.int32)})
        assert error.value.code == "INVALID_ARGUMENT"
        assert "indices[0] = 3 is not in [0, 3)" in error.value.details
