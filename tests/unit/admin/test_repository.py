from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servable._server.admin import ModelRepository
from servable._server.config.models import TENSORFLOW_PLATFORM
from servable._server.publisher import ModelPublisher
from servable._server.server_core import CoreOptions, ServerCore
from servable.errors import InvalidInputError, NotFoundError, ServableError, UnavailableError
from servable.lifecycle import RetryPolicy
from support.fake_platform import FakePlatform


@pytest.fixture
def core() -> Iterator[ServerCore]:
    """A core that serves nothing yet."""
    core = ServerCore(
        ModelPublisher(lambda models: None),
        {TENSORFLOW_PLATFORM: FakePlatform()},
        CoreOptions(poll_wait_seconds=0, retry=RetryPolicy(0)),
    )
    core.start(())
    yield core
    core.stop(5)


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """A base path with version 1."""
    path = tmp_path / "m"
    (path / "1").mkdir(parents=True)
    return path


def served(core: ServerCore) -> list[str]:
    return [model.name for model in core.models]


def test_a_new_model_needs_a_configuration_and_an_unloaded_one_does_not(
    core: ServerCore, base_path: Path
) -> None:
    repository = ModelRepository(core)
    with pytest.raises(NotFoundError, match="Model m is not in the repository"):
        repository.load("m")
    config = f'{{"base_path": "{base_path}", "version_labels": {{}}}}'
    repository.load("m", config)
    (before,) = core.models
    repository.load("m")
    repository.unload("m")
    assert served(core) == []
    repository.load("m")
    assert core.models == (before,)


def test_a_load_of_a_configured_model_ends_when_it_is_cancelled(
    core: ServerCore, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servable._server.admin.repository._LOOK_SECONDS", 0.01)
    (base_path / "1/broken").touch()
    repository = ModelRepository(core)
    with pytest.raises(ServableError, match="cannot parse 1"):
        repository.load("m", f'{{"base_path": "{base_path}"}}')
    with pytest.raises(
        UnavailableError, match="Model m has no version that answers: cannot parse 1"
    ):
        repository.load("m", None, lambda: True)


def test_an_invalid_configuration_is_refused_and_changes_nothing(
    core: ServerCore, base_path: Path
) -> None:
    repository = ModelRepository(core)
    for config, text in [
        ("{", "The configuration is not JSON"),
        ("[]", "has to be a JSON object"),
        ('{"name": "n", "base_path": "/m"}', "The path names model m, the configuration n"),
    ]:
        with pytest.raises(InvalidInputError, match=text):
            repository.load("m", config)
    with pytest.raises(NotFoundError, match="Model m is not configured"):
        repository.unload("m")
    assert served(core) == []


def test_a_model_that_cannot_be_loaded_says_why(core: ServerCore, base_path: Path) -> None:
    (base_path / "1/broken").touch()
    with pytest.raises(ServableError, match="cannot parse 1"):
        ModelRepository(core).load("m", f'{{"base_path": "{base_path}"}}')
