"""The memory limit, from each of the system's sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from servable._server.config.memory import available_memory

MIB = 2**20


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * MIB),
        (
            {
                "proc/self/cgroup": "0::/system.slice/a.service\n",
                "sys/fs/cgroup/system.slice/a.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": f"{3 * MIB}\n",
            },
            3 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/of/the/host\n",
                "sys/fs/cgroup/memory.max": f"{2 * MIB}\n",
            },
            2 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "9:cpu,cpuacct:/a\n4:memory:/docker/b\n",
                "sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes": f"{MIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            },
            MIB,
        ),
    ],
    ids=["machine", "version 2", "inside a container", "version 1"],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    files = {"proc/meminfo": "MemTotal:        8192 kB\nMemFree: 1 kB\n", **files}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_memory(tmp_path) == expected


def test_this_machine_has_memory() -> None:
    assert available_memory() > MIB
