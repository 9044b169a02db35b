"""The contents of version directories: a good model, or one of several kinds of broken ones."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from moods import MODEL
from served import add_version
from world import Content, Model

KEY_FILES = {"tensorflow": "saved_model.pb", "python": "model.py"}
"""The file without which a version is incomplete."""

OVERSIZED_BYTES = 64 << 20

BROKEN_PYTHON_MODELS = [
    b"raise RuntimeError('no')\n",
    b"class Model:\n",
    b"x = 1\n",
    b"raise SystemExit(2)\n",
    b"import time; time.sleep(1); raise TimeoutError\n",
    b"class Model:\n    signatures, run = {}, print\n",
    b"class Model:\n    def __init__(self, directory): raise MemoryError\n",
]
DEADLY_PYTHON_MODELS = [b"import os; os._exit(1)\n", b"import ctypes; ctypes.string_at(0)\n"]
BROKEN_SAVED_MODELS = [b"this is not a SavedModel\n", b"\x0a\xff\xff\xff\xff\xff", b""]


def make_version(
    made: Path, template: Path, model: Model, version: int, content: Content, choose: random.Random
) -> Path:
    """Write a version into a new directory.

    Args:
        made: The directory.
        template: A version directory of `half_plus_two`.
        model: The version's model.
        version: The version number.
        content: The kind of content.
        choose: Chooses the kind of damage.

    Returns:
        The directory.
    """
    if model.platform == "python":
        made.mkdir()
        (made / "offset.txt").write_text(str(model.offset(version)))
        (made / KEY_FILES["python"]).write_text(MODEL)
    else:
        add_version(made, version, template, model.offset(version))
        made = made / str(version)
    key = made / KEY_FILES[model.platform]
    match content:
        case Content.CORRUPT:
            choose.choice(_ways_to_corrupt(model, made, key, choose))()
        case Content.UNFINISHED:
            key.unlink()
            os.utime(made)
        case Content.FORBIDDEN:
            choose.choice([made, key]).chmod(0)
        case Content.OVERSIZED:
            os.truncate(_touched(made / "padding"), OVERSIZED_BYTES)  # a sparse file
    return made


def allow(made: Path, model: Model) -> None:
    """Restore the permissions of a forbidden version."""
    made.chmod(0o755)
    with contextlib.suppress(FileNotFoundError):
        (made / KEY_FILES[model.platform]).chmod(0o644)


def _ways_to_corrupt(
    model: Model, made: Path, key: Path, choose: random.Random
) -> list[Callable[[], object]]:
    def truncate() -> None:
        os.truncate(key, key.stat().st_size // 2)

    def empty_the_variables() -> None:
        for path in (made / "variables").iterdir():
            os.truncate(path, 0)

    if model.platform == "python":
        broken = BROKEN_PYTHON_MODELS + DEADLY_PYTHON_MODELS * bool(model.workers)
        return [lambda: key.write_bytes(choose.choice(broken))]

    def garble() -> object:
        return key.write_bytes(choose.choice(BROKEN_SAVED_MODELS))

    return [garble, truncate, empty_the_variables]


def _touched(path: Path) -> Path:
    path.touch()
    return path
