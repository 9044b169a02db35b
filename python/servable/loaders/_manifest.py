"""`servable.json`, the manifest that `servable.save` writes beside a model.

Platforms read class labels and feature names from it. `servable.load` also checks the files and repeats the example.

```json
{
  "format": 1,
  "kind": "sklearn",
  "platform": "onnx",
  "libraries": {"scikit-learn": "1.9.1", "skl2onnx": "1.20.0"},
  "requires": {},
  "signatures": {"serving_default": {
    "inputs": {"x": {"dtype": "float32", "shape": [null, 4]}},
    "outputs": {"label": {"dtype": "int64", "shape": [null]}}
  }},
  "feature_names": ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"],
  "class_labels": [0, 1, 2],
  "example": {"signature_name": "serving_default",
              "inputs": {"x": {"dtype": "float32", "shape": [1, 4], "values": [[5.1, 3.5, 1.4, 0.2]]}},
              "outputs": {"label": {"dtype": "int64", "shape": [1], "values": [0]}}},
  "tolerance": 0.0001,
  "largest_difference": {"label": 0.0},
  "files": {"model.onnx": "sha256:…"},
  "content_hash": "sha256:…"
}
```
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from servable.errors import Code, LoadError
from servable.signature import Signature, TensorSpec

MANIFEST_FILE = "servable.json"

_FORMAT = 1
_MAX_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20

Label: TypeAlias = "str | int | float | bool"


@dataclass(frozen=True)
class Manifest:
    """What is known about a saved model.

    Attributes:
        kind: The framework of the original, such as `sklearn`.
        platform: The platform that serves it, as in `model_platform`.
        signatures: Its signatures, by name.
        libraries: The versions of the libraries that wrote and checked it, by distribution.
        requires: The release that a library must have to read it, by distribution. `1.9` stands for all of `1.9.*`.
        feature_names: The names of the columns of its input, in order; empty if they are unknown.
        class_labels: The labels of a classifier, in the order of its scores; empty for other models.
        example: A signature, inputs of it, and the outputs of the original for them; `None` for large ones.
        tolerance: How far outputs may differ from those of the original, see `servable.save`.
        largest_difference: How far they differed, by output.
        files: The digest of each file beside the manifest, by its path with `/`.
    """

    kind: str
    platform: str
    signatures: Mapping[str, Signature]
    libraries: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()
    class_labels: tuple[Label, ...] = ()
    example: Mapping[str, Any] | None = None
    tolerance: float = 0.0
    largest_difference: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """The digest of all files."""
        lines = "".join(f"{digest} {path}\n" for path, digest in sorted(self.files.items()))
        return _digest([lines.encode()])

    def to_json(self) -> str:
        """The text of `servable.json`."""
        document = {
            "format": _FORMAT,
            "kind": self.kind,
            "platform": self.platform,
            "libraries": dict(sorted(self.libraries.items())),
            "requires": dict(sorted(self.requires.items())),
            "signatures": {name: _described(each) for name, each in self.signatures.items()},
            "feature_names": self.feature_names,
            "class_labels": self.class_labels,
            "example": self.example,
            "tolerance": self.tolerance,
            "largest_difference": self.largest_difference,
            "files": dict(sorted(self.files.items())),
            "content_hash": self.content_hash,
        }
        # A line for each field: examples are long, and the rest is what people read.
        lines = (
            f'"{name}": {json.dumps(each, ensure_ascii=False)}' for name, each in document.items()
        )
        return "{\n" + ",\n".join(lines) + "\n}\n"


def read_manifest(directory: str | os.PathLike[str]) -> Manifest | None:
    """Read the manifest of a version directory; `None` if it has none.

    Raises:
        LoadError: It cannot be read, or it is no manifest.
    """
    path = Path(directory, MANIFEST_FILE)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}", code=Code.NOT_FOUND) from error
    if len(data) > _MAX_BYTES:
        raise _damaged(f"{path}: got more than {_MAX_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{path}: got no JSON: {error}") from error
    return _Reader(path).manifest(document)


def digests_of(directory: Path) -> Mapping[str, str]:
    """The digest of each file below a directory except the manifest, by its path with `/`."""
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            file = Path(parent, name)
            path = file.relative_to(directory).as_posix()
            if path != MANIFEST_FILE:
                found[path] = _digest_of_file(file)
    return found


def require_unchanged(directory: Path, manifest: Manifest) -> None:
    """Compare the files of a version with the digests of its manifest.

    Files that were added later, such as recorded requests for warm-up, do not count.

    Raises:
        LoadError: A file is missing or has changed.
    """
    for path, wanted in manifest.files.items():
        try:
            found = _digest_of_file(directory / path)
        except OSError as error:
            raise LoadError(
                f"{directory / path}: {error.strerror}; {MANIFEST_FILE} lists this file",
                code=Code.NOT_FOUND,
            ) from error
        if found != wanted:
            raise _damaged(f"{directory / path}: got {found}, want {wanted} as when it was saved")


def _described(signature: Signature) -> Mapping[str, Any]:
    def specs(tensors: Mapping[str, TensorSpec]) -> Mapping[str, Any]:
        return {name: {"dtype": s.dtype, "shape": s.shape} for name, s in tensors.items()}

    return {"inputs": specs(signature.inputs), "outputs": specs(signature.outputs)}


class _Reader:
    """Checks the types of a document, so that a damaged file has an error that names the place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self, document: Any) -> Manifest:
        self._require(document, dict, "the document")
        if document.get("format") != _FORMAT:
            found = json.dumps(document.get("format"))[:100]
            raise _damaged(
                f"{self._path}: got format {found}, want {_FORMAT}; a newer servable may have written it"
            )
        manifest = Manifest(
            kind=self._take(document, "kind", str),
            platform=self._take(document, "platform", str),
            signatures={
                name: self._signature(each, f"signatures.{name}")
                for name, each in self._take(document, "signatures", dict).items()
            },
            libraries=self._strings(document, "libraries"),
            requires=self._strings(document, "requires"),
            feature_names=tuple(self._take(document, "feature_names", list)),
            class_labels=tuple(self._take(document, "class_labels", list)),
            example=self._take(document, "example", (dict, type(None))),
            tolerance=float(self._take(document, "tolerance", (int, float))),
            largest_difference=self._take(document, "largest_difference", dict),
            files=self._strings(document, "files"),
        )
        for name in manifest.feature_names:
            self._require(name, str, "feature_names")
        for label in manifest.class_labels:
            self._require(label, (str, int, float), "class_labels")
        for path in manifest.files:
            if path.startswith("/") or ".." in path.split("/"):
                raise _damaged(f"{self._path}: files: got {path!r}, want a path in the directory")
        wanted = self._take(document, "content_hash", str)
        if manifest.content_hash != wanted:
            raise _damaged(
                f"{self._path}: content_hash: got {wanted}, but the files that it lists have "
                f"{manifest.content_hash}"
            )
        return manifest

    def _signature(self, document: Any, place: str) -> Signature:
        self._require(document, dict, place)
        inputs, outputs = (
            {
                name: self._spec(each, f"{place}.{part}.{name}")
                for name, each in self._take(document, part, dict, place).items()
            }
            for part in ("inputs", "outputs")
        )
        try:
            return Signature(inputs, outputs)
        except ValueError as error:
            raise _damaged(f"{self._path}: {place}: {error}") from error

    def _spec(self, document: Any, place: str) -> TensorSpec:
        self._require(document, dict, place)
        shape = self._take(document, "shape", (list, type(None)), place)
        for size in shape or ():
            self._require(size, (int, type(None)), f"{place}.shape")
        try:
            return TensorSpec(self._take(document, "dtype", str, place), shape)
        except ValueError as error:
            raise _damaged(f"{self._path}: {place}: {error}") from error

    def _strings(self, document: Mapping[str, Any], name: str) -> Mapping[str, str]:
        found: Mapping[str, str] = self._take(document, name, dict)
        for value in found.values():
            self._require(value, str, name)
        return found

    def _take(
        self, document: Mapping[str, Any], name: str, kind: type | tuple[type, ...], place: str = ""
    ) -> Any:
        inner = f"{place}.{name}" if place else name
        if name not in document:
            raise _damaged(f"{self._path}: got no {inner}")
        return self._require(document[name], kind, inner)

    def _require(self, value: Any, kind: type | tuple[type, ...], place: str) -> Any:
        if not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join("null" if each is type(None) else each.__name__ for each in kinds)
            raise _damaged(f"{self._path}: {place}: got {type(value).__name__}, want {wanted}")
        return value


def _digest_of_file(file: Path) -> str:
    with file.open("rb") as opened:
        return _digest(iter(lambda: opened.read(_CHUNK_BYTES), b""))


def _digest(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _damaged(message: str) -> LoadError:
    return LoadError(message, code=Code.DATA_LOSS, may_pass=False)
