"""The example of docs/guides/batching.md, run as written."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from servable._server.config.batching import ModelBatching, flags_batching
from servable._server.config.flags import Flags
from servable._server.config.models import read_model_config_file
from servable.batching import BatchingParameters

GUIDE = (Path(__file__).resolve().parents[2] / "docs/guides/batching.md").read_text()


@pytest.mark.usefixtures("real_extension")
def test_the_example_prints_the_output_in_the_guide() -> None:
    (program,) = re.findall(r"(?ms)^```python\n(.*?)^```$", GUIDE)
    (printed,) = re.findall(r"(?ms)^```text\n(.*?)^```$", GUIDE)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == (printed, "")


def test_the_table_has_every_parameter() -> None:
    names = re.findall(r"(?m)^\| `(\w+)` \|", GUIDE)
    assert names == [field.name for field in dataclasses.fields(BatchingParameters)]


def test_the_files_of_the_guide_are_read(tmp_path: Path) -> None:
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", GUIDE)
    parameters, models = (block for language, block in blocks if not language)
    file = tmp_path / "some.config"
    file.write_text(parameters)
    flags = Flags(enable_batching=True, batching_parameters_file=str(file))
    assert flags_batching(flags).parameters == BatchingParameters(
        64, 2000, num_batch_threads=4, allowed_batch_sizes=(8, 16, 32, 64)
    )
    file.write_text(models)
    read = read_model_config_file(str(file))
    assert read is not None
    assert [model.batching for model in read] == [
        ModelBatching(BatchingParameters(8, 500)),
        ModelBatching(is_off=True),
    ]


def test_the_options_of_the_guide_are_read(tmp_path: Path) -> None:
    file, batchings = tmp_path / "models.config", []
    for options in re.findall(r"(?ms)^```textproto\n(.*?)^```$", GUIDE):
        model = f"name: 'm' base_path: '/m' model_platform: 'tensorflow' {options}"
        file.write_text(f"model_config_list {{ config {{ {model} }} }}")
        read = read_model_config_file(str(file))
        assert read is not None
        batchings += [model.batching.parameters for model in read]
    assert batchings == [
        BatchingParameters(
            64,
            mixed_priority_batching_policy="priority_isolation",
            low_priority_max_batch_size=16,
            low_priority_batch_timeout_micros=50_000,
            low_priority_max_enqueued_batches=100,
        ),
        BatchingParameters(latency_objective_millis=40),
    ]
