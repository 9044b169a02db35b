"""The server configurations of the recordings."""

from __future__ import annotations

import re

MODELS, WORK = "${MODELS}", "${WORK}"
"""Placeholders in recordings for the folder of the exported models, and for a fresh folder of the server."""

# The models that are served under their directory's name.
_NAMES = [
    "types",
    "bits",
    "multi",
    "shapes",
    "examples",
    "table",
    "fails",
    "counter",
    "slow",
    "large",
    "keras",
    "half_plus_two",
    "half_plus_three",
]


def _entry(name: str, base: str | None = None, extra: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{MODELS}/{base or name}" model_platform: "tensorflow" {extra} }}\n'


_ALL_MODELS = (
    "".join(_entry(n) for n in _NAMES)
    + _entry(
        "versions",
        extra="model_version_policy { specific { versions: 1 versions: 2 versions: 3 } } "
        'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } '
        'version_labels { key: "a b" value: 3 } version_labels { key: "7" value: 3 }',
    )
    + _entry("every", "versions", "model_version_policy { all {} }")
    + _entry("latest", "versions", "model_version_policy { latest { num_versions: 2 } }")
    + _entry("UPPER.dots-and_more", "half_plus_two")
    + _entry("with space", "half_plus_two")
    + _entry("caf\\303\\251", "half_plus_two")
    + _entry("123", "half_plus_two")
    + _entry("models", "half_plus_two")
)
_FEW = (
    _entry("half_plus_two")
    + _entry("versions", extra="model_version_policy { specific { versions: 1 versions: 2 } }")
    + _entry("types")
    + _entry("shapes")
    + _entry("multi")
    + _entry("examples")
)
_BATCHING = (
    "max_batch_size { value: 4 } batch_timeout_micros { value: 0 } num_batch_threads { value: 2 } "
    "max_enqueued_batches { value: 100 }"
)

PROFILES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "main": (_ALL_MODELS, ["--allow_version_labels_for_unavailable_models=true"], {}),
    "cors": (_FEW, ["--rest_api_enable_cors_support=true"], {}),
    "tensor_content": (_FEW, ["--enable_serialization_as_tensor_content=true"], {}),
    "method_check": (_FEW, ["--enable_signature_method_name_check=true"], {}),
    "monitoring": (
        _FEW,
        [f"--monitoring_config_file={WORK}/monitoring.txt"],
        {"monitoring.txt": 'prometheus_config { enable: true path: "/metrics" }'},
    ),
    "batching": (
        _FEW,
        ["--enable_batching=true", f"--batching_parameters_file={WORK}/batching.txt"],
        {"batching.txt": _BATCHING},
    ),
    "fresh": (_FEW, [], {}),  # a new server for every scenario
    "live": (
        f'config {{ name: "live" base_path: "{WORK}/live" model_platform: "tensorflow" }}\n',
        [],
        {},
    ),
    "counter": (_entry("counter"), [], {}),
}
"""By name: the models of the configuration file, the flags, and files by name with their text."""


def model_names(config: str) -> list[str]:
    """The names of the models in a configuration, with octal escapes resolved."""

    def character(escape: re.Match[str]) -> str:
        return chr(int(escape[1], 8))

    return [
        re.sub(r"\\(\d{3})", character, name).encode("latin-1").decode()
        for name in re.findall(r'config \{ name: "([^"]*)"', config)
    ]
