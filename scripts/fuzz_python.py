"""Fuzz the parsers of the control plane with damaged and generated input: `fuzz_python.py [TARGET] [--seconds=60]`.

Each input must be accepted, or refused with the parser's documented error, within limits of time and memory. The error
for a file must contain a line number. The first input that violates this is printed and ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from servable._server.config.api_keys import MIN_KEY_LENGTH, read_api_keys
from servable._server.config.batching import BATCHING_PARAMETERS, batching_parameters, usable
from servable._server.config.flags import Flags
from servable._server.config.model_messages import model_from_json, models_message, models_text
from servable._server.config.models import parse_reload_config, read_model_config_file
from servable._server.config.monitoring import metrics_path
from servable._server.config.text_proto import parse_text_file
from servable._server.config.tls import read_tls
from servable.errors import Code, ConfigError, InvalidInputError, ServableError
from servable.warmup import read_records, write_records

if TYPE_CHECKING:
    from servable._server.config.models import ModelConfig

GREATEST_SECONDS = 2.0
"""The CPU limit of an input, in seconds."""
GREATEST_BYTES_PER_BYTE, FREE_BYTES = 400, 8 << 20
"""The memory limit of an input: a part for each of its bytes, and a constant."""

MODELS = """# What is served.
model_config_list {
  config { name: "half" base_path: "/models/half" model_platform: 'tensorflow'
    model_version_policy { specific { versions: [1, 2] } }
    version_labels { key: "stable" value: 1 }
    servable_options { keep_last_version: true traffic_splits { versions { version: 1 weight: 9 }
        versions { version: 2 weight: 1 } sticky_header: "x-user" } shadow { version: 2 fraction: 0.5 } } }
  config: < name: "\\u00e9\\377" "joined" base_path: "s3://bucket/m"; model_type: TENSORFLOW, >
}
custom_model_config { [type.googleapis.com/tensorflow.serving.ModelServerConfig] { } }
"""
SESSION = """intra_op_parallelism_threads: 0x2
inter_op_parallelism_threads: -0
gpu_options { per_process_gpu_memory_fraction: .5e0 allow_growth: true }
device_count { key: "CPU" value: 1 }
"""
BATCHING = """max_batch_size { value: 128 } batch_timeout_micros: { value: 0 } max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 } thread_pool_name: { value: "pool" } allowed_batch_sizes: [1, 0x20]
allowed_batch_sizes: 128 pad_variable_length_inputs: true enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 16 }
"""
MONITORING = 'prometheus_config { enable: true, path: "/metrics" }'
SSL = """server_key: "-----BEGIN PRIVATE KEY-----\\nAAAA\\n" 'more' server_cert: "\\303\\251"
custom_ca: "" client_verify: false
"""
API_KEYS = f"""# Who may ask.
reader:predict:0123456789abcdef
operator@example.com:admin:sha256:{"0aF9" * 16}

other_one:predict:a-key:with:colons-and-sha256:
"""
WORDS = (
    "{ } < > [ ] : ; , # \" ' \\ \n \0 \ufeff é 0 -1 1e999 0x 18446744073709551616 nan true name config"
    " config: [] {{{{{{{{ }}}}}}}} any { \\xff \\ud800 [google.protobuf.Any]"
    " custom_model_config{[type.googleapis.com/google.protobuf.Any]{ [type.googleapis.com/x.Y]: {"
).split(" ")


class FindingError(Exception):
    """An input violated the rules."""


Parse = Callable[[bytes, Path], None]


def refuses(error: type[ServableError]) -> contextlib.AbstractContextManager[None]:
    """Accept this error as an answer."""
    return contextlib.suppress(error)


def text_file(read: Callable[[str], object], data: bytes, file: Path) -> None:
    """Read a configuration file; an error about its content must give a line."""
    file.write_bytes(data)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            read(str(file))
    except ConfigError as error:
        is_whole_file = error.code is Code.UNIMPLEMENTED or not said.getvalue()
        if is_whole_file and error.message != f"Invalid protobuf file: '{file}'":
            if error.code is not Code.UNIMPLEMENTED:
                raise FindingError(f"no place is given for: {error.message}") from error
        elif not is_whole_file:
            place = said.getvalue()
            if str(file) not in place or re.search(r"\d+:", place) is None:
                raise FindingError(f"neither file nor line: {place}") from error


def model_config(data: bytes, file: Path) -> None:
    """`--model_config_file`."""
    text_file(read_model_config_file, data, file)


def session_config(data: bytes, file: Path) -> None:
    """`--tensorflow_session_config_file`."""
    text_file(lambda path: parse_text_file(path, "tensorflow.ConfigProto"), data, file)


def batching(data: bytes, file: Path) -> None:
    """`--batching_parameters_file`."""

    def read(path: str) -> None:
        message = parse_text_file(path, BATCHING_PARAMETERS)
        with refuses(ConfigError):
            usable(batching_parameters(message))

    text_file(read, data, file)


def monitoring(data: bytes, file: Path) -> None:
    """`--monitoring_config_file`."""
    text_file(metrics_path, data, file)


def ssl_config(data: bytes, file: Path) -> None:
    """`--ssl_config_file`."""

    def read(path: str) -> None:
        parse_text_file(path, "tensorflow.serving.SSLConfig")
        with refuses(ConfigError):
            read_tls(Flags(ssl_config_file=path))

    text_file(read, data, file)


def api_keys(data: bytes, file: Path) -> None:
    """`--api_keys_file`: errors must name the key, and quote no secret."""
    file.write_bytes(data)
    try:
        read_api_keys(str(file))
    except ConfigError as error:
        if str(file) not in error.message:
            raise FindingError(f"no file is named: {error.message}") from error
        for line in data.decode(errors="replace").splitlines():
            name, _, rest = line.strip().partition(":")
            scope, _, secret = rest.partition(":")
            is_quoted = len(secret) >= MIN_KEY_LENGTH and secret in error.message
            if is_quoted and secret not in name and secret not in scope:
                raise FindingError(f"a key is quoted: {error.message}") from error


def reload_config(data: bytes, file: Path) -> None:
    """The configuration of a `HandleReloadConfigRequest`: accepted input must survive a round trip."""
    with refuses(ConfigError):
        models = parse_reload_config(data)
        check_same(models, parse_reload_config(models_message(models).SerializeToString()))


def model_json(data: bytes, file: Path) -> None:
    """A model of the administration API."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # refused before the parser under test
        return
    if isinstance(document, dict):
        with refuses(InvalidInputError), refuses(ConfigError):
            model_from_json(document)


