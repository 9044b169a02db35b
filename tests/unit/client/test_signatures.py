"""The readable forms of signatures and predictions."""

from __future__ import annotations

import numpy as np
import pytest

from servable.client import ModelMetadata, ModelSignature, Prediction, TensorInfo
from servable.errors import FailedPreconditionError, InvalidInputError

SIGNATURE = ModelSignature(
    {"x": TensorInfo("float32", (None, 3)), "<k>": TensorInfo("int32", ())},
    {"y": TensorInfo("bytes", None)},
    "tensorflow/serving/predict",
    frozenset({"<k>"}),
)
METADATA = ModelMetadata(
    "m", 3, {"serving_default": SIGNATURE, "__saved_model_init_op": ModelSignature({}, {})}
)


def test_metadata_is_readable_as_text() -> None:
    assert repr(METADATA) == (
        "m/3\n  serving_default: <k>: int32 [], x: float32 [?, 3] → y: bytes (any shape)"
    )


def test_metadata_is_a_table_in_a_notebook() -> None:
    page = METADATA._repr_html_()
    assert "<td>&lt;k&gt;</td><td>int32 []</td>" in page
    assert "input (optional)" in page
    assert page.count("<tr>") == 1 + 3
    assert "__saved_model_init_op" not in page


def test_a_signature_that_is_not_there_is_named() -> None:
    with pytest.raises(FailedPreconditionError, match='asked for "x", there is "serving_default"'):
        METADATA.signature("x")


def test_inputs_with_a_default_may_be_left_out() -> None:
    assert SIGNATURE.only_input("m") == "x"
    SIGNATURE.check_input_names("m", ["x"], all_wanted=False)
    with pytest.raises(InvalidInputError):
        SIGNATURE.check_input_names("m", ["x"], all_wanted=True)


def test_a_prediction_with_one_output_can_stand_for_it() -> None:
    prediction = Prediction("m", 3, {"y": np.float32([1, 2])})
    assert np.asarray(prediction).tolist() == [1, 2]
    assert np.asarray(prediction, np.int32).dtype == np.int32
    assert dict(prediction) == {"y": prediction.value}
    assert repr(prediction) == "Prediction(m/3: {'y': array([1., 2.], dtype=float32)})"
    assert "<pre>[1. 2.]</pre>" in prediction._repr_html_()


def test_a_prediction_with_several_outputs_cannot() -> None:
    with pytest.raises(InvalidInputError, match="asked for the only one of a, b"):
        _ = Prediction("m", None, {"a": np.zeros(1), "b": np.zeros(1)}).value
