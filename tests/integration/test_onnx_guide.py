"""The commands of docs/guides/onnx.md, run as written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from servable._server.config.kind_options import parse_options
from servable.loaders._onnx import OnnxOptions
from support.models import ROOT
from support.server_process import ServerProcess

GUIDE = (ROOT / "docs/guides/onnx.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", GUIDE, re.DOTALL)


def rounded(value: Any) -> Any:
    """The same document with two decimals."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


def test_the_guide_leads_from_training_to_a_query(tmp_path: Path) -> None:
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    (serve,) = [text for _, text in BLOCKS if text.startswith("servable ")]
    assert serve == "servable iris --port=8500\n"
    queries = [text for _, text in BLOCKS if text.startswith("curl ")]
    answers = [json.loads(text) for kind, text in BLOCKS if kind == "json"]
    with ServerProcess([str(tmp_path / "iris")], directory=tmp_path) as server:
        server.wait_until_available("iris")
        for query, answer in zip(queries, answers, strict=True):
            command = query.replace("8500", str(server.port)).replace("curl", "curl -sS")
            done = subprocess.run(
                command, shell=True, capture_output=True, text=True, check=True, timeout=60
            )
            assert rounded(json.loads(done.stdout)) == answer


def test_the_table_has_all_options_and_their_defaults() -> None:
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| `([^`]*)` \|", GUIDE))
    assert list(rows) == [field.name for field in fields(OnnxOptions)]
    assert parse_options(OnnxOptions, rows) == OnnxOptions()
