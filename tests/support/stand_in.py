"""The substitute for an extension that is not built, or outdated, in unit tests."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

from support.models import ROOT

STUB = ROOT / "python/servable/_core.pyi"


def crc32c(data: bytes) -> int:
    """The checksum of `servable._core`, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def install() -> None:
    """Install a module of empty classes with the extension's names."""
    stand_in = types.ModuleType("servable._core")
    for name in names():
        setattr(stand_in, name, type(name, (), {}))
    stand_in.crc32c = crc32c  # type: ignore[attr-defined]  # modules accept any attribute
    sys.modules["servable._core"] = stand_in


def names(stub: Path = STUB) -> list[str]:
    """The names in the extension's stub."""
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise LookupError(f"{stub} has no __all__")
