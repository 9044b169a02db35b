"""What an ONNX model file tells without ONNX Runtime."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from servable.errors import LoadError
from servable.loaders import _onnx_file
from servable.loaders._onnx_file import (
    OnnxFile,
    has_external_data,
    read_local,
    read_model,
    require_external_data,
    size_of_external_data,
)
from servable.loaders._wire import CutOffError, MemoryFile
from servable.platforms import PlatformContext
from servable.platforms.onnx import OnnxPlatform
from support.onnx_models import graph_model, large, value


def with_external_data(directory: Path, location: str = "weights.bin") -> Path:
    """A model of two layers whose weights are in a file; `location` replaces its path in the model."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    onnx.save(
        large(8, 2), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_found_with_its_size(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    model = read_local(str(path))
    assert model is not None
    assert model.external_data == {"weights.bin": (tmp_path / "weights.bin").stat().st_size}
    assert size_of_external_data(str(path)) == (tmp_path / "weights.bin").stat().st_size


def external_tensor(name: str, location: str) -> TensorProto:
    tensor = onnx.numpy_helper.from_array(np.zeros(2, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location, offset=4, length=8)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def test_external_data_of_nodes_branches_and_sparse_tensors_is_found() -> None:
    x, y = value("x", TensorProto.FLOAT, [2]), value("y", TensorProto.FLOAT, [2])
    constant = helper.make_node("Constant", [], ["c"], value=external_tensor("c", "constant.bin"))
    branch = helper.make_graph(
        [constant], "branch", [], [y], [external_tensor("w", "sub/branch.bin")]
    )
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    model = graph_model(nodes, [x], [y])
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external_tensor("s", "sparse.bin"))
    read = read_model(MemoryFile(model.SerializeToString()))
    assert read is not None
    wanted = dict.fromkeys(("constant.bin", "sub/branch.bin", "sparse.bin"), 12)
    assert read.external_data == wanted


def test_properties_are_those_of_the_model() -> None:
    model = large(8, 1)
    model.producer_name, model.producer_version, model.domain = "maker", "2.5", "com.acme"
    model.model_version = 7
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    helper.set_model_props(model, {"author": "Ada", "note": "two\nlines"})
    read = read_model(MemoryFile(model.SerializeToString()))
    assert read is not None
    assert read.properties == {
        "format": "ONNX IR version 10",
        "operator sets": "ai.onnx 21, ai.onnx.ml 3",
        "producer": "maker 2.5",
        "domain": "com.acme",
        "model version": "7",
        "metadata author": "Ada",
        "metadata note": "two\nlines",
    }


def test_a_version_is_complete_once_its_external_data_is(tmp_path: Path) -> None:
    platform = OnnxPlatform("onnx", PlatformContext())
    path = with_external_data(tmp_path / "1")
    weights = tmp_path / "1/weights.bin"
    content = weights.read_bytes()
    for version in (str(path.parent), str(path)):
        assert platform.is_complete(version)
        weights.write_bytes(content[:-1])
        assert not platform.is_complete(version)
        weights.unlink()
        assert not platform.is_complete(version)
        weights.write_bytes(content)
    whole = path.read_bytes()
    for part in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(part)
        assert not platform.is_complete(str(path.parent))
    path.write_bytes(b"\x0f" * 100)
    assert platform.is_complete(str(path.parent)), "the load reports what is wrong"


def test_a_remote_version_is_complete_once_its_external_data_is(tmp_path: Path) -> None:
    platform = OnnxPlatform("onnx", PlatformContext())
    model = with_external_data(tmp_path).read_bytes()

    def has_all(names: list[str], content: bytes = model) -> bool:
        return platform.has_all_files(names, lambda _: MemoryFile(content))

    assert has_all(["model.onnx", "weights.bin"])
    assert not has_all(["model.onnx"])
    assert not has_all(["model.onnx", "weights.bin"], model[:-3])
    assert not has_all(["weights.bin"])
    assert platform.has_all_files(["model.onnx"]), "only names count"


def test_the_estimate_of_a_single_file_includes_its_external_data(tmp_path: Path) -> None:
    from servable._server.config.models import ModelConfig
    from servable.lifecycle import ServableId
    from servable.sources._configured import VersionDirectory

    platform = OnnxPlatform("onnx", PlatformContext())
    path = with_external_data(tmp_path)
    wanted = 2 * sum(file.stat().st_size for file in tmp_path.iterdir())

    def estimate(version: Path) -> int:
        directory = VersionDirectory(str(version), ModelConfig("m", str(version)))
        return platform.make_loader(ServableId("m", 1), directory).estimate_resources()

    assert estimate(path) == estimate(tmp_path) == wanted
    (tmp_path / "weights.bin").unlink()
    assert estimate(path) == 2 * path.stat().st_size


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../outside.bin", "outside the directory"),
        ("a/../../outside.bin", "outside the directory"),
        ("{tmp_path}/1/weights.bin", "outside the directory"),
        ("/etc/passwd", "outside the directory"),
        ("..", "outside the directory"),
        ("link.bin", "a link out of the directory"),
        ("absent.bin", "No such file"),
        ("a\0b", "outside the directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_external_data_elsewhere_or_missing_is_refused_by_name(
    location: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "outside.bin").write_bytes(b"\0" * 10_000)
    location = location.format(tmp_path=tmp_path)
    path = with_external_data(tmp_path / "1", location)
    (tmp_path / "1/link.bin").symlink_to("../outside.bin")
    with pytest.raises(LoadError, match=reason) as raised:
        require_external_data(str(path))
    assert repr(location) in raised.value.message
    assert raised.value.message.startswith(str(path))


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    weights = tmp_path / "weights.bin"
    size = weights.stat().st_size
    weights.write_bytes(b"\0" * 10)
    with pytest.raises(LoadError, match=f"'weights.bin': got 10 bytes, want {size}"):
        require_external_data(str(path))


def test_links_within_the_directory_are_followed(tmp_path: Path) -> None:
    path = with_external_data(tmp_path / "data")
    (tmp_path / "..data").symlink_to("data")
    for name in ("model.onnx", "weights.bin"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    require_external_data(str(tmp_path / path.name))
    assert has_external_data(str(tmp_path / path.name))


def test_a_damaged_file_is_a_model_or_none_or_cut_off(tmp_path: Path) -> None:
    whole = with_external_data(tmp_path).read_bytes()
    for seed in range(3000):
        generator = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 9)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            found = read_model(MemoryFile(bytes(damaged)))
        except CutOffError:
            continue
        assert found is None or isinstance(found, OnnxFile)


def nested(depth: int) -> bytes:
    """A model with graphs in graphs, and external data in the innermost."""

    def field(number: int, content: bytes) -> bytes:
        size, prefix = len(content), bytearray([number << 3 | 2])
        while size > 0x7F:
            prefix.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([*prefix, size]) + content

    graph = field(5, external_tensor("w", "deep.bin").SerializeToString())
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


def test_graphs_may_be_nested_up_to_a_bound() -> None:
    found = read_model(MemoryFile(nested(10)))
    assert found is not None
    assert found.external_data == {"deep.bin": 12}
    assert read_model(MemoryFile(nested(1000))) is None


def test_weights_are_skipped_without_being_read() -> None:
    class Counting(MemoryFile):
        count = 0

        def read(self, count: int) -> bytes:
            self.count += count
            return super().read(count)

    content = large(512, 4).SerializeToString()
    file: Any = Counting(content)
    assert read_model(file) is not None
    assert len(content) > 4_000_000 > 20_000 > file.count


def test_the_number_of_files_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx_file, "_MOST_FILES", 3)
    model = graph_model([], [], [])
    model.graph.initializer.extend(external_tensor(str(i), f"{i}.bin") for i in range(5))
    assert read_model(MemoryFile(model.SerializeToString())) is None
