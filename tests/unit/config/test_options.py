from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servable._server.config.flags import Flags
from servable._server.config.models import ConfigRules, ModelConfig
from servable._server.config.options import (
    check_flags,
    endpoints,
    initial_load_slots,
    initial_models,
    retry_policy,
    server_options,
    slots,
    with_environment,
)
from servable._server.config.server_options import Endpoint
from servable.errors import Code, ConfigError

SERVED = Flags(model_base_path="/m")


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"port": 0}, Code.INVALID_ARGUMENT, "At least one of server_options.grpc_port"),
        ({"model_base_path": ""}, Code.INVALID_ARGUMENT, "are empty!"),
        (
            {"use_alts_credentials": True, "ssl_config_file": "x"},
            Code.INVALID_ARGUMENT,
            "Either use_alts_credentials must be false or ssl_config_file must be empty.",
        ),
        (
            {"batching_parameters_file": "x"},
            Code.INVALID_ARGUMENT,
            "without setting server_options.enable_batching to true.",
        ),
        ({"port": 70000}, Code.INVALID_ARGUMENT, "70000"),
        ({"rest_api_port": -1}, Code.INVALID_ARGUMENT, "-1"),
        ({"use_alts_credentials": True}, Code.UNIMPLEMENTED, "ALTS credentials are not supported"),
        (
            {"ssl_config_file": "x", "tls_certificate_file": "x", "tls_key_file": "x"},
            Code.INVALID_ARGUMENT,
            "Either ssl_config_file or tls_certificate_file must be empty.",
        ),
        ({"tls_key_file": "x"}, Code.INVALID_ARGUMENT, "need each other"),
        ({"tls_certificate_file": "x"}, Code.INVALID_ARGUMENT, "need each other"),
        ({"tls_client_ca_file": "x"}, Code.INVALID_ARGUMENT, "needs --tls_certificate_file"),
        ({"max_headers": 0}, Code.INVALID_ARGUMENT, "--max_headers has to be more than 0; got 0"),
        ({"idle_timeout_seconds": -1.0}, Code.INVALID_ARGUMENT, "more than 0; got -1.0"),
        ({"unix_socket_permissions": "rw"}, Code.INVALID_ARGUMENT, "three octal digits"),
        ({"unix_socket_permissions": "0688"}, Code.INVALID_ARGUMENT, "three octal digits"),
    ],
)
def test_unsupported_flags_are_refused(changes: dict[str, Any], code: Code, text: str) -> None:
    with pytest.raises(ConfigError) as info:
        check_flags(replace(SERVED, **changes))
    assert info.value.code is code
    assert text in info.value.message


def test_flags_without_effect_are_logged_once_if_they_are_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_flags(SERVED)
    assert caplog.messages == []
    check_flags(replace(SERVED, grpc_max_threads=1000, flush_filesystem_caches=False))
    threads, caches = caplog.messages
    assert threads.startswith("--grpc_max_threads has no effect: --worker_threads sets")
    assert caches == "--flush_filesystem_caches has no effect: this server does not cache files"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [Endpoint("0.0.0.0:8500")]),
        ({"rest_api_port": 8501}, [Endpoint("0.0.0.0:8500"), Endpoint("[::]:8501")]),
        ({"rest_api_port": 8500}, [Endpoint("0.0.0.0:8500")]),
        ({"port": 0, "rest_api_port": 8501}, [Endpoint("[::]:8501")]),
        ({"port": 0, "grpc_socket_path": "s"}, [Endpoint("unix:s")]),
        ({"port": 0, "rest_api_socket_path": "/r"}, [Endpoint("unix:/r")]),
        (
            {"grpc_socket_path": "s", "rest_api_socket_path": "s", "rest_api_port": 8501},
            [Endpoint("0.0.0.0:8500"), Endpoint("[::]:8501"), Endpoint("unix:s")],
        ),
    ],
)
def test_every_address_is_listened_on_once(
    changes: dict[str, Any], expected: list[Endpoint]
) -> None:
    flags = replace(SERVED, **changes)
    check_flags(flags)
    assert endpoints(flags) == tuple(expected)


EVERYWHERE = {"grpc_socket_path": "g", "rest_api_socket_path": "r", "rest_api_port": 8501}


def test_the_file_of_tensorflow_serving_secures_grpc_and_leaves_rest_as_it_is() -> None:
    found = endpoints(replace(SERVED, ssl_config_file="ssl.config", **EVERYWHERE))
    assert {e.address: (e.tls, e.offer) for e in found} == {
        "0.0.0.0:8500": (True, "everything"),
        "unix:g": (True, "everything"),
        "[::]:8501": (False, "rest"),
        "unix:r": (False, "rest"),
    }


