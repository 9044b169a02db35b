"""Large tensors over gRPC, against an echo on the same stack."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench import Bench, Figure, require_no_errors
from load import GRPC_PREDICT, INPUT, REST_BODY, Call, Expectation, predict_request
from measure_cpu import CpuSample, measure_load
from processes import running_echo, running_server

FLOATS = 4 << 20
CONNECTIONS = 2


def measure_large(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """A tensor of 16 MB in `tensor_content` there and back over gRPC, against an echo on the same stack."""
    model = bench.export("identity")
    request = bench.scratch / "large.pb"
    request.write_bytes(predict_request(bytes(range(256)) * (FLOATS // 64)))
    call = Call("grpc", GRPC_PREDICT, request)
    answer = bench.scratch / "large-answer.pb"
    samples: dict[str, list[CpuSample]] = {"server": [], "echo": []}
    with running_server(model, bench.log) as server:
        server.wait_until_answers(REST_BODY, INPUT)
        run = bench.load(
            server, call, Expectation(), connections=1, seconds=10, requests=1, save_answer=answer
        )
        require_no_errors(run.result())
        with running_echo(bench.programs / "echo", answer, answer) as echo:
            expectation = Expectation(answer=answer)
            for number in range(bench.effort.rounds):
                pair = [(server, "server"), (echo, "echo")]
                for process, name in pair if number % 2 == 0 else reversed(pair):
                    sample = measure_load(bench, process, call, expectation, CONNECTIONS)
                    samples[name].append(sample)
    for name, found in samples.items():
        cpu = [sample.cpu_micros / 1000 for sample in found]
        show(f"  {name}: {statistics.median(cpu):.2f} ms CPU ({min(cpu):.2f}–{max(cpu):.2f})")
    ratios = [
        server.cpu_micros / echo.cpu_micros
        for server, echo in zip(samples["server"], samples["echo"], strict=True)
    ]
    return [
        Figure("gRPC Predict of 16 MB, CPU a request ÷ echo", statistics.median(ratios), "×", 1.3)
    ]
