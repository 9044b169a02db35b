"""A model that was quick so far, and takes long now, holds up nobody but those who asked it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.server_process import StartServer, steps_that_take


def test_a_quick_model_that_takes_long_leaves_the_server_to_others(
    start_server: StartServer, runtime_models: Path
) -> None:
    server = start_server({"steps": runtime_models / "steps"}, "--worker_threads=2")
    server.wait_until_available("steps")
    long = steps_that_take(server, 1.5)
    for _ in range(150):
        assert server.predict("steps", {"inputs": 1}).status == 200
    with ThreadPoolExecutor(3) as executor:
        runs = []
        for _ in range(3):
            runs.append(executor.submit(server.predict, "steps", {"inputs": long}))
            # The next one finds that this one should have ended by then, and spares the other worker.
            time.sleep(0.1)
        for _ in range(5):
            assert server.request("GET", "/v1/models/steps").status == 200
            assert server.request("GET", "/v2/health/live").status == 200
        assert not any(run.done() for run in runs)
        assert [run.result().status for run in runs] == [200] * 3
