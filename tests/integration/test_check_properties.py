"""`servable check` never accepts what a server refuses, for any flags and any tree of files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.server_process import COMMAND, ServerProcess, free_port

Tree = Callable[[Path, Path], None]
"""Fills a directory, given a valid version to copy from."""


def good(base_path: Path, version: Path) -> None:
    shutil.copytree(version, base_path / "1")


def bare(base_path: Path, version: Path) -> None:
    shutil.copytree(version, base_path)


def without_graph(base_path: Path, version: Path) -> None:
    good(base_path, version)
    (base_path / "1/saved_model.pb").unlink()


def damaged(base_path: Path, version: Path) -> None:
    good(base_path, version)
    (base_path / "1/saved_model.pb").write_bytes(b"this is not a SavedModel\n")


def without_variables(base_path: Path, version: Path) -> None:
    good(base_path, version)
    for shard in (base_path / "1/variables").glob("*.data*"):
        shard.unlink()


def empty(base_path: Path, version: Path) -> None:
    base_path.mkdir()


def missing(base_path: Path, version: Path) -> None:
    pass


def a_file(base_path: Path, version: Path) -> None:
    base_path.write_bytes(b"x")


def without_number(base_path: Path, version: Path) -> None:
    shutil.copytree(version, base_path / "latest")


TREES: tuple[Tree, ...] = (
    *(good, bare, without_graph, damaged, without_variables),
    *(empty, missing, a_file, without_number),
)
FILES = {
    "nothing": "",
    "garbage": "what is this {",
    "comment": "# nothing\n",
    "keys": "me:predict:secret\n",
    "wrong keys": "me:everything:secret\n",
}
FILE_FLAGS = (
    *("batching_parameters_file", "monitoring_config_file", "platform_config_file"),
    *("tensorflow_session_config_file", "ssl_config_file", "api_keys_file"),
    *("tls_certificate_file", "tls_key_file", "op_libraries", "model_config_file"),
)
VALUES = {
    "port": ("0", "-1", "70000", "free"),
    "rest_api_port": ("0", "99999", "free"),
    "health_port": ("0", "free", "-5"),
    "admin_api_port": ("0", "free"),
    "admin_api_address": ("127.0.0.1", "no.such.host.invalid"),
    "grpc_socket_path": ("DIRECTORY/socket", "/nowhere/socket", "DIRECTORY/" + 120 * "x"),
    "unix_socket_permissions": ("0660", "rw"),
    "open_ports": ("at_once", "when_loaded", "never"),
    "saved_model_tags": ("serve", "train"),
    "enable_batching": ("true", "false"),
    "fail_if_no_model_versions_found": ("true", "false"),
    "use_alts_credentials": ("true", "false"),
    "max_body_bytes": ("0", "1000"),
    "max_json_nesting": ("1", "64"),
    "model_name": ("", "m"),
    "grpc_channel_arguments": ("a", "grpc.max_receive_message_length=x"),
    "mixed_precision": ("bfloat16",),
    "prot": ("1",),
}
flags = st.lists(
    st.one_of(
        st.sampled_from(sorted(VALUES)).flatmap(
            lambda name: st.sampled_from(VALUES[name]).map(lambda value: (name, value))
        ),
        st.tuples(st.sampled_from(FILE_FLAGS), st.sampled_from(["/nowhere/file", *FILES])),
    ),
    max_size=3,
    unique_by=lambda flag: flag[0],
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=st.one_of(st.just(good), st.sampled_from(TREES)), drawn=flags)
@example(tree=good, drawn=[("grpc_socket_path", "/nowhere/socket")])
@example(tree=good, drawn=[("tls_certificate_file", "garbage"), ("tls_key_file", "garbage")])
@example(tree=good, drawn=[("saved_model_tags", "train")])
@example(tree=good, drawn=[("op_libraries", "garbage")])
@example(tree=good, drawn=[("api_keys_file", "wrong keys")])
@example(
    tree=good, drawn=[("admin_api_port", "free"), ("admin_api_address", "no.such.host.invalid")]
)
@example(tree=without_variables, drawn=[])
def test_configurations_that_a_server_refuses_are_errors(
    half_plus_two_version: Path, tree: Tree, drawn: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="servable-check-") as name:
        directory = Path(name)
        tree(directory / "m", half_plus_two_version)
        for number, text in enumerate(FILES.values()):
            (directory / f"file-{number}").write_text(text)

        def shown(flag: str, value: str) -> str:
            if flag in FILE_FLAGS and value in FILES:
                value = str(directory / f"file-{list(FILES).index(value)}")
            value = value.replace("DIRECTORY", name).replace("free", str(free_port()))
            return f"--{flag}={value}"

        arguments = [
            f"--model_base_path={directory / 'm'}",
            "--max_num_load_retries=0",
            *(shown(*flag) for flag in drawn),
        ]
        # Default ports for the tests; the last occurrence of a flag counts.
        ports = [f"--port={free_port()}", f"--rest_api_port={free_port()}"]
        checked = subprocess.run(
            [COMMAND, "check", *ports, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in checked.stdout + checked.stderr
        if "0 errors" not in checked.stdout:
            assert checked.returncode == 1
            return
        assert checked.returncode == 0
        with ServerProcess(arguments, directory=directory) as server:
            while "Listening on " not in server.log:
                assert server.is_running, f"{checked.stdout}\n{server.log}"
                time.sleep(0.02)
