"""The path of the metrics page, from `--monitoring_config_file` (docs/spec/config_files.md §6)."""

from __future__ import annotations

import logging
from typing import Any

from servable._server.config.text_proto import parse_text_file

_log = logging.getLogger(__name__)

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def metrics_path(config_file: str) -> str:
    """The path of the metrics page; empty for none.

    Args:
        config_file: A file with a `MonitoringConfig` message; empty for none.

    Raises:
        ConfigError: The file cannot be used.
    """
    if not config_file:
        return ""
    config: Any = parse_text_file(config_file, "tensorflow.serving.MonitoringConfig")
    if not config.prometheus_config.enable:
        return ""
    path: str = config.prometheus_config.path or DEFAULT_METRICS_PATH
    if not path.startswith("/"):
        _log.warning(
            "The metrics page cannot be reached: its path does not begin with a slash: %s", path
        )
    return path
