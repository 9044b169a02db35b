"""`servable.load`: a version of any kind as a function of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from servable.errors import Code, InvalidInputError, LoadError, SaveError, ServableError
from servable.loaders._description import SignatureDescription, TensorDescription
from servable.loaders._manifest import MANIFEST_FILE, Manifest, read_manifest, require_unchanged
from servable.saving._conversion import version_of
from servable.saving._example import is_data_frame
from servable.saving._opening import OpenVersion
from servable.saving._proof import largest_differences
from servable.saving._tensors import from_json
from servable.saving._writing import versions_in
from servable.signature import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from typing_extensions import Self

_COLUMNS = "columns"


class LoadedModel:
    """A model in this process, as a function of arrays. May be called from any thread.

    Attributes:
        path: The version directory.
        kind: The framework of the original, such as `sklearn`; the platform for versions that `servable.save` did not
            write.
        platform: What runs it; the name in `model_platform`.
        signatures: Its signatures, by name.
        feature_names: The names of the columns of its input; empty if they are unknown.
        class_labels: The labels of a classifier, in the order of its scores; empty for other models.
    """

    def __init__(self, path: Path, version: OpenVersion, manifest: Manifest | None) -> None:
        """For `load`."""
        self.path = path
        self.platform = version.platform
        self.kind = version.platform if manifest is None else manifest.kind
        self.signatures: Mapping[str, SignatureDescription] = version.signatures
        self.feature_names = () if manifest is None else manifest.feature_names
        self.class_labels = () if manifest is None else manifest.class_labels
        self._version = version
        self._is_closed = False

    def __call__(self, inputs: Any, signature_name: str = DEFAULT_SIGNATURE) -> dict[str, Any]:
        """Run it once, on the calling thread.

        Args:
            inputs: Arrays by name, a data frame, or one array for a signature with one input. They are cast to the
                dtypes of the signature, unless a cast would change the kind of the numbers.
            signature_name: Which signature.

        Returns:
            All outputs by name, as read-only arrays; text is `bytes`.

        Raises:
            ServableError: The error that a client of a server would get.
        """
        if self._is_closed:
            raise InvalidInputError(f"{self.path} is closed")
        if is_data_frame(inputs) and signature_name == DEFAULT_SIGNATURE:
            signature_name = self._for_tables()
        signature = self.signatures.get(signature_name)
        wanted = {} if signature is None else signature.inputs
        named = self._named(inputs, wanted)
        cast = {name: _cast(name, value, wanted.get(name)) for name, value in named.items()}
        return self._version.model(cast, signature_name)

    def _named(self, inputs: Any, wanted: Mapping[str, TensorDescription]) -> Mapping[str, Any]:
        if is_data_frame(inputs):
            columns = [str(column) for column in inputs.columns]
            if set(wanted) <= set(columns):
                return {name: np.asarray(inputs[name]) for name in wanted}
            (name,) = self._single(wanted)
            missing = [name for name in self.feature_names if name not in columns]
            if missing:
                raise InvalidInputError(f"got a table without the columns {', '.join(missing)}")
            table = inputs[list(self.feature_names)] if self.feature_names else inputs
            return {name: table.to_numpy()}
        if isinstance(inputs, Mapping):
            return inputs
        (name,) = self._single(wanted)
        return {name: inputs}

    def _for_tables(self) -> str:
        """The signature with one input a feature, of models whose default one takes a matrix."""
        return _COLUMNS if _COLUMNS in self.signatures else DEFAULT_SIGNATURE

    def _single(self, wanted: Mapping[str, TensorDescription]) -> tuple[str]:
        if len(wanted) != 1:
            raise InvalidInputError(
                f"got one array, want arrays by name: {', '.join(wanted) or 'the signature is unknown'}"
            )
        return (next(iter(wanted)),)

    def close(self) -> None:
        """Release the memory of the model; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._version.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LoadedModel {self.kind} {self.path}>"


def load(path: str | os.PathLike[str], *, trusted: bool = False) -> LoadedModel:
    """Open a model in this process, without a server.

    The code and the libraries that run it are those of the server, so the two agree. A version that `servable.save`
    wrote is checked first: its files must be those that were saved, and it must still answer its example alike.

    Args:
        path: A version directory or a model file of any kind, or a base path, whose newest version is taken.
        trusted: Whether code in files such as pickles may be run, in a process for it.

    Returns:
        The model; close it, or use it in a `with` statement, to get its memory back.

    Raises:
        ServableError: There is no model, it has changed, or it cannot be run here; the message says what was found and
            what was wanted.
    """
    directory = _version_directory(Path(path))
    manifest = read_manifest(directory) if directory.is_dir() else None
    if manifest is None:
        return LoadedModel(directory, OpenVersion(directory, is_trusted=trusted), None)
    require_unchanged(directory, manifest)
    _require_releases(directory, manifest)
    try:
        version = OpenVersion(directory, manifest.platform, is_trusted=trusted)
        try:
            _repeat_example(directory, version, manifest)
        except BaseException:
            version.close()
            raise
    except ServableError as error:
        others = _other_versions(manifest)
        if not others:
            raise
        raise LoadError(f"{error.message}; {others}", code=error.code, may_pass=False) from error
    return LoadedModel(directory, version, manifest)


def _version_directory(path: Path) -> Path:
    if not path.exists():
        raise LoadError(f"there is no {path}", code=Code.NOT_FOUND)
    versions = versions_in(path)
    if not versions:
        return path
    newest = versions[-1]
    names = [name for name in os.listdir(path) if name.isascii() and name.isdigit()]
    return path / next(name for name in names if int(name) == newest)


def _require_releases(directory: Path, manifest: Manifest) -> None:
    """Refuse to read files of a library that are only meant for the release that wrote them."""
    for distribution, wanted in manifest.requires.items():
        found = version_of(distribution)
        if found is None or not f"{found}.".startswith(f"{wanted}."):
            state = "which is not installed" if found is None else f"and {found} is installed"
            raise LoadError(
                f"{directory} needs {distribution} {wanted}, {state}; "
                f"install it with `pip install '{distribution}=={wanted}.*'`",
                code=Code.FAILED_PRECONDITION,
            )


def _other_versions(manifest: Manifest) -> str:
    """The libraries of which other versions are installed than those that wrote or checked a model, as a sentence."""
    changes = []
    for distribution, saved_with in manifest.libraries.items():
        found = version_of(distribution)
        if found is not None and found != saved_with:
            changes.append(f"{distribution} {saved_with} (found {found})")
    return f"it was saved with {', '.join(changes)}" if changes else ""


def _repeat_example(directory: Path, version: OpenVersion, manifest: Manifest) -> None:
    if manifest.example is None:
        return
    place = f"{directory / MANIFEST_FILE}: example"
    inputs = from_json(manifest.example.get("inputs"), place)
    expected = from_json(manifest.example.get("outputs"), place)
    name = str(manifest.example.get("signature_name"))
    try:
        largest_differences(expected, version.model(inputs, name), manifest.tolerance)
    except SaveError as error:
        raise LoadError(
            f"{directory} no longer answers its example as when it was saved: {error.message}",
            code=Code.DATA_LOSS,
            may_pass=False,
        ) from error


def _cast(name: str, value: Any, wanted: TensorDescription | None) -> Any:
    if wanted is None or wanted.dtype in ("bytes", "bfloat16"):
        return value
    array = np.asarray(value)
    if array.dtype.name == wanted.dtype or array.dtype.kind in "OSUV":
        return array
    dtype = np.dtype(wanted.dtype)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InvalidInputError(f'input "{name}": got {array.dtype}, want {wanted}')
    return array.astype(dtype)
