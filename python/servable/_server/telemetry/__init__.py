"""Telemetry of the control plane: its log, and its part of the metrics page."""

from servable._server.telemetry.control_plane import ControlPlaneMetrics
from servable._server.telemetry.logs import TensorFlowFormatter, configure_logging

__all__ = ["ControlPlaneMetrics", "TensorFlowFormatter", "configure_logging"]
