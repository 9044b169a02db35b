"""Unit tests run without the extension: where it is not built, stand-ins take its place."""

from __future__ import annotations

import importlib.util
import sys
import types


def crc32c(data: bytes) -> int:
    """The checksum of `servable._core`, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


if importlib.util.find_spec("servable._core") is None:
    stand_in = types.ModuleType("servable._core")
    for name in ("Servable", "Server", "TensorFlow"):
        setattr(stand_in, name, type(name, (), {}))
    stand_in.crc32c = crc32c  # type: ignore[attr-defined]  # modules have what they are given
    sys.modules["servable._core"] = stand_in
