"""Recorded cases: what was sent, and what TensorFlow Serving answered.

One JSON object a line. Text that is no UTF-8 stands under another key, `KEY_bytes`, each byte as the character of that
code. A `rest` case has the bytes of a whole HTTP request (`send`); with `raw`, every response on the connection counts,
and whether the server closed it. A `grpc` case has a method and a serialized message, or a message in text format
(`send_text`). A `scenario` has `steps`, on a server of its own.

`compare` tells in what TensorFlow Serving varies from run to run: `json` (only the JSON value of the body counts),
`prefix` (only the error text up to the dump of a message), `status` (only the status or code), `any` (nothing counts).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Case = dict[str, Any]
Answer = dict[str, Any]
"""`status`, `headers` and `body`; or `code` and `message` or `response`; or `outcome`, where there was no answer."""


def load_cases(recording: Path) -> list[Case]:
    """The cases of one file, in the order in which they were recorded."""
    with gzip.open(recording, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def keyed(key: str, data: bytes) -> tuple[str, str]:
    """The key and the text under which bytes are recorded."""
    try:
        return key, data.decode()
    except UnicodeDecodeError:
        return f"{key}_bytes", data.decode("latin-1")


def recorded_bytes(recorded: dict[str, Any], key: str) -> bytes:
    """The bytes that are recorded under a key."""
    if key in recorded:
        return str(recorded[key]).encode()
    return str(recorded[f"{key}_bytes"]).encode("latin-1")
