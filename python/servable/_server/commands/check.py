"""`servable check`: reports which models a server would serve, and configuration errors, without serving.

It reads everything with the code that a server starts with.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from servable._server.commands import config_kinds
from servable._server.commands.check_models import check_models
from servable._server.commands.report import Report
from servable._server.config.flags import Flags, parse_flags, similar_flag
from servable._server.config.models import (
    ModelConfig,
    ModelConfigError,
    line_of_model,
    validate_models,
)
from servable._server.config.options import (
    check_flags,
    config_rules,
    initial_models,
    remote_options,
    server_options,
    with_absolute_paths,
    with_environment,
)
from servable._server.config.text_proto import TextFormatError
from servable._server.model_paths import chosen_name, find_models, is_model_path
from servable._server.remote.files import is_remote_file, read_file
from servable._server.remote.urls import shown
from servable.errors import Code, ConfigError, ServableError
from servable.platforms import Platform, PlatformContext, find_platforms
from servable.platforms._registry import kinds_of, option_types
from servable.sources._model_files import has_known_suffix

Result = TypeVar("Result")

_IN_USE = ("Address already in use", "another server listens there")

_USAGE = """\
usage: {program} check [PATH ...] [FILE ...] [--flag=VALUE ...] [--load] [--json]

Says what would be served, and what is wrong with flags, configuration files and models. Nothing is
served.

  PATH            a path of models, as the server takes it
  FILE            a configuration file, recognised by what it says
  --flag=VALUE    the flags that the server would get
  --load          load every version for real, and warm it up; without it only files are read
  --json          print the findings and the models as JSON

The exit status is 0 if there is no error, otherwise 1.
"""


def run(program: str, arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        program: The name of the program.
        arguments: The arguments after `check` on the command line.

    Returns:
        The exit status.
    """
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(_USAGE.format(program=program), end="")
        return 0 if arguments else 1
    own = {"--load", "--json"}
    report = Report()
    with _warnings_into(report):
        _check([a for a in arguments if a not in own], report, loads="--load" in arguments)
    print(report.json() if "--json" in arguments else report.text(), end="")
    return 0 if report.is_good else 1


def _check(arguments: Sequence[str], report: Report, *, loads: bool) -> None:
    files = [argument for argument in arguments if not argument.startswith("-")]
    flag_arguments = [argument for argument in arguments if argument.startswith("-")]
    parsed = parse_flags(flag_arguments)
    for error in parsed.errors:
        report.error(error)
    for argument in parsed.unknown:
        similar = similar_flag(argument)
        hint = f"; did you mean --{similar}?" if similar else ""
        report.error(f"unknown argument: {argument}{hint}")
    kinds = _attempt(lambda: find_platforms(PlatformContext()), report) or {}
    paths = [file for file in files if is_model_path(file, kinds) and not _is_config(file, kinds)]
    is_in_environment = flag_arguments and not paths
    flags = with_environment(parsed.flags, os.environ) if is_in_environment else parsed.flags
    flags = with_absolute_paths(flags)
    if paths and (flags.model_base_path or flags.model_config_file):
        _attempt(lambda: check_flags(flags, paths), report)
    for file in files:
        if file not in paths:
            flags = _check_file(file, flags, report)
    for flag, path in config_kinds.file_flags(flags).items():
        _check_contents(path, flag, report)
    if not report.is_good:
        return  # further checks would report the same errors again
    # Single files are checked alone; flags are those of a server, which needs models.
    is_server = bool(flag_arguments or flags.model_config_file)
    needs_models = is_server or not files
    checked = flags if needs_models else replace(flags, model_base_path="/")
    # A file of models and paths are checked in one go, although a server takes only one of the two.
    served_paths = () if checked.model_base_path or checked.model_config_file else paths
    _attempt(lambda: check_flags(checked, served_paths), report)
    context = PlatformContext(flags)
    platforms = _attempt(lambda: find_platforms(context), report)
    configured = _assembled(flags, platforms, report) if needs_models else ()
    places = {
        model.name: (flags.model_config_file, line_of_model(flags.model_config_file, index))
        for index, model in enumerate(configured)
        if flags.model_config_file
    }
    if platforms is not None:
        models = _in_paths(paths, flags, platforms, report)
        check_models([*models, *configured], context, platforms, report, places, loads=loads)
    if is_server and report.is_good:
        _rehearse(flags, served_paths, report)


