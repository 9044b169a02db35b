"""TensorFlow Serving's environment variables for S3, converted to options of the driver.

The driver finds all other settings by its own rules: `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION`, files, the identity of
the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FALSE = frozenset({"0", "false", "no", "off"})


def s3_options(environment: Mapping[str, str], configured: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `s3fs.S3FileSystem` for the variables.

    Args:
        environment: The variables: `S3_ENDPOINT` (`host:port`, or a URL), `S3_USE_HTTPS` and `S3_VERIFY_SSL` (0 for
            no), `S3_CA_FILE`, `AWS_REGION` and, if that is not set, `S3_REGION`.
        configured: fsspec's configuration for S3, which takes precedence.
    """
    is_secure = not _is_off(environment, "S3_USE_HTTPS")
    options: dict[str, Any] = {}
    client: dict[str, Any] = {}
    endpoint = environment.get("S3_ENDPOINT", "").strip().rstrip("/")
    if endpoint:
        scheme = "https" if is_secure else "http"
        options["endpoint_url"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    if not is_secure:
        options["use_ssl"] = False
    if _is_off(environment, "S3_VERIFY_SSL"):
        client["verify"] = False
    elif environment.get("S3_CA_FILE"):
        client["verify"] = environment["S3_CA_FILE"]
    if region := environment.get("AWS_REGION") or environment.get("S3_REGION"):
        client["region_name"] = region
    options = {name: value for name, value in options.items() if name not in configured}
    client = {**client, **configured.get("client_kwargs", {})}
    return {**options, "client_kwargs": client} if client else options


def _is_off(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() in _FALSE
