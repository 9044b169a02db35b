"""The only importer of `_core`: what the control plane hands to the request path.

The rest of the package sees the extension through this module, so that the border stays in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servable._core import (
    COMMIT,
    BatchQueue,
    BatchThreads,
    BatchTicket,
    Completions,
    Servable,
    Server,
    TensorFlow,
    crc32c,
)
from servable._server.config.traffic import Shadow, TrafficSplit
from servable.errors import Code

__all__ = [
    "COMMIT",
    "BatchQueue",
    "BatchThreads",
    "BatchTicket",
    "Completions",
    "PublishedModel",
    "PublishedVersion",
    "Servable",
    "Server",
    "TensorFlow",
    "crc32c",
]


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """What requests may know of one version.

    Attributes:
        version: The version number.
        state: The number of `ModelVersionStatus.State`, such as 30 for AVAILABLE.
        servable: What answers requests; set exactly while requests may be routed to the version.
        error_code: Why the version is not healthy; OK if it is.
        error_message: The text that goes with the code.
    """

    version: int
    state: int
    servable: Servable | None = None
    error_code: int = Code.OK
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What requests may know of one model.

    Attributes:
        name: The model's name, as requests spell it.
        versions: Every version that status may list, in any order.
        labels: Version numbers by label.
        unavailable_reason: Set while a configured model has not had its first available version: requests get
            UNAVAILABLE with this text instead of NOT_FOUND.
        splits: How requests that name no version are spread, at most one for each label. A version that is not
            available leaves its share to the others; if none is, requests get NOT_FOUND.
        shadow: The version that gets copies of Predict requests that name no version.
    """

    name: str
    versions: tuple[PublishedVersion, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    unavailable_reason: str | None = None
    splits: tuple[TrafficSplit, ...] = ()
    shadow: Shadow | None = None
