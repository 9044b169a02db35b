"""`servable check`: the models that would be served, and errors, without serving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from servable._server.commands import check
from support.server_process import model_config


class Checked:
    """Runs the command in this process, and parses its output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str]:
        status = check.run("servable", [str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert captured.err == ""
        return status, captured.out

    def findings(self, *arguments: object) -> list[tuple[str, str, int | None, str]]:
        """Severity, place, line and message of each finding."""
        status, text = self("--json", *arguments)
        document: Any = json.loads(text)
        assert status == (0 if document["is_good"] else 1)
        return [
            (found["severity"], Path(found["place"]).name, found["line"], found["message"])
            for found in document["findings"]
        ]


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Checked:
    monkeypatch.delenv("MODEL_NAME", raising=False)
    monkeypatch.delenv("MODEL_BASE_PATH", raising=False)
    return Checked(capsys)


def test_it_lists_the_versions_that_would_be_served(
    checked: Checked, demo_models: Path, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        model_config(
            {"half": demo_models / "half_plus_two"},
            "version_labels { key: 'stable' value: 1 } model_version_policy { all {} }",
        )
    )
    status, text = checked(config, "--allow_version_labels_for_unavailable_models")
    assert status == 0
    assert text.startswith(f"half: tensorflow model in {demo_models / 'half_plus_two'}\n")
    assert "  version 1 (stable)\n" in text
    assert "    serving_default (predict): x: float32 [?, 1] -> y: float32 [?, 1]\n" in text or (
        "    serving_default (predict): x: float32 [?] -> y: float32 [?]\n" in text
    )
    assert text.endswith("\n0 errors, 0 warnings\n")


def test_every_finding_has_its_file_line_and_reason(
    checked: Checked, demo_models: Path, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {\n"
        f"  config {{ name: 'a' base_path: '{demo_models / 'half_plus_two'}'\n"
        "           model_platform: 'tensorflow' version_labels { key: 'new' value: 9 } }\n"
        "  config { name: 'b' base_path: '/nowhere' model_platform: 'tensorflow' }\n"
        "}\n"
    )
    label = "Label new of model a names version 9, which "
    (late, absent, path) = checked.findings(config)
    assert late[:3] == ("error", "models.config", 2)
    assert late[3].startswith(f"{label}is not available yet when the server starts")
    assert absent == ("warning", "models.config", 2, f"{label}would not be served")
    assert path[:3] == ("error", "models.config", 4)
    assert "Could not find base path /nowhere for servable b" in path[3]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("model_config_list {\n config { nme: 'm' } }", 2, 'has no field named "nme"'),
        ("prometheus_config {\n enable: yes\n}", 2, "yes"),
        ("prometheus_config { path: '/metrics' }", None, "there is no metrics page"),
        (
            "max_batch_size { value: 8 }\nallowed_batch_sizes: [2, 4]",
            None,
            "must match max_batch_size; last entry was 4; expected 8",
        ),
        ("num_batch_threads { value: 0 }", None, "num_batch_threads must be positive; was 0"),
        ("server_key: 1", 1, "Expected string"),
        ("platform_configs { key: 'tensorflow' }", None, "type_url could not be parsed"),
        ("allow_soft_placement: maybe", 1, "maybe"),
        ("thread_pool_factory_config {}", None, "type_url could not be parsed"),
        ("", None, "The file is empty"),
        (
            "model_config_list { config { name: 'm' base_path: 'm' model_platform: 'tensorflow' } }",
            1,
            "m for servable m with error NOT_FOUND",
        ),
    ],
)
def test_files_are_recognised_by_their_content(
    checked: Checked, tmp_path: Path, text: str, line: int | None, reason: str
) -> None:
    file = tmp_path / "some.config"
    file.write_text(text)
    (finding,) = [found for found in checked.findings(file) if found[0] == "error"]
    assert reason in finding[3]
    assert finding[2] == line


def test_flags_are_those_of_a_server(checked: Checked, demo_models: Path) -> None:
    found = checked.findings(
        f"--model_base_path={demo_models / 'turtle3'}", "--grpc_max_threads=1000", "--port=0",
        "--rest_api_port=0", "--grpc_socket_path=/nowhere/socket",
    )  # fmt: skip
    assert [(severity, text.partition(":")[0]) for severity, _, _, text in found] == [
        ("warning", "--grpc_max_threads has no effect"),
        ("error", "Failed to BuildAndStart gRPC server"),
    ]
    (unknown,) = checked.findings("--prot=1")
    assert unknown == ("error", "", None, "unknown argument: --prot=1; did you mean --port?")
    (found_error,) = checked.findings("--port=many")
    assert found_error == ("error", "", None, "Couldn't interpret value many for flag port.")
    (found_error,) = checked.findings("--port=1")
    assert "are empty!" in found_error[3]
    (found_error,) = checked.findings("/nowhere/file")
    assert found_error[3] == "There is no such file"


def test_a_monitoring_file_is_checked_as_a_server_would_read_it(
    checked: Checked, demo_models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "monitoring.config"
    served = f"--model_base_path={demo_models / 'turtle3'}"
    monitored = f"--monitoring_config_file={file}"
    (missing,) = checked.findings(served, monitored)
    assert missing[:2] == ("error", "monitoring.config")
    assert "It cannot be read" in missing[3]
    file.write_text("prometheus_config {\n  enabled: true }")
    (unknown,) = checked.findings(served, monitored)
    assert unknown[:3] == ("error", "monitoring.config", 2)
    assert 'has no field named "enabled"' in unknown[3]
    file.write_text("prometheus_config { enable: true path: 'metrics' }")
    (unreachable,) = checked.findings(served, monitored)
    assert unreachable[0] == "warning"
    assert "its path does not begin with a slash: metrics" in unreachable[3]
    file.write_text("prometheus_config { enable: true }")
    assert checked.findings(served, monitored) == []


def test_missing_files_of_a_model_are_reported(
    checked: Checked, demo_models: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_models / "turtle3/1", model / "1")
    shutil.copytree(demo_models / "turtle3/1", model / "2")
    (model / "2/variables/variables.index").unlink()
    (severity, place, _, text) = checked.findings(model)[0]
    assert (severity, place) == ("error", "2")
    assert text.startswith("Files are missing: ")
    (model / "2/saved_model.pb").write_bytes(b"\xff" * 20)
    shutil.copy(model / "1/variables/variables.index", model / "2/variables")
    assert checked.findings(model)[0][3].startswith("saved_model.pb is damaged")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert any("it contains nothing" in found[3] for found in checked.findings(empty))


def test_versions_are_loaded_on_request(
    checked: Checked, demo_models: Path, runtime_models: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(runtime_models / "failing", broken)
    graph = broken / "1/saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"GatherV2", b"OwnOp_09"))
    assert checked.findings(broken) == []
    assert checked.findings("--load", demo_models / "half_plus_two") == []
    (found,) = checked.findings("--load", broken)
    assert found[0] == "error"
    assert "Op type not registered 'OwnOp_09'" in found[3]


def test_models_in_python_are_imported(checked: Checked) -> None:
    models = Path(__file__).parents[1] / "testdata/python_models"
    status, text = checked(models / "echo")
    assert status == 0
    assert "echo: python model in" in text
    assert "(predict): " in text


def test_help_is_printed(checked: Checked) -> None:
    status, text = checked("--help")
    assert status == 0
    assert text.startswith("usage: servable check [PATH ...]")


def test_code_that_a_server_would_not_run_is_an_error_and_is_not_run(
    checked: Checked, tmp_path: Path
) -> None:
    version = tmp_path / "m/1"
    version.mkdir(parents=True)
    mark = tmp_path / "mark"
    (version / "model.py").write_text(f"open({str(mark)!r}, 'w')")
    (version / "model.py").chmod(0o666)
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {\n"
        f"  config {{ name: 'm' base_path: '{tmp_path / 'm'}' model_platform: 'python' }}\n"
        "  config { name: 'r' base_path: 's3://bucket/r' model_platform: 'python' }\n"
        "}\n"
    )
    for argument in (config, tmp_path / "m"):
        found = [
            message for severity, *_, message in checked.findings(argument) if severity == "error"
        ]
        assert "may be written by others" in found[0]
        assert len(found) == (2 if argument == config else 1)
    assert "Python code in the remote store" in checked.findings(config)[1][3]
    config.chmod(0o666)
    found = [message for severity, *_, message in checked.findings(config) if severity == "error"]
    assert "which is no base path of a Python model" in found[0]
    assert not mark.exists()
