"""Figures of the server's process and of what it is built from."""

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
    """What the system knows of this process; nothing where it has no `/proc`.

    Each figure has two names: `process_…`, by which dashboards know it, and one with our prefix.
    """
    for name, value, text in _figures():
        kind = "counter" if name.endswith("_total") else "gauge"
        for prefix in ("process", "servable_process"):
            yield Family(f"{prefix}_{name}", kind, (), (((), value),), text)


def _figures() -> Iterator[tuple[str, float, str]]:
    times = os.times()
    yield "cpu_seconds_total", times.user + times.system, "User and system time of the process."
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
    yield "resident_memory_bytes", pages[1] * page_bytes, "Memory that the process has in RAM."
    yield "virtual_memory_bytes", pages[0] * page_bytes, "Memory that the process has mapped."
    yield "open_fds", open_files, "Open file descriptors."
    if most_files != resource.RLIM_INFINITY:
        yield "max_fds", most_files, "The most file descriptors that may be open."
    yield "threads", int(threads), "Threads of the process."
    yield "start_time_seconds", started, "When the process started, in seconds since 1970."


def build_family(tensorflow: str | None) -> Family:
    """The versions of the server and of what it runs on.

    Args:
        tensorflow: The version of TensorFlow, if there is one.
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
    # The second field is a name in parentheses, which may hold anything; the 22nd is meant.
    ticks = int(stat.rpartition(")")[2].split()[19])
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK"), 2)
