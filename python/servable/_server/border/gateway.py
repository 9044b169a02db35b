"""The only importer of `_core`: the types that the control plane passes to the request path.

The rest of the package uses the extension through this module, so that the border stays in one place.
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
    LightGBM,
    LiteRt,
    OnnxRuntime,
    Servable,
    Server,
    TensorFlow,
    Workers,
    XGBoost,
    crc32c,
    load_embeddings,
)
from servable._server.config.traffic import Shadow, TrafficSplit
from servable.errors import Code

__all__ = [
    "COMMIT",
    "BatchQueue",
    "BatchThreads",
    "BatchTicket",
    "Completions",
    "LightGBM",
    "LiteRt",
    "OnnxRuntime",
    "PublishedModel",
    "PublishedVersion",
    "Servable",
    "Server",
    "TensorFlow",
    "Workers",
    "XGBoost",
    "crc32c",
    "load_embeddings",
]


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """The public state of one version.

    Attributes:
        version: The version number.
        state: The number of `ModelVersionStatus.State`, such as 30 for AVAILABLE.
        servable: Answers requests; set exactly while requests may be routed to the version.
        error_code: The code of the version's error; OK without one.
        error_message: The text of the error.
    """

    version: int
    state: int
    servable: Servable | None = None
    error_code: int = Code.OK
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """The public state of one model.

    Attributes:
        name: The name in requests.
        versions: Every version that status may list, in any order.
        labels: Version numbers by label.
        unavailable_reason: Set while a configured model has not had its first available version: requests get
            UNAVAILABLE with this text instead of NOT_FOUND.
        splits: The distribution of requests that name no version, at most one for each label. The share of an
            unavailable version goes to the others; if none is available, requests get NOT_FOUND.
        shadow: The version that gets copies of Predict requests that name no version.
    """

    name: str
    versions: tuple[PublishedVersion, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    unavailable_reason: str | None = None
    splits: tuple[TrafficSplit, ...] = ()
    shadow: Shadow | None = None
