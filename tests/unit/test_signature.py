from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from servable.signature import DATA_TYPES, Signature, TensorSpec, declared_signature, serves


def test_a_spec_has_one_form_and_the_number_of_its_dtype() -> None:
    assert TensorSpec("string", [None, 3]) == TensorSpec("bytes", (None, 3))
    assert TensorSpec("float32").shape is None
    assert TensorSpec("bfloat16", []).data_type == 14
    assert sorted(DATA_TYPES.values()) == [*range(1, 11), 14, 17, 18, 19, 22, 23]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        *((np.dtype(name), name) for name in DATA_TYPES if name not in ("bytes", "bfloat16")),
        *((np.dtype(name).type, name) for name in DATA_TYPES if name not in ("bytes", "bfloat16")),
        *((dtype, "bytes") for dtype in (str, bytes, object, "U5", np.bytes_, np.dtype(object))),
        (float, "float64"),
        (int, "int64"),
        (bool, "bool"),
        ("half", "float16"),
        ("<f4", "float32"),
        (">f4", "float32"),
        (np.longlong, "int64"),
    ],
    ids=repr,
)
def test_a_dtype_is_what_numpy_takes_for_one(dtype: object, name: str) -> None:
    spec = TensorSpec(dtype, [None])
    assert spec == TensorSpec(name, (None,))
    assert spec.data_type == DATA_TYPES[name]
    assert replace(spec, shape=None) == TensorSpec(name)


@pytest.mark.parametrize(
    ("dtype", "shape", "complaint"),
    [
        ("floating", None, "got dtype 'floating', want one of float32, "),
        (np.longdouble, None, "got dtype <class 'numpy.longdouble'>, want one of float32, "),
        ("datetime64[s]", None, "want one of float32, "),
        (None, None, "got dtype None, want one of float32, "),
        (3, None, "got dtype 3, want one of float32, "),
        ("float32", [-1], r"got shape \(-1,\), want sizes from 0, or None where free"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(
    dtype: object, shape: list[int] | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        TensorSpec(dtype, shape)


def test_a_signature_keeps_what_it_was_made_of_and_needs_an_output() -> None:
    outputs = {"y": TensorSpec("int8")}
    signature = Signature({}, outputs)
    outputs.clear()
    assert signature.outputs == {"y": TensorSpec("int8")}
    assert pickle.loads(pickle.dumps(signature)) == signature
    with pytest.raises(ValueError, match="needs an output"):
        Signature({}, {})


def test_serves_declares_a_function_and_leaves_it_as_it_is() -> None:
    outputs = {"y": TensorSpec("int8")}

    @serves(inputs={}, outputs=outputs, name="other")
    def function(inputs: object) -> object:
        return inputs

    assert function("same") == "same"
    assert declared_signature(function) == ("other", Signature({}, outputs))
    assert declared_signature(lambda: 0) is None
