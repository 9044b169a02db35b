"""Measure the server against its floors and goals: `python run.py [--quick]`.

Builds the helper programs, exports the model, and prints the results section by section, then every figure with its
goal. README.md explains them. The whole run takes about twenty-five minutes, with `--quick` about eight.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import FULL, QUICK, Bench, Figure
from measure_batching import measure_batching
from measure_codec import measure_codec
from measure_convolution import measure_convolution
from measure_cpu import measure_cpu
from measure_features import measure_features
from measure_interpreter_lock import measure_interpreter_lock
from measure_isolation import measure_isolation
from measure_json import measure_json
from measure_large import measure_large
from measure_native import measure_native
from measure_native_batches import measure_native_batches
from measure_objective import measure_objective
from measure_pipeline import measure_pipeline
from measure_python_batching import measure_python_batching
from measure_row_costs import measure_row_costs
from measure_scheduler import measure_scheduler
from measure_start import measure_start
from measure_swaps import measure_swaps
from measure_waits import measure_waits
from processes import MODEL, worker_threads

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUTPUT = ROOT / "target/benchmarks"

Measurement = Callable[[Bench, Callable[[str], None]], list[Figure]]

# Start comes after CPU, so that the libraries of TensorFlow are in the page cache.
MEASUREMENTS: dict[str, Measurement] = {
    "cpu": measure_cpu,
    "native": measure_native,
    "pipeline": measure_pipeline,
    "interpreter_lock": measure_interpreter_lock,
    "start": measure_start,
    "json": measure_json,
    "codec": measure_codec,
    "large": measure_large,
    "isolation": measure_isolation,
    "features": measure_features,
    "scheduler": measure_scheduler,
    "convolution": measure_convolution,
    "row_costs": measure_row_costs,
    "native_batches": measure_native_batches,
    "batching": measure_batching,
    "waits": measure_waits,
    "objective": measure_objective,
    "python_batching": measure_python_batching,
    "swaps": measure_swaps,
}


def main() -> None:
    """Run the measurements on the command line, and print every figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--only", choices=MEASUREMENTS, action="append", help="one measurement; may be repeated"
    )
    arguments = parser.parse_args()
    # An exception unwinds through the blocks that stop the servers; the default handler would leave them running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    check_extension()
    check_versions()
    programs, model = build_programs(), export_model()
    started = time.monotonic()
    figures: list[Figure] = []
    print(f"{machine()}; load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="servable-bench-") as scratch:
        bench = Bench(programs, model, Path(scratch), QUICK if arguments.quick else FULL)
        for name in arguments.only or MEASUREMENTS:
            measurement = MEASUREMENTS[name]
            print(f"\n{(measurement.__doc__ or name).strip()}", flush=True)
            try:
                figures += measurement(bench, lambda line: print(line, flush=True))
            except BaseException:
                if bench.log.exists():
                    sys.stderr.write(bench.log.read_text(errors="replace")[-4000:])
                raise
    print()
    for figure in figures:
        print(figure.line())
    print(f"\n{time.monotonic() - started:.0f} s; load average {os.getloadavg()[0]:.1f}")


def check_extension() -> None:
    """End the run unless the extension is an up-to-date release build."""
    command = [sys.executable, str(ROOT / "scripts/extension.py"), "check", "--release"]
    if Path(sys.prefix) == ROOT / ".venv" and subprocess.run(command).returncode != 0:
        sys.exit("no figures are taken from it")


def check_versions() -> None:
    """Warn if the echo is locked to other versions of a library than the server."""
    product, floor = locked_versions(ROOT / "Cargo.lock"), locked_versions(HERE / "Cargo.lock")
    for name in sorted(product.keys() & floor.keys()):
        if product[name].isdisjoint(floor[name]):
            wanted, found = max(product[name]), max(floor[name])
            print(
                f"note: the floor has {name} {found} and the server {wanted};"
                f" in {HERE.relative_to(ROOT)}: cargo update {name}@{found} --precise {wanted}"
            )


def locked_versions(lock: Path) -> dict[str, set[str]]:
    """The versions of each package in a lock file of cargo."""
    versions: dict[str, set[str]] = {}
    entry = r'^name = "(.+)"\nversion = "(.+)"$'
    for name, version in re.findall(entry, lock.read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def build_programs() -> Path:
    """Build the measuring programs and the comparisons; returns their directory."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", OUTPUT))
    command = ["cargo", "build", "--quiet", "--release", f"--target-dir={target}"]
    command += [f"--manifest-path={HERE / 'Cargo.toml'}"]
    if subprocess.run(command).returncode != 0:
        sys.exit("the programs of the benchmarks cannot be built; see above")
    return target / "release"


def export_model() -> Path:
    """Export half_plus_two unless it exists; returns its version directory."""
    script, version = ROOT / "examples/demo_models/export.py", OUTPUT / "models" / MODEL / "1"
    exported = version / "saved_model.pb"
    if not exported.exists() or exported.stat().st_mtime < script.stat().st_mtime:
        command = [sys.executable, str(script), str(OUTPUT / "models"), MODEL]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return version


def machine() -> str:
    """The processors, with the properties that affect ratios."""
    return f"{worker_threads()} × {processor_name()}, Linux {platform.release()}"


def processor_name() -> str:
    """The name of the processor, as reported by the kernel."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
