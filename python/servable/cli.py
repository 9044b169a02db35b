"""The command `servable`, which also answers to `tensorflow_model_server`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from servable import __version__
from servable._server.config.flags import (
    Flags,
    ParsedArguments,
    parse_flags,
    similar_flag,
    similar_word,
)
from servable._server.config.usage import grouped_usage, short_usage, tensorflow_serving_usage
from servable.errors import BackendError, ServableError
from servable.lifecycle._states import status_text

if TYPE_CHECKING:
    from servable._server.server import ModelServer

__all__ = ["main", "run"]

_FAILURE = 255
_WRONG_USAGE = 2
_TENSORFLOW_SERVING_NAME = "tensorflow_model_server"
_HELP = frozenset({"--help", "-h", "help"})


def main() -> NoReturn:
    """Run the command with the arguments of the process."""
    status = run(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # All orderly shutdown has happened by now. Threads of frameworks may remain; they do not survive the finalisation
    # of the interpreter.
    os._exit(status)


def run(argv: list[str]) -> int:
    """Run the command.

    Under the name `servable` there are subcommands, which come first, and help, paths and typing errors are handled
    more leniently than in TensorFlow Serving. Under the name `tensorflow_model_server` it behaves as TensorFlow Serving
    does.

    Args:
        argv: The arguments, with the name of the program first.

    Returns:
        The exit status.
    """
    if os.path.basename(argv[0]) == _TENSORFLOW_SERVING_NAME:
        return _run_as_tensorflow_serving(argv)
    program = _program(argv)
    # Flags begin with dashes, so a word in first place can be a subcommand.
    command = _COMMANDS.get("".join(argv[1:2]))
    if command is not None:
        return command(program, argv[2:])
    parsed = parse_flags(argv[1:])
    if not _HELP.isdisjoint(parsed.unknown):
        print(grouped_usage(program), end="")
        return 0
    if parsed.flags.version and not parsed.errors:
        print(_versions())
        return 0
    paths = [a for a in parsed.unknown if _is_path(a)]
    unknown = [f"unknown argument: {a}{_suggestion(a)}" for a in parsed.unknown if a not in paths]
    if problems := [*parsed.errors, *unknown]:
        for problem in problems:
            print(problem, file=sys.stderr)
        print(f"`{program} --help` lists the flags", file=sys.stderr)
        return _WRONG_USAGE
    if not (argv[1:] or os.environ.keys() & {"MODEL_NAME", "MODEL_BASE_PATH"}):
        print(short_usage(program), end="", file=sys.stderr)
        return _WRONG_USAGE
    return _serve(parsed, paths, is_compatible=False)


def _run_as_tensorflow_serving(argv: list[str]) -> int:
    """Behave as TensorFlow Serving: only the log goes to stderr, and unknown arguments are reported but ignored."""
    parsed = parse_flags(argv[1:])
    if parsed.errors or parsed.help_requested:
        for error in parsed.errors:
            print(error, file=sys.stderr)
        print(tensorflow_serving_usage(argv[0]), end="")
        return _FAILURE
    if parsed.flags.version:
        print(f"TensorFlow ModelServer: {__version__}")
        print(f"TensorFlow Library: {_tensorflow_version() or 'not installed'}")
        return 0
    if parsed.unknown:
        print(f"unknown argument: {parsed.unknown[0]}")
        print(tensorflow_serving_usage(argv[0]), end="", flush=True)
    return _serve(parsed, (), is_compatible=True)


def _program(argv: list[str]) -> str:
    name = os.path.basename(argv[0])
    return "python -m servable" if name == "__main__.py" else name


def _is_path(argument: str) -> bool:
    """Whether an argument is the path or URL of a model, in contrast to a misspelt flag or command."""
    if argument.startswith("-"):
        return False
    return "/" in argument or os.path.lexists(os.path.expanduser(argument))


def _suggestion(argument: str) -> str:
    if not argument.startswith("-"):
        if (similar := similar_word(argument, _COMMANDS)) is not None:
            return f" (did you mean the command {similar}?)"
        return " (there is no file or directory with this name)"
    similar = similar_flag(argument)
    return f" (did you mean --{similar}?)" if similar else ""


def _serve(parsed: ParsedArguments, paths: Sequence[str], *, is_compatible: bool) -> int:
    with _ending_at_once():
        return _start_and_serve(parsed, paths, is_compatible=is_compatible)


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """End the process cleanly on signals, until the server handles them and finishes its requests."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        os._exit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_and_serve(parsed: ParsedArguments, paths: Sequence[str], *, is_compatible: bool) -> int:
    # Imports that only a server needs.
    from servable._server.config.options import with_absolute_paths, with_environment
    from servable._server.server import ModelServer
    from servable._server.telemetry import configure_logging

    configure_logging(os.environ)
    flags = parsed.flags if paths else with_environment(parsed.flags, os.environ)
    try:
        if is_compatible:
            ModelServer(flags).run()
        else:
            flags = with_absolute_paths(flags)
            server = ModelServer(flags, paths=paths, is_compatible=False)
            server.run(lambda: _report(server, flags))
    except ServableError as error:
        failure = error
    except Exception as error:  # the command line's border
        failure = BackendError(f"{type(error).__name__}: {error}")
    else:
        return 0
    stream = sys.stdout if is_compatible else sys.stderr
    print(f"Failed to start server. Error: {status_text(failure)}", file=stream)
    return _FAILURE


def _report(server: ModelServer, flags: Flags) -> None:
    from servable._server.commands import start_report

    print(start_report.text(server, flags), end="", file=sys.stderr, flush=True)


def _warm_up(program: str, arguments: list[str]) -> int:
    from servable._server.commands import warmup
    from servable._server.telemetry import configure_logging

    configure_logging(os.environ)
    return warmup.run(program, arguments)


def _inspect(program: str, arguments: list[str]) -> int:
    from servable._server.commands import inspect

    return inspect.run(program, arguments)


def _check(program: str, arguments: list[str]) -> int:
    from servable._server.commands import check

    return check.run(program, arguments)


_COMMANDS: Mapping[str, Callable[[str, list[str]], int]] = {
    "check": _check,
    "inspect": _inspect,
    "warmup": _warm_up,
}


def _versions() -> str:
    """For example `servable 0.1.0 (7a8b9c0d1e), TensorFlow 2.21.0`."""
    commit = _commit()
    servable = f"servable {__version__}" + (f" ({commit})" if commit else "")
    tensorflow = _tensorflow_version()
    return f"{servable}, " + (f"TensorFlow {tensorflow}" if tensorflow else "without TensorFlow")


def _commit() -> str:
    """The commit of the clone, or else the one that the extension was built from; empty if neither is known."""
    directory = os.path.dirname(os.path.abspath(__file__))
    clone = os.path.dirname(os.path.dirname(directory))
    if os.path.exists(os.path.join(clone, ".git")):
        import subprocess

        with contextlib.suppress(OSError, subprocess.SubprocessError):
            result = subprocess.run(
                ["git", "-C", clone, "rev-parse", "--short=10", "HEAD"],
                capture_output=True,
                text=True,
                check=True,
                timeout=5,
            )
            return result.stdout.strip()
    from servable._server.border.gateway import COMMIT

    return COMMIT


def _tensorflow_version() -> str | None:
    from importlib import metadata

    for distribution in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
