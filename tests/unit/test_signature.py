from __future__ import annotations

import pickle

import pytest

from servable.signature import DATA_TYPES, Signature, TensorSpec, declared_signature, serves


def test_a_spec_has_one_form_and_the_number_of_its_dtype() -> None:
    assert TensorSpec("string", [None, 3]) == TensorSpec("bytes", (None, 3))
    assert TensorSpec("float32").shape is None
    assert TensorSpec("bfloat16", []).data_type == 14
    assert sorted(DATA_TYPES.values()) == [*range(1, 11), 14, 17, 18, 19, 22, 23]


@pytest.mark.parametrize(
    ("dtype", "shape", "complaint"),
    [
        ("float", None, "got dtype 'float', want one of float32, "),
        ("float32", [-1], r"got shape \(-1,\), want sizes from 0, or None where free"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(
    dtype: str, shape: list[int] | None, complaint: str
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
