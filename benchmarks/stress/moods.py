"""Errors that Python servables make on request, and the model that makes them."""

from __future__ import annotations

import enum

FIRST_TRIGGER = 1000.0
"""Inputs from this value on are commands, not numbers to be halved."""

NAP_SECONDS = 1.0
"""The duration of a run that hangs temporarily, in seconds."""


class Mood(enum.Enum):
    """A command: the offset of its trigger value, and the code that the caller should get."""

    RAISE = 0, "INTERNAL"
    REFUSE = 1, "INVALID_ARGUMENT"
    LACK = 2, "INTERNAL"  # an output
    MISSHAPE = 3, "INTERNAL"
    MISTYPE = 4, "INTERNAL"
    RETURN_NOTHING = 5, "INTERNAL"
    EXIT = 6, "INTERNAL"
    NAP = 7, "DEADLINE_EXCEEDED"  # longer than the caller waits
    DIE = 8, "UNAVAILABLE"  # the worker process exits
    HANG = 9, "DEADLINE_EXCEEDED"  # forever

    @property
    def trigger(self) -> float:
        """The input value."""
        return FIRST_TRIGGER + self.value[0]

    @property
    def code(self) -> str:
        """The code that the caller should get."""
        return self.value[1]


HARMLESS = tuple(mood for mood in Mood if mood not in (Mood.DIE, Mood.HANG))
"""The commands for models in the server process."""

LETHAL = (Mood.DIE, Mood.EXIT, Mood.HANG)
"""The commands that end a worker."""

MODEL = """\
import os
import time

from servable.errors import InvalidInputError
from servable.signature import Signature, TensorSpec

VECTOR = TensorSpec("float32", [None])


def leave():
    raise SystemExit(3)


def fail():
    raise ValueError("no")


def refuse():
    raise InvalidInputError("not this one")


class Model:
    signatures = {"serving_default": Signature({"x": VECTOR}, {"y": VECTOR})}

    def __init__(self, directory):
        self._offset = float((directory / "offset.txt").read_text())

    def run(self, inputs):
        x = inputs["x"]
        y = x * 0.5 + self._offset
        match int(x[0]) - 1000:
            case 0:
                fail()
            case 1:
                refuse()
            case 2:
                return {}
            case 3:
                return {"y": y.reshape(1, -1)}
            case 4:
                return {"y": y.astype("float64")}
            case 5:
                return None
            case 6:
                leave()
            case 7:
                time.sleep(1.0)
            case 8:
                os._exit(1)
            case 9:
                time.sleep(86400)
        return {"y": y}

    def close(self):
        raise RuntimeError("not even that")
"""
