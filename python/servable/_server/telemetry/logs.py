"""The log of the control plane: lines on stderr, in the format of TensorFlow Serving."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

_LETTERS = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}
_LEVELS = {"0": logging.INFO, "1": logging.WARNING, "2": logging.ERROR, "3": logging.CRITICAL}


class TensorFlowFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123456: I servable/_server/server.py:42] message`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line without a traceback."""
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        level = _LETTERS.get(record.levelno, "I")
        place = f"{record.name.replace('.', '/')}.py:{record.lineno}"
        return f"{seconds}.{micros:06d}: {level} {place}] {record.message}"


def configure_logging(environment: Mapping[str, str]) -> None:
    """Send the package's log to stderr.

    Args:
        environment: `TF_CPP_MIN_LOG_LEVEL` chooses what is left out: 0 nothing (the default), 1 INFO, 2 warnings too, 3
            errors too.
    """
    # The format shows none of these, and collecting them takes a good part of the time per line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TensorFlowFormatter())
    logger = logging.getLogger("servable")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(_LEVELS.get(environment.get("TF_CPP_MIN_LOG_LEVEL", "0"), logging.INFO))
