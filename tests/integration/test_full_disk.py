"""Remote models on a full disk."""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server_process import StartServer, free_port


class SmallDisk:
    """A file system of limited size, in memory; skips the test if it cannot be mounted."""

    def __init__(self, path: Path, options: str) -> None:
        path.mkdir()
        self.path = path
        mounted = self._mount(options)
        if mounted.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")

    def grow(self, options: str) -> None:
        """Change its size."""
        grown = self._mount(f"remount,{options}")
        assert grown.returncode == 0, grown.stderr

    def unmount(self) -> None:
        """Unmount it, even if it is in use."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def _mount(self, options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Python's web server, which lists directories."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def web(demo_models: Path) -> Iterator[str]:
    """The URL of a web server of the demo models."""
    handler = functools.partial(Handler, directory=str(demo_models))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("full", "reason"),
    [
        # With few files a write finds the disk full; with few bytes the fetch is not even begun.
        ("size=32m,nr_inodes=12", "No space left on device"),
        ("size=8k,nr_inodes=1000", "There is no room for"),
    ],
)
def test_a_full_disk_concerns_one_version_until_there_is_room(
    web: str,
    demo_models: Path,
    tmp_path: Path,
    start_server: StartServer,
    full: str,
    reason: str,
) -> None:
    pytest.importorskip("aiohttp")
    disk, admin = SmallDisk(tmp_path / "disk", full), free_port()
    try:
        models: dict[str, Any] = {
            "near": demo_models / "half_plus_two",
            "far": f"{web}/half_plus_two",
        }
        server = start_server(
            models,
            f"--remote_cache_directory={disk.path / 'cache'}",
            "--remote_poll_wait_seconds=0.2",
            "--max_num_load_retries=1",
            "--load_retry_interval_micros=100000",
            f"--admin_api_port={admin}",
        )
        server.wait_until_state("far", 1, "END")
        (version,) = server.request("GET", "/v1/models/far").json()["model_version_status"]
        assert version["status"]["error_code"] == "RESOURCE_EXHAUSTED"
        assert reason in version["status"]["error_message"]
        assert "Retrying of Loading servable: {name: far version: 1} retry: 1" in server.log
        assert server.predict("near", {"instances": [1.0]}).json() == {"predictions": [2.5]}

        disk.grow("size=32m,nr_inodes=1000")
        url = f"http://127.0.0.1:{admin}/v1/admin/models/far/versions/1"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=60) as reply:
            assert json.load(reply)["versions"][0]["state"] == "AVAILABLE"
        assert server.predict("far", {"instances": [1.0]}).json() == {"predictions": [2.5]}
    finally:
        disk.unmount()
