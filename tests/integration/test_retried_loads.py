"""Retries of loads, while the configuration changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from support.server_process import ServerProcess

# Cannot be loaded while there is no file `gate` beside the versions; reports which process runs it.
MODEL = """
import os
from pathlib import Path

from servable.signature import TensorSpec, serves

Path(__file__).resolve().parents[1].joinpath("gate").stat()


@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("int64", [None])})
def process(inputs):
    return {"y": [os.getpid()] * len(inputs["x"])}
"""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_retry_uses_the_configuration_that_is_in_force_by_then(tmp_path: Path) -> None:
    version = tmp_path / "m/1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    config = tmp_path / "models.config"

    def configure(options: str) -> None:
        new = tmp_path / "new.config"
        new.write_text(
            f'model_config_list {{ config {{ name: "m" base_path: "{version.parent}" '
            f'model_platform: "python" servable_options {{ {options} }} }} }}'
        )
        os.replace(new, config)

    configure("python { workers: 0 }")
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--max_num_load_retries=100000",
        "--load_retry_interval_micros=50000",
        "--open_ports=at_once",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        wait_for(lambda: "retry: 2" in server.log)
        configure(
            "python { workers: 1 } batching { max_batch_size { value: 3 } } warmup { automatic: true }"
        )
        wait_for(lambda: server.log.count("(Re-)adding model: m") == 2)
        # The running attempt, and one that may have begun with the earlier configuration.
        retries = server.log.count("retry: ")
        wait_for(lambda: server.log.count("retry: ") > retries + 2)
        (version.parent / "gate").touch()
        server.wait_until_available("m")

        answer = server.predict("m", {"instances": [1.0, 2.0]}).json()
        assert set(answer["predictions"]).isdisjoint({server.process.pid}), "no worker runs it"
        refused = server.predict("m", {"instances": [1.0, 2.0, 3.0, 4.0]})
        assert (refused.status, "3" in refused.error) == (400, True), "it is not batched"
        assert "with zeros" in server.log, "it was not warmed up"
