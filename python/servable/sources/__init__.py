"""Sources, which find the versions of models."""

from servable.sources._filesystem import FileSystemSource, MonitoredServable
from servable.sources._settling import IsComplete, SettleTimes
from servable.sources._static import StaticSource
from servable.sources._version_policy import All, Latest, Specific, VersionPolicy

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
