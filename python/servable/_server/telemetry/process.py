"""Metrics of the server's process and its build."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from servable import __version__
from servable._server.telemetry.families import Family

_PROCESS = Path("/proc/self")


def process_families() -> Iterator[Family]:
    """Figures of this process; none where the system has no `/proc`.

    Each figure has two names: `process_…`, which dashboards use, and one with our prefix.
    """
    for name, value, text in _figures():
        kind = "counter" if name.endswith("_total") else "gauge"
        for prefix in ("process", "servable_process"):
            yield Family(f"{prefix}_{name}", kind, (), (((), value),), text)


def _figures() -> Iterator[tuple[str, float, str]]:
    times = os.times()
    yield "cpu_seconds_total", times.user + times.system, "User and system CPU time in seconds."
    try:
        pages = [int(pages) for pages in (_PROCESS / "statm").read_text().split()]
        status = (_PROCESS / "status").read_text()
        open_files = len(os.listdir(_PROCESS / "fd"))
        started = _start_time((_PROCESS / "stat").read_text())
    except OSError:
        return
    threads = next(line.split()[1] for line in status.splitlines() if line.startswith("Threads:"))
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "resident_memory_bytes", pages[1] * page_bytes, "Resident memory in bytes."
    yield "virtual_memory_bytes", pages[0] * page_bytes, "Virtual memory in bytes."
    yield "open_fds", open_files, "Open file descriptors."
    if most_files != resource.RLIM_INFINITY:
        yield "max_fds", most_files, "Limit of open file descriptors."
    yield "threads", int(threads), "Number of threads of the process."
    yield "start_time_seconds", started, "Start time of the process, in seconds since the epoch."


def build_family(tensorflow: str | None) -> Family:
    """The versions of the server and its runtimes.

    Args:
        tensorflow: The version of TensorFlow, if it is installed.
    """
    values = (__version__, platform.python_version(), tensorflow or "")
    return Family(
        "servable_build_info",
        "gauge",
        ("version", "python", "tensorflow"),
        ((values, 1),),
        "The versions of the server, of Python and of TensorFlow.",
    )


def _start_time(stat: str) -> float:
    # The second field is a name in parentheses, which may contain anything; this reads the 22nd.
    ticks = int(stat.rpartition(")")[2].split()[19])
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK"), 2)
