"""Recorded cases: requests, and the answers of TensorFlow Serving.

One JSON object a line. Text that is no UTF-8 is under another key, `KEY_bytes`, with each byte as the character of that
code. A `rest` case has the bytes of a whole HTTP request (`send`). With `raw`, all responses on the connection are
compared, and whether the server closed it. A `grpc` case has a method and a serialized message, or a message in text
format (`send_text`). A `scenario` has `steps`, on a separate server.

`compare` limits the comparison where TensorFlow Serving varies from run to run: `json` (only the JSON value of the body
counts), `prefix` (only the error text up to the dump of a message), `status` (only the status or code), `any` (nothing
counts).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Case = dict[str, Any]
Answer = dict[str, Any]
"""`status`, `headers` and `body`; or `code` and `message` or `response`; or `outcome`, if there was no answer."""


def load_cases(recording: Path) -> list[Case]:
    """The cases of one file, in recorded order."""
    with gzip.open(recording, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def keyed(key: str, data: bytes) -> tuple[str, str]:
    """The key and the text that represent bytes."""
    try:
        return key, data.decode()
    except UnicodeDecodeError:
        return f"{key}_bytes", data.decode("latin-1")


def recorded_bytes(recorded: dict[str, Any], key: str) -> bytes:
    """The bytes under a key."""
    if key in recorded:
        return str(recorded[key]).encode()
    return str(recorded[f"{key}_bytes"]).encode("latin-1")
