from __future__ import annotations

from typing import Any

import pytest

from servable._server.remote.s3_environment import s3_options


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {}),
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, {}),
        ({"S3_ENDPOINT": "minio:9000"}, {"endpoint_url": "https://minio:9000"}),
        (
            {"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"},
            {"endpoint_url": "http://minio:9000", "use_ssl": False},
        ),
        (
            {"S3_ENDPOINT": "http://minio:9000/", "S3_USE_HTTPS": "1"},
            {"endpoint_url": "http://minio:9000"},
        ),
        ({"S3_USE_HTTPS": "false"}, {"use_ssl": False}),
        ({"S3_VERIFY_SSL": "0"}, {"client_kwargs": {"verify": False}}),
        ({"S3_VERIFY_SSL": "1"}, {}),
        ({"S3_CA_FILE": "/ca.pem"}, {"client_kwargs": {"verify": "/ca.pem"}}),
        ({"AWS_REGION": "eu-west-1"}, {"client_kwargs": {"region_name": "eu-west-1"}}),
        ({"S3_REGION": "eu-west-2"}, {"client_kwargs": {"region_name": "eu-west-2"}}),
        (
            {"AWS_REGION": "eu-west-1", "S3_REGION": "eu-west-2"},
            {"client_kwargs": {"region_name": "eu-west-1"}},
        ),
    ],
)
def test_the_variables_of_tensorflow_serving_are_options_of_the_driver(
    environment: dict[str, str], options: dict[str, Any]
) -> None:
    assert s3_options(environment, {}) == options


def test_the_configuration_of_the_driver_takes_precedence() -> None:
    environment = {"S3_ENDPOINT": "minio:9000", "S3_VERIFY_SSL": "0", "AWS_REGION": "eu-west-1"}
    configured = {"endpoint_url": "https://other", "client_kwargs": {"verify": "/ca.pem"}}
    assert s3_options(environment, configured) == {
        "client_kwargs": {"verify": "/ca.pem", "region_name": "eu-west-1"}
    }
