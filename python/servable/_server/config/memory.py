"""The memory limit of the server: that of the machine, of the control group, or of the process (rlimit)."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_memory(root: Path = Path("/")) -> int:
    """The lowest of all limits, in bytes.

    Args:
        root: The parent of `proc` and `sys`.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [_of_machine(root), *_of_control_groups(root)]
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def _of_machine(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    return 2**63 - 1


def _of_control_groups(root: Path) -> Iterator[int]:
    """The limits of the process's control groups and of all their parents, of both versions.

    In a container, the path of the group may be that of the host; the container's group is then mounted at the top.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for part in (group, *group.parents):
            limit = _read(mount / part / name).strip()
            if limit.isdigit():
                yield int(limit)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
