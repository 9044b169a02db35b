from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servable._server.config import models as config_models
from servable._server.config.models import (
    ConfigRules,
    ModelConfig,
    parse_reload_config,
    read_model_config_file,
    validate_models,
)
from servable._server.config.text_proto import new_message
from servable.errors import Code, ConfigError
from servable.sources import All, Latest, Specific


def read(tmp_path: Path, text: str) -> tuple[ModelConfig, ...] | None:
    file = tmp_path / "models.config"
    file.write_text(text)
    return read_model_config_file(str(file))


def one(tmp_path: Path, body: str) -> ModelConfig:
    models = read(tmp_path, f"model_config_list {{ config {{ {body} }} }}")
    assert models is not None
    (model,) = models
    return model


ENTRY = 'name: "m" base_path: "/m" model_platform: "tensorflow" '


def test_a_whole_file(tmp_path: Path) -> None:
    models = read(
        tmp_path,
        """
        # two models
        model_config_list: {
          config: { name: "a", base_path: "/a", model_platform: "tensorflow" },
          config {
            name: 'b' base_path: '/b' model_type: TENSORFLOW
            model_version_policy { specific { versions: [7, 9] } }
            version_labels { key: "live" value: 7 }
            version_labels { key: "trial" value: 9 }
          }
        }
        """,
    )
    assert models == (
        ModelConfig("a", "/a"),
        ModelConfig(
            "b",
            "/b",
            version_policy=Specific((7, 9)),
            labels={"live": 7, "trial": 9},
        ),
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", Latest(1)),
        ("model_version_policy { }", Latest(1)),
        ("model_version_policy { latest { } }", Latest(0)),
        ("model_version_policy { latest { num_versions: 3 } }", Latest(3)),
        ("model_version_policy { all { } }", All()),
        ("model_version_policy { specific { } }", Specific(())),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, expected: object) -> None:
    assert one(tmp_path, ENTRY + policy).version_policy == expected


@pytest.mark.parametrize(("text", "expected"), [("# empty", None), ("model_config_list {}", ())])
def test_no_list_and_an_empty_one_differ(tmp_path: Path, text: str, expected: object) -> None:
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'name: "m" base_path: "/m"',
            (
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform, model name is m"
            ),
        ),
        (
            ENTRY + "model_type: TENSORFLOW",
            (
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                "ModelServerConfig::model_platform, model name is m"
            ),
        ),
        (
            'name: "m" base_path: "/m" model_type: OTHER',
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (ENTRY + "logging_config { }", "No request-logger-creator provided."),
    ],
)
def test_invalid_model_configurations_are_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ConfigError) as info:
        one(tmp_path, body)
    assert (info.value.message, info.value.code) == (message, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("model_config_list {\n  config { nme: 'm' }\n}", "2:12: "),
        ("model_config_list {\n  config { name: 1 }\n}", "2:"),
        ("model_config_list { config { name: 'a' name: 'b' } }", "1:"),
        ("model_config_list {", "1:"),
        ("model_config_list {} custom_model_config {}", "1:"),
    ],
)
def test_a_broken_file_is_named_and_the_place_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, place: str
) -> None:
    with pytest.raises(ConfigError) as info:
        read(tmp_path, text)
    assert info.value.message == f"Invalid protobuf file: '{tmp_path / 'models.config'}'"
    assert info.value.code is Code.INVALID_ARGUMENT
    stderr = capsys.readouterr().err
    assert stderr.startswith(
        f"Error parsing text-format tensorflow.serving.ModelServerConfig: {place}"
    )


def test_an_empty_file_and_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Invalid protobuf file"):
        read(tmp_path, "")
    with pytest.raises(ConfigError) as info:
        read_model_config_file(str(tmp_path / "missing"))
    assert info.value.code is Code.NOT_FOUND


def test_a_custom_model_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not yet support custom model config"):
        read(tmp_path, "custom_model_config {}")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([("a", "/a"), ("a", "/b")], "Illegal to list model a multiple times in config list"),
        (
            [("a", "relative/path")],
            "Expected model a to have an absolute path or URI; got base_path()=relative/path",
        ),
        ([("a", "")], "Expected model a to have an absolute path or URI; got base_path()="),
    ],
)
def test_validation(models: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError) as info:
        validate_models([ModelConfig(name, path) for name, path in models])
    assert info.value.message == message


def test_the_number_of_models_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_models, "MAX_MODELS", 2)
    listed = [ModelConfig(name, "/m") for name in "abc"]
    validate_models(listed[:2])
    with pytest.raises(ConfigError) as info:
        validate_models(listed)
    assert info.value.message == "The configuration has 3 models; a server takes 2 at most"
    entries = "".join(
        f'config {{ name: "{name}" base_path: "/m" model_platform: "tensorflow" }}\n'
        for name in "abc"
    )
    with pytest.raises(ConfigError, match="has 3 models; a server takes 2 at most"):
        read(tmp_path, f"model_config_list {{ {entries} }}")


def test_uris_empty_names_and_no_models_are_valid() -> None:
    validate_models([ModelConfig("", "/a"), ModelConfig("b", "gs://bucket/b")])
    validate_models([])


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(ConfigError, match="Model a requests unsupported platform torch"):
        validate_models([ModelConfig("a", "/a", "torch")], rules=ConfigRules(("tensorflow",)))


def test_a_platform_may_not_change_under_a_name() -> None:
    old, new = [ModelConfig("a", "/a")], [ModelConfig("a", "/a", "other")]
    validate_models(old, old)
    validate_models(old, [])
    with pytest.raises(ConfigError) as info:
        validate_models(new, old)
    assert info.value.message == (
        "Illegal to change a model's platform. For model a platform was tensorflow and new "
        "platform requested is other"
    )


def test_a_reload_takes_a_serialized_list() -> None:
    message: Any = new_message("tensorflow.serving.ModelServerConfig")
    entry = message.model_config_list.config.add()
    entry.name, entry.base_path, entry.model_platform = "m", "/m", "tensorflow"
    assert parse_reload_config(message.SerializeToString()) == (ModelConfig("m", "/m"),)
    assert parse_reload_config(b"\x0a\x00") == ()


@pytest.mark.parametrize("data", [b"", b"\x12\x00"])
def test_a_reload_takes_nothing_but_a_list(data: bytes) -> None:
    with pytest.raises(ConfigError, match="Only ModelConfigList is currently supported") as info:
        parse_reload_config(data)
    assert info.value.code is Code.INVALID_ARGUMENT


def test_damaged_bytes_are_refused() -> None:
    with pytest.raises(ConfigError) as info:
        parse_reload_config(b"\xff")
    assert info.value.code is Code.INTERNAL
