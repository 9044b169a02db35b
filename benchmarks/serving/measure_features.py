"""The cost of keys and metrics: CPU of a request with and without them."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import replace

from bench import Bench, Figure
from load import OUTPUT, REST_BODY, Expectation, write_calls
from measure_cpu import measure_load
from processes import ServerProcess, running_server

KEY = "a-key-of-the-benchmarks"


def measure_features(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """CPU of a request with API keys, and with the metrics page, against a server with neither."""
    keys = bench.scratch / "keys.txt"
    keys.write_text(f"bench:predict:{KEY}\n")
    monitoring = bench.scratch / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }\n")
    settings = {
        "plain": [],
        "api_keys_file": [f"--api_keys_file={keys}"],
        "metrics page": [f"--monitoring_config_file={monitoring}"],
    }
    calls = [
        replace(call, header=f"authorization: Bearer {KEY}") for call in write_calls(bench.scratch)
    ]
    found: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        servers: dict[str, ServerProcess] = {}
        for name, flags in settings.items():
            server = stack.enter_context(running_server(bench.model.parent, bench.log, *flags))
            server.wait_until_answers(REST_BODY, OUTPUT, ("authorization", f"Bearer {KEY}"))
            servers[name] = server
        for number in range(bench.effort.rounds):
            for call in calls:
                for name in servers if number % 2 == 0 else reversed(servers):
                    sample = measure_load(bench, servers[name], call, Expectation())
                    found.setdefault((call.protocol, name), []).append(sample.cpu_micros)
    show("  µs of CPU a request (and how the rounds' ratios to the plain server lie)")
    figures = []
    for (protocol, name), cpu in found.items():
        ratios = [a / b for a, b in zip(cpu, found[protocol, "plain"], strict=True)]
        spread = f"({min(ratios):.3f}–{max(ratios):.3f})"
        show(f"  {protocol:<5} {name:<14} {statistics.median(cpu):>6.1f} {spread}")
        if name != "plain":
            figure = f"{protocol}: CPU a request, {name} ÷ plain"
            figures.append(Figure(figure, statistics.median(ratios), "×", 1.05))
    return figures
