from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servable
from servable import cli
from servable.config.flags import Flags
from servable.errors import ConfigError
from servable.telemetry import TensorFlowFormatter, configure_logging


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger, left as it was found."""
    logger = logging.getLogger("servable")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    yield logger
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_version_is_told_even_beside_unknown_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["servable", "--version", "--unknown"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"TensorFlow ModelServer: {servable.__version__}"
    assert second.startswith("TensorFlow Library: ")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["--port=1", "--x", "--help"]])
def test_help_is_grouped_and_no_failure(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["/bin/servable", *arguments]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("usage: servable --model_base_path=DIRECTORY")
    assert "\nWhat to serve\n" in told.out
    assert told.err == ""


def test_help_is_that_of_the_original_under_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tensorflow_model_server", "--help"]) == 255
    assert capsys.readouterr().out.startswith(
        "usage: tensorflow_model_server\nFlags:\n\t--port=8500"
    )


def test_a_wrong_value_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["servable", "--port=many"]) == 255
    assert capsys.readouterr() == (
        "",
        "Couldn't interpret value many for flag port.\n`servable --help` lists the flags\n",
    )
    assert cli.run(["tensorflow_model_server", "--port=many"]) == 255
    told = capsys.readouterr()
    assert told.err == "Couldn't interpret value many for flag port.\n"
    assert told.out.startswith("usage: tensorflow_model_server\nFlags:\n")


def test_unknown_arguments_are_told_and_do_no_harm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[int] = []

    class FakeServer:
        def __init__(self, flags: Flags) -> None:
            served.append(flags.port)

        def run(self) -> None:
            pass

    monkeypatch.setattr("servable.server.ModelServer", FakeServer)
    arguments = ["--prot=1", "--port=2", "stray"]
    assert cli.run(["servable", *arguments]) == 0
    assert capsys.readouterr().out == (
        "unknown argument: --prot=1 (did you mean --port?)\nunknown argument: stray\n"
    )
    assert cli.run(["tensorflow_model_server", *arguments]) == 0
    assert capsys.readouterr().out.startswith(
        "unknown argument: --prot=1\nusage: tensorflow_model_server\nFlags:\n"
    )
    assert served == [2, 2]


def test_a_command_is_the_first_word_and_only_of_this_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[str]]] = []

    def run(program: str, arguments: list[str]) -> int:
        ran.append((program, arguments))
        return 7

    monkeypatch.setattr("servable.warmup.command.run", run)
    assert cli.run(["/bin/servable", "warmup", "--version=1"]) == 7
    assert ran == [("servable", ["--version=1"])]
    for other in (
        ["/bin/tensorflow_model_server", "warmup", "--version"],
        ["servable", "--version", "warmup"],
    ):
        assert cli.run(other) == 0
        assert capsys.readouterr().out.startswith("TensorFlow ModelServer: ")
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ConfigError("no such thing"), "INVALID_ARGUMENT: no such thing"),
        (ZeroDivisionError("oops"), "INTERNAL: ZeroDivisionError: oops"),
    ],
)
def test_a_start_that_fails_is_told_on_stdout(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    told: str,
) -> None:
    def fail(flags: object) -> None:
        raise raised

    monkeypatch.setattr("servable.server.ModelServer", fail)
    assert cli.run(["servable", "--nonsense", "--model_base_path=/m"]) == 255
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "unknown argument: --nonsense"
    assert lines[-1] == f"Failed to start server. Error: {told}"


def test_the_log_has_the_original_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging({})
    logging.getLogger("servable.server").warning("a %s", "message")
    configure_logging({"TF_CPP_MIN_LOG_LEVEL": "2"})
    logging.getLogger("servable.server").warning("left out")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: W servable/server\.py:\d+\] a message", line
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
    assert servable.Flags is sys.modules["servable.config.flags"].Flags
    with pytest.raises(AttributeError, match="nonsense"):
        _ = servable.nonsense