def tf_record(data: bytes, file: Path) -> None:
    """A file of recorded requests."""
    file.write_bytes(data)
    with refuses(ServableError):
        if sum(map(len, read_records(str(file)))) > len(data):
            raise FindingError("more came out than went in")


def check_same(models: tuple[ModelConfig, ...], again: tuple[ModelConfig, ...]) -> None:
    """Compare by text, since NaN is not equal to itself."""
    if models_text(models) != models_text(again):
        raise FindingError(f"{models} were written and read as {again}")


def seeds(directory: Path) -> dict[str, tuple[Parse, list[bytes]]]:
    """The targets: a parser and valid input for each."""
    file = directory / "models"
    file.write_text(MODELS.partition("custom_model_config")[0].replace("\\377", ""))
    models = read_model_config_file(str(file)) or ()
    message = models_message(models)
    records = directory / "records"
    write_records(str(records), [b"hello", b"", message.SerializeToString()])
    document = (
        b'{"name": "m", "base_path": "/m", "model_platform": "tensorflow", "version_labels": {"a": "1"},'
        b' "model_version_policy": {"latest": {"num_versions": 2}}, "servable_options":'
        b' {"traffic_splits": [{"versions": [{"version": "1", "weight": 1}]}], "shadow": {"fraction": "NaN"}}}'
    )
    return {
        "model_config": (model_config, [MODELS.encode(), models_text(models).encode(), b""]),
        "session_config": (session_config, [SESSION.encode(), b""]),
        "batching": (batching, [BATCHING.encode(), b""]),
        "monitoring": (monitoring, [MONITORING.encode(), b""]),
        "ssl_config": (ssl_config, [SSL.encode(), b""]),
        "api_keys": (api_keys, [API_KEYS.encode(), b""]),
        "reload_config": (reload_config, [message.SerializeToString(), b""]),
        "model_json": (model_json, [document, b"{}"]),
        "tf_record": (tf_record, [records.read_bytes(), struct.pack("<Q", 1 << 62) + bytes(8)]),
    }


def mutated(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Mutate an input: change, remove or repeat parts, or insert parts of others."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 8))):
        start = dice.randint(0, len(changed))
        end = min(len(changed), start + dice.choice((0, 1, 1, 4, 40)))
        other = dice.choice(others)
        cut = dice.randint(0, len(other))
        changed[start:end] = dice.choice(
            (
                b"",
                dice.choice(WORDS).encode(),
                dice.choice(WORDS).encode() * dice.choice((2, 30, 2000)),
                bytes(dice.randbytes(dice.randint(1, 4))),
                bytes(changed[start:end]) * dice.choice((2, 3, 300)),
                other[cut : cut + dice.choice((1, 8, 80))],
            )
        )
        del changed[1 << 16 :]
    return bytes(changed)


def fuzz(parse: Parse, good: list[bytes], *, inputs: int, seconds: float, seed: int) -> int:
    """Run one target.

    Returns:
        The number of inputs.

    Raises:
        FindingError: An input violated the rules.
    """
    dice = random.Random(seed)
    pool = list(good)
    end = time.monotonic() + seconds
    count = 0
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "input"
        while count < inputs and time.monotonic() < end:
            data = mutated(dice.choice(pool), pool, dice) if count else good[0]
            count += 1
            check(parse, data, file)
            # Some mutants join the corpus; the valid input stays.
            if dice.random() < 0.05:
                pool[len(good) :] = [*pool[len(good) :], data][-200:]
    return count


def check(parse: Parse, data: bytes, file: Path) -> None:
    """Parse one input within the limits."""
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.thread_time()
    try:
        parse(data, file)
    except Exception as error:
        raise FindingError(f"{type(error).__name__}: {error}\nfor the input {data!r}") from error
    spent = time.thread_time() - start
    if spent > GREATEST_SECONDS:
        raise FindingError(f"{spent:.1f} s for the input {data!r}")
    taken = tracemalloc.get_traced_memory()[1] - before
    if taken > FREE_BYTES + GREATEST_BYTES_PER_BYTE * len(data):
        raise FindingError(f"{taken} bytes of memory for the input {data!r}")


def main() -> None:
    """Run the targets on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("target", nargs="?", help="one of the targets; all of them without")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    arguments = parser.parse_args()
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as directory:
        targets = seeds(Path(directory))
    if arguments.target and arguments.target not in targets:
        parser.error(f"{arguments.target}: want one of {', '.join(targets)}")
    for name in [arguments.target] if arguments.target else list(targets):
        parse, good = targets[name]
        try:
            count = fuzz(
                parse, good, inputs=sys.maxsize, seconds=arguments.seconds, seed=arguments.seed
            )
        except FindingError as finding:
            sys.exit(f"{name} --seed={arguments.seed}: {finding}")
        print(f"{name}: {count} inputs without a finding", flush=True)


if __name__ == "__main__":
    main()
