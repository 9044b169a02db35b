"""Warm-up requests, which run before a version becomes available."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from support import models
from support.grpc_client import GrpcClient
from support.server_process import COMMAND, ServerProcess, StartServer

FILE = "assets.extra/tf_serving_warmup_requests"


@pytest.fixture(scope="session")
def requests(model_cache: Path) -> Path:
    """The files of the export script."""
    return models.exported(models.WARM_UP_EXPORT, model_cache)


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """A model without versions."""
    path = tmp_path / "model"
    path.mkdir()
    return path


def put(base_path: Path, version: int, template: Path, file: Path | bytes | None) -> Path:
    """Add a version with a file of requests to a base path, atomically."""
    aside = base_path / f"writing-{version}"
    shutil.copytree(template, aside)
    if file is not None:
        (aside / FILE).parent.mkdir(exist_ok=True)
        (aside / FILE).write_bytes(file if isinstance(file, bytes) else file.read_bytes())
    target = base_path / str(version)
    aside.rename(target)
    return target


def raised(server: ServerProcess, client: GrpcClient) -> int:
    """The value of the counter."""
    return int(client.predict(server.port, "m", {}, signature="read")["outputs"]["count"])


def failure(server: ServerProcess, version: int) -> str:
    """The error of the version, once it has failed."""
    end = time.monotonic() + 20
    while server.states("m").get(version) != "END":
        assert time.monotonic() < end, server.log
        time.sleep(0.02)
    statuses = server.get("/v1/models/m").json()["model_version_status"]
    (status,) = [entry["status"] for entry in statuses if entry["version"] == str(version)]
    return f"{status['error_code']}: {status['error_message']}"


def test_every_kind_of_request_is_replayed(
    start_server: StartServer, base_path: Path, half_plus_two_version: Path, requests: Path
) -> None:
    path = put(base_path, 1, half_plus_two_version, requests / "every_kind")
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    assert f"Starting to read warmup data for model at {path / FILE} with" in server.log
    assert "Number of warmup records read: 5. Elapsed time (microseconds): " in server.log


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ("raise_3", (), 3),
        ("raise_3", ("--num_request_iterations_for_warmup=4",), 12),
        ("raise_3", ("--num_request_iterations_for_warmup=-1",), 3),
        ("raise_3", ("--enable_model_warmup=false",), 0),
        ("raise_1000", (), 1000),
    ],
)
def test_each_record_is_run_as_often_as_the_flags_say(
    start_server: StartServer,
    grpc_client: GrpcClient,
    base_path: Path,
    runtime_models: Path,
    requests: Path,
    file: str,
    flags: tuple[str, ...],
    expected: int,
) -> None:
    put(base_path, 1, runtime_models / "counter/1", requests / file)
    server = start_server({"m": base_path}, *flags)
    server.wait_until_available("m")
    assert raised(server, grpc_client) == expected


def test_a_version_that_fails_to_warm_up_leaves_the_older_one_serving(
    start_server: StartServer, base_path: Path, half_plus_two_version: Path, requests: Path
) -> None:
    good = (requests / "every_kind").read_bytes()
    put(base_path, 1, half_plus_two_version, good)
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    not_a_file = ". Please verify your warmup data is in TFRecord format."
    for version, (file, expected) in enumerate(
        {
            "unknown_signature": 'FAILED_PRECONDITION: Serving signature key "none" not found.',
            "unknown_output": "INVALID_ARGUMENT: output tensor alias not found in signature: z "
            "Outputs expected to be in the set {y}.",
            "classify_that_regresses": "INVALID_ARGUMENT: Expected classification signature outputs",
            "regress_that_classifies": "INVALID_ARGUMENT: No regression outputs found in Signature",
            "multi_inference_twice": "INVALID_ARGUMENT: Duplicate evaluation of signature: regress",
            "session_run": "UNIMPLEMENTED: Unsupported log_type for warmup: 5",
            "streamed": "UNIMPLEMENTED: Unsupported log_type for warmup: 7",
            "no_record": "INVALID_ARGUMENT: Failed to parse warmup record: \ufffd not a PredictionLog "
            "from ",
            b"text, and quite a lot of it": "DATA_LOSS: corrupted record at 0 (Is this even a "
            "TFRecord file?)" + not_a_file,
            good[:-1]: "DATA_LOSS: truncated record at ",
        }.items(),
        start=2,
    ):
        content = requests / file if isinstance(file, str) else file
        path = put(base_path, version, half_plus_two_version, content)
        message = failure(server, version)
        assert message.startswith(expected)
        assert re.search(rf" \(record [0-9]+ of .*/{version}/assets\.extra/tf_serving_", message)
        shutil.rmtree(path)
        assert server.states("m")[1] == "AVAILABLE"
    assert server.predict("m", {"instances": [0.0]}).json() == {"predictions": [2.0]}


def test_more_than_a_thousand_records_are_refused(
    start_server: StartServer, base_path: Path, runtime_models: Path, requests: Path
) -> None:
    put(base_path, 1, runtime_models / "counter/1", None)
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    path = put(base_path, 2, runtime_models / "counter/1", requests / "raise_1001")
    assert failure(server, 2) == (
        f"INVALID_ARGUMENT: Number of warmup records exceeds the maximum (1000) at {path / FILE}"
    )


def test_without_recorded_requests_zeros_will_do_if_asked_for(
    start_server: StartServer,
    base_path: Path,
    half_plus_two_version: Path,
    tmp_path: Path,
) -> None:
    path = put(base_path, 1, half_plus_two_version, None)
    by_flag = start_server({"m": base_path}, "--enable_automatic_warmup")
    by_flag.wait_until_available("m")
    # The empty example lacks a feature; this must not prevent serving.
    message = f"Signature regress_x_to_y of {path} was not warmed up: INVALID_ARGUMENT: "
    assert message in by_flag.log
    assert f"Warmed up {path} with zeros" in by_flag.log

    config = tmp_path / "automatic.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" model_platform: '
        '"tensorflow" servable_options { warmup { automatic: true } } } }'
    )
    by_config = start_server({}, f"--model_config_file={config}")
    by_config.wait_until_available("m")
    assert f"Warmed up {path} with zeros" in by_config.log

    off = start_server({"m": base_path})
    off.wait_until_available("m")
    assert f"No warmup data file found at {path / FILE}" in off.log
    assert "Warmed up" not in off.log


def test_no_thread_that_serves_is_left_at_the_priority_of_loads(
    start_server: StartServer, base_path: Path, requests: Path
) -> None:
    put(base_path, 1, requests / "compiled/1", None)
    server = start_server({"m": base_path}, "--enable_automatic_warmup")
    server.wait_until_available("m")
    niceness = {}
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        name, fields = (task / "stat").read_text().rsplit(")", 1)
        niceness[f"{name.split('(', 1)[1]} {task.name}"] = int(fields.split()[16])
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert any(name.startswith("tf_XLA") for name in niceness), niceness
    assert {name: n for name, n in niceness.items() if n != own} == {}


class TestCommand:
    """`servable warmup`."""

    @staticmethod
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, "warmup", *map(str, arguments)], capture_output=True, text=True, timeout=60
        )

    def test_it_writes_what_a_server_replays(
        self,
        start_server: StartServer,
        base_path: Path,
        half_plus_two_version: Path,
        requests: Path,
        tmp_path: Path,
    ) -> None:
        put(base_path, 3, half_plus_two_version, None)
        path = put(base_path, 12, half_plus_two_version, None)
        bodies = {
            "predict": {"instances": [1.0, 2.0]},
            "classify": {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]},
            "regress": {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]},
        }
        flags = []
        for name, body in bodies.items():
            (tmp_path / name).write_text(json.dumps(body))
            flags.append(f"--request={tmp_path / name}")
        flags.append(f"--predict_request={requests / 'predict_request'}")
        done = self.run(
            f"--model_base_path={base_path}", *flags, f"--log={requests / 'every_kind'}"
        )
        assert done.stdout == f"Wrote 9 warm-up requests to {path / FILE}\n", done.stderr
        assert done.returncode == 0
        assert not (base_path / "3/assets.extra").exists()
        server = start_server({"m": base_path})
        server.wait_until_available("m", version=12)
        assert "Number of warmup records read: 9." in server.log

    def test_nothing_is_written_if_a_request_fails(
        self, base_path: Path, half_plus_two_version: Path, requests: Path, tmp_path: Path
    ) -> None:
        path = put(base_path, 1, half_plus_two_version, requests / "every_kind")
        before = (path / FILE).read_bytes()
        (tmp_path / "good").write_text('{"instances": [1.0]}')
        (tmp_path / "bad").write_text('{"instances": ["one"]}')
        arguments = f"--model_base_path={base_path}", f"--request={tmp_path / 'good'}"
        for more, expected in (
            (f"--request={tmp_path / 'bad'}", f"INVALID_ARGUMENT: {tmp_path / 'bad'}: "),
            (f"--request={tmp_path / 'none'}", f"{tmp_path / 'none'}: No such file or directory"),
            (f"--log={requests / 'session_run'}", "session_run, record 1: Unsupported log_type"),
            (f"--log={tmp_path / 'bad'}", f"{tmp_path / 'bad'}, record 1: corrupted record at 0"),
            (
                f"--predict_request={tmp_path / 'bad'}",
                f"INVALID_ARGUMENT: {tmp_path / 'bad'}: not a recorded",
            ),
            ("--version=2", "NOT_FOUND: There is no version 2 in "),
        ):
            done = self.run(*arguments, more)
            assert done.returncode == 255
            assert "Nothing was written. " in done.stderr
            assert expected in done.stderr
            assert (path / FILE).read_bytes() == before
            assert os.listdir(path / "assets.extra") == [Path(FILE).name]

    def test_it_works_for_other_kinds_and_paths(self, tmp_path: Path) -> None:
        shutil.copytree(models.ROOT / "examples/python_model/1", tmp_path / "all/words")
        (tmp_path / "all/table").mkdir()
        (tmp_path / "all/table/table.tsv").write_text("so good\t1\n")
        body = tmp_path / "body"
        body.write_text('{"inputs": ["so good"]}')
        for name in ("words", "table"):
            path = tmp_path / "all" / name
            done = self.run(path, f"--request={body}")
            assert done.stdout == f"Wrote 1 warm-up request to {path / FILE}\n", done.stderr
        with ServerProcess([str(tmp_path / "all")], directory=tmp_path) as server:
            server.wait_until_available("words", "table")
            assert server.log.count("Number of warmup records read: 1.") == 2
        body.write_text('{"inputs": ["so bad"]}')
        refused = self.run(tmp_path / "all/table", f"--request={body}")
        assert 'there is no key "so bad" in the table' in refused.stderr
        several = self.run(tmp_path / "all", f"--request={body}")
        assert "contains several models; give the path of one of table, words" in several.stderr
        for arguments in ([], [tmp_path, f"--model_base_path={tmp_path}"]):
            assert "Give PATH or --model_base_path" in self.run(*arguments).stderr
