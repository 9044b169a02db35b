#!/usr/bin/env python3
"""Serve the demo models in the foreground: one server, both models, both ports.

usage: run_demo.py DIRECTORY, which holds what examples/demo_models/export.py wrote
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

MODELS = ("turtle3", "turtle5")
GRPC_PORT, REST_PORT = 8500, 8501
REPORT = """\

  Serving {models}. Each port takes REST and gRPC:
    http://localhost:{grpc_port}   http://localhost:{rest_port}
  Try it from another terminal:
    curl -d @{request} http://localhost:{rest_port}/v1/models/{model}:predict
  Control-C stops the server.

"""


def write_config(directory: Path) -> Path:
    """Write the `--model_config_file` for both models."""
    entries = "".join(
        f'  config {{ name: "{name}" base_path: {json.dumps(str(directory / name))} '
        f'model_platform: "tensorflow" }}\n'
        for name in MODELS
    )
    path = directory / "models.config"
    path.write_text(f"model_config_list {{\n{entries}}}\n")
    return path


def is_served(model: str) -> bool:
    """Ask the server whether a version of the model is available."""
    url = f"http://localhost:{REST_PORT}/v1/models/{model}"
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
        return b'"AVAILABLE"' in answer.read()
    return False


def report_when_ready(server: int, directory: Path) -> None:
    """Wait until both models are served, then say so; give up when the server has ended."""
    while os.getppid() == server:
        if all(is_served(model) for model in MODELS):
            break
        time.sleep(0.05)
    else:
        return
    print(
        REPORT.format(
            models=" and ".join(MODELS),
            model=MODELS[0],
            grpc_port=GRPC_PORT,
            rest_port=REST_PORT,
            request=os.path.relpath(directory / "turtle_request.json"),
        ),
        end="",
        flush=True,
    )


def main() -> None:
    """Become the server; a child process reports when it is ready."""
    directory = Path(sys.argv[1]).resolve()
    config = write_config(directory)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors only
    server = os.getpid()
    if os.fork() == 0:
        report_when_ready(server, directory)
        os._exit(0)
    command = Path(sys.executable).with_name("servable")
    os.execv(
        command,
        [
            str(command),
            f"--port={GRPC_PORT}",
            f"--rest_api_port={REST_PORT}",
            f"--model_config_file={config}",
        ],
    )


if __name__ == "__main__":
    main()
