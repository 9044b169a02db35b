from __future__ import annotations

from pathlib import Path

import pytest

from servable._server.credential_files import CredentialFiles
from servable.errors import ConfigError


def test_a_change_is_applied_when_the_contents_are_stable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    applied: list[str] = []

    def apply() -> None:
        if not second.exists():
            raise ConfigError("b; No such file")
        applied.append(first.read_text() + second.read_text())

    with pytest.raises(ConfigError):
        CredentialFiles((str(first), str(second)), apply)
    second.write_text("1")
    files = CredentialFiles((str(first), str(second)), apply)
    files.look()
    assert applied == ["11"]

    first.write_text("2")
    files.look()
    second.write_text("2")
    files.look()
    assert applied == ["11"], "half of the change is not taken up"
    files.look()
    files.look()
    assert applied == ["11", "22"]
    assert "changed; new connections" in caplog.text

    second.unlink()
    for _ in range(4):
        files.look()
    assert applied == ["11", "22"]
    assert caplog.text.count("cannot be used; the old ones stay") == 1

    second.write_text("3")
    files.look()
    files.look()
    assert applied == ["11", "22", "23"], "it goes on looking"
