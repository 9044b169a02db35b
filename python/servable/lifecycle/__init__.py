"""The life of versions, from discovery to unloading: sources, loaders, policies, managers.

This package knows no files, frameworks or network: the same parts can serve look-up tables. Each part can be used
alone.

| concern | names |
|---|---|
| the name of one version | `ServableId` |
| versions on their way from source to manager | `Source`, `Target`, `AspiredVersion` |
| transformations between source and manager | `SourceAdapter`, `SourceRouter` and its two kinds, `ErrorSourceAdapter` |
| loading one version, and its memory | `Loader`, `Preparable`, `Servable`, `ObjectLoader`, `ResourceTracker` |
| one version's state machine, with retries | `LoaderHarness`, `HarnessState`, `RetryPolicy` |
| the next step of a stream | `AspiredVersionPolicy` and its two kinds, `VersionSnapshot`, `Action` |
| managers | `AspiredVersionsManager`, `CachingManager`, `StaticManager` |
| publication of states | `Publisher`, `ServableHandles`, `EventBus`, `StateMonitor` |
"""

from servable.lifecycle._caching_manager import CachingManager, LoaderFactory, StaticManager
from servable.lifecycle._handles import Handle, ObjectLoader, ObjectServable, ServableHandles
from servable.lifecycle._harness import LoaderHarness, RetryPolicy
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader, Preparable, Servable
from servable.lifecycle._manager import AspiredVersionsManager, Publisher
from servable.lifecycle._monitor import EventBus, RecordedState, StateMonitor
from servable.lifecycle._policy import (
    Action,
    ActionKind,
    AspiredVersionPolicy,
    VersionSnapshot,
    availability_preserving_policy,
    resource_preserving_policy,
)
from servable.lifecycle._resources import ResourceTracker
from servable.lifecycle._router import (
    DynamicSourceRouter,
    ErrorSourceAdapter,
    SourceRouter,
    StaticSourceRouter,
)
from servable.lifecycle._source import AspiredVersion, Source, SourceAdapter, Target
from servable.lifecycle._states import HarnessState, ServableEvent, ServableState
from servable.lifecycle._workers import Workers, WorkerThreads

__all__ = [
    "Action",
    "ActionKind",
    "AspiredVersion",
    "AspiredVersionPolicy",
    "AspiredVersionsManager",
    "CachingManager",
    "DynamicSourceRouter",
    "ErrorSourceAdapter",
    "EventBus",
    "Handle",
    "HarnessState",
    "Loader",
    "LoaderFactory",
    "LoaderHarness",
    "ObjectLoader",
    "ObjectServable",
    "Preparable",
    "Publisher",
    "RecordedState",
    "ResourceTracker",
    "RetryPolicy",
    "Servable",
    "ServableEvent",
    "ServableHandles",
    "ServableId",
    "ServableState",
    "Source",
    "SourceAdapter",
    "SourceRouter",
    "StateMonitor",
    "StaticManager",
    "StaticSourceRouter",
    "Target",
    "VersionSnapshot",
    "WorkerThreads",
    "Workers",
    "availability_preserving_policy",
    "resource_preserving_policy",
]
