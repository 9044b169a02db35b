"""Values that callers may pass as tensors, and their encoding as a TensorProto."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest

from servable.client import _tensors as tensors
from servable.client._arrays import has_dtype, to_array
from servable.client._messages import message_class
from servable.errors import BackendError, InvalidInputError
from servable.signature import DATA_TYPES


class Lent:
    """Only DLPack."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()


class Frame:
    """Only `__array__`, like data frames."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.arange(3, dtype=np.int16)


def encoded(value: np.ndarray) -> bytes:
    return b"".join(tensors.encode(value))


def as_message(value: np.ndarray) -> Any:
    return message_class("tensorflow.TensorProto").FromString(encoded(value))


def decoded(message: Any) -> np.ndarray:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return tensors.decode("t", memoryview(data))


class TestArrays:
    def test_an_array_is_passed_through_without_a_copy(self) -> None:
        value = np.arange(4, dtype=np.float32)
        assert to_array("x", value) is value
        pieces = tensors.encode(value)
        assert any(
            isinstance(piece, memoryview)
            and np.shares_memory(np.frombuffer(piece, np.uint8), value)
            for piece in pieces
        )

    @pytest.mark.parametrize(
        ("value", "dtype", "shape"),
        [
            (Lent(np.arange(3, dtype=np.float64)), "float64", (3,)),
            (Frame(), "int16", (3,)),
            (np.float32(3), "float32", ()),
            (array.array("d", [1, 2]), "float64", (2,)),
            (memoryview(b"ab"), "uint8", (2,)),
            ("text", "object", ()),
            (b"\0", "object", ()),
            (np.array(["a", "b"]), "object", (2,)),
        ],
    )
    def test_arrays_keep_their_dtype(
        self, value: object, dtype: str, shape: tuple[int, ...]
    ) -> None:
        assert has_dtype(value)
        found = to_array("x", value)
        assert (found.dtype.name, found.shape) == (dtype, shape)

    @pytest.mark.parametrize(
        ("value", "dtype", "wanted"),
        [
            ([1, 2], "float32", np.float32([1, 2])),
            ([1.5], "float16", np.float16([1.5])),
            ([[1], [255]], "uint8", np.uint8([[1], [255]])),
            (3, "complex64", np.complex64(3)),
            ([], "int8", np.int8([])),
            ([True], "int32", np.int32([1])),
            ([2**64 - 1], "uint64", np.uint64([2**64 - 1])),
            (["é", b"\xff\0"], "bytes", np.array(["é".encode(), b"\xff\0"], object)),
        ],
    )
    def test_plain_values_get_the_dtype_of_the_signature(
        self, value: object, dtype: str, wanted: np.ndarray
    ) -> None:
        found = to_array("x", value, dtype)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert found.tolist() == wanted.tolist()

    @pytest.mark.parametrize(
        ("value", "dtype", "complaint"),
        [
            (np.float64([1]), "float32", "^x: got dtype float64, want float32$"),
            ([1.5], "int32", "^x: got dtype float64, want int32$"),
            ([1, 300], "int8", "^x: got 300, want int8, -128 to 127$"),
            ([-1], "uint32", "^x: got -1, want uint32, 0 to 4294967295$"),
            ([1], "bool", "^x: got dtype int64, want bool$"),
            ([1j], "float32", "^x: got dtype complex128, want float32$"),
            (["a"], "float32", "^x: got dtype bytes, want float32$"),
            ([1.0], "bytes", "^x: got dtype float64, want bytes$"),
            ([1, "a"], "bytes", "^x: got an element of type int, want bytes or str$"),
            ([["a"], ["b", "c"]], "bytes", "are the lists of equal length"),
            ([[1], [2, 3]], "float32", "^x: cannot make an array of this list: "),
            ([None], "float32", "^x: got an element of type NoneType, want bytes or str$"),
            (
                np.array(["2020-01-01"], "M8[D]"),
                None,
                r"^x: got dtype datetime64\[D\], want one of",
            ),
        ],
    )
    def test_a_value_that_does_not_fit_is_named(
        self, value: object, dtype: str | None, complaint: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=complaint):
            to_array("x", value, dtype)


class TestTensorProtos:
    @pytest.mark.parametrize("dtype", sorted(set(DATA_TYPES) - {"bytes", "bfloat16"}))
    @pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 2)], ids=str)
    def test_arrays_come_back_as_they_went(self, dtype: str, shape: tuple[int, ...]) -> None:
        sent = np.arange(np.prod(shape), dtype=np.int64).astype(dtype).reshape(shape)
        message = as_message(sent)
        assert message.dtype == DATA_TYPES[dtype]
        assert tuple(dim.size for dim in message.tensor_shape.dim) == shape
        found = decoded(encoded(sent))
        assert (found.dtype, found.shape) == (sent.dtype, shape)
        assert found.tobytes() == sent.tobytes()
        assert found.flags.writeable
        assert found.flags.aligned

    @pytest.mark.parametrize(
        "sent",
        [np.arange(6).reshape(2, 3).T, np.arange(10)[::-3], np.arange(4, dtype=">i8")],
        ids=["transposed", "strided", "big-endian"],
    )
    def test_the_layout_in_memory_does_not_matter(self, sent: np.ndarray) -> None:
        found = decoded(encoded(sent))
        assert found.dtype == np.dtype("<i8")
        assert found.tolist() == sent.tolist()

    def test_strings_come_back_as_bytes(self) -> None:
        sent = np.array([[b"", b"a\0"], [b"\xff" * 300, b"x"]], object)
        assert decoded(encoded(sent)).tolist() == sent.tolist()

    @pytest.mark.parametrize(
        ("field", "dtype", "values", "wanted"),
        [
            ("float_val", 1, [1.5, 2], np.float32([1.5, 2])),
            ("double_val", 2, [1.5, 2], np.float64([1.5, 2])),
            ("int_val", 5, [-3, 2], np.int16([-3, 2])),
            ("int_val", 4, [255, 2], np.uint8([255, 2])),
            ("int64_val", 9, [-1, 2**62], np.int64([-1, 2**62])),
            ("bool_val", 10, [True, False], np.array([True, False])),
            ("scomplex_val", 8, [1, 2, 3, 4], np.complex64([1 + 2j, 3 + 4j])),
            ("dcomplex_val", 18, [1, 2, 3, 4], np.complex128([1 + 2j, 3 + 4j])),
            ("half_val", 19, [0x3C00, 0xC000], np.float16([1, -2])),
            ("uint64_val", 23, [2**64 - 1, 0], np.uint64([2**64 - 1, 0])),
        ],
    )
    def test_every_field_of_values_is_read(
        self, field: str, dtype: int, values: list[Any], wanted: np.ndarray
    ) -> None:
        message = message_class("tensorflow.TensorProto")(dtype=dtype, **{field: values})
        message.tensor_shape.dim.add(size=2)
        found = decoded(message)
        assert found.dtype == wanted.dtype
        assert found.tolist() == wanted.tolist()

    @pytest.mark.parametrize(("values", "wanted"), [([1.0, 2.0], [1, 2, 2]), ([], [0, 0, 0])])
    def test_the_last_value_stands_for_those_left_out(
        self, values: list[float], wanted: list[float]
    ) -> None:
        message = message_class("tensorflow.TensorProto")(dtype=1, float_val=values)
        message.tensor_shape.dim.add(size=3)
        assert decoded(message).tolist() == wanted

    def test_strings_in_the_content_are_read(self) -> None:
        message = message_class("tensorflow.TensorProto")(dtype=7, tensor_content=b"\x01\x02abb")
        message.tensor_shape.dim.add(size=2)
        assert decoded(message).tolist() == [b"a", b"bb"]

    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            (b"\x08\x01\x12\x04\x12\x02\x08\x02\x22\x01a", r"got 1 bytes for float32 \[2\]"),
            (b"\x08\x14", "data type 20"),
            (b"\x08\x01\x12\x02\x18\x01", "unknown rank"),
            (b"\x08\x01\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01", "size that is not known"),
            (
                b"\x08\x01\x12\x0e" + (b"\x12\x05\x08" + b"\xff\xff\xff\x7f") * 2,
                "NumPy cannot hold",
            ),
            (b"\x22\x7f", "ends within a field"),
            (b"\x80", "ends within a number"),
            (b"\x80" * 11, "more than ten bytes"),
            (b"\x0b", "wire type 3"),
            (b"\x08\x07\x12\x04\x12\x02\x08\x01\x22\x02\x05a", "other lengths"),
        ],
    )
    def test_messages_that_are_no_tensor_are_refused(self, data: bytes, complaint: str) -> None:
        with pytest.raises(BackendError, match=complaint):
            decoded(data)
