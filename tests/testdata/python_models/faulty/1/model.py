"""Raises errors and returns values on command."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from servable import errors
from servable.signature import TensorSpec, serves

WRONG = {
    "none": None,
    "missing": {},
    "other names": {"a": np.zeros(1), "b": np.zeros(1)},
    "dtype": {"y": np.zeros(1, np.float64)},
    "no dtype": {"y": np.zeros(1, "datetime64[s]")},
    "shape": {"y": np.zeros((1, 2), np.float32)},
    "string": {"y": np.array([b"x"], object)},
    "object": {"y": np.array([1], object)},
    "lambda": {"y": lambda: 0},
}


class Interrupt(BaseException):
    def __str__(self) -> str:
        raise SystemExit(4)


NOT_EXCEPTIONS = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "BaseException": lambda: BaseException("base"),
    "Interrupt": Interrupt,
}


class ExitsWhilePickled:
    def __reduce__(self) -> Any:
        raise SystemExit(5)

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        raise SystemExit(5)


@serves(inputs={"what": TensorSpec("string", [None])}, outputs={"y": TensorSpec("float32", [None])})
def fail(inputs: Mapping[str, Any]) -> Any:
    what = inputs["what"][0].decode()
    if what in WRONG:
        return WRONG[what]
    if what == "ValueError":
        raise ValueError("not that one")
    if what in NOT_EXCEPTIONS:
        raise NOT_EXCEPTIONS[what]()
    if what == "exit while pickled":
        return {"y": ExitsWhilePickled()}
    if what == "HTTPError":
        # Looks like an error of ours, but is none.
        error = RuntimeError("upstream")
        error.code, error.message = 4, "deadline"  # type: ignore[attr-defined]
        raise error
    if what.startswith("code "):
        raise errors.from_code(int(what.removeprefix("code ")), "as told")
    if what:
        raise getattr(errors, what)("as told")
    return {"y": np.zeros(1, np.float32)}
