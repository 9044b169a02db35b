from __future__ import annotations

from pathlib import Path

import pytest

from servable._server.commands.warmup import version_directory
from servable.errors import NotFoundError


def test_the_version_is_the_highest_the_named_or_the_model_itself(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x12\x00")  # with an empty meta graph
    (tmp_path / "more").mkdir()
    assert version_directory(str(tmp_path), None) == str(tmp_path)
    for name in ("9", "010", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").touch()
    assert version_directory(str(tmp_path), None) == str(tmp_path / "010")
    assert version_directory(str(tmp_path), 2) == str(tmp_path / "2")
    with pytest.raises(NotFoundError, match="There is no version 3 in "):
        version_directory(str(tmp_path), 3)
    with pytest.raises(NotFoundError, match="There is no version in "):
        version_directory(str(tmp_path / "more"), None)
