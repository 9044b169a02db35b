"""Where versions come from."""

from servable.sources.filesystem import FileSystemSource, MonitoredServable
from servable.sources.settling import IsComplete, SettleTimes
from servable.sources.static import StaticSource
from servable.sources.version_policy import All, Latest, Specific, VersionPolicy

__all__ = [
    "All",
    "FileSystemSource",
    "IsComplete",
    "Latest",
    "MonitoredServable",
    "SettleTimes",
    "Specific",
    "StaticSource",
    "VersionPolicy",
]
