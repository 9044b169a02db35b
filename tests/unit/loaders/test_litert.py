"""The labels that metadata tools append to TensorFlow Lite models."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from servable.loaders import _litert
from servable.loaders._litert import packed_labels


def model(directory: Path, texts: dict[str, str]) -> Path:
    path = directory / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(1000))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return path


def test_labels_are_the_lines_of_the_text_with_the_shortest_name(tmp_path: Path) -> None:
    texts = {"vocab.txt": "x", "labels-de.txt": "Katze\nHund", "labels.txt": "cat\r\ndog\n"}
    assert packed_labels(str(model(tmp_path, texts))) == ("cat", "dog")


def test_a_model_without_labels_has_none(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(1000))
    assert packed_labels(str(path)) == ()
    assert packed_labels(str(tmp_path / "missing.tflite")) == ()
    assert packed_labels(str(model(tmp_path, {"vocab.txt": "x"}))) == ()


def test_a_damaged_archive_has_no_labels(tmp_path: Path) -> None:
    path = model(tmp_path, {"labels.txt": "cat\ndog\n" * 100})
    sound = path.read_bytes()
    for place in range(1000, len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        labels = packed_labels(str(path))
        assert labels == () or len(labels) == 200, place


def test_the_size_of_labels_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(tmp_path, {"labels.txt": "cat\n" * 1000})
    monkeypatch.setattr(_litert, "MAX_LABEL_BYTES", 3999)
    assert packed_labels(str(path)) == ()
    monkeypatch.setattr(_litert, "MAX_LABEL_BYTES", 4000)
    assert packed_labels(str(path)) == ("cat",) * 1000
