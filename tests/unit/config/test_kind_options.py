"""Options of a kind of servable, in the configuration of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from servable._server.config.kind_options import NoOptions, parse_options
from servable._server.config.model_messages import models_message
from servable._server.config.models import (
    ConfigRules,
    ModelConfigError,
    parse_reload_config,
    read_model_config_file,
)
from servable.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Threads:
    """Options of every type."""

    number: int = 1
    share: float = 0.5
    pinned: bool = False
    name: str = "pool"
    devices: tuple[str, ...] = ("cpu",)

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f'option "number": got {self.number}, want 1 or more')


RULES = ConfigRules(("onnx", "plain"), option_types={"onnx": Threads})


def config_file(directory: Path, platform: str, options: str) -> str:
    file = directory / "models.config"
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "{platform}" '
        f"servable_options {{ {options} }} }} }}"
    )
    return str(file)


def test_options_of_every_type_are_read() -> None:
    texts = {"number": "3", "share": "0.25", "pinned": "true", "name": "x", "devices": "gpu, cpu"}
    assert parse_options(Threads, texts) == Threads(3, 0.25, True, "x", ("gpu", "cpu"))
    assert parse_options(Threads, {}) == Threads()


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (
            {"numbers": "3"},
            'got option "numbers", want one of devices, name, number, pinned, share',
        ),
        ({"number": "three"}, 'option "number": got "three", want a whole number'),
        ({"number": "1.5"}, 'option "number": got "1.5", want a whole number'),
        ({"share": "half"}, 'option "share": got "half", want a number'),
        ({"pinned": "yes"}, 'option "pinned": got "yes", want true or false'),
        ({"number": "0"}, 'option "number": got 0, want 1 or more'),
    ],
)
def test_wrong_options_are_refused(texts: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_options(Threads, texts)
    assert error.value.message == complaint


def test_a_kind_without_options_takes_none() -> None:
    with pytest.raises(ConfigError, match='got option "x", its kind has no options'):
        parse_options(NoOptions, {"x": "1"})


def test_options_travel_from_the_file_into_messages_and_back(tmp_path: Path) -> None:
    text = 'options { key: "number" value: "2" } options { key: "pinned" value: "true" }'
    models = read_model_config_file(config_file(tmp_path, "onnx", text), RULES)
    assert models is not None
    assert models[0].options == MappingProxyType({"number": "2", "pinned": "true"})
    assert parse_reload_config(models_message(models).SerializeToString()) == models


@pytest.mark.parametrize("platform", ["onnx", "plain"])
def test_wrong_options_are_refused_when_a_file_is_read(
    tmp_path: Path, platform: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, platform, 'options { key: "wrong" value: "2" }')
    with pytest.raises(ModelConfigError, match='Model m: got option "wrong"') as error:
        read_model_config_file(file, RULES)
    assert error.value.index == 0
    assert f"{file}:1: Model m: got option" in capsys.readouterr().err
