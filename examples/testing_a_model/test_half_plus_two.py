"""Tests of a model and of a program that calls it, on a server that the tests start.

Run it with `pytest examples/testing_a_model`; `conftest.py` beside it names the plugin.
"""

import numpy as np
import pytest

from servable.errors import InvalidInputError
from servable.signature import TensorSpec, serves


@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def half_plus_two(inputs):
    if np.isnan(inputs["x"]).any():
        raise InvalidInputError("x is not a number")
    return {"y": inputs["x"] * 0.5 + 2}


def best(client, candidates):
    """The program under test: it asks a model which candidate is best."""
    return candidates[int(np.argmax(client.predict("model", candidates)))]


def test_the_model_answers(servable_server):
    served = servable_server(half_plus_two)
    assert served.model.predict([1.0, 2.0]).value.tolist() == [2.5, 3.0]
    with pytest.raises(InvalidInputError, match="x is not a number"):
        served.model.predict([float("nan")])


def test_the_program_asks_the_model(servable_server):
    served = servable_server(half_plus_two)
    assert best(served.client, [3.0, 7.0, 5.0]) == 7.0
