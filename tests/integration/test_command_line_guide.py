"""The commands of docs/guides/command-line.md, run as written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from servable._server.config.flags import Flags
from servable._server.config.session_options import DEFAULT_SESSION_CONFIG
from servable.platforms import PlatformContext, find_platforms
from servable.platforms.tensorflow import TensorFlowPlatform
from support.server_process import COMMAND, ServerProcess

GUIDE = (Path(__file__).parents[2] / "docs/guides/command-line.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", GUIDE, re.DOTALL)


def shell(directory: Path, command: str) -> str:
    command = command.replace("servable ", f"{COMMAND} ", 1)
    result = subprocess.run(
        ["bash", "-c", command], cwd=directory, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    return result.stdout


def test_the_commands_work(demo_models: Path, tmp_path: Path) -> None:
    (tmp_path / ".demo").symlink_to(demo_models)
    commands = [text for kind, text in BLOCKS if kind == "sh"]
    assert len(commands) == 4
    (shown, _) = [text for kind, text in BLOCKS if not kind]
    assert shell(tmp_path, commands[0]) == shown.replace("/home/me", str(tmp_path))
    assert "curl -d" in shell(tmp_path, commands[1])
    flags = ["--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("turtle3")
        asked = commands[2].replace("8501", str(server.rest_port))
        assert "image  float32 [360]" in shell(tmp_path, asked)


def test_the_platforms_are_read(tmp_path: Path) -> None:
    file = tmp_path / "platforms.config"
    file.write_text([text for kind, text in BLOCKS if not kind][1])
    platforms = find_platforms(PlatformContext(Flags(platform_config_file=str(file))))
    two_threads = platforms["two_threads"]
    assert isinstance(two_threads, TensorFlowPlatform)
    assert two_threads.warm_up.recorded
    assert two_threads.options.saved_model.session_config == b"\x10\x02" + DEFAULT_SESSION_CONFIG
