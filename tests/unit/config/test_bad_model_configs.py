"""A bad configuration file is refused with file, line and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from servable._server.config.models import (
    ConfigRules,
    ModelConfig,
    models_by_path,
    read_model_config_file,
    validate_models,
)
from servable._server.config.text_proto import message_lines
from servable.errors import ConfigError

GOOD = '  config { name: "good" base_path: "/good" model_platform: "tensorflow" }'


def file_with(bad: str) -> str:
    """A file whose fifth line begins the bad entry."""
    return f"# config {{\nmodel_config_list {{\n{GOOD}\n\n{bad}\n}}\n"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            'config { name: "good" base_path: "/b" model_platform: "tensorflow" }',
            "Illegal to list model good multiple times in config list",
        ),
        (
            'config {\n name: "b" base_path: "models/b" model_platform: "tensorflow" }',
            "Expected model b to have an absolute path or URI; got base_path()=models/b",
        ),
        (
            'config { name: "b{" base_path: "/b" model_platform: "torch" }',
            "Model b{ requests unsupported platform torch",
        ),
        (
            "config: <name: 'b' base_path: '/b' logging_config {} model_platform: 'tensorflow'>",
            "No request-logger-creator provided.",
        ),
        (
            'config { name: "b" base_path: "/b" }',
            (
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform, model name is b"
            ),
        ),
    ],
)
def test_a_model_that_cannot_be_served_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, reason: str
) -> None:
    path = tmp_path / "models.config"
    path.write_text(file_with(bad))
    with pytest.raises(ConfigError) as info:
        read_model_config_file(str(path), ConfigRules(("tensorflow", "python")))
    assert info.value.message == reason
    assert capsys.readouterr().err == f"{path}:5: {reason}\n"


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ('config { name: "b" base_path: }', "5:"),
        (
            (
                'config { name: "b"\n base_path: "/b" model_platform: "tensorflow"\n'
                "  model_version_policy { newest {} } }"
            ),
            (
                '7:26: Message type "tensorflow.serving.FileSystemStoragePathSourceConfig.'
                'ServableVersionPolicy" has no field named "newest"'
            ),
        ),
    ],
)
def test_syntax_errors_are_reported_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, place: str
) -> None:
    path = tmp_path / "models.config"
    path.write_text(file_with(bad))
    with pytest.raises(ConfigError, match="Invalid protobuf file"):
        read_model_config_file(str(path))
    stderr = capsys.readouterr().err
    assert stderr.startswith(
        f"Error parsing text-format tensorflow.serving.ModelServerConfig: {place}"
    )
    assert stderr.endswith(f" (in {path})\n")


def test_lines_are_counted_through_strings_comments_and_lists() -> None:
    text = """a { # a { b
      b { s: "b { \\" } }" 'two
lines' } b: { c < x: 1 > }
    }
    b { }
    a: [
      { b { } },
      { b [ { },
            { } ] }
    ]
    """
    assert message_lines(text, "a") == [1, 7, 8]
    assert message_lines(text, "a", "b") == [2, 3, 7, 8, 9]
    assert message_lines(text, "b") == [5]


def test_models_may_share_a_base_path_as_in_the_recordings_of_tensorflow_serving() -> None:
    """They serve `half_plus_two` under five names with one policy, so refusing that would break deployments."""
    validate_models([ModelConfig("half_plus_two", "/x"), ModelConfig("123", "/x")])


def test_models_that_share_a_base_path_are_refused_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = 'config {\n name: "b" base_path: "/good/" model_platform: "tensorflow" }'
    path = tmp_path / "models.config"
    path.write_text(file_with(bad))
    reason = "Models good, b share the base path /good, and need one each"
    with pytest.raises(ConfigError, match=reason):
        read_model_config_file(str(path), ConfigRules(refuse_shared_base_paths=True))
    line = (
        path.read_text()
        .splitlines()
        .index(' name: "b" base_path: "/good/" model_platform: "tensorflow" }')
    )
    assert capsys.readouterr().err == f"{path}:{line}: {reason}\n"
    assert read_model_config_file(str(path)) is not None


def test_models_that_share_a_base_path_are_found() -> None:
    models = [ModelConfig("a", "/x"), ModelConfig("b", "/y"), ModelConfig("c", "/x/")]
    assert models_by_path(models) == {"/x": ["a", "c"]}
