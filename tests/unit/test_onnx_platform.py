"""The options of ONNX models, and the file that is the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from servable._server.config.kind_options import parse_options
from servable.errors import ConfigError
from servable.loaders._onnx import OnnxOptions
from servable.platforms.onnx import model_file


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"intra_op_threads": "-1"}, 'option "intra_op_threads": got -1, want 0 to 1024'),
        (
            {"intra_op_threads": "many"},
            'option "intra_op_threads": got "many", want a whole number',
        ),
        ({"providers": ""}, 'option "providers": got none, want at least one, such as cpu'),
        ({"providers": "cpu,tpu"}, 'option "providers": got "tpu", want cpu, cuda or cuda:1'),
        ({"providers": "cuda:x"}, 'option "providers": got "cuda:x", want cpu, cuda or cuda:1'),
        (
            {"gpu_memory_limit_bytes": "-5"},
            'option "gpu_memory_limit_bytes": got -5, want a number of bytes',
        ),
        (
            {"graph_optimization": "most"},
            'option "graph_optimization": got "most", want one of none, basic, extended, all',
        ),
    ],
)
def test_an_option_with_an_invalid_value_says_what_was_wanted(
    texts: Mapping[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_options(OnnxOptions, texts)
    assert raised.value.message == message


def test_options_are_read_from_texts() -> None:
    options = parse_options(OnnxOptions, {"providers": "cuda:1, cpu", "memory_arena": "false"})
    assert options == OnnxOptions(providers=("cuda:1", "cpu"), memory_arena=False)


@pytest.mark.parametrize(
    ("files", "model"),
    [
        (["model.onnx", "encoder.onnx"], "model.onnx"),
        (["iris.onnx", "iris.onnx.data", "servable.json"], "iris.onnx"),
        (["encoder.onnx", "decoder.onnx"], None),
        (["parts/model.onnx"], None),
        (["model.onnx.data"], None),
        ([], None),
    ],
)
def test_the_model_is_model_onnx_or_the_only_one(files: Sequence[str], model: str | None) -> None:
    assert model_file(files) == model
