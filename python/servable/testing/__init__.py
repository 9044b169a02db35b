"""Test support, for this package and for authors of sources, loaders and servables."""

from servable.testing._fakes import (
    FakeClock,
    FakeLoader,
    FakeServable,
    FakeWorkers,
    RecordingPublisher,
    RecordingTarget,
)
from servable.testing._running_server import RunningServer, free_port, running_server
from servable.testing._serving import ServableServer, Served, serving

__all__ = [
    "FakeClock",
    "FakeLoader",
    "FakeServable",
    "FakeWorkers",
    "RecordingPublisher",
    "RecordingTarget",
    "RunningServer",
    "ServableServer",
    "Served",
    "free_port",
    "running_server",
    "serving",
]