def _rehearse(flags: Flags, paths: Sequence[str], report: Report) -> None:
    """Start a server up to its first load, to find errors that only the start reports."""
    from servable._server.server import ModelServer

    server = _attempt(lambda: ModelServer(flags, paths=paths, is_compatible=False), report)
    if server is None:
        return
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            server.rehearse()
    except ServableError as error:
        if any(text in str(error) for text in _IN_USE):
            # The address is in use, perhaps by the server that this configuration is for.
            report.warning(str(error))
        else:
            report.error(str(error))


def _is_config(path: str, kinds: Mapping[str, Platform]) -> bool:
    """Whether a URL is that of a file that is no model."""
    is_named_as_model = has_known_suffix(path) or kinds_of(kinds, [os.path.basename(path)])
    return not is_named_as_model and is_remote_file(path)


def _check_file(path: str, flags: Flags, report: Report) -> Flags:
    """Recognise a configuration file, and set its flag unless that names another file."""
    try:
        flag = config_kinds.kind_of(read_file(path).decode("utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        is_missing = isinstance(error, ConfigError) and error.code is Code.NOT_FOUND
        text = "There is no such file" if is_missing else f"It cannot be read: {error}"
        report.error(text, shown(path))
        return flags
    if getattr(flags, flag):
        _check_contents(path, flag, report)
        return flags
    if flag == "batching_parameters_file":
        flags = replace(flags, enable_batching=True)
    named: dict[str, Any] = {flag: path}
    return replace(flags, **named)


def _check_contents(path: str, flag: str, report: Report) -> None:
    try:
        message = config_kinds.parse(path, flag)
    except TextFormatError as error:
        report.error(f"Not a {config_kinds.KINDS[flag]}: {error.reason}", path, error.line)
        return
    except ServableError as error:
        report.error(str(error), path)
        return
    for problem in config_kinds.problems(flag, message):
        report.error(problem, path)


def _assembled(
    flags: Flags, platforms: Mapping[str, Platform] | None, report: Report
) -> Sequence[ModelConfig]:
    """The models of a server with these flags; configuration errors go into the report."""
    _attempt(lambda: server_options(flags), report)
    _attempt(lambda: remote_options(flags), report)
    if not (flags.model_base_path or flags.model_config_file):
        return ()
    rules = config_rules(flags, option_types(platforms or {}), takes_relative_paths=True)

    def models() -> Sequence[ModelConfig]:
        found = initial_models(flags, rules) or ()
        validate_models(found, rules=rules)
        return found

    return _attempt(models, report, flags.model_config_file) or ()


def _attempt(step: Callable[[], Result], report: Report, file: str = "") -> Result | None:
    try:
        # Readers also write errors to stderr; the report contains them.
        with contextlib.redirect_stderr(io.StringIO()):
            return step()
    except ModelConfigError as error:
        report.error(str(error), file, error.line)
    except ServableError as error:
        report.error(str(error))
    return None


def _in_paths(
    paths: Sequence[str], flags: Flags, platforms: Mapping[str, Platform], report: Report
) -> Sequence[ModelConfig]:
    """The models in paths; what is not recognised goes into the report."""
    if not paths:
        return ()
    found = _attempt(lambda: find_models(paths, platforms, chosen_name(flags)), report)
    if found is None:
        return ()
    for text in found.left_out:
        report.warning(f"Left out: {text}")
    return found.models


@contextlib.contextmanager
def _warnings_into(report: Report) -> Iterator[None]:
    """Add logged warnings to the report."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno < logging.ERROR:  # errors are reported elsewhere
                report.warning(record.getMessage())

    logger = logging.getLogger("servable")
    collector, propagates = Collector(logging.WARNING), logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
