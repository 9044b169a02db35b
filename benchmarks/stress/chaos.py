"""Change everything that can be changed under a running server, and check every answer that it gives meanwhile.

usage: chaos.py [--seconds=N] [--seed=N] [--template=DIR]        (needs grpcio and tensorflow-serving-api)

Rounds of random changes to several models at once: versions that come, go, flap, are corrupt, half copied or
abandoned half copied; base paths that vanish and come back; reloads of the configuration that add and remove models,
change policies and move labels; reloads that have to be refused; workers of Python servables that are killed. After
each round the server has to come to rest where `world.py` says. Two clients, REST and gRPC, ask all the time, and
`oracle.py` says what they may be answered. The exit status is 1 if there was a wrong answer, a wrong code, a broken
connection or a crash.

The changes follow from the seed; how they meet the server does not.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import sys
import tempfile
import time
from pathlib import Path

from clients import GrpcClient, Referee, RestClient, asking
from control import Operator
from disk import Disk
from rounds import Chaos
from served import START_SECONDS, ServerProcess, export_model, footprint, running_configured
from world import Content, Model, Policy

STOP_SECONDS = 30.0


def make_models(root: Path) -> list[Model]:
    """The models, each with what makes it different from the others."""
    return [
        Model("plain", 1, root),
        Model("wide", 2, root, policy=Policy(latest=2)),
        Model("desired", 3, root, labels_wait=True, policy=Policy(latest=2)),
        Model("keeping", 4, root, keeps_last=True),
        Model("late", 5, root),
        Model("python", 6, root, platform="python"),
        Model("workers", 7, root, platform="python", workers=2),
    ]


def main() -> int:
    """Run it, and say what came of it."""
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
        models, disk = prepare(root, template, choose)
        config = root / "models.config"
        entries = "\n".join(model.entry() for model in models)
        config.write_text(f"model_config_list {{\n{entries}\n}}\n")
        with running_configured(config, log) as server:
            chaos = Chaos(models, disk, Operator(server), choose)
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
    report(chaos, referee)
    return int(referee.offences > 0)


def prepare(root: Path, template: Path, choose: random.Random) -> tuple[list[Model], Disk]:
    """Put one version of each model in its place; `late` gets none."""
    scratch, base_paths = root / "scratch", root / "models"
    scratch.mkdir()
    models = make_models(base_paths)
    disk = Disk(template, scratch, choose)
    for model in models:
        model.base_path.mkdir(parents=True)
        if model.name != "late":
            disk.add(model, 1, Content.GOOD)
            model.versions[1] = Content.GOOD
    return models, disk


def run(
    chaos: Chaos,
    server: ServerProcess,
    models: list[Model],
    referee: Referee,
    seconds: float,
    seed: int,
) -> None:
    """Wait until the server serves what it should, and change that until the time is over."""
    wait_until_listens(server)
    for model in models:
        model.begin_change()
    chaos.wait_for_rest(models)
    print(f"at rest for the first time: {footprint(server.process.pid)}", flush=True)
    ledgers = {model.name: model.ledger for model in models}
    indices = {model.name: model.index for model in models}
    clients = [RestClient(server.port, indices), GrpcClient(server.port, indices)]
    end = time.monotonic() + seconds
    with asking(clients, ledgers, referee, seed):
        while time.monotonic() < end:
            for complaint in chaos.play_round():
                referee.report(complaint)
    lost = sum(count for (_, code), count in referee.counts.items() if code == "INTERNAL")
    if lost > chaos.killed:
        referee.report(f"{lost} requests were lost to {chaos.killed} workers that were killed")
    print(f"at the end: {footprint(server.process.pid)}")


def wait_until_listens(server: ServerProcess) -> None:
    """Wait until the server answers anything at all."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.request("GET", "/v1/models/nobody")
            return
        time.sleep(0.02)
    raise RuntimeError("the server does not listen; see its log")


def report(chaos: Chaos, referee: Referee) -> None:
    """Print what was done and what was answered."""
    print(f"{chaos.notes.rounds} rounds")
    for change, count in sorted(chaos.notes.counts.items()):
        print(f"  {count:6} × {change}")
    for (protocol, code), count in sorted(referee.counts.items()):
        print(f"  {count:6} × {protocol} {code}")
    print(f"{sum(referee.counts.values())} answers, {referee.offences} offences")
    for event in referee.events:
        print(event)


if __name__ == "__main__":
    sys.exit(main())
