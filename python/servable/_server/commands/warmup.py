"""`servable warmup`: writes recorded or example requests into a version directory.

Each request is run against the version first, so that the written requests cannot make its load fail.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from servable._server.config.flags import Flags
from servable._server.model_paths import find_models, version_of
from servable.errors import InvalidInputError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._states import status_text
from servable.platforms import PlatformContext, VersionDirectory, find_platforms
from servable.platforms._registry import PlatformAdapter
from servable.warmup._replay import MAX_RECORDS, WARM_UP_FILE
from servable.warmup._tf_record import read_records, write_records

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

_FAILURE = 255


def run(program: str, arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        program: The name of the program.
        arguments: The arguments after `warmup` on the command line.

    Returns:
        The exit status.
    """
    options = _parser(program).parse_args(arguments)
    if bool(options.path) == bool(options.model_base_path):
        print("Nothing was written. Give PATH or --model_base_path", file=sys.stderr)
        return _FAILURE
    try:
        count, output = _write(options.path or options.model_base_path, options)
    except ServableError as error:
        print(f"Nothing was written. {status_text(error)}", file=sys.stderr)
        return _FAILURE
    except OSError as error:
        print(f"Nothing was written. {error.filename}: {error.strerror}", file=sys.stderr)
        return _FAILURE
    except Exception as error:  # the border to code of others
        print(f"Nothing was written. {type(error).__name__}: {error}", file=sys.stderr)
        return _FAILURE
    print(f"Wrote {count} warm-up {'requests' if count > 1 else 'request'} to {output}")
    return 0


def _write(path: str, options: argparse.Namespace) -> tuple[int, str]:
    """Write the requests for a version of the only model in a path.

    Returns:
        The number of requests, and the file.

    Raises:
        ServableError: There is no such version, it cannot be loaded, or a request fails.
        OSError: A file cannot be read or written.
    """
    # The requests that are there now, which may be wrong, are not replayed.
    flags = Flags(saved_model_tags=options.saved_model_tags, enable_model_warmup=False)
    platforms = find_platforms(PlatformContext(flags))
    models = find_models([path], platforms).models
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise InvalidInputError(f"{path} contains several models; give the path of one of {names}")
    (model,) = models
    number, version = version_of(model, options.version)
    output = options.output or _file_of(version)
    adapter = PlatformAdapter(platforms)
    loader = adapter.adapt(ServableId(model.name, number), VersionDirectory(version, model))
    loader.load()
    try:
        records = list(_checked_records(cast("Servable", loader.servable), options))
    finally:
        loader.unload()
    if not records:
        raise InvalidInputError("There is nothing to write: name at least one file of requests")
    if len(records) > MAX_RECORDS:
        raise InvalidInputError(f"{len(records)} requests; a version takes {MAX_RECORDS} at most")
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    write_records(output, records)
    return len(records), output if os.path.isabs(path) else os.path.relpath(output)


def _file_of(version: str) -> str:
    if os.path.isfile(version):
        raise InvalidInputError(
            f"{version} is a single file, and warm-up requests are beside a model: move it into a version "
            f"directory, such as 1/model{os.path.splitext(version)[1]}"
        )
    return os.path.join(version, WARM_UP_FILE)


def _checked_records(servable: Servable, options: argparse.Namespace) -> Iterator[bytes]:
    for source, record in _records(servable, options):
        try:
            servable.warm_up(record, 1)
        except ValueError as error:
            raise InvalidInputError(f"{source}: not a recorded request") from error
        except ServableError as error:
            raise type(error)(f"{source}: {error}", code=error.code) from error
        yield record


def _records(servable: Servable, options: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """The records to write, each with a name for messages."""
    for path in options.request or ():
        body = Path(path).read_bytes()
        try:
            parsed: Any = json.loads(body)
        except ValueError:
            parsed = None  # the server's parser reports the error
        is_examples = isinstance(parsed, dict) and "examples" in parsed
        try:
            yield path, servable.prediction_log(body, is_examples)
        except ServableError as error:
            raise type(error)(f"{path}: {error}", code=error.code) from error
    for path in options.predict_request or ():
        # PredictionLog.predict_log.request; the run shows whether it is a valid request.
        yield path, _field(6, _field(1, Path(path).read_bytes()))
    for path in options.log or ():
        number = 1
        try:
            for record in read_records(path):
                yield f"{path}, record {number}", record
                number += 1
        except ServableError as error:
            text = f"{path}, record {number}: {error}"
            raise type(error)(text, code=error.code) from error


def _field(number: int, payload: bytes) -> bytes:
    """A protobuf field whose value is itself a message."""
    encoded = bytearray([number << 3 | 2])
    length = len(payload)
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + payload


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{os.path.basename(program)} warmup",
        allow_abbrev=False,
        description="Write requests that a version of a model is warmed up with before it serves. "
        "Each is run first; where one fails, nothing is written.",
    )
    add = parser.add_argument
    add("path", nargs="?", metavar="PATH", help="the path of the model, as the server takes it")
    add("--model_base_path", metavar="DIR", help="the same")
    add("--version", type=int, metavar="N", help="the version; the highest one by default")
    add("--request", action="append", metavar="FILE", help="the body of a REST request, as JSON")
    add(
        "--predict_request", action="append", metavar="FILE",
        help="a serialized PredictRequest, as it is sent over gRPC",
    )  # fmt: skip
    add(
        "--log", action="append", metavar="FILE",
        help="a TFRecord file of PredictionLog messages, such as another version's warm-up requests",
    )  # fmt: skip
    add(
        "--output", metavar="FILE", help=f"where to write; {WARM_UP_FILE} of the version by default"
    )
    add("--saved_model_tags", default="serve", metavar="TAGS", help="as the flag of the server")
    return parser
