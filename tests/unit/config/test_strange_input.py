"""Parsers of the control plane accept or refuse any input; `make fuzz` runs longer."""

from __future__ import annotations

import importlib.util
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "scripts/fuzz_python.py"
TARGETS = (
    "model_config",
    "session_config",
    "batching",
    "monitoring",
    "ssl_config",
    "api_keys",
    "reload_config",
    "model_json",
    "tf_record",
)


@pytest.fixture(scope="module")
def program() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("fuzz_python", PROGRAM)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    tracemalloc.start()
    yield module
    tracemalloc.stop()


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_is_taken_or_refused(
    program: ModuleType, tmp_path: Path, target: str
) -> None:
    targets = program.seeds(tmp_path)
    assert set(targets) == set(TARGETS)
    parse, good = targets[target]
    assert program.fuzz(parse, good, inputs=300, seconds=60, seed=7) == 300


def test_unexpected_exceptions_are_reported(program: ModuleType) -> None:
    def fails(data: bytes, file: Path) -> None:
        if b"x" in data:
            raise KeyError("lost")

    with pytest.raises(program.FindingError, match="KeyError: 'lost'\nfor the input"):
        program.fuzz(fails, [b"aaaa"], inputs=10_000, seconds=60, seed=7)

    def grows(data: bytes, file: Path) -> None:
        bytearray(64 << 20)

    with pytest.raises(program.FindingError, match="bytes of memory"):
        program.fuzz(grows, [b"a"], inputs=1, seconds=60, seed=7)
