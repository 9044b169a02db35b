"""The command `servable`, which also answers to `tensorflow_model_server`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import NoReturn

from servable import __version__
from servable.config.flags import ParsedArguments, parse_flags, similar_flag
from servable.config.usage import grouped_usage, original_usage
from servable.errors import BackendError, ServableError
from servable.lifecycle.states import status_text

__all__ = ["main", "run"]

_FAILURE = 255
_ORIGINAL_NAME = "tensorflow_model_server"
_HELP = frozenset({"--help", "-h", "help"})


def main() -> NoReturn:
    """Run the command with the arguments of the process."""
    status = run(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything that has to be orderly has been stopped and joined by now. What may be left are
    # threads of frameworks, which are not prepared for an interpreter that is taken down.
    os._exit(status)


def run(argv: list[str]) -> int:
    """Run the command.

    Under its own name the command has further commands, whose names come first, and is kinder about
    help and slips than TensorFlow Serving; under the other name it does as that does.

    Args:
        argv: The arguments, with the name of the program first.

    Returns:
        The exit status.
    """
    is_original = os.path.basename(argv[0]) == _ORIGINAL_NAME
    # Flags begin with dashes, so a first word is free for commands.
    command = None if is_original else _COMMANDS.get("".join(argv[1:2]))
    if command is not None:
        return command(_program(argv), argv[2:])
    parsed = parse_flags(argv[1:])
    if not is_original and not _HELP.isdisjoint(parsed.unknown):
        print(grouped_usage(_program(argv)), end="")
        return 0
    if parsed.errors or parsed.help_requested:
        for error in parsed.errors:
            print(error, file=sys.stderr)
        if is_original:
            print(original_usage(argv[0]), end="")
        else:
            print(f"`{_program(argv)} --help` lists the flags", file=sys.stderr)
        return _FAILURE
    if parsed.flags.version:
        print(f"TensorFlow ModelServer: {__version__}")
        print(f"TensorFlow Library: {_tensorflow_version() or 'not installed'}")
        return 0
    if parsed.unknown and is_original:
        print(f"unknown argument: {parsed.unknown[0]}")
        print(original_usage(argv[0]), end="", flush=True)
    elif parsed.unknown:
        for argument in parsed.unknown:
            print(f"unknown argument: {argument}{_suggestion(argument)}", flush=True)
    return _serve(parsed)


def _program(argv: list[str]) -> str:
    name = os.path.basename(argv[0])
    return "python -m servable" if name == "__main__.py" else name


def _suggestion(argument: str) -> str:
    similar = similar_flag(argument)
    return f" (did you mean --{similar}?)" if similar else ""


def _serve(parsed: ParsedArguments) -> int:
    with _ending_at_once():
        return _start_and_serve(parsed)


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Have signals end the process cleanly before the server, which finishes its requests, has seen to them."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        os._exit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_and_serve(parsed: ParsedArguments) -> int:
    # What only a server needs is imported for a server only.
    from servable.config.options import with_environment
    from servable.server import ModelServer
    from servable.telemetry import configure_logging

    configure_logging(os.environ)
    try:
        ModelServer(with_environment(parsed.flags, os.environ)).run()
    except ServableError as error:
        print(f"Failed to start server. Error: {status_text(error)}")
        return _FAILURE
    except Exception as error:  # the command line's border
        failure = BackendError(f"{type(error).__name__}: {error}")
        print(f"Failed to start server. Error: {status_text(failure)}")
        return _FAILURE
    return 0


def _warm_up(program: str, arguments: list[str]) -> int:
    from servable.telemetry import configure_logging
    from servable.warmup import command

    configure_logging(os.environ)
    return command.run(program, arguments)


def _inspect(program: str, arguments: list[str]) -> int:
    from servable.commands import inspect

    return inspect.run(program, arguments)


def _check(program: str, arguments: list[str]) -> int:
    from servable.commands import check

    return check.run(program, arguments)


_COMMANDS: Mapping[str, Callable[[str, list[str]], int]] = {
    "check": _check,
    "inspect": _inspect,
    "warmup": _warm_up,
}


def _tensorflow_version() -> str | None:
    from importlib import metadata

    for distribution in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
