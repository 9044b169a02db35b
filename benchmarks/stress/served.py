"""Parts of the benchmarks that the stress programs share: the running server, the load generator, the model."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving"))

from bench import FULL, Bench, Figure, save_answer  # found by the line above
from load import (
    OUTPUT,
    Call,
    Expectation,
    LoadResult,
    packed_output,
    write_calls,
)
from measure_cpu import measure_load
from processes import (
    START_SECONDS,
    ServerProcess,
    free_port,
    running,
    server_command,
)
from run import build_programs, export_model

__all__ = [
    "FULL",
    "OUTPUT",
    "START_SECONDS",
    "Bench",
    "Call",
    "Expectation",
    "Figure",
    "LoadResult",
    "ServerProcess",
    "add_version",
    "build_programs",
    "config_text",
    "export_model",
    "footprint",
    "free_port",
    "measure_load",
    "packed_output",
    "running_configured",
    "save_answer",
    "wait_until",
    "write_calls",
]


def config_text(entries: dict[str, Path], more: str = "") -> str:
    """The text of a `--model_config_file` that serves the given base paths of SavedModels."""
    lines = [
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {more} }}'
        for name, path in entries.items()
    ]
    return "model_config_list {\n" + "\n".join(lines) + "\n}\n"


@contextlib.contextmanager
def running_configured(config: Path, log: Path, *flags: str) -> Iterator[ServerProcess]:
    """Run the product with a configuration file; it may not answer yet.

    Args:
        config: The file.
        log: The file of its output.
        flags: Further flags.
    """
    port = free_port()
    command = [
        *server_command(),
        f"--model_config_file={config}",
        f"--port={port}",
        "--rest_api_port=0",
        "--max_num_load_retries=0",
        *flags,
    ]
    with log.open("ab") as output, running(command, output.fileno()) as process:
        yield ServerProcess(process, port)


def add_version(base_path: Path, version: int, template: Path, offset: float) -> None:
    """Add a version as a deployment should: written elsewhere, then renamed.

    Args:
        base_path: The directory of the versions.
        version: The number of the new version.
        template: A version directory of `half_plus_two`, whose offset is an asset.
        offset: The constant that the new version adds to x / 2.
    """
    aside = base_path / f"writing-{version}"
    shutil.copytree(template, aside)
    (aside / "assets/offset.txt").write_text(str(offset))
    aside.rename(base_path / str(version))


def footprint(process_id: int) -> str:
    """The resources of a process: resident memory, open files, threads."""
    root = Path(f"/proc/{process_id}")
    resident = int((root / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    files, threads = (len(os.listdir(root / kind)) for kind in ("fd", "task"))
    return f"{resident:.0f} MB resident, {files} files, {threads} threads"


def wait_until(
    condition: Callable[[], bool], seconds: float = 120.0, pause_seconds: float = 0.01
) -> None:
    """Wait until a condition holds; the server may not listen yet.

    Raises:
        TimeoutError: It does not hold in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        time.sleep(pause_seconds)
    raise TimeoutError(f"not after {seconds} s; see the server's log")
