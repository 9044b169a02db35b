"""Models of boosted trees, trained once by `tests/testdata/train_boosted_models.py`, and servers of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from support.grpc_client import GrpcClient
from support.server_process import ServerProcess

_TRAIN = Path(__file__).parents[1] / "testdata/train_boosted_models.py"


@dataclass(frozen=True)
class Case:
    """What a library predicts for a model.

    Attributes:
        name: The model.
        arrays: Inputs and outputs, see `train_boosted_models.py`.
    """

    name: str
    arrays: Mapping[str, Any]

    @property
    def x(self) -> Any:
        """The matrix."""
        return self.arrays["x"]

    @property
    def columns(self) -> dict[str, Any]:
        """The inputs by feature."""
        return {
            key.removeprefix("column:"): value.astype(object) if value.dtype.kind == "S" else value
            for key, value in self.arrays.items()
            if key.startswith("column:")
        }

    def expected(self, signature: str) -> dict[str, Any]:
        """The outputs of a signature, by name."""
        return {
            key.removeprefix(f"{signature}:"): value
            for key, value in self.arrays.items()
            if key.startswith(f"{signature}:")
        }

    @property
    def signatures(self) -> list[str]:
        """The signatures with expected outputs."""
        found = {key.split(":")[0] for key in self.arrays if ":" in key}
        return sorted(found - {"column", "all_rounds"})

    def inputs(self, signature: str) -> dict[str, Any]:
        """The inputs of a signature."""
        return self.columns if signature.startswith("columns") else {"inputs": self.x}


def train(library: str, directory: Path) -> dict[str, Case]:
    """Train all models of a library into a directory."""
    subprocess.run([sys.executable, str(_TRAIN), library, str(directory)], check=True)
    return {
        file.stem: Case(file.stem, dict(np.load(file))) for file in sorted(directory.glob("*.npz"))
    }


def entry(name: str, base_path: Path, platform: str, options: str = "") -> str:
    """An entry of `model_config_list`."""
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "{platform}" '
        f"{options} }}\n"
    )


def option(**options: object) -> str:
    """Options of a kind, as `servable_options`."""
    texts = " ".join(f'options {{ key: "{k}" value: "{v}" }}' for k, v in options.items())
    return f"servable_options {{ {texts} }}"


def config_flag(file: Path, *entries: str) -> str:
    """The flag for a written `--model_config_file`."""
    file.write_text("model_config_list {\n" + "".join(entries) + "}\n")
    return f"--model_config_file={file}"


def predict(
    grpc_client: GrpcClient, server: ServerProcess, model: str, case: Case, signature: str
) -> Mapping[str, Any]:
    """Send all rows of a case over gRPC."""
    answer = grpc_client.predict(server.port, model, case.inputs(signature), signature=signature)
    outputs: Mapping[str, Any] = answer["outputs"]
    return outputs


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare outputs bit by bit, NaN included."""
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name].astype(array.dtype), err_msg=name)
        assert array.shape == wanted[name].shape
