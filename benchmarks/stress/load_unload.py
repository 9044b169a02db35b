"""Load and unload a model repeatedly: does memory, a file or a thread leak?

usage: load_unload.py [--cycles=N] [--megabytes=M] [--seconds=S]        (needs the `tensorflow` package)

Each cycle does what a server does with a version: load, warm up on zeros, unload. Prints resident memory, open files
and threads after the tenth cycle and at the end, and their ratio. The exit status is 1 if memory has grown by more than
a factor of 1.1, or if the number of files or threads has grown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from servable.lifecycle._loader import Loader
from servable.loaders import SavedModelLoader, SavedModelOptions, TensorFlowRuntime
from servable.warmup import WarmUpLoader, WarmUpOptions

SETTLED_AT = 10
MOST_GROWTH = 1.1

EXPORT = """
import sys
import tensorflow as tf

class Model(tf.Module):
    def __init__(self, rows):
        self.weights = tf.Variable(tf.random.stateless_uniform([rows, 1024], seed=(1, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": tf.matmul(x, self.weights[: tf.shape(x)[1]])}

model = Model(int(sys.argv[2]) * 1024 // 4)
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.serve})
"""


@dataclass(frozen=True)
class Footprint:
    """The resources of the process at one moment."""

    cycle: int
    resident_mb: float
    files: int
    threads: int

    @classmethod
    def now(cls, cycle: int) -> Footprint:
        """Measure the process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        return cls(cycle, resident, files, threads)

    def __str__(self) -> str:
        return (
            f"after cycle {self.cycle:5}: {self.resident_mb:7.1f} MB resident, "
            f"{self.files} files, {self.threads} threads"
        )


def cycle(path: str, runtime: TensorFlowRuntime) -> None:
    """Load, warm up, unload."""
    options = WarmUpOptions(automatic=True)
    loader: Loader = SavedModelLoader(path, runtime, SavedModelOptions())
    loader = WarmUpLoader(loader, path, options)
    loader.load()
    assert loader.servable.wait_until_idle(0)
    loader.unload()


def main() -> int:
    """Run the cycles and check the result."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop earlier")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(f"Exporting a model of {arguments.megabytes} MB")
        export = [sys.executable, "-c", EXPORT, directory, str(arguments.megabytes)]
        subprocess.run(export, check=True, stderr=subprocess.DEVNULL)
        runtime = TensorFlowRuntime()
        start = time.monotonic()
        settled = last = Footprint.now(0)
        for number in range(1, arguments.cycles + 1):
            cycle(directory, runtime)
            last = Footprint.now(number)
            if number == SETTLED_AT:
                settled = last
            if number in (1, SETTLED_AT) or number % 100 == 0:
                print(last, flush=True)
            if time.monotonic() - start > arguments.seconds and number > SETTLED_AT:
                break
        growth = last.resident_mb / settled.resident_mb
        print(last)
        print(f"{(time.monotonic() - start) / last.cycle * 1e3:.0f} ms a cycle")
        print(
            f"memory at the end / after cycle {settled.cycle}: {growth:.3f} (at most {MOST_GROWTH})"
        )
        left = last.files - settled.files, last.threads - settled.threads
        print("left behind: {} files, {} threads".format(*left))
        return int(growth > MOST_GROWTH or max(left) > 0)


if __name__ == "__main__":
    sys.exit(main())
