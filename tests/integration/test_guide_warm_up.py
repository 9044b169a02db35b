"""The commands of docs/guides/warm-up.md, run as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from support.models import ROOT
from support.server_process import COMMAND, StartServer

GUIDE = (ROOT / "docs/guides/warm-up.md").read_text()


def test_the_commands_of_the_guide_print_what_it_says(
    start_server: StartServer, demo_models: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_models / "half_plus_two", tmp_path / "half_plus_two")
    (block,) = re.findall(r"(?ms)^```console\n(.*?)^```$", GUIDE)
    commands = re.findall(r"(?m)^\$ (.*)$", block)
    printed = "".join(line for line in block.splitlines(keepends=True) if not line.startswith("$"))
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        "\n".join(commands),
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == printed

    # The entry of the configuration file, with the model's actual path.
    (entry,) = re.findall(r"(?ms)^```\n(config \{.*?)^```$", GUIDE)
    config = tmp_path / "guide.config"
    config.write_text(f"model_config_list {{ {entry.replace('/models', str(tmp_path))} }}")
    server = start_server({}, f"--model_config_file={config}")
    server.wait_until_available("half_plus_two")
    assert "Number of warmup records read: 1." in server.log
