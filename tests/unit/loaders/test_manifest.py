from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servable.errors import Code, LoadError
from servable.loaders._manifest import (
    MANIFEST_FILE,
    Manifest,
    digests_of,
    read_manifest,
    require_unchanged,
)
from servable.signature import Signature, TensorSpec

SIGNATURE = Signature({"x": TensorSpec("float32", [None, 4])}, {"y": TensorSpec("bytes")})


def manifest(**changes: Any) -> Manifest:
    return Manifest(
        kind="sklearn", platform="onnx", signatures={"serving_default": SIGNATURE}, **changes
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = manifest(
        libraries={"scikit-learn": "1.9.1"},
        requires={"skops": "0.16"},
        feature_names=("a", "é"),
        class_labels=(0, "1", 2.5, True),
        example={"inputs": {}, "outputs": {}},
        tolerance=1e-4,
        largest_difference={"y": 0.5},
        files={"model.onnx": "sha256:0"},
    )
    (tmp_path / MANIFEST_FILE).write_text(written.to_json())
    read = read_manifest(tmp_path)
    assert read is not None
    assert read.to_json() == written.to_json()
    assert read.signatures["serving_default"].inputs["x"].shape == (None, 4)
    assert read.class_labels == written.class_labels


def test_a_directory_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "got format 2, want 1; a newer servable may have written it"),
        ({"kind": 5}, "kind: got int, want str"),
        ({"signatures": {"s": {"inputs": []}}}, "signatures.s.inputs: got list, want dict"),
        (
            {
                "signatures": {
                    "s": {"inputs": {"x": {"dtype": "floating", "shape": None}}, "outputs": {}}
                }
            },
            "signatures.s.inputs.x: got dtype 'floating', want one of float32",
        ),
        (
            {"signatures": {"s": {"inputs": {}, "outputs": {}}}},
            "signatures.s: a signature needs an output",
        ),
        ({"class_labels": [[]]}, "class_labels: got list, want str or int or float"),
        ({"feature_names": [1]}, "feature_names: got int, want str"),
        ({"example": 1}, "example: got int, want dict or null"),
        ({"files": {"../x": "sha256:0"}}, "files: got '../x', want a path in the directory"),
        ({"content_hash": "sha256:1"}, "content_hash: got sha256:1, but the files"),
    ],
)
def test_a_damaged_manifest_names_the_place(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    document = {**json.loads(manifest().to_json()), **change}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(LoadError) as raised:
        read_manifest(tmp_path)
    assert complaint in raised.value.message
    assert str(tmp_path / MANIFEST_FILE) in raised.value.message
    assert raised.value.code is Code.DATA_LOSS
    assert not raised.value.may_pass


@pytest.mark.parametrize("field", json.loads(manifest().to_json()))
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    document = json.loads(manifest().to_json())
    del document[field]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(LoadError, match=f"got no {field}|got format null"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "\udcff"])
def test_what_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LoadError, match=MANIFEST_FILE):
        read_manifest(tmp_path)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST_FILE).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LoadError, match="got more than 16777216 bytes"):
        read_manifest(tmp_path)


class TestFiles:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Manifest:
        (tmp_path / "variables").mkdir()
        (tmp_path / "variables/data").write_bytes(b"abc")
        (tmp_path / "model").write_bytes(b"")
        found = manifest(files=digests_of(tmp_path))
        (tmp_path / MANIFEST_FILE).write_text(found.to_json())
        assert set(found.files) == {"variables/data", "model"}
        assert digests_of(tmp_path) == found.files
        return found

    def test_files_that_are_added_later_do_not_count(self, saved: Manifest, tmp_path: Path) -> None:
        (tmp_path / "assets.extra").write_bytes(b"1")
        require_unchanged(tmp_path, saved)

    def test_a_changed_file_is_named_with_both_digests(
        self, saved: Manifest, tmp_path: Path
    ) -> None:
        (tmp_path / "variables/data").write_bytes(b"xyz")
        digest = saved.files["variables/data"]
        found = f"{tmp_path}/variables/data: got sha256:[0-9a-f]{{64}}, want {digest} as when"
        with pytest.raises(LoadError, match=found):
            require_unchanged(tmp_path, saved)

    def test_a_missing_file_is_named(self, saved: Manifest, tmp_path: Path) -> None:
        (tmp_path / "model").unlink()
        with pytest.raises(LoadError, match="model: No such file or directory; "):
            require_unchanged(tmp_path, saved)
