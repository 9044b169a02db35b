"""Sleeps, spins, hangs and exits on command; answers with the id of its process."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from servable.signature import TensorSpec, serves


@serves(
    inputs={"do": TensorSpec("string", [None])}, outputs={"process": TensorSpec("int64", [None])}
)
def obey(inputs: Mapping[str, Any]) -> dict[str, Any]:
    order, _, argument = inputs["do"][0].decode().partition(" ")
    if order == "exit":
        os._exit(int(argument))
    elif order == "crash":
        ctypes.string_at(0)
    elif order == "sleep":
        time.sleep(float(argument))
    elif order == "spin":
        end = time.monotonic() + float(argument)
        while time.monotonic() < end:
            pass
    elif order == "print":
        print(argument)
        print(argument, file=sys.stderr, flush=True)
        sys.stdout.flush()
    return {"process": np.array([os.getpid()])}