def test_our_own_flags_secure_everything() -> None:
    found = endpoints(replace(SERVED, tls_certificate_file="c", tls_key_file="k", **EVERYWHERE))
    assert [(e.tls, e.offer) for e in found] == [(True, "everything")] * 4


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:8590"),
        ("admin.example", "admin.example:8590"),
        ("::1", "[::1]:8590"),
        ("[::1]", "[::1]:8590"),
        ("", "0.0.0.0:8590"),
    ],
)
def test_administration_is_an_endpoint_with_names_of_its_own(address: str, expected: str) -> None:
    options = server_options(
        replace(
            SERVED,
            admin_api_port=8590,
            admin_api_address=address,
            admin_api_hosts="a.example, b.example,",
        )
    )
    assert options.endpoints[-1] == Endpoint(expected, offer="administration")
    assert options.admin_hosts == ("localhost", address, "a.example", "b.example")
    assert options.model_repository


def test_permissions_of_sockets_are_octal() -> None:
    def mode(text: str) -> int | None:
        return server_options(replace(SERVED, unix_socket_permissions=text)).socket_mode

    assert [mode(text) for text in ("", "660", "0600")] == [None, 0o660, 0o600]


def test_options_of_the_request_path() -> None:
    options = server_options(
        replace(
            SERVED,
            rest_api_timeout_in_ms=1500,
            enable_serialization_as_tensor_content=True,
            worker_threads=3,
            max_body_bytes=10,
        )
    )
    assert options.rest_timeout_seconds == 1.5
    assert options.tensor_content_responses
    assert (options.worker_threads, options.max_body_bytes) == (3, 10)
    assert server_options(SERVED).worker_threads >= 1


@pytest.mark.parametrize(
    ("flag", "argument", "expected"),
    [
        (1000, None, 1000),
        (1000, 5000, 5000),
        (1000, 7, 7),
        (20, 7, 7),
        (20, 5000, 20),
        (20, None, 20),
    ],
)
def test_the_lower_of_flag_and_channel_argument_holds(
    flag: int, argument: int | None, expected: int
) -> None:
    text = "" if argument is None else f"grpc.max_concurrent_streams={argument}"
    flags = replace(SERVED, max_concurrent_streams=flag, grpc_channel_arguments=text)
    assert server_options(flags).grpc.max_concurrent_streams == expected


def test_a_channel_argument_makes_room_for_large_metadata() -> None:
    def limit(**flags: int) -> int:
        text = "grpc.max_metadata_size=1000000"
        return server_options(
            replace(SERVED, grpc_channel_arguments=text, **flags)
        ).max_header_bytes

    assert limit() == 1_000_000
    assert limit(max_header_bytes=5000) == 5000


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("default", "")),
        ({"MODEL_NAME": "a"}, ("a", "/models/a")),
        ({"MODEL_BASE_PATH": "/srv"}, ("model", "/srv/model")),
        ({"MODEL_NAME": "a", "MODEL_BASE_PATH": "/srv"}, ("a", "/srv/a")),
    ],
)
def test_the_environment_names_a_model_as_in_the_container(
    environment: dict[str, str], expected: tuple[str, str]
) -> None:
    flags = with_environment(Flags(), environment)
    assert (flags.model_name, flags.model_base_path) == expected


@pytest.mark.parametrize(
    "flags", [SERVED, Flags(model_name="x"), Flags(model_config_file="/models.config")]
)
def test_flags_win_over_the_environment(flags: Flags) -> None:
    assert with_environment(flags, {"MODEL_NAME": "a"}) is flags


def test_the_models_come_from_the_flags_or_from_the_file(tmp_path: Path) -> None:
    assert initial_models(SERVED, ConfigRules()) == (ModelConfig("default", "/m"),)
    file = tmp_path / "models.config"
    file.write_text("model_config_list {}")
    assert initial_models(replace(SERVED, model_config_file=str(file)), ConfigRules()) == ()


def test_retries_and_slots() -> None:
    retry = retry_policy(
        replace(SERVED, max_num_load_retries=2, load_retry_interval_micros=500_000)
    )
    assert (retry.max_retries, retry.interval_seconds) == (2, 0.5)
    assert slots(3) == 3
    assert slots(0) >= 1
    assert initial_load_slots(3) == 3
    assert initial_load_slots(0) == 4 * slots(0)
