"""The command `servable`, which also answers to `tensorflow_model_server`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from servable import __version__
from servable.config.flags import ParsedArguments, parse_flags, usage
from servable.errors import BackendError, ServableError
from servable.lifecycle.states import status_text

_FAILURE = 255


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

    Args:
        argv: The arguments, with the name of the program first.

    Returns:
        The exit status.
    """
    # Flags begin with dashes, so a first word is free for commands. The name that TensorFlow Serving
    # has knows flags alone.
    if argv[1:2] == ["warmup"] and os.path.basename(argv[0]) != "tensorflow_model_server":
        return _warm_up(argv)
    parsed = parse_flags(argv[1:])
    if parsed.errors or parsed.help_requested:
        for error in parsed.errors:
            print(error, file=sys.stderr)
        print(usage(argv[0]), end="")
        return _FAILURE
    if parsed.flags.version:
        print(f"TensorFlow ModelServer: {__version__}")
        print(f"TensorFlow Library: {_tensorflow_version() or 'not installed'}")
        return 0
    if parsed.unknown:
        print(f"unknown argument: {parsed.unknown[0]}")
        print(usage(argv[0]), end="", flush=True)
    return _serve(parsed)


def _serve(parsed: ParsedArguments) -> int:
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


def _warm_up(argv: list[str]) -> int:
    from servable.telemetry import configure_logging
    from servable.warmup import command

    configure_logging(os.environ)
    return command.run(argv[0], argv[2:])


def _tensorflow_version() -> str | None:
    from importlib import metadata

    for distribution in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
