"""Change everything under a running server at random, and check every answer that it gives meanwhile.

usage: chaos.py [--seconds=N] [--seed=N] [--template=DIR]        (needs grpcio and tensorflow-serving-api)

Each round makes random changes to several models at once: on disk, on a web server, in the configuration and to worker
processes (README.md lists them). After each round the server must reach the state that `world.py` predicts. Two
clients, REST and gRPC, send requests all the time, and a third one provokes errors of Python servables. `oracle.py`
decides which answers are correct. The exit status is 1 after a wrong answer, a wrong code, a broken connection or a
crash.

The seed determines the changes, but not their timing relative to the server.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import random
import sys
import tempfile
import time
from pathlib import Path

from admin_calls import Administration
from clients import GrpcClient, Referee, RestClient, asking
from contents import OVERSIZED_BYTES
from control import Operator
from disk import Disk
from moods import HARMLESS, LETHAL, Mood
from nuisance import REST_TIMEOUT_SECONDS, Nuisance
from origin import Origin
from rounds import Chaos
from served import (
    START_SECONDS,
    ServerProcess,
    export_model,
    footprint,
    free_port,
    running_configured,
)
from splits import Split
from world import Content, Model, Policy

STOP_SECONDS = 30.0

FLAGS = [
    f"--rest_api_timeout_in_ms={REST_TIMEOUT_SECONDS * 1000:.0f}",
    "--remote_poll_wait_seconds=0.3",
    f"--remote_cache_max_bytes={OVERSIZED_BYTES // 8}",
    # Versions are links to directories beside their base paths.
    "--allow_python_models",
]

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def make_models(root: Path, origin: str) -> list[Model]:
    """The models, each with a different property."""
    two, python = Policy(latest=2), "python"
    bearable = tuple(mood for mood in Mood if mood not in LETHAL)
    everything = tuple(Mood)
    splits = {"": Split("split", "", {1: 9, 2: 10, 3: 1}, True)}
    return [
        Model("plain", 1, root),
        Model("wide", 2, root, policy=two),
        Model("desired", 3, root, labels_wait=True, policy=two),
        Model("keeping", 4, root, keeps_last=True),
        Model("late", 5, root),
        Model("python", 6, root, platform=python, moods=HARMLESS),
        Model("workers", 7, root, platform=python, workers=2, moods=bearable),
        Model("remote", 8, root, origin=origin, policy=two),
        Model("remote_python", 9, root, origin=origin, platform=python, keeps_last=True),
        Model("split", 10, root, policy=Policy(), is_steady=True, wanted_splits=splits, shadow=3),
        Model("rude", 11, root, platform=python, workers=2, is_steady=True, moods=everything),
    ]


def main() -> int:
    """Run the test, and print the result."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--template", type=Path, help="a version directory of half_plus_two")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    choose = random.Random(arguments.seed)
    template: Path = arguments.template or export_model()
    with tempfile.TemporaryDirectory(prefix="servable-chaos-") as directory:
        root = Path(directory)
        log = root / "server.log"
        origin = Origin(root / "models")
        models, disk = prepare(root, template, origin, choose)
        config = root / "models.config"
        entries = "\n".join(model.entry() for model in models)
        config.write_text(f"model_config_list {{\n{entries}\n}}\n")
        admin_port = free_port()
        give_up_reading_everything()
        flags = [
            *FLAGS,
            f"--admin_api_port={admin_port}",
            f"--remote_cache_directory={root}/cache",
            f"--allowed_remote_stores={origin.url}",
        ]
        with origin.serving(), running_configured(config, log, *flags) as server:
            administration = Administration(admin_port)
            chaos = Chaos(models, disk, Operator(server), administration, choose)
            referee = Referee(chaos.notes.about)
            try:
                run(chaos, server, models, referee, arguments.seconds, arguments.seed)
            except Exception as error:
                referee.report(f"the run ended early: {error!r}")
            if server.process.poll() is None:
                server.process.terminate()
            status = server.process.wait(STOP_SECONDS)
        if status != 0:
            referee.report(f"the server ended with status {status}")
        lines = log.read_text(errors="replace").splitlines()
        for line in lines:
            if "panicked at" in line or "Exception in thread" in line or "Fatal Python" in line:
                referee.report(f"the server's log says: {line}")
        if referee.offences:
            kept = Path(tempfile.gettempdir()) / f"servable-chaos-{arguments.seed}.log"
            kept.write_text("\n".join(lines))
            print(f"the server's log is kept in {kept}")
    report(chaos, origin, referee)
    return int(referee.offences > 0)


def prepare(
    root: Path, template: Path, origin: Origin, choose: random.Random
) -> tuple[list[Model], Disk]:
    """Install the first versions of each model; `late` gets none."""
    scratch, base_paths = root / "scratch", root / "models"
    scratch.mkdir()
    models = make_models(base_paths, origin.url)
    disk = Disk(template, scratch, origin, choose)
    for model in models:
        model.base_path.mkdir(parents=True)
        first = {"late": (), "split": (1, 2, 3)}.get(model.name, (1,))
        for version in first:
            disk.add(model, version, Content.GOOD)
            model.versions[version] = Content.GOOD
    return models, disk


def run(
    chaos: Chaos,
    server: ServerProcess,
    models: list[Model],
    referee: Referee,
    seconds: float,
    seed: int,
) -> None:
    """Wait until the server serves the expected versions, and change them until the time is over."""
    wait_until_listens(server)
    for model in models:
        model.begin_change()
    chaos.wait_for_rest(models)
    print(f"at rest for the first time: {footprint(server.process.pid)}", flush=True)
    ledgers = {model.name: model.ledger for model in models}
    indices = {model.name: model.index for model in models}
    clients = [RestClient(server.port, indices), GrpcClient(server.port, indices)]
    end = time.monotonic() + seconds
    nuisance = Nuisance(server.port, models, referee, random.Random(f"{seed} nuisance"))
    with asking(clients, ledgers, referee, seed), nuisance.asking():
        while time.monotonic() < end:
            for complaint in chaos.play_round():
                referee.report(complaint)
    lost = sum(referee.counts[protocol, "INTERNAL"] for protocol in ("REST", "gRPC"))
    if lost > chaos.killed:
        referee.report(f"{lost} requests were lost to {chaos.killed} workers that were killed")
    print(f"at the end: {footprint(server.process.pid)}")


def give_up_reading_everything() -> None:
    """If this is root, drop the server's right to read files that permissions forbid."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        # Applies to later child processes. Users other than root cannot drop the right, and need not.
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability)


def wait_until_listens(server: ServerProcess) -> None:
    """Wait until the server answers at all."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.request("GET", "/v1/models/nobody")
            return
        time.sleep(0.02)
    raise RuntimeError("the server does not listen; see its log")


def report(chaos: Chaos, origin: Origin, referee: Referee) -> None:
    """Print the changes and the answers."""
    print(f"{chaos.notes.rounds} rounds")
    for change, count in sorted(chaos.notes.counts.items()):
        print(f"  {count:6} × {change}")
    for outcome, count in chaos.copies.items():
        print(f"  {count:6} × copy for a shadow {outcome}")
    print(f"  {origin.broken:6} × broken answer of the web server")
    for (protocol, code), count in sorted(referee.counts.items()):
        print(f"  {count:6} × {protocol} {code}")
    print(f"{sum(referee.counts.values())} answers, {referee.offences} offences")
    for event in referee.events:
        print(event)


if __name__ == "__main__":
    sys.exit(main())
