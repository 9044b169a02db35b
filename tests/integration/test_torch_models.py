"""Files that PyTorch wrote, served by PyTorch in worker processes; they answer as the original does."""

# TorchScript parses comments that begin with `type:` as annotations, `type: ignore` too.
# mypy: allow-untyped-defs
from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servable
from servable.client import Client
from servable.errors import Code, InvalidInputError, LoadError, SaveError
from servable.loaders._torch import TorchOptions, open_torch
from support.frameworks import (
    FRAMEWORKS,
    environment,
    follow_guide,
    require_frameworks,
    run_script,
)
from support.models import ROOT
from support.server_process import COMMAND, ServerProcess

EXPORT = ROOT / "tests/testdata/export_torch_models.py"
INPUTS = "flowers: float32 [?, 4], scale: float32 [?]"
OPTIONS = {
    "program": "trusted: true",
    "script": f'options {{ key: "inputs" value: "{INPUTS}" }}',
    "package": f'trusted: true options {{ key: "inputs" value: "{INPUTS}" }}',
    "pickle": 'trusted: true options { key: "inputs" value: "flowers: float32 [?, 4]" }',
}
"""The options with which each format is served."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def torch_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_frameworks("torch")
    directory = tmp_path_factory.mktemp("torch-models")
    run_script(EXPORT, directory, *OPTIONS, "weights", "strided")
    return directory


@pytest.fixture(scope="session")
def answers(torch_models: Path) -> Mapping[str, Any]:
    """Inputs, and the outputs of the original for them."""
    found = json.loads((torch_models / "answers.json").read_text())
    dtypes = {"best": "int64"}
    return {name: np.array(value, dtypes.get(name, "float32")) for name, value in found.items()}


@pytest.fixture(autouse=True)
def frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FRAMEWORKS))
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def config(torch_models: Path, options: Mapping[str, str]) -> str:
    entries = (
        f'config {{ name: "{name}" base_path: "{torch_models / name}" model_platform: "torch" '
        f"servable_options {{ {text} }} }}"
        for name, text in options.items()
    )
    return f"model_config_list {{ {' '.join(entries)} }}"


def serving(directory: Path, text: str) -> ServerProcess:
    file = directory / "models.config"
    file.write_text(text)
    flags = [f"--model_config_file={file}", "--max_num_load_retries=0", "--enable_batching"]
    return ServerProcess(flags, directory=directory)


@pytest.fixture(scope="module")
def server(torch_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        directory = tmp_path_factory.mktemp("torch-server")
        with serving(directory, config(torch_models, OPTIONS)) as process:
            process.wait_until_available(*OPTIONS, within_seconds=300)
            yield process
            assert process.is_running, process.log


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_answers_as_the_original_does(
    name: str, rows: slice, protocol: str, server: ServerProcess, answers: Mapping[str, Any]
) -> None:
    port = server.port if protocol == "grpc" else server.rest_port
    inputs = ["flowers"] if name == "pickle" else ["flowers", "scale"]
    wanted = ["layers"] if name == "pickle" else ["scores", "best"]
    with Client(f"{protocol}://localhost:{port}") as client:
        got = client.model(name).predict({each: answers[each][rows] for each in inputs})
    assert list(got) == [f"output_{number}" for number in range(len(wanted))]
    for value, each in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(value, answers[each][rows], atol=1e-5)


def test_a_file_describes_itself(server: ServerProcess) -> None:
    with Client(f"grpc://localhost:{server.port}") as client:
        for name in ("program", "script", "package"):
            signature = client.model(name).metadata().signatures["serving_default"]
            assert {key: tuple(spec.shape) for key, spec in signature.inputs.items()} == {
                "flowers": (None, 4),
                "scale": (None,),
            }
            assert {key: tuple(spec.shape) for key, spec in signature.outputs.items()} == {
                "output_0": (None, 3),
                "output_1": (None,),
            }


@pytest.mark.parametrize("name", ["program", "package", "pickle", "weights"])
def test_code_is_refused_without_trust(name: str, torch_models: Path) -> None:
    with pytest.raises(LoadError, match=r"servable_options \{ trusted: true \}") as raised:
        servable.load(torch_models / name)
    assert raised.value.code is Code.PERMISSION_DENIED


def test_weights_are_no_model(torch_models: Path) -> None:
    with pytest.raises(LoadError, match="weights alone are no program"):
        servable.load(torch_models / "weights", trusted=True)


def test_a_package_for_other_strides_is_refused(
    torch_models: Path, server: ServerProcess, tmp_path: Path
) -> None:
    """It would read memory beside its inputs."""
    del server  # one at a time
    with serving(tmp_path, config(torch_models, {"strided": OPTIONS["package"]})) as process:
        assert process.wait(300) == 255
        assert "unmatched stride value at 0, expected: 8, but got: 4" in process.log


def test_a_package_refuses_inputs_of_different_batches(
    torch_models: Path, answers: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without batching leaves the check to the model."""
    monkeypatch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "0")  # restored after the test
    options = TorchOptions(inputs=INPUTS)
    version = torch_models / "package/1"
    model = open_torch(version, options=options, is_trusted=True, workers=1)
    inputs = {"flowers": answers["flowers"], "scale": answers["scale"][:-1]}
    with pytest.raises(InvalidInputError, match="got inputs of 21 and 22 rows, want as many"):
        model.run("serving_default", inputs, float("inf"))


