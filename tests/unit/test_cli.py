from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import servable
from servable import cli
from servable._server.config.flags import Flags
from servable._server.telemetry import TensorFlowFormatter, configure_logging
from servable.errors import ConfigError


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger, restored after the test."""
    logger = logging.getLogger("servable")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    yield logger
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_the_version_is_one_line_with_the_commit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["servable", "--version", "--unknown"]) == 0
    version = re.escape(servable.__version__)
    commit, tensorflow = r"( \([0-9a-f]{10}\))?", r"(TensorFlow \d+\.\d+\.\d+|without TensorFlow)"
    captured = capsys.readouterr()
    assert re.fullmatch(f"servable {version}{commit}, {tensorflow}\n", captured.out)


def test_the_version_of_tensorflow_serving_has_its_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["tensorflow_model_server", "--version", "--unknown"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"TensorFlow ModelServer: {servable.__version__}"
    assert second.startswith("TensorFlow Library: ")


def test_without_arguments_it_lists_the_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_NAME", raising=False)
    monkeypatch.delenv("MODEL_BASE_PATH", raising=False)
    assert cli.run(["servable"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 11
    for command in (
        "PATH ...",
        "--model_base_path=",
        "check",
        "inspect",
        "warmup",
        "--help",
        "--version",
    ):
        assert f"  servable {command}" in captured.err
    monkeypatch.setenv("MODEL_NAME", "m")
    served: list[Flags] = []
    monkeypatch.setattr("servable._server.server.ModelServer", fake_server(served))
    assert cli.run(["servable"]) == 0
    assert served[0].model_name == "m"


def fake_server(served: list[Flags], served_paths: list[list[str]] | None = None) -> type:
    """A server that only records its arguments."""

    class FakeServer:
        def __init__(
            self, flags: Flags, *, paths: Sequence[str] = (), is_compatible: bool = True
        ) -> None:
            served.append(flags)
            if served_paths is not None:
                served_paths.append(list(paths))

        def run(self, on_open: Callable[[], None] = lambda: None) -> None:
            pass

    return FakeServer


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["--port=1", "--x", "--help"]])
def test_help_is_grouped_and_no_failure(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["/bin/servable", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("usage: servable PATH [PATH ...]")
    assert "\nWhat to serve\n" in captured.out
    assert captured.err == ""


def test_help_is_that_of_tensorflow_serving_under_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["tensorflow_model_server", "--help"]) == 255
    assert capsys.readouterr().out.startswith(
        "usage: tensorflow_model_server\nFlags:\n\t--port=8500"
    )


def test_an_invalid_value_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["servable", "--port=many"]) == 2
    assert capsys.readouterr() == (
        "",
        "Couldn't interpret value many for flag port.\n`servable --help` lists the flags\n",
    )
    assert cli.run(["tensorflow_model_server", "--port=many"]) == 255
    captured = capsys.readouterr()
    assert captured.err == "Couldn't interpret value many for flag port.\n"
    assert captured.out.startswith("usage: tensorflow_model_server\nFlags:\n")


def test_unknown_arguments_end_the_command_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[Flags] = []
    monkeypatch.setattr("servable._server.server.ModelServer", fake_server(served))
    arguments = ["--prot=1", "--port=2", "stray", "chek", str(tmp_path), "-port"]
    assert cli.run(["servable", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "unknown argument: --prot=1 (did you mean --port?)",
        "unknown argument: stray (there is no file or directory with this name)",
        "unknown argument: chek (did you mean the command check?)",
        "unknown argument: -port (did you mean --port?)",
        "`servable --help` lists the flags",
    ]
    assert served == []


def test_arguments_that_are_no_flags_are_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[Flags] = []
    paths: list[list[str]] = []
    monkeypatch.setattr("servable._server.server.ModelServer", fake_server(served, paths))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_NAME", "not_served")
    Path("iris.onnx").touch()
    assert cli.run(["servable", "iris.onnx", "--port=2", "./no", "s3://b/m", "iris.onnx"]) == 0
    assert paths == [["iris.onnx", "./no", "s3://b/m", "iris.onnx"]]
    assert served == [Flags(port=2)]
    assert cli.run(["tensorflow_model_server", "iris.onnx"]) == 0
    assert paths[1:] == [[]]


def test_unknown_arguments_do_no_harm_under_the_name_of_tensorflow_serving(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Flags] = []
    monkeypatch.setattr("servable._server.server.ModelServer", fake_server(served))
    assert cli.run(["tensorflow_model_server", "--prot=1", "--port=2", "stray"]) == 0
    assert capsys.readouterr().out.startswith(
        "unknown argument: --prot=1\nusage: tensorflow_model_server\nFlags:\n"
    )
    assert [flags.port for flags in served] == [2]


def test_paths_are_those_of_a_shell_and_only_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[Flags] = []
    monkeypatch.setattr("servable._server.server.ModelServer", fake_server(served))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for given, meant in (
        ("models/m", f"{tmp_path}/models/m"),
        ("~/m", "/home/me/m"),
        (".", str(tmp_path)),
        ("s3://b/m", "s3://b/m"),
        ("/m", "/m"),
    ):
        assert cli.run(["servable", f"--model_base_path={given}", "--api_keys_file=~/k"]) == 0
        assert (served[-1].model_base_path, served[-1].api_keys_file) == (meant, "/home/me/k")
        assert cli.run(["tensorflow_model_server", f"--model_base_path={given}"]) == 0
        assert served[-1].model_base_path == given
    assert cli.run(["servable", "--model_base_path=/m", "--op_libraries=~/a.so,/b/c.so"]) == 0
    assert served[-1].op_libraries == "/home/me/a.so,/b/c.so"


def test_a_command_is_the_first_word_and_only_of_this_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[str]]] = []

    def run(program: str, arguments: list[str]) -> int:
        ran.append((program, arguments))
        return 7

    monkeypatch.setattr("servable._server.commands.warmup.run", run)
    assert cli.run(["/bin/servable", "warmup", "--version=1"]) == 7
    assert ran == [("servable", ["--version=1"])]
    for other in (
        ["/bin/tensorflow_model_server", "warmup", "--version"],
        ["servable", "--version", "warmup"],
    ):
        assert cli.run(other) == 0
        assert capsys.readouterr().out.startswith(("TensorFlow ModelServer: ", "servable "))
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ConfigError("no such thing"), "INVALID_ARGUMENT: no such thing"),
        (ZeroDivisionError("oops"), "INTERNAL: ZeroDivisionError: oops"),
    ],
)
def test_a_failed_start_is_reported_on_the_stream_of_the_name(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    message: str,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr("servable._server.server.ModelServer", fail)
    line = f"Failed to start server. Error: {message}\n"
    assert cli.run(["servable", "--model_base_path=/m"]) == 255
    assert capsys.readouterr() == ("", line)
    assert cli.run(["tensorflow_model_server", "--model_base_path=/m"]) == 255
    assert capsys.readouterr() == (line, "")


def test_the_log_has_the_format_of_tensorflow_serving(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging({})
    logging.getLogger("servable._server.server").warning("a %s", "message")
    configure_logging({"TF_CPP_MIN_LOG_LEVEL": "2"})
    logging.getLogger("servable._server.server").warning("left out")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: W servable/_server/server\.py:\d+\] a message",
        line,
    )


def test_levels_are_letters() -> None:
    formatter = TensorFlowFormatter()
    letters = [
        formatter.format(logging.LogRecord("servable", level, "", 1, "m", (), None)).split()[2]
        for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    ]
    assert letters == ["I", "W", "E", "F"]


def test_the_version_is_that_of_the_package() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'version = "{servable.__version__}"' in project.read_text()


def test_public_names_are_imported_when_they_are_asked_for() -> None:
    assert servable.ModelServer.__name__ == "ModelServer"
    assert servable.Flags is sys.modules["servable._server.config.flags"].Flags
    with pytest.raises(AttributeError, match="nonsense"):
        _ = servable.nonsense
