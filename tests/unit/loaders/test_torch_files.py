"""Files of PyTorch: told apart by their entries, and refused where reading them would run code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from servable.errors import Code, LoadError
from servable.loaders._torch import TorchOptions, open_torch
from servable.loaders._torch_files import TorchFormat, format_of, require_trust, torch_file

ENTRIES = {
    "script": ["m/data.pkl", "m/code/__torch__.py", "m/constants.pkl", "m/version"],
    "program": ["m/archive_format", "m/models/model.json", "m/data/sample_inputs/model.pt"],
    "old_program": ["version", "serialized_exported_program.json", "serialized_state_dict.pt"],
    "package": ["m/archive_format", "m/data/aotinductor/model/c.wrapper.so"],
    "pickle": ["m/data.pkl", "m/data/0", "m/version"],
}
"""The layouts that PyTorch writes."""
FORMATS = {
    "script": TorchFormat.SCRIPT,
    "program": TorchFormat.PROGRAM,
    "old_program": TorchFormat.PROGRAM,
    "package": TorchFormat.PACKAGE,
    "pickle": TorchFormat.PICKLE,
}


def archive(directory: Path, names: list[str], file: str = "model.pt2") -> Path:
    path = directory / file
    with zipfile.ZipFile(path, "w") as opened:
        for name in names:
            opened.writestr(name, b"content")
    return path


@pytest.mark.parametrize("name", ENTRIES)
def test_the_entries_tell_the_format(name: str, tmp_path: Path) -> None:
    assert format_of(archive(tmp_path, ENTRIES[name])) is FORMATS[name]


def test_a_file_of_an_old_release_is_a_pickle(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps({"weight": 1.0}))
    assert format_of(file) is TorchFormat.PICKLE


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "got no archive of PyTorch: File is not a zip file"),
        (b"PK\x03\x04 and no more", "got no archive of PyTorch"),
        (b"text", "got no archive of PyTorch"),
    ],
)
def test_damaged_files_are_refused(content: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    with pytest.raises(LoadError, match=complaint) as raised:
        format_of(file)
    assert raised.value.code is Code.DATA_LOSS


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = archive(tmp_path, ENTRIES["program"])
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(LoadError, match="got no archive"):
            format_of(file)


def test_an_archive_of_another_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError, match=r"got an archive with a\.txt, b/c\.txt, want a TorchScript"
    ):
        format_of(archive(tmp_path, ["b/c.txt", "a.txt"]))


@pytest.mark.parametrize("name", ENTRIES)
def test_only_scripts_are_read_without_trust(name: str, tmp_path: Path) -> None:
    file = archive(tmp_path, ENTRIES[name])
    require_trust(file, FORMATS[name], is_trusted=True)
    if name == "script":
        require_trust(file, FORMATS[name], is_trusted=False)
        return
    with pytest.raises(LoadError) as raised:
        open_torch(tmp_path, options=TorchOptions(), is_trusted=False, workers=1)
    assert raised.value.code is Code.PERMISSION_DENIED
    assert f"model.pt2 is {FORMATS[name].value}: " in raised.value.message
    assert "servable_options { trusted: true }" in raised.value.message


def test_a_directory_has_one_model() -> None:
    assert torch_file(["model.pt2", "model.pt"]) == "model.pt2"
    assert torch_file(["iris.pt", "labels.txt"]) == "iris.pt"
    assert torch_file(["iris.pt", "wine.pt"]) is None
    assert torch_file(["model.pth", "extra/iris.pt"]) is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"intra_op_threads": -1}, '"intra_op_threads": got -1, want 0 to 1024'),
        ({"inputs": "x: float32"}, 'got "x: float32", want "NAME: DTYPE'),
        ({"inputs": "x: float31 [?]"}, "got dtype 'float31', want one of"),
        ({"inputs": "x: float32 [?, b]"}, 'got size "b", want a number, or'),
        ({"inputs": "x: float32 [?], x: float32 [?]"}, 'got two inputs "x"'),
    ],
)
def test_options_are_checked(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TorchOptions(**options)  # type: ignore[arg-type]
