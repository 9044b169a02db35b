"""Tells the formats of PyTorch's files apart by the entries of their archives, without reading what is in them."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from enum import Enum
from pathlib import Path

from servable.errors import Code, LoadError
from servable.loaders._trust import RUNS_ANY_CODE, untrusted

MODEL_FILES = ("model.pt2", "model.pt")
SUFFIXES = (".pt2", ".pt")

_MAX_ENTRIES = 1 << 20
_PICKLE_START = b"\x80"


class TorchFormat(Enum):
    """What wrote a file; the value describes it in messages."""

    SCRIPT = "a TorchScript program"
    PROGRAM = "a program of `torch.export`"
    PACKAGE = "a package of AOTInductor"
    PICKLE = "a pickled object of `torch.save`"


_WHY_TRUST = {
    TorchFormat.PROGRAM: "PyTorch reads it with pickle, which runs any code that its author chose",
    TorchFormat.PACKAGE: "it contains a library in machine code, which runs in the process that opens it",
    TorchFormat.PICKLE: RUNS_ANY_CODE,
}


def torch_file(files: Collection[str]) -> str | None:
    """The model among the files of a version; `None` if there is none, or several without a `model.…`."""
    for name in MODEL_FILES:
        if name in files:
            return name
    models = [name for name in files if name.endswith(SUFFIXES) and "/" not in name]
    return models[0] if len(models) == 1 else None


def format_of(file: Path) -> TorchFormat:
    """The format of a file.

    Raises:
        LoadError: It cannot be read, or PyTorch did not write it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        with file.open("rb") as opened:
            if opened.read(1) == _PICKLE_START:  # what PyTorch wrote before 1.6
                return TorchFormat.PICKLE
        raise _damaged(f"{file}: got no archive of PyTorch: {error}") from error
    except OSError as error:
        raise LoadError(f"{file}: {error.strerror}", code=Code.NOT_FOUND) from error
    except (ValueError, NotImplementedError) as error:
        raise _damaged(f"{file}: got a damaged archive: {error}") from error
    if len(entries) > _MAX_ENTRIES:
        raise _damaged(f"{file}: got {len(entries)} entries, want {_MAX_ENTRIES} at most")
    return _format_of(file, [entry.filename for entry in entries])


def require_trust(file: Path, found: TorchFormat, *, is_trusted: bool) -> None:
    """Refuse a file whose code would run in the reading process, unless the configuration trusts it.

    Raises:
        LoadError: It is not trusted; the message has the reason.
    """
    reason = _WHY_TRUST.get(found)
    if reason is not None and not is_trusted:
        raise untrusted(file, found.value, reason)


def _format_of(file: Path, names: Collection[str]) -> TorchFormat:
    # Archives of today have one directory, of any name.
    paths = {*names, *(name.partition("/")[2] for name in names)}
    if any(path.startswith("data/aotinductor/") for path in paths):
        return TorchFormat.PACKAGE
    if "serialized_exported_program.json" in paths or any(
        path.startswith("models/") and path.endswith(".json") for path in paths
    ):
        return TorchFormat.PROGRAM
    if "data.pkl" in paths:
        has_code = "constants.pkl" in paths or any(path.startswith("code/") for path in paths)
        return TorchFormat.SCRIPT if has_code else TorchFormat.PICKLE
    found = ", ".join(sorted(names)[:3]) or "no files"
    raise _damaged(
        f"{file}: got an archive with {found}, want {', '.join(each.value for each in TorchFormat)}"
    )


def _damaged(message: str) -> LoadError:
    return LoadError(message, code=Code.DATA_LOSS, may_pass=False)
