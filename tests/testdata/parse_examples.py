"""Write what TensorFlow makes of random examples, for the tests of the parser in `crates/codec`.

usage: parse_examples.py OUTPUT_FILE        (needs the `tensorflow` package)

Each line is a case in JSON: features, serialized examples in hexadecimal, and the tensors of `tf.io.parse_example`, or
the text of its error. A case has at most one fault, so that the error does not depend on an order. Takes a few seconds,
mostly for the import of TensorFlow.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

CASES = 1500

SHAPES: Sequence[list[int]] = ([], [], [1], [1], [2], [3], [2, 2], [1, 3], [0])
FAULTS = (*("none",) * 6, "missing", "dtype", "count", "count", "damage", "damage")
LISTS = {"string": 1, "float": 2, "int64": 3}

Random = random.Random


def varint(value: int) -> bytes:
    """Encode an integer."""
    encoded = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, content: bytes) -> bytes:
    """Encode a field with a length."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def feature(dtype: str, values: Sequence[Any], *, packed: bool = True) -> bytes:
    """Encode a `tensorflow.Feature`; by hand, for encodings that protobuf's libraries read but do not write."""
    if dtype == "string":
        content = b"".join(field(1, value) for value in values)
    else:
        encoded = [
            struct.pack("<f", value) if dtype == "float" else varint(value) for value in values
        ]
        tag = b"\x0d" if dtype == "float" else b"\x08"
        content = field(1, b"".join(encoded)) if packed else b"".join(tag + one for one in encoded)
    return field(LISTS[dtype], content)


def entry(name: str, content: bytes) -> bytes:
    """Encode an entry of the map of features."""
    return field(1, field(1, name.encode()) + field(2, content))


def random_values(rng: Random, dtype: str, count: int) -> list[Any]:
    """Values of a feature."""
    one = {
        "string": lambda: rng.randbytes(rng.choice([0, 1, 5, 200])),
        "float": lambda: rng.choice([0.0, -1.5, 3e38, float("inf"), float("nan"), rng.random()]),
        "int64": lambda: rng.choice([0, 1, -1, 2**63 - 1, -(2**63), rng.randrange(1000)]),
    }[dtype]
    return [one() for _ in range(count)]


def random_features(rng: Random) -> list[dict[str, Any]]:
    """Some features, sorted by name as TensorFlow sorts them."""
    features = []
    for name in sorted(rng.sample(["a", "b", "bb", "c", "ä", "", "z" * 130], rng.randint(1, 5))):
        dtype, shape = rng.choice(list(LISTS)), rng.choice(SHAPES)
        count = int(np.prod(shape, dtype=int))
        default = None
        # A default without values is none: the feature is required.
        if count and rng.random() < 0.5:
            default = random_values(rng, dtype, count)
        features.append({"name": name, "dtype": dtype, "shape": shape, "default": default})
    return features


def random_example(rng: Random, features: Sequence[dict[str, Any]], fault: str) -> bytes:
    """An example with all that is required, in one of its encodings, and one fault at most.

    A list that should be empty always is: TensorFlow writes its values behind its tensor, and may crash.
    """
    entries, has_duplicates = [], False
    at_fault = rng.choice(features)
    for each in features:
        dtype, count = each["dtype"], int(np.prod(each["shape"], dtype=int))
        if each is at_fault and fault == "dtype":
            dtype = rng.choice([other for other in LISTS if other != dtype])
        elif each is at_fault and fault == "count" and count:
            count = rng.choice([other for other in (0, 1, 2, 5) if other != count])
        elif each is at_fault and fault == "missing":
            each["default"] = None
            continue
        elif each["default"] is not None and rng.random() < 0.3:
            # Missing, or there without a list.
            entries += [entry(each["name"], b"")] * rng.randint(0, 1)
            continue
        values = random_values(rng, dtype, count)
        encoded = [entry(each["name"], feature(dtype, values, packed=rng.random() < 0.8))]
        if rng.random() < 0.1:
            # The last one counts, of those that have a list.
            encoded.insert(0, entry(each["name"], feature("float", [1.0, 2.0])))
            has_duplicates = True
        if rng.random() < 0.1:
            encoded.append(entry(each["name"], b""))
        entries += encoded
    entries += [entry(f"unknown {at}", feature("float", [1.0])) for at in range(rng.randint(0, 2))]
    if not has_duplicates and rng.random() < 0.5:
        rng.shuffle(entries)
    # Several messages, one after the other, are merged: a context and an example.
    cut = rng.randint(0, len(entries)) if rng.random() < 0.2 else len(entries)
    parts = [b"".join(entries[:cut]), b"".join(entries[cut:])]
    example = b"".join(field(1, part) for part in parts if part)
    if fault == "damage" and example and not any(0 in each["shape"] for each in features):
        damaged = bytearray(example)
        at = rng.randrange(len(damaged))
        if rng.random() < 0.5:
            damaged[at] = rng.randrange(256)
        else:
            del damaged[at:]
        example = bytes(damaged)
    return example


def parsed(features: Sequence[dict[str, Any]], examples: Sequence[bytes]) -> dict[str, Any]:
    """What TensorFlow says."""
    specs = {
        each["name"]: tf.io.FixedLenFeature(
            each["shape"], tf.as_dtype(each["dtype"]), default_value(each)
        )
        for each in features
    }
    try:
        tensors = tf.io.parse_example(tf.constant(examples), specs)
    except tf.errors.InvalidArgumentError as error:
        text = re.sub(r"^{{function_node [^}]*}} | \[Op:\w+\]$", "", error.message)
        return {"error": text.partition("value: '")[0]}
    except UnicodeDecodeError:  # the text quotes bytes of the example
        return {"error": "Could not parse example input, "}
    return {"tensors": [shown(tensors[each["name"]].numpy()) for each in features]}


def default_value(each: dict[str, Any]) -> Any:
    """The default as TensorFlow wants it."""
    if each["default"] is None:
        return None
    dtype = {"string": object, "float": np.float32, "int64": np.int64}[each["dtype"]]
    return np.array(each["default"], dtype).reshape(each["shape"])


def shown(tensor: Any) -> Any:
    """A tensor in JSON: hexadecimal, one text for numbers and a list for strings."""
    if tensor.dtype == object:
        return [value.hex() for value in tensor.flatten()]
    return tensor.tobytes().hex()


def main(output: str) -> None:
    """Write the file."""
    rng = Random(7)
    lines = []
    for _ in range(CASES):
        fault = rng.choice(FAULTS)
        features = random_features(rng)
        count = rng.randint(1, 3)
        at_fault = rng.randrange(count)
        examples = [
            random_example(rng, features, fault if position == at_fault else "none")
            for position in range(count)
        ]
        result = parsed(features, examples)
        for each in features:
            if each["dtype"] == "string" and each["default"] is not None:
                each["default"] = [value.hex() for value in each["default"]]
            elif each["default"] is not None:
                each["default"] = default_value(each).tobytes().hex()
        lines.append(
            {
                "features": features,
                "examples": [example.hex() for example in examples],
                "is_damaged": fault == "damage",
                **result,
            }
        )
    Path(output).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
