"""`servable warmup`: writes recorded or example requests into a version directory.

Each request is run against the version first, so that the written requests cannot make its load fail.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servable.errors import InvalidInputError, NotFoundError, ServableError
from servable.lifecycle._states import status_text
from servable.loaders._saved_model import SavedModelLoader, SavedModelOptions, is_saved_model
from servable.loaders._tensorflow_runtime import TensorFlowRuntime
from servable.sources._filesystem import parse_version
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
    try:
        version = version_directory(options.model_base_path, options.version)
        loader = SavedModelLoader(
            version,
            TensorFlowRuntime(),
            SavedModelOptions(tuple(options.saved_model_tags.split(","))),
        )
        loader.load()
        try:
            records = list(_checked_records(loader.servable, options))
        finally:
            loader.unload()
        if not records:
            raise InvalidInputError("There is nothing to write: name at least one file of requests")
        if len(records) > MAX_RECORDS:
            raise InvalidInputError(
                f"{len(records)} requests; a version takes {MAX_RECORDS} at most"
            )
        output = options.output or os.path.join(version, WARM_UP_FILE)
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
        write_records(output, records)
    except ServableError as error:
        print(f"Nothing was written. {status_text(error)}", file=sys.stderr)
        return _FAILURE
    except OSError as error:
        print(f"Nothing was written. {error.filename}: {error.strerror}", file=sys.stderr)
        return _FAILURE
    print(f"Wrote {len(records)} warm-up {'requests' if records[1:] else 'request'} to {output}")
    return 0


def version_directory(
    base_path: str, version: int | None, is_version: Callable[[str], bool] = is_saved_model
) -> str:
    """The directory of a version, the highest one by default.

    Args:
        base_path: The model's directory, or a version directory.
        version: Its number.
        is_version: Whether a directory is itself a version.

    Raises:
        NotFoundError: There is none.
    """
    if version is None:
        numbers = {
            number: name
            for name in os.listdir(base_path)
            if (number := parse_version(name)) is not None
            and os.path.isdir(os.path.join(base_path, name))
        }
        if numbers:
            return os.path.join(base_path, numbers[max(numbers)])
        if is_version(base_path):
            return base_path
        raise NotFoundError(f"There is no version in {base_path}")
    path = os.path.join(base_path, str(version))
    if not os.path.isdir(path):
        raise NotFoundError(f"There is no version {version} in {base_path}")
    return path


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
    add("--model_base_path", required=True, metavar="DIR", help="the model's directory")
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
