"""Opens several runtimes in one process in an order, runs a model of each, and forks: `open_runtimes.py PATH...`.

Each PATH is PLATFORM=VERSION, or the name of a Python package to import.
"""

from __future__ import annotations

import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from servable._server.config.models import ModelConfig
from servable.lifecycle import ServableId
from servable.platforms import PlatformContext, VersionDirectory, find_platforms

RUNS = 50


def train_with_several_threads() -> None:
    """Use OpenMP through the packages."""
    import lightgbm
    import numpy as np
    import xgboost

    x, y = np.random.default_rng(0).random((2000, 5)), np.arange(2000)
    xgboost.train({"nthread": 3}, xgboost.DMatrix(x, y), 3)
    lightgbm.train({"num_threads": 3, "verbosity": -1}, lightgbm.Dataset(x, y), 3)


def main(steps: list[str]) -> None:
    """Open, run, fork, and run again."""
    platforms = find_platforms(PlatformContext())
    servables: list[Any] = []
    for step in steps:
        name, _, path = step.partition("=")
        if not path:
            importlib.import_module(name)
            continue
        model = ModelConfig(name, os.path.dirname(path), name)
        loader = platforms[name].make_loader(ServableId(name, 1), VersionDirectory(path, model))
        loader.load()
        servables.append(loader.servable)

    def run(servable: Any) -> None:
        faults = servable.warm_up_with_zeros(RUNS)
        assert None in faults.values(), faults

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, servables * 2))
    child = os.fork()
    if not child:
        # A child of a process that has served can use the libraries too.
        try:
            train_with_several_threads()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    train_with_several_threads()
    for servable in servables:
        run(servable)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1:])
