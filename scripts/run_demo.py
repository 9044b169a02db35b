#!/usr/bin/env python3
"""Serve the demo models in the foreground: one server, both models, both ports.

usage: run_demo.py DIRECTORY, the output of examples/demo_models/export.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MODELS = ("turtle3", "turtle5")
GRPC_PORT, REST_PORT = 8500, 8501


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


def main() -> None:
    """Replace this process by the server."""
    directory = Path(sys.argv[1]).resolve()
    config = write_config(directory)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors only
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
