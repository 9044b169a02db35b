"""Programs that use clients of other projects: tritonclient, kserve, ovmsclient, schemathesis.

They run in separate processes, with the Python of `.venv/clients`, because their requirements conflict with those of
the tests. `make .venv/stamps/clients` installs them, pinned by requirements-clients.lock.

tritonclient and kserve each register the messages of the Open Inference Protocol, so one process can use the gRPC
client of only one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.models import ROOT

PYTHON = ROOT / ".venv/clients/bin/python"


@dataclass(frozen=True)
class Python:
    """An interpreter, and its installed packages.

    Attributes:
        path: The interpreter. Other programs, such as `schemathesis`, are in the same directory.
    """

    path: Path

    def run(self, program: str | Path, *arguments: object, timeout: float = 60) -> str:
        """Run a program and return its output.

        Args:
            program: A file, or the text of a program.
            *arguments: Its `sys.argv[1:]`.
            timeout: In seconds.

        Raises:
            AssertionError: It failed; the message is all its output.
        """
        source = [program] if isinstance(program, Path) else ["-c", program]
        finished = subprocess.run(
            [self.path, *source, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            # The path of the tests is for their own environment.
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
        return finished.stdout

    def run_json(self, program: str | Path, *arguments: object, timeout: float = 60) -> Any:
        """Run a program whose last line of output is a JSON document, and return the document."""
        return json.loads(self.run(program, *arguments, timeout=timeout).splitlines()[-1])
