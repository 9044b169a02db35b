"""Metrics of the devices that TensorFlow uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from servable._server.telemetry.families import Family

Device: TypeAlias = tuple[str, str, int | None]
"""The name, such as `/job:localhost/replica:0/task:0/device:GPU:0`; the type; the memory limit in bytes, if known."""


def gpu_family(devices: Sequence[Device]) -> Family:
    """The memory of GPUs; without points where there is no GPU."""
    return Family(
        "servable_gpu_memory_limit_bytes",
        "gauge",
        ("device",),
        [
            ((short_name(name),), limit)
            for name, kind, limit in devices
            if kind == "GPU" and limit is not None
        ],
        "The memory of each GPU that TensorFlow may use, in bytes.",
    )


def short_name(name: str) -> str:
    """The part of a name that differs between devices of one process, such as `GPU:0`."""
    return name.rpartition("device:")[2]
