"""Arrays of every dtype and shape come back from a model that returns its inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from servable.client import Client
from servable.signature import DATA_TYPES
from support.server_process import ServerProcess

ml_dtypes = pytest.importorskip("ml_dtypes")  # comes with TensorFlow

ONLY_GRPC = {"float16", "bfloat16", "uint16", "complex64", "complex128"}
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)


def elements(name: str) -> st.SearchStrategy[np.ndarray]:
    """Arrays of one dtype, in any memory layout."""
    if name == "bytes":
        return SHAPES.flatmap(
            lambda shape: st.lists(
                st.binary(max_size=20), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
            ).map(lambda values: as_objects(values, shape))
        )
    if name == "bfloat16":
        return arrays_of.arrays(np.uint16, SHAPES).map(lambda a: a.view(ml_dtypes.bfloat16))
    layouts = st.sampled_from([np.asarray, np.asfortranarray, np.flip])
    return st.builds(lambda array, lay: lay(array), arrays_of.arrays(name, SHAPES), layouts)


def as_objects(values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


@st.composite
def tensors(draw: st.DrawFn, names: list[str]) -> tuple[str, np.ndarray]:
    name = draw(st.sampled_from(names))
    return name, draw(elements(name))


@pytest.fixture(scope="module")
def clients(python_server: ServerProcess) -> Iterator[dict[str, Client]]:
    with (
        Client(f"127.0.0.1:{python_server.port}") as grpc,
        Client(f"http://127.0.0.1:{python_server.rest_port}") as rest,
    ):
        yield {"grpc": grpc, "rest": rest}


def assert_same(found: np.ndarray, sent: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
    if sent.dtype == object:
        assert found.tolist() == sent.tolist()
    else:
        assert found.tobytes() == sent.tobytes()


@EXAMPLES
@given(tensor=tensors(sorted(DATA_TYPES)))
def test_over_grpc_to_the_bit(clients: dict[str, Client], tensor: tuple[str, np.ndarray]) -> None:
    name, sent = tensor
    assert_same(clients["grpc"].predict("echo", {"x": sent}, signature=name)["y"], sent)


@EXAMPLES
@given(tensor=tensors(sorted(set(DATA_TYPES) - ONLY_GRPC)))
def test_over_rest_by_value(clients: dict[str, Client], tensor: tuple[str, np.ndarray]) -> None:
    name, sent = tensor
    if 0 in sent.shape[:-1]:
        sent = sent.reshape(-1)  # JSON cannot distinguish a matrix without rows from a list
    if sent.dtype.kind == "f":
        # As in TensorFlow Serving, numbers too small for full precision become zero.
        sent = np.where(
            np.abs(sent) < np.finfo(sent.dtype).smallest_normal, np.copysign(0, sent), sent
        )
    found = clients["rest"].predict("echo", {"x": sent}, signature=name)["y"]
    if sent.dtype.kind == "f":
        # Neither rounds float64 to the nearest number in every case.
        assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
        np.testing.assert_allclose(found, sent, rtol=1e-15 if name == "float64" else 0)
    else:
        assert_same(found, sent)
