"""Incomplete versions of models."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.server_process import ServerProcess

# A graph of TensorFlow 1, two of TensorFlow 2, one with a lookup table that is read from an asset.
REFERENCE, LINEAR, WORDS = "reference_variables", "linear", "words"
GRAPH = "saved_model.pb"
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"

PARTS = [
    (REFERENCE, [GRAPH]),
    (REFERENCE, [GRAPH, "variables/"]),
    (REFERENCE, [GRAPH, DATA]),
    (REFERENCE, [GRAPH, INDEX]),
    (REFERENCE, [INDEX, DATA]),
    (REFERENCE, ["saved_model.pb of 100 bytes", INDEX, DATA]),
    (LINEAR, [GRAPH]),
    (LINEAR, [GRAPH, "variables/"]),
    (LINEAR, [GRAPH, DATA]),
    (LINEAR, [GRAPH, INDEX]),
    (LINEAR, ["saved_model.pb of 0 bytes", INDEX, DATA]),
    (LINEAR, ["saved_model.pb of 3000 bytes", INDEX, DATA]),
    (WORDS, [GRAPH, INDEX, DATA]),
    (WORDS, [GRAPH, "assets/"]),
]
"""Models, and the existing files of their second version."""


def copy_part(version: Path, target: Path, parts: list[str]) -> None:
    """Copy some files of a version, as a copy tool would."""
    for part in parts:
        name, _, length = part.removesuffix(" bytes").partition(" of ")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if part.endswith("/"):
            (target / part).mkdir()
        else:
            content = (version / name).read_bytes()
            (target / name).write_bytes(content[: int(length or len(content))])


def complete(version: Path, target: Path) -> None:
    """Copy all files of a version."""
    for file in version.rglob("*"):
        if file.is_file():
            (target / file.relative_to(version)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(version))


def served_versions(server: ServerProcess, model: str) -> dict[int, str]:
    """The versions that the model's status lists, with their states."""
    return {v: state for v, state in server.states(model).items() if state != "END"}