def test_unknown_inputs_have_to_be_given(torch_models: Path) -> None:
    with pytest.raises(LoadError, match='set the option "inputs"'):
        servable.load(torch_models / "script")


def test_check_and_inspect_know_the_files(torch_models: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    done = run("check", torch_models / "script")
    assert "script: torch model in " in done.stdout
    assert "has no servable.json; its signature is known once it is loaded" in done.stdout
    assert "0 errors, 1 warning" in done.stdout
    done = run("inspect", torch_models / "script")
    assert "has no servable.json" in done.stderr


def test_the_guide_leads_from_an_export_to_a_query(tmp_path: Path) -> None:
    require_frameworks("torch")
    answer, promised = follow_guide("pytorch-files", tmp_path)
    (norm,) = answer["predictions"]
    assert promised == {"predictions": [pytest.approx(norm)]}


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("name", ["program", "script"])
def test_damaged_files_fail_their_version_only(
    name: str, cut: float, torch_models: Path, tmp_path: Path
) -> None:
    (original,) = (torch_models / name / "1").iterdir()
    content = original.read_bytes()
    (tmp_path / original.name).write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(LoadError, match="got no archive of PyTorch"):
        servable.load(tmp_path, trusted=True)
    middle = len(content) // 2
    (tmp_path / original.name).write_bytes(content[:middle] + b"\xff" * 64 + content[middle + 64 :])
    with pytest.raises(LoadError):
        servable.load(tmp_path, trusted=True).close()


class TestSave:
    """`servable.save` of what has no conversion."""

    def test_a_module_without_a_conversion_is_kept_for_pytorch(self, tmp_path: Path) -> None:
        require_frameworks("torch")
        torch = pytest.importorskip("torch")

        class Singular(torch.nn.Module):  # type: ignore[misc]
            def forward(self, matrices: Any, offset: Any) -> Any:
                return {"largest": torch.linalg.svdvals(matrices)[:, 0] + offset}

        numbers = np.random.default_rng(0)
        matrices = numbers.random((6, 3, 2), "float32")
        offset = numbers.random(6, "float32")
        # By name, and not in the order of the parameters.
        example = {"offset": offset, "matrices": matrices}
        with pytest.warns(UserWarning, match="Singular cannot be exported to ONNX: DispatchError"):
            version = servable.save(Singular(), tmp_path / "m", example=example)
        assert sorted(each.name for each in version.iterdir()) == ["model.pt2", "servable.json"]
        with pytest.raises(LoadError, match="trusted: true"):
            servable.load(version)
        wanted = np.linalg.svd(matrices[:2], compute_uv=False)[:, 0] + offset[:2]
        with servable.load(version, trusted=True) as model:
            got = model({"matrices": matrices[:2], "offset": offset[:2]})
        np.testing.assert_allclose(got["largest"], wanted, rtol=1e-5)

    def test_control_flow_that_depends_on_values_is_refused(self, tmp_path: Path) -> None:
        require_frameworks("torch")
        torch = pytest.importorskip("torch")

        class Branch(torch.nn.Module):  # type: ignore[misc]
            def forward(self, x: Any) -> Any:
                return x if x.sum() > 0 else -x

        with pytest.raises(SaveError, match=r"Branch cannot be exported to ONNX: .*data-dependent"):
            servable.save(Branch(), tmp_path / "m", example=np.ones((2, 3), "float32"))
        assert not (tmp_path / "m/1").exists()

    def test_programs_keep_their_format_and_their_shapes(self, tmp_path: Path) -> None:
        require_frameworks("torch")
        torch = pytest.importorskip("torch")

        class Add(torch.nn.Module):  # type: ignore[misc]
            def forward(self, second, first):
                return second * 2 + first[:, None]

        rows, firsts = torch.rand(4, 3), torch.rand(4)
        program = torch.export.export(Add(), (rows, firsts))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            script = torch.jit.script(Add())
        example = (rows.numpy(), firsts.numpy())
        wanted = Add()(rows, firsts).numpy()
        for model, file, batch in ((program, "model.pt2", 4), (script, "model.pt", None)):
            version = servable.save(model, tmp_path / file, example=example)
            assert (version / file).exists()
            with servable.load(version, trusted=True) as loaded:
                assert loaded.platform == "torch"
                assert loaded.signatures["serving_default"].inputs["second"].shape == (batch, 3)
                got = loaded({"first": example[1], "second": example[0]})
            np.testing.assert_allclose(got["output_0"], wanted, rtol=1e-6)
